//! What is known of a task and of a lease.

use std::collections::BTreeSet;

use selvedge::task::{
    AgentName, BodyHash, Code, InstanceId, Labels, Payload, Phase, Priority, TaskId, TaskKey, Token,
};

use super::{
    talk::Talk,
    times::{Clocked, Until},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Queued,
    /// Queued, and not to be started yet.
    Delayed(Until),
    Running,
    Awaiting(BTreeSet<TaskId>),
    Sleeping {
        due: u64,
        retry: bool,
    },
    /// Waits for a message, perhaps not for ever.
    Told {
        place: u32,
        signal: Option<String>,
        due: Option<u64>,
    },
    /// Waits for a time that is recorded.
    Asleep {
        place: u32,
        due: u64,
    },
    Over(Phase),
}

#[derive(Debug, Clone)]
pub struct Lease {
    pub token: Token,
    pub n: u32,
    pub resume: bool,
    /// Cells that were set aside, of its tenant's and of its agent's.
    pub cells: (u32, u32),
}

#[derive(Debug, Clone)]
pub struct Known {
    pub hash: BodyHash,
    /// Of its input.
    pub seed: u64,
    pub parent: Option<TaskId>,
    pub root: TaskId,
    pub depth: u32,
    pub children: Vec<TaskId>,
    pub admitted_children: u32,
    pub place: Place,
    pub attempt: u32,
    pub tries: u32,
    pub agent: AgentName,
    pub cost: u32,
    pub labels: Labels,
    pub(super) priority: Priority,
    /// Place in the order of admission.
    pub(super) order: u64,
    /// When it was admitted, in seconds of logical time.
    pub(super) since: u64,
    pub max_tries: u32,
    pub vanished: u32,
    pub lease: Option<Lease>,
    /// Its wait is over and it has not been dispatched since.
    pub resumes: bool,
    /// A child has ended since the last dispatch.
    pub news: bool,
    pub refusal: Option<Code>,
    pub failures: usize,
    pub started: Option<u64>,
    pub ended: Option<u64>,
    pub rev: u64,
    pub result: Option<Payload>,
    pub clocked: Clocked,
    pub talk: Talk,
}

impl Known {
    pub fn phase(&self) -> Phase {
        match self.place {
            Place::Queued | Place::Delayed(_) => Phase::Queued,
            Place::Running => Phase::Running,
            Place::Sleeping { retry: true, .. } => Phase::Retrying,
            Place::Awaiting(_) | Place::Sleeping { .. } | Place::Told { .. } | Place::Asleep { .. } => {
                Phase::Waiting
            }
            Place::Over(phase) => phase,
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.place, Place::Over(_))
    }
}

/// What became of a token.
#[derive(Debug, Clone)]
pub struct Granted {
    pub key: TaskKey,
    pub instance: InstanceId,
    pub attempt: u32,
    pub applied: u32,
    pub live: bool,
}
