//! Owners that die in the middle: every message is in one task, whatever was lost.

use std::collections::BTreeMap;

use selvedge::{coordinator::run::Options, task::Plan};
use serde_json::{Value, json};

use super::setup::{Seen, Setup, publish};
use crate::fault::process::{Coordinator, policy};
use crate::harness::fabric::{Fabric, eventually, unbound};
use crate::harness::{soon, until};

/// Somebody who reads, and no coordinator.
async fn bare() -> Setup {
    let fabric = Fabric::start_with(|options| options.policy = policy()).await;
    let plan = Plan { backlog: 1_000_000, retain_tasks: 1_000_000, ..unbound() };
    let mut setup = Setup::on(fabric, plan).await;
    setup.fabric.coordinator.take().expect("just started").stop().await;
    setup.fabric.agent(setup.seen.agent("reader")).await;
    setup
}

/// How often each number was in a task.
fn tally(inputs: &[Value]) -> BTreeMap<u64, usize> {
    let mut tally = BTreeMap::new();
    for n in inputs.iter().flat_map(|input| input.as_array().cloned().unwrap_or_else(|| vec![input.clone()]))
    {
        *tally.entry(n["n"].as_u64().unwrap()).or_default() += 1;
    }
    tally
}

async fn all_are_there(seen: &Seen, count: u64) {
    eventually("every message has run", async {
        while tally(&seen.all()).len() < count as usize {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_killed_in_the_middle_lose_and_double_no_message() {
    let Setup { fabric, desk, seen, client } = bare().await;
    let name = desk.set("all", json!({"topic": "work"}), json!({})).await;
    let total = 1_000;
    for (round, point) in ["decided", "appended", "performed"].into_iter().enumerate() {
        let coordinator = Coordinator::new(point).crash_at(point, 12).spawn(&fabric.stack);
        let from = round as u64 * 300;
        publish(&client, "work", from..from + 300).await;
        soon(&format!("the crash at {point}"), coordinator.ended()).await;
    }
    let killed = Coordinator::new("killed").spawn(&fabric.stack);
    // Those before it may have left it nothing.
    publish(&client, "work", 900..total).await;
    desk.state(&name, "the next one is at work", |s| s.counts.messages + s.counts.known > 0).await;
    killed.kill();
    let _last = Coordinator::new("last").spawn(&fabric.stack);
    all_are_there(&seen, total).await;
    desk.state(&name, "nothing waits any more", |s| s.pending == 0 && s.floor >= total).await;
    let done = until("the index shows all of them", async || {
        let stats = client.stats().await.ok()?;
        (stats.states.get("completed") == Some(&stats.total) && stats.total >= total).then_some(stats)
    });
    assert_eq!(done.await.total, total, "one task for each message");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_cut_once_whoever_makes_it() {
    let Setup { fabric, desk, seen, client } = bare().await;
    let batch = json!({"batch": {"count": 7, "within_ms": 150}});
    desk.set("some", json!({"topic": "work"}), batch).await;
    for (round, point) in ["decided", "appended", "performed"].into_iter().enumerate() {
        let coordinator = Coordinator::new(point).crash_at(point, 9).spawn(&fabric.stack);
        let from = round as u64 * 200;
        publish(&client, "work", from..from + 200).await;
        soon(&format!("the crash at {point}"), coordinator.ended()).await;
    }
    let _last = Coordinator::new("last").spawn(&fabric.stack);
    all_are_there(&seen, 600).await;
    let state =
        desk.state(&"some".parse().unwrap(), "it is done", |s| s.pending == 0 && s.floor >= 600).await;
    assert_eq!(state.counts.dead, 0, "{state:?}");
    let done = until("the index shows all of them", async || {
        let stats = client.stats().await.ok()?;
        (stats.states.get("completed") == Some(&stats.total)).then_some(stats)
    });
    let tasks = done.await.total as usize;
    assert!(tasks >= 600 / 7, "{tasks}");
    // A handler may run twice: by its input a task is known.
    let distinct: std::collections::BTreeSet<String> = seen.all().iter().map(Value::to_string).collect();
    assert_eq!(distinct.len(), tasks, "no message is in two batches: as many different inputs as tasks");
    let inside: usize =
        distinct.iter().map(|text| serde_json::from_str::<Vec<Value>>(text).unwrap().len()).sum();
    assert_eq!(inside, 600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_owner_goes_on_where_the_last_one_ended() {
    let Setup { mut fabric, desk, seen, client } = Setup::reading().await;
    let name = desk.set("all", json!({"topic": "work"}), json!({})).await;
    publish(&client, "work", 0..20).await;
    seen.count(20).await;
    fabric.coordinator.take().unwrap().stop().await;
    publish(&client, "work", 20..40).await;
    fabric.coordinator = Some(fabric.coordinate(Options::new("next")).await);
    seen.count(40).await;
    let state = desk.state(&name, "its counts are noted", |s| s.counts.made == 40 && s.pending == 0).await;
    assert_eq!(state.counts.known, 0, "a drained owner has acknowledged what it made");
}
