//! Tasks that go well.

use selvedge::agent::{Agent, AgentError, Ctx};
use selvedge::task::{Phase, TaskId};

use crate::harness::fabric::{Fabric, eventually};
use crate::harness::soon;

fn doubler() -> Agent {
    Agent::new("doubler", |_: Ctx, n: u64| async move { Ok::<_, AgentError>(n * 2) }).unwrap().slots(4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_goes_from_submit_to_result() {
    let fabric = Fabric::start().await;
    fabric.agent(doubler()).await;
    let client = fabric.client("acme").await;
    let task = client.submit("doubler", &21u64).await.unwrap();
    let result: u64 = soon("the result", task.result()).await.unwrap();
    assert_eq!(result, 42);
    let view = client.get(task.id()).await.unwrap();
    assert_eq!(view.state, Phase::Completed);
    assert_eq!(view.attempt, 1);
    assert_eq!(view.result.unwrap().decode::<u64>(), Ok(42));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmed_submit_tells_that_the_task_is_queued() {
    let fabric = Fabric::start().await;
    let client = fabric.client("acme").await;
    let task = soon("the admission", client.submit_and_confirm("nobody", &1)).await.unwrap();
    let view = client.get(task.id()).await.unwrap();
    assert_eq!(view.state, Phase::Queued);
    let missing = client.get(&TaskId::fresh()).await.unwrap_err();
    assert_eq!(missing.code(), Some(selvedge::task::Code::NotFound), "{missing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parents_wait_without_a_slot_and_finish_at_in_flight_one() {
    let fabric = Fabric::start().await;
    let plan = selvedge::task::Plan {
        in_flight: 1,
        depth: 4,
        children: 3,
        tree: 200,
        ..crate::harness::fabric::unbound()
    };
    fabric.plan("acme", plan).await;
    let tree = Agent::new("tree", |ctx: Ctx, depth: u32| async move {
        if depth == 0 {
            return Ok::<u64, AgentError>(1);
        }
        ctx.spawn("branch", "tree", [depth - 1, depth - 1, depth - 1]).await?;
        let mut sum = 1;
        for child in ctx.wait_all().await? {
            sum += child.decode::<u64>()?;
        }
        Ok(sum)
    });
    fabric.agent(tree.unwrap().slots(4)).await;
    let client = fabric.client("acme").await;
    let task = client.submit("tree", &4u32).await.unwrap();
    let total: u64 = eventually("the whole tree", task.result()).await.unwrap();
    assert_eq!(total, 1 + 3 + 9 + 27 + 81);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_elses_conflict_is_no_news_to_who_waits_for_the_task() {
    let fabric = Fabric::start().await;
    let client = fabric.client("acme").await;
    let first = client.submit("doubler", &21u64).id("one").confirmed().await.unwrap();
    let waiting = tokio::spawn(async move { first.result::<u64>().await });
    for n in 0..3u64 {
        let refused = client.submit("doubler", &n).id("one").confirmed().await.unwrap_err();
        assert_eq!(refused.code(), Some(selvedge::task::Code::IdempotencyConflict), "{refused}");
    }
    assert!(!waiting.is_finished());
    fabric.agent(doubler()).await;
    assert_eq!(soon("the result", waiting).await.unwrap().unwrap(), 42);
}
