//! Steps: done once, given back, and missed if the handler has changed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    coordinator::run::Options,
    task::{Code, Phase},
};

use super::{Tally, fabric, hasty, reaches};
use crate::harness::{
    fabric::{Fabric, eventually},
    soon,
};

/// Two steps with a failure and a wait between and behind them.
fn stepper(tally: &Tally) -> Agent {
    let tally = tally.clone();
    let steps = move |ctx: Ctx, _: ()| {
        let tally = tally.clone();
        async move {
            let a: u32 = ctx.step("a", || async { Ok(tally.count("a")) }).await?;
            if ctx.tries() == 0 {
                return Err(AgentError::retryable("between the steps"));
            }
            let b: String = ctx.step("b", || async { Ok(format!("b{}", tally.count("b"))) }).await?;
            ctx.sleep(Duration::from_millis(20)).await?;
            ctx.wait_signal("go", None).await?;
            tally.count("through");
            Ok::<_, AgentError>((a, b))
        }
    };
    Agent::new("stepper", steps).unwrap().linger(Duration::ZERO)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_is_done_once_over_retries_sleeps_and_waits() {
    let (fabric, client) = fabric().await;
    let tally = Tally::default();
    fabric.agent(stepper(&tally)).await;
    let task = client.submit("stepper", &()).await.unwrap();
    reaches(&task, Phase::Waiting).await;
    task.signal("go", &()).await.unwrap();
    let result: (u32, String) = soon("the result", task.result()).await.unwrap();
    assert_eq!(result, (1, "b1".to_owned()));
    assert_eq!((tally.of("a"), tally.of("b"), tally.of("through")), (1, 1, 1));
    assert_eq!(task.get().await.unwrap().tries, 1, "a sleep and a wait cost no try");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_and_messages_outlive_the_coordinator_and_a_cache_without_room() {
    let bare = |options: &mut Options| {
        hasty(options);
        options.shrink.cache_bytes = 0;
    };
    let mut fabric = Fabric::start_with(bare).await;
    let client = fabric.client("default").await;
    let tally = Tally::default();
    fabric.agent(stepper(&tally)).await;
    let task = client.submit("stepper", &()).await.unwrap();
    reaches(&task, Phase::Waiting).await;
    fabric.coordinator.take().unwrap().crash();
    let mut options = Options::new("next");
    bare(&mut options);
    fabric.coordinator = Some(fabric.coordinate(options).await);
    eventually("the signal is taken", async {
        while task.signal("go", &"x".repeat(1_000)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let result: (u32, String) = eventually("the result", task.result()).await.unwrap();
    assert_eq!(result, (1, "b1".to_owned()));
    assert_eq!((tally.of("a"), tally.of("b")), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_has_changed_fails_with_the_step_that_it_misses() {
    let (fabric, client) = fabric().await;
    let changed = Arc::new(AtomicBool::new(false));
    let seen = changed.clone();
    let steps = move |ctx: Ctx, _: ()| {
        let name = if seen.load(Ordering::SeqCst) { "refund" } else { "charge" };
        async move {
            ctx.step(name, || async { Ok(()) }).await?;
            ctx.wait_signal("go", None).await?;
            Ok::<_, AgentError>(())
        }
    };
    fabric.agent(Agent::new("stepper", steps).unwrap()).await;
    let task = client.submit("stepper", &()).await.unwrap();
    reaches(&task, Phase::Waiting).await;
    changed.store(true, Ordering::SeqCst);
    task.signal("go", &()).await.unwrap();
    let ended = soon("its end", task.wait()).await.unwrap();
    let refusal = ended.refusal.expect("why");
    assert_eq!((ended.state, refusal.code), (Phase::Failed, Code::StepChanged), "{refusal}");
    let said = &refusal.message;
    assert!(said.contains("place 0") && said.contains("`refund`") && said.contains("`charge`"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_steps_are_given_back() {
    let (fabric, client) = fabric().await;
    let tally = Tally::default();
    let counted = tally.clone();
    let steps = move |ctx: Ctx, _: ()| {
        let tally = counted.clone();
        async move {
            let started = Instant::now();
            let mut sum = 0u64;
            for n in 0..1_000u64 {
                let done = || async {
                    tally.count("step");
                    Ok((
                        n,
                        "some result of a step, as long as a line or so: 100 bytes of it, say, more or less",
                    ))
                };
                let (n, _): (u64, String) =
                    ctx.step("add", || async { done().await.map(|(n, s)| (n, s.to_owned())) }).await?;
                sum += n;
            }
            let took = started.elapsed();
            ctx.wait_signal("go", None).await?;
            println!("1,000 steps were given back within {took:?}");
            Ok::<_, AgentError>(sum)
        }
    };
    fabric.agent(Agent::new("stepper", steps).unwrap().linger(Duration::ZERO)).await;
    let task = client.submit("stepper", &()).await.unwrap();
    reaches(&task, Phase::Waiting).await;
    task.signal("go", &()).await.unwrap();
    let sum: u64 = soon("the result", task.result()).await.unwrap();
    assert_eq!((sum, tally.of("step")), (999 * 500, 1_000));
}
