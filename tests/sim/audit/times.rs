//! The rules of time, a second time: nothing starts before its time, nothing runs after its deadline, and what is over
//! by time ends in time and for the reason that is said.

use selvedge::{
    flow::record::{Admission, Failure, Origin},
    task::{Code, Phase, Refusal, TaskKey, Times, Token},
};

use super::{Audit, Known, Place, of};
use crate::scenario::Sight;

/// What a task was given to know of time.
#[derive(Debug, Clone, Default)]
pub struct Clocked {
    pub asked: Times,
    /// Unix time.
    pub deadline: Option<u64>,
    /// Logical time at which it may start.
    pub from: u64,
    /// An attempt of it has really begun.
    pub begun: bool,
    /// Logical time of the last dispatch.
    pub since: u64,
}

/// Until when it may not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Logical(u64),
    Wall(u64),
}

impl Clocked {
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.deadline.is_none()
    }
}

/// Due times decided in one message, at most; more are due in the next.
const AT_ONCE: usize = 128;

impl Audit {
    /// What an admission says of time, and whether that is right.
    pub(super) fn clocked(
        &mut self,
        key: &TaskKey,
        a: &Admission,
    ) -> Result<(Clocked, Option<Until>), String> {
        let asked = a.spec.times.as_deref().copied().unwrap_or_default();
        let inherited = match &a.origin {
            Origin::Root { .. } => None,
            Origin::Child { parent, .. } => self.tasks.get(&of(key, parent)).and_then(|p| p.clocked.deadline),
        };
        if let Some(refusal) = &a.refusal {
            match refusal.code {
                Code::BadTime => self.sights.push(Sight::BadTime),
                Code::DeadlineExceeded => {
                    let late = refusal.limit.is_some_and(|end| end <= self.wall);
                    ensure!(late, "too late for a deadline that has not passed");
                    self.sights.push(Sight::SubmittedLate);
                }
                _ => {}
            }
            return Ok((Clocked { asked, ..Clocked::default() }, None));
        }
        match (asked.deadline_ms, asked.deadline_at, inherited, a.deadline) {
            (None, None, inherited, end) => {
                ensure!(end == inherited, "{end:?}, its parent's is {inherited:?}")
            }
            (Some(ms), _, inherited, Some(end)) => {
                ensure!(inherited.is_none_or(|parent| end <= parent), "later than its parent's deadline");
                let submitted = end - ms.min(end);
                let base = submitted <= self.true_wall || submitted == self.wall || inherited == Some(end);
                ensure!(base, "a deadline from a time that has not come");
            }
            (_, Some(at), inherited, Some(end)) => {
                ensure!(end == at.min(inherited.unwrap_or(at)), "another deadline than was asked for");
            }
            (.., None) => return Err("a deadline was asked for, and is not there".to_owned()),
        }
        ensure!(a.deadline.is_none_or(|end| end > self.wall), "admitted after its deadline");
        let until = match (asked.delay_ms, asked.run_at) {
            (Some(ms), _) => Some(Until::Logical(self.now + ms)),
            (_, Some(at)) if at > self.wall => Some(Until::Wall(at)),
            _ => None,
        };
        let clocked = Clocked { asked, deadline: a.deadline, from: self.now, begun: false, since: 0 };
        if !clocked.is_empty() {
            self.timed.insert(key.clone());
        }
        Ok((clocked, until))
    }

    /// A delay is over, if it is.
    pub(super) fn started(&mut self, key: &TaskKey, until: Until) -> Result<(), String> {
        let (now, wall) = (self.now, self.wall);
        match until {
            Until::Logical(at) => {
                ensure!(at <= now, "{key} starts at {now}, delayed until {at}");
                self.sights.push(Sight::Delayed);
            }
            Until::Wall(at) => {
                ensure!(at <= wall, "{key} starts at {wall}, not before {at}");
                self.sights.push(Sight::RanAt);
            }
        }
        let known = self.known(key)?;
        known.place = Place::Queued;
        known.clocked.from = now;
        Ok(())
    }

    /// A dispatch, by what it knows of time.
    pub(super) fn in_time(&mut self, key: &TaskKey) -> Result<(), String> {
        let over = self.over_by_time(&self.tasks[key]);
        ensure!(over.is_none(), "{key} is dispatched, and is over by time: {over:?}");
        let now = self.now;
        self.known(key)?.clocked.since = now;
        Ok(())
    }

