//! Snapshots of a shard's state: chunks, read back and compared, then a manifest that names them.
//!
//! ```text
//! sv.snapshot.<shard>.<rev>.1 … n      chunks of at most 256 KiB, together one run of parts, each behind its length
//! sv.snapshot.<shard>.<rev>.manifest   written last, and only when every chunk was read back as it was sent
//! ```
//!
//! Chunks without a manifest are no snapshot; [`SnapshotStore::sweep`] drops them. A manifest names every chunk by sequence and
//! SHA-256 and begins with its own, so that a byte that flipped, a chunk that is missing and a snapshot of another shard are
//! found and named, never guessed around. What the parts mean is the reader's business.

use async_nats::jetstream::Context;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::kept::{Kept, KeptError};
use crate::{
    task::Millis,
    wire::{
        codec,
        subjects::{self, Shard},
        topology::SNAPSHOTS,
    },
};

/// Version of a snapshot's format, chunks and manifest.
pub const SNAPSHOT_VERSION: u32 = 1;
/// Verified snapshots that are kept.
pub const KEEP: usize = 2;
/// Largest chunk; never above half of `max_payload`. A part may begin in one and end in another.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks at once on their way to or from the server.
const WINDOW: usize = 8;
/// Chunks in one snapshot: their manifest has to fit into a message.
const MAX_CHUNKS: usize = 8 * 1024;
/// Length before each part.
const LENGTH: usize = 4;
/// A part that claims to be larger is none.
const MAX_PART: usize = 64 << 20;

type Digested = [u8; 32];

/// Why a snapshot could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The stream did not take it.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// What was read back is not what was sent.
    #[error("chunk {n} of snapshot {rev} was read back with other content")]
    Differs {
        /// At which revision.
        rev: u64,
        /// Which chunk.
        n: usize,
    },
    /// More chunks than a manifest may name.
    #[error("a snapshot of more than {MAX_CHUNKS} chunks can't be written")]
    TooLarge,
}

/// Why a snapshot is no good.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It could not be read.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The manifest is not what was written.
    #[error("SNAPSHOT_BROKEN: the manifest of snapshot {rev}: {what}")]
    Manifest {
        /// At which revision.
        rev: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A chunk is not what was written.
    #[error("SNAPSHOT_BROKEN: chunk {n} of snapshot {rev}: {what}")]
    Chunk {
        /// At which revision.
        rev: u64,
        /// Which chunk, from 1.
        n: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Of which shard.
    pub shard: Shard,
    /// The last revision in it.
    pub rev: u64,
    /// Its sequence in the journal.
    pub seq: u64,
    /// Its hash.
    #[serde(with = "serde_bytes")]
    pub head: Digested,
}

/// One chunk as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Chunk {
    seq: u64,
    bytes: u64,
    #[serde(with = "serde_bytes")]
    sha256: Digested,
}

/// A whole snapshot, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub v: u32,
    /// What it is of.
    pub about: About,
    /// Bytes of all chunks.
    pub bytes: u64,
    /// Wall clock of the owner that took it, Unix milliseconds; for people.
    pub at: Millis,
    /// What the reader needs before the first part; not looked at here.
    #[serde(with = "serde_bytes")]
    pub preface: Vec<u8>,
    chunks: Vec<Chunk>,
}

impl Manifest {
    /// How many chunks it has.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// SHA-256 of the rest, and the rest.
    fn encode(&self) -> Bytes {
        let body = codec::pack(self);
        let mut out = BytesMut::with_capacity(body.len() + 32);
        out.put_slice(&digest(&body));
        out.put_slice(&body);
        out.freeze()
    }

    fn decode(bytes: &[u8], shard: Shard, rev: u64) -> Result<Self, SnapshotError> {
        #[derive(Deserialize)]
        struct Head {
            v: u32,
        }
        let broken = |what: String| SnapshotError::Manifest { rev, what };
        let Some((sum, body)) = bytes.split_at_checked(32) else {
            return Err(broken("it is cut".to_owned()));
        };
        if sum != digest(body) {
            return Err(broken("its hash differs".to_owned()));
        }
        // The version first, so that a newer one is named, not guessed at.
        match codec::unpack::<Head>(body).map(|head| head.v) {
            Ok(SNAPSHOT_VERSION) => {}
            Ok(v) => return Err(broken(format!("format {v}, this version reads {SNAPSHOT_VERSION}"))),
            Err(error) => return Err(broken(error.to_string())),
        }
        let manifest: Self = codec::unpack(body).map_err(|error| broken(error.to_string()))?;
        if manifest.about.shard != shard {
            return Err(broken(format!("it is of shard {}", manifest.about.shard.0)));
        }
        if manifest.about.rev != rev {
            return Err(broken(format!("it is of revision {}", manifest.about.rev)));
        }
        if manifest.chunks.len() > MAX_CHUNKS {
            return Err(broken("it names too many chunks".to_owned()));
        }
        Ok(manifest)
    }
}

fn digest(bytes: &[u8]) -> Digested {
    Sha256::digest(bytes).into()
}

