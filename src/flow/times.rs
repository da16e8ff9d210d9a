//! When tasks may start and by when they must be over: admission, expiry, and the order in which it comes.
//!
//! Two clocks, both parameters: delays, times to live and the limits of tries pass in logical time; `run_at` and
//! deadlines are points of wall time, which is recorded with every journal message. A stepped wall clock moves those
//! two and nothing else.
//!
//! What a task has coming is a pure function of it (`entries`); the ordered sets in [`Bounds`] hold just that, so a
//! task without times costs nothing, and nothing is looked for.

use std::collections::BTreeSet;

use super::{
    admit,
    announced::Announcements,
    entry::Task,
    input::Entropy,
    record::{Admission, Record},
    settle,
    state::State,
    tasks::Slot,
};
use crate::task::{Code, Millis, Payload, Phase, Refusal, Spec, TaskKey, Times, never};

/// Of a task that has times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// What was asked for.
    pub asked: Times,
    /// The deadline in force, Unix milliseconds: the task's own or its parent's, whichever is earlier.
    pub deadline: Option<Millis>,
    /// Unix milliseconds, for people: `run_at`, or the admission and the delay.
    pub not_before: Option<Millis>,
    /// It may not start yet: until [`Task::at`], or until `run_at`.
    pub held: bool,
    /// Logical time at which its time to live is over. Not set before it may start, nor once it has really started.
    pub ttl_at: Option<Millis>,
}

impl Timing {
    /// Of a task admitted now, and the logical time until which it is delayed.
    pub fn of(admission: &Admission, now: Millis, wall: Millis) -> Option<(Self, Option<Millis>)> {
        let asked = admission.spec.times.as_deref().copied().unwrap_or_default();
        if admission.refusal.is_some() || (asked.is_empty() && admission.deadline.is_none()) {
            return None;
        }
        let delayed = asked.delay_ms.map(|ms| now.saturating_add(ms));
        let held = delayed.is_some() || asked.run_at.is_some_and(|at| at > wall);
        let not_before = asked.run_at.or_else(|| asked.delay_ms.map(|ms| wall.saturating_add(ms)));
        let mut timing = Self { asked, deadline: admission.deadline, not_before, held, ttl_at: None };
        if !held {
            timing.may_start(now);
        }
        Some((timing, delayed))
    }

    /// Nothing holds it any more: its time to live begins.
    pub fn may_start(&mut self, now: Millis) {
        self.held = false;
        self.ttl_at = self.asked.ttl_ms.map(|ms| now.saturating_add(ms));
    }
}

/// What will happen to a task by time alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// `run_at` comes.
    Start,
    /// The deadline passes.
    Deadline,
    /// The time to live is over.
    Ttl,
    /// The try has taken as long as it may.
    Try,
}

/// What comes when, of all tasks. Derived.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Bounds {
    /// By wall time.
    wall: BTreeSet<(Millis, Slot, Bound)>,
    /// By logical time.
    logical: BTreeSet<(Millis, Slot, Bound)>,
}

/// What comes to the task, first by wall time, then by logical time.
fn entries(task: &Task) -> [Option<(bool, Millis, Bound)>; 3] {
    let Some(timing) = task.timing().filter(|_| !task.phase.is_terminal()) else { return [None; 3] };
    let start = timing.asked.run_at.filter(|_| timing.held);
    let waits = task.phase == Phase::Queued && !timing.held;
    let ttl = timing.ttl_at.filter(|_| waits);
    let limit = timing.asked.try_timeout_ms;
    let tried = limit.zip(task.lease()).map(|(ms, lease)| lease.since.saturating_add(ms));
    // A task that is held does not run, and one that runs is not queued.
    let other = match (start, ttl, tried) {
        (Some(at), ..) => Some((true, at, Bound::Start)),
        (_, Some(at), _) => Some((false, at, Bound::Ttl)),
        (.., at) => at.map(|at| (false, at, Bound::Try)),
    };
    [timing.deadline.map(|at| (true, at, Bound::Deadline)), other, None]
}

impl Bounds {
    /// Puts in what comes to the task.
    pub(super) fn put(&mut self, slot: Slot, task: &Task) {
        if task.timing().is_some() {
            for (by_wall, at, bound) in entries(task).into_iter().flatten() {
                self.of(by_wall).insert((at, slot, bound));
            }
        }
    }

    /// Takes out what comes to the task.
    pub(super) fn take(&mut self, slot: Slot, task: &Task) {
        if task.timing().is_some() {
            for (by_wall, at, bound) in entries(task).into_iter().flatten() {
                self.of(by_wall).remove(&(at, slot, bound));
            }
        }
    }