    pub(super) fn timed_out(&mut self, key: &TaskKey, token: Token, failure: &Failure) -> Result<(), String> {
        let now = self.now;
        let clocked = &self.known(key)?.clocked;
        let limit = clocked.asked.try_timeout_ms.ok_or("a try without a limit timed out")?;
        let took = now - clocked.since;
        ensure!(took >= limit, "a try timed out after {took} of {limit} ms");
        ensure!(failure.what.code == Code::TryTimeout, "a try timed out as {}", failure.what.code);
        self.let_go(key, token)?;
        self.known(key)?.vanished = 0;
        self.failed(key, failure)?;
        self.touch(key);
        self.sights.push(Sight::TryTimedOut);
        Ok(())
    }

    pub(super) fn expired(&mut self, key: &TaskKey, refusal: &Refusal) -> Result<(), String> {
        let code = self.over_by_time(self.tasks.get(key).ok_or("an unknown task expires")?);
        ensure!(code == Some(refusal.code), "{key} expires as {}, and is {code:?}", refusal.code);
        let sight = match (refusal.code, &self.tasks[key].place) {
            (Code::TtlExpired, _) => Sight::TtlExpired,
            (_, Place::Running) => Sight::ExpiredRunning,
            (_, Place::Queued) => Sight::ExpiredQueued,
            (_, Place::Delayed(_)) => Sight::ExpiredDelayed,
            _ => Sight::ExpiredWaiting,
        };
        self.sights.push(sight);
        let mut next = vec![key.clone()];
        while let Some(at) = next.pop() {
            let Some(known) = self.tasks.get(&at) else { continue };
            next.extend(known.children.iter().map(|id| of(&at, id)));
            if known.is_over() {
                continue;
            }
            if at != *key {
                let passed = known.clocked.deadline.is_some_and(|end| end <= self.wall);
                ensure!(passed, "{at} ends with {key}, before its own deadline");
                self.sights.push(Sight::ExpiredBelow);
            }
            if let Some(token) = known.lease.as_ref().map(|lease| lease.token) {
                self.let_go(&at, token)?;
            }
            let known = self.known(&at)?;
            known.resumes = false;
            known.refusal = Some(refusal.code);
            self.over(&at, Phase::Expired);
        }
        Ok(())
    }

    /// Which time is over for it, if one is.
    fn over_by_time(&self, known: &Known) -> Option<Code> {
        let clocked = &known.clocked;
        if known.is_over() {
            return None;
        }
        if clocked.deadline.is_some_and(|end| end <= self.wall) {
            return Some(Code::DeadlineExceeded);
        }
        let waits = known.place == Place::Queued && !clocked.begun;
        let ttl = clocked.asked.ttl_ms.filter(|_| waits)?;
        (clocked.from + ttl <= self.now).then_some(Code::TtlExpired)
    }

    /// Whatever time should have ended or started by now.
    pub fn late(&mut self, now: u64, wall: u64) -> Option<String> {
        let tasks = &self.tasks;
        self.timed.retain(|key| tasks.get(key).is_some_and(|known| !known.is_over()));
        let (was_now, was_wall) = (self.now, self.wall);
        (self.now, self.wall) = (now, wall);
        let late = self.timed.iter().find(|key| {
            let known = &self.tasks[*key];
            let held = match known.place {
                Place::Delayed(Until::Logical(at)) => at <= now,
                Place::Delayed(Until::Wall(at)) => at <= wall,
                Place::Running => {
                    known.clocked.asked.try_timeout_ms.is_some_and(|ms| known.clocked.since + ms <= now)
                }
                _ => false,
            };
            held || self.over_by_time(known).is_some()
        });
        let late = late.map(|key| format!("{key}: {:?} at {now}, {wall}", self.tasks[key]));
        (self.now, self.wall) = (was_now, was_wall);
        late
    }

    /// After a message: nothing is left that time should have ended, unless there was too much at once.
    pub(super) fn all_in_time(&mut self, due: usize) -> Result<(), String> {
        if due >= AT_ONCE || self.timed.is_empty() {
            return Ok(());
        }
        match self.late(self.now, self.wall) {
            Some(late) => Err(format!("late: {late}")),
            None => Ok(()),
        }
    }
}
