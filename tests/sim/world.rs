//! The world: logical time, one ordered queue of events, and everybody in it.
//!
//! ```text
//! clients ─▶ INTAKE ─▶ coordinators (the real engine) ─▶ JOURNAL ─▶ audit
//!               agents ◀── core NATS ──▶   │                └─────▶ fake index
//!                 └────▶ REPORTS ──────────┘
//! ```
//!
//! An event that finds a broken invariant sets `failure`, and the run ends there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use selvedge::{
    flow::{input::Input, state::Policy},
    task::{AgentName, Backoff, InstanceId, Token},
    wire::messages::{BeatReply, Ctl, Offer},
};

use crate::{
    agents::Agents,
    audit::Audit,
    bus::{Journal, Queue, WorkQueue},
    clients::Clients,
    coordinators::Coordinator,
    index::Index,
    objects::Objects,
    rng::Rng,
    scenario::{Counters, Fault, Scenario, Seen, Sight},
    schemas::Said,
    snapshots::Snapshots,
    triggers::{Message, Triggers},
};

/// Unix time at which every run starts.
pub const EPOCH_MS: u64 = 1_700_000_000_000;
/// Faults stop here at the latest, in simulated milliseconds.
const HEAL_AT: u64 = 20 * 60_000;
/// From then on everything must be over within this.
const HEAL_WITHIN: u64 = 40 * 60_000;

/// Something that will happen.
#[derive(Debug, Clone)]
pub enum Event {
    /// A message reaches its stream.
    Stored {
        queue: Queue,
        input: Input,
        from: Option<Publisher>,
    },
    /// The acknowledgement of that reaches the publisher.
    PubAck(Publisher),
    /// A publisher has waited long enough.
    PubTimeout(Publisher),
    /// A stored message reaches a coordinator.
    Deliver {
        queue: Queue,
        id: u64,
        again: bool,
    },
    /// Core NATS to every coordinator that listens.
    ToCoordinators {
        input: Input,
        reply: bool,
    },
    OfferTo {
        agent: AgentName,
        instance: InstanceId,
        epoch: u64,
        offer: Box<Offer>,
    },
    CtlTo {
        instance: InstanceId,
        ctl: Ctl,
    },
    BeatReplyTo {
        instance: InstanceId,
        reply: BeatReply,
    },
    /// A coordinator's loop turns.
    Step(usize),
    AppendArrives {
        who: usize,
        life: u32,
        attempt: u32,
        bytes: Bytes,
        expect: u64,
        /// What it was decided by.
        said: Arc<Said>,
    },
    AppendAnswer {
        who: usize,
        life: u32,
        attempt: u32,
        seq: Option<u64>,
    },
    AppendTimeout {
        who: usize,
        life: u32,
        attempt: u32,
    },
    /// A journal message that was asked for is read.
    Loaded {
        who: usize,
        life: u32,
        rev: u64,
    },
    /// Whoever watches the ownership lease looks at it.
    Watch,
    /// The indexer writes.
    Index,
    AgentStarts(usize),
    AgentBeats(InstanceId),
    AgentWorks(InstanceId, Token),
    AgentRepeats(InstanceId),
    AgentTrouble(usize),
    ClientActs,
    OperatorActs,
    CallerActs,
    /// The handler of a call is done.
    CallEnds(InstanceId, Token),
    PublisherActs,
    TopicPublished(Box<Message>),
    /// A trigger of an owner goes on.
    TriggerTurns {
        who: usize,
        life: u32,
        at: usize,
    },
}

/// Who waits for a PubAck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Publisher(pub usize);

pub struct World {
    pub scenario: Scenario,
    pub now: u64,
    pub rng: Rng,
    pub healing: bool,
    pub seen: Counters,
    pub failure: Option<String>,
    pub intake: WorkQueue,
    pub reports: WorkQueue,
    /// Reports that were delivered before their predecessors were applied.
    pub early: BTreeSet<u64>,
    pub journal: Journal,
    pub audit: Audit,
    pub index: Index,
    pub coordinators: Vec<Coordinator>,
    /// Whom the consumers deliver to.
    pub owner: Option<usize>,
    pub agents: Agents,
    pub clients: Clients,
    fault_rngs: Vec<Rng>,
    events: BTreeMap<(u64, u64), Event>,
    tick: u64,
    pub steps: u64,
    /// State of the last owner that died at rest, and the journal's head then.
    pub last_words: Option<(u64, Vec<u8>)>,
    pub snapshots: Snapshots,
    /// For messages and steps.
    pub talk: Rng,
    pub objects: Objects,
    /// Handlers that wait for a page of their history.
    pub asking: BTreeSet<(InstanceId, Token)>,
    /// For calls.
    pub calling: Rng,
    pub triggers: Triggers,
    /// For announcements.
    pub saying: Rng,
}

