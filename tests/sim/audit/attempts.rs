//! Attempts: who is next in a lane and may start, what an attempt reports, and how it ends.

use std::collections::BTreeSet;

use selvedge::{
    flow::record::{AfterFailure, Failure},
    task::{Code, InstanceId, Outcome, Phase, Priority, TaskId, TaskKey, TenantName, Token, WaitFor},
};

use super::{Audit, Granted, Known, Lease, Place, first_id, of};
use crate::scenario::Sight;

impl Audit {
    /// A tenant's tasks that wait for a slot.
    pub fn queued_of<'a>(&'a self, tenant: &'a TenantName) -> impl Iterator<Item = &'a Known> {
        let from = TaskKey { tenant: tenant.clone(), id: first_id() };
        let own = self.tasks.range(from..).take_while(move |(key, _)| key.tenant == *tenant);
        own.filter(|(_, known)| known.place == Place::Queued).map(|(_, known)| known)
    }

    /// Where a queued task stands in its lane: resumed parents, then classes, each one higher for every step of
    /// waiting, then first come.
    fn rank(&self, known: &Known) -> (u64, u64) {
        let class = match known.priority {
            Priority::Critical => 1,
            Priority::High => 2,
            Priority::Normal => 3,
            Priority::Low => 4u64,
        };
        let step = self.policy.as_ref().map_or(0, |policy| policy.ageing_ms / 1_000);
        let waited = self.now / 1_000 - known.since;
        let class = waited.checked_div(step).map_or(class, |steps| class.saturating_sub(steps).max(1));
        (if known.resumes { 0 } else { class }, known.order)
    }

    /// A report counts only with the live lease, and in order.
    pub(super) fn report(&mut self, key: &TaskKey, token: Token, n: u32) -> Result<(), String> {
        let lease = self.running(key, token)?.lease.as_mut().ok_or("no lease")?;
        ensure!(n == lease.n + 1, "report {n} after {}", lease.n);
        lease.n = n;
        if let Some(granted) = self.granted.get_mut(&token) {
            granted.applied = n;
        }
        Ok(())
    }

    pub(super) fn dispatched(
        &mut self,
        key: &TaskKey,
        attempt: u32,
        token: Token,
        instance: &InstanceId,
        resume: bool,
    ) -> Result<(), String> {
        self.no_cancelled_above(key)?;
        self.in_time(key)?;
        let plan = self.plan(&key.tenant)?;
        let (now, wall) = (self.now, self.wall);
        self.next_in_lane(key)?;
        let aged = self.tasks.get(key).is_some_and(|known| {
            let step = self.policy.as_ref().map_or(0, |policy| policy.ageing_ms / 1_000);
            !known.resumes && step > 0 && now / 1_000 - known.since >= step
        });
        self.sights.extend(aged.then_some(Sight::Aged));
        ensure!(!self.all.paused, "everything is paused");
        ensure!(!plan.paused, "the plan of {} is paused", key.tenant);
        let known = self.known(key)?;
        let (agent, cost) = (known.agent.clone(), known.cost);
        ensure!(known.place == Place::Queued && known.lease.is_none(), "I5: {key} is {:?}", known.place);
        ensure!(attempt == known.attempt + 1, "I5: attempt {attempt} after {}", known.attempt);
        ensure!(resume == known.resumes, "resume is {resume}, should be {}", known.resumes);
        known.attempt = attempt;
        known.resumes = false;
        known.news = false;
        known.place = Place::Running;
        known.started.get_or_insert(wall);
        let called = self.called(&key.tenant, &agent);
        let all: usize = self.tenants.values().map(|tenant| tenant.in_flight.len()).sum();
        let all = all + called.all;
        let cap = self.policy.as_ref().map_or(0, |policy| policy.in_flight);
        ensure!((all as u64) < cap, "I6: {} in flight in all, cap {cap}", all + 1);
        let tenant = self.tenants.entry(key.tenant.clone()).or_default();
        let own = self.agents.entry(agent.clone()).or_default();
        ensure!(!tenant.settings.as_ref().is_some_and(|s| s.paused), "{} is paused", key.tenant);
        ensure!(!own.settings.paused, "{agent} is paused");
        let cap = plan.in_flight as usize;
        let running = tenant.in_flight.len();
        ensure!(running + called.tenant < cap, "I6: {} in flight, cap {cap}", running + called.tenant + 1);
        let kept = plan.call_reserve.unwrap_or(0).min(plan.in_flight.saturating_sub(1)) as usize;
        ensure!(running < cap - kept, "I6: {running} tasks in flight of {cap}, {kept} are kept for calls");
        let cap = own.settings.in_flight.map_or(usize::MAX, |cap| cap as usize);
        let there = own.in_flight.len() + called.agent;
        ensure!(there < cap, "I6: {} at {agent}, cap {cap}", there + 1);
        let here = tenant.in_flight.intersection(&own.in_flight).count() + called.here;
        let cap = plan.agent_in_flight.map_or(usize::MAX, |cap| cap as usize);
        ensure!(here < cap, "I6: {} of {} at {agent}, cap {cap}", here + 1, key.tenant);
        tenant.in_flight.insert(token);
        own.in_flight.insert(token);
        let mut cells = (0, 0);
        if resume {
            self.sights.push(Sight::Resumed);
        } else {
            tenant.rate.take(now, 1, "dispatches of a tenant")?;
            own.rate.take(now, 1, "dispatches of an agent")?;
            if cost > 0 {
                cells.0 = if tenant.cells.take(now, cost, "cells of a tenant")? { cost } else { 0 };
                cells.1 = if own.cells.take(now, cost, "cells of an agent")? { cost } else { 0 };
            }
        }
        self.known(key)?.lease = Some(Lease { token, n: 0, resume, cells });
        let granted =
            Granted { key: key.clone(), instance: instance.clone(), attempt, applied: 0, live: true };
        ensure!(self.granted.insert(token, granted).is_none(), "a token was used twice");
        self.touch(key);
        Ok(())
    }

