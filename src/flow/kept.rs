//! A task written down: for snapshots, and for comparing states.
//!
//! Only what can't be derived is written. Arrays without names: there may be a million. What tenant and agent are
//! written as is up to the caller: numbers in a snapshot, names in [`super::state::State::canonical`].

use std::{
    collections::{BTreeSet, VecDeque},
    num::NonZeroU64,
};

use serde::{Deserialize, Serialize};

use super::{
    entry::{ChildOf, LastEnd, Lease, More, Ran, Stored, Task, Tree},
    history::History,
    times::Timing,
};
use crate::task::{
    BodyHash, Code, Labels, Millis, Phase, Priority, Refusal, TaskId, Times, TryFailure, grown,
};

#[derive(Serialize)]
pub(super) struct TaskRef<'a, T, A> {
    tenant: T,
    id: &'a TaskId,
    agent: A,
    body_hash: BodyHash,
    input: Stored,
    priority: Priority,
    max_tries: u32,
    phase: Phase,
    order: u64,
    at: Millis,
    first_try: Millis,
    created: Millis,
    ended: u64,
    rev: u64,
    resumed: bool,
    news: bool,
    tombstone: bool,
    remembered: bool,
    ran: Option<RanRef<'a>>,
    more: Option<MoreRef<'a>>,
    admitted: u32,
}

#[derive(Serialize)]
struct RanRef<'a> {
    attempt: u32,
    tries: u32,
    vanished: u32,
    last_event: u32,
    started: Millis,
    lease: Option<&'a Lease>,
    last_end: Option<&'a LastEnd>,
}

#[derive(Serialize)]
struct MoreRef<'a> {
    child: Option<&'a ChildOf>,
    retry_of: Option<&'a TaskId>,
    children: &'a [TaskId],
    live_children: u32,
    awaits: &'a BTreeSet<TaskId>,
    retries: &'a VecDeque<TaskId>,
    failures: &'a [TryFailure],
    refusal: Option<Refused>,
    result: Option<Stored>,
    timing: Option<KeptTiming>,
    cost: u32,
    paused: bool,
    history: Option<&'a History>,
    hops: u32,
    labels: Option<&'a Labels>,
}

/// A timing with all its fields, present or not.
#[derive(Serialize, Deserialize)]
struct KeptTiming {
    delay_ms: Option<Millis>,
    run_at: Option<Millis>,
    ttl_ms: Option<Millis>,
    try_timeout_ms: Option<Millis>,
    deadline_ms: Option<Millis>,
    deadline_at: Option<Millis>,
    deadline: Option<Millis>,
    not_before: Option<Millis>,
    held: bool,
    ttl_at: Option<Millis>,
}

impl From<&Timing> for KeptTiming {
    fn from(timing: &Timing) -> Self {
        let Times { delay_ms, run_at, ttl_ms, try_timeout_ms, deadline_ms, deadline_at } = timing.asked;
        Self {
            delay_ms,
            run_at,
            ttl_ms,
            try_timeout_ms,
            deadline_ms,
            deadline_at,
            deadline: timing.deadline,
            not_before: timing.not_before,
            held: timing.held,
            ttl_at: timing.ttl_at,
        }
    }
}

impl From<KeptTiming> for Box<Timing> {
    fn from(kept: KeptTiming) -> Self {
        let KeptTiming { delay_ms, run_at, ttl_ms, try_timeout_ms, deadline_ms, deadline_at, .. } = kept;
        Box::new(Timing {
            asked: Times { delay_ms, run_at, ttl_ms, try_timeout_ms, deadline_ms, deadline_at },
            deadline: kept.deadline,
            not_before: kept.not_before,
            held: kept.held,
            ttl_at: kept.ttl_at,
        })
    }
}

/// A refusal with all its fields, present or not.
#[derive(Serialize, Deserialize)]
struct Refused {
    code: Code,
    message: String,
    limit: Option<u64>,
    actual: Option<u64>,
    retry_after_ms: Option<Millis>,
}

impl<T: Copy, A> TaskRef<'_, T, A> {
    /// What it is sorted by.
    pub(super) fn key(&self) -> (T, &TaskId) {
        (self.tenant, self.id)
    }
}

