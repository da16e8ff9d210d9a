//! What operators say is in force at once, for queued work and for what runs; shared limits hold over every window.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use selvedge::agent::{Agent, AgentError, Ctx};
use selvedge::bus::entries::EntriesError;
use selvedge::client::{Client, NewTask, TaskHandle};
use selvedge::flow::record::{JournalMessage, Record};
use selvedge::task::{AgentName, AgentSettings, AllSettings, Code, Per, Phase, Plan, TenantSettings, Token};
use selvedge::wire::api::Reason;
use tokio::sync::mpsc;

use super::{change, journal, journaled, tenant};
use crate::harness::fabric::{Fabric, eventually, unbound};
use crate::harness::soon;

fn agent(name: &str) -> AgentName {
    name.parse().unwrap()
}

/// Sets an agent's limits and waits until they are in force.
async fn limit(fabric: &Fabric, name: &str, settings: AgentSettings) {
    let bucket = fabric.limits().await;
    let known = bucket.agent(&agent(name)).await.unwrap().map(|(_, revision)| revision);
    let revision = bucket.set_agent(&agent(name), &settings, known).await.unwrap();
    journaled(
        &fabric.stack,
        "the agent's limits are in force",
        |record| matches!(record, Record::AgentSet { kv_rev, .. } if *kv_rev == revision),
    )
    .await;
}

/// Says what holds for everything and waits until it is in force.
async fn all(fabric: &Fabric, settings: AllSettings) {
    let bucket = fabric.limits().await;
    let known = bucket.all().await.unwrap().map(|(_, revision)| revision);
    let revision = bucket.set_all(&settings, known).await.unwrap();
    journaled(
        &fabric.stack,
        "it is in force",
        |record| matches!(record, Record::AllSet { kv_rev, .. } if *kv_rev == revision),
    )
    .await;
}

/// Tells when it starts; ends at once if told to, else when it is cancelled.
fn worker(name: &str, starts: mpsc::UnboundedSender<(String, u32)>, quick: Arc<AtomicU32>) -> Agent {
    Agent::new(name, move |ctx: Ctx, n: u64| {
        let (starts, quick) = (starts.clone(), quick.clone());
        async move {
            starts.send((ctx.tenant().to_string(), ctx.attempt())).ok();
            if quick.load(Ordering::SeqCst) == 0 {
                ctx.cancelled().await;
                starts.send((format!("{} told", ctx.tenant()), ctx.attempt())).ok();
            }
            Ok::<_, AgentError>(n)
        }
    })
    .unwrap()
    .slots(64)
    .cancel_grace(Duration::from_millis(100))
}

async fn submit(client: &Client, agent: &str, n: u64, cost: Option<u32>) -> Vec<TaskHandle> {
    let task = |i| {
        let task = NewTask::new(agent, &i).unwrap();
        match cost {
            Some(cost) => task.cost(cost),
            None => task,
        }
    };
    client.submit_many((0..n).map(task)).await.into_iter().collect::<Result<_, _>>().unwrap()
}

/// After each record that pauses what `is_meant` says, and before the one that resumes it: dispatches.
fn dispatched_while_paused(messages: &[JournalMessage], pauses: impl Fn(&Record) -> Option<bool>) -> usize {
    let mut paused = false;
    let mut wrong = 0;
    for record in messages.iter().flat_map(|message| &message.records) {
        if let Some(now) = pauses(record) {
            paused = now;
        }
        wrong += usize::from(paused && matches!(record, Record::Dispatched { .. }));
    }
    wrong
}

