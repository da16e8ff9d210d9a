//! The state in slices: written while the owner goes on, read back before the rest of the journal is replayed.
//!
//! A snapshot is a [`SnapshotHead`] and parts. The head says at which journal message the parts hold; the engine
//! may go on between two of them, because whatever it changes meanwhile is kept as it was (see `tasks`). Parts hold
//! no payload of a live task: those stay in the journal, and in a snapshot they are references to it.
//!
//! Restoring gives the same state byte for byte ([`super::state::State::canonical`]). Bytes that are not what was
//! written are named and refused; nothing is guessed.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    engine::Engine,
    entry::Tree,
    fair::{AgentQueue, KeptQueue},
    gate::seconds,
    kept::{KeptTask, TaskRef, task_ref},
    limiter::{Limiter, RateState},
    permits::Permit,
    record::Hash,
    schedules::Schedule,
    state::{Agent, Governed, Open, Policy, State, Tenant},
    tasks::Slot,
};
use crate::{
    task::{
        AgentName, AgentSettings, AllSettings, Millis, Phase, Plan, PlanName, Quota, ScheduleName,
        TenantName, TenantSettings, without_content,
    },
    wire::subjects::Shard,
};

/// Values nested in each other, at most.
const MAX_DEPTH: usize = 24;

/// Version of the format.
pub const SNAPSHOT_VERSION: u32 = 1;

/// How many entries of each kind a snapshot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Tenants.
    pub tenants: u64,
    /// Agents.
    pub agents: u64,
    /// Tasks.
    pub tasks: u64,
    /// Schedules.
    #[serde(default)]
    pub schedules: u64,
    /// Blocks of places for calls.
    #[serde(default)]
    pub permits: u64,
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotHead {
    /// Version of the format.
    pub v: u32,
    /// Whose state.
    pub shard: Shard,
    /// Stream sequence of the last journal message in it.
    pub seq: u64,
    /// Its revision.
    pub rev: u64,
    /// Its hash.
    pub head: Hash,
    /// Its epoch.
    pub epoch: u64,
    /// Its logical time.
    pub now: Millis,
    /// Its wall time.
    pub wall: Millis,
    /// As of the last owner.
    pub policy: Policy,
    /// With the revision of their KV entries.
    #[serde(deserialize_with = "crate::task::grown")]
    pub plans: Vec<(PlanName, Plan, u64)>,
    /// The next number in the order of arrival.
    pub next_order: u64,
    /// What tenants that left took with them.
    pub departed: Option<Millis>,
    /// What an operator said about everything, with the revision of its KV entry.
    #[serde(default)]
    pub all: (AllSettings, u64),
    /// What the parts hold together.
    pub counts: Counts,
}

/// A snapshot that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Written by another version.
    #[error("snapshot format {found}, this version reads {SNAPSHOT_VERSION}")]
    Version {
        /// Which.
        found: u32,
    },
    /// Written of another shard.
    #[error("the snapshot is of shard {found}, not of shard {shard}")]
    Shard {
        /// Whose state was asked for.
        shard: u16,
        /// Whose it is.
        found: u16,
    },
    /// Bytes that can't be read.
    #[error("part {part} of the snapshot, byte {at}: {reason}")]
    Unreadable {
        /// The how manieth part, from 0.
        part: u64,
        /// Where in it.
        at: usize,
        /// Why.
        reason: String,
    },
    /// Entries that contradict each other or the head.
    #[error("the snapshot does not fit together: {0}")]
    Misfit(String),
}

/// A tenant as a snapshot holds it.
#[derive(Serialize, Deserialize)]
struct KeptTenant {
    number: u32,
    name: TenantName,
    settings: Option<TenantSettings>,
    kv_rev: u64,
    rate: RateState,
    forgotten: Option<Millis>,
    idle_since: Option<Millis>,
    #[serde(default)]
    rate_basis: Option<Quota>,
    #[serde(default)]
    cells: Limiter,
}

