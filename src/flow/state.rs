//! The shard's state: what a replay of the journal gives, byte for byte.
//!
//! Primary data is what [`State::canonical`] encodes; everything under "derived" follows from it and
//! is kept so that no decision scans. Only [`super::evolve`] changes primary data.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    fair::{AgentQueue, Charge, Place, RESUMED, rank},
    limiter::RateState,
    record::{Hash, Origin},
    tasks::Tasks,
};
use crate::{
    task::{
        AgentName, Backoff, BodyHash, InstanceId, MAX_PAYLOAD_BYTES, Millis, Payload, Phase, Plan, PlanName,
        Refusal, Spec, TaskId, TaskKey, TenantName, TenantSettings, Token, TryFailure,
    },
    wire::subjects::Shard,
};

/// What `decide` needs to know of the installation; journaled when an owner opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The plan of a tenant nobody has set; `None`: such tenants are refused.
    pub default_plan: Option<PlanName>,
    /// Root tasks queued or retrying in the whole shard.
    pub backlog: u64,
    /// How long a terminal task's id is remembered, in milliseconds.
    pub dedupe_horizon_ms: Millis,
    /// How many terminal ids are remembered per tenant.
    pub dedupe_max: u64,
    /// Delays between tries.
    pub backoff: Backoff,
    /// How long an offer may stay unanswered, in milliseconds.
    pub offer_timeout_ms: Millis,
    /// Largest input or result, in bytes.
    pub max_payload: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            default_plan: PlanName::new("free").ok(),
            backlog: 2_000_000,
            dedupe_horizon_ms: 24 * 3_600_000,
            dedupe_max: 100_000,
            backoff: Backoff::default(),
            offer_timeout_ms: 5_000,
            max_payload: MAX_PAYLOAD_BYTES as u64,
        }
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

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// What it is to do; the input is dropped once nobody can ask for it.
    pub spec: Spec,
    /// What it was submitted with.
    pub body_hash: BodyHash,
    /// Where it came from.
    pub origin: Origin,
    /// Where it is.
    pub phase: Phase,
    /// Dispatches so far.
    pub attempt: u32,
    /// Tries lost so far.
    pub tries: u32,
    /// Offers lost with their instance since the last acceptance, in a row.
    pub vanished: u32,
    /// While running.
    pub lease: Option<Lease>,
    /// See [`LastEnd`].
    pub last_end: Option<LastEnd>,
    /// In order of spawn and index, rejected ones included.
    #[serde(deserialize_with = "crate::task::grown")]
    pub children: Vec<TaskId>,
    /// Children that are not terminal.
    pub live_children: u32,
    /// While waiting: the children still awaited.
    pub awaits: BTreeSet<TaskId>,
    /// While retrying or snoozing: logical time of the next try.
    pub wake_at: Option<Millis>,
    /// Place in the order of arrival.
    pub order: u64,
    /// Its wait is over: first in line, free of rate.
    pub resumed: bool,
    /// A child of it has ended since it was dispatched: what makes a wait that is over at once a resume.
    pub news: bool,
    /// The latest tasks that retry this dead one.
    #[serde(deserialize_with = "crate::task::grown")]
    pub retries: VecDeque<TaskId>,
    /// The last ten tries that went wrong.
    #[serde(deserialize_with = "crate::task::grown")]
    pub failures: Vec<TryFailure>,
    /// Why it is rejected, failed or cancelled.
    pub refusal: Option<Refusal>,
    /// Kept while a live parent may ask for it.
    pub result: Option<Payload>,
    /// Unix milliseconds.
    pub created: Millis,
    /// First dispatch, Unix milliseconds.
    pub started: Option<Millis>,
    /// Unix milliseconds.
    pub ended: Option<Millis>,
    /// Journal revision of the last change.
    pub rev: u64,
    /// Last event of the last ended attempt.
    pub last_event: u32,
    /// A cancel that came before its submit: an id, and nothing else of the task is known.
    pub tombstone: bool,
}

impl Task {
    /// A task as it enters, at this wall time and journal revision.
    pub(super) fn new(
        spec: Spec,
        body_hash: BodyHash,
        origin: Origin,
        phase: Phase,
        wall: Millis,
        rev: u64,
    ) -> Self {
        Self {
            spec,
            body_hash,
            origin,
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
            order: 0,
            resumed: false,
            news: false,
            retries: Default::default(),
            failures: Vec::new(),
            refusal: None,
            result: None,
            created: wall,
            started: None,
            ended: phase.is_terminal().then_some(wall),
            rev,
            last_event: 0,
            tombstone: false,
        }
    }

