//! Room and rates: what finds none waits in its stream.

use std::time::Duration;

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    task::{Code, Phase, Plan, trigger::state::Doing},
};
use serde_json::json;

use super::setup::{Setup, publish};
use crate::harness::fabric::{Fabric, unbound};
use crate::harness::{soon, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_backlog_stops_the_pulling_and_loses_nothing() {
    let plan = Plan { backlog: 5, in_flight: 2, ..unbound() };
    let Setup { fabric, desk, seen, client } = Setup::on(Fabric::start().await, plan).await;
    let name = desk.set("all", json!({"topic": "work"}), json!({"template": "{{message.n}}"})).await;
    publish(&client, "work", 0..50).await;
    let state = desk.state(&name, "it waits for room", |s| s.doing == Doing::Waiting).await;
    let refusal = state.refusal.unwrap();
    assert_eq!((refusal.code, refusal.actual, refusal.limit), (Code::BacklogFull, Some(5), Some(5)));
    // Another tenant is not held up by it.
    fabric.plan("globex", unbound()).await;
    fabric.agent(seen.agent("other")).await;
    desk.set("others", json!({"topic": "work"}), json!({"tenant": "globex", "agent": "other"})).await;
    fabric.client("globex").await.publish("work", &1).await.unwrap();
    seen.count(1).await;

    fabric.agent(seen.agent("reader")).await;
    let mut numbers: Vec<u64> = seen.count(51).await[1..].iter().map(|n| n.as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    let state = desk.state(&name, "everything is made", |s| s.counts.made == 50 && s.pending == 0).await;
    assert_eq!((state.counts.dead, state.counts.known, state.doing), (0, 0, Doing::Running));
    let rejected = client.list().state(Phase::Rejected).page().await.unwrap();
    assert!(rejected.tasks.is_empty(), "{rejected:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_spreads_the_tasks_and_a_suspended_tenant_is_waited_for() {
    let Setup { fabric, desk, seen, client } = Setup::reading().await;
    let slow = json!({"rate": {"rate": 10, "burst": 2}});
    desk.set("slow", json!({"topic": "work"}), slow).await;
    let before = std::time::Instant::now();
    publish(&client, "work", 0..12).await;
    seen.count(12).await;
    assert!(before.elapsed() >= Duration::from_millis(900), "{:?}", before.elapsed());

    let limits = fabric.limits().await;
    let (mut settings, revision) = limits.tenant(&"acme".parse().unwrap()).await.unwrap().unwrap();
    settings.suspended = true;
    let revision = limits.set_tenant(&"acme".parse().unwrap(), &settings, Some(revision)).await.unwrap();
    until("the tenant is suspended", async || {
        client
            .submit_and_confirm("nobody", &())
            .await
            .err()
            .filter(|e| e.code() == Some(Code::TenantSuspended))
    })
    .await;
    client.publish("work", &json!({"n": 99})).await.unwrap();
    let name = "slow".parse().unwrap();
    desk.state(&name, "it waits", |s| s.refusal.as_ref().is_some_and(|r| r.code == Code::TenantSuspended))
        .await;
    settings.suspended = false;
    limits.set_tenant(&"acme".parse().unwrap(), &settings, Some(revision)).await.unwrap();
    seen.count(13).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_stream_refuses_the_publisher_and_what_is_read_makes_room() {
    let fabric = Fabric::start_with(|options| options.sizing.topics_bytes = 1 << 20).await;
    let Setup { fabric, desk, seen, client } = Setup::on(fabric, unbound()).await;
    let template = json!({"template": "{{seq}}", "paused": true});
    let name = desk.set("big", json!({"topic": "big"}), template).await;
    desk.state(&name, "it is paused", |s| s.doing == Doing::Paused).await;
    let large = "x".repeat(100_000);
    let mut stored = 0;
    let refusal = loop {
        match client.publish("big", &large).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 20);
    };
    assert_eq!(refusal.code(), Some(Code::Backpressure), "{refusal}");
    fabric.agent(seen.agent("reader")).await;
    let (mut settings, revision) = desk.bucket.trigger(&name).await.unwrap().unwrap();
    settings.paused = false;
    desk.bucket.set(&name, &settings, Some(revision)).await.unwrap();
    seen.count(stored).await;
    until("there is room again", async || client.publish("big", &large).await.ok()).await;
    seen.count(stored + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_no_topic_or_message_is_refused_before_it_is_sent() {
    let fabric = Fabric::start().await;
    let client = fabric.client("acme").await;
    for topic in ["", "Docs", "docs.*", "docs.>", "a..b", "a.b.c.d.e.f.g.h.i"] {
        let error = client.publish(topic, &1).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::BadName), "{topic}: {error}");
    }
    let error = client.publish("docs", &1).id("a\nb").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::BadMessage), "{error}");
    let error = client.publish("docs", &"x".repeat(300_000)).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::TooLarge), "{error}");
    // In a handler it is no reason to try again.
    let bad = |ctx: Ctx, _: ()| async move { ctx.publish("NO", &1).await.map_err(|e: AgentError| e) };
    fabric.agent(Agent::new("bad", bad).unwrap()).await;
    let ended = soon("its end", client.submit("bad", &()).wait()).await.unwrap();
    assert_eq!((ended.state, ended.attempt), (Phase::Failed, 1));
}
