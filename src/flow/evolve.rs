//! The only thing that changes state: the same live, in replay and in a standby.
//!
//! `evolve` trusts the record (it was decided, or is in the journal) but not blindly: a record that
//! does not fit the state is a typed error that stops the shard.

mod admit;
mod cancel;
mod history;
mod lease;
mod limits;
mod memory;
mod settle;

use super::{
    entry::{LastEnd, Lease, Stored, Task},
    limiter::Limiter,
    record::{Hash, Record, What},
    state::{Agent, Open, Policy, State, Tenant},
    tasks::Slot,
};
use crate::task::{
    AgentName, BodyHash, Code, IllegalTransition, InstanceId, Millis, Outcome, Payload, Plan, Step, TaskKey,
    TenantName, Token,
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
    /// A message or a step that does not follow.
    #[error("{0} has another {1:?}")]
    History(TaskKey, What),
    /// A payload carried on that the task does not have.
    #[error("{0} has no such {1:?}")]
    NotThere(TaskKey, What),
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

/// A lease that is over and was not ended by its own report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Which.
    pub token: Token,
    /// Of whom.
    pub agent: AgentName,
    /// Which process.
    pub instance: InstanceId,
    /// Why.
    pub code: Code,
}

/// What a record changed, for effects and the index. Slots stay what they are until the next journal message.
#[derive(Debug, Default)]
pub struct Changes {
    /// Tasks that look different now.
    pub touched: Vec<Slot>,
    /// Tasks that became terminal.
    pub ended: Vec<Slot>,
    /// Those of them that had results of steps outside of the journal.
    pub kept: Vec<Slot>,
    /// See [`Revoked`].
    pub revoked: Vec<Revoked>,
    /// The result of a completed task.
    pub result: Option<(Slot, Payload)>,
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
                // A shipped one is never away.
                None => match Plan::shipped().into_iter().find(|(shipped, _)| *shipped == name.as_str()) {
                    Some((_, plan)) => state.plans.insert(name.clone(), (plan, *kv_rev)),
                    None => state.plans.remove(name),
                },
            };
            state.refresh_plans();
        }
        Record::TenantSet { name, settings, kv_rev } => {
            state.set_tenant(name, settings.as_ref(), *kv_rev, &mut changes)?;
        }
        Record::AgentSet { name, settings, kv_rev } => {
            state.set_agent(name, settings.as_ref(), *kv_rev, &mut changes)?;
        }
        Record::AllSet { settings, kv_rev } => {
            state.all = (*settings, *kv_rev);
            if settings.stopped {
                state.stop_where(|_| true, &mut changes)?;
            }
        }
        Record::TreeSet { key, paused } => {
            let slot = state.slot_of(key)?;
            state.set_tree(slot, *paused, &mut changes)?;
        }
        Record::ScheduleSet { .. } | Record::ScheduleFired { .. } | Record::SchedulePlanned { .. } => {
            state.evolve_schedule(record);
        }
        Record::Submitted { tenant, admission } => {
            let tenant = state.tenant_number(tenant);
            state.admit(tenant, admission, &mut changes)?;
        }
        Record::Spawned { key, token, n, children } => {
            let slot = state.slot_of(key)?;
            state.reported(slot, *token, *n)?;
            let tenant = state.tasks[slot].tenant;
            for admission in children {
                state.admit(tenant, admission, &mut changes)?;
            }
            state.touch(slot, &mut changes);
        }
        Record::Told { key, nonce, seq, signal, from, message } => {
            let slot = state.slot_of(key)?;
            let letter =
                history::Letter { nonce, seq: *seq, signal: signal.as_deref(), from: from.as_deref() };
            state.told(slot, letter, message, &mut changes)?;
        }
        Record::Stepped { key, token, n, step } => {
            let slot = state.slot_of(key)?;
            state.reported(slot, *token, *n)?;
            if let Some(step) = step {
                state.stepped(slot, step)?;
            }
        }
        Record::Dispatched { key, attempt, token, instance, lease_ms, resume } => {
            let slot = state.slot_of(key)?;
            state.dispatch(slot, *attempt, *token, instance, *lease_ms, *resume)?;
            state.touch(slot, &mut changes);
        }
        Record::Withdrawn { key, token, vanished, failure } => {
            let slot = state.slot_of(key)?;
            state.revoke(slot, *token, Code::OfferLost, &mut changes)?;
            state.tasks[slot].ran_mut().vanished += u32::from(*vanished);
            match failure {
                Some(failure) => state.fail(slot, failure, &mut changes)?,
                None => {
                    state.step(slot, Step::Withdraw)?;
                    state.enqueue(slot);
                }
            }
            state.touch(slot, &mut changes);
        }
        Record::Ended { key, token, n, last_event, outcome, said, failure, wake_at, used } => {
            let slot = state.slot_of(key)?;
            state.reported(slot, *token, *n)?;
            if let Some(used) = used {
                state.settle_cells(slot, *used);
            }
            state.release(slot, *token, true)?;
            let ran = state.tasks[slot].ran_mut();
            ran.last_end = Some(LastEnd { token: *token, n: *n, outcome: *said });
            ran.last_event = *last_event;
            ran.vanished = 0;
            state.settle(slot, outcome, failure.as_ref(), *wake_at, &mut changes)?;
            state.touch(slot, &mut changes);
        }
        Record::LeaseLost { key, token, failure } => {
            let slot = state.slot_of(key)?;
            state.revoke(slot, *token, Code::LeaseLost, &mut changes)?;
            state.tasks[slot].ran_mut().vanished = 0;
            state.fail(slot, failure, &mut changes)?;
            state.touch(slot, &mut changes);
        }
        Record::TimedOut { key, token, failure } => {
            let slot = state.slot_of(key)?;
            state.revoke(slot, *token, Code::TryTimeout, &mut changes)?;
            state.tasks[slot].ran_mut().vanished = 0;
            state.fail(slot, failure, &mut changes)?;
            state.touch(slot, &mut changes);
        }
        Record::Expired { key, refusal } => {
            let slot = state.slot_of(key)?;
            state.expire(slot, refusal, &mut changes)?;
        }
        Record::Woken { key } => {
            let slot = state.slot_of(key)?;
            match state.tasks[slot].is_held() {
                true => state.may_start(slot),
                false => {
                    state.time_passed(slot);
                    state.wake(slot, false)?;
                }
            }
            state.touch(slot, &mut changes);
        }
        Record::Cancelled { key, reason } => match state.find(key) {
            Some(slot) => state.cancel(slot, reason, &mut changes)?,
            None => state.tombstone(key, reason),
        },
        Record::Carried { key, what, payload } => {
            let slot = state.slot_of(key)?;
            state.carried(slot, *what, payload)?;
        }
        Record::Permits { tenant, agent, permit, starts, used_ms } => {
            let tenant = state.tenant_number(tenant);
            let agent = state.agent_number(agent);
            state.set_permit(tenant, agent, *permit, *starts, *used_ms);
        }
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
        self.line_up_leaving();
    }

    /// The tenant's number; it is known from now on.
    fn tenant_number(&mut self, name: &TenantName) -> u32 {
        if let Some(number) = self.tenants.number(name) {
            return number;
        }
        let plan = self.plan_of(name).unwrap_or_else(Plan::free);
        let (mut rate, mut cells) = (Limiter::default(), Limiter::default());
        rate.set_quota(Some(plan.rate_quota()), self.now);
        cells.set_quota(plan.cell_quota(), self.now);
        let tenant = Tenant {
            settings: None,
            kv_rev: 0,
            rate,
            cells,
            forgotten: self.departed,
            idle_since: None,
            plan,
            in_flight: 0,
            permits: None,
            backlog: 0,
            tasks: 0,
            agents: Vec::new(),
            memory: Default::default(),
            open: Open::default(),
        };
        self.tenants.insert(name.clone(), tenant)
    }

    fn agent_number(&mut self, name: &AgentName) -> u32 {
        let known = self.agents.number(name);
        known.unwrap_or_else(|| self.agents.insert(name.clone(), Agent::default()))
    }

    fn slot_of(&self, key: &TaskKey) -> Result<Slot, Misfit> {
        self.find(key).ok_or_else(|| Misfit::NoTask(key.clone()))
    }

    fn no_lease(&self, slot: Slot) -> Misfit {
        Misfit::NoLease(self.key_of(&self.tasks[slot]))
    }

    fn lease_mut(&mut self, slot: Slot, token: Token) -> Option<&mut Lease> {
        let lease = self.tasks[slot].ran.as_mut()?.lease.as_deref_mut()?;
        (lease.token == token).then_some(lease)
    }

    /// The next report of a lease.
    fn reported(&mut self, slot: Slot, token: Token, n: u32) -> Result<(), Misfit> {
        let last = match self.lease_mut(slot, token) {
            Some(lease) if n == lease.n + 1 => {
                lease.n = n;
                return Ok(());
            }
            Some(lease) => lease.n,
            None => return Err(self.no_lease(slot)),
        };
        Err(Misfit::Order(self.key_of(&self.tasks[slot]), n, last))
    }

    fn touch(&mut self, slot: Slot, changes: &mut Changes) {
        let rev = self.rev;
        self.tasks[slot].rev = rev;
        changes.touched.push(slot);
    }

    /// Moves a task by the transition table, keeping the backlog counts.
    fn step(&mut self, slot: Slot, step: Step) -> Result<&mut Task, Misfit> {
        let task = &self.tasks[slot];
        let phase = match task.phase.after(step) {
            Ok(phase) => phase,
            Err(error) => return Err(Misfit::Illegal(self.key_of(task), error)),
        };
        let (before, tenant) = (task.in_backlog(), task.tenant);
        self.bounds.take(slot, task);
        let task = &mut self.tasks[slot];
        task.phase = phase;
        // An offer that was taken back has started nothing; whatever else ended an attempt has.
        if task.ran.is_some()
            && !matches!(step, Step::Dispatch | Step::Withdraw)
            && let Some(timing) = task.timing_mut()
        {
            timing.ttl_at = None;
        }
        self.bounds.put(slot, task);
        let after = task.in_backlog();
        self.count_backlog(tenant, before, after);
        Ok(&mut self.tasks[slot])
    }

    fn count_backlog(&mut self, tenant: u32, before: bool, after: bool) {
        if before == after {
            return;
        }
        let tenant = self.tenant_at(tenant);
        if after {
            tenant.backlog += 1;
            self.backlog += 1;
        } else {
            tenant.backlog -= 1;
            self.backlog -= 1;
        }
    }

    /// The input is needed no more.
    fn drop_input(&mut self, slot: Slot) {
        let input = std::mem::take(&mut self.tasks[slot].input);
        self.references.remove(input);
        self.resident.drop_input(slot);
    }

    /// The result is needed no more.
    fn drop_result(&mut self, slot: Slot) {
        if self.tasks[slot].more().result.is_none() {
            return;
        }
        if let Some(result) = self.tasks[slot].more_mut().result.take() {
            self.references.remove(result);
            self.resident.drop(slot, What::Result);
        }
    }

    /// A payload was written again.
    fn carried(&mut self, slot: Slot, what: What, payload: &Payload) -> Result<(), Misfit> {
        let rev = self.rev;
        let task = &self.tasks[slot];
        let Some(from) = task.stored(what).filter(|from| !from.is_empty() && from.fits(payload)) else {
            return Err(Misfit::NotThere(self.key_of(task), what));
        };
        let to: Stored = from.moved(rev);
        let task = &mut self.tasks[slot];
        match what {
            What::Input => task.input = to,
            What::Result => task.more_mut().result = Some(to),
            What::Message(_) | What::Step(_) => task.history_mut().carried(what, to),
        }
        self.references.add(to);
        self.references.remove(from);
        Ok(())
    }
}
