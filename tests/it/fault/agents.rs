//! Agent processes that die, freeze, come back, or are told to leave.

use std::time::Duration;

use futures_util::StreamExt;
use selvedge::flow::record::Record;
use selvedge::task::{Code, Phase};
use selvedge::wire::{codec, messages::Beat};

use super::audit::Audit;
use super::process::{agent, draining_agent, policy};
use super::work::{self, AGENT, Gate, Work};
use crate::harness::fabric::Fabric;
use crate::harness::{soon, until};

const LEASE: Duration = Duration::from_secs(1);

async fn fabric() -> Fabric {
    Fabric::start_with(|options| options.policy = policy()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_agent_was_killed_is_run_by_another_after_its_lease() {
    let fabric = fabric().await;
    let mut gate = Gate::new(&fabric, "a").await;
    let first = agent(&fabric.stack, 1, LEASE);
    let client = fabric.client("acme").await;
    let task = client.submit(AGENT, &Work::Gate("a".into())).await.unwrap();
    let started = gate.next().await;
    assert_eq!((started.attempt, started.pid), (1, first.pid()));
    first.kill();
    let second = agent(&fabric.stack, 1, LEASE);
    let started = gate.next().await;
    assert_eq!((started.attempt, started.pid), (2, second.pid()));
    gate.open().await;
    assert_eq!(soon("the result", task.result::<u64>()).await.unwrap(), 2);
    let view = client.get(task.id()).await.unwrap();
    assert_eq!((view.attempt, view.tries), (2, 1));
    assert_eq!(view.failures[0].code, Code::LeaseLost);
    let audit = Audit::of(&fabric.stack).await;
    assert_eq!(audit.end_of("acme", task.id()), (Some("completed"), 2, 1));
    audit.assert_settled();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_frozen_beyond_its_lease_changes_nothing_when_it_thaws_and_stays_of_use() {
    let fabric = fabric().await;
    let mut gate = Gate::new(&fabric, "z").await;
    let frozen = agent(&fabric.stack, 1, LEASE);
    let client = fabric.client("acme").await;
    let task = client.submit(AGENT, &Work::Gate("z".into())).await.unwrap();
    assert_eq!(gate.next().await.pid, frozen.pid());
    frozen.signal(libc::SIGSTOP);
    let other = agent(&fabric.stack, 1, LEASE);
    let started = gate.next().await;
    assert_eq!((started.attempt, started.pid), (2, other.pid()));
    // The frozen handler finds the gate open when it thaws, and ends as a zombie.
    gate.open().await;
    assert_eq!(soon("the result", task.result::<u64>()).await.unwrap(), 2);
    let before = Audit::of(&fabric.stack).await.messages.len();
    frozen.signal(libc::SIGCONT);
    other.kill();
    // Its slot is free again: the next task runs there.
    let next = client.submit(AGENT, &Work::Gate("z".into())).await.unwrap();
    assert_eq!(gate.next().await.pid, frozen.pid());
    gate.open().await;
    soon("the next result", next.result::<u64>()).await.unwrap();
    let audit = Audit::of(&fabric.stack).await;
    assert_eq!(audit.end_of("acme", task.id()), (Some("completed"), 2, 1));
    let of_the_zombie = audit.messages[before..].iter().flat_map(|m| &m.records).filter(
        |r| matches!(r, Record::Ended { key, .. } | Record::LeaseLost { key, .. } if key.id == *task.id()),
    );
    assert_eq!(of_the_zombie.count(), 0);
    audit.assert_settled();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_kills_its_agents_is_dead_after_its_tries_with_each_reason() {
    let fabric = fabric().await;
    let client = fabric.client("acme").await;
    let lease = Duration::from_millis(600);
    let poison = client.submit(AGENT, &Work::Die).max_tries(3).await.unwrap();
    for _ in 0..3 {
        let victim = agent(&fabric.stack, 2, lease);
        soon("the poison kills its agent", victim.ended()).await;
    }
    let ended = soon("the poison is dead", poison.wait()).await.unwrap();
    assert_eq!(ended.state, Phase::Failed);
    let view = client.get(poison.id()).await.unwrap();
    assert_eq!(view.tries, 3);
    let reasons: Vec<Code> = view.failures.iter().map(|f| f.code).collect();
    assert_eq!(reasons, [Code::LeaseLost; 3]);
    assert!(view.failures[0].message.contains("no heartbeat"), "{:?}", view.failures);
    let dead = until("the dead list has it", async || {
        let page = client.list().state(Phase::Failed).page().await.ok()?;
        page.tasks.into_iter().find(|t| t.task == *poison.id())
    });
    assert_eq!(dead.await.tries, 3);
    // Whoever comes after it works undisturbed.
    let _healthy = agent(&fabric.stack, 1, lease);
    let task = client.submit(AGENT, &Work::Echo(7)).await.unwrap();
    assert_eq!(soon("the next task", task.result::<u64>()).await.unwrap(), 7);
    Audit::of(&fabric.stack).await.assert_settled();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_on_sigterm_hands_tasks_back_without_burning_a_try() {
    let fabric = fabric().await;
    let mut gate = Gate::new(&fabric, "d").await;
    let leaving = draining_agent(&fabric.stack, 2, Duration::from_secs(30), Duration::from_millis(1_500));
    let client = fabric.client("acme").await;
    let tasks = [Work::Gate("d".into()), Work::Gate("d".into())];
    let mut handles = Vec::new();
    for work in &tasks {
        handles.push(client.submit(AGENT, work).await.unwrap());
        assert_eq!(gate.next().await.pid, leaving.pid());
    }
    leaving.signal(libc::SIGTERM);
    let status = soon("the agent leaves", leaving.ended()).await;
    assert!(status.success(), "{status}");
    // Long before a lease of 30 s is over.
    let staying = agent(&fabric.stack, 2, LEASE);
    for _ in &handles {
        assert_eq!(gate.next().await.pid, staying.pid());
    }
    gate.open().await;
    let audit = {
        for handle in &handles {
            assert_eq!(soon("the result", handle.result::<u64>()).await.unwrap(), 2);
        }
        Audit::of(&fabric.stack).await
    };
    for handle in &handles {
        assert_eq!(audit.end_of("acme", handle.id()), (Some("completed"), 2, 0));
    }
    assert_eq!(audit.count(|r| matches!(r, Record::LeaseLost { .. })), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_is_frozen_beyond_its_time_hands_its_tasks_back_all_the_same() {
    let fabric = fabric().await;
    let mut gate = Gate::new(&fabric, "s").await;
    let drain = Duration::from_millis(2_500);
    let leaving = draining_agent(&fabric.stack, 1, Duration::from_secs(60), drain);
    let client = fabric.client("acme").await;
    let task = client.submit(AGENT, &Work::Gate("s".into())).await.unwrap();
    assert_eq!(gate.next().await.pid, leaving.pid());
    let lane = client.link().main.clone();
    let mut beats = lane.subscribe("sv.beat.>").await.unwrap();
    lane.flush().await.unwrap();
    leaving.signal(libc::SIGTERM);
    loop {
        let beat = soon("a heartbeat says that it drains", beats.next()).await.unwrap();
        let beat = codec::decode_any::<Beat>(None, &beat.payload, 65_536).1;
        if beat.is_ok_and(|beat| beat.draining) {
            break;
        }
    }
    leaving.signal(libc::SIGSTOP);
    // It is the time that passes which matters.
    tokio::time::sleep(drain).await;
    leaving.signal(libc::SIGCONT);
    soon("the agent leaves", leaving.ended()).await;
    // Long before a lease of 60 s is over.
    let staying = agent(&fabric.stack, 1, Duration::from_secs(60));
    assert_eq!(gate.next().await.pid, staying.pid());
    gate.open().await;
    soon("the result", task.result::<u64>()).await.unwrap();
    let audit = Audit::of(&fabric.stack).await;
    assert_eq!(audit.end_of("acme", task.id()), (Some("completed"), 2, 0));
    assert_eq!(audit.count(|r| matches!(r, Record::LeaseLost { .. })), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_short_tasks_finish_and_takes_no_new_ones() {
    let fabric = fabric().await;
    let mut gate = Gate::new(&fabric, "f").await;
    let leaving = agent(&fabric.stack, 1, LEASE);
    let client = fabric.client("acme").await;
    let running = client.submit(AGENT, &Work::Gate("f".into())).await.unwrap();
    gate.next().await;
    let waiting = client.submit(AGENT, &Work::Echo(5)).await.unwrap();
    let client_link = client.link().main.clone();
    let mut beats = client_link.subscribe("sv.beat.>").await.unwrap();
    client_link.flush().await.unwrap();
    leaving.signal(libc::SIGTERM);
    let drains = |beat: &Beat| beat.draining;
    loop {
        let beat = soon("a heartbeat says that it drains", beats.next()).await.unwrap();
        if codec::decode_any(None, &beat.payload, 65_536).1.is_ok_and(|beat| drains(&beat)) {
            break;
        }
    }
    gate.open().await;
    assert_eq!(soon("the running task finishes", running.result::<u64>()).await.unwrap(), 1);
    soon("the agent leaves", leaving.ended()).await;
    assert_eq!(client.get(waiting.id()).await.unwrap().state, Phase::Queued);
    fabric.agent(work::agent(1, LEASE)).await;
    assert_eq!(soon("the waiting task", waiting.result::<u64>()).await.unwrap(), 5);
    assert_eq!(Audit::of(&fabric.stack).await.end_of("acme", waiting.id()), (Some("completed"), 1, 0));
}
