//! The state in slices: written while the owner goes on, read back before the rest of the journal is replayed.
//!
//! A snapshot is a [`SnapshotHead`] and parts. The head says at which journal message the parts hold; the engine
//! may go on between two of them, because whatever it changes meanwhile is kept as it was (see `tasks`). Parts hold
//! no payload of a live task: those stay in the journal, and in a snapshot they are references to it.
//!
//! Restoring gives the same state byte for byte ([`super::state::State::canonical`]). Bytes that are not what was
//! written are named and refused; nothing is guessed.

mod format;
mod rebuild;
mod restore;
mod writing;

pub(super) use self::writing::{Writing, begin};
pub use self::{
    format::{Counts, SNAPSHOT_VERSION, SnapshotHead},
    restore::{Restore, SnapshotError},
};
use super::state::State;

fn counts(state: &State) -> Counts {
    Counts {
        tenants: state.tenants.len() as u64,
        agents: state.agents.len() as u64,
        tasks: state.tasks.len() as u64,
        schedules: state.schedules.len() as u64,
        permits: state.callers,
    }
}

#[cfg(test)]
mod tests;
