//! Tasks with times, as clients and agents see them.

use std::time::{Duration, Instant};

use selvedge::agent::{Agent, AgentError, Ctx};
use selvedge::bus::Clock;
use selvedge::coordinator::run::Options;
use selvedge::task::{Code, Phase, Plan, ScheduleSettings};

use crate::harness::fabric::{Fabric, unbound};
use crate::harness::{soon, until};

fn echo() -> Agent {
    Agent::new("echo", |_: Ctx, n: u64| async move { Ok::<_, AgentError>(n) }).unwrap()
}

/// Runs until it is stopped; says how long it was told to have.
fn endless(told: tokio::sync::mpsc::UnboundedSender<(Option<Duration>, bool)>) -> Agent {
    let run = move |ctx: Ctx, _: u64| {
        let told = told.clone();
        async move {
            let _ = told.send((ctx.time_left(), ctx.deadline().is_some()));
            ctx.cancelled().await;
            Ok::<u64, AgentError>(0)
        }
    };
    Agent::new("endless", run).unwrap().cancel_grace(Duration::from_secs(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_task_starts_no_sooner_and_tells_when_it_may() {
    let fabric = Fabric::start().await;
    fabric.agent(echo()).await;
    let client = fabric.client("acme").await;
    let before = Instant::now();
    let task = soon("the admission", client.submit("echo", &1u64).delay(Duration::from_secs(2)).confirmed());
    let task = task.await.unwrap();
    let view = client.get(task.id()).await.unwrap();
    assert_eq!(view.state, Phase::Queued);
    assert_eq!(view.not_before, Some(view.created_at + 2_000));
    let result: u64 = soon("the result", task.result()).await.unwrap();
    assert!(result == 1 && before.elapsed() >= Duration::from_secs(2), "{:?}", before.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_starts_in_time_expires_and_waiters_are_told_which_time() {
    let fabric = Fabric::start().await;
    let client = fabric.client("acme").await;
    let ttl = client.submit("nobody", &1u64).ttl(Duration::from_millis(300)).await.unwrap();
    let deadline = client.submit("nobody", &1u64).deadline(Duration::from_millis(300)).await.unwrap();
    for (task, code) in [(ttl, Code::TtlExpired), (deadline, Code::DeadlineExceeded)] {
        let error = soon("the end", task.result::<u64>()).await.unwrap_err();
        assert_eq!(error.code(), Some(code), "{error}");
        let view = client.get(task.id()).await.unwrap();
        let refusal = view.refusal.unwrap();
        assert_eq!((view.state, refusal.code), (Phase::Expired, code));
        assert!(refusal.actual >= refusal.limit && refusal.limit.is_some(), "{refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_timeout_stops_the_handler_and_a_deadline_ends_the_task() {
    let fabric = Fabric::start().await;
    fabric.plan("acme", Plan { max_tries: 2, ..unbound() }).await;
    let (told, mut said) = tokio::sync::mpsc::unbounded_channel();
    fabric.agent(endless(told)).await;
    let client = fabric.client("acme").await;

    let limit = Duration::from_millis(700);
    let task = client.submit("endless", &1u64).try_timeout(limit).await.unwrap();
    let error = soon("the end", task.result::<u64>()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::TryTimeout), "{error}");
    let view = client.get(task.id()).await.unwrap();
    assert_eq!((view.state, view.tries, view.failures.len()), (Phase::Failed, 2, 2));
    for _ in 0..2 {
        let (left, deadline) = said.recv().await.unwrap();
        assert!(left.is_some_and(|left| left <= limit) && !deadline, "{left:?}");
    }

    let task = client.submit("endless", &1u64).deadline(limit).await.unwrap();
    let error = soon("the end", task.result::<u64>()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::DeadlineExceeded), "{error}");
    let (left, deadline) = said.recv().await.unwrap();
    assert!(left.is_some_and(|left| left <= limit) && deadline, "{left:?}");
    // Its slot is free again: the handler was told.
    let next = client.submit("endless", &1u64).deadline(Duration::from_secs(30)).await.unwrap();
    soon("the next start", said.recv()).await.unwrap();
    next.cancel("enough").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_goes_on_with_the_next_owner() {
    let mut fabric = Fabric::start().await;
    fabric.agent(echo()).await;
    let client = fabric.client("acme").await;
    let task = soon("the admission", client.submit("echo", &7u64).delay(Duration::from_secs(4)).confirmed());
    let task = task.await.unwrap();
    fabric.coordinator.take().unwrap().stop().await;
    fabric.coordinator = Some(fabric.coordinate(Options::new("next")).await);
    let result: u64 = soon("the result", task.result()).await.unwrap();
    assert_eq!(result, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_in_the_bucket_is_fired_as_a_task_of_its_tenant() {
    let fabric = Fabric::start_with(|options| options.clock = Clock::fast(30.0)).await;
    fabric.agent(echo()).await;
    let client = fabric.client("acme").await;
    let settings = ScheduleSettings {
        cron: "* * * * *".to_owned(),
        tz: "UTC".to_owned(),
        tenant: "acme".parse().unwrap(),
        agent: "echo".parse().unwrap(),
        input: selvedge::task::Payload::json(&5).unwrap(),
        priority: Default::default(),
        max_tries: None,
        times: None,
        cost: None,
        missed: Default::default(),
        paused: false,
        labels: None,
    };
    let bucket = fabric.limits().await;
    bucket.set_schedule(&"tick".parse().unwrap(), &settings, None).await.unwrap();
    // A minute of this clock is two seconds.
    let view = until("a firing", async || client.list().page().await.ok()?.tasks.into_iter().next()).await;
    let seconds = view.task.as_str().strip_prefix("tick-").unwrap().parse::<u64>().unwrap();
    assert_eq!(seconds % 60, 0);
    until("its end", async || {
        let view = client.get(&view.task).await.ok()?;
        (view.state == Phase::Completed).then_some(())
    })
    .await;
}
