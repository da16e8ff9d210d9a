//! The only thing that changes state: the same live, in replay and in a standby.
//!
//! `evolve` trusts the record (it was decided, or is in the journal) but not blindly: a record that
//! does not fit the state is a typed error that stops the shard.

use super::{
    fair::RESUMED,
    limiter::RateState,
    record::{Admission, AfterFailure, Failure, Hash, Origin, Record},
    state::{LastEnd, Lease, Policy, State, Task, Tenant},
};
use crate::task::{
    AgentName, BodyHash, Code, IllegalTransition, InstanceId, Millis, Outcome, Payload, Phase, Plan,
    Priority, Refusal, Spec, Step, TaskId, TaskKey, TenantName, Token, WaitFor,
};

/// How many failed tries a task remembers.
const KEEP_FAILURES: usize = 10;
/// By how many of its retries a dead task recognises a repeated command.
const KEEP_RETRIES: usize = 64;

/// A record that does not fit the state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// A task the state does not know.
    #[error("{0} is not known")]
    NoTask(TaskKey),
    /// A lease the task does not have.
    #[error("{0} has no such lease")]
    NoLease(TaskKey),
    /// An id that is taken.
    #[error("{0} exists already")]
    Exists(TaskKey),
    /// A step its phase does not allow.
    #[error("{0}: {1}")]
    Illegal(TaskKey, IllegalTransition),
    /// A record number out of order.
    #[error("{0}: report {1} does not follow {2}")]
    Order(TaskKey, u32, u32),
}

/// When a record is written.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Logical time.
    pub now: Millis,
    /// Wall clock, Unix milliseconds.
    pub wall: Millis,
    /// Journal revision.
    pub rev: u64,
    /// Epoch of the writer.
    pub epoch: u64,
}

/// What a record changed, for effects and the index.
#[derive(Debug, Default)]
pub struct Changes {
    /// Tasks that look different now.
    pub touched: Vec<TaskKey>,
    /// Tasks that became terminal.
    pub ended: Vec<TaskKey>,
    /// Leases that are over and were not ended by their own report.
    pub revoked: Vec<(Token, AgentName, InstanceId, Code)>,
    /// The result of a completed task.
    pub result: Option<(TaskKey, Payload)>,
}

/// Applies one record.
pub fn evolve(state: &mut State, record: &Record, at: At) -> Result<Changes, Misfit> {
    if at.rev != state.rev || state.now != at.now {
        state.now = at.now;
        state.wall = at.wall;
        state.rev = at.rev;
        state.epoch = at.epoch;
        state.forget_due();
    }
    let mut changes = Changes::default();
    match record {
        Record::Opened { policy, .. } => state.set_policy(policy),
        Record::PlanSet { name, plan, kv_rev } => {
            match plan {
                Some(plan) => state.plans.insert(name.clone(), (plan.clone(), *kv_rev)),
                None => state.plans.remove(name),
            };
            state.refresh_plans();
        }
        Record::TenantSet { name, settings, kv_rev } => {
            let tenant = state.tenant_mut(name);
            tenant.settings = settings.clone();
            tenant.kv_rev = *kv_rev;
            state.refresh_plan(name);
        }
        Record::Submitted { tenant, admission } => {
            let key = TaskKey { tenant: tenant.clone(), id: admission.task.clone() };
            state.admit(key, admission, &mut changes)?;
        }
        Record::Spawned { key, token, n, children } => {
            let lease = state.lease_mut(key, *token)?;
            if *n != lease.n + 1 {
                return Err(Misfit::Order(key.clone(), *n, lease.n));
            }
            lease.n = *n;
            for admission in children {
                let child = TaskKey { tenant: key.tenant.clone(), id: admission.task.clone() };
                state.admit(child, admission, &mut changes)?;
            }
            state.touch(key, &mut changes);
        }
        Record::Dispatched { key, attempt, token, instance, lease_ms, resume } => {
            state.dispatch(key, *attempt, *token, instance, *lease_ms, *resume)?;
            state.touch(key, &mut changes);
        }
        Record::Withdrawn { key, token, vanished, failure } => {
            state.revoke(key, *token, Code::OfferLost, &mut changes)?;
            state.task_mut(key)?.vanished += u32::from(*vanished);
            match failure {
                Some(failure) => state.fail(key, failure, &mut changes)?,
                None => {
                    state.step(key, Step::Withdraw)?;
                    state.enqueue(key);
                }
            }
            state.touch(key, &mut changes);
        }
        Record::Ended { key, token, n, last_event, outcome, said, failure, wake_at } => {
            let lease = state.lease_mut(key, *token)?;
            if *n != lease.n + 1 {
                return Err(Misfit::Order(key.clone(), *n, lease.n));
            }
            state.release(key, *token, true)?;
            let task = state.task_mut(key)?;
            task.last_end = Some(LastEnd { token: *token, n: *n, outcome: *said });
            task.last_event = *last_event;
            task.vanished = 0;
            state.settle(key, outcome, failure.as_ref(), *wake_at, &mut changes)?;
            state.touch(key, &mut changes);
        }
        Record::LeaseLost { key, token, failure } => {
            state.revoke(key, *token, Code::LeaseLost, &mut changes)?;
            state.task_mut(key)?.vanished = 0;
            state.fail(key, failure, &mut changes)?;
            state.touch(key, &mut changes);
        }
        Record::Woken { key } => {
            state.wake(key, false)?;
            state.touch(key, &mut changes);
        }
        Record::Cancelled { key, reason } => state.cancel(key, reason, &mut changes)?,
        Record::Refused { .. } => {}
    }
    Ok(changes)
}