/// An agent as a snapshot holds it.
#[derive(Serialize, Deserialize)]
struct KeptAgent {
    number: u32,
    name: AgentName,
    queue: Option<KeptQueue>,
    #[serde(default)]
    own: Option<KeptGoverned>,
}

/// An agent's own limits.
#[derive(Serialize, Deserialize)]
struct KeptGoverned {
    settings: AgentSettings,
    kv_rev: u64,
    rate: Limiter,
    cells: Limiter,
}

/// One thing in a part.
#[derive(Serialize)]
#[allow(clippy::large_enum_variant, reason = "made and written one at a time, never kept")]
enum EntryRef<'a> {
    #[serde(rename = "n")]
    Tenant(KeptTenant),
    #[serde(rename = "a")]
    Agent(KeptAgent),
    #[serde(rename = "s")]
    Schedule(&'a ScheduleName, &'a Schedule),
    #[serde(rename = "p")]
    Permit(u32, u32, Permit),
    #[serde(rename = "t")]
    Task(TaskRef<'a, u32, u32>),
}

/// The same, read back.
#[derive(Deserialize)]
enum Entry {
    #[serde(rename = "n")]
    Tenant(Box<KeptTenant>),
    #[serde(rename = "a")]
    Agent(Box<KeptAgent>),
    #[serde(rename = "s")]
    Schedule(ScheduleName, Box<Schedule>),
    #[serde(rename = "p")]
    Permit(u32, u32, Permit),
    #[serde(rename = "t")]
    Task(Box<KeptTask>),
}

fn write(entry: &EntryRef<'_>, out: &mut Vec<u8>) {
    let wrote = match entry {
        // Settings leave out what is not set: that needs names.
        EntryRef::Tenant(_) | EntryRef::Schedule(..) | EntryRef::Agent(KeptAgent { own: Some(_), .. }) => {
            entry.serialize(&mut rmp_serde::Serializer::new(out).with_struct_map())
        }
        _ => entry.serialize(&mut rmp_serde::Serializer::new(out)),
    };
    // Plain data into memory: nothing in it can fail to encode.
    wrote.unwrap_or_else(|error| unreachable!("state not encodable: {error}"));
}

/// A snapshot under way, besides the tasks.
#[derive(Debug)]
pub(super) struct Writing {
    /// Tenants and queues, encoded when it began: they are few.
    small: VecDeque<Vec<u8>>,
    tasks_left: bool,
}

/// Size of the pieces in which small things are kept.
const PIECE: usize = 32 * 1024;

/// Whole entries in pieces.
#[derive(Default)]
struct Pieces(VecDeque<Vec<u8>>);

impl Pieces {
    fn write(&mut self, entry: &EntryRef<'_>) {
        if self.0.back().is_none_or(|piece| piece.len() >= PIECE) {
            self.0.push_back(Vec::new());
        }
        if let Some(piece) = self.0.back_mut() {
            write(entry, piece);
        }
    }
}