    /// The task it was spawned by.
    pub fn parent(&self) -> Option<&TaskId> {
        match &self.origin {
            Origin::Child { parent, .. } => Some(parent),
            Origin::Root { .. } => None,
        }
    }

    /// The root of its tree; `own` for a root.
    pub fn root<'a>(&'a self, own: &'a TaskId) -> &'a TaskId {
        match &self.origin {
            Origin::Child { root, .. } => root,
            Origin::Root { .. } => own,
        }
    }

    /// 0 for a root.
    pub fn depth(&self) -> u32 {
        match &self.origin {
            Origin::Child { depth, .. } => *depth,
            Origin::Root { .. } => 0,
        }
    }

    /// Where it stands in its lane while queued.
    pub fn place(&self, id: &TaskId) -> Place {
        let rank = if self.resumed { RESUMED } else { rank(self.spec.priority) };
        (rank, self.order, id.clone())
    }

    /// Whether it counts against its tenant's backlog.
    pub fn in_backlog(&self) -> bool {
        matches!(self.origin, Origin::Root { .. })
            && matches!(self.phase, Phase::Queued | Phase::Retrying)
            && !self.resumed
    }
}

/// A tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// What an operator said; absent: the default plan.
    pub settings: Option<TenantSettings>,
    /// Revision of the KV entry.
    pub kv_rev: u64,
    /// Its rate limiter.
    pub rate: RateState,
    /// Terminal tasks in the order they will be forgotten: (logical time of the end, id).
    pub memory: VecDeque<(Millis, TaskId)>,
    /// The highest first-try time among forgotten tasks, Unix milliseconds.
    pub forgotten: Option<Millis>,
    // derived
    /// The plan with overrides, as in force.
    pub plan: Plan,
    /// Live leases.
    pub in_flight: BTreeSet<Token>,
    /// Root tasks queued or retrying.
    pub backlog: u64,
    /// Agents with a lane of this tenant's.
    pub agents: BTreeSet<AgentName>,
    /// Logical time at which the limiter gives the next cell.
    pub rate_at: Millis,
}

/// A tree with live tasks in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tree {
    /// Tasks ever admitted.
    pub total: u32,
    /// Of which not terminal.
    pub live: u32,
}

/// The state of one shard.
#[derive(Debug, Default)]
pub struct State {
    /// Which shard.
    pub shard: Shard,
    /// Epoch of the last owner.
    pub epoch: u64,
    /// Revision of the last journal message.
    pub rev: u64,
    /// Hash of the last journal message.
    pub head: Hash,
    /// Logical time of the last journal message.
    pub now: Millis,
    /// Wall time of the last journal message.
    pub wall: Millis,
    /// As of the last owner.
    pub policy: Policy,
    /// With the revision of their KV entries.
    pub plans: BTreeMap<PlanName, (Plan, u64)>,
    pub(super) tenants: HashMap<TenantName, Tenant>,
    pub(super) tasks: Tasks,
    pub(super) trees: HashMap<TaskKey, Tree>,
    pub(super) next_order: u64,
    pub(super) queues: BTreeMap<AgentName, AgentQueue>,
    // derived
    /// Retries and snoozes by the time they are due.
    pub(super) timers: BTreeSet<(Millis, TaskKey)>,
    /// Tenants out of rate by the time they get a cell.
    pub(super) rate_waits: BTreeSet<(Millis, TenantName)>,
    pub(super) leases: HashMap<Token, TaskKey>,
    pub(super) instances: HashMap<(AgentName, InstanceId), BTreeSet<Token>>,
    pub(super) backlog: u64,
    /// How far `rate_waits` has been served.
    pub(super) clock: Millis,
    /// Wall time of the batch decided or applied now. What is made of it stands in the record.
    pub(super) wall_clock: Millis,
    /// When memories are looked at next; a pure function of the journal's times.
    pub(super) next_forget: Millis,
}

impl State {
    /// An empty shard.
    pub fn new(shard: Shard) -> Self {
        Self { shard, ..Self::default() }
    }