/// Identifies what an end said.
pub fn outcome_hash(outcome: &Outcome) -> BodyHash {
    let hash = Hash::of(&crate::wire::codec::pack(outcome));
    let mut out = [0; 16];
    out.copy_from_slice(&hash.0[..16]);
    BodyHash(out)
}

impl State {
    fn set_policy(&mut self, policy: &Policy) {
        self.policy = policy.clone();
        for (name, plan) in Plan::shipped() {
            // The shipped names are names.
            if let Ok(name) = name.parse() {
                self.plans.entry(name).or_insert((plan, 0));
            }
        }
        self.refresh_plans();
    }

    fn refresh_plans(&mut self) {
        let names: Vec<TenantName> = self.tenants.keys().cloned().collect();
        for name in names {
            self.refresh_plan(&name);
        }
    }

    fn refresh_plan(&mut self, name: &TenantName) {
        let plan = self.plan_of(name).unwrap_or_else(Plan::free);
        let now = self.now;
        if let Some(tenant) = self.tenants.get_mut(name) {
            tenant.rate_at = tenant.rate.peek(plan.rate, plan.burst, now).err().unwrap_or(now);
            tenant.plan = plan;
        }
        self.refresh(name);
    }

    fn tenant_mut(&mut self, name: &TenantName) -> &mut Tenant {
        if !self.tenants.contains_key(name) {
            let plan = self.plan_of(name).unwrap_or_else(Plan::free);
            let rate_at = RateState::default().peek(plan.rate, plan.burst, self.now).err().unwrap_or(0);
            let tenant = Tenant {
                settings: None,
                kv_rev: 0,
                rate: Default::default(),
                memory: Default::default(),
                forgotten: None,
                plan,
                in_flight: Default::default(),
                backlog: 0,
                agents: Default::default(),
                rate_at,
            };
            self.tenants.insert(name.clone(), tenant);
        }
        // Inserted above if it was missing.
        self.tenants.get_mut(name).unwrap_or_else(|| unreachable!("tenant just inserted"))
    }

    fn task_mut(&mut self, key: &TaskKey) -> Result<&mut Task, Misfit> {
        self.tasks.get_mut(key).ok_or_else(|| Misfit::NoTask(key.clone()))
    }

    fn lease_mut(&mut self, key: &TaskKey, token: Token) -> Result<&mut Lease, Misfit> {
        let task = self.tasks.get_mut(key).ok_or_else(|| Misfit::NoTask(key.clone()))?;
        task.lease.as_mut().filter(|l| l.token == token).ok_or_else(|| Misfit::NoLease(key.clone()))
    }

    fn touch(&mut self, key: &TaskKey, changes: &mut Changes) {
        let rev = self.rev;
        if let Some(task) = self.tasks.get_mut(key) {
            task.rev = rev;
            changes.touched.push(key.clone());
        }
    }

    /// Moves a task by the transition table, keeping the backlog counts.
    fn step(&mut self, key: &TaskKey, step: Step) -> Result<&mut Task, Misfit> {
        let task = self.tasks.get_mut(key).ok_or_else(|| Misfit::NoTask(key.clone()))?;
        let before = task.in_backlog();
        task.phase = task.phase.after(step).map_err(|e| Misfit::Illegal(key.clone(), e))?;
        let after = task.in_backlog();
        self.count_backlog(&key.tenant, before, after);
        self.task_mut(key)
    }