/// Begins one; the engine says at which sequence it stands.
pub(super) fn begin(state: &mut State, seq: u64) -> (SnapshotHead, Writing) {
    let mut small = Pieces::default();
    for number in state.tenants.numbers() {
        let Some((name, tenant)) = state.tenants.name(number).zip(state.tenants.at(number)) else { continue };
        small.write(&EntryRef::Tenant(KeptTenant {
            number,
            name: name.clone(),
            settings: tenant.settings.clone(),
            kv_rev: tenant.kv_rev,
            rate: tenant.rate.parts().0,
            forgotten: tenant.forgotten,
            idle_since: tenant.idle_since,
            rate_basis: tenant.rate.parts().1,
            cells: tenant.cells,
        }));
    }
    for number in state.agents.numbers() {
        let Some((name, agent)) = state.agents.name(number).zip(state.agents.at(number)) else { continue };
        let queue = agent.queue.as_ref().map(|queue| queue.kept());
        let own = agent.settings.as_ref().map(|own| KeptGoverned {
            settings: own.settings.clone(),
            kv_rev: own.kv_rev,
            rate: own.rate,
            cells: own.cells,
        });
        small.write(&EntryRef::Agent(KeptAgent { number, name: name.clone(), queue, own }));
    }
    for number in state.tenants.numbers() {
        let held = state.tenants.at(number).and_then(|tenant| tenant.permits.as_deref());
        for (agent, permit) in held.into_iter().flat_map(|held| held.iter()) {
            small.write(&EntryRef::Permit(number, agent, permit));
        }
    }
    for (name, schedule) in state.schedules.iter() {
        small.write(&EntryRef::Schedule(name, schedule));
    }
    state.tasks.begin_copy();
    let counts = counts(state);
    let head = SnapshotHead {
        v: SNAPSHOT_VERSION,
        shard: state.shard,
        seq,
        rev: state.rev,
        head: state.head,
        epoch: state.epoch,
        now: state.now,
        wall: state.wall,
        policy: state.policy.clone(),
        plans: state.plans.iter().map(|(name, (plan, rev))| (name.clone(), plan.clone(), *rev)).collect(),
        next_order: state.next_order,
        departed: state.departed,
        all: state.all,
        counts,
    };
    (head, Writing { small: small.0, tasks_left: true })
}

impl Writing {
    /// The next part; `None` when everything is written.
    pub(super) fn part(&mut self, state: &mut State, max_bytes: usize) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.len() < max_bytes
            && let Some(mut piece) = self.small.pop_front()
        {
            out.append(&mut piece);
        }
        if self.small.is_empty() && self.tasks_left {
            self.tasks_left = state.tasks.copy_part(|task| {
                write(&EntryRef::Task(task_ref(task, task.tenant, task.agent)), &mut out);
                out.len() < max_bytes
            });
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}

/// Puts a snapshot together again.
#[derive(Debug)]
pub struct Restore {
    state: State,
    seq: u64,
    /// What the head promises.
    counts: Counts,
    parts: u64,
    /// What the numbers in the parts stand for here.
    tenants: HashMap<u32, u32>,
    agents: HashMap<u32, u32>,
}

impl Restore {
    /// Of this shard, from this head.
    pub fn new(shard: Shard, head: SnapshotHead) -> Result<Self, SnapshotError> {
        if head.v != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version { found: head.v });
        }
        if head.shard != shard {
            return Err(SnapshotError::Shard { shard: shard.0, found: head.shard.0 });
        }
        let mut state = State::new(shard);
        state.epoch = head.epoch;
        state.rev = head.rev;
        state.head = head.head;
        state.now = head.now;
        state.wall = head.wall;
        state.policy = head.policy;
        state.plans = head.plans.into_iter().map(|(name, plan, rev)| (name, (plan, rev))).collect();
        state.next_order = head.next_order;
        state.departed = head.departed;
        state.all = head.all;
        Ok(Self {
            state,
            seq: head.seq,
            counts: head.counts,
            parts: 0,
            tenants: HashMap::new(),
            agents: HashMap::new(),
        })
    }

    /// The next part, in order.
    pub fn part(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let mut at = 0;
        while at < bytes.len() {
            let mut rest = std::io::Cursor::new(&bytes[at..]);
            let mut decoder = rmp_serde::Deserializer::new(&mut rest);
            decoder.set_max_depth(MAX_DEPTH);
            let entry = Entry::deserialize(&mut decoder).map_err(|error| SnapshotError::Unreadable {
                part: self.parts,
                at,
                reason: without_content(&error.to_string()),
            })?;
            self.put(entry)?;
            at += (rest.position() as usize).max(1);
        }
        self.parts += 1;
        Ok(())
    }

    fn put(&mut self, entry: Entry) -> Result<(), SnapshotError> {
        let misfit = |what: String| Err(SnapshotError::Misfit(what));
        match entry {
            Entry::Tenant(kept) => {
                if self.state.tenants.number(&kept.name).is_some() || self.tenants.contains_key(&kept.number)
                {
                    return misfit(format!("{} is in it twice", kept.name));
                }
                let number = kept.number;
                let here = self.state.tenants.insert(kept.name.clone(), tenant(*kept));
                self.tenants.insert(number, here);
            }
            Entry::Agent(kept) => {
                if self.state.agents.number(&kept.name).is_some() || self.agents.contains_key(&kept.number) {
                    return misfit(format!("{} is in it twice", kept.name));
                }
                let mut agent = Agent::default();
                if let Some(queue) = kept.queue {
                    match AgentQueue::restored(queue, |number| self.tenants.get(&number).copied()) {
                        Some(queue) => agent.queue = Some(Box::new(queue)),
                        None => return misfit(format!("a lane of {} is of no tenant", kept.name)),
                    }
                }
                agent.settings = kept.own.map(|own| {
                    let KeptGoverned { settings, kv_rev, rate, cells } = own;
                    Box::new(Governed { settings, kv_rev, rate, cells })
                });
                let here = self.state.agents.insert(kept.name, agent);
                self.agents.insert(kept.number, here);
            }
            Entry::Schedule(name, schedule) => {
                if self.state.schedules.get(&name).is_some() {
                    return misfit(format!("schedule {name} is in it twice"));
                }
                self.state.schedules.put(name, *schedule);
            }
            Entry::Permit(tenant, agent, permit) => {
                let (tenant, agent) = (self.tenants.get(&tenant), self.agents.get(&agent));
                let Some((tenant, agent)) = tenant.zip(agent) else {
                    return misfit("a place for calls is of no tenant or at no agent".to_owned());
                };
                self.state.hold(*tenant, *agent, permit);
            }
            Entry::Task(kept) => {
                let (tenant, agent) = (self.tenants.get(&kept.tenant), self.agents.get(&kept.agent));
                let Some((tenant, agent)) = tenant.zip(agent) else {
                    return misfit("a task is of no tenant or of no agent".to_owned());
                };
                let task = kept.into_task(*tenant, *agent);
                if self.state.tasks.find(task.tenant, &task.id).is_some() {
                    return misfit(format!("{} is in it twice", self.state.key_of(&task)));
                }
                self.state.tasks.insert(task);
            }
        }
        Ok(())
    }

    /// All parts were given: an engine as it stood at the head.
    pub fn finish<H>(mut self) -> Result<Engine<H>, SnapshotError> {
        let state = &mut self.state;
        let found = counts(state);
        if found != self.counts {
            return Err(SnapshotError::Misfit(format!(
                "it holds {found:?}, its head says {:?}",
                self.counts
            )));
        }
        state.rebuild().map_err(SnapshotError::Misfit)?;
        Ok(Engine::restored(self.state, self.seq))
    }
}

