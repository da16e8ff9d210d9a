//! Coordinators that die at every step, freeze, compete, or are all gone.

use std::time::Duration;

use futures_util::future::join_all;
use selvedge::client::{Client, NewTask, TaskHandle};
use selvedge::flow::record::Record;
use selvedge::task::Phase;

use super::audit::Audit;
use super::by_hand::ByHand;
use super::process::{Coordinator, policy};
use super::work::{self, AGENT, Gate, Work};
use crate::harness::fabric::{Fabric, eventually};
use crate::harness::{soon, until};

const LEASE: Duration = Duration::from_secs(2);

/// Servers without a coordinator, streams made.
async fn bare() -> Fabric {
    let mut fabric = Fabric::start_with(|options| options.policy = policy()).await;
    fabric.coordinator.take().expect("just started").stop().await;
    fabric
}

async fn some_of_everything(client: &Client) -> Vec<TaskHandle> {
    let mut tasks = Vec::new();
    for n in 0..4 {
        tasks.push(client.submit(AGENT, &Work::Echo(n)).await.unwrap());
    }
    tasks.push(client.submit(AGENT, &Work::Tree(1, None)).await.unwrap());
    tasks.push(client.submit(AGENT, &Work::Fail(true)).max_tries(2).await.unwrap());
    tasks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_every_point_of_the_loop_loses_and_doubles_nothing() {
    let fabric = bare().await;
    let client = fabric.client("acme").await;
    for _ in 0..2 {
        fabric.agent(work::agent(4, LEASE)).await;
    }
    let points = [
        ("taken", 2),
        ("decided", 1),
        ("decided", 4),
        ("appended", 1),
        ("appended", 3),
        ("ack", 3),
        ("offer", 2),
        ("ctl", 2),
        ("done", 2),
        ("performed", 3),
    ];
    let mut tasks = Vec::new();
    for (point, time) in points {
        let coordinator = Coordinator::new(point).crash_at(point, time).spawn(&fabric.stack);
        tasks.extend(some_of_everything(&client).await);
        let status = soon(&format!("the crash at {point}"), coordinator.ended()).await;
        assert!(!status.success(), "{point} was reached and crashed: {status}");
    }
    let _last = Coordinator::new("last").spawn(&fabric.stack);
    for task in &tasks {
        let ended = eventually("every accepted task ends", task.wait()).await.unwrap();
        assert!(matches!(ended.state, Phase::Completed | Phase::Failed), "{ended:?}");
    }
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    for task in &tasks {
        let (end, ..) = audit.end_of("acme", task.id());
        assert!(end.is_some());
    }
    assert_eq!(audit.len(), tasks.len() + 3 * points.len(), "three children per tree, and nothing else");
    assert!(audit.count(|r| matches!(r, Record::Opened { .. })) > points.len() / 2);
    // Nobody died but coordinators: no try is burned by a handover.
    let failed =
        audit.count(|r| matches!(r, Record::LeaseLost { .. } | Record::Withdrawn { failure: Some(_), .. }));
    assert_eq!(failed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submits_are_taken_while_every_coordinator_is_down_and_no_lease_is_lost_by_it() {
    let fabric = Fabric::start_with(|o| o.policy = policy()).await;
    let mut fabric = fabric;
    fabric.coordinator.take().expect("running").stop().await;
    let one = Coordinator::new("one").spawn(&fabric.stack);
    let two = Coordinator::new("two").spawn(&fabric.stack);
    let mut gate = Gate::new(&fabric, "down").await;
    let lease = Duration::from_secs(1);
    fabric.agent(work::agent(2, lease)).await;
    let client = fabric.client("acme").await;
    let running = client.submit(AGENT, &Work::Gate("down".into())).await.unwrap();
    gate.next().await;
    one.kill();
    two.kill();
    let submitted: Vec<TaskHandle> = {
        let tasks = (0..50).map(|n| NewTask::new(AGENT, &Work::Echo(n)).unwrap());
        client.submit_many(tasks).await.into_iter().map(|t| t.expect("stored")).collect()
    };
    // Longer than the lease, by the lease's own clock; meanwhile the running task ends.
    tokio::time::sleep(lease * 2).await;
    gate.open().await;
    let before = Audit::of(&fabric.stack).await;
    assert_eq!(before.len(), 1, "nothing is decided while nobody is there");
    let _three = Coordinator::new("three").spawn(&fabric.stack);
    assert_eq!(soon("the task that was running", running.result::<u64>()).await.unwrap(), 1);
    for task in &submitted {
        soon("a task submitted meanwhile", task.result::<u64>()).await.unwrap();
    }
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    assert_eq!(audit.count(|r| matches!(r, Record::LeaseLost { .. })), 0);
    assert_eq!(audit.end_of("acme", running.id()), (Some("completed"), 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_frozen_beyond_its_ownership_loses_the_compare_and_set_and_steps_down() {
    let fabric = bare().await;
    // The frozen one goes on being asked, and does not answer: don't wait long for it.
    let client = fabric.client("acme").await.ask_within(Duration::from_millis(500));
    fabric.agent(work::agent(2, LEASE)).await;
    let frozen = Coordinator::new("frozen").spawn(&fabric.stack);
    let task = client.submit(AGENT, &Work::Echo(1)).await.unwrap();
    soon("the first owner works", task.result::<u64>()).await.unwrap();
    for _ in 0..2 {
        // Work arrives in the very moment in which it freezes: it thaws with a stale batch at hand.
        let mut tasks = Vec::new();
        for n in 0..20 {
            tasks.push(client.submit(AGENT, &Work::Echo(n)).await.unwrap());
        }
        frozen.signal(libc::SIGSTOP);
        let next = Coordinator::new("next").spawn(&fabric.stack);
        let results = join_all(tasks.iter().map(TaskHandle::result::<u64>));
        // Half of the queries go to the frozen one, and the pauses between them grow.
        for result in eventually("the next owner works", results).await {
            result.unwrap();
        }
        frozen.signal(libc::SIGCONT);
        let more = client.submit(AGENT, &Work::Echo(2)).await.unwrap();
        soon("work goes on after the thaw", more.result::<u64>()).await.unwrap();
        assert!(frozen.exited().is_none(), "it stands by");
        next.kill();
        let more = client.submit(AGENT, &Work::Echo(3)).await.unwrap();
        soon("the thawed one takes over again", more.result::<u64>()).await.unwrap();
    }
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    assert_eq!(audit.count(|r| matches!(r, Record::LeaseLost { .. })), 0);
    let mut epochs: Vec<u64> = audit.messages.iter().map(|m| m.epoch).collect();
    assert!(epochs.is_sorted(), "a deposed owner appends nothing");
    epochs.dedup();
    assert!(epochs.len() >= 5, "{epochs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_from_before_a_crash_is_sent_again_with_the_same_token() {
    let mut fabric = Fabric::start_with(|o| o.policy = policy()).await;
    let client = fabric.client("acme").await;
    let mut worker = ByHand::new(&fabric, 1, 60_000).await;
    let task = client.submit(AGENT, &Work::Echo(1)).await.unwrap();
    let offer = worker.offered().await;
    let first = worker.epoch;
    fabric.coordinator.take().expect("running").crash();
    let _next = Coordinator::new("next").spawn(&fabric.stack);
    let again = loop {
        let again = worker.next_offer().await;
        if worker.epoch > first {
            break again;
        }
    };
    assert_eq!((again.token, again.attempt, again.task), (offer.token, 1, offer.task.clone()));
    worker.accept(&[offer.token], &[]).await;
    worker.complete(&offer, 1, 11).await;
    assert_eq!(soon("the result", task.result::<u64>()).await.unwrap(), 11);
    assert_eq!(Audit::of(&fabric.stack).await.end_of("acme", task.id()), (Some("completed"), 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_whose_verdict_was_lost_in_a_crash_is_a_success_when_repeated() {
    let mut fabric = bare().await;
    let client = fabric.client("acme").await;
    let mut worker = ByHand::new(&fabric, 1, 60_000).await;
    // Dies after the end is journaled, before anything of it is told.
    let doomed = Coordinator::new("doomed").crash_at("ctl", 1).spawn(&fabric.stack);
    let task = client.submit(AGENT, &Work::Echo(1)).await.unwrap();
    worker.owner_after(0).await;
    let offer = worker.offered().await;
    worker.accept(&[offer.token], &[]).await;
    worker.complete(&offer, 1, 11).await;
    soon("the crash", doomed.ended()).await;
    fabric.coordinator = None;
    let _next = Coordinator::new("next").spawn(&fabric.stack);
    worker.owner_after(worker.epoch).await;
    worker.complete(&offer, 1, 11).await;
    assert_eq!(worker.verdict(offer.token, 1).await.refusal, None);
    assert_eq!(soon("the result", task.result::<u64>()).await.unwrap(), 11);
    // The slot is derived from the journal: it is free again.
    let second = client.submit(AGENT, &Work::Echo(2)).await.unwrap();
    let offer = worker.offered().await;
    assert_eq!(offer.task, *second.id());
    let audit = Audit::of(&fabric.stack).await;
    assert_eq!(audit.end_of("acme", task.id()), (Some("completed"), 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_whose_last_child_ended_in_a_crash_is_woken_by_the_next_owner() {
    let fabric = bare().await;
    let client = fabric.client("acme").await;
    fabric.plan("acme", selvedge::task::Plan { in_flight: 1, ..crate::harness::fabric::unbound() }).await;
    fabric.agent(work::agent(2, LEASE)).await;
    for crash in 1..=4 {
        // With one slot for the tenant the fourth append with a hint is about a child, sooner or later.
        let doomed = Coordinator::new("doomed").crash_at("done", crash).spawn(&fabric.stack);
        let task = client.submit(AGENT, &Work::Tree(1, None)).await.unwrap();
        soon("the crash", doomed.ended()).await;
        let next = Coordinator::new("next").spawn(&fabric.stack);
        assert_eq!(soon("the tree", task.result::<u64>()).await.unwrap(), 4);
        next.kill();
    }
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    assert_eq!(audit.most_in_flight["acme"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_that_come_and_go_under_load_keep_the_caps_and_burn_no_try() {
    let fabric = bare().await;
    fabric.plan("acme", selvedge::task::Plan { in_flight: 3, ..crate::harness::fabric::unbound() }).await;
    fabric.agent(work::agent(8, LEASE)).await;
    let client = fabric.client("acme").await;
    let mut owners =
        vec![Coordinator::new("a").spawn(&fabric.stack), Coordinator::new("b").spawn(&fabric.stack)];
    let mut tasks = Vec::new();
    for round in 0..3 {
        for n in 0..40 {
            tasks.push(client.submit(AGENT, &Work::Run(n % 7)).await.unwrap());
        }
        until("some of the work is done", async || {
            let view = client.get(tasks[round * 40 + 5].id()).await.ok()?;
            view.state.is_terminal().then_some(())
        })
        .await;
        owners.remove(0).kill();
        owners.push(Coordinator::new("c").spawn(&fabric.stack));
    }
    for task in &tasks {
        soon("every task ends", task.result::<u64>()).await.unwrap();
    }
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    assert_eq!(audit.most_in_flight["acme"], 3);
    for task in &tasks {
        assert_eq!(audit.end_of("acme", task.id()), (Some("completed"), 1, 0));
    }
}
