//! Messages of topics that become tasks: the owner's part of it, which is to decide each, between fakes of the stream, of one
//! durable consumer per trigger, and of what asks the owner for a task per message.
//!
//! Batches, rates of triggers and templates are not here: they stand before the core, in the runner of a trigger.

use std::collections::{BTreeMap, BTreeSet};

use selvedge::{
    flow::{input::Input, trigger::Fired},
    task::{Code, Refusal, TaskKey, TenantName, TriggerName, triggered_id},
};

use crate::{
    behaviour::Behaviour,
    coordinators::{Handle, Role},
    rng::Rng,
    scenario::{Fault, Sight},
    schemas::Judged,
    world::{Event, World},
};

/// A message that is not acknowledged comes again after this long.
const ACK_WAIT: u64 = 12_000;
/// Messages a trigger asks for at once.
const WINDOW: usize = 6;
/// Messages that are published in a run, about.
const MOST: u64 = 90;

/// As it is published, and stored perhaps more than once.
#[derive(Debug, Clone)]
pub struct Message {
    tenant: TenantName,
    id: Option<String>,
    behaviour: Behaviour,
    hops: u32,
}

struct Trigger {
    name: TriggerName,
    tenant: TenantName,
    /// Unacknowledged messages, and when they are delivered next.
    due: BTreeMap<u64, u64>,
    /// Messages no task could be made of.
    dead: BTreeMap<u64, Refusal>,
}

/// What a trigger has under way in one owner's term.
#[derive(Debug, Default)]
struct Term {
    life: u32,
    asked: BTreeSet<u64>,
    /// Told to wait.
    held: BTreeSet<u64>,
    pause: u64,
}

/// The topics' stream, and all that reads it.
pub struct Triggers {
    stream: Vec<Message>,
    all: Vec<Trigger>,
    terms: BTreeMap<(usize, usize), Term>,
    /// In whose term a message was asked for first.
    begun: BTreeMap<(usize, u64), (usize, u32)>,
    published: u64,
    /// Publications that have not been acknowledged.
    open: u64,
    rng: Rng,
}

impl Triggers {
    pub fn new(seed: u64) -> Self {
        let of = |name: &str, tenant: &str| Trigger {
            name: name.parse().unwrap(),
            tenant: tenant.parse().unwrap(),
            due: BTreeMap::new(),
            dead: BTreeMap::new(),
        };
        // Two of one tenant: a message is a task of each.
        let all = vec![of("first", "t0"), of("second", "t0"), of("other", "t1")];
        let rng = Rng::new(seed, 17);
        Self {
            stream: Vec::new(),
            all,
            terms: BTreeMap::new(),
            begun: BTreeMap::new(),
            published: 0,
            open: 0,
            rng,
        }
    }

    /// Whether nothing is under way.
    pub fn is_over(&self) -> bool {
        self.open == 0 && self.all.iter().all(|trigger| trigger.due.is_empty())
    }

    fn key(&self, at: usize, seq: u64) -> TaskKey {
        let (trigger, message) = (&self.all[at], &self.stream[seq as usize]);
        let id = match &message.id {
            Some(id) => triggered_id(&trigger.tenant, &trigger.name, &["id", id]),
            None => triggered_id(&trigger.tenant, &trigger.name, &["seq", "made", &seq.to_string()]),
        };
        TaskKey { tenant: trigger.tenant.clone(), id }
    }
}

impl World {
    pub fn is_triggered(&self) -> bool {
        self.scenario.has(Fault::Triggered) && self.scenario.cap.is_none()
    }