    fn of(&mut self, by_wall: bool) -> &mut BTreeSet<(Millis, Slot, Bound)> {
        if by_wall { &mut self.wall } else { &mut self.logical }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.wall.len() + self.logical.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next by logical time.
    pub fn next_logical(&self) -> Option<Millis> {
        self.logical.first().map(|(at, ..)| *at)
    }

    /// The next by wall time.
    pub fn next_wall(&self) -> Option<Millis> {
        self.wall.first().map(|(at, ..)| *at)
    }
}

/// The deadline of a task that is admitted now, or why its times make no sense.
fn deadline(
    state: &State,
    spec: &Spec,
    base: Millis,
    parent: Option<&Task>,
) -> Result<Option<Millis>, Refusal> {
    let inherited = parent.and_then(|parent| parent.timing()).and_then(|timing| timing.deadline);
    let asked = spec.times.as_deref().copied().unwrap_or_default();
    let wall = state.wall_now();
    asked.check_at(wall)?;
    let own = asked.deadline(base);
    let Some(end) = own.into_iter().chain(inherited).min() else { return Ok(None) };
    if end <= wall {
        let whose = if own == Some(end) { "the deadline" } else { "its parent's deadline" };
        let message = format!("{whose}, {end} (Unix ms), had passed when it was decided, at {wall}");
        return Err(Refusal::over(Code::DeadlineExceeded, message, wall, end));
    }
    let start = asked.run_at.or_else(|| asked.delay_ms.map(|ms| wall.saturating_add(ms)));
    match start {
        Some(start) if start >= end => Err(never(start, end)),
        _ => Ok(Some(end)),
    }
}

fn refused(mut spec: Spec, refusal: Refusal) -> (Spec, Option<Refusal>, Option<Millis>) {
    spec.input = Payload::default();
    (spec, Some(refusal), None)
}

/// Admits a root task submitted at `base`, Unix milliseconds, with its deadline, or says why not.
pub fn root(
    state: &State,
    announced: &Announcements,
    key: &TaskKey,
    spec: Spec,
    base: Millis,
) -> (Spec, Option<Refusal>, Option<Millis>) {
    match deadline(state, &spec, base, None) {
        Ok(deadline) => {
            let (spec, refusal) = admit::root(state, announced, key, spec);
            let deadline = deadline.filter(|_| refusal.is_none());
            (spec, refusal, deadline)
        }
        Err(refusal) => refused(spec, refusal),
    }
}

/// Admits a child, with its deadline, or says why not; see [`admit::child`].
pub fn child(
    state: &State,
    announced: &Announcements,
    parent_key: &TaskKey,
    parent: &Task,
    spec: Spec,
    before: (usize, u32),
) -> (Spec, Option<Refusal>, Option<Millis>) {
    match deadline(state, &spec, state.wall_now(), Some(parent)) {
        Ok(deadline) => {
            let (spec, refusal) = admit::child(state, announced, parent_key, parent, spec, before);
            let deadline = deadline.filter(|_| refusal.is_none());
            (spec, refusal, deadline)
        }
        Err(refusal) => refused(spec, refusal),
    }
}

/// The times of a task that retries a dead one: it need not be delayed again, and has as long as the first had.
pub fn again(dead: &Task) -> Option<Box<Times>> {
    let asked = dead.timing()?.asked;
    let times = Times { delay_ms: None, run_at: None, ..asked };
    (!times.is_empty()).then(|| Box::new(times))
}

/// Why a task whose deadline has passed is over.
pub fn deadline_passed(deadline: Millis, wall: Millis) -> Refusal {
    let message =
        format!("not over by its deadline, {deadline} (Unix ms); it was {wall} when it was stopped");
    Refusal::over(Code::DeadlineExceeded, message, wall, deadline)
}

/// The record that ends a task for a time that has passed, if one has.
pub fn overdue(state: &State, slot: Slot) -> Option<Record> {
    let task = state.tasks.get(slot)?;
    let timing = task.timing()?;
    let (now, wall) = (state.clock_now(), state.wall_now());
    let refusal = match (timing.deadline, timing.ttl_at) {
        (Some(deadline), _) if deadline <= wall => deadline_passed(deadline, wall),
        (_, Some(at)) if at <= now && task.phase == Phase::Queued => {
            let ttl = timing.asked.ttl_ms.unwrap_or(0);
            let waited = now.saturating_sub(at).saturating_add(ttl);
            let message = format!("not started within {ttl} ms of when it might; {waited} ms had passed");
            Refusal::over(Code::TtlExpired, message, waited, ttl)
        }
        _ => return None,
    };
    Some(Record::Expired { key: state.key_of(task), refusal })
}

/// What time brings next, if it is due. One record at a time: each may change what is due.
pub fn due(state: &State, entropy: &mut dyn Entropy) -> Option<Record> {
    let wall = state.bounds.wall.first().filter(|(at, ..)| *at <= state.wall_now());
    let logical = || state.bounds.logical.first().filter(|(at, ..)| *at <= state.clock_now());
    let (_, slot, bound) = *wall.or_else(logical)?;
    let task = &state.tasks[slot];
    match bound {
        Bound::Start => Some(Record::Woken { key: state.key_of(task) }),
        Bound::Deadline | Bound::Ttl => overdue(state, slot),
        Bound::Try => {
            let (token, since) = task.lease().map(|lease| (lease.token, lease.since))?;
            let limit = task.timing()?.asked.try_timeout_ms?;
            let took = state.clock_now().saturating_sub(since);
            let message = format!("the try had taken {took} ms when it was stopped; it may take {limit}");
            let failure = settle::try_lost(state, task, Code::TryTimeout, &message, None, entropy);
            Some(Record::TimedOut { key: state.key_of(task), token, failure })
        }
    }
}

/// What an instance is told: the deadline, and how long it may go on from now.
pub fn left(state: &State, task: &Task) -> (Option<Millis>, Option<Millis>) {
    let Some(timing) = task.timing() else { return (None, None) };
    let whole = timing.deadline.map(|at| at.saturating_sub(state.wall_now()));
    let limit = timing.asked.try_timeout_ms;
    let one = limit
        .zip(task.lease())
        .map(|(ms, lease)| lease.since.saturating_add(ms).saturating_sub(state.clock_now()));
    (timing.deadline, whole.into_iter().chain(one).min())
}

#[cfg(test)]
pub(in crate::flow) mod tests;
