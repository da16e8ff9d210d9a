//! A Redis that is killed, emptied, frozen or full: dispatch goes on, the index catches up.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use selvedge::client::Client;
use selvedge::task::Phase;
use selvedge::wire::{codec, messages::Done};

use super::audit::Audit;
use super::process::policy;
use super::work::{self, AGENT, Work};
use crate::harness::fabric::{Fabric, unbound};
use crate::harness::{soon, until};

async fn fabric() -> (Fabric, Client) {
    let fabric = Fabric::start_with(|options| options.policy = policy()).await;
    fabric.plan("acme", unbound()).await;
    fabric.agent(work::agent(4, Duration::from_secs(5))).await;
    let client = fabric.client("acme").await;
    (fabric, client)
}

/// One after the other. Their ends are heard as hints: without Redis, queries can't answer with results.
async fn run(client: &Client, tasks: u64) {
    let lane = &client.link().main;
    let mut hints = lane.subscribe("sv.done.acme.*").await.unwrap();
    lane.flush().await.unwrap();
    for n in 0..tasks {
        client.submit(AGENT, &Work::Echo(n)).await.unwrap();
        let hint = soon("a task ends", hints.next()).await.unwrap();
        let done: Done = codec::decode_any(None, &hint.payload, 65_536).1.unwrap();
        assert_eq!((done.state, done.result.unwrap().decode::<u64>().unwrap()), (Phase::Completed, n));
    }
}

/// The index shows as many completed tasks as the journal has.
async fn index_equals_journal(fabric: &Fabric, client: &Client, tasks: u64) {
    until("the index has caught up", async || {
        let stats = client.stats().await.ok()?;
        (stats.states.get("completed") == Some(&tasks) && stats.total == tasks).then_some(())
    })
    .await;
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    assert_eq!(audit.len() as u64, tasks);
    let page = client.list().state(Phase::Completed).limit(100).page().await.unwrap();
    for task in page.tasks {
        assert_eq!(audit.end_of("acme", &task.task), (Some("completed"), task.attempt, task.tries));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_without_redis_and_an_empty_one_is_filled_again() {
    let (mut fabric, client) = fabric().await;
    run(&client, 20).await;
    fabric.stack.redis.kill9();
    run(&client, 20).await;
    tokio::task::block_in_place(|| fabric.stack.redis.restart()).expect("it comes back");
    run(&client, 20).await;
    index_equals_journal(&fabric, &client, 60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_slows_no_dispatch() {
    let (fabric, client) = fabric().await;
    run(&client, 20).await;
    let took = async |tasks| {
        let began = Instant::now();
        run(&client, tasks).await;
        began.elapsed()
    };
    let healthy = took(50).await;
    fabric.stack.redis.pause();
    let frozen = took(50).await;
    fabric.stack.redis.resume();
    // Far from a single timeout of Redis per task; a shared machine allows no finer line.
    assert!(
        frozen < healthy * 5 + Duration::from_secs(2),
        "{healthy:?} with Redis, {frozen:?} with a frozen one"
    );
    index_equals_journal(&fabric, &client, 120).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_stops_no_task_and_the_index_catches_up_when_there_is_room() {
    let (fabric, client) = fabric().await;
    run(&client, 10).await;
    let mut redis = selvedge::store::connect::connect(&fabric.stack.redis_options()).await.unwrap().0;
    let set = async |redis: &mut selvedge::store::Connection, bytes: &str| {
        let answer: Result<String, _> =
            redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).query_async(redis).await;
        answer.expect("CONFIG SET");
    };
    set(&mut redis, "1").await;
    run(&client, 20).await;
    set(&mut redis, "0").await;
    index_equals_journal(&fabric, &client, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushall_under_load_loses_nothing_of_the_index() {
    let (fabric, client) = fabric().await;
    let mut redis = selvedge::store::connect::connect(&fabric.stack.redis_options()).await.unwrap().0;
    for _ in 0..3 {
        run(&client, 10).await;
        let answer: String = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
        assert_eq!(answer, "OK");
        run(&client, 10).await;
    }
    index_equals_journal(&fabric, &client, 60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_starts_while_redis_is_frozen_or_gone_works_all_the_same() {
    let (mut fabric, client) = fabric().await;
    run(&client, 5).await;
    fabric.stack.redis.kill9();
    fabric.coordinator.take().unwrap().crash();
    let mut options = selvedge::coordinator::run::Options::new("blind");
    options.policy = policy();
    fabric.coordinator = Some(fabric.coordinate(options).await);
    run(&client, 5).await;
    tokio::task::block_in_place(|| fabric.stack.redis.restart()).expect("it comes back");
    index_equals_journal(&fabric, &client, 10).await;
}
