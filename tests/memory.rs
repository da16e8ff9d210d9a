//! What a queued task costs in memory, counted by the allocator: bytes are the same on every machine.
//!
//! `SELVEDGE_MEMORY_TASKS=1000000 cargo test --release --test memory -- --nocapture` prints it for a million.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use selvedge::{
    flow::{
        engine::{Effect, Engine, Next},
        input::{Entropy, Input, Tell},
        state::Policy,
    },
    task::{AgentName, InstanceId, Outcome, Payload, Plan, TaskId, TaskKey, Token},
    wire::{
        messages::{Beat, End, Report, ReportOp, Submit},
        subjects::Shard,
    },
};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is counted belongs to one test at a time.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

struct Given(u128);

impl Entropy for Given {
    fn token(&mut self) -> Token {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        Token(self.0)
    }

    fn jitter(&mut self) -> u64 {
        0
    }
}

/// Payloads kept in memory in this test: few, so that what is counted is tasks.
const BUDGET: usize = 1 << 20;

#[test]
fn a_queued_task_costs_less_than_300_bytes_besides_its_input() {
    let _alone = ALONE.lock().unwrap_or_else(|failed| failed.into_inner());
    let tasks: usize =
        std::env::var("SELVEDGE_MEMORY_TASKS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let mut engine: Engine<()> = Engine::new(Shard(0));
    engine.set_resident_budget(BUDGET);
    let policy = Policy { default_plan: Some("pro".parse().unwrap()), ..Policy::default() };
    engine.open("c", policy);
    let before = LIVE.load(Ordering::Relaxed);
    let mut given = Given(0);
    let mut seq = 0;
    let mut turn = |engine: &mut Engine<()>| {
        while let Next::Append { .. } = engine.next(1, 1_700_000_000_000, &mut given).unwrap() {
            seq += 1;
            engine.appended(seq);
        }
    };
    for n in 0..tasks {
        let key = TaskKey { tenant: format!("tenant-{}", n % 50).parse().unwrap(), id: TaskId::fresh() };
        let input = Payload::json(&"x".repeat(254)).unwrap();
        let body = Submit {
            labels: None,
            v: 1,
            input,
            priority: Default::default(),
            max_tries: None,
            times: None,
            cost: None,
            first_try: None,
            confirm: false,
            hops: 0,
        };
        let agent = "reader".parse().unwrap();
        engine.push(Input::Submit { key, agent, body: Ok(body), stored_at: 1_700_000_000_000 }, None);
        if n % 1_000 == 999 {
            turn(&mut engine);
        }
    }
    turn(&mut engine);
    let sizes = engine.sizes();
    assert_eq!((sizes.tasks, sizes.dirty), (tasks, tasks));
    assert!(sizes.resident_bytes <= BUDGET, "{} bytes of payloads are kept", sizes.resident_bytes);
    let each =
        (LIVE.load(Ordering::Relaxed) - before).saturating_sub(sizes.resident_bytes) as f64 / tasks as f64;
    let peak = (PEAK.load(Ordering::Relaxed) - before) as f64 / 1e6;
    println!("{tasks} queued tasks: {each:.0} bytes each besides inputs, {peak:.0} MB at most");
    assert!(each < 300.0, "a queued task costs {each:.0} bytes");
}

const REMEMBERED: usize = 500;

#[test]
fn ended_tasks_leave_once_there_are_more_than_are_remembered() {
    many_end(Policy { dedupe_total: REMEMBERED as u64, ..Policy::default() });
}

/// Nothing ever asks for the oldest of all then.
#[test]
fn ended_tasks_leave_once_each_tenant_has_more_than_are_remembered_of_it() {
    many_end(Policy { dedupe_max: (REMEMBERED / 7) as u64, ..Policy::default() });
}

/// Twenty times as many tasks as are remembered: every one runs, and the oldest go, tenant by tenant.
fn many_end(policy: Policy) {
    let _alone = ALONE.lock().unwrap_or_else(|failed| failed.into_inner());
    const TASKS: u64 = 10_000;
    let mut engine: Engine<()> = Engine::new(Shard(0));
    engine.open("c", Policy { default_plan: Some("pro".parse().unwrap()), ..policy });
    let plan = Plan { in_flight: 1_000, rate: 100_000, burst: 1_000_000, ..Plan::pro() };
    engine.push(Input::Plan { name: "pro".parse().unwrap(), plan: Some(plan), kv_rev: 1 }, None);
    let (agent, instance): (AgentName, InstanceId) = ("reader".parse().unwrap(), InstanceId::fresh());
    let body = Beat {
        v: 1,
        slots: 64,
        tokens: vec![],
        lease_ms: 15_000,
        draining: false,
        messages: false,
        calls: None,
        about: None,
        ahead: 0,
        call_slots: 0,
    };
    engine.push(Input::Beat { agent: agent.clone(), instance: instance.clone(), body }, None);
    let mut given = Given(0);
    let (mut seq, mut ended, mut submitted) = (0, 0, 0);
    let mut reports: Vec<Input> = Vec::new();
    for now in 1.. {
        for _ in 0..50.min(TASKS - submitted) {
            submitted += 1;
            let key = TaskKey { tenant: format!("t{}", submitted % 7).parse().unwrap(), id: TaskId::fresh() };
            let (input, first_try) = (Payload::json(&submitted).unwrap(), Some(1_000 + submitted));
            let body = Submit {
                labels: None,
                v: 1,
                input,
                priority: Default::default(),
                max_tries: None,
                times: None,
                cost: None,
                first_try,
                confirm: false,
                hops: 0,
            };
            engine
                .push(Input::Submit { key, agent: agent.clone(), body: Ok(body), stored_at: 1 << 40 }, None);
        }
        reports.drain(..).for_each(|report| engine.push(report, None));
        while let Next::Append { .. } = engine.next(now, 1 << 40, &mut given).unwrap() {
            seq += 1;
            for effect in engine.appended(seq) {
                match effect {
                    Effect::Tell(Tell::Offer { offer, .. }) => {
                        let outcome = Outcome::Completed { result: Payload::json("done").unwrap() };
                        let body = Report {
                            v: 1,
                            token: offer.token,
                            attempt: offer.attempt,
                            agent: agent.clone(),
                            instance: instance.clone(),
                            n: 1,
                            op: ReportOp::End(End { last_event: 0, outcome, used: None }),
                        };
                        let key = TaskKey { tenant: offer.tenant, id: offer.task };
                        reports.push(Input::Report { key, body: Ok(body) });
                    }
                    Effect::Tell(Tell::Done { done, .. }) => ended += u64::from(done.state.is_terminal()),
                    _ => {}
                }
            }
        }
        engine.take_dirty(1_000, usize::MAX, u64::MAX);
        assert!(now < 10_000, "{ended} of {TASKS} have ended");
        // What ended in the message under way is still told.
        let sizes = engine.sizes();
        assert!(sizes.remembered <= REMEMBERED + 300, "{} are remembered", sizes.remembered);
        assert!(sizes.remembered_line <= 2 * sizes.remembered + 65, "{} in line", sizes.remembered_line);
        if ended == TASKS {
            break;
        }
    }
    engine.state().check_derived().unwrap();
    let sizes = engine.sizes();
    assert_eq!((sizes.tasks, sizes.leases, sizes.resident, sizes.references), (sizes.remembered, 0, 0, 0));
}