    /// Somebody publishes, now and then much at once. Until everything is healed.
    pub fn publisher_acts(&mut self) {
        if self.healing || self.triggers.published >= MOST {
            return;
        }
        let rng = &mut self.triggers.rng;
        let pause = rng.between(20, 2_500);
        let many = if rng.per_mille(100) { rng.between(6, 20) } else { 1 };
        for _ in 0..many {
            let (metered, talks) = (self.scenario.has(Fault::Metered), self.scenario.has(Fault::Talking));
            let triggers = &mut self.triggers;
            let rng = &mut triggers.rng;
            let forgetful = self.audit.forgetful;
            let levels = if forgetful { 0 } else { *rng.pick(&[0, 0, 0, 1]) };
            let behaviour =
                Behaviour { seed: rng.next(), levels, fan: 2, plain: 0, timed: 0, metered, talks };
            let tenant = format!("t{}", rng.below(2)).parse().unwrap();
            let id = rng.per_mille(700).then(|| format!("m{}", triggers.published));
            let message = Message { tenant, id, behaviour, hops: rng.below(4) as u32 };
            triggers.published += 1;
            triggers.open += 1;
            self.after(1, Event::TopicPublished(Box::new(message)));
        }
        self.after(pause, Event::PublisherActs);
    }

    /// A publication reaches the stream, or does not. Whoever gives ids publishes until it is acknowledged.
    pub fn topic_published(&mut self, message: Message) {
        let again = |world: &mut Self, message: Message| {
            world.after(2_000, Event::TopicPublished(Box::new(message)));
        };
        let named = message.id.is_some();
        if named && self.strikes(Fault::PublishLost) {
            return again(self, message);
        }
        let seq = self.triggers.stream.len() as u64;
        self.triggers.stream.push(message.clone());
        let spec = message.behaviour.spec();
        for at in 0..self.triggers.all.len() {
            if self.triggers.all[at].tenant == message.tenant {
                let (key, now) = (self.triggers.key(at, seq), self.now);
                self.triggers.all[at].due.insert(seq, now);
                self.asked_for(&spec);
                self.clients_attempt(&key, spec.body_hash());
                self.audit.triggered.insert(key, (spec.body_hash(), message.hops + 1));
            }
        }
        if named && self.strikes(Fault::PublishAckLost) {
            again(self, message);
        } else {
            self.triggers.open -= 1;
        }
    }

    /// An owner has begun its term.
    pub fn triggers_start(&mut self, who: usize) {
        if !self.is_triggered() {
            return;
        }
        let life = self.coordinators[who].life;
        for at in 0..self.triggers.all.len() {
            self.triggers.terms.insert((who, at), Term { life, ..Term::default() });
            self.after(5, Event::TriggerTurns { who, life, at });
        }
    }

    /// A trigger pulls, or asks again for what it was told to wait for, and pulls nothing meanwhile.
    pub fn trigger_turns(&mut self, who: usize, life: u32, at: usize) {
        let coordinator = &self.coordinators[who];
        if coordinator.life != life || coordinator.role != Role::Owner {
            return;
        }
        let now = self.now;
        if coordinator.paused_until > now {
            let delay = coordinator.paused_until - now;
            return self.after(delay, Event::TriggerTurns { who, life, at });
        }
        let pause = self.triggers.rng.between(10, 200);
        let Triggers { all, terms, .. } = &mut self.triggers;
        let Some(term) = terms.get_mut(&(who, at)).filter(|term| term.life == life) else { return };
        let (pause, ask) = match term.held.first().copied() {
            Some(first) => {
                term.held.remove(&first);
                term.pause = (term.pause * 2).clamp(20, 1_000);
                (term.pause, vec![first])
            }
            None => {
                let there = all[at].due.iter_mut().filter(|(_, due)| **due <= now);
                let mut ask = Vec::new();
                for (seq, due) in there.take(WINDOW.saturating_sub(term.asked.len())) {
                    *due = now + ACK_WAIT;
                    // One that is under way already is not asked for again.
                    if !term.asked.contains(seq) {
                        ask.push(*seq);
                    }
                }
                (pause, ask)
            }
        };
        ask.into_iter().for_each(|seq| self.ask(who, at, seq));
        self.after(pause, Event::TriggerTurns { who, life, at });
    }