fn counts(state: &State) -> Counts {
    Counts {
        tenants: state.tenants.len() as u64,
        agents: state.agents.len() as u64,
        tasks: state.tasks.len() as u64,
        schedules: state.schedules.len() as u64,
        permits: state.callers,
    }
}

fn tenant(kept: KeptTenant) -> Tenant {
    Tenant {
        settings: kept.settings,
        kv_rev: kept.kv_rev,
        rate: Limiter::kept(kept.rate, kept.rate_basis),
        cells: kept.cells,
        forgotten: kept.forgotten,
        idle_since: kept.idle_since,
        plan: Plan::free(),
        in_flight: 0,
        permits: None,
        backlog: 0,
        tasks: 0,
        agents: Vec::new(),
        memory: VecDeque::new(),
        open: Open::default(),
    }
}

impl State {
    /// Makes everything that follows from the tasks.
    fn rebuild(&mut self) -> Result<(), String> {
        let mut memory = Vec::new();
        let mut stored = Vec::new();
        let mut trees: HashMap<Slot, Tree> = HashMap::new();
        self.paused_trees = self.tasks.iter().filter(|(_, task)| task.more().paused).count() as u64;
        for at in 0..self.tasks.slots() {
            let slot = Slot(at as u32);
            self.rebuild_one(slot)?;
            let task = &self.tasks[slot];
            stored.extend([Some(task.input), task.more().result].into_iter().flatten());
            stored.extend(task.history().into_iter().flat_map(|h| h.all_stored()).map(|(_, stored)| stored));
            if task.remembered {
                memory.push((task.order, slot));
            }
            if !task.is_root() && task.phase != Phase::Rejected {
                let Some(root) = self.tasks.find(task.tenant, task.root()) else {
                    if task.phase.is_terminal() {
                        continue; // the root was forgotten first
                    }
                    return Err(format!("the root of {} is not in it", self.key_of(task)));
                };
                let tree = trees.entry(root).or_default();
                tree.total += 1;
                tree.live += u32::from(!task.phase.is_terminal());
            }
        }
        for (root, mut tree) in trees {
            tree.total += 1;
            tree.live += u32::from(!self.tasks[root].phase.is_terminal());
            if tree.live > 0 {
                self.tasks[root].more_mut().tree = tree;
            }
        }
        memory.sort_unstable();
        for (order, slot) in memory {
            let tenant = self.tasks[slot].tenant;
            self.tenant_at(tenant).memory.push_back(slot);
            self.memory.push_back((order, slot));
        }
        self.remembered = self.memory.len() as u64;
        stored.sort_unstable_by_key(|stored| stored.rev());
        stored.into_iter().for_each(|stored| self.references.add(stored));
        self.clock = self.now;
        self.wall_clock = self.wall;
        self.line_up_leaving();
        for number in self.agents.numbers() {
            self.govern(number);
        }
        for number in self.tenants.numbers() {
            self.refresh_plan(number);
        }
        Ok(())
    }