impl World {
    pub fn new(scenario: Scenario) -> Self {
        let mut rng = Rng::new(scenario.seed, 2);
        let fault_rngs = (0..Fault::ALL.len() as u64).map(|i| Rng::new(scenario.seed, 100 + i)).collect();
        let clients = Clients::new(&scenario, &mut Rng::new(scenario.seed, 3));
        let agents = Agents::new(&mut Rng::new(scenario.seed, 4));
        let coordinators = (0..2).map(|i| Coordinator::new(i, scenario.seed)).collect();
        let start = rng.between(1, 200);
        let mut world = Self {
            scenario,
            now: start,
            rng,
            healing: false,
            seen: Counters::default(),
            failure: None,
            intake: WorkQueue::default(),
            reports: WorkQueue::default(),
            early: BTreeSet::new(),
            journal: Journal::default(),
            audit: Audit::default(),
            index: Index::default(),
            coordinators,
            owner: None,
            agents,
            clients,
            fault_rngs,
            events: BTreeMap::new(),
            tick: 0,
            steps: 0,
            last_words: None,
            snapshots: Snapshots::new(scenario.seed),
            talk: Rng::new(scenario.seed, 14),
            objects: Objects::new(scenario.seed),
            asking: BTreeSet::new(),
            calling: Rng::new(scenario.seed, 15),
            triggers: Triggers::new(scenario.seed),
            saying: Rng::new(scenario.seed, 18),
        };
        world.audit.forgetful = scenario.has(Fault::Forgetful);
        if world.audit.forgetful {
            world.seen.count(Seen::Injected(Fault::Forgetful));
        }
        if scenario.has(Fault::Talking) {
            world.seen.count(Seen::Injected(Fault::Talking));
        }
        if scenario.has(Fault::Metered) {
            world.seen.count(Seen::Injected(Fault::Metered));
        }
        if scenario.has(Fault::Calling) {
            world.seen.count(Seen::Injected(Fault::Calling));
            world.after(500, Event::CallerActs);
        }
        if world.is_triggered() {
            world.seen.count(Seen::Injected(Fault::Triggered));
            world.after(300, Event::PublisherActs);
        }
        if scenario.has(Fault::Announcing) && scenario.cap.is_none() {
            world.seen.count(Seen::Injected(Fault::Announcing));
        }
        for event in [Event::Watch, Event::Index, Event::ClientActs, Event::OperatorActs] {
            world.after(1, event);
        }
        for slot in 0..world.agents.places() {
            world.after(slot as u64, Event::AgentStarts(slot));
        }
        world
    }

    pub fn policy(&self) -> Policy {
        let forgetful = self.scenario.has(Fault::Forgetful);
        Policy {
            backoff: Backoff { base_ms: 200, cap_ms: 5_000 },
            offer_timeout_ms: 2_500,
            dedupe_max: if forgetful { 25 } else { 100_000 },
            dedupe_horizon_ms: if forgetful { 60_000 } else { 24 * 3_600_000 },
            in_flight: if self.scenario.has(Fault::Metered) && self.scenario.cap.is_none() {
                9
            } else {
                1_000
            },
            ageing_ms: if self.scenario.has(Fault::Metered) { 4_000 } else { 60_000 },
            ..Policy::default()
        }
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.tick += 1;
        self.events.insert((self.now + delay, self.tick), event);
    }

    pub fn fail(&mut self, why: impl Into<String>) {
        let why = why.into();
        self.failure.get_or_insert_with(|| format!("at {} ms: {why}", self.now));
    }

    /// Whether this fault strikes now; counted if it does.
    pub fn strikes(&mut self, fault: Fault) -> bool {
        let drawn = self.fault_rngs[fault as usize].per_mille(fault.chance());
        let strikes = drawn && !self.healing && self.scenario.has(fault);
        if strikes {
            self.seen.count(Seen::Injected(fault));
        }
        strikes
    }

    pub fn saw(&mut self, sight: Sight) {
        self.seen.count(Seen::Observed(sight));
    }

    pub fn queue(&mut self, queue: Queue) -> &mut WorkQueue {
        match queue {
            Queue::Intake => &mut self.intake,
            Queue::Reports => &mut self.reports,
        }
    }

    /// Core NATS: at most once, sometimes late, sometimes twice, in any order.
    pub fn core(&mut self, lost: Fault, event: Event) {
        if self.strikes(lost) {
            return;
        }
        let mut delay = self.rng.between(1, 4);
        if self.strikes(Fault::CoreLate) {
            delay += self.rng.below(6_000);
        }
        if self.strikes(Fault::CoreTwice) {
            let again = delay + self.rng.below(3_000);
            self.after(again, event.clone());
        }
        self.after(delay, event);
    }