    fn count_backlog(&mut self, tenant: &TenantName, before: bool, after: bool) {
        if before == after {
            return;
        }
        let tenant = self.tenant_mut(tenant);
        if after {
            tenant.backlog += 1;
            self.backlog += 1;
        } else {
            tenant.backlog -= 1;
            self.backlog -= 1;
        }
    }

    fn admit(&mut self, key: TaskKey, admission: &Admission, changes: &mut Changes) -> Result<(), Misfit> {
        if let Some(known) = self.tasks.get(&key)
            && !known.tombstone
        {
            return Err(Misfit::Exists(key));
        }
        let phase = match &admission.refusal {
            None => Phase::Queued,
            Some(refusal) if refusal.code == Code::Cancelled => Phase::Cancelled,
            Some(_) => Phase::Rejected,
        };
        let mut spec = admission.spec.clone();
        if phase.is_terminal() {
            spec.input = Payload::default();
        }
        let order = self.next_order;
        self.next_order += 1;
        self.tenant_mut(&key.tenant);
        if let Origin::Child { parent, .. } = &admission.origin {
            let parent = TaskKey { tenant: key.tenant.clone(), id: parent.clone() };
            let parent = self.task_mut(&parent)?;
            parent.children.push(key.id.clone());
            parent.live_children += u32::from(!phase.is_terminal());
            parent.news |= phase.is_terminal();
        }
        let task = Task {
            spec,
            body_hash: admission.body_hash,
            origin: admission.origin.clone(),
            phase,
            attempt: 0,
            tries: 0,
            vanished: 0,
            lease: None,
            last_end: None,
            children: Vec::new(),
            live_children: 0,
            awaits: Default::default(),
            wake_at: None,
            order,
            resumed: false,
            news: false,
            retries: Default::default(),
            failures: Vec::new(),
            refusal: admission.refusal.clone(),
            result: None,
            created: self.wall,
            started: None,
            ended: phase.is_terminal().then_some(self.wall),
            rev: self.rev,
            last_event: 0,
            tombstone: false,
        };
        if let Origin::Root { retry_of: Some(dead), .. } = &admission.origin {
            let dead = TaskKey { tenant: key.tenant.clone(), id: dead.clone() };
            if let Some(dead) = self.tasks.get_mut(&dead) {
                dead.retries.push_back(key.id.clone());
                if dead.retries.len() > KEEP_RETRIES {
                    dead.retries.pop_front();
                }
            }
        }
        let was_tombstone = self.tasks.contains_key(&key);
        let root = TaskKey { tenant: key.tenant.clone(), id: task.root(&key.id).clone() };
        let backlog = task.in_backlog();
        self.tasks.insert(key.clone(), task);
        if phase.is_terminal() {
            changes.ended.push(key.clone());
            // A tombstone is lined up already; a refused child goes with its tree.
            if !was_tombstone && matches!(admission.origin, Origin::Root { .. }) {
                self.remember(&key);
            }
        } else {
            let tree = self.trees.entry(root).or_default();
            tree.total += 1;
            tree.live += 1;
            self.count_backlog(&key.tenant, false, backlog);
            self.enqueue(&key);
        }
        changes.touched.push(key);
        Ok(())
    }

    /// Puts a queued task into its lane.
    fn enqueue(&mut self, key: &TaskKey) {
        let Some(task) = self.tasks.get(key) else { return };
        let (agent, place) = (task.spec.agent.clone(), task.place(&key.id));
        self.queues.entry(agent.clone()).or_default().push(&key.tenant, place);
        self.tenant_mut(&key.tenant).agents.insert(agent);
        self.refresh(&key.tenant);
    }

    /// Takes a queued task out of its lane.
    fn dequeue(&mut self, key: &TaskKey) {
        let Some(task) = self.tasks.get(key) else { return };
        if let Some(queue) = self.queues.get_mut(&task.spec.agent) {
            queue.remove(&key.tenant, &task.place(&key.id));
        }
        self.refresh(&key.tenant);
    }

