//! What the journal says of slots: who held how many, and how many were free while something could have run.
//!
//! The journal is replayed by the engine, and every state counts for as long as it stood: from the time the server stored
//! its message to the time it stored the next. A slot is held from the journaled dispatch to the journaled end, the way to
//! the agent and back included. It is idle by fault if the state has a slot free and a task that every limit lets pass.

use std::collections::BTreeMap;

use anyhow::Result;

use super::rig::Rig;
use crate::bus::journal::JournalReader;
use crate::flow::engine::Engine;
use crate::flow::gate::Gate;
use crate::flow::state::State;
use crate::task::{AgentName, TenantName};
use crate::wire::subjects::Shard;

/// Slot-milliseconds of one agent in a window.
#[derive(Debug, Default, Clone)]
pub struct Slots {
    /// Milliseconds.
    pub window: f64,
    /// Held, by tenant.
    pub held: BTreeMap<TenantName, f64>,
    /// Free while an admissible task waited.
    pub idle: f64,
    /// All there were.
    pub all: f64,
}

impl Slots {
    /// Idle by fault, in percent of all.
    pub fn idle_percent(&self) -> f64 {
        self.idle / self.all.max(1.0) * 100.0
    }

    fn add(&mut self, state: &State, agent: &AgentName, slots: u32, ms: f64) {
        self.window += ms;
        self.all += f64::from(slots) * ms;
        let Some(queue) = state.queue(agent) else { return };
        for (name, _) in state.tenants().iter() {
            let number = state.tenants().number(name);
            let held = number.map_or(0, |number| queue.running_of(number));
            if held > 0 {
                *self.held.entry(name.clone()).or_default() += f64::from(held) * ms;
            }
        }
        let open = state.agents().get(agent).is_some_and(|agent| state.gate(agent) == Gate::Open);
        if open && !state.is_shut() && queue.has_ready() {
            let free = u64::from(slots.saturating_sub(queue.in_flight()));
            self.idle += free.min(queue.queued()) as f64 * ms;
        }
    }
}

/// What is looked at.
pub struct Window {
    /// Which agent.
    pub agent: AgentName,
    /// Its slots.
    pub slots: u32,
    /// Unix milliseconds from which on it counts.
    pub from: u64,
    /// How long it counts, at most.
    pub ms: u64,
}

/// Folds the journal; the window ends early when the agent has nothing queued any more, or one of `backlogged` has not.
pub async fn fold(rig: &Rig, window: &Window, backlogged: &[TenantName]) -> Result<Slots> {
    let reader = JournalReader::new(rig.jetstream(), Shard(0)).await?;
    let mut tail = reader.read(1).await?;
    let mut engine: Engine<()> = Engine::new(Shard(0));
    let mut slots = Slots::default();
    let (mut last, mut full) = (0, false);
    while let Some(entry) = tail.next().await {
        let entry = entry?;
        let (from, to) = (window.from, window.from + window.ms);
        let state = engine.state();
        if full {
            let (begin, end) = (last.max(from), entry.at.clamp(from, to));
            if end > begin {
                slots.add(state, &window.agent, window.slots, (end - begin) as f64);
            }
        }
        engine.replay(entry.seq, &entry.bytes)?;
        drop(engine.take_ended());
        last = entry.at;
        let state = engine.state();
        let queue = state.queue(&window.agent);
        let waits = |tenant: &TenantName| {
            let number = state.tenants().number(tenant);
            number.zip(queue).is_some_and(|(number, queue)| queue.queued_of(number) > 0)
        };
        let busy = queue.is_some_and(|queue| queue.queued() > 0) && backlogged.iter().all(waits);
        // It begins once all slots are taken for the first time.
        full |= busy && queue.is_some_and(|queue| queue.in_flight() >= window.slots) && last >= from;
        if (full && !busy) || last >= to {
            break;
        }
    }
    Ok(slots)
}