    fn ask(&mut self, who: usize, at: usize, seq: u64) {
        let key = self.triggers.key(at, seq);
        let message = &self.triggers.stream[seq as usize];
        let spec = Box::new(message.behaviour.spec());
        let input = Input::Triggered { key, spec, hops: message.hops + 1 };
        if let Some(term) = self.triggers.terms.get_mut(&(who, at)) {
            term.asked.insert(seq);
            self.triggers.begun.entry((at, seq)).or_insert((who, term.life));
        }
        let twice = self.strikes(Fault::DeliveredTwice);
        let Some(engine) = self.coordinators[who].engine.as_mut() else { return };
        if twice {
            engine.push(input.clone(), Some(Handle::Fired(at, seq)));
        }
        engine.push(input, Some(Handle::Fired(at, seq)));
        self.wake_coordinator(who, 1);
    }

    /// The owner has told what became of a message.
    pub fn fired(&mut self, who: usize, (at, seq): (usize, u64), fired: Fired) {
        if let Err(why) = self.check_fired(who, (at, seq), &fired) {
            return self.fail(why);
        }
        let Some(term) = self.triggers.terms.get_mut(&(who, at)) else { return };
        let mut again = BTreeSet::new();
        let begun = self.triggers.begun.get(&(at, seq)).copied();
        let another = begun.is_some_and(|begun| begun != (who, term.life));
        term.asked.remove(&seq);
        match &fired {
            Fired::Later(_) => {
                term.held.insert(seq);
            }
            _ => {
                // There is room again.
                term.pause = 0;
                term.held.remove(&seq);
                again = std::mem::take(&mut term.held);
            }
        }
        self.saw(match &fired {
            Fired::Made => Sight::TriggerMade,
            Fired::Known => Sight::TriggerKnown,
            Fired::Refused(_) => Sight::TriggerDead,
            Fired::Later(refusal) if refusal.code == Code::Backpressure => Sight::TriggerNoRoom,
            Fired::Later(_) => Sight::TriggerFull,
        });
        if another && fired == Fired::Known {
            self.saw(Sight::TriggerTakenOver);
        }
        if let Fired::Refused(refusal) = &fired {
            self.triggers.all[at].dead.insert(seq, refusal.clone());
        }
        if !matches!(fired, Fired::Later(_)) && !self.strikes(Fault::QueueAckLost) {
            self.triggers.all[at].due.remove(&seq);
        }
        again.into_iter().for_each(|seq| self.ask(who, at, seq));
    }

    /// What is told of a message is what the journal holds, and what its input deserves.
    fn check_fired(&self, who: usize, (at, seq): (usize, u64), fired: &Fired) -> Result<(), String> {
        let key = self.triggers.key(at, seq);
        let behaviour = self.triggers.stream[seq as usize].behaviour;
        let judged = self.coordinators[who].said.judge(&behaviour.agent(), behaviour.seed);
        let known = self.audit.tasks.contains_key(&key);
        match fired {
            Fired::Made | Fired::Known if !known => {
                Err(format!("message {seq} is said to be task {key}, and the journal has none"))
            }
            Fired::Made | Fired::Known => Ok(()),
            Fired::Refused(refusal) => match refusal.code {
                Code::SchemaViolation if judged == Judged::Taken => {
                    Err(format!("message {seq} fits its schema, and is refused: {refusal}"))
                }
                Code::SchemaViolation | Code::CostExceeded => Ok(()),
                _ => Err(format!("message {seq} is dead for {refusal}")),
            },
            Fired::Later(refusal) => match refusal.code {
                Code::BacklogFull if judged == Judged::Refused => {
                    Err(format!("message {seq} fits no schema, and waits for room"))
                }
                Code::BacklogFull | Code::Backpressure => Ok(()),
                _ => Err(format!("message {seq} waits for {refusal}")),
            },
        }
    }

    /// At the end: every message is a task, or it is noted why not.
    pub fn check_triggers(&self) -> Result<(), String> {
        for (at, trigger) in self.triggers.all.iter().enumerate() {
            let own = self.triggers.stream.iter().enumerate();
            for (seq, _) in own.filter(|(_, message)| message.tenant == trigger.tenant) {
                let key = self.triggers.key(at, seq as u64);
                let dead = trigger.dead.contains_key(&(seq as u64));
                if !dead && !self.audit.tasks.contains_key(&key) {
                    return Err(format!("message {seq} of {} is lost", trigger.name));
                }
            }
        }
        Ok(())
    }
}