    /// Nothing of the same lane goes before it.
    fn next_in_lane(&self, key: &TaskKey) -> Result<(), String> {
        let Some(it) = self.tasks.get(key) else { return Ok(()) };
        ensure!(!self.is_paused(key, it), "{key} is of a paused tree");
        let own =
            self.tasks.range(of(key, &first_id())..).take_while(|(other, _)| other.tenant == key.tenant);
        let lane = own.filter(|(other, known)| {
            known.place == Place::Queued && known.agent == it.agent && !self.is_paused(other, known)
        });
        let first = lane.min_by_key(|(_, known)| self.rank(known));
        let (first, known) = first.ok_or("an empty lane")?;
        ensure!(first == key, "{first} {:?} goes before {:?}", self.rank(known), self.rank(it));
        Ok(())
    }

    pub(super) fn let_go(&mut self, key: &TaskKey, token: Token) -> Result<Lease, String> {
        let known = self.running(key, token)?;
        let agent = known.agent.clone();
        let lease = known.lease.take().ok_or("no lease")?;
        if let Some(granted) = self.granted.get_mut(&token) {
            granted.live = false;
        }
        let tenant = self.tenants.entry(key.tenant.clone()).or_default();
        ensure!(tenant.in_flight.remove(&token), "a slot was released twice");
        let own = self.agents.entry(agent).or_default();
        ensure!(own.in_flight.remove(&token), "a slot of an agent was released twice");
        Ok(lease)
    }

    pub(super) fn failed(&mut self, key: &TaskKey, failure: &Failure) -> Result<(), String> {
        let now = self.now;
        let known = self.known(key)?;
        known.tries += 1;
        known.failures = (known.failures + 1).min(10);
        known.resumes = false;
        known.clocked.begun = true;
        let (tries, max) = (known.tries, known.max_tries);
        ensure!(failure.tries == tries, "I5: try {} told as {}", tries, failure.tries);
        ensure!(tries <= max, "I5: try {tries} of {max}");
        match failure.next {
            AfterFailure::RetryAt(due) => {
                ensure!(tries < max, "I5: try {tries} of {max} is followed by another");
                ensure!(due >= now, "a retry in the past");
                known.place = Place::Sleeping { due, retry: true };
                self.sights.push(Sight::Retried);
            }
            AfterFailure::Dead => {
                known.refusal = Some(failure.what.code);
                self.sights.push(Sight::Dead);
                self.over(key, Phase::Failed);
            }
        }
        Ok(())
    }

