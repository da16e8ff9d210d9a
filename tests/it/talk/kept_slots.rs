//! Slots that an agent keeps for calls: tasks never take them, and a call finds one whatever waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use selvedge::{
    agent::{Agent, AgentError, CancellationToken, Ctx},
    client::{Client, TaskHandle},
    coordinator::run::Options,
    task::Code,
    wire::{about::AgentsRequest, api::Reason},
};

use super::{fabric, hasty};
use crate::harness::{fabric::eventually, until};

const SLOTS: u32 = 4;
const FOR_TASKS: usize = 3;

/// Handlers that stay until they may go; knows how many tasks did at once, at most.
#[derive(Clone, Default)]
struct Floor {
    tasks: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    tasks_go: CancellationToken,
    calls_go: CancellationToken,
}

impl Floor {
    fn agent(&self) -> Agent {
        let floor = self.clone();
        let works = move |ctx: Ctx, what: String| {
            let floor = floor.clone();
            async move {
                match what.as_str() {
                    "task" => {
                        let now = floor.tasks.fetch_add(1, Ordering::SeqCst) + 1;
                        floor.most.fetch_max(now, Ordering::SeqCst);
                        floor.tasks_go.cancelled().await;
                        floor.tasks.fetch_sub(1, Ordering::SeqCst);
                    }
                    "held" => {
                        ctx.emit("began", "now").await?;
                        floor.calls_go.cancelled().await;
                    }
                    _ => {}
                }
                Ok::<_, AgentError>(what)
            }
        };
        Agent::new("worker", works).unwrap().slots(SLOTS).reserve_for_calls(1)
    }

    async fn is_full(&self) {
        let full = || async { (self.tasks.load(Ordering::SeqCst) == FOR_TASKS).then_some(()) };
        until("tasks take the slots that they may", full).await;
    }
}

async fn flood(client: &Client) -> Vec<TaskHandle> {
    let mut tasks = Vec::new();
    for _ in 0..3 * FOR_TASKS {
        tasks.push(client.submit("worker", "task").await.unwrap());
    }
    tasks
}

/// A call is answered while tasks wait for slots.
async fn answered(client: &Client) {
    let answer = || async {
        match client.call("worker", "quick").result::<String>().await {
            Ok(answer) => Some(answer),
            // Nobody has taken over yet, or nobody has been heard since; or the owner has not heard yet that the call
            // before has ended.
            Err(error) if error.code().is_some_and(Code::is_retryable) => None,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(until("a call is answered", answer).await, "quick");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_slot_answers_calls_amid_a_flood_of_tasks_and_takes_none_of_them() {
    let (mut fabric, client) = fabric().await;
    let floor = Floor::default();
    fabric.agent(floor.agent()).await;
    let tasks = flood(&client).await;
    floor.is_full().await;
    for _ in 0..5 {
        answered(&client).await;
    }

    let shown = client.agents(&AgentsRequest::default()).await.unwrap();
    let instance = &shown.agents[0].instances[0];
    let found = (instance.slots, instance.call_slots, instance.free, instance.running);
    assert_eq!(found, (SLOTS, 1, 0, FOR_TASKS as u32));
    let waits = tasks.last().unwrap();
    let why = until("it is said why the last one waits", || async { waits.why().await.ok() }).await;
    let slots = why.reasons.iter().find(|reason| reason.reason == Reason::NoFreeSlot);
    assert!(
        slots.is_some_and(|held| held.limit == Some(3) && held.message.contains("calls only")),
        "{why:?}"
    );

    // One call has the slot: there is no other.
    let held = until("a call has the slot", || async {
        let mut held = client.call("worker", "held").await.unwrap();
        held.next().await.unwrap().is_ok().then_some(held)
    })
    .await;
    let busy = client.call("worker", "quick").result::<String>().await.unwrap_err();
    assert_eq!(busy.code(), Some(Code::Busy), "{busy}");
    floor.calls_go.cancel();
    assert_eq!(held.result::<String>().await.unwrap(), "held");

    // Whoever takes over keeps it, too.
    fabric.coordinator.take().unwrap().crash();
    let mut next = Options::new("next");
    hasty(&mut next);
    fabric.coordinator = Some(fabric.coordinate(next).await);
    answered(&client).await;

    floor.tasks_go.cancel();
    for task in tasks {
        assert_eq!(eventually("it ends", task.result::<String>()).await.unwrap(), "task");
    }
    assert_eq!(floor.most.load(Ordering::SeqCst), FOR_TASKS);
}

/// Many short tasks are taken ahead: none of them begins in the kept slot either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_ahead_leaves_the_kept_slot_alone() {
    let (fabric, client) = fabric().await;
    let now = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (count, peak) = (now.clone(), most.clone());
    let brief = move |_: Ctx, n: u32| {
        let (count, peak) = (count.clone(), peak.clone());
        async move {
            peak.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
            count.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, AgentError>(n)
        }
    };
    fabric.agent(Agent::new("worker", brief).unwrap().slots(SLOTS).reserve_for_calls(1)).await;
    let tasks: Vec<_> = (0..600u32).map(|n| (n, client.submit("worker", &n))).collect();
    let mut handles = Vec::new();
    for (n, submit) in tasks {
        handles.push((n, submit.await.unwrap()));
    }
    for (n, task) in handles {
        assert_eq!(eventually("it ends", task.result::<u32>()).await.unwrap(), n);
    }
    assert_eq!(most.load(Ordering::SeqCst), FOR_TASKS);
}
