//! A task as the state holds it: small while it waits, and small again once it is over.
//!
//! What only some tasks have is boxed: [`Ran`] once it was dispatched, [`More`] for children, parents, failures and
//! refusals. Its input and result are references into the journal ([`Stored`]).

use std::{
    collections::{BTreeSet, VecDeque},
    num::NonZeroU64,
};

use serde::{Deserialize, Serialize};

use super::{
    fair::{Charge, Place, RESUMED, rank},
    history::History,
    times::Timing,
};
use crate::task::{
    BodyHash, InstanceId, Labels, Millis, Payload, Phase, Priority, Refusal, TaskId, Token, TryFailure,
};

/// Where in the journal a payload stands. `null`, which most messages without a payload mean, stands nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[repr(Rust, packed(4))]
pub struct Stored {
    rev: u64,
    /// Its length; the highest bit says that it is bytes, not JSON.
    size: u32,
}

const BYTES: u32 = 1 << 31;

impl Stored {
    /// Of a payload in the message of this revision.
    pub fn of(payload: &Payload, rev: u64) -> Self {
        if *payload == Payload::default() {
            return Self::default();
        }
        let kind = if matches!(payload, Payload::Bytes(_)) { BYTES } else { 0 };
        // Payloads are bounded far below this when they are admitted.
        Self { rev, size: (payload.len() as u32 & !BYTES) | kind }
    }

    /// The revision of the message that holds it; `None`: it is `null`.
    pub fn rev(self) -> Option<u64> {
        (self.rev != 0).then_some(self.rev)
    }

    /// Its length in bytes.
    pub fn len(self) -> usize {
        (self.size & !BYTES) as usize
    }

    /// Whether it is nowhere.
    pub fn is_empty(self) -> bool {
        self.rev == 0
    }

    /// Whether the payload can be the one that is meant.
    pub fn fits(self, payload: &Payload) -> bool {
        let kind = if matches!(payload, Payload::Bytes(_)) { BYTES } else { 0 };
        self.size == (payload.len() as u32 & !BYTES) | kind
    }

    pub(super) fn moved(self, rev: u64) -> Self {
        Self { rev, size: self.size }
    }
}

/// The right to run one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its secret.
    pub token: Token,
    /// Who has it.
    pub instance: InstanceId,
    /// Reports applied.
    pub n: u32,
    /// Its length.
    pub lease_ms: Millis,
    /// Logical time of the dispatch.
    pub since: Millis,
    /// What the lane was charged.
    pub charge: Charge,
    /// It resumed a parent.
    pub resume: bool,
    /// Cells set aside of its tenant's and of its agent's.
    #[serde(default)]
    pub cells: (u32, u32),
}

/// The last lease that was ended by its own report: a repeated end finds its answer here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEnd {
    /// Which lease.
    pub token: Token,
    /// Number of the ending report.
    pub n: u32,
    /// What it said, hashed.
    pub outcome: BodyHash,
}

/// What a task has once it was dispatched.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Ran {
    /// Dispatches so far.
    pub attempt: u32,
    /// Tries lost so far.
    pub tries: u32,
    /// Offers lost with their instance since the last acceptance, in a row.
    pub vanished: u32,
    /// Last event of the last ended attempt.
    pub last_event: u32,
    /// First dispatch, Unix milliseconds.
    pub started: Millis,
    /// While running.
    pub lease: Option<Box<Lease>>,
    /// See [`LastEnd`].
    pub last_end: Option<LastEnd>,
}

static NOT_RUN: Ran =
    Ran { attempt: 0, tries: 0, vanished: 0, last_event: 0, started: 0, lease: None, last_end: None };

/// Where a child came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildOf {
    /// By whom.
    pub parent: TaskId,
    /// In which step.
    pub step: String,
    /// At which index.
    pub index: u32,
    /// Root of the tree.
    pub root: TaskId,
    /// Depth below the root.
    pub depth: u32,
}

/// A tree with live tasks in it. Derived: kept at its root once that has a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tree {
    /// Tasks ever admitted.
    pub total: u32,
    /// Of which not terminal.
    pub live: u32,
}

/// What few tasks have.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct More {
    /// Spawned, not submitted.
    pub child: Option<Box<ChildOf>>,
    /// The dead task it retries.
    pub retry_of: Option<TaskId>,
    /// In order of spawn and index, rejected ones included.
    pub children: Vec<TaskId>,
    /// Children that are not terminal.
    pub live_children: u32,
    /// While waiting: the children still awaited.
    pub awaits: BTreeSet<TaskId>,
    /// The latest tasks that retry this dead one.
    pub retries: VecDeque<TaskId>,
    /// The last ten tries that went wrong.
    pub failures: Vec<TryFailure>,
    /// Why it is rejected, failed, cancelled or expired.
    pub refusal: Option<Refusal>,
    /// Kept while a live parent may ask for it.
    pub result: Option<Stored>,
    /// What it was told and what its handler recorded.
    pub(super) history: Option<Box<History>>,
    /// When it may start and by when it must be over.
    pub(super) timing: Option<Box<Timing>>,
    /// Its wait is over: first in line, free of rate.
    pub(super) resumed: bool,
    /// A child of it has ended, or a message has come, since it was dispatched: what makes a wait that is over at once a resume.
    pub(super) news: bool,
    /// Cells an attempt is expected to use.
    pub cost: u32,
    /// What it is found by.
    pub labels: Option<Box<Labels>>,
    /// Of a root: an operator has paused its tree.
    pub paused: bool,
    /// Triggers that lie behind it; a child's are its parent's.
    pub hops: u32,
    /// Of a root with children.
    pub(super) tree: Tree,
}

