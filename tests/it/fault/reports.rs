//! Reports of several tasks in one message: each is decided on its own, the message is gone when all are.

use selvedge::task::{Code, Outcome, Payload, Phase, TaskId, Token};
use selvedge::wire::messages::{End, MAX_REPORTS, Offer, ReportOp, TaskReport};

use super::audit::Audit;
use super::by_hand::ByHand;
use super::work::{AGENT, Work};
use crate::harness::fabric::Fabric;
use crate::harness::{soon, until};

fn end(offer: &Offer, n: u32, result: u64) -> TaskReport {
    let outcome = Outcome::Completed { result: Payload::json(&result).unwrap() };
    TaskReport {
        tenant: offer.tenant.clone(),
        task: offer.task.clone(),
        token: offer.token,
        attempt: offer.attempt,
        n,
        op: ReportOp::End(End { last_event: 0, outcome, used: None }),
    }
}

async fn reports_are_gone(fabric: &Fabric) {
    let connection = fabric.stack.connect("looks").await;
    until("REPORTS is empty", || async {
        let stream = connection.jetstream().get_stream("REPORTS").await.unwrap();
        (stream.get_info().await.unwrap().state.messages == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_of_several_tasks_in_one_message_are_each_decided_on_their_own() {
    let fabric = Fabric::start().await;
    let (acme, globex) = (fabric.client("acme").await, fabric.client("globex").await);
    let mut worker = ByHand::new(&fabric, 3, 60_000).await;
    let tasks = [
        acme.submit(AGENT, &Work::Echo(1)).await.unwrap(),
        acme.submit(AGENT, &Work::Echo(2)).await.unwrap(),
        globex.submit(AGENT, &Work::Echo(3)).await.unwrap(),
    ];
    let mut offers = vec![worker.offered().await];
    while offers.len() < 3 {
        offers.push(worker.next_offer().await);
    }
    let of = |id: &TaskId| offers.iter().find(|offer| offer.task == *id).unwrap();
    let [first, second, third] = [of(tasks[0].id()), of(tasks[1].id()), of(tasks[2].id())];
    worker.accept(&[first.token, second.token, third.token], &[]).await;

    let forged = TaskReport { token: Token(7), ..end(third, 1, 666) };
    let foreign = TaskReport { tenant: third.tenant.clone(), ..end(second, 1, 666) };
    let early = end(second, 2, 22);
    worker.report_together(vec![forged, foreign, end(first, 1, 11), early, end(third, 1, 33)]).await;
    // Verdicts are told in the order in which things were decided.
    assert_eq!(worker.verdict(Token(7), 1).await.refusal.unwrap().code, Code::StaleLease);
    assert_eq!(worker.verdict(second.token, 1).await.refusal.unwrap().code, Code::StaleLease);
    assert_eq!(worker.verdict(first.token, 1).await.refusal, None);
    assert_eq!(worker.verdict(third.token, 1).await.refusal, None);
    assert_eq!(soon("the first", tasks[0].result::<u64>()).await.unwrap(), 11);
    assert_eq!(soon("the third", tasks[2].result::<u64>()).await.unwrap(), 33);
    assert_eq!(acme.get(tasks[1].id()).await.unwrap().state, Phase::Running);

    // The same again, and what the early one waits for.
    worker.report_together(vec![end(first, 1, 11), end(first, 1, 12)]).await;
    assert_eq!(worker.verdict(first.token, 1).await.refusal, None);
    assert_eq!(worker.verdict(first.token, 1).await.refusal.unwrap().code, Code::ResultConflict);
    let spawn = selvedge::wire::messages::Spawn { step: "s".into(), first: 0, children: Vec::new() };
    worker.report_together(vec![TaskReport { op: ReportOp::Spawn(spawn), ..end(second, 1, 0) }]).await;
    assert_eq!(worker.verdict(second.token, 2).await.refusal, None);
    assert_eq!(soon("the second", tasks[1].result::<u64>()).await.unwrap(), 22);
    reports_are_gone(&fabric).await;
    Audit::of(&fabric.stack).await.assert_settled();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_no_reports_or_too_many_is_dropped_and_work_goes_on() {
    let fabric = Fabric::start().await;
    let client = fabric.client("acme").await;
    let mut worker = ByHand::new(&fabric, 1, 60_000).await;
    let task = client.submit(AGENT, &Work::Echo(1)).await.unwrap();
    let offer = worker.offered().await;
    worker.accept(&[offer.token], &[]).await;
    worker.report_together(Vec::new()).await;
    worker.report_together(vec![end(&offer, 1, 1); MAX_REPORTS + 1]).await;
    reports_are_gone(&fabric).await;
    assert_eq!(client.get(task.id()).await.unwrap().state, Phase::Running);
    worker.report_together(vec![end(&offer, 1, 2); MAX_REPORTS]).await;
    assert_eq!(soon("the result", task.result::<u64>()).await.unwrap(), 2);
    reports_are_gone(&fabric).await;
}

/// The owner dies when it has journaled one report of a message and read the next: the next owner is told the whole
/// message again, and what was decided stays decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_decided_in_part_comes_again_as_a_whole() {
    let mut fabric = Fabric::start().await;
    let client = fabric.client("acme").await;
    let mut worker = ByHand::new(&fabric, 2, 60_000).await;
    let tasks = [
        client.submit(AGENT, &Work::Echo(1)).await.unwrap(),
        client.submit(AGENT, &Work::Echo(2)).await.unwrap(),
    ];
    let offers = [worker.offered().await, worker.next_offer().await];
    worker.accept(&[offers[0].token, offers[1].token], &[]).await;
    // Decided, and held until a report that never comes: the message can't be purged yet.
    let held = TaskReport { n: 2, ..end(&offers[1], 2, 2) };
    worker.report_together(vec![end(&offers[0], 1, 1), held]).await;
    assert_eq!(worker.verdict(offers[0].token, 1).await.refusal, None);
    let epoch = worker.epoch;
    fabric.coordinator.take().expect("it runs").crash();
    let options = selvedge::coordinator::run::Options::new("next");
    let next = fabric.coordinate(options).await;
    worker.owner_after(epoch).await;
    worker.beat(&[offers[1].token]).await;
    worker.report_together(vec![end(&offers[1], 1, 3), end(&offers[0], 1, 1)]).await;
    assert_eq!(soon("the first", tasks[0].result::<u64>()).await.unwrap(), 1);
    assert_eq!(soon("the second", tasks[1].result::<u64>()).await.unwrap(), 3);
    reports_are_gone(&fabric).await;
    Audit::of(&fabric.stack).await.assert_settled();
    next.stop().await;
}
