//! Leases, offers and tries, with workers that are silent, busy, late, repetitive or wrong.

use std::time::Duration;

use futures_util::StreamExt;
use selvedge::bus::Clock;
use selvedge::flow::record::Record;
use selvedge::task::{Code, Outcome, Payload, Phase, Plan};
use selvedge::wire::codec;
use selvedge::wire::messages::{End, Offers, ReportOp, Spawn};

use super::audit::Audit;
use super::by_hand::ByHand;
use super::process::policy;
use super::work::{self, AGENT, Gate, Work};
use crate::harness::fabric::{Fabric, eventually, unbound};
use crate::harness::{soon, until};

async fn fabric() -> Fabric {
    Fabric::start_with(|options| options.policy = policy()).await
}

async fn fast_fabric(speed: f64) -> Fabric {
    let change = |options: &mut selvedge::coordinator::run::Options| {
        options.policy = policy();
        options.clock = Clock::fast(speed);
        // An acceptance takes real time, however fast the clock runs.
        options.policy.offer_timeout_ms = 600_000;
    };
    Fabric::start_with(change).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_two_minutes_is_lost_after_two_minutes_of_silence_and_not_before() {
    let fabric = fast_fabric(40.0).await;
    let client = fabric.client("acme").await;
    let mut worker = ByHand::new(&fabric, 1, 120_000).await;
    let task = client.submit(AGENT, &Work::Echo(1)).max_tries(1).await.unwrap();
    let offer = worker.offered().await;
    assert_eq!(offer.lease_ms, 120_000);
    worker.accept(&[offer.token], &[]).await;
    let ended = soon("the lease is lost", task.wait()).await.unwrap();
    assert_eq!(ended.refusal.unwrap().code, Code::LeaseLost);
    assert_eq!(worker.stopped(offer.token).await, Code::LeaseLost);
    let audit = Audit::of(&fabric.stack).await;
    let at = |is: fn(&Record) -> bool| {
        audit.messages.iter().find(|m| m.records.iter().any(is)).expect("it happened").now
    };
    let dispatched = at(|r| matches!(r, Record::Dispatched { .. }));
    let lost = at(|r| matches!(r, Record::LeaseLost { .. }));
    assert!(lost - dispatched >= 120_000, "{} ms", lost - dispatched);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_forty_minutes_keeps_its_lease_by_heartbeats() {
    let fabric = fast_fabric(300.0).await;
    fabric.agent(work::agent(1, Duration::from_secs(120))).await;
    let client = fabric.client("acme").await;
    let forty_minutes = 40 * 60_000;
    let task = client.submit(AGENT, &Work::Run(forty_minutes)).max_tries(1).await.unwrap();
    assert_eq!(eventually("forty minutes", task.result::<u64>()).await.unwrap(), forty_minutes);
    let audit = Audit::of(&fabric.stack).await;
    assert_eq!(audit.end_of("acme", task.id()), (Some("completed"), 1, 0));
    let (first, last) = (audit.messages[0].now, audit.messages.last().unwrap().now);
    assert!(last - first >= forty_minutes, "{} ms", last - first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_after_the_lease_is_lost_is_stale_and_frees_no_second_slot() {
    let fabric = fabric().await;
    fabric.plan("acme", Plan { in_flight: 1, ..unbound() }).await;
    let client = fabric.client("acme").await;
    let mut zombie = ByHand::new(&fabric, 1, 300).await;
    let task = client.submit(AGENT, &Work::Echo(1)).await.unwrap();
    let late = zombie.offered().await;
    zombie.accept(&[late.token], &[]).await;
    assert_eq!(zombie.stopped(late.token).await, Code::LeaseLost);
    let mut healthy = ByHand::new(&fabric, 2, 60_000).await;
    let offer = healthy.offered().await;
    assert_eq!((offer.task.clone(), offer.attempt, offer.tries), (task.id().clone(), 2, 1));
    healthy.accept(&[offer.token], &[]).await;

    // It beats for the lease, which revives nothing, and ends it, which changes nothing.
    zombie.beat(&[late.token]).await;
    zombie.complete(&late, 1, 666).await;
    let verdict = zombie.verdict(late.token, 1).await;
    assert_eq!(verdict.refusal.unwrap().code, Code::StaleLease);
    assert_eq!(client.get(task.id()).await.unwrap().state, Phase::Running);

    // The slot of the tenant is taken by the second attempt, once.
    let second = client.submit(AGENT, &Work::Echo(2)).confirmed().await.unwrap();
    healthy.complete(&offer, 1, 42).await;
    let next = healthy.next_offer().await;
    assert_eq!(next.task, *second.id());
    healthy.complete(&next, 1, 43).await;
    assert_eq!(soon("the result", task.result::<u64>()).await.unwrap(), 42);
    soon("the second", second.result::<u64>()).await.unwrap();
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    assert_eq!(audit.most_in_flight["acme"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_end_of_a_lease_stands() {
    let fabric = fabric().await;
    let client = fabric.client("acme").await;
    let mut worker = ByHand::new(&fabric, 1, 60_000).await;
    let task = client.submit(AGENT, &Work::Echo(1)).await.unwrap();
    let offer = worker.offered().await;
    worker.complete(&offer, 1, 1).await;
    assert_eq!(worker.verdict(offer.token, 1).await.refusal, None);
    worker.complete(&offer, 1, 1).await;
    assert_eq!(worker.verdict(offer.token, 1).await.refusal, None, "the same again is a success");
    worker.complete(&offer, 1, 2).await;
    let refusal = worker.verdict(offer.token, 1).await.refusal.unwrap();
    assert_eq!(refusal.code, Code::ResultConflict);
    assert_eq!(task.result::<u64>().await.unwrap(), 1);
    let audit = Audit::of(&fabric.stack).await;
    assert_eq!(audit.count(|r| matches!(r, Record::Ended { .. })), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_are_applied_in_order_and_once_however_they_arrive() {
    let fabric = fabric().await;
    let client = fabric.client("acme").await;
    let mut worker = ByHand::new(&fabric, 1, 60_000).await;
    let task = client.submit(AGENT, &Work::Echo(1)).await.unwrap();
    let offer = worker.offered().await;
    let spawn = |step: &str| {
        let child = serde_json::json!({"agent": "nobody", "input": 1});
        Spawn { step: step.to_owned(), first: 0, children: vec![serde_json::from_value(child).unwrap()] }
    };
    let outcome = Outcome::Completed { result: Payload::json(&9).unwrap() };
    worker.report(&offer, 3, ReportOp::End(End { last_event: 0, outcome, used: None })).await;
    worker.spawn(&offer, 2, spawn("two")).await;
    worker.spawn(&offer, 2, spawn("two")).await;
    worker.spawn(&offer, 1, spawn("one")).await;
    worker.spawn(&offer, 1, spawn("one")).await;
    assert_eq!(worker.verdict(offer.token, 3).await.refusal, None);
    assert_eq!(soon("the result", task.result::<u64>()).await.unwrap(), 9);
    let children = client.children(task.id(), 0, false).await.unwrap().children;
    let steps: Vec<&str> = children.iter().map(|c| c.step.as_str()).collect();
    assert_eq!(steps, ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_nobody_accepts_is_withdrawn_and_given_to_another_without_burning_a_try() {
    let fabric = fabric().await;
    let client = fabric.client("acme").await;
    let mut deaf = ByHand::new(&fabric, 1, 60_000).await;
    let task = client.submit(AGENT, &Work::Echo(1)).await.unwrap();
    let offer = deaf.offered().await;
    assert_eq!(deaf.stopped(offer.token).await, Code::OfferLost);
    fabric.agent(work::agent(1, Duration::from_secs(5))).await;
    assert_eq!(soon("another takes it", task.result::<u64>()).await.unwrap(), 1);
    // Too late: the token is void.
    deaf.accept(&[offer.token], &[]).await;
    deaf.complete(&offer, 1, 666).await;
    assert_eq!(deaf.verdict(offer.token, 1).await.refusal.unwrap().code, Code::StaleLease);
    let audit = Audit::of(&fabric.stack).await;
    assert_eq!(audit.end_of("acme", task.id()), (Some("completed"), 2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_every_instance_vanishes_before_accepting_runs_out_of_tries() {
    let change = |options: &mut selvedge::coordinator::run::Options| {
        options.policy = policy();
        options.policy.offer_timeout_ms = 300;
    };
    let fabric = Fabric::start_with(change).await;
    let client = fabric.client("acme").await;
    let task = client.submit(AGENT, &Work::Echo(1)).max_tries(2).await.unwrap();
    for _ in 0..4 {
        let mut vanishes = ByHand::new(&fabric, 1, 60_000).await;
        let offer = vanishes.offered().await;
        assert_eq!(offer.task, *task.id());
        assert_eq!(vanishes.stopped(offer.token).await, Code::OfferLost);
    }
    // Two for free, then each counts.
    let ended = soon("it is dead", task.wait()).await.unwrap();
    assert_eq!((ended.state, ended.refusal.unwrap().code), (Phase::Failed, Code::OfferLost));
    assert_eq!(Audit::of(&fabric.stack).await.end_of("acme", task.id()), (Some("failed"), 4, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_never_offered_more_than_its_slots_and_a_busy_one_is_passed_over() {
    let fabric = fabric().await;
    let client = fabric.client("acme").await;
    let mut worker = ByHand::new(&fabric, 2, 60_000).await;
    let mut tasks = Vec::new();
    for n in 0..5 {
        tasks.push(client.submit(AGENT, &Work::Echo(n)).confirmed().await.unwrap());
    }
    let first = worker.offered().await;
    let second = worker.next_offer().await;
    worker.accept(&[first.token, second.token], &[]).await;
    worker.beat(&[first.token, second.token]).await;
    // A slot that is said to be busy is not free, whatever was said about slots.
    worker.complete(&first, 1, 1).await;
    let third = worker.next_offer().await;
    worker.accept(&[], &[third.token]).await;
    fabric.agent(work::agent(1, Duration::from_secs(5))).await;
    for task in tasks.iter().filter(|t| ![&first.task, &second.task].contains(&t.id())) {
        soon("the others run elsewhere", task.result::<u64>()).await.unwrap();
    }
    worker.complete(&second, 1, 2).await;
    soon("the second", tasks[1].result::<u64>()).await.unwrap();
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    let mut here = 0_u32;
    for record in audit.messages.iter().flat_map(|m| &m.records) {
        match record {
            Record::Dispatched { instance, .. } if *instance == worker.instance => here += 1,
            Record::Ended { key, .. } if [&first.task, &second.task].contains(&&key.id) => here -= 1,
            Record::Withdrawn { vanished: false, failure: None, .. } => here -= 1,
            _ => {}
        }
        assert!(here <= 2, "two slots");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicated_offer_is_not_run_twice_neither_while_it_runs_nor_after() {
    let fabric = fabric().await;
    let client = fabric.client("acme").await;
    let lane = client.link().main.clone();
    let mut offers = lane.subscribe("sv.offer.>").await.unwrap();
    let mut accepts = lane.subscribe("sv.accept.>").await.unwrap();
    lane.flush().await.unwrap();
    let mut gate = Gate::new(&fabric, "dup").await;
    fabric.agent(work::agent(3, Duration::from_secs(5))).await;
    let task = client.submit(AGENT, &Work::Gate("dup".into())).await.unwrap();
    gate.next().await;
    let offer = soon("the offer", offers.next()).await.unwrap();
    soon("the acceptance", accepts.next()).await.unwrap();
    for _ in 0..3 {
        lane.tell(offer.subject.to_string(), offer.payload.clone()).await.unwrap();
    }
    soon("a duplicate is accepted again", accepts.next()).await.unwrap();
    gate.open().await;
    soon("the result", task.result::<u64>()).await.unwrap();
    for _ in 0..3 {
        lane.tell(offer.subject.to_string(), offer.payload.clone()).await.unwrap();
    }
    // What comes after the duplicates starts; they did not.
    let next = client.submit(AGENT, &Work::Gate("dup".into())).await.unwrap();
    assert_eq!(gate.next().await.task, *next.id());
    gate.open().await;
    soon("the next result", next.result::<u64>()).await.unwrap();
    let token = codec::decode_any::<Offers>(None, &offer.payload, 65_536).1.unwrap().offers[0].token;
    assert_eq!(
        Audit::of(&fabric.stack).await.count(|r| matches!(r, Record::Ended { token: t, .. } if *t == token)),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_task_backs_off_and_is_dead_after_its_tries_and_a_retry_is_a_new_task() {
    let fabric = fabric().await;
    fabric.agent(work::agent(1, Duration::from_secs(5))).await;
    let client = fabric.client("acme").await;
    let task = client.submit(AGENT, &Work::Fail(true)).max_tries(3).await.unwrap();
    let once = client.submit(AGENT, &Work::Fail(false)).max_tries(3).await.unwrap();
    assert_eq!(soon("its end", task.wait()).await.unwrap().state, Phase::Failed);
    assert_eq!(soon("its end", once.wait()).await.unwrap().state, Phase::Failed);
    let view = client.get(task.id()).await.unwrap();
    assert_eq!((view.attempt, view.tries, view.failures.len()), (3, 3, 3));
    assert!(
        view.failures.iter().all(|f| f.code == Code::HandlerFailed && f.message.contains("asked to fail"))
    );
    assert_eq!(client.get(once.id()).await.unwrap().tries, 1);
    let retried = client.retry(task.id()).await.unwrap();
    assert_ne!(retried.id(), task.id());
    soon("the retry ends", retried.wait()).await.unwrap();
    let retried = until("the retry is linked", async || client.get(retried.id()).await.ok()).await;
    assert_eq!(retried.retry_of.as_ref(), Some(task.id()));
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    assert_eq!(audit.count(|r| matches!(r, Record::Woken { .. })), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_and_an_end_at_the_same_moment_leave_one_outcome_that_both_are_told() {
    let fabric = fabric().await;
    fabric.agent(work::agent(8, Duration::from_secs(5))).await;
    fabric.plan("acme", unbound()).await;
    let client = fabric.client("acme").await;
    let mut races = Vec::new();
    for n in 0..25_u64 {
        let task = client.submit(AGENT, &Work::Run(n % 5)).await.unwrap();
        let (client, id) = (client.clone(), task.id().clone());
        races.push(async move { tokio::join!(task.wait(), async { client.cancel(&id, "a race").await }) });
    }
    let mut seen = std::collections::BTreeMap::new();
    for (ended, cancelled) in futures_util::future::join_all(races).await {
        let (ended, cancelled) = (ended.unwrap(), cancelled.unwrap());
        *seen.entry(ended.state).or_insert(0) += 1;
        if let Some(told) = cancelled.state.filter(|s| s.is_terminal()) {
            assert_eq!(told, ended.state, "{}", ended.task);
        }
    }
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    assert_eq!(seen.values().sum::<i32>(), 25, "{seen:?}");
    assert!(seen.keys().all(|s| [Phase::Completed, Phase::Cancelled].contains(s)), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submit_repeated_after_a_restart_is_the_same_task_and_another_body_is_a_conflict() {
    let mut fabric = fabric().await;
    fabric.agent(work::agent(1, Duration::from_secs(5))).await;
    let client = fabric.client("acme").await;
    let task = client.submit(AGENT, &Work::Echo(1)).id("twice").await.unwrap();
    assert_eq!(soon("the result", task.result::<u64>()).await.unwrap(), 1);
    fabric.coordinator.take().unwrap().crash();
    let mut options = selvedge::coordinator::run::Options::new("next");
    options.policy = policy();
    fabric.coordinator = Some(fabric.coordinate(options).await);
    let again = client.submit(AGENT, &Work::Echo(1)).id("twice").confirmed().await.unwrap();
    assert_eq!(soon("the same result", again.result::<u64>()).await.unwrap(), 1);
    let other = client.submit(AGENT, &Work::Echo(2)).id("twice").confirmed().await.unwrap_err();
    assert_eq!(other.code(), Some(Code::IdempotencyConflict), "{other}");
    assert_eq!(task.result::<u64>().await.unwrap(), 1, "the first task is untouched");
    let audit = Audit::of(&fabric.stack).await;
    assert_eq!(audit.end_of("acme", task.id()), (Some("completed"), 1, 0));
    assert_eq!(audit.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submit_older_than_what_is_remembered_is_refused_and_never_run() {
    let change = |options: &mut selvedge::coordinator::run::Options| {
        options.policy = policy();
        options.policy.dedupe_max = 2;
    };
    let fabric = Fabric::start_with(change).await;
    fabric.agent(work::agent(1, Duration::from_secs(5))).await;
    let client = fabric.client("acme").await;
    let lane = client.link().main.clone();
    let mut submits = lane.subscribe("sv.submit.acme.>").await.unwrap();
    // An answer over the same connection: the server knows of the subscription.
    soon("an answer", client.stats()).await.unwrap();
    for n in 0..4 {
        let task = client.submit(AGENT, &Work::Echo(n)).id(&format!("t{n}")).await.unwrap();
        soon("the result", task.result::<u64>()).await.unwrap();
    }
    let first = soon("the first submit, as it was sent", submits.next()).await.unwrap();
    client.link().bulk.store(&first.subject, first.payload, Duration::from_secs(5)).await.unwrap();
    let refused = until("the refusal is in the journal", async || {
        let audit = Audit::of(&fabric.stack).await;
        audit.messages.iter().flat_map(|m| &m.records).find_map(|r| match r {
            Record::Refused { key, refusal } => Some((key.id.to_string(), refusal.code)),
            _ => None,
        })
    });
    assert_eq!(refused.await, ("t0".to_owned(), Code::TooOld));
    let dispatched = Audit::of(&fabric.stack).await.count(|r| matches!(r, Record::Dispatched { .. }));
    assert_eq!(dispatched, 4);
}
