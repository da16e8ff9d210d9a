//! The shard's state: what a replay of the journal gives, byte for byte.
//!
//! Primary data is what [`State::canonical`] encodes; everything under "derived" follows from it and
//! is kept so that no decision scans. Only [`super::evolve`] changes primary data. Payloads are references into the
//! journal; the bytes that happen to be in memory are in [`Resident`], which is neither.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    entry::{Task, Tree},
    fair::AgentQueue,
    limiter::Limiter,
    named::Named,
    permits::Held,
    quick::QuickMap,
    record::Hash,
    resident::{References, Resident},
    schedules::Schedules,
    tasks::{Slot, Tasks},
    times::Bounds,
};
use crate::{
    task::{
        AgentName, AgentSettings, AllSettings, Backoff, MAX_PAYLOAD_BYTES, Millis, Plan, PlanName, TaskKey,
        TenantName, TenantSettings, Token,
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
    /// How many terminal ids are remembered in the whole shard; the oldest go first.
    #[serde(default = "dedupe_total")]
    pub dedupe_total: u64,
    /// Delays between tries.
    pub backoff: Backoff,
    /// How long an offer may stay unanswered, in milliseconds.
    pub offer_timeout_ms: Millis,
    /// Largest input or result, in bytes.
    pub max_payload: u64,
    /// Live leases in the whole shard; 0: paused.
    #[serde(default = "in_flight")]
    pub in_flight: u64,
    /// How long after its admission a task's class is one higher, and again, in milliseconds, counted in whole seconds;
    /// 0: never.
    #[serde(default = "ageing_ms")]
    pub ageing_ms: Millis,
}

fn dedupe_total() -> u64 {
    500_000
}

fn in_flight() -> u64 {
    1_000_000
}

fn ageing_ms() -> Millis {
    60_000
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            default_plan: PlanName::new("free").ok(),
            backlog: 2_000_000,
            dedupe_horizon_ms: 24 * 3_600_000,
            dedupe_max: 100_000,
            dedupe_total: dedupe_total(),
            backoff: Backoff::default(),
            offer_timeout_ms: 5_000,
            max_payload: MAX_PAYLOAD_BYTES as u64,
            in_flight: in_flight(),
            ageing_ms: ageing_ms(),
        }
    }
}

/// A tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// What an operator said; absent: the default plan.
    pub settings: Option<TenantSettings>,
    /// Revision of the KV entry.
    pub kv_rev: u64,
    /// Its dispatches.
    pub rate: Limiter,
    /// Its cells.
    pub cells: Limiter,
    /// The highest first-try time among forgotten tasks, Unix milliseconds.
    pub forgotten: Option<Millis>,
    /// Since when, in logical time, nothing is known of it but this; `None`: something is.
    pub idle_since: Option<Millis>,
    // derived
    /// The plan with overrides, as in force.
    pub plan: Plan,
    /// Live leases.
    pub in_flight: u32,
    /// What is held for its calls; `None`: nothing.
    pub(super) permits: Option<Box<Held>>,
    /// Root tasks queued or retrying.
    pub backlog: u64,
    /// Tasks in the state, of whatever phase.
    pub tasks: u64,
    /// Agents with a lane of this tenant's, by number.
    pub(super) agents: Vec<u32>,
    /// Terminal tasks in the order they will be forgotten.
    pub(super) memory: VecDeque<Slot>,
    /// What its lanes were told last.
    pub(super) open: Open,
}

/// What lets a tenant's tasks pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Open {
    /// It is not paused, and below its cap.
    pub slot: bool,
    /// A dispatch is there.
    pub rate: bool,
    /// Cells are there for the most expensive of the tasks that are next.
    pub cells: bool,
}

impl Tenant {
    /// Whether tasks of it wait for a slot.
    pub fn waits(&self) -> bool {
        !self.agents.is_empty()
    }

    /// Whether an operator has paused it, or its plan.
    pub fn is_paused(&self) -> bool {
        self.plan.paused || self.settings.as_ref().is_some_and(|settings| settings.paused)
    }
}

/// An agent that tasks name.
#[derive(Debug, Default)]
pub struct Agent {
    /// Once a task was queued for it.
    pub queue: Option<Box<AgentQueue>>,
    /// What an operator said; absent: no limits. With settings it stays, with or without tasks.
    pub settings: Option<Box<Governed>>,
    /// Tasks that name it.
    pub(super) tasks: u64,
    /// Places held for calls, borrowed ones too.
    pub(super) called: u32,
}

