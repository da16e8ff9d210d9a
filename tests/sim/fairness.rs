//! Who gets the slots: the real engine under random arrivals, durations, weights and instances that come and go.
//!
//! Two things are audited after every event. Of any two tenants that have both had work waiting since some moment, slot-time
//! per weight since then differs by no more than what was in flight can account for, however long that was. And whoever
//! comes with a first task is started within one task's length, whatever the others have queued.

use std::collections::{BTreeMap, VecDeque};

use selvedge::{
    flow::{
        engine::{Effect, Engine, Next},
        input::{Input, Tell},
        state::Policy,
    },
    task::{AgentName, InstanceId, Millis, Outcome, Overrides, Payload, TaskKey, TenantName, TenantSettings},
    wire::{
        messages::{Accept, Beat, End, Offer, Report, ReportOp, Submit},
        subjects::Shard,
    },
};

use crate::rng::Rng;

const TENANTS: usize = 5;
/// The longest task.
const LONGEST: Millis = 500;
/// Tasks a backlogged tenant has waiting.
const WAITING: usize = 40;
/// Slots, as instances come and go.
const INSTANCES: (u64, u64) = (2, 5);
const SLOTS: u32 = 4;
const LENGTH: Millis = 200_000;

struct Running {
    offer: Offer,
    instance: InstanceId,
    end: Millis,
}

/// What is known of a tenant.
#[derive(Default, Clone)]
struct Share {
    weight: u32,
    waiting: usize,
    /// Slot-milliseconds so far.
    used: u64,
    /// Whether it keeps a backlog now.
    greedy: bool,
}

struct World {
    engine: Engine<()>,
    rng: Rng,
    now: Millis,
    seq: u64,
    kv_rev: u64,
    next: u64,
    instances: VecDeque<InstanceId>,
    running: Vec<Running>,
    shares: Vec<Share>,
    /// Pairs that have both had work waiting, with what each had used per weight when that began.
    since: BTreeMap<(usize, usize), (f64, f64)>,
    /// Visitors that wait, and since when.
    visitors: BTreeMap<TenantName, Millis>,
    seen: Seen,
}

/// How often each thing happened.
#[derive(Debug, Default)]
struct Seen {
    ended: u64,
    visits: u64,
    compared: u64,
    left: u64,
    weighed_anew: u64,
    widest: f64,
}

fn agent() -> AgentName {
    "reader".parse().unwrap()
}

