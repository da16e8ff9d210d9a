//! The core's hot functions by themselves, without servers: `just bench-core`, or `just bench-core fair` for some.
//!
//! A stage is one thing the owner does to many tasks: the engine is brought to where the stage begins, outside of the
//! clock, and then runs until it has nothing left to do. The number of tasks is the throughput, so times read as "per
//! task". No I/O: appends are acknowledged at once.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use selvedge::flow::engine::{Effect, Engine, Next};
use selvedge::flow::fair::{Ageing, AgentQueue};
use selvedge::flow::input::{Entropy, Input, Tell};
use selvedge::flow::query;
use selvedge::flow::record::JournalMessage;
use selvedge::flow::state::Policy;
use selvedge::flow::tasks::Slot;
use selvedge::store::record;
use selvedge::task::{
    AgentName, InstanceId, Outcome, Payload, Plan, PlanName, TaskId, TaskKey, TenantName, Token,
};
use selvedge::wire::codec;
use selvedge::wire::messages::{Beat, DEFAULT_LEASE_MS, End, Offer, Report, ReportOp, Submit};
use selvedge::wire::subjects::Shard;

/// Tasks of a stage.
const TASKS: u64 = 256;
const TENANTS: u64 = 50;
const WALL: u64 = 1_700_000_000_000;

/// Tokens in order: unguessable ones would measure a random number generator.
struct Counted(u128);

impl Entropy for Counted {
    fn token(&mut self) -> Token {
        self.0 += 1;
        Token(self.0)
    }

    fn jitter(&mut self) -> u64 {
        0
    }
}

/// An engine that owns its shard, and what it has written and offered.
struct Owner {
    engine: Engine<()>,
    entropy: Counted,
    seq: u64,
    journal: Vec<bytes::Bytes>,
    offers: Vec<Offer>,
}

fn agent() -> AgentName {
    AgentName::new("noop").expect("a name")
}

fn instance() -> InstanceId {
    InstanceId::new("i1").expect("a name")
}

fn tenant(n: u64) -> TenantName {
    TenantName::new(format!("t{n}")).expect("a name")
}

fn key(n: u64) -> TaskKey {
    TaskKey { tenant: tenant(n % TENANTS), id: TaskId::new(format!("{n:032x}")).expect("an id") }
}

fn submit() -> Submit {
    let input = Payload::Bytes(vec![7; 256].into());
    Submit {
        input,
        first_try: Some(WALL),
        ..codec::unpack(&codec::pack(&Empty {})).expect("all has defaults")
    }
}

#[derive(serde::Serialize)]
struct Empty {}

impl Owner {
    fn new() -> Owner {
        let name = PlanName::new("bench").expect("a name");
        let policy = Policy { default_plan: Some(name.clone()), ..Policy::default() };
        let mut engine = Engine::new(Shard(0));
        engine.open("bench", policy);
        let plan = Plan { in_flight: 1_000, rate: 100_000, burst: 100_000, ..Plan::pro() };
        engine.push(Input::Plan { name, plan: Some(plan), kv_rev: 1 }, None);
        engine.live_mut().listen();
        let entropy = Counted(0);
        let mut owner = Owner { engine, entropy, seq: 0, journal: Vec::new(), offers: Vec::new() };
        owner.run();
        owner
    }

    /// Turns until there is nothing left to do.
    fn run(&mut self) {
        loop {
            let effects = match self.engine.next(1_000, WALL, &mut self.entropy).expect("a journal that fits")
            {
                Next::Idle => return,
                Next::Effects(effects) => effects,
                Next::Append { bytes, .. } => {
                    self.seq += 1;
                    self.journal.push(bytes);
                    self.engine.appended(self.seq)
                }
            };
            self.offers.extend(effects.into_iter().filter_map(|effect| match effect {
                Effect::Tell(Tell::Offer { offer, .. }) => Some(*offer),
                _ => None,
            }));
        }
    }

    fn push_submits(&mut self) {
        for n in 0..TASKS {
            let body = Ok(submit());
            self.engine.push(Input::Submit { key: key(n), agent: agent(), body, stored_at: WALL }, Some(()));
        }
    }

    fn push_beat(&mut self) {
        let body = Beat {
            v: selvedge::wire::VERSION,
            slots: TASKS as u32,
            tokens: Vec::new(),
            lease_ms: DEFAULT_LEASE_MS,
            draining: false,
            messages: false,
            calls: None,
            ahead: 0,
            about: None,
            call_slots: 0,
        };
        self.engine.push(Input::Beat { agent: agent(), instance: instance(), body }, None);
    }

