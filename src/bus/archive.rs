//! The archive: ended tasks with their results, in the order they ended, for an index that has to be made anew.
//!
//! A message is MessagePack: which part of the journal it covers, and the tasks that ended there. The stream is bounded in bytes
//! and age and its oldest make room, so the archive may begin late; it never has holes. Written by the owner alone; a
//! former owner that does not know it yet may write the same tasks again, which harms nobody.

use async_nats::jetstream::Context;
use serde::{Deserialize, Serialize};

use super::kept::{Kept, KeptError};
use crate::{
    task::Payload,
    wire::{
        api::TaskView,
        codec,
        subjects::{self, Shard},
        topology::ARCHIVE,
    },
};

/// Version of the archive's format.
pub const ARCHIVE_VERSION: u32 = 1;
/// A message is closed at this size, unless one task alone is larger.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// An ended task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Archived {
    /// As the index shows it, its result aside.
    pub view: TaskView,
    /// Its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Payload>,
}

/// One message of the archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArchiveChunk {
    /// Version of the format.
    pub v: u32,
    /// Of which shard.
    pub shard: Shard,
    /// Every task that ended at this journal sequence or later …
    pub from_seq: u64,
    /// … and up to this one is in it.
    pub upto_seq: u64,
    /// In the order they ended.
    pub tasks: Vec<Archived>,
}

/// Why a message of the archive is no good.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It could not be read.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// It is not what was written.
    #[error("ARCHIVE_BROKEN: sequence {seq}: {what}")]
    Broken {
        /// Which message.
        seq: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// One shard's archive.
#[derive(Clone)]
pub struct Archive {
    kept: Kept,
    shard: Shard,
}

impl Archive {
    /// Of `shard`. Asks the server nothing yet.
    pub async fn new(js: &Context, shard: Shard) -> Result<Self, KeptError> {
        Ok(Self { kept: Kept::new(js, ARCHIVE).await?, shard })
    }

    /// Up to which journal sequence every ended task is in it; 0 if it is empty.
    pub async fn covered(&self) -> Result<u64, ArchiveError> {
        let Some(last) = self.kept.last(&subjects::archive(self.shard)).await? else { return Ok(0) };
        Ok(self.decode(last.sequence, &last.payload)?.upto_seq)
    }

    /// Appends; returns the message's size.
    pub async fn append(&self, from_seq: u64, upto_seq: u64, tasks: &[Archived]) -> Result<u64, KeptError> {
        /// [`ArchiveChunk`] without owning the tasks.
        #[derive(Serialize)]
        struct Borrowed<'a> {
            v: u32,
            shard: Shard,
            from_seq: u64,
            upto_seq: u64,
            tasks: &'a [Archived],
        }
        let bytes =
            codec::pack(&Borrowed { v: ARCHIVE_VERSION, shard: self.shard, from_seq, upto_seq, tasks });
        let length = bytes.len() as u64;
        self.kept.store(&subjects::archive(self.shard), bytes).await?;
        Ok(length)
    }

    /// The first message at or behind a sequence of the stream, with its sequence; `None` at the end.
    pub async fn next(&self, from: u64) -> Result<Option<(u64, ArchiveChunk)>, ArchiveError> {
        let mut from = from.max(1);
        loop {
            let Some(message) = self.kept.next(&subjects::archive(self.shard), from).await? else {
                return Ok(None);
            };
            from = message.sequence + 1;
            if message.headers.get(crate::wire::headers::COORDINATOR).is_some() {
                let chunk = self.decode(message.sequence, &message.payload)?;
                return Ok(Some((message.sequence, chunk)));
            }
        }
    }

    /// Bytes in the archive.
    pub async fn bytes(&self) -> Result<u64, KeptError> {
        Ok(self.kept.fill().await?.0)
    }

    fn decode(&self, seq: u64, bytes: &[u8]) -> Result<ArchiveChunk, ArchiveError> {
        #[derive(Deserialize)]
        struct Head {
            v: u32,
        }
        let broken = |what: String| ArchiveError::Broken { seq, what };
        match codec::unpack::<Head>(bytes).map(|head| head.v) {
            Ok(ARCHIVE_VERSION) => {}
            Ok(v) => return Err(broken(format!("format {v}, this version reads {ARCHIVE_VERSION}"))),
            Err(error) => return Err(broken(error.to_string())),
        }
        let chunk: ArchiveChunk = codec::unpack(bytes).map_err(|error| broken(error.to_string()))?;
        if chunk.shard != self.shard {
            return Err(broken(format!("it is of shard {}", chunk.shard.0)));
        }
        Ok(chunk)
    }
}