/// The task, its tenant and agent written as given.
pub(super) fn task_ref<T, A>(task: &Task, tenant: T, agent: A) -> TaskRef<'_, T, A> {
    let more = task.more();
    // The tree follows from the tasks; a root that counts one has children.
    let apart = More { tree: more.tree, resumed: more.resumed, news: more.news, ..More::default() };
    let has_more = task.more.is_some() && *more != apart;
    TaskRef {
        tenant,
        id: &task.id,
        agent,
        body_hash: task.body_hash,
        input: task.input,
        priority: task.priority,
        max_tries: task.max_tries,
        phase: task.phase,
        order: task.order,
        at: task.at,
        first_try: task.first_try,
        created: task.created,
        ended: task.ended.map_or(0, NonZeroU64::get),
        rev: task.rev,
        resumed: more.resumed,
        news: more.news,
        tombstone: task.tombstone,
        remembered: task.remembered,
        ran: task.ran.as_ref().map(|ran| RanRef {
            attempt: ran.attempt,
            tries: ran.tries,
            vanished: ran.vanished,
            last_event: ran.last_event,
            started: ran.started,
            lease: ran.lease.as_deref(),
            last_end: ran.last_end.as_ref(),
        }),
        more: has_more.then(|| MoreRef {
            child: more.child.as_deref(),
            retry_of: more.retry_of.as_ref(),
            children: &more.children,
            live_children: more.live_children,
            awaits: &more.awaits,
            retries: &more.retries,
            failures: &more.failures,
            refusal: more.refusal.clone().map(|r| Refused {
                code: r.code,
                message: r.message,
                limit: r.limit,
                actual: r.actual,
                retry_after_ms: r.retry_after_ms,
            }),
            result: more.result,
            timing: more.timing.as_deref().map(KeptTiming::from),
            cost: more.cost,
            paused: more.paused,
            history: more.history.as_deref(),
            hops: more.hops,
            labels: more.labels.as_deref(),
        }),
        admitted: task.admitted,
    }
}

/// A task read back from a snapshot.
#[derive(Deserialize)]
pub(super) struct KeptTask {
    pub tenant: u32,
    id: TaskId,
    pub agent: u32,
    body_hash: BodyHash,
    input: Stored,
    priority: Priority,
    max_tries: u32,
    phase: Phase,
    order: u64,
    at: Millis,
    first_try: Millis,
    created: Millis,
    ended: u64,
    rev: u64,
    resumed: bool,
    news: bool,
    tombstone: bool,
    remembered: bool,
    ran: Option<Box<KeptRan>>,
    more: Option<Box<KeptMore>>,
    #[serde(default)]
    admitted: u32,
}

#[derive(Deserialize)]
struct KeptRan {
    attempt: u32,
    tries: u32,
    vanished: u32,
    last_event: u32,
    started: Millis,
    lease: Option<Box<Lease>>,
    last_end: Option<LastEnd>,
}

#[derive(Deserialize)]
struct KeptMore {
    child: Option<Box<ChildOf>>,
    retry_of: Option<TaskId>,
    #[serde(deserialize_with = "grown")]
    children: Vec<TaskId>,
    live_children: u32,
    awaits: BTreeSet<TaskId>,
    #[serde(deserialize_with = "grown")]
    retries: Vec<TaskId>,
    #[serde(deserialize_with = "grown")]
    failures: Vec<TryFailure>,
    refusal: Option<Refused>,
    result: Option<Stored>,
    /// Not in older snapshots.
    #[serde(default)]
    timing: Option<KeptTiming>,
    #[serde(default)]
    cost: u32,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    history: Option<Box<History>>,
    #[serde(default)]
    hops: u32,
    #[serde(default)]
    labels: Option<Box<Labels>>,
}

impl KeptTask {
    /// The task, of the tenant and agent of these numbers.
    pub(super) fn into_task(self, tenant: u32, agent: u32) -> Task {
        let mut task = Task {
            id: self.id,
            tenant,
            agent,
            body_hash: self.body_hash,
            input: self.input,
            priority: self.priority,
            max_tries: self.max_tries,
            phase: self.phase,
            order: self.order,
            at: self.at,
            first_try: self.first_try,
            created: self.created,
            ended: NonZeroU64::new(self.ended),
            rev: self.rev,
            admitted: self.admitted,
            tombstone: self.tombstone,
            remembered: self.remembered,
            ran: self.ran.map(|ran| {
                Box::new(Ran {
                    attempt: ran.attempt,
                    tries: ran.tries,
                    vanished: ran.vanished,
                    last_event: ran.last_event,
                    started: ran.started,
                    lease: ran.lease,
                    last_end: ran.last_end,
                })
            }),
            more: self.more.map(|more| {
                Box::new(More {
                    child: more.child,
                    retry_of: more.retry_of,
                    children: more.children,
                    live_children: more.live_children,
                    awaits: more.awaits,
                    retries: more.retries.into(),
                    failures: more.failures,
                    refusal: more.refusal.map(|r| Refusal {
                        code: r.code,
                        message: r.message,
                        limit: r.limit,
                        actual: r.actual,
                        retry_after_ms: r.retry_after_ms,
                    }),
                    result: more.result,
                    history: more.history,
                    timing: more.timing.map(Into::into),
                    resumed: false,
                    news: false,
                    cost: more.cost,
                    labels: more.labels,
                    paused: more.paused,
                    hops: more.hops,
                    tree: Tree::default(),
                })
            }),
        };
        task.set_resumed(self.resumed);
        task.set_news(self.news);
        task
    }
}
