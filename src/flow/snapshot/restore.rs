//! Parts put together to a state. What does not fit is named and refused.
//!
//! Touches the state it makes, and gives it away only when it is whole.

use std::collections::{HashMap, VecDeque};

use serde::Deserialize;

use super::{
    Counts, SNAPSHOT_VERSION, SnapshotHead, counts,
    format::{Entry, KeptGoverned, KeptTenant},
};
use crate::{
    flow::{
        engine::Engine,
        fair::AgentQueue,
        limiter::Limiter,
        state::{Agent, Governed, Open, State, Tenant},
    },
    task::{Plan, without_content},
    wire::subjects::Shard,
};

/// Values nested in each other, at most.
const MAX_DEPTH: usize = 24;

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