    fn dispatch(
        &mut self,
        key: &TaskKey,
        attempt: u32,
        token: Token,
        instance: &InstanceId,
        lease_ms: Millis,
        resume: bool,
    ) -> Result<(), Misfit> {
        let (now, wall) = (self.now, self.wall);
        let known = self.tasks.get(key).ok_or_else(|| Misfit::NoTask(key.clone()))?;
        let (agent, place) = (known.spec.agent.clone(), known.place(&key.id));
        self.step(key, Step::Dispatch)?;
        let tenant = self.tenant_mut(&key.tenant);
        let weight = tenant.plan.weight;
        tenant.in_flight.insert(token);
        if !resume {
            let (rate, burst) = (tenant.plan.rate, tenant.plan.burst);
            tenant.rate.charge(rate, burst, now);
            tenant.rate_at = tenant.rate.peek(rate, burst, now).err().unwrap_or(now);
        }
        let queue = self.queues.entry(agent.clone()).or_default();
        let charge = queue.start(&key.tenant, &place, token, weight);
        self.leases.insert(token, key.clone());
        self.instances.entry((agent, instance.clone())).or_default().insert(token);
        let task = self.task_mut(key)?;
        task.attempt = attempt;
        task.resumed = false;
        task.news = false;
        task.started.get_or_insert(wall);
        task.lease =
            Some(Lease { token, instance: instance.clone(), n: 0, lease_ms, since: now, charge, resume });
        self.refresh(&key.tenant);
        Ok(())
    }

    /// Takes the lease away from the task; slot and lane are settled.
    fn release(&mut self, key: &TaskKey, token: Token, ran: bool) -> Result<Lease, Misfit> {
        let now = self.now;
        let task = self.tasks.get_mut(key).ok_or_else(|| Misfit::NoTask(key.clone()))?;
        let lease = match task.lease.take() {
            Some(lease) if lease.token == token => lease,
            other => {
                task.lease = other;
                return Err(Misfit::NoLease(key.clone()));
            }
        };
        let agent = task.spec.agent.clone();
        self.leases.remove(&token);
        let holder = (agent.clone(), lease.instance.clone());
        if let Some(tokens) = self.instances.get_mut(&holder) {
            tokens.remove(&token);
            if tokens.is_empty() {
                self.instances.remove(&holder);
            }
        }
        let tenant = self.tenant_mut(&key.tenant);
        tenant.in_flight.remove(&token);
        let weight = tenant.plan.weight;
        if let Some(queue) = self.queues.get_mut(&agent) {
            let spent = ran.then(|| now.saturating_sub(lease.since));
            queue.settle(&key.tenant, token, lease.charge, spent, weight);
        }
        self.refresh(&key.tenant);
        Ok(lease)
    }

    /// Releases a lease its holder did not end.
    fn revoke(
        &mut self,
        key: &TaskKey,
        token: Token,
        code: Code,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let lease = self.release(key, token, code != Code::OfferLost)?;
        let task = self.task_mut(key)?;
        // A resume that was withdrawn or lost is still first in line.
        task.resumed = lease.resume && code == Code::OfferLost;
        changes.revoked.push((token, task.spec.agent.clone(), lease.instance, code));
        Ok(())
    }

    /// A try went wrong.
    fn fail(&mut self, key: &TaskKey, failure: &Failure, changes: &mut Changes) -> Result<(), Misfit> {
        let step = match failure.next {
            AfterFailure::RetryAt(_) => Step::Retry,
            AfterFailure::Dead => Step::Fail,
        };
        self.task_mut(key)?.resumed = false;
        let task = self.step(key, step)?;
        task.tries = failure.tries;
        task.failures.push(failure.what.clone());
        if task.failures.len() > KEEP_FAILURES {
            task.failures.remove(0);
        }
        match failure.next {
            AfterFailure::RetryAt(due) => {
                task.wake_at = Some(due);
                self.timers.insert((due, key.clone()));
            }
            AfterFailure::Dead => {
                task.refusal = Some(Refusal::new(failure.what.code, failure.what.message.clone()));
                self.end(key, changes);
            }
        }
        Ok(())
    }

    /// What follows from an attempt's own end.
    fn settle(
        &mut self,
        key: &TaskKey,
        outcome: &Outcome,
        failure: Option<&Failure>,
        wake_at: Option<Millis>,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        if let Some(failure) = failure {
            return self.fail(key, failure, changes);
        }
        match outcome {
            Outcome::Completed { result } => {
                let task = self.step(key, Step::Complete)?;
                task.result = Some(result.clone());
                changes.result = Some((key.clone(), result.clone()));
                self.end(key, changes);
            }
            Outcome::Snooze { .. } | Outcome::Failed { .. } => {
                let due = wake_at.unwrap_or(self.now);
                let task = self.step(key, Step::Wait)?;
                task.resumed = false;
                task.wake_at = Some(due);
                self.timers.insert((due, key.clone()));
            }
            Outcome::Wait(wait) => {
                let live = self.live_children_of(key, wait);
                let task = self.step(key, Step::Wait)?;
                task.awaits = live;
                if task.awaits.is_empty() {
                    // Free of rate only if there was something to wait for; else a handler that waits
                    // for nothing, again and again, would run unlimited and before everybody else.
                    let resumed = task.news;
                    self.wake(key, resumed)?;
                }
            }
        }
        Ok(())
    }