fn tenant(n: usize) -> TenantName {
    format!("t{n}").parse().unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut engine = Engine::new(Shard(0));
        engine.open("c", Policy { backlog: 1_000_000, ..Policy::default() });
        engine.live_mut().listen();
        let mut world = Self {
            engine,
            rng: Rng::new(seed, 7),
            now: 1,
            seq: 0,
            kv_rev: 0,
            next: 0,
            instances: VecDeque::new(),
            running: Vec::new(),
            shares: vec![Share::default(); TENANTS],
            since: BTreeMap::new(),
            visitors: BTreeMap::new(),
            seen: Seen::default(),
        };
        for n in 0..TENANTS {
            world.weigh(n);
            world.shares[n].greedy = true;
        }
        (0..INSTANCES.0).for_each(|_| world.join());
        world.turn();
        world
    }

    fn weigh(&mut self, n: usize) {
        let weight = *self.rng.pick(&[1, 2, 3, 4, 8]);
        self.shares[n].weight = weight;
        self.set(tenant(n), weight);
        // From now on another share is its own.
        self.since.retain(|(a, b), _| *a != n && *b != n);
    }

    fn set(&mut self, name: TenantName, weight: u32) {
        self.kv_rev += 1;
        let overrides = Overrides {
            in_flight: Some(10_000),
            rate: Some(1_000_000),
            burst: Some(1_000_000),
            backlog: Some(1_000_000),
            weight: Some(weight),
            ..Overrides::default()
        };
        let settings = TenantSettings { overrides, ..TenantSettings::under("pro".parse().unwrap()) };
        self.engine.push(Input::Tenant { name, settings: Some(settings), kv_rev: self.kv_rev }, None);
    }

    fn join(&mut self) {
        self.next += 1;
        let id: InstanceId = format!("i-{}", self.next).parse().unwrap();
        self.beat(&id, false);
        self.instances.push_back(id);
    }

    fn beat(&mut self, id: &InstanceId, draining: bool) {
        let tokens = self.running.iter().filter(|r| r.instance == *id).map(|r| r.offer.token).collect();
        let body = Beat {
            v: 1,
            slots: SLOTS,
            tokens,
            lease_ms: 24 * 3_600_000,
            draining,
            messages: false,
            calls: None,
            about: None,
            ahead: 0,
            call_slots: 0,
        };
        self.engine.push(Input::Beat { agent: agent(), instance: id.clone(), body }, None);
    }

    fn submit(&mut self, tenant: TenantName) {
        self.next += 1;
        let body = Submit {
            labels: None,
            v: 1,
            input: Payload::default(),
            priority: Default::default(),
            max_tries: None,
            times: None,
            cost: None,
            first_try: Some(self.now),
            confirm: false,
            hops: 0,
        };
        let key = TaskKey { tenant, id: format!("k-{}", self.next).parse().unwrap() };
        self.engine.push(Input::Submit { key, agent: agent(), body: Ok(body), stored_at: self.now }, None);
    }

    /// Mostly short, some long: the mean says little about the next.
    fn length(&mut self) -> Millis {
        match self.rng.below(10) {
            0..=5 => self.rng.between(1, 20),
            6..=8 => self.rng.between(20, 120),
            _ => self.rng.between(120, LONGEST),
        }
    }

    fn turn(&mut self) {
        loop {
            let effects = match self.engine.next(self.now, self.now, &mut self.rng).unwrap() {
                Next::Append { .. } => {
                    self.seq += 1;
                    self.engine.appended(self.seq)
                }
                Next::Effects(effects) => effects,
                Next::Idle => break,
            };
            for effect in effects {
                if let Effect::Tell(Tell::Offer { instance, offer, .. }) = effect {
                    self.start(instance, *offer);
                }
            }
        }
    }

    fn start(&mut self, instance: InstanceId, offer: Offer) {
        if let Some(came) = self.visitors.remove(&offer.tenant) {
            let waited = self.now - came;
            assert!(waited <= LONGEST, "{} waited {waited} ms at {}", offer.tenant, self.now);
            self.seen.visits += 1;
        }
        if let Some(n) = self.index(&offer.tenant) {
            self.shares[n].waiting -= 1;
        }
        let body = Accept { v: 1, taken: vec![offer.token], busy: vec![], over: vec![] };
        self.engine.push(Input::Accept { agent: agent(), instance: instance.clone(), body }, None);
        let end = self.now + self.length();
        self.running.push(Running { offer, instance, end });
    }

    fn index(&self, name: &TenantName) -> Option<usize> {
        (0..TENANTS).find(|n| tenant(*n) == *name)
    }

    fn end(&mut self, at: usize) {
        let Running { offer, instance, .. } = self.running.swap_remove(at);
        let key = TaskKey { tenant: offer.tenant, id: offer.task };
        let op = ReportOp::End(End {
            last_event: 0,
            outcome: Outcome::Completed { result: Payload::default() },
            used: None,
        });
        let (token, attempt) = (offer.token, offer.attempt);
        let body = Ok(Report { v: 1, token, attempt, agent: agent(), instance, n: 1, op });
        self.engine.push(Input::Report { key, body }, None);
        self.seen.ended += 1;
    }

    /// Everybody who is greedy has enough waiting.
    fn refill(&mut self) {
        for n in 0..TENANTS {
            while self.shares[n].greedy && self.shares[n].waiting < WAITING {
                self.shares[n].waiting += 1;
                self.submit(tenant(n));
            }
        }
    }

    /// Time passes until the next end, or a little.
    fn pass(&mut self) {
        let next = self.running.iter().map(|running| running.end).min().unwrap_or(self.now + 1);
        let ms = next.saturating_sub(self.now);
        for running in &self.running {
            if let Some(n) = self.index(&running.offer.tenant) {
                self.shares[n].used += ms;
            }
        }
        self.now += ms;
        while let Some(at) = self.running.iter().position(|running| running.end <= self.now) {
            self.end(at);
        }
    }

    fn happen(&mut self) {
        match self.rng.below(1_000) {
            0..=4 if self.instances.len() < INSTANCES.1 as usize => self.join(),
            5..=9 if self.instances.len() > INSTANCES.0 as usize => {
                let id = self.instances.pop_front().unwrap();
                self.beat(&id, true);
                self.seen.left += 1;
            }
            10..=12 => {
                let n = self.rng.below(TENANTS as u64) as usize;
                self.weigh(n);
                self.seen.weighed_anew += 1;
            }
            13..=17 => {
                let n = self.rng.below(TENANTS as u64) as usize;
                self.shares[n].greedy ^= true;
            }
            20..=29 if self.visitors.is_empty() => {
                self.next += 1;
                let visitor: TenantName = format!("visitor-{}", self.next).parse().unwrap();
                self.set(visitor.clone(), 1);
                self.submit(visitor.clone());
                self.visitors.insert(visitor, self.now);
            }
            _ => {}
        }
    }

    fn audit(&mut self) {
        let per_weight = |share: &Share| share.used as f64 / f64::from(share.weight);
        // Virtual times are apart by no more than what is in flight and one task more, and what is in flight may turn out
        // to be as much longer, or shorter, than it was charged for. So it is at both ends of the time that is looked at.
        let in_flight = f64::from(SLOTS) * INSTANCES.1 as f64;
        for a in 0..TENANTS {
            for b in a + 1..TENANTS {
                let (of_a, of_b) = (&self.shares[a], &self.shares[b]);
                if of_a.waiting == 0 || of_b.waiting == 0 {
                    self.since.remove(&(a, b));
                    continue;
                }
                let now = (per_weight(of_a), per_weight(of_b));
                let then = *self.since.entry((a, b)).or_insert(now);
                let apart = ((now.0 - then.0) - (now.1 - then.1)).abs();
                let each =
                    |share: &Share| 2.0 * (1.0 + 2.0 * in_flight) * LONGEST as f64 / f64::from(share.weight);
                let bound = each(of_a).max(each(of_b));
                self.seen.widest = self.seen.widest.max(apart / bound);
                self.seen.compared += 1;
                assert!(apart <= bound, "t{a} and t{b} are {apart} ms per weight apart, at most {bound}");
            }
        }
        if let Some((name, came)) = self.visitors.iter().find(|(_, came)| self.now > **came + LONGEST) {
            panic!("{name} waits since {came}, and it is {}", self.now);
        }
    }
}

fn run(seed: u64) -> Seen {
    let mut world = World::new(seed);
    while world.now < LENGTH {
        world.happen();
        world.refill();
        world.turn();
        world.audit();
        world.pass();
    }
    world.engine.state().check_derived().unwrap();
    world.seen
}

#[test]
fn slots_follow_weights_and_a_newcomer_waits_one_task_whatever_comes_and_goes() {
    let seeds: u64 = std::env::var("SELVEDGE_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let mut all = Seen::default();
    for seed in 0..seeds.min(2_000) / 100 + 1 {
        let seen = run(seed);
        all.ended += seen.ended;
        all.visits += seen.visits;
        all.compared += seen.compared;
        all.left += seen.left;
        all.weighed_anew += seen.weighed_anew;
        all.widest = all.widest.max(seen.widest);
    }
    assert!(all.ended > 10_000 && all.visits > 50 && all.left > 10 && all.weighed_anew > 10, "{all:?}");
    assert!(all.compared > 50_000 && all.widest > 0.02, "the bound means something: {all:?}");
    println!("{all:?}");
}