/// The snapshots of one shard.
#[derive(Clone)]
pub struct SnapshotStore {
    kept: Kept,
    shard: Shard,
    chunk_bytes: usize,
}

impl SnapshotStore {
    /// Of `shard`. Asks the server nothing yet.
    pub async fn new(js: &Context, shard: Shard) -> Result<Self, KeptError> {
        let most = js.client().server_info().max_payload / 2;
        let chunk_bytes = if most == 0 { CHUNK_BYTES } else { CHUNK_BYTES.min(most) };
        Ok(Self { kept: Kept::new(js, SNAPSHOTS).await?, shard, chunk_bytes })
    }

    /// Begins to write; what an earlier attempt at this revision left goes.
    pub async fn begin(
        &self,
        about: About,
        at: Millis,
        preface: Vec<u8>,
    ) -> Result<SnapshotWriter, WriteError> {
        self.kept.purge(&subjects::snapshot(self.shard, about.rev), None).await?;
        let manifest = Manifest { v: SNAPSHOT_VERSION, about, bytes: 0, at, preface, chunks: Vec::new() };
        Ok(SnapshotWriter { store: self.clone(), manifest, open: BytesMut::new() })
    }

    /// Every manifest that can be read, newest first, and what is wrong with the others.
    pub async fn manifests(&self) -> Result<Vec<Result<Manifest, SnapshotError>>, KeptError> {
        let mut all = Vec::new();
        for rev in self.revisions(&subjects::snapshot_manifests(self.shard)).await? {
            // A subject on which only noise lies names no snapshot.
            if let Some(message) = self.kept.last(&subjects::snapshot_manifest(self.shard, rev)).await? {
                all.push(Manifest::decode(&message.payload, self.shard, rev));
            }
        }
        Ok(all)
    }

    /// Reads a snapshot's parts, in order.
    pub fn read<'a>(&'a self, manifest: &'a Manifest) -> Parts<'a> {
        let chunks = stream::iter(manifest.chunks.iter().enumerate())
            .map(move |(at, chunk)| self.chunk(manifest.about.rev, at + 1, chunk))
            .buffered(WINDOW);
        Parts { rev: manifest.about.rev, chunks: chunks.boxed(), open: BytesMut::new(), n: 0 }
    }

    async fn chunk(&self, rev: u64, n: usize, chunk: &Chunk) -> Result<Bytes, SnapshotError> {
        let broken = |what| SnapshotError::Chunk { rev, n, what };
        let message = self.kept.get(chunk.seq).await?.ok_or_else(|| broken("it is missing"))?;
        if message.payload.len() as u64 != chunk.bytes {
            return Err(broken("its length differs"));
        }
        if digest(&message.payload) != chunk.sha256 {
            return Err(broken("its hash differs"));
        }
        Ok(message.payload)
    }

    /// Drops what is older than the snapshot at `newest` and not among the last [`KEEP`]: older snapshots, and chunks whose
    /// manifest never came. What is newer may be a newer owner's, and stays.
    pub async fn sweep(&self, newest: u64) -> Result<u64, KeptError> {
        let good: Vec<u64> = self
            .manifests()
            .await?
            .into_iter()
            .flatten()
            .map(|m| m.about.rev)
            .filter(|r| *r <= newest)
            .collect();
        let mut purged = 0;
        for rev in self.revisions(&subjects::snapshots(self.shard)).await? {
            if rev < newest && !good.iter().take(KEEP).any(|keep| *keep == rev) {
                purged += self.kept.purge(&subjects::snapshot(self.shard, rev), None).await?;
            }
        }
        Ok(purged)
    }

    /// Drops everything of the snapshot at `rev`.
    pub async fn drop_at(&self, rev: u64) -> Result<(), KeptError> {
        self.kept.purge(&subjects::snapshot(self.shard, rev), None).await.map(drop)
    }

    /// Revisions named by the matching subjects, newest first.
    async fn revisions(&self, filter: &str) -> Result<Vec<u64>, KeptError> {
        let subjects = self.kept.subjects(filter).await?;
        let mut revs: Vec<u64> = subjects.iter().filter_map(|s| subjects::snapshot_rev(s)).collect();
        revs.sort_unstable_by(|a, b| b.cmp(a));
        revs.dedup();
        Ok(revs)
    }
}

/// Writes one snapshot.
pub struct SnapshotWriter {
    store: SnapshotStore,
    manifest: Manifest,
    /// Parts that do not fill a chunk yet.
    open: BytesMut,
}

impl SnapshotWriter {
    /// Adds a part. Several go into one chunk.
    pub async fn part(&mut self, part: &[u8]) -> Result<(), WriteError> {
        if part.len() > MAX_PART {
            return Err(WriteError::TooLarge);
        }
        self.open.put_u32(part.len() as u32);
        self.open.put_slice(part);
        while self.open.len() >= self.store.chunk_bytes {
            let chunk = self.open.split_to(self.store.chunk_bytes).freeze();
            self.store_chunk(chunk).await?;
        }
        Ok(())
    }