    /// A task.
    pub fn task(&self, key: &TaskKey) -> Option<&Task> {
        self.tasks.get(key)
    }

    /// All tasks.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// A tenant.
    pub fn tenant(&self, name: &TenantName) -> Option<&Tenant> {
        self.tenants.get(name)
    }

    /// All tenants, in no order.
    pub fn tenants(&self) -> impl ExactSizeIterator<Item = (&TenantName, &Tenant)> {
        self.tenants.iter()
    }

    /// A tree with live tasks.
    pub fn tree(&self, root: &TaskKey) -> Option<&Tree> {
        self.trees.get(root)
    }

    /// The task a live lease is for.
    pub fn leased(&self, token: &Token) -> Option<(&TaskKey, &Task)> {
        let key = self.leases.get(token)?;
        Some((key, self.tasks.get(key)?))
    }

    /// Live leases.
    pub fn live_leases(&self) -> impl Iterator<Item = (&Token, &TaskKey)> {
        self.leases.iter()
    }

    /// Live leases of an instance.
    pub fn leases_of(&self, agent: &AgentName, instance: &InstanceId) -> usize {
        // The key is built per call: instances are few and names cheap to clone.
        self.instances.get(&(agent.clone(), instance.clone())).map_or(0, BTreeSet::len)
    }

    /// Per agent: its queue.
    pub fn queues(&self) -> &BTreeMap<AgentName, AgentQueue> {
        &self.queues
    }

    /// Root tasks queued or retrying in the shard.
    pub fn backlog(&self) -> u64 {
        self.backlog
    }

    /// Logical time as of the inputs decided now; at least that of the last journal message.
    pub fn clock_now(&self) -> Millis {
        self.clock.max(self.now)
    }

    /// Wall time as of the inputs decided now, Unix milliseconds.
    pub fn wall_now(&self) -> Millis {
        self.wall_clock
    }