    /// What an attempt used is settled: more than was set aside is owed, less is there again.
    pub(super) fn used(&mut self, key: &TaskKey, token: Token, used: u32) -> Result<(), String> {
        let now = self.now;
        let known = self.running(key, token)?;
        let (agent, cells) = (known.agent.clone(), known.lease.as_ref().map_or((0, 0), |lease| lease.cells));
        let more = |taken: u32| i64::from(used) - i64::from(taken);
        if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
            tenant.cells.settle(now, more(cells.0));
        }
        if let Some(own) = self.agents.get_mut(&agent) {
            own.cells.settle(now, more(cells.1));
        }
        self.sights.push(if used > cells.0.max(cells.1) { Sight::UsedMore } else { Sight::UsedLess });
        Ok(())
    }

    pub(super) fn ended(
        &mut self,
        key: &TaskKey,
        token: Token,
        n: u32,
        outcome: &Outcome,
        failure: Option<&Failure>,
        wake_at: Option<u64>,
    ) -> Result<(), String> {
        self.report(key, token, n)?;
        self.let_go(key, token)?;
        let known = self.known(key)?;
        (known.vanished, known.clocked.begun) = (0, true);
        match (outcome, failure) {
            (_, Some(failure)) => self.failed(key, failure)?,
            (Outcome::Completed { result }, None) => {
                self.gathered(key, result)?;
                self.known(key)?.result = Some(result.clone());
                self.over(key, Phase::Completed);
            }
            (Outcome::Snooze { .. }, None) => {
                let due = wake_at.ok_or("a snooze without an end")?;
                self.known(key)?.place = Place::Sleeping { due, retry: false };
                self.sights.push(Sight::Snoozed);
            }
            (Outcome::Wait(WaitFor::Message { place, signal, within_ms }), None) => {
                ensure!(wake_at.is_some() == within_ms.is_some(), "a wait that ends otherwise than it says");
                self.waits_for_message(key, *place, signal.as_deref(), wake_at)?;
            }
            (Outcome::Wait(WaitFor::Time { place, .. }), None) => {
                self.waits_for_time(key, *place, wake_at.ok_or("a sleep without an end")?)?;
            }
            (Outcome::Wait(wait), None) => {
                let own = self.known(key)?.children.clone();
                let mut awaited: BTreeSet<TaskId> = match wait {
                    WaitFor::AllChildren => own.into_iter().collect(),
                    WaitFor::Children(ids) => ids.iter().filter(|id| own.contains(id)).cloned().collect(),
                    _ => BTreeSet::new(),
                };
                awaited.retain(|id| !self.tasks[&of(key, id)].is_over());
                let known = self.known(key)?;
                known.resumes = awaited.is_empty() && known.news;
                known.place = if awaited.is_empty() { Place::Queued } else { Place::Awaiting(awaited) };
            }
            (Outcome::Failed { .. }, None) => return Err("a failure without what follows".to_owned()),
        }
        self.touch(key);
        Ok(())
    }

    /// A task is terminal: its parent may have waited for it.
    pub(super) fn over(&mut self, key: &TaskKey, phase: Phase) {
        let (rev, wall) = (self.rev, self.wall);
        let Some(known) = self.tasks.get_mut(key) else { return };
        known.place = Place::Over(phase);
        known.ended = Some(wall);
        known.rev = rev;
        let parent = known.parent.clone().map(|parent| of(key, &parent));
        let parent = parent.and_then(|parent| self.tasks.get_mut(&parent));
        if let Some(parent) = parent {
            parent.news = true;
            if let Place::Awaiting(awaited) = &mut parent.place
                && awaited.remove(&key.id)
                && awaited.is_empty()
            {
                parent.place = Place::Queued;
                parent.resumes = true;
                parent.rev = rev;
            }
        }
        // Nothing lives in the tree any more: there is nothing to pause.
        let root = self.tasks.get(key).map(|known| of(key, &known.root));
        if let Some(root) = root.filter(|root| self.paused.contains(root))
            && !self.lives(&root)
        {
            self.paused.remove(&root);
        }
    }

    pub(super) fn cancelled(&mut self, key: &TaskKey) -> Result<(), String> {
        if !self.tasks.contains_key(key) {
            self.tombstones.insert(key.clone());
            self.sights.push(Sight::Tombstone);
            return Ok(());
        }
        let mut next = vec![key.clone()];
        while let Some(key) = next.pop() {
            let Some(known) = self.tasks.get(&key) else { continue };
            next.extend(known.children.iter().map(|id| of(&key, id)));
            let lease = known.lease.as_ref().map(|l| l.token);
            if known.is_over() {
                continue;
            }
            if let Some(token) = lease {
                self.let_go(&key, token)?;
                self.sights.push(Sight::CancelledRunning);
            }
            if matches!(self.known(&key)?.place, Place::Delayed(_)) {
                self.sights.push(Sight::CancelledDelayed);
            }
            let known = self.known(&key)?;
            known.resumes = false;
            known.refusal = Some(Code::Cancelled);
            self.over(&key, Phase::Cancelled);
        }
        Ok(())
    }
}
