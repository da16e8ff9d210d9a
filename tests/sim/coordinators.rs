//! Coordinators: the real engine, driven as the owner's loop drives it, with its process dying,
//! pausing, being superseded and losing answers at every step.

mod term;

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use selvedge::{flow::engine::Engine, task::InstanceId, wire::subjects::Shard};

use crate::{
    bus::Queue,
    rng::Rng,
    scenario::{Fault, Sight},
    schemas::{Heard, Said},
    snapshots::restore,
    world::{Event, World},
};

/// Somebody else may own the shard after this long without a sign.
const OWNER_TTL: u64 = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Down,
    Standby,
    Owner,
}

/// Whom to answer.
#[derive(Debug, Clone)]
pub enum Handle {
    Stored(Queue, u64),
    Beat(InstanceId),
    /// The trigger, and the message's place in its stream.
    Fired(usize, u64),
}

pub struct Coordinator {
    name: String,
    pub role: Role,
    pub engine: Option<Engine<Handle>>,
    pub paused_until: u64,
    /// Index generation it has written to.
    pub generation: u64,
    /// +1 with every crash or step-down: what was under way for the old one means nothing to the new.
    pub life: u32,
    attempt: u32,
    in_flight: Option<(Bytes, u64)>,
    /// Who has announced itself, and who had before the last turn.
    pub heard: Heard,
    pub heard_before: Heard,
    /// What its last turn was judged by.
    pub said: Arc<Said>,
    stepping: Option<u64>,
    /// Shard time and simulated time when it took over.
    base: (u64, u64),
    last_tick: u64,
    /// By how much its wall clock is wrong.
    pub skew: i64,
    up_at: u64,
    /// Reports that were stored when it took over and have not reached it yet.
    backlog: BTreeSet<u64>,
    entropy: Rng,
}

impl Coordinator {
    pub fn new(at: usize, seed: u64) -> Self {
        Self {
            name: format!("c{at}"),
            role: Role::Standby,
            engine: None,
            paused_until: 0,
            generation: 0,
            life: 0,
            attempt: 0,
            in_flight: None,
            heard: Heard::new(),
            heard_before: Heard::new(),
            said: Arc::default(),
            stepping: None,
            base: (0, 0),
            last_tick: 0,
            skew: 0,
            up_at: 0,
            backlog: BTreeSet::new(),
            entropy: Rng::new(seed, 50 + at as u64),
        }
    }

    fn leave(&mut self, role: Role) {
        self.role = role;
        self.engine = None;
        self.in_flight = None;
        self.heard.clear();
        self.heard_before.clear();
        self.stepping = None;
        self.life += 1;
        self.paused_until = 0;
    }
}

impl World {
    pub fn crash(&mut self, who: usize) {
        let down = self.rng.between(200, 4_000);
        let (now, head) = (self.now, self.journal.head());
        let coordinator = &mut self.coordinators[who];
        if let Some(engine) = coordinator.engine.as_ref().filter(|e| !e.is_busy() && e.seq() == head) {
            self.last_words = Some((head, engine.state().canonical()));
        }
        coordinator.leave(Role::Down);
        coordinator.up_at = now + down;
    }

    /// Everybody who has read the same journal has the same state.
    fn compare_states(&mut self, who: usize) {
        let Some(engine) = self.coordinators[who].engine.as_ref() else { return };
        if let Some((seq, words)) = self.last_words.take()
            && seq == engine.seq()
            && words != engine.state().canonical()
        {
            self.fail("a replay gives another state than its writer had");
        }
    }