    /// The next logical time at which something is due by itself.
    pub fn next_due(&self) -> Option<Millis> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let rate = self.rate_waits.first().map(|(at, _)| *at);
        [timer, rate].into_iter().flatten().min()
    }

    /// The plan in force for a tenant: its own, or the default one; `None`: refused here.
    pub fn plan_of(&self, tenant: &TenantName) -> Option<Plan> {
        match self.tenants.get(tenant).and_then(|t| t.settings.as_ref()) {
            Some(settings) => Some(self.named_plan(&settings.plan).with(&settings.overrides)),
            None => self.policy.default_plan.as_ref().map(|name| self.named_plan(name)),
        }
    }

    /// A plan that was removed while in use falls back to the shipped `free`.
    fn named_plan(&self, name: &PlanName) -> Plan {
        self.plans.get(name).map_or_else(Plan::free, |(plan, _)| plan.clone())
    }

    /// Serves what became due by time alone: tenants whose limiter has a cell again. Derived data only.
    pub fn advance(&mut self, now: Millis, wall: Millis) {
        self.clock = self.clock.max(now);
        self.wall_clock = wall;
        while let Some((at, _)) = self.rate_waits.first()
            && *at <= self.clock
        {
            if let Some((_, tenant)) = self.rate_waits.pop_first() {
                self.refresh(&tenant);
            }
        }
    }

    /// Brings the tenant's readiness in line with its caps, on every agent it has a lane of.
    pub(super) fn refresh(&mut self, name: &TenantName) {
        let Some(tenant) = self.tenants.get_mut(name) else { return };
        let paused = tenant.settings.as_ref().is_some_and(|s| s.paused);
        let slot = !paused && tenant.in_flight.len() < tenant.plan.in_flight as usize;
        let cell = tenant.rate_at <= self.clock;
        let mut waits = false;
        tenant.agents.retain(|agent| {
            let Some(queue) = self.queues.get_mut(agent) else { return false };
            queue.set_open(name, slot && cell, slot);
            waits |= queue.queued_of(name) > 0;
            queue.queued_of(name) > 0
        });
        if waits && slot && !cell && tenant.rate_at < Millis::MAX {
            self.rate_waits.insert((tenant.rate_at, name.clone()));
        }
    }

    /// The state in one canonical encoding: equal bytes, equal state.
    pub fn canonical(&self) -> Vec<u8> {
        fn sorted<K: Ord, V>(map: &HashMap<K, V>) -> Vec<(&K, &V)> {
            let mut all: Vec<_> = map.iter().collect();
            all.sort_by(|a, b| a.0.cmp(b.0));
            all
        }
        let tenants: Vec<_> = sorted(&self.tenants)
            .into_iter()
            .map(|(name, t)| (name, &t.settings, t.kv_rev, t.rate, &t.memory, t.forgotten))
            .collect();
        let mut tasks: Vec<_> = self.tasks.iter().collect();
        tasks.sort_by(|a, b| a.0.cmp(b.0));
        let queues: Vec<_> = self.queues.iter().map(|(a, q)| (a, q.canonical())).collect();
        let head = (
            self.shard,
            self.epoch,
            self.rev,
            self.head,
            self.now,
            self.wall,
            self.next_order,
            self.next_forget,
        );
        let all = (head, &self.policy, &self.plans, tenants, tasks, sorted(&self.trees), queues);
        // Plain data with string keys into memory: nothing in it can fail to encode.
        rmp_serde::to_vec_named(&all).unwrap_or_else(|error| unreachable!("state not encodable: {error}"))
    }

    /// Recomputes the derived data the slow way and names what differs. For simulation and tests.
    pub fn check_derived(&self) -> Result<(), String> {
        let mut leases = HashMap::new();
        let mut in_flight: HashMap<&TenantName, BTreeSet<Token>> = HashMap::new();
        let mut backlog: HashMap<&TenantName, u64> = HashMap::new();
        let mut timers = BTreeSet::new();
        let mut queued: HashMap<&AgentName, u64> = HashMap::new();
        let mut live_children: HashMap<TaskKey, u32> = HashMap::new();
        let mut live_trees: HashMap<TaskKey, u32> = HashMap::new();
        for (key, task) in self.tasks.iter() {
            if task.lease.is_some() != (task.phase == Phase::Running) {
                return Err(format!("{key} is {} with lease {:?}", task.phase, task.lease));
            }
            if let Some(lease) = &task.lease {
                leases.insert(lease.token, key.clone());
                in_flight.entry(&key.tenant).or_default().insert(lease.token);
            }
            if task.in_backlog() {
                *backlog.entry(&key.tenant).or_default() += 1;
            }
            if let Some(at) = task.wake_at {
                timers.insert((at, key.clone()));
            }
            if task.phase == Phase::Queued {
                *queued.entry(&task.spec.agent).or_default() += 1;
            }
            if !task.phase.is_terminal() {
                if let Some(parent) = task.parent() {
                    let parent = TaskKey { tenant: key.tenant.clone(), id: parent.clone() };
                    *live_children.entry(parent).or_default() += 1;
                }
                let root = TaskKey { tenant: key.tenant.clone(), id: task.root(&key.id).clone() };
                *live_trees.entry(root).or_default() += 1;
            }
        }
        if leases != self.leases {
            return Err("the lease index differs from the tasks".to_owned());
        }
        if timers != self.timers {
            return Err("the timers differ from the tasks".to_owned());
        }
        for (name, tenant) in &self.tenants {
            if tenant.in_flight != in_flight.remove(name).unwrap_or_default() {
                return Err(format!("in-flight of {name} differs from the tasks"));
            }
            if tenant.backlog != backlog.get(name).copied().unwrap_or(0) {
                return Err(format!("backlog of {name} is {}, tasks say otherwise", tenant.backlog));
            }
        }
        if self.backlog != backlog.values().sum::<u64>() {
            return Err("the shard's backlog differs from the tasks".to_owned());
        }
        for (agent, queue) in &self.queues {
            if queue.queued() != queued.get(agent).copied().unwrap_or(0) {
                return Err(format!("the queue of {agent} holds {} tasks", queue.queued()));
            }
        }
        for (key, task) in self.tasks.iter() {
            if task.live_children != live_children.get(key).copied().unwrap_or(0) {
                return Err(format!("{key} counts {} live children", task.live_children));
            }
        }
        for (root, tree) in &self.trees {
            if tree.live != live_trees.get(root).copied().unwrap_or(0) || tree.live == 0 {
                return Err(format!("the tree of {root} counts {} live tasks", tree.live));
            }
        }
        Ok(())
    }
}