static NO_MORE: More = More {
    child: None,
    retry_of: None,
    children: Vec::new(),
    live_children: 0,
    awaits: BTreeSet::new(),
    retries: VecDeque::new(),
    failures: Vec::new(),
    refusal: None,
    result: None,
    history: None,
    timing: None,
    resumed: false,
    news: false,
    cost: 0,
    labels: None,
    paused: false,
    hops: 0,
    tree: Tree { total: 0, live: 0 },
};

/// A task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Which, within its tenant.
    pub id: TaskId,
    /// Number of its tenant.
    pub(super) tenant: u32,
    /// Number of its agent.
    pub(super) agent: u32,
    /// What it was submitted with.
    pub body_hash: BodyHash,
    /// Dropped once nobody can ask for it.
    pub input: Stored,
    /// Its class.
    pub priority: Priority,
    /// Tries before it is dead; 0: not said.
    pub max_tries: u32,
    /// Where it is.
    pub phase: Phase,
    /// Place in the order of arrival; once it is remembered, in the order of being forgotten.
    pub order: u64,
    /// Logical time of the next try while retrying, snoozing or delayed; of its end once it is remembered.
    pub at: Millis,
    /// Clamped first-try time of a root, Unix milliseconds.
    pub first_try: Millis,
    /// Unix milliseconds.
    pub created: Millis,
    /// Unix milliseconds.
    pub ended: Option<NonZeroU64>,
    /// Journal revision of the last change.
    pub rev: u64,
    /// When it was admitted, in seconds of logical time, from 1: its class rises with the time since.
    pub admitted: u32,
    /// A cancel that came before its submit: an id, and nothing else of the task is known.
    pub tombstone: bool,
    /// Over, with everything in its tree: lined up for being forgotten.
    pub remembered: bool,
    pub(super) ran: Option<Box<Ran>>,
    pub(super) more: Option<Box<More>>,
}

const _: () = assert!(size_of::<Task>() <= 152, "a queued task is as small as this");

impl Task {
    /// See [`Ran`].
    pub fn ran(&self) -> &Ran {
        self.ran.as_deref().unwrap_or(&NOT_RUN)
    }

    pub(super) fn ran_mut(&mut self) -> &mut Ran {
        self.ran.get_or_insert_default()
    }

    /// See [`More`].
    pub fn more(&self) -> &More {
        self.more.as_deref().unwrap_or(&NO_MORE)
    }

    pub(super) fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// See [`Timing`].
    pub fn timing(&self) -> Option<&Timing> {
        self.more.as_ref()?.timing.as_deref()
    }

    pub(super) fn timing_mut(&mut self) -> Option<&mut Timing> {
        self.more.as_mut()?.timing.as_deref_mut()
    }

    /// Whether it is queued and may not start yet.
    pub fn is_held(&self) -> bool {
        self.phase == Phase::Queued && self.timing().is_some_and(|timing| timing.held)
    }

    /// While running.
    pub fn lease(&self) -> Option<&Lease> {
        self.ran.as_ref()?.lease.as_deref()
    }

    /// Why it is rejected, failed or cancelled.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.more.as_ref()?.refusal.as_ref()
    }

    /// Dispatches so far.
    pub fn attempt(&self) -> u32 {
        self.ran().attempt
    }

    /// Tries lost so far.
    pub fn tries(&self) -> u32 {
        self.ran().tries
    }

    /// The task it was spawned by.
    pub fn parent(&self) -> Option<&TaskId> {
        self.more.as_ref()?.child.as_ref().map(|child| &child.parent)
    }

    /// The root of its tree; its own id for a root.
    pub fn root(&self) -> &TaskId {
        match &self.more().child {
            Some(child) => &child.root,
            None => &self.id,
        }
    }

    /// Whether it was submitted, not spawned.
    pub fn is_root(&self) -> bool {
        self.more().child.is_none()
    }

    /// 0 for a root.
    pub fn depth(&self) -> u32 {
        self.more().child.as_ref().map_or(0, |child| child.depth)
    }

    /// Logical time of the next try, while it waits for one.
    pub fn wake_at(&self) -> Option<Millis> {
        (self.at != 0 && !self.remembered).then_some(self.at)
    }

    /// Where it stands in its lane while queued.
    pub fn place(&self) -> Place {
        let rank = if self.resumed() { RESUMED } else { rank(self.priority) };
        (rank, self.order)
    }

    /// Whether it counts against its tenant's backlog.
    pub fn in_backlog(&self) -> bool {
        matches!(self.phase, Phase::Queued | Phase::Retrying) && !self.resumed() && self.is_root()
    }

    /// Its wait is over: first in line, free of rate.
    pub fn resumed(&self) -> bool {
        self.more().resumed
    }

    /// Says whether its wait is over.
    pub(super) fn set_resumed(&mut self, resumed: bool) {
        if resumed || self.more.is_some() {
            self.more_mut().resumed = resumed;
        }
    }

    /// Says whether a child has ended, or a message has come, since it was dispatched.
    pub(super) fn set_news(&mut self, news: bool) {
        if news || self.more.is_some() {
            self.more_mut().news = news;
        }
    }

    /// Cells its next attempt is to set aside: a resume sets none aside, what it uses is charged at its end.
    pub(super) fn reserves(&self) -> u32 {
        if self.resumed() { 0 } else { self.more().cost }
    }

    /// Gives back what a task needs only while it lives.
    pub(super) fn compact(&mut self) {
        if let Some(more) = &mut self.more {
            more.children.shrink_to_fit();
            more.failures.shrink_to_fit();
            more.retries.shrink_to_fit();
            if **more == NO_MORE {
                self.more = None;
            }
        }
    }
}
