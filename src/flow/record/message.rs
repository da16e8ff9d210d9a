//! One message of the journal: records under one compare-and-set, chained to the message before by its hash.
//!
//! Knows of records what they weigh and which payloads they hold, nothing else.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{RECORD_BYTES, Record};
use crate::{
    task::{Millis, Outcome, Payload, TaskKey, hex},
    wire::{
        codec,
        history::{Did, Step},
        subjects::Shard,
    },
};

/// Version of the journal's format.
pub const JOURNAL_VERSION: u32 = 1;

/// SHA-256 of a journal message's bytes; all zero before the first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hash(#[serde(with = "serde_bytes")] pub [u8; 32]);

impl Hash {
    /// Of a message's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0[..6]))
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// One message of the journal: a batch of records under one compare-and-set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalMessage {
    /// Version of the format.
    pub v: u32,
    /// Whose journal.
    pub shard: Shard,
    /// 1, 2, … without gaps.
    pub rev: u64,
    /// Epoch of the owner that wrote it.
    pub epoch: u64,
    /// Hash of the message before.
    pub prev: Hash,
    /// Logical time of the batch, in milliseconds; never goes back.
    pub now: Millis,
    /// Wall clock of the owner, Unix milliseconds: for people, and for `run_at`, deadlines and schedules.
    pub wall: Millis,
    /// What was decided, in order.
    #[serde(deserialize_with = "crate::task::grown")]
    pub records: Vec<Record>,
}

impl JournalMessage {
    /// The bytes that go into the journal.
    pub fn encode(&self) -> bytes::Bytes {
        // Room for all of it: a buffer of this size is not to be grown from nothing.
        let about = RECORD_BYTES + self.records.iter().map(Record::weight).sum::<usize>();
        let mut out = Vec::with_capacity(about);
        codec::pack_into(self, &mut out);
        out.into()
    }

    /// Reads a message back. The version is looked at first, so that a newer one is named, not guessed at.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            v: u32,
        }
        let found = codec::unpack::<Head>(bytes).map(|head| head.v);
        match found {
            Ok(JOURNAL_VERSION) | Err(_) => codec::unpack(bytes).map_err(|e| e.to_string()),
            Ok(v) => Err(format!("journal format {v}, this version reads {JOURNAL_VERSION}")),
        }
    }

    /// The inputs, results, messages and steps it holds, each with the task it belongs to.
    pub fn payloads(self) -> Vec<(TaskKey, What, Payload)> {
        let mut out = Vec::new();
        for record in self.records {
            match record {
                Record::Submitted { tenant, admission } => {
                    out.push((TaskKey { tenant, id: admission.task }, What::Input, admission.spec.input));
                }
                Record::Spawned { key, children, .. } => {
                    out.extend(children.into_iter().map(|child| {
                        let child_key = TaskKey { tenant: key.tenant.clone(), id: child.task };
                        (child_key, What::Input, child.spec.input)
                    }));
                }
                Record::Ended { key, outcome: Outcome::Completed { result }, .. } => {
                    out.push((key, What::Result, result));
                }
                Record::Told { key, seq, message, .. } => out.push((key, What::Message(seq), message)),
                Record::Stepped { key, step: Some(Step { place, did: Did::Result(result), .. }), .. } => {
                    out.push((key, What::Step(place), result));
                }
                Record::Carried { key, what, payload } => out.push((key, what, payload)),
                _ => {}
            }
        }
        out
    }
}

/// Which payload of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// What it was submitted with.
    Input,
    /// What it was completed with.
    Result,
    /// The message of this number.
    Message(u32),
    /// The result of the step at this place.
    Step(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_named_not_guessed_at() {
        #[derive(Serialize)]
        struct Future {
            v: u32,
            surprise: bool,
        }
        let error = JournalMessage::decode(&codec::pack(&Future { v: 9, surprise: true })).unwrap_err();
        assert!(error.contains("journal format 9"), "{error}");
    }

    #[test]
    fn an_unknown_record_kind_is_an_error() {
        let mut json = serde_json::to_value(JournalMessage {
            v: 1,
            shard: Shard(0),
            rev: 1,
            epoch: 1,
            prev: Hash::default(),
            now: 0,
            wall: 0,
            records: vec![],
        })
        .unwrap();
        json["records"] = serde_json::json!([{"teleported": {}}]);
        let error = serde_json::from_value::<JournalMessage>(json).unwrap_err().to_string();
        assert!(error.contains("teleported"), "{error}");
    }
}
