//! Reading the journal back: the chain is checked, each record applied as its owner applied it.

use super::{Ended, Engine, ended_views};
use crate::flow::{
    evolve::{At, Misfit, evolve},
    record::{Hash, JournalMessage},
};

/// A journal that can't be continued. The shard stops; an operator decides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// A message can't be read, or is from a newer version.
    #[error("JOURNAL_UNREADABLE: shard {shard}, sequence {seq}: {reason}")]
    Unreadable {
        /// Which shard.
        shard: u16,
        /// Which message.
        seq: u64,
        /// Why.
        reason: String,
    },
    /// A message does not follow its predecessor.
    #[error(
        "JOURNAL_GAP: shard {shard}, sequence {seq}: expected revision {expected} after {head}, found {found}: {what}"
    )]
    Gap {
        /// Which shard.
        shard: u16,
        /// Which message.
        seq: u64,
        /// The revision that should have come.
        expected: u64,
        /// The revision that came.
        found: u64,
        /// Hash of the last good message.
        head: String,
        /// What does not fit.
        what: &'static str,
    },
    /// The journal ends before what was seen of it.
    #[error(
        "JOURNAL_REGRESSED: shard {shard} ends at sequence {head}, but {witness} was seen; restore it, or start a new generation"
    )]
    Regressed {
        /// Which shard.
        shard: u16,
        /// Where it ends.
        head: u64,
        /// What a witness saw.
        witness: u64,
    },
    /// A record does not fit the state.
    #[error("JOURNAL_MISFIT: shard {shard}, revision {rev}: {misfit}")]
    Misfit {
        /// Which shard.
        shard: u16,
        /// In which message.
        rev: u64,
        /// What does not fit.
        misfit: Misfit,
    },
}

impl<H> Engine<H> {
    /// Applies a message read from the journal. What it touches is dirty until the index says otherwise.
    pub fn replay(&mut self, seq: u64, bytes: &[u8]) -> Result<(), JournalError> {
        let shard = self.state.shard.0;
        let message = JournalMessage::decode(bytes).map_err(|reason| JournalError::Unreadable {
            shard,
            seq,
            reason,
        })?;
        let gap = |what| JournalError::Gap {
            shard,
            seq,
            expected: self.state.rev + 1,
            found: message.rev,
            head: self.state.head.to_string(),
            what,
        };
        if message.shard != self.state.shard {
            return Err(gap("the message is another shard's"));
        }
        if message.rev != self.state.rev + 1 {
            return Err(gap("the revision does not follow"));
        }
        if message.prev != self.state.head {
            return Err(gap("the hash of the predecessor differs"));
        }
        if message.epoch < self.state.epoch {
            return Err(gap("the epoch goes back"));
        }
        let at = At { now: message.now, wall: message.wall, rev: message.rev, epoch: message.epoch };
        self.state.advance(message.now, message.wall);
        for record in &message.records {
            let changes = evolve(&mut self.state, record, at).map_err(|misfit| JournalError::Misfit {
                shard,
                rev: message.rev,
                misfit,
            })?;
            self.forget_gone();
            if self.keeps_ended {
                let ended = ended_views(&self.state, &changes);
                self.ended.extend(ended.map(|(view, result)| Ended { seq, view, result }));
            }
            changes.touched.into_iter().for_each(|slot| self.dirty.touch(seq, slot));
            if let Some((slot, result)) = changes.result {
                self.dirty.result(seq, slot, result);
            }
        }
        self.state.head = Hash::of(bytes);
        self.seq = seq;
        Ok(())
    }
}
