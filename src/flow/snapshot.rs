//! The state in slices: written while the owner goes on, read back before the rest of the journal is replayed.
//!
//! A snapshot is a [`SnapshotHead`] and parts. The head says at which journal message the parts hold; the engine
//! may go on between two of them, because whatever it changes meanwhile is kept as it was (see `tasks`). Parts hold
//! no payload of a live task: those stay in the journal, and in a snapshot they are references to it.
//!
//! Restoring gives the same state byte for byte ([`super::state::State::canonical`]). Bytes that are not what was
//! written are named and refused; nothing is guessed.

use serde::{Deserialize, Serialize};

use super::{engine::Engine, record::Hash, state::Policy};
use crate::{
    task::{Millis, Plan, PlanName},
    wire::subjects::Shard,
};

/// Version of the format.
pub const SNAPSHOT_VERSION: u32 = 1;

/// How many entries of each kind a snapshot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Tenants.
    pub tenants: u64,
    /// Agents' queues.
    pub queues: u64,
    /// Tasks.
    pub tasks: u64,
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotHead {
    /// Version of the format.
    pub v: u32,
    /// Whose state.
    pub shard: Shard,
    /// Stream sequence of the last journal message in it.
    pub seq: u64,
    /// Its revision.
    pub rev: u64,
    /// Its hash.
    pub head: Hash,
    /// Its epoch.
    pub epoch: u64,
    /// Its logical time.
    pub now: Millis,
    /// Its wall time.
    pub wall: Millis,
    /// As of the last owner.
    pub policy: Policy,
    /// With the revision of their KV entries.
    pub plans: Vec<(PlanName, Plan, u64)>,
    /// The next number in the order of arrival.
    pub next_order: u64,
    /// When memories are looked at next.
    pub next_forget: Millis,
    /// What the parts hold together.
    pub counts: Counts,
}

/// A snapshot that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Written by another version.
    #[error("snapshot format {found}, this version reads {SNAPSHOT_VERSION}")]
    Version {
        /// Which.
        found: u32,
    },
    /// Written of another shard.
    #[error("the snapshot is of shard {found}, not of shard {shard}")]
    Shard {
        /// Whose state was asked for.
        shard: u16,
        /// Whose it is.
        found: u16,
    },
    /// Bytes that can't be read.
    #[error("part {part} of the snapshot, byte {at}: {reason}")]
    Unreadable {
        /// The how manieth part, from 0.
        part: u64,
        /// Where in it.
        at: usize,
        /// Why.
        reason: String,
    },
    /// Entries that contradict each other or the head.
    #[error("the snapshot does not fit together: {0}")]
    Misfit(String),
}

/// Puts a snapshot together again.
pub struct Restore {
    head: SnapshotHead,
    parts: u64,
}

impl Restore {
    /// Of this shard, from this head.
    pub fn new(shard: Shard, head: SnapshotHead) -> Result<Self, SnapshotError> {
        if head.v != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version { found: head.v });
        }
        if head.shard != shard {
            return Err(SnapshotError::Shard { shard: shard.0, found: head.shard.0 });
        }
        Ok(Self { head, parts: 0 })
    }

    /// The next part, in order.
    pub fn part(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let _ = bytes;
        self.parts += 1;
        Ok(())
    }

    /// All parts were given: an engine as it stood at the head.
    pub fn finish<H>(self) -> Result<Engine<H>, SnapshotError> {
        let _ = self.head;
        Err(SnapshotError::Misfit("not written yet".to_owned()))
    }
}