    /// Elections, restarts, duels and followers, twice a second.
    pub fn watch(&mut self) {
        self.after(500, Event::Watch);
        self.friends_tell();
        self.sweep_objects();
        let now = self.now;
        if let Some((from, to)) = self.scenario.outage
            && (from..to).contains(&now)
        {
            (0..self.coordinators.len()).for_each(|who| self.crash(who));
            return;
        }
        if self.strikes(Fault::ClockJumps)
            && let Some(owner) = self.owner
        {
            let most = *self.rng.pick(&[500, 20_000, 7_200_000]);
            self.coordinators[owner].skew = self.rng.below(2 * most) as i64 - most as i64;
        }
        for coordinator in &mut self.coordinators {
            if coordinator.role == Role::Down && coordinator.up_at <= now {
                coordinator.role = Role::Standby;
            }
        }
        if let Some(owner) = self.owner {
            let gone = {
                let c = &self.coordinators[owner];
                c.role != Role::Owner || c.paused_until > now + OWNER_TTL
            };
            if gone || self.strikes(Fault::Duel) {
                self.owner = None;
                self.elect(Some(owner));
            } else if self.strikes(Fault::OwnerPaused) {
                let pause = self.rng.between(1_000, 20_000);
                self.coordinators[owner].paused_until = now + pause;
            }
        } else {
            self.elect(None);
        }
        for who in 0..self.coordinators.len() {
            // One of the two keeps its standby hot; the other replays when its turn comes.
            if who == 0 && self.coordinators[who].role == Role::Standby && self.steps.is_multiple_of(3) {
                self.follow(who);
            }
        }
    }

    fn elect(&mut self, but: Option<usize>) {
        let ready: Vec<usize> = (0..self.coordinators.len())
            .filter(|who| Some(*who) != but && self.coordinators[*who].role == Role::Standby)
            .collect();
        if !ready.is_empty() {
            let who = *self.rng.pick(&ready);
            self.take_over(who);
        }
    }

    /// Reads the journal from where it stands to the head.
    fn follow(&mut self, who: usize) {
        let restart = self.index.restart;
        let coordinator = &mut self.coordinators[who];
        if coordinator.engine.is_none() {
            coordinator.generation = self.index.generation;
        }
        let mut restored = false;
        let engine = match &mut coordinator.engine {
            Some(engine) => engine,
            None => {
                let engine = match &self.snapshots.good {
                    Some((head, parts)) => {
                        restored = true;
                        restore(head, parts)
                    }
                    None => Ok(Engine::new(Shard(0))),
                };
                match engine {
                    Ok(mut engine) => {
                        engine.set_resident_budget(self.snapshots.budget);
                        engine.keep_ended();
                        coordinator.engine.insert(engine)
                    }
                    Err(why) => return self.fail(why),
                }
            }
        };
        let from = self.journal.messages.partition_point(|(seq, _)| *seq <= engine.seq());
        for (seq, bytes) in &self.journal.messages[from..] {
            if let Err(error) = engine.replay(*seq, bytes) {
                self.failure = Some(format!("replay: {error}"));
                return;
            }
        }
        engine.prune_dirty(restart);
        if restored {
            self.saw(Sight::SnapshotStart);
        }
        self.archive(who);
    }

    fn take_over(&mut self, who: usize) {
        let hot = self.coordinators[who].engine.is_some();
        self.saw(if hot { Sight::HotStandby } else { Sight::ColdReplay });
        self.saw(Sight::Takeover);
        self.follow(who);
        self.compare_states(who);
        let stepped = self.strikes(Fault::ClockStepped);
        let skew = if stepped { self.rng.below(14_400_000) as i64 - 7_200_000 } else { 0 };
        let policy = self.policy();
        let since = self.now - self.journal.last_time.min(self.now);
        let now = self.now;
        let backlog: BTreeSet<u64> = self.reports.messages.keys().copied().collect();
        let limits = self.clients.limits();
        let coordinator = &mut self.coordinators[who];
        let Some(engine) = coordinator.engine.as_mut() else { return };
        engine.open(&coordinator.name, policy);
        limits.into_iter().for_each(|input| engine.push(input, None));
        coordinator.role = Role::Owner;
        coordinator.base = (engine.state().now + since, now);
        coordinator.last_tick = now;
        coordinator.skew = skew;
        coordinator.backlog = backlog;
        self.owner = Some(who);
        self.wake_coordinator(who, 1);
        // The consumers were reset: everything unacknowledged comes again, in order, mostly.
        for queue in [Queue::Intake, Queue::Reports] {
            let ids: Vec<u64> = self.queue(queue).messages.keys().copied().collect();
            for id in ids {
                let late = if self.strikes(Fault::DeliveredLate) { self.rng.below(3_000) } else { 0 };
                self.after(2 + late, Event::Deliver { queue, id, again: true });
            }
        }
    }
}
