//! The only thing that changes state: the same live, in replay and in a standby.
//!
//! `evolve` trusts the record (it was decided, or is in the journal) but not blindly: a record that
//! does not fit the state is a typed error that stops the shard.

mod admit;
mod cancel;
mod lease;
mod memory;
mod settle;

use super::{
    fair::RESUMED,
    limiter::RateState,
    record::{Hash, Record},
    state::{LastEnd, Lease, Policy, State, Task, Tenant},
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
        Record::Carried { .. } | Record::Refused { .. } => {}
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
}

const _: () = assert!(RESUMED == 0, "resumed parents go first");
