//! The state in slices: written while the owner goes on, read back before the rest of the journal is replayed.
//!
//! A snapshot is a [`SnapshotHead`] and parts. The head says at which journal message the parts hold; the engine
//! may go on between two of them, because whatever it changes meanwhile is kept as it was (see `tasks`). Parts hold
//! no payload of a live task: those stay in the journal, and in a snapshot they are references to it.
//!
//! Restoring gives the same state byte for byte ([`super::state::State::canonical`]). Bytes that are not what was
//! written are named and refused; nothing is guessed.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    engine::Engine,
    fair::{AgentQueue, KeptQueue},
    limiter::RateState,
    record::Hash,
    state::{Policy, State, Task, Tenant},
};
use crate::{
    task::{
        AgentName, Millis, Phase, Plan, PlanName, TaskId, TaskKey, TenantName, TenantSettings,
        without_content,
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
    /// Agents' queues.
    pub queues: u64,
    /// Tasks.
    pub tasks: u64,
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
    /// When memories are looked at next.
    pub next_forget: Millis,
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
    settings: Option<TenantSettings>,
    kv_rev: u64,
    rate: RateState,
    #[serde(deserialize_with = "crate::task::grown")]
    memory: VecDeque<(Millis, TaskId)>,
    forgotten: Option<Millis>,
}

/// One thing in a part.
#[derive(Serialize)]
enum EntryRef<'a> {
    Tenant(&'a TenantName, KeptTenant),
    Queue(&'a AgentName, KeptQueue),
    Task(&'a TaskKey, &'a Task),
}

/// The same, read back.
#[derive(Deserialize)]
enum Entry {
    Tenant(TenantName, Box<KeptTenant>),
    Queue(AgentName, KeptQueue),
    Task(TaskKey, Box<Task>),
}

fn write(entry: &EntryRef<'_>, out: &mut Vec<u8>) {
    let mut serializer = rmp_serde::Serializer::new(out).with_struct_map();
    // Plain data with string keys into memory: nothing in it can fail to encode.
    entry.serialize(&mut serializer).unwrap_or_else(|error| unreachable!("state not encodable: {error}"));
}

/// Writes one task.
pub(super) fn write_task(key: &TaskKey, task: &Task, out: &mut Vec<u8>) {
    write(&EntryRef::Task(key, task), out);
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
    for (name, tenant) in &state.tenants {
        let kept = KeptTenant {
            settings: tenant.settings.clone(),
            kv_rev: tenant.kv_rev,
            rate: tenant.rate,
            memory: tenant.memory.clone(),
            forgotten: tenant.forgotten,
        };
        small.write(&EntryRef::Tenant(name, kept));
    }
    for (name, queue) in &state.queues {
        small.write(&EntryRef::Queue(name, queue.kept()));
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
        next_forget: state.next_forget,
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
            self.tasks_left = state.tasks.copy_part(max_bytes, &mut out);
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
        state.next_forget = head.next_forget;
        Ok(Self { state, seq: head.seq, counts: head.counts, parts: 0 })
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
        let twice = |what: &dyn std::fmt::Display| SnapshotError::Misfit(format!("{what} is in it twice"));
        match entry {
            Entry::Tenant(name, kept) => {
                if self.state.tenants.contains_key(&name) {
                    return Err(twice(&name));
                }
                self.state.put_tenant(name, *kept);
            }
            Entry::Queue(name, kept) => {
                if self.state.queues.contains_key(&name) {
                    return Err(twice(&name));
                }
                self.state.queues.insert(name, AgentQueue::restored(kept));
            }
            Entry::Task(key, task) => {
                if self.state.tasks.contains_key(&key) {
                    return Err(twice(&key));
                }
                self.state.tasks.insert(key, *task);
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
        queues: state.queues.len() as u64,
        tasks: state.tasks.len() as u64,
    }
}

impl State {
    fn put_tenant(&mut self, name: TenantName, kept: KeptTenant) {
        let tenant = Tenant {
            settings: kept.settings,
            kv_rev: kept.kv_rev,
            rate: kept.rate,
            memory: kept.memory,
            forgotten: kept.forgotten,
            plan: Plan::free(),
            in_flight: Default::default(),
            backlog: 0,
            agents: Default::default(),
            rate_at: 0,
        };
        self.tenants.insert(name, tenant);
    }

    /// Makes everything that follows from the tasks.
    fn rebuild(&mut self) -> Result<(), String> {
        // Moved out, so that the rest of the state can be changed while they are walked.
        let tasks = std::mem::take(&mut self.tasks);
        for (key, task) in tasks.iter() {
            self.rebuild_one(key, task)?;
        }
        self.tasks = tasks;
        self.trees.retain(|_, tree| tree.live > 0);
        self.clock = self.now;
        self.wall_clock = self.wall;
        let names: Vec<TenantName> = self.tenants.keys().cloned().collect();
        for name in names {
            let plan = self.plan_of(&name).unwrap_or_else(Plan::free);
            if let Some(tenant) = self.tenants.get_mut(&name) {
                tenant.rate_at = tenant.rate.peek(plan.rate, plan.burst, self.now).err().unwrap_or(self.now);
                tenant.plan = plan;
            }
            self.refresh(&name);
        }
        Ok(())
    }

    fn rebuild_one(&mut self, key: &TaskKey, task: &Task) -> Result<(), String> {
        if task.lease.is_some() != (task.phase == Phase::Running) {
            return Err(format!("{key} is {} and its lease says otherwise", task.phase));
        }
        let Some(tenant) = self.tenants.get_mut(&key.tenant) else {
            return Err(format!("{key} is of a tenant that is not in it"));
        };
        let agent = &task.spec.agent;
        if let Some(lease) = &task.lease {
            tenant.in_flight.insert(lease.token);
            if self.leases.insert(lease.token, key.clone()).is_some() {
                return Err(format!("the lease of {key} is another's, too"));
            }
            let holder = (agent.clone(), lease.instance.clone());
            self.instances.entry(holder).or_default().insert(lease.token);
            let queue = self.queues.get_mut(agent);
            queue.ok_or_else(no_queue(key))?.run_on(&key.tenant, lease.token, lease.charge);
        }
        if task.phase == Phase::Queued {
            tenant.agents.insert(agent.clone());
            let queue = self.queues.get_mut(agent);
            queue.ok_or_else(no_queue(key))?.put_back(&key.tenant, task.place(&key.id));
        }
        if task.in_backlog() {
            tenant.backlog += 1;
            self.backlog += 1;
        }
        if let Some(at) = task.wake_at {
            self.timers.insert((at, key.clone()));
        }
        let counted = task.phase != Phase::Rejected && !task.tombstone;
        let root = TaskKey { tenant: key.tenant.clone(), id: task.root(&key.id).clone() };
        if counted {
            let tree = self.trees.entry(root).or_default();
            tree.total += 1;
            tree.live += u32::from(!task.phase.is_terminal());
        }
        Ok(())
    }
}

fn no_queue(key: &TaskKey) -> impl FnOnce() -> String {
    move || format!("{key} is of an agent whose queue is not in it")
}