    fn live_children_of(&self, key: &TaskKey, wait: &WaitFor) -> std::collections::BTreeSet<TaskId> {
        let Some(task) = self.tasks.get(key) else { return Default::default() };
        let is_live = |id: &&TaskId| {
            let child = TaskKey { tenant: key.tenant.clone(), id: (*id).clone() };
            self.tasks.get(&child).is_some_and(|c| !c.phase.is_terminal() && c.parent() == Some(&key.id))
        };
        match wait {
            WaitFor::AllChildren => task.children.iter().filter(is_live).cloned().collect(),
            WaitFor::Children(ids) => ids.iter().filter(is_live).cloned().collect(),
        }
    }

    /// Back into the queue: after a wait for children first in line, after a time in its old place.
    fn wake(&mut self, key: &TaskKey, resumed: bool) -> Result<(), Misfit> {
        // `resumed` decides whether it counts as backlog, so it is set before the step.
        let task = self.task_mut(key)?;
        let before = task.in_backlog();
        task.resumed = resumed;
        if let Some(due) = task.wake_at.take() {
            self.timers.remove(&(due, key.clone()));
        }
        let after = self.tasks.get(key).is_some_and(Task::in_backlog);
        self.count_backlog(&key.tenant, before, after);
        self.step(key, Step::Wake)?;
        self.enqueue(key);
        Ok(())
    }

    /// A task has become terminal: free what it held, tell its parent.
    fn end(&mut self, key: &TaskKey, changes: &mut Changes) {
        let wall = self.wall;
        changes.ended.push(key.clone());
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.ended = Some(wall);
        task.awaits.clear();
        if let Some(due) = task.wake_at.take() {
            self.timers.remove(&(due, key.clone()));
        }
        if task.phase != Phase::Failed {
            task.spec.input = Payload::default();
        }
        let parent = task.parent().map(|id| TaskKey { tenant: key.tenant.clone(), id: id.clone() });
        let root = TaskKey { tenant: key.tenant.clone(), id: task.root(&key.id).clone() };
        let parent_lives = parent.as_ref().is_some_and(|p| self.child_ended(p, key, changes));
        if !parent_lives && let Some(task) = self.tasks.get_mut(key) {
            task.result = None;
        }
        self.release_children(key);
        let Some(tree) = self.trees.get_mut(&root) else { return };
        tree.live -= 1;
        if tree.live == 0 {
            self.trees.remove(&root);
            self.remember_tree(root);
        }
    }

    /// Nothing lives in the tree any more: its tasks are lined up for being forgotten. Not before, so
    /// that a cancel finds its way from any task to everything below it.
    fn remember_tree(&mut self, root: TaskKey) {
        let mut next = vec![root];
        while let Some(key) = next.pop() {
            let Some(task) = self.tasks.get(&key) else { continue };
            next.extend(
                task.children.iter().map(|id| TaskKey { tenant: key.tenant.clone(), id: id.clone() }),
            );
            self.remember(&key);
        }
    }

    /// Tells a parent that a child is terminal. Returns whether the parent lives.
    fn child_ended(&mut self, parent: &TaskKey, child: &TaskKey, changes: &mut Changes) -> bool {
        let Some(task) = self.tasks.get_mut(parent) else { return false };
        task.live_children = task.live_children.saturating_sub(1);
        task.news = true;
        let lives = !task.phase.is_terminal();
        let awaited = task.awaits.remove(&child.id);
        if awaited && task.awaits.is_empty() && task.phase == Phase::Waiting {
            // Waiting → queued is in the table, so this can't misfit.
            if self.wake(parent, true).is_ok() {
                self.touch(parent, changes);
            }
        }
        lives
    }

    /// A terminal parent asks for nothing any more: the results of its ended children may go.
    fn release_children(&mut self, key: &TaskKey) {
        let children = self.tasks.get(key).map(|t| t.children.clone()).unwrap_or_default();
        for id in children {
            let child = TaskKey { tenant: key.tenant.clone(), id };
            if let Some(task) = self.tasks.get_mut(&child)
                && task.phase.is_terminal()
            {
                task.result = None;
            }
        }
    }

