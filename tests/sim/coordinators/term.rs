//! A term: inputs delivered, messages decided, appended and answered, effects performed.

use bytes::Bytes;
use selvedge::{
    flow::{
        engine::{Effect, Next},
        input::{Input, Tell},
    },
    wire::messages::{BeatReply, Ctl},
};

use super::{Handle, Role};
use crate::{
    bus::Queue,
    scenario::{Fault, Sight},
    world::{EPOCH_MS, Event, World},
};

/// A consumer delivers again after this long without an acknowledgement.
const ACK_WAIT: u64 = 15_000;
/// An append unanswered for this long is published again.
const APPEND_TIMEOUT: u64 = 2_000;

impl World {
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
