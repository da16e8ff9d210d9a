//! Calls: streamed in order, refused at once, freed whoever vanishes, counted over a take-over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use selvedge::{
    agent::{Agent, AgentError, CancellationToken, Ctx},
    bus::Link,
    client::{Client, Error},
    coordinator::run::Options,
    task::{Code, Payload, Plan},
    wire::calls::{CallPart, CallRequest, PartOp},
};
use tokio::sync::Notify;

use super::fabric;
use crate::harness::{
    fabric::{Fabric, unbound},
    soon, until,
};

/// Streams so many chunks, and returns their number.
async fn counts(ctx: Ctx, chunks: u32) -> Result<u32, AgentError> {
    for n in 0..chunks {
        ctx.emit("number", &n).await?;
    }
    Ok(chunks)
}

/// Waits until it is told to go on, and counts who waits now.
#[derive(Clone, Default)]
struct Held {
    now: Arc<AtomicUsize>,
    go: Arc<Notify>,
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Held {
    fn agent(&self, name: &str, slots: u32) -> Agent {
        let held = self.clone();
        let wait = move |ctx: Ctx, _: Payload| {
            let held = held.clone();
            async move {
                held.now.fetch_add(1, Ordering::SeqCst);
                let _counted = Counted(held.now.clone());
                ctx.emit("began", "now").await?;
                held.go.notified().await;
                Ok(Payload::json("went on").unwrap())
            }
        };
        Agent::raw(name, wait).unwrap().slots(slots).cancel_grace(Duration::from_millis(20))
    }

    fn count(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }
}

async fn with_plan(plan: Plan) -> (Fabric, Client) {
    let fabric = Fabric::start().await;
    fabric.plan_in_force("acme", plan).await;
    let client = fabric.client("acme").await;
    (fabric, client)
}

/// Calls until somebody answers: an instance may not have been heard of yet.
async fn reached(client: &Client, agent: &str, chunks: u32) {
    until("an instance takes calls", || async {
        match client.call(agent, &chunks).result::<u32>().await {
            Ok(_) => Some(()),
            Err(error) if matches!(error.code(), Some(Code::NoInstance | Code::Unavailable)) => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
}

/// The first part of an answer of a [`Held`] agent, once there is one.
async fn began(client: &Client, agent: &str) -> selvedge::client::Answer {
    until("it begins", || async {
        let mut answer = client.call(agent, &()).await.unwrap();
        match answer.next().await.unwrap() {
            Ok(_) => Some(answer),
            Err(error) if error.code().is_some_and(Code::is_retryable) => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await
}

async fn code(client: &Client, agent: &str) -> (Code, Option<u64>) {
    match client.call(agent, &()).result::<Payload>().await {
        Err(Error::Refused(refusal)) => (refusal.code, refusal.retry_after_ms),
        other => panic!("{:?}", other.map(drop)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_come_in_order_straight_to_the_caller_and_the_result_ends_them() {
    let (fabric, client) = fabric().await;
    fabric.agent(Agent::new("counter", counts).unwrap().slots(4)).await;
    reached(&client, "counter", 1).await;
    let mut answer = client.call("counter", &100u32).await.unwrap();
    let mut seen: Vec<u32> = Vec::new();
    while let Some(chunk) = soon("the next chunk", answer.next()).await {
        let chunk = chunk.unwrap();
        assert_eq!(chunk.kind, "number");
        seen.push(chunk.data.decode().unwrap());
    }
    assert_eq!(seen, (0..100).collect::<Vec<u32>>());
    assert_eq!(answer.result::<u32>().await.unwrap(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_handler_serves_calls_and_tasks() {
    let (fabric, client) = fabric().await;
    fabric.agent(Agent::new("counter", counts).unwrap().slots(4)).await;
    reached(&client, "counter", 3).await;
    let task = client.submit("counter", &3u32).await.unwrap();
    assert_eq!(soon("the result", task.result::<u32>()).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_begin_is_refused_at_once_with_its_code() {
    let plan = Plan { in_flight: 1, rate: 1_000, burst: 100, ..unbound() };
    let (fabric, client) = with_plan(plan).await;
    let held = Held::default();
    until("somebody owns the shard", || async {
        let told = code(&client, "nobody").await.0;
        assert!(matches!(told, Code::NoInstance | Code::Unavailable), "{told}");
        (told == Code::NoInstance).then_some(())
    })
    .await;
    fabric.agent(held.agent("holder", 2)).await;
    fabric.agent(held.agent("single", 1)).await;
    let first = began(&client, "holder").await;
    let (refused, again) = code(&client, "holder").await;
    assert_eq!((refused, again.is_some()), (Code::InFlightFull, true));
    drop(first);
    until("its place is free", || async { (held.count() == 0).then_some(()) }).await;
    let other = fabric.client("globex").await;
    let _single = began(&other, "single").await;
    let (refused, again) = code(&fabric.client("initech").await, "single").await;
    assert_eq!((refused, again.is_some()), (Code::Busy, true));
    let large = client.call_raw("holder", Payload::Bytes(vec![0; 300_000].into()));
    assert_eq!(large.await.err().and_then(|error| error.code()), Some(Code::TooLarge));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_that_is_used_up_says_when_to_try_again() {
    let (fabric, client) = with_plan(Plan { rate: 1, burst: 2, ..unbound() }).await;
    fabric.agent(Agent::new("counter", counts).unwrap().slots(9)).await;
    let refused = until("the rate is used up", || async {
        match client.call("counter", &0u32).result::<u32>().await {
            Err(Error::Refused(refusal)) if refusal.code == Code::RateExceeded => Some(refusal),
            _ => None,
        }
    })
    .await;
    assert!(refused.retry_after_ms.is_some_and(|ms| (1..=1_000).contains(&ms)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_vanishes_has_its_handler_cancelled_and_its_slot_freed() {
    let (fabric, client) = fabric().await;
    let held = Held::default();
    fabric.agent(held.agent("holder", 1)).await;
    let answer = began(&client, "holder").await;
    assert_eq!(code(&client, "holder").await.0, Code::Busy);
    drop(answer);
    // It says nothing more: a sign of life finds nobody there.
    let again = began(&client, "holder").await;
    assert_eq!(held.count(), 1);
    held.go.notify_one();
    assert_eq!(again.result::<String>().await.unwrap(), "went on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_takes_too_long_is_ended_with_advice_and_its_slot_freed() {
    let (fabric, client) = with_plan(Plan { call_max_ms: Some(300), ..unbound() }).await;
    let held = Held::default();
    fabric.agent(held.agent("holder", 1)).await;
    let mut answer = began(&client, "holder").await;
    let error = soon("its end", answer.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(Code::CallTimeout), "{error}");
    assert!(error.to_string().contains("submit"), "{error}");
    until("its slot is free", || async { (held.count() == 0).then_some(()) }).await;
    began(&client, "holder").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_task_is_refused_in_a_call() {
    let (fabric, client) = fabric().await;
    let steps = |ctx: Ctx, what: String| async move {
        match what.as_str() {
            "step" => ctx.step("pay", || async { Ok(1) }).await,
            "spawn" => ctx.spawn("read", "counter", [1]).await.map(|_| 1),
            "recv" => ctx.recv().await.map(|_| 1),
            "sleep" => ctx.sleep(Duration::from_millis(1)).await.map(|()| 1),
            "snooze" => Err(ctx.snooze(Duration::from_millis(1))),
            "fail" => Err(AgentError::fatal("no")),
            "panic" => panic!("boom"),
            _ => Ok(0),
        }
    };
    fabric.agent(Agent::new("stepper", steps).unwrap().slots(4)).await;
    until("it takes calls", || async { client.call("stepper", "").result::<u32>().await.ok() }).await;
    for what in ["step", "spawn", "recv", "sleep", "snooze"] {
        let error = client.call("stepper", what).result::<u32>().await.unwrap_err();
        assert_eq!(error.code(), Some(Code::NeedsTask), "{what}: {error}");
    }
    for what in ["fail", "panic"] {
        let error = client.call("stepper", what).result::<u32>().await.unwrap_err();
        assert_eq!(error.code(), Some(Code::HandlerFailed), "{what}: {error}");
    }
}

/// Asks another agent, as often as it is told.
fn asker(name: &str) -> Agent {
    let name_of = name.to_owned();
    let asks = move |ctx: Ctx, left: u32| {
        let name = name_of.clone();
        async move {
            if left == 0 {
                return Ok::<_, AgentError>(ctx.depth());
            }
            let mut answer = ctx.ask(&name, &(left - 1)).await?;
            while let Some(chunk) = answer.next().await {
                chunk.map_err(|error| AgentError::fatal(error.to_string()))?;
            }
            answer.result().await.map_err(|error| AgentError::fatal(error.to_string()))
        }
    };
    Agent::new(name, asks).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asks_work_at_cap_one_from_calls_and_from_tasks() {
    let (fabric, client) = with_plan(Plan { in_flight: 1, depth: 4, ..unbound() }).await;
    fabric.agent(asker("asker").slots(6)).await;
    reached(&client, "asker", 0).await;
    let depth: u32 = until("it is asked", || async { client.call("asker", &3u32).result().await.ok() }).await;
    assert_eq!(depth, 3);
    let task = client.submit("asker", &2u32).await.unwrap();
    assert_eq!(soon("the task asks", task.result::<u32>()).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_of_asks_is_refused_by_depth_and_one_slot_never_deadlocks() {
    let (fabric, client) = with_plan(Plan { depth: 2, ..unbound() }).await;
    fabric.agent(asker("asker").slots(9)).await;
    fabric.agent(asker("alone").slots(1)).await;
    reached(&client, "asker", 0).await;
    reached(&client, "alone", 0).await;
    let error = client.call("asker", &50u32).result::<u32>().await.unwrap_err();
    assert!(error.to_string().contains("DEPTH_EXCEEDED"), "{error}");
    let error = soon("an answer", client.call("alone", &1u32).result::<u32>()).await.unwrap_err();
    assert!(error.to_string().contains("BUSY"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_leaves_gives_its_calls_up_and_says_so() {
    let (fabric, client) = fabric().await;
    let held = Held::default();
    let stop = fabric.agent(held.agent("holder", 1).drain_timeout(Duration::from_millis(200))).await;
    let mut answer = began(&client, "holder").await;
    stop.cancel();
    let error = soon("its end", answer.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(Code::CallLost), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_is_killed_costs_its_caller_an_error_and_its_place_a_lease() {
    let (fabric, client) = with_plan(Plan { in_flight: 1, ..unbound() }).await;
    let held = Held::default();
    let link = Link::connect(&fabric.stack.nats_options(), "test-agent").await.unwrap();
    let killed = held.agent("holder", 1).lease(Duration::from_secs(1));
    let killed = tokio::spawn(killed.run_until(link, CancellationToken::new()));
    began_and_lost(&client, || killed.abort()).await;
    // Another instance: the place is taken until the lease of the one that is gone has passed.
    fabric.agent(held.agent("holder", 1)).await;
    drop(began(&client, "holder").await);
}

/// A call whose instance goes away behind its first part.
async fn began_and_lost(client: &Client, kill: impl FnOnce()) {
    let mut answer = until("it begins", || async {
        let mut answer = client.call("holder", &()).patience(Duration::from_secs(3)).await.unwrap();
        matches!(answer.next().await, Some(Ok(_))).then_some(answer)
    })
    .await;
    kill();
    let error = soon("its end", answer.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(Code::CallLost), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_on_over_a_take_over_and_its_place_stays_taken() {
    let (mut fabric, client) = with_plan(Plan { in_flight: 1, ..unbound() }).await;
    let held = Held::default();
    fabric.agent(held.agent("holder", 4)).await;
    let mut answer = began(&client, "holder").await;
    fabric.coordinator.take().unwrap().crash();
    fabric.coordinator = Some(fabric.coordinate(Options::new("next")).await);
    // Whoever has taken over counts the place although it knows nothing of the call yet.
    let refused = until("somebody owns the shard", || async {
        match client.call("holder", &()).result::<Payload>().await {
            Err(Error::Refused(refusal)) => match refusal.code {
                Code::Unavailable | Code::NoInstance => None,
                code => Some(code),
            },
            other => panic!("{:?}", other.map(drop)),
        }
    })
    .await;
    assert_eq!(refused, Code::InFlightFull);
    held.go.notify_one();
    assert!(soon("the rest of it", answer.next()).await.is_none());
    assert_eq!(answer.result::<String>().await.unwrap(), "went on");
    drop(began(&client, "holder").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_an_sdk_speaks_json() {
    let (fabric, client) = fabric().await;
    fabric.agent(Agent::new("counter", counts).unwrap().slots(4)).await;
    reached(&client, "counter", 1).await;
    let nats = fabric.stack.connect("by-hand").await;
    let inbox = nats.client().new_inbox();
    let mut parts = nats.client().subscribe(inbox.clone()).await.unwrap();
    let ask = |body: &'static str| {
        let (nats, inbox) = (nats.client().clone(), inbox.clone());
        async move {
            nats.publish_with_reply("sv.call.acme.counter", inbox, body.into()).await.unwrap();
        }
    };
    use futures_util::StreamExt;
    ask(r#"{"input": 2}"#).await;
    let mut seen = Vec::new();
    loop {
        let message = soon("a part", parts.next()).await.unwrap();
        let part: CallPart = serde_json::from_slice(&message.payload).unwrap();
        let ends = matches!(part.op, PartOp::End { .. });
        seen.push(part.n);
        if ends {
            break;
        }
    }
    assert_eq!(seen, [1, 2, 3]);
    for body in ["{", r#"{"asker": "00000000000000000000000000000001"}"#] {
        ask(body).await;
        let message = soon("a refusal", parts.next()).await.unwrap();
        let status = message.headers.unwrap().get("Nats-Service-Error-Code").unwrap().as_str().to_owned();
        assert_eq!(status, "400");
    }
    assert!(serde_json::from_str::<CallRequest>("{}").is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_asks_for_nobody() {
    let (fabric, client) = fabric().await;
    fabric.agent(Agent::new("counter", counts).unwrap()).await;
    reached(&client, "counter", 1).await;
    let nats = fabric.stack.connect("stranger").await;
    let asked = r#"{"asker": "00000000000000000000000000000001", "input": 1}"#;
    let answer = nats.client().request("sv.subcall.acme.counter", asked.into()).await.unwrap();
    let part: CallPart = serde_json::from_slice(&answer.payload).unwrap();
    assert!(matches!(part.op, PartOp::Failed(refusal) if refusal.code == Code::StaleLease));
}
