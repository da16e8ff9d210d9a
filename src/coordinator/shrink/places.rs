//! Journal messages by revision: where they lie, and the payloads in them.
//!
//! The stream counts sequences, the journal counts revisions, and noise lies between: so the distance of the two never
//! shrinks with rising revision. From a known pair the place of another revision is guessed and stepped to;
//! every find is a known pair for the next. Shared by the loader and the keeper; changes nothing.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;

use crate::{
    bus::journal::{Entry, JournalError, JournalReader},
    flow::record::{JournalMessage, What},
    task::{Payload, TaskKey},
    wire::codec,
};

/// Pairs remembered; beyond it the lowest is forgotten.
const KNOWN: usize = 1_024;
/// Steps after which a revision counts as not there: as much noise in a row.
const STEPS: usize = 100_000;

/// Why a revision could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A call failed; it can succeed later.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It is not where it must be.
    #[error("revision {rev} is not in the journal at sequence {seq}: {what}")]
    NotThere {
        /// Which.
        rev: u64,
        /// Where it was looked for last.
        seq: u64,
        /// What is there.
        what: String,
    },
}

/// See the module.
pub struct Places {
    reader: JournalReader,
    /// Revision → sequence.
    known: Mutex<BTreeMap<u64, u64>>,
}

#[derive(Deserialize)]
struct Rev {
    rev: u64,
}

impl Places {
    /// Of a journal of which one message's revision and sequence are known.
    pub fn new(reader: JournalReader, rev: u64, seq: u64) -> Self {
        Self { reader, known: Mutex::new(BTreeMap::from([(rev, seq)])) }
    }

    /// The known pair nearest to a revision.
    fn nearest(&self, rev: u64) -> (u64, u64) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let above = known.range(rev..).next();
        let below = known.range(..rev).next_back();
        let (r, s) = match (below, above) {
            (Some(b), Some(a)) => {
                if rev - b.0 < a.0 - rev {
                    b
                } else {
                    a
                }
            }
            (Some(one), None) | (None, Some(one)) => one,
            // Made with one pair, and the last is never forgotten.
            (None, None) => return (0, 0),
        };
        (*r, *s)
    }

    fn note(&self, rev: u64, seq: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(rev, seq);
        if known.len() > KNOWN {
            known.pop_first();
        }
    }

    /// The journal message at a revision.
    pub async fn message(&self, rev: u64) -> Result<Entry, PlaceError> {
        let (known_rev, known_seq) = self.nearest(rev);
        // Noise between the two can only push them further apart.
        let down = rev <= known_rev;
        let mut seq =
            if down { known_seq.saturating_sub(known_rev - rev) } else { known_seq + (rev - known_rev) };
        let gone = |seq, what: &str| PlaceError::NotThere { rev, seq, what: what.to_owned() };
        for _ in 0..STEPS {
            let Some(entry) = self.reader.at(seq).await? else {
                let room = self.reader.room().await?;
                if seq <= room.first_seq || seq >= room.last_seq {
                    return Err(gone(seq, "the journal holds no such sequence"));
                }
                seq = if down { seq - 1 } else { seq + 1 };
                continue;
            };
            let found =
                codec::unpack::<Rev>(&entry.bytes).map_err(|error| gone(seq, &error.to_string()))?.rev;
            match (found == rev, down) {
                (true, _) => {
                    self.note(rev, seq);
                    return Ok(entry);
                }
                (false, true) if found > rev => seq = seq.saturating_sub(found - rev),
                (false, false) if found < rev => seq += rev - found,
                _ => return Err(gone(seq, &format!("revision {found}"))),
            }
        }
        Err(gone(seq, "only noise"))
    }

    /// The inputs and results in the journal message at a revision.
    pub async fn payloads(&self, rev: u64) -> Result<Vec<(TaskKey, What, Payload)>, PlaceError> {
        let entry = self.message(rev).await?;
        let message = JournalMessage::decode(&entry.bytes).map_err(|what| PlaceError::NotThere {
            rev,
            seq: entry.seq,
            what,
        })?;
        Ok(message.payloads())
    }

    /// The journal it looks into.
    pub fn reader(&self) -> &JournalReader {
        &self.reader
    }
}