/// An agent with limits of its own, which all tenants share.
#[derive(Debug, Default)]
pub struct Governed {
    /// What an operator said.
    pub settings: AgentSettings,
    /// Revision of the KV entry.
    pub kv_rev: u64,
    /// Its dispatches.
    pub rate: Limiter,
    /// Its cells.
    pub cells: Limiter,
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
    /// By name.
    pub schedules: Schedules,
    /// What an operator said about everything, with the revision of its KV entry.
    pub all: (AllSettings, u64),
    /// The highest first-try time that a tenant took with it which left: new ones begin with it.
    pub departed: Option<Millis>,
    pub(super) tenants: Named<TenantName, Tenant>,
    pub(super) agents: Named<AgentName, Agent>,
    pub(super) tasks: Tasks,
    pub(super) next_order: u64,
    // derived
    /// Retries, snoozes and delays by the time they are due.
    pub(super) timers: BTreeSet<(Millis, Slot)>,
    /// Times to live, limits of tries, deadlines and starts at a time.
    pub(super) bounds: Bounds,
    /// Tenants out of rate or cells by the time they have them.
    pub(super) rate_waits: BTreeSet<(Millis, u32)>,
    /// Agents with a rate or cells of their own.
    pub(super) limited: BTreeSet<u32>,
    /// Trees that are paused.
    pub(super) paused_trees: u64,
    pub(super) leases: QuickMap<Token, Slot>,
    pub(super) backlog: u64,
    /// Places held for calls, borrowed ones left out.
    pub(super) called: u64,
    /// Blocks of them.
    pub(super) callers: u64,
    /// All remembered tasks, oldest first, each with its place in that order; some are forgotten already.
    pub(super) memory: VecDeque<(u64, Slot)>,
    pub(super) remembered: u64,
    /// Idle tenants by the time they may leave, and by name, so that all coordinators let them go alike.
    pub(super) leaving: BTreeSet<(Millis, TenantName)>,
    /// Journal messages that hold payloads still needed.
    pub(super) references: References,
    /// How far `rate_waits` has been served.
    pub(super) clock: Millis,
    /// Wall time of the batch decided or applied now. What is made of it stands in the record.
    pub(super) wall_clock: Millis,
    // volatile
    pub(super) resident: Resident,
    /// Tasks forgotten since the engine looked last, and where they were.
    pub(super) gone: Vec<(Slot, TaskKey)>,
}

impl State {
    /// An empty shard.
    pub fn new(shard: Shard) -> Self {
        Self { shard, ..Self::default() }
    }

    /// Where a task is.
    pub fn find(&self, key: &TaskKey) -> Option<Slot> {
        self.tasks.find(self.tenants.number(&key.tenant)?, &key.id)
    }

    /// A task.
    pub fn task(&self, key: &TaskKey) -> Option<&Task> {
        self.tasks.get(self.find(key)?)
    }

    /// All tasks.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// A task's full name.
    pub fn key_of(&self, task: &Task) -> TaskKey {
        TaskKey { tenant: self.tenant_name(task.tenant).clone(), id: task.id.clone() }
    }

    /// Who runs a task.
    pub fn agent_of(&self, task: &Task) -> &AgentName {
        // An agent stays for as long as a task names it.
        self.agents.name(task.agent).unwrap_or_else(|| unreachable!("agent {} is gone", task.agent))
    }

    pub(super) fn tenant_name(&self, number: u32) -> &TenantName {
        // A tenant stays for as long as it has tasks.
        self.tenants.name(number).unwrap_or_else(|| unreachable!("tenant {number} is gone"))
    }

    pub(super) fn tenant_at(&mut self, number: u32) -> &mut Tenant {
        self.tenants.at_mut(number).unwrap_or_else(|| unreachable!("tenant {number} is gone"))
    }

    /// A tenant.
    pub fn tenant(&self, name: &TenantName) -> Option<&Tenant> {
        self.tenants.get(name)
    }

    /// All tenants.
    pub fn tenants(&self) -> &Named<TenantName, Tenant> {
        &self.tenants
    }

    /// All agents that tasks name.
    pub fn agents(&self) -> &Named<AgentName, Agent> {
        &self.agents
    }

    /// Per agent: its queue.
    pub fn queues(&self) -> impl Iterator<Item = (&AgentName, &AgentQueue)> {
        self.agents.iter().filter_map(|(name, agent)| Some((name, agent.queue.as_deref()?)))
    }

    /// The queue of an agent.
    pub fn queue(&self, agent: &AgentName) -> Option<&AgentQueue> {
        self.agents.get(agent)?.queue.as_deref()
    }

    pub(super) fn queue_at(&mut self, agent: u32) -> Option<&mut AgentQueue> {
        self.agents.at_mut(agent)?.queue.as_deref_mut()
    }

    /// A tree with live tasks, by its root.
    pub fn tree(&self, root: &TaskKey) -> Option<Tree> {
        let root = self.task(root)?;
        let tree = root.more().tree;
        if tree.total > 0 {
            return (tree.live > 0).then_some(tree);
        }
        (root.is_root() && !root.phase.is_terminal()).then_some(Tree { total: 1, live: 1 })
    }

    /// The task a live lease is for.
    pub fn leased(&self, token: &Token) -> Option<&Task> {
        self.tasks.get(self.lease_slot(token)?)
    }

    pub(super) fn lease_slot(&self, token: &Token) -> Option<Slot> {
        self.leases.get(token).copied()
    }

    /// Live leases.
    pub fn live_leases(&self) -> impl ExactSizeIterator<Item = &Token> {
        self.leases.keys()
    }

    /// Payloads in memory.
    pub fn resident(&self) -> &Resident {
        &self.resident
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

    /// The next wall time at which something is due by itself, Unix milliseconds.
    pub fn next_due_wall(&self) -> Option<Millis> {
        [self.bounds.next_wall(), self.schedules.next()].into_iter().flatten().min()
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
}