async fn next(starts: &mut mpsc::UnboundedReceiver<(String, u32)>) -> (String, u32) {
    soon("a start or a stop", starts.recv()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_stopped_is_told_within_a_second_and_goes_on_without_a_lost_try() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", Plan { max_tries: 1, ..unbound() }).await;
    let (told, mut starts) = mpsc::unbounded_channel();
    let quick = Arc::new(AtomicU32::new(0));
    fabric.agent(worker("writer", told, quick.clone())).await;
    let client = fabric.client("acme").await;
    let tasks = submit(&client, "writer", 5, None).await;
    for _ in 0..5 {
        assert_eq!(next(&mut starts).await, ("acme".to_owned(), 1));
    }
    let root = tasks[0].id().clone();
    let mut attempt = 1;
    for what in ["tenant", "agent", "all", "tree"] {
        let of_all = if what == "tree" { 1 } else { 5 };
        let paused = Instant::now();
        match what {
            "tenant" => change(&fabric, "acme", |s| (s.paused, s.stopped) = (true, true)).await,
            "agent" => {
                let stopped = AgentSettings { paused: true, stopped: true, ..AgentSettings::default() };
                limit(&fabric, "writer", stopped).await;
            }
            "all" => all(&fabric, AllSettings { paused: true, stopped: true }).await,
            _ => assert_eq!(soon("an answer", client.pause(&root)).await.unwrap().state, Some(Phase::Queued)),
        }
        for _ in 0..of_all {
            assert_eq!(next(&mut starts).await, ("acme told".to_owned(), attempt), "{what}");
        }
        assert!(paused.elapsed() < Duration::from_secs(1), "told after {:?}", paused.elapsed());
        for task in &tasks[..of_all] {
            let view = soon("a view", client.get(task.id())).await.unwrap();
            assert_eq!((view.state, view.tries), (Phase::Queued, 0), "{what}");
        }
        match what {
            "tenant" => change(&fabric, "acme", |s| (s.paused, s.stopped) = (false, false)).await,
            "agent" => limit(&fabric, "writer", AgentSettings::default()).await,
            "all" => all(&fabric, AllSettings::default()).await,
            _ => {
                // The last time they run to their end.
                quick.store(1, Ordering::SeqCst);
                soon("an answer", client.resume(&root)).await.unwrap();
            }
        }
        attempt += 1;
        for _ in 0..of_all {
            assert_eq!(next(&mut starts).await, ("acme".to_owned(), attempt), "{what}");
        }
    }
    let ended = soon("the end", tasks[0].wait()).await.unwrap();
    assert_eq!(ended.state, Phase::Completed, "one try is all it has, and none was lost");
    let messages = journal(&fabric.stack).await;
    let wrong = dispatched_while_paused(&messages, |record| match record {
        Record::TenantSet { settings: Some(s), .. } => Some(s.paused),
        Record::AgentSet { settings: Some(s), .. } => Some(s.paused),
        Record::AllSet { settings, .. } => Some(settings.paused),
        _ => None,
    });
    assert_eq!(wrong, 0, "nothing starts behind a pause in the journal");
}

/// Dispatches per agent and tenant with their times, and live leases of an agent.
#[derive(Default)]
struct Reading {
    times: BTreeMap<String, Vec<u64>>,
    live: std::collections::BTreeSet<Token>,
    most_live: usize,
}

fn read(messages: &[JournalMessage]) -> Reading {
    let mut reading = Reading::default();
    for message in messages {
        for record in &message.records {
            match record {
                Record::Dispatched { key, token, .. } => {
                    reading.times.entry(key.tenant.to_string()).or_default().push(message.now);
                    reading.live.insert(*token);
                    reading.most_live = reading.most_live.max(reading.live.len());
                }
                Record::Ended { token, .. } => drop(reading.live.remove(token)),
                _ => {}
            }
        }
    }
    reading
}

/// Every window holds at most rate · length + burst of `each`.
fn check_windows(times: &[u64], each: u64, quota: (u64, u64), burst: u64) {
    let (cells, per_ms) = quota;
    for (i, from) in times.iter().enumerate() {
        for (j, to) in times.iter().enumerate().skip(i) {
            let taken = (j - i + 1) as u64 * each;
            assert!(
                taken * per_ms <= cells * (to - from) + burst * per_ms,
                "{taken} within {} ms",
                to - from
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_rate_and_cap_are_shared_by_all_tenants() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", unbound()).await;
    tenant(&fabric, "globex", unbound()).await;
    let settings = AgentSettings {
        in_flight: Some(3),
        rate: Some(1_200),
        per: Per::Minute,
        burst: Some(4),
        ..AgentSettings::default()
    };
    limit(&fabric, "writer", settings).await;
    let (told, _starts) = mpsc::unbounded_channel();
    fabric.agent(worker("writer", told, Arc::new(AtomicU32::new(1)))).await;
    let mut tasks = submit(&fabric.client("acme").await, "writer", 30, None).await;
    tasks.extend(submit(&fabric.client("globex").await, "writer", 30, None).await);
    eventually("all of them", async {
        for task in &tasks {
            assert_eq!(task.wait().await.unwrap().state, Phase::Completed);
        }
    })
    .await;
    let reading = read(&journal(&fabric.stack).await);
    let mut together: Vec<u64> = reading.times.values().flatten().copied().collect();
    together.sort_unstable();
    check_windows(&together, 1, (1_200, 60_000), 4);
    assert!(reading.most_live <= 3, "{} at once", reading.most_live);
    // It binds: 60 at 20 a second take nearly three of them.
    assert!(together[59] - together[0] >= 2_700, "{} ms", together[59] - together[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cells_are_set_aside_at_the_dispatch_and_settled_to_what_was_used() {
    let fabric = Fabric::start().await;
    // 100 cells a second, 100 at once.
    tenant(&fabric, "acme", Plan { cells: Some(6_000), cells_burst: Some(100), ..unbound() }).await;
    let uses = Arc::new(AtomicU32::new(0));
    let used = uses.clone();
    let thrifty = Agent::new("writer", move |ctx: Ctx, n: u64| {
        ctx.used(used.load(Ordering::SeqCst));
        async move { Ok::<_, AgentError>(n) }
    });
    fabric.agent(thrifty.unwrap()).await;
    let client = fabric.client("acme").await;
    let run = async |n: u64, cost: u32| {
        let before = journal(&fabric.stack).await.len();
        for task in submit(&client, "writer", n, Some(cost)).await {
            assert_eq!(eventually("the end", task.wait()).await.unwrap().state, Phase::Completed);
        }
        let messages = journal(&fabric.stack).await;
        let times: Vec<u64> = read(&messages[before..]).times["acme"].clone();
        times
    };
    // Nothing is used: each gives back what it set aside, and twenty run at the pace of their ends.
    let times = run(20, 100).await;
    assert!(times[19] - times[0] < 10_000, "{times:?}");
    // All is used: the first takes the burst, the others come as cells do.
    uses.store(100, Ordering::SeqCst);
    let times = run(4, 100).await;
    check_windows(&times, 100, (6_000, 60_000), 100);
    assert!(times[3] - times[0] >= 2_900, "{times:?}");
    // More is used than was set aside: it is owed, and what comes after waits for it.
    uses.store(300, Ordering::SeqCst);
    let times = run(2, 10).await;
    assert!(times[1] - times[0] >= 2_000, "{times:?}");
    // What could never run is refused, with its numbers.
    let never = client.submit_task(NewTask::new("writer", &0).unwrap().cost(101));
    let selvedge::client::Error::Refused(refusal) = soon("a refusal", never.confirmed()).await.unwrap_err()
    else {
        panic!("no refusal")
    };
    assert_eq!((refusal.code, refusal.actual, refusal.limit), (Code::CostExceeded, Some(101), Some(100)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_tenants_queued_work_starts_within_a_tenth_of_a_second() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", unbound()).await;
    let (told, mut starts) = mpsc::unbounded_channel();
    fabric.agent(worker("writer", told, Arc::new(AtomicU32::new(1)))).await;
    let client = fabric.client("acme").await;
    let (bucket, name) = (fabric.limits().await, "acme".parse().unwrap());
    let mut waits = Vec::new();
    for n in 0..11u64 {
        change(&fabric, "acme", |s| s.paused = true).await;
        soon("admitted", client.submit_and_confirm("writer", &n)).await.unwrap();
        let (settings, revision) = bucket.tenant(&name).await.unwrap().unwrap();
        let settings = TenantSettings { paused: false, ..settings };
        let set = Instant::now();
        bucket.set_tenant(&name, &settings, Some(revision)).await.unwrap();
        next(&mut starts).await;
        waits.push(set.elapsed());
    }
    waits.sort_unstable();
    assert!(waits[5] <= Duration::from_millis(100), "median of {waits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_nobody_serves_is_explained_and_expires_by_its_deadline() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", unbound()).await;
    let client = fabric.client("acme").await;
    let task = NewTask::new("nobody", &1).unwrap().deadline(Duration::from_secs(3));
    let task = soon("an admission", client.submit_task(task).confirmed()).await.unwrap();
    let why = soon("why", task.why()).await.unwrap();
    assert_eq!((why.state, why.reasons[0].reason), (Phase::Queued, Reason::NoInstance));
    assert!(why.expires_at.is_some_and(|at| at > why.at && at <= why.at + 3_000), "{why:?}");
    let ended = eventually("the deadline", task.wait()).await.unwrap();
    assert_eq!((ended.state, ended.refusal.unwrap().code), (Phase::Expired, Code::DeadlineExceeded));
    let why = soon("why", task.why()).await.unwrap();
    assert_eq!((why.state, why.reasons[0].reason), (Phase::Expired, Reason::Ended));
    let missing = soon("an answer", client.why(&"nothing".parse().unwrap())).await.unwrap_err();
    assert!(matches!(&missing, selvedge::client::Error::Refused(r) if r.code == Code::NotFound), "{missing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_suspended_with_work_running_lets_it_end_and_takes_nothing_new() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", Plan { in_flight: 1, ..unbound() }).await;
    let (told, mut starts) = mpsc::unbounded_channel();
    let (go, gate) = tokio::sync::watch::channel(false);
    let waits = Agent::new("writer", move |_: Ctx, n: u64| {
        let (told, mut gate) = (told.clone(), gate.clone());
        async move {
            told.send(n).ok();
            gate.wait_for(|open| *open).await.ok();
            Ok::<_, AgentError>(n)
        }
    });
    fabric.agent(waits.unwrap().slots(4)).await;
    let client = fabric.client("acme").await;
    let tasks = submit(&client, "writer", 2, None).await;
    assert_eq!(soon("a start", starts.recv()).await, Some(0));
    change(&fabric, "acme", |s| (s.paused, s.suspended) = (true, true)).await;
    let refused = soon("a refusal", client.submit_and_confirm("writer", &9u64)).await.unwrap_err();
    assert!(
        matches!(&refused, selvedge::client::Error::Refused(r) if r.code == Code::TenantSuspended),
        "{refused}"
    );
    let why = soon("why", tasks[1].why()).await.unwrap();
    let reasons: Vec<Reason> = why.reasons.iter().map(|hold| hold.reason).collect();
    assert_eq!(reasons, [Reason::TenantPaused, Reason::TenantInFlight], "{why:?}");
    assert_eq!(soon("why", tasks[0].why()).await.unwrap().reasons[0].reason, Reason::Running);
    go.send_replace(true);
    assert_eq!(soon("the end", tasks[0].wait()).await.unwrap().state, Phase::Completed);
    assert_eq!(soon("a view", tasks[1].get()).await.unwrap().state, Phase::Queued);
    change(&fabric, "acme", |s| (s.paused, s.suspended) = (false, false)).await;
    assert_eq!(soon("the end", tasks[1].wait()).await.unwrap().state, Phase::Completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_makes_no_sense_changes_nothing() {
    let fabric = Fabric::start().await;
    let settings = AgentSettings { in_flight: Some(2), ..AgentSettings::default() };
    limit(&fabric, "writer", settings.clone()).await;
    tenant(&fabric, "acme", unbound()).await;
    let connection = fabric.stack.connect("test-by-hand").await;
    let by_hand = connection.jetstream().get_key_value("selvedge_limits").await.unwrap();
    for (key, value) in [
        ("agent.writer", r#"{"rate":-1}"#),
        ("agent.writer", r#"{"rate":NaN}"#),
        ("agent.writer", r#"{"rate":1e9}"#),
        ("agent.writer", r#"{"rate":5,"burst":0}"#),
        ("agent.writer", r#"{"cells":1,"cells_burst":4000000000}"#),
        ("agent.writer", r#"{"in_flight":99999999999}"#),
        ("agent.writer", r#"{"in_fligth":1}"#),
        ("plan.acme", r#"{"in_flight":-3}"#),
        ("all", r#"{"paused":"yes"}"#),
        ("something.else", "{}"),
    ] {
        by_hand.put(key, value.into()).await.unwrap();
    }
    // Entries come in order: behind this one all of them have been looked at.
    change(&fabric, "acme", |s| s.paused = true).await;
    let messages = journal(&fabric.stack).await;
    let set = messages.iter().flat_map(|m| &m.records).filter_map(|record| match record {
        Record::AgentSet { settings, .. } => Some(settings.clone()),
        Record::AllSet { .. } => panic!("{record:?}"),
        _ => None,
    });
    assert_eq!(set.collect::<Vec<_>>(), vec![Some(settings)], "what was set before counts");
    let bucket = fabric.limits().await;
    for bad in [
        AgentSettings { rate: Some(5), burst: Some(0), ..AgentSettings::default() },
        AgentSettings { rate: Some(2_000_000), ..AgentSettings::default() },
        AgentSettings { cells: Some(1), cells_burst: Some(u32::MAX), ..AgentSettings::default() },
        AgentSettings { burst: Some(3), ..AgentSettings::default() },
    ] {
        let refused = bucket.set_agent(&agent("other"), &bad, None).await;
        assert!(matches!(refused, Err(EntriesError::Nonsense { .. })), "{refused:?}");
    }
}