    fn push_ends(&mut self) {
        for offer in std::mem::take(&mut self.offers) {
            let outcome = Outcome::Completed { result: Payload::default() };
            let body = Report {
                v: selvedge::wire::VERSION,
                token: offer.token,
                attempt: offer.attempt,
                agent: agent(),
                instance: instance(),
                n: 1,
                op: ReportOp::End(End { last_event: 0, outcome, used: None }),
            };
            let key = TaskKey { tenant: offer.tenant, id: offer.task };
            self.engine.push(Input::Report { key, body: Ok(body) }, Some(()));
        }
    }

    fn queued() -> Owner {
        let mut owner = Owner::new();
        owner.push_submits();
        owner.run();
        owner
    }

    fn running() -> Owner {
        let mut owner = Owner::queued();
        owner.push_beat();
        owner.run();
        assert_eq!(owner.offers.len() as u64, TASKS, "everything runs");
        owner
    }
}

fn stages(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(TASKS));
    let submits = || {
        let mut owner = Owner::new();
        owner.push_submits();
        owner
    };
    let run = |mut owner: Owner| {
        owner.run();
        owner
    };
    group.bench_function("submit", |b| b.iter_batched(submits, run, BatchSize::PerIteration));
    let dispatches = || {
        let mut owner = Owner::queued();
        owner.push_beat();
        owner
    };
    group.bench_function("dispatch", |b| b.iter_batched(dispatches, run, BatchSize::PerIteration));
    let ends = || {
        let mut owner = Owner::running();
        owner.push_ends();
        owner
    };
    group.bench_function("settle", |b| b.iter_batched(ends, run, BatchSize::PerIteration));
    group.finish();
}

fn codecs(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    let body = codec::pack(&submit());
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode a submit", |b| {
        b.iter(|| codec::decode_any::<Submit>(None, black_box(&body), 1 << 20).1.expect("it is one"));
    });
    let owner = Owner::queued();
    // The fullest: a message of submits.
    let bytes = owner.journal.iter().max_by_key(|bytes| bytes.len()).expect("a journal").clone();
    let message = JournalMessage::decode(&bytes).expect("our own");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode a journal message", |b| b.iter(|| black_box(&message).encode()));
    group.bench_function("decode a journal message", |b| {
        b.iter(|| JournalMessage::decode(black_box(&bytes)).expect("our own"));
    });
    group.finish();
}

fn replay(c: &mut Criterion) {
    let mut owner = Owner::running();
    owner.push_ends();
    owner.run();
    let journal = owner.journal;
    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Elements(TASKS));
    group.bench_function("a task from its submit to its end", |b| {
        b.iter_batched(
            || Engine::<()>::new(Shard(0)),
            |mut engine| {
                for (seq, bytes) in (1..).zip(&journal) {
                    engine.replay(seq, bytes).expect("our own");
                }
                engine
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// One slot that serves tenants which always have more to do.
fn fair(c: &mut Criterion) {
    let mut group = c.benchmark_group("fair");
    group.throughput(Throughput::Elements(1));
    for tenants in [1, 1_000, 10_000] {
        let mut queue = AgentQueue::default();
        let mut order = 0;
        // A task's slot is its place in the order of arrival, so that the one tells the other.
        let mut push = |queue: &mut AgentQueue, tenant: u32| {
            order += 1;
            queue.push(tenant, (3, u64::from(order)), Slot(order), 1);
            queue.set_open(tenant, true, true);
        };
        for tenant in 0..tenants {
            (0..4).for_each(|_| push(&mut queue, tenant));
        }
        group.bench_function(format!("one task of {tenants} tenants"), |b| {
            b.iter(|| {
                let (tenant, slot) = queue.next(Ageing::default()).expect("a task");
                let charge = queue.start(tenant, (3, u64::from(slot.0)), 1);
                queue.settle(tenant, charge, Some(1), 1);
                push(&mut queue, tenant);
            });
        });
    }
    group.finish();
}

fn index(c: &mut Criterion) {
    let mut owner = Owner::running();
    owner.push_ends();
    owner.run();
    let key = key(7);
    let state = owner.engine.state();
    let view = query::view(state, &key).expect("it ended just now, and is no tombstone");
    let result = Payload::Bytes(vec![7; 256].into());
    let mut out = Vec::new();
    let mut group = c.benchmark_group("index");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode a record", |b| {
        b.iter(|| {
            record::encode(black_box(&view), record::ResultOf::Given(&result), WALL, &mut out);
            out.len()
        });
    });
    group.bench_function("make a view", |b| b.iter(|| query::view(black_box(state), black_box(&key))));
    group.finish();
}

criterion_group!(benches, stages, codecs, replay, fair, index);
criterion_main!(benches);