    /// JetStream: stored or not, acknowledged or not; `from` publishes again until acknowledged.
    pub fn publish(&mut self, queue: Queue, input: Input, from: Option<Publisher>) {
        if let Some(from) = from {
            self.after(2_000, Event::PubTimeout(from));
        }
        if self.strikes(Fault::PublishLost) {
            return;
        }
        let mut delay = self.rng.between(1, 4);
        if self.strikes(Fault::PublishLate) {
            delay += self.rng.below(8_000);
        }
        if self.strikes(Fault::PublishTwice) {
            let again = delay + self.rng.below(10_000);
            self.after(again, Event::Stored { queue, input: input.clone(), from: None });
        }
        self.after(delay, Event::Stored { queue, input, from });
    }

    fn stored(&mut self, queue: Queue, mut input: Input, from: Option<Publisher>) {
        if let Input::Submit { stored_at, .. } = &mut input {
            *stored_at = EPOCH_MS + self.now;
        }
        let id = self.queue(queue).store(input);
        let mut delay = 1;
        if self.strikes(Fault::DeliveredLate) {
            delay += self.rng.below(5_000);
        }
        self.after(delay, Event::Deliver { queue, id, again: false });
        if let Some(from) = from
            && !self.strikes(Fault::PublishAckLost)
        {
            self.after(1, Event::PubAck(from));
        }
    }

    /// Runs to the end. Returns what is wrong, if anything is.
    pub fn run(&mut self) -> Result<(), String> {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            if !self.healing
                && self.steps.is_multiple_of(128)
                && (self.is_mostly_over() || self.now >= HEAL_AT)
            {
                self.heal();
            }
            self.handle(event);
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if self.healing && self.steps.is_multiple_of(16) && self.is_over() {
                return self.finally();
            }
            if self.now > self.clients.healed_at() + HEAL_WITHIN {
                return Err(format!("I15: not over {HEAL_WITHIN} ms after the faults: {}", self.leftovers()));
            }
        }
        Err("the world stood still".to_owned())
    }

    fn handle(&mut self, event: Event) {
        self.steps += 1;
        match event {
            Event::Stored { queue, input, from } => self.stored(queue, input, from),
            Event::PubAck(from) => self.clients.acked(from),
            Event::PubTimeout(from) => self.publish_again(from),
            Event::Deliver { queue, id, again } => self.deliver(queue, id, again),
            Event::ToCoordinators { input, reply } => self.heard_by_coordinators(input, reply),
            Event::OfferTo { agent, instance, epoch, offer } => self.offered(agent, instance, epoch, *offer),
            Event::CtlTo { instance, ctl } => self.told(&instance, ctl),
            Event::BeatReplyTo { instance, reply } => self.beat_answered(&instance, reply),
            Event::Step(who) => self.step(who),
            Event::AppendArrives { who, life, attempt, bytes, expect, said } => {
                self.audit.said = said;
                self.append_arrives(who, life, attempt, bytes, expect);
            }
            Event::AppendAnswer { who, life, attempt, seq } => self.append_answered(who, life, attempt, seq),
            Event::AppendTimeout { who, life, attempt } => self.append_timed_out(who, life, attempt),
            Event::Loaded { who, life, rev } => self.loaded(who, life, rev),
            Event::Watch => self.watch(),
            Event::Index => self.write_index(),
            Event::AgentStarts(place) => self.agent_starts(place),
            Event::AgentBeats(instance) => self.agent_beats(&instance),
            Event::AgentWorks(instance, token) => self.agent_works(&instance, token),
            Event::AgentRepeats(instance) => self.agent_repeats(&instance),
            Event::AgentTrouble(place) => self.agent_trouble(place),
            Event::ClientActs => self.client_acts(),
            Event::OperatorActs => self.operator_acts(),
            Event::CallerActs => self.caller_acts(),
            Event::CallEnds(instance, token) => self.call_ends(&instance, token),
            Event::PublisherActs => self.publisher_acts(),
            Event::TopicPublished(message) => self.topic_published(*message),
            Event::TriggerTurns { who, life, at } => self.trigger_turns(who, life, at),
        }
    }

    /// Everything is submitted and most of it done: the rest shall end without faults.
    fn is_mostly_over(&self) -> bool {
        let over = self.audit.tasks.values().filter(|k| k.is_over()).count();
        let late = self.scenario.cap.is_none() && self.now > self.clients.last_submit + 20_000;
        let enough = self.clients.wanted <= 100 || self.audit.tasks.len() >= self.clients.wanted;
        enough && self.clients.is_done() && (late || over * 5 >= self.audit.tasks.len() * 4)
    }

    /// From here on nothing goes wrong any more.
    fn heal(&mut self) {
        self.healing = true;
        self.clients.heal(self.now);
        self.operator_heals();
        for coordinator in &mut self.coordinators {
            coordinator.paused_until = coordinator.paused_until.min(self.now);
            coordinator.skew = 0;
        }
    }
}