    fn rebuild_one(&mut self, slot: Slot) -> Result<(), String> {
        let task = &self.tasks[slot];
        let (number, phase, agent) = (task.tenant, task.phase, task.agent);
        if task.lease().is_some() != (phase == Phase::Running) {
            return Err(format!("{} is {phase} and its lease says otherwise", self.key_of(task)));
        }
        if task.remembered && !phase.is_terminal() {
            return Err(format!("{} is {phase} and lined up for being forgotten", self.key_of(task)));
        }
        let lease = task.lease().map(|lease| (lease.token, lease.charge));
        let waits = phase == Phase::Queued && !self.is_kept_back(slot);
        self.bounds.put(slot, task);
        let (place, in_backlog, wake_at) = (task.place(), task.in_backlog(), task.wake_at());
        if task.admitted == 0 {
            // Written by a version that did not count it: its class rises from now on.
            self.tasks[slot].admitted = seconds(self.now);
        }
        let since = self.tasks[slot].admitted;
        self.count_agent(agent, true);
        let tenant = self.tenant_at(number);
        tenant.tasks += 1;
        tenant.in_flight += u32::from(lease.is_some());
        if in_backlog {
            tenant.backlog += 1;
            self.backlog += 1;
        }
        if waits && !self.tenant_at(number).agents.contains(&agent) {
            self.tenant_at(number).agents.push(agent);
        }
        if let Some(at) = wake_at {
            self.timers.insert((at, slot));
        }
        let queue = self.agents.at_mut(agent).and_then(|agent| agent.queue.as_deref_mut());
        match (queue, lease) {
            (Some(queue), Some((token, charge))) => {
                queue.run_on(number, charge);
                if self.leases.insert(token, slot).is_some() {
                    return Err(format!("the lease of {} is another's, too", self.key_of(&self.tasks[slot])));
                }
            }
            (Some(queue), None) if waits => {
                let put = queue.put_back(number, place, slot, since);
                return if put { Ok(()) } else { Err(self.contradiction(slot, "has another's place")) };
            }
            (None, Some(_)) => return Err(self.contradiction(slot, "has no queue")),
            (None, None) if waits => return Err(self.contradiction(slot, "has no queue")),
            _ => {}
        }
        Ok(())
    }

    fn contradiction(&self, slot: Slot, what: &str) -> String {
        format!("{} {what}", self.key_of(&self.tasks[slot]))
    }
}

#[cfg(test)]
mod tests;