    /// Lines a task up for being forgotten.
    fn remember(&mut self, key: &TaskKey) {
        let now = self.now;
        let max = self.policy.dedupe_max as usize;
        let tenant = self.tenant_mut(&key.tenant);
        tenant.memory.push_back((now, key.id.clone()));
        // What ended in this very message still has to be told.
        while self
            .tenants
            .get(&key.tenant)
            .is_some_and(|t| t.memory.len() > max && t.memory.front().is_some_and(|(ended, _)| *ended < now))
        {
            self.forget_oldest(&key.tenant);
        }
    }

    fn forget_oldest(&mut self, name: &TenantName) {
        let Some((_, id)) = self.tenants.get_mut(name).and_then(|t| t.memory.pop_front()) else { return };
        let key = TaskKey { tenant: name.clone(), id };
        let Some(task) = self.tasks.remove(&key) else { return };
        if let Origin::Root { first_try, .. } = task.origin
            && let Some(tenant) = self.tenants.get_mut(name)
        {
            tenant.forgotten = tenant.forgotten.max(Some(first_try));
        }
    }

    /// Forgets what is older than the dedupe horizon.
    fn forget_due(&mut self) {
        let Some(before) = self.now.checked_sub(self.policy.dedupe_horizon_ms) else { return };
        if before < self.next_forget {
            return;
        }
        // A look at each tenant's oldest entry, at most once a minute.
        self.next_forget = before + 60_000;
        let mut names: Vec<TenantName> = self.tenants.keys().cloned().collect();
        names.sort();
        for name in names {
            while self
                .tenants
                .get(&name)
                .and_then(|t| t.memory.front())
                .is_some_and(|(ended, _)| *ended <= before)
            {
                self.forget_oldest(&name);
            }
        }
    }

    /// Cancels the task and everything below it, top down.
    fn cancel(&mut self, top: &TaskKey, reason: &str, changes: &mut Changes) -> Result<(), Misfit> {
        if !self.tasks.contains_key(top) {
            self.tombstone(top, reason);
            return Ok(());
        }
        let mut next = vec![top.clone()];
        while let Some(key) = next.pop() {
            let Some(task) = self.tasks.get(&key) else { continue };
            next.extend(
                task.children.iter().map(|id| TaskKey { tenant: key.tenant.clone(), id: id.clone() }),
            );
            match task.phase {
                Phase::Queued => self.dequeue(&key),
                Phase::Running => {
                    let token = task.lease.as_ref().map(|l| l.token);
                    if let Some(token) = token {
                        self.revoke(&key, token, Code::Cancelled, changes)?;
                    }
                }
                Phase::Waiting | Phase::Retrying => {}
                _ => continue,
            }
            let task = self.step(&key, Step::Cancel)?;
            task.resumed = false;
            task.refusal = Some(Refusal::new(Code::Cancelled, reason));
            self.end(&key, changes);
            self.touch(&key, changes);
        }
        Ok(())
    }

    /// Remembers a cancel whose submit has not come yet.
    fn tombstone(&mut self, key: &TaskKey, reason: &str) {
        let wall = self.wall;
        let spec = Spec {
            // A placeholder nobody sees: a tombstone is shown to no reader.
            agent: AgentName::new("none").unwrap_or_else(|_| unreachable!("a name by the grammar")),
            input: Payload::default(),
            priority: Priority::Normal,
            max_tries: None,
        };
        let task = Task {
            body_hash: spec.body_hash(),
            spec,
            // The owner's clock may be stepped: it must not move `TOO_OLD` when this is forgotten.
            origin: Origin::Root { first_try: 0, retry_of: None },
            phase: Phase::Cancelled,
            attempt: 0,
            tries: 0,
            vanished: 0,
            lease: None,
            last_end: None,
            children: Vec::new(),
            live_children: 0,
            awaits: Default::default(),
            wake_at: None,
            order: 0,
            resumed: false,
            news: false,
            retries: Default::default(),
            failures: Vec::new(),
            refusal: Some(Refusal::new(Code::Cancelled, reason)),
            result: None,
            created: wall,
            started: None,
            ended: Some(wall),
            rev: self.rev,
            last_event: 0,
            tombstone: true,
        };
        self.tenant_mut(&key.tenant);
        self.tasks.insert(key.clone(), task);
        self.remember(key);
    }
}

const _: () = assert!(RESUMED == 0, "resumed parents go first");
