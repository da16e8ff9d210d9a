//! Coordinators: the real engine, driven as the owner's loop drives it, with its process dying,
//! pausing, being superseded and losing answers at every step.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use selvedge::{
    flow::{
        engine::{Effect, Engine, Next},
        input::{Input, Tell},
    },
    task::InstanceId,
    wire::{
        messages::{BeatReply, Ctl},
        subjects::Shard,
    },
};

use crate::{
    bus::Queue,
    rng::Rng,
    scenario::{Fault, Sight},
    schemas::{Heard, Said},
    snapshots::restore,
    world::{EPOCH_MS, Event, World},
};

/// A consumer delivers again after this long without an acknowledgement.
const ACK_WAIT: u64 = 15_000;
/// An append unanswered for this long is published again.
const APPEND_TIMEOUT: u64 = 2_000;
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

    pub fn wake_coordinator(&mut self, who: usize, delay: u64) {
        let coordinator = &mut self.coordinators[who];
        let at = (self.now + delay).max(coordinator.paused_until);
        if coordinator.role == Role::Owner && coordinator.stepping.is_none_or(|already| already > at) {
            coordinator.stepping = Some(at);
            let delay = at - self.now;
            self.after(delay, Event::Step(who));
        }
    }

    pub fn deliver(&mut self, queue: Queue, id: u64, again: bool) {
        let Some((input, times)) = self.queue(queue).messages.get_mut(&id) else { return };
        *times += 1;
        let (input, times) = (input.clone(), *times);
        if times > 1 {
            self.saw(Sight::Redelivered);
        }
        let zombie = (0..self.coordinators.len())
            .find(|who| Some(*who) != self.owner && self.coordinators[*who].role == Role::Owner);
        let who = match zombie {
            Some(zombie) if self.strikes(Fault::DeliveredToZombie) => Some(zombie),
            _ => self.owner,
        };
        if !again || times > 1 {
            self.after(ACK_WAIT, Event::Deliver { queue, id, again: true });
        }
        let Some(who) = who else { return };
        if let Input::Report { body: Ok(report), .. } = &input
            // Who owns the shard no more is behind: to it every report may be early.
            && (zombie == Some(who)
                || self.audit.granted.get(&report.token).is_some_and(|g| report.n > g.applied + 1))
        {
            self.early.insert(id);
        }
        let coordinator = &mut self.coordinators[who];
        coordinator.backlog.remove(&id);
        let Some(engine) = coordinator.engine.as_mut() else { return };
        engine.push(input.clone(), Some(Handle::Stored(queue, id)));
        if self.strikes(Fault::DeliveredTwice)
            && let Some(engine) = self.coordinators[who].engine.as_mut()
        {
            engine.push(input, Some(Handle::Stored(queue, id)));
        }
        self.wake_coordinator(who, 1);
    }

    pub fn heard_by_coordinators(&mut self, input: Input, reply: bool) {
        for who in 0..self.coordinators.len() {
            if self.coordinators[who].role != Role::Owner {
                continue;
            }
            let handle = match &input {
                Input::Beat { instance, .. } if reply => Some(Handle::Beat(instance.clone())),
                _ => None,
            };
            let mut input = input.clone();
            let announced = match &mut input {
                Input::Beat { agent, instance, body } => self.hears(who, agent, instance, body),
                _ => None,
            };
            if let Some(engine) = self.coordinators[who].engine.as_mut() {
                engine.push(input, handle);
                announced.into_iter().for_each(|input| engine.push(input, None));
            }
            self.wake_coordinator(who, 1);
        }
    }

    /// One turn of the owner's loop.
    pub fn step(&mut self, who: usize) {
        let now = self.now;
        let coordinator = &mut self.coordinators[who];
        if coordinator.stepping != Some(now) {
            return; // superseded by an earlier turn
        }
        coordinator.stepping = None;
        if coordinator.paused_until > now {
            return self.wake_coordinator(who, 0);
        }
        let Some(engine) = coordinator.engine.as_mut().filter(|_| coordinator.role == Role::Owner) else {
            return;
        };
        if coordinator.in_flight.is_some() {
            return;
        }
        engine.live_mut().tick(now - coordinator.last_tick, true);
        coordinator.last_tick = now;
        engine.live_mut().forget_silent();
        let before = self.known_now(who);
        let coordinator = &mut self.coordinators[who];
        let Some(engine) = coordinator.engine.as_mut() else { return };
        let shard_now = coordinator.base.0 + (now - coordinator.base.1);
        let wall = (EPOCH_MS + now).saturating_add_signed(coordinator.skew);
        let next = match engine.next(shard_now, wall, &mut coordinator.entropy) {
            Ok(next) => next,
            Err(error) => return self.fail(format!("the owner halts: {error}")),
        };
        self.has_judged(who, &before);
        match next {
            Next::Idle => {
                self.answer_pages();
                self.look_at_times(who, shard_now, wall);
                self.listen_when_drained(who);
                self.look_at_limits(who);
                self.look_at_calls(who);
                self.look_at_kept_slots(who);
                self.wake_coordinator(who, 250);
            }
            Next::Effects(effects) => {
                self.perform(who, effects);
                self.answer_pages();
                self.listen_when_drained(who);
                self.wake_coordinator(who, 1);
            }
            Next::Append { bytes, expect } => {
                if self.strikes(Fault::CrashBeforeAppend) {
                    return self.crash(who);
                }
                self.coordinators[who].in_flight = Some((bytes, expect));
                self.send_append(who);
            }
        }
    }

    fn send_append(&mut self, who: usize) {
        let coordinator = &mut self.coordinators[who];
        let Some((bytes, expect)) = coordinator.in_flight.clone() else { return };
        coordinator.attempt += 1;
        let (life, attempt, said) = (coordinator.life, coordinator.attempt, coordinator.said.clone());
        self.after(APPEND_TIMEOUT, Event::AppendTimeout { who, life, attempt });
        if self.strikes(Fault::AppendLost) {
            return;
        }
        let mut delay = self.rng.between(1, 5);
        if self.strikes(Fault::AppendLate) {
            delay += self.rng.between(1_000, 8_000);
        }
        self.after(delay, Event::AppendArrives { who, life, attempt, bytes, expect, said });
    }

    pub fn append_arrives(&mut self, who: usize, life: u32, attempt: u32, bytes: Bytes, expect: u64) {
        let gap = if self.rng.per_mille(50) { self.rng.below(5) } else { 0 };
        let seq = self.journal.append(&bytes, expect, gap, self.now);
        if seq.is_some() {
            self.seen.messages += 1;
            self.audit.true_wall = EPOCH_MS + self.now;
            if let Err(why) = self.audit.fold(&bytes) {
                return self.fail(why);
            }
            for sight in std::mem::take(&mut self.audit.sights) {
                self.saw(sight);
            }
        }
        if !self.strikes(Fault::AppendAckLost) {
            self.after(1, Event::AppendAnswer { who, life, attempt, seq });
        }
    }

    pub fn append_answered(&mut self, who: usize, life: u32, attempt: u32, seq: Option<u64>) {
        let coordinator = &mut self.coordinators[who];
        if coordinator.life != life || coordinator.attempt != attempt || coordinator.in_flight.is_none() {
            return;
        }
        if coordinator.paused_until > self.now {
            let delay = coordinator.paused_until - self.now;
            return self.after(delay, Event::AppendAnswer { who, life, attempt, seq });
        }
        let ours = self.journal.messages.last().filter(|(_, bytes)| {
            self.coordinators[who].in_flight.as_ref().is_some_and(|(own, _)| own == bytes)
        });
        let seq = match (seq, ours) {
            (Some(seq), _) => seq,
            (None, Some((seq, _))) => {
                let seq = *seq;
                self.saw(Sight::OwnHashAtHead);
                seq
            }
            (None, None) => {
                self.saw(Sight::CasLost);
                self.coordinators[who].leave(Role::Standby);
                return;
            }
        };
        self.coordinators[who].in_flight = None;
        if self.strikes(Fault::CrashAfterAppend) {
            return self.crash(who);
        }
        let Some(engine) = self.coordinators[who].engine.as_mut() else { return };
        let was_open = engine.is_open();
        let effects = engine.appended(seq);
        if !was_open {
            if self.coordinators[who].engine.as_ref().is_some_and(|e| !e.state().permits().is_empty()) {
                self.saw(Sight::PermitsInherited);
            }
            self.hello();
            self.triggers_start(who);
            if effects.iter().any(|e| matches!(e, Effect::Tell(Tell::Offer { .. }) | Effect::Load { .. })) {
                self.saw(Sight::OfferInherited);
            }
        }
        self.perform(who, effects);
        self.wake_coordinator(who, 1);
        self.listen_when_drained(who);
        self.look_closer(who);
        self.archive(who);
        self.snapshot(who);
        self.fill(who);
        self.read_results(who);
    }

    pub fn append_timed_out(&mut self, who: usize, life: u32, attempt: u32) {
        let coordinator = &self.coordinators[who];
        if coordinator.life != life || coordinator.attempt != attempt || coordinator.in_flight.is_none() {
            return;
        }
        if coordinator.paused_until > self.now {
            let delay = coordinator.paused_until - self.now;
            return self.after(delay, Event::AppendTimeout { who, life, attempt });
        }
        self.send_append(who);
    }

    /// Leases may expire once what was reported before the take-over has been looked at.
    fn listen_when_drained(&mut self, who: usize) {
        let reports = &self.reports;
        let coordinator = &mut self.coordinators[who];
        coordinator.backlog.retain(|id| reports.messages.contains_key(id));
        if let Some(engine) = coordinator.engine.as_mut()
            && coordinator.backlog.is_empty()
            && !engine.live().is_listening()
        {
            engine.live_mut().listen();
        }
    }

    fn perform(&mut self, who: usize, effects: Vec<Effect<Handle>>) {
        let Some(epoch) = self.coordinators[who].engine.as_ref().map(|e| e.state().epoch) else { return };
        let stop_at = if self.strikes(Fault::CrashAmidEffects) {
            self.rng.below(effects.len() as u64 + 1) as usize
        } else {
            usize::MAX
        };
        for (at, effect) in effects.into_iter().enumerate() {
            if at == stop_at {
                break;
            }
            if let Err(why) = self.check_effect(&effect).and_then(|()| self.check_told(&effect)) {
                return self.fail(why);
            }
            match effect {
                Effect::Ack(Handle::Stored(queue, id)) => {
                    if !self.strikes(Fault::QueueAckLost) {
                        self.queue(queue).messages.remove(&id);
                    }
                }
                Effect::Ack(Handle::Beat(..) | Handle::Fired(..)) => {}
                Effect::Beat(Handle::Beat(instance), stop) => {
                    let reply = BeatReply { v: 1, epoch, stop };
                    self.core(Fault::CtlLost, Event::BeatReplyTo { instance, reply });
                }
                Effect::DropKept { key } => self.drop_objects(&key),
                Effect::Load { rev } => self.load(who, rev),
                Effect::Fired(Handle::Fired(at, seq), fired) => self.fired(who, (at, seq), fired),
                Effect::Beat(..) | Effect::Fired(..) => self.fail("an answer to whom nobody asked for"),
                Effect::Tell(Tell::Offer { agent, instance, offer }) => {
                    self.core(Fault::OfferLost, Event::OfferTo { agent, instance, epoch, offer });
                }
                Effect::Tell(Tell::Ctl { instance, op, .. }) => {
                    let ctl = Ctl { v: 1, epoch, ops: vec![op] };
                    self.core(Fault::CtlLost, Event::CtlTo { instance, ctl });
                }
                Effect::Tell(Tell::Call { instance, call, .. }) => {
                    self.call_given(who, instance, epoch, *call)
                }
                Effect::Tell(Tell::CallFailed { refusal, .. }) => self.call_refused(&refusal),
                Effect::Tell(Tell::Done { .. }) => {} // a hint; clients here read the journal
            }
        }
        if stop_at != usize::MAX {
            self.crash(who);
        }
    }
}