    async fn store_chunk(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        if self.manifest.chunks.len() >= MAX_CHUNKS {
            return Err(WriteError::TooLarge);
        }
        let n = self.manifest.chunks.len() as u32 + 1;
        let subject = subjects::snapshot_chunk(self.store.shard, self.manifest.about.rev, n);
        let (length, sha256) = (bytes.len() as u64, digest(&bytes));
        let seq = self.store.kept.store(&subject, bytes).await?;
        self.manifest.bytes += length;
        self.manifest.chunks.push(Chunk { seq, bytes: length, sha256 });
        Ok(())
    }

    /// Writes what is open and reads every chunk back.
    pub async fn verify(&mut self) -> Result<(), WriteError> {
        if !self.open.is_empty() {
            let rest = self.open.split().freeze();
            self.store_chunk(rest).await?;
        }
        let rev = self.manifest.about.rev;
        let mut parts = self.store.read(&self.manifest);
        while let Some(part) = parts.next().await {
            match part {
                Ok(_) => {}
                Err(SnapshotError::Kept(error)) => return Err(error.into()),
                Err(_) => return Err(WriteError::Differs { rev, n: parts.n }),
            }
        }
        Ok(())
    }

    /// Publishes the manifest: from here on it is a snapshot. Call after [`SnapshotWriter::verify`].
    pub async fn publish(self) -> Result<Manifest, WriteError> {
        let subject = subjects::snapshot_manifest(self.store.shard, self.manifest.about.rev);
        self.store.kept.store(&subject, self.manifest.encode()).await?;
        Ok(self.manifest)
    }

    /// Drops what was written.
    pub async fn abandon(self) {
        if let Err(error) = self.store.drop_at(self.manifest.about.rev).await {
            tracing::debug!(%error, "an unfinished snapshot is left to the next sweep");
        }
    }
}

/// The parts of a snapshot, out of its chunks.
pub struct Parts<'a> {
    rev: u64,
    chunks: futures_util::stream::BoxStream<'a, Result<Bytes, SnapshotError>>,
    /// Read and not given out yet.
    open: BytesMut,
    /// Chunks read.
    n: usize,
}

impl Parts<'_> {
    /// The next part; ends with the first chunk that is no good.
    pub async fn next(&mut self) -> Option<Result<Bytes, SnapshotError>> {
        loop {
            match cut(&mut self.open) {
                Ok(Some(part)) => return Some(Ok(part)),
                Ok(None) => {}
                Err(what) => return Some(Err(self.broken(what))),
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => {
                    self.n += 1;
                    self.open.extend_from_slice(&chunk);
                }
                Some(Err(error)) => return Some(Err(error)),
                None if self.open.is_empty() => return None,
                None => {
                    self.open.clear();
                    return Some(Err(self.broken("its last part is cut")));
                }
            }
        }
    }

    fn broken(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Chunk { rev: self.rev, n: self.n, what }
    }
}

/// Takes the next part off, if it is all there.
fn cut(open: &mut BytesMut) -> Result<Option<Bytes>, &'static str> {
    let Some(length) = open.first_chunk::<LENGTH>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_PART {
        return Err("a part claims to be larger than any");
    }
    if open.len() < LENGTH + length {
        return Ok(None);
    }
    open.advance(LENGTH);
    Ok(Some(open.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            v: SNAPSHOT_VERSION,
            about: About { shard: Shard(0), rev: 7, seq: 9, head: [3; 32] },
            bytes: 4,
            at: 1,
            preface: vec![5],
            chunks: vec![Chunk { seq: 2, bytes: 4, sha256: [1; 32] }],
        }
    }

    fn refused(bytes: &[u8], shard: Shard, rev: u64) -> String {
        Manifest::decode(bytes, shard, rev).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_that_is_not_as_written_is_named_whatever_byte_was_touched() {
        let whole = manifest().encode();
        assert_eq!(Manifest::decode(&whole, Shard(0), 7).unwrap(), manifest());
        for at in 0..whole.len() {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 1;
            assert!(refused(&bytes, Shard(0), 7).contains("hash differs"));
            assert!(refused(&whole[..at], Shard(0), 7).starts_with("SNAPSHOT_BROKEN"));
        }
        assert!(refused(&whole, Shard(1), 7).contains("it is of shard 0"));
        assert!(refused(&whole, Shard(0), 8).contains("it is of revision 7"));
        let newer = Manifest { v: 2, ..manifest() }.encode();
        assert!(refused(&newer, Shard(0), 7).contains("format 2, this version reads 1"));
    }

    #[test]
    fn parts_come_back_as_they_went_in_and_a_cut_one_is_waited_for() {
        let mut run = BytesMut::new();
        for part in [&b"one"[..], b"", b"three"] {
            run.put_u32(part.len() as u32);
            run.put_slice(part);
        }
        let whole = run.clone();
        for part in [&b"one"[..], b"", b"three"] {
            assert_eq!(cut(&mut run).unwrap().unwrap(), part);
        }
        assert_eq!((cut(&mut run), run.len()), (Ok(None), 0));
        for end in 0..7 {
            assert_eq!(cut(&mut BytesMut::from(&whole[..end])), Ok(None), "{end}");
        }
        assert!(cut(&mut BytesMut::from(&[0xff; 8][..])).is_err());
    }
}
