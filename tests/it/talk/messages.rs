//! Messages and signals: kept, ordered, given once, refused with a code.

use std::time::Duration;

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    task::{Code, Payload, Phase, TaskId},
    wire::history::TellRequest,
};

use super::{Tally, fabric, reaches};
use crate::harness::soon;

/// Gathers so many messages.
async fn gather(ctx: Ctx, count: usize) -> Result<Vec<String>, AgentError> {
    let mut out = Vec::new();
    for _ in 0..count {
        out.push(ctx.recv().await?.decode()?);
    }
    Ok(out)
}

fn request(task: &TaskId, name: Option<&str>, nonce: &str) -> TellRequest {
    TellRequest {
        task: task.clone(),
        name: name.map(str::to_owned),
        message: Payload::json("once").unwrap(),
        from: None,
        nonce: Some(nonce.parse().unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_told_before_the_task_starts_while_it_waits_and_while_it_runs_come_once_in_order() {
    let (fabric, client) = fabric().await;
    let task = client.submit("gatherer", &6usize).await.unwrap();
    for text in ["a", "b"] {
        task.tell(text).await.unwrap();
    }
    fabric.agent(Agent::new("gatherer", gather).unwrap().linger(Duration::from_millis(30))).await;
    reaches(&task, Phase::Waiting).await;
    for text in ["c", "d", "e", "f"] {
        task.tell(text).await.unwrap();
    }
    let result: Vec<String> = soon("the result", task.result()).await.unwrap();
    assert_eq!(result, ["a", "b", "c", "d", "e", "f"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_stays_for_an_answer_gets_it_without_running_again() {
    let (fabric, client) = fabric().await;
    let stays = |ctx: Ctx, _: ()| async move {
        ctx.emit("progress", "listening").await?;
        let word: String = ctx.recv().await?.decode()?;
        Ok::<_, AgentError>((word, ctx.attempt()))
    };
    fabric.agent(Agent::new("stayer", stays).unwrap().linger(Duration::from_secs(30))).await;
    let task = client.submit("stayer", &()).await.unwrap();
    let mut watch = task.watch().await.unwrap();
    while let Some(item) = soon("it listens", watch.next()).await {
        if matches!(item.unwrap(), selvedge::client::WatchItem::Event(_)) {
            break;
        }
    }
    task.tell("hello").await.unwrap();
    let (word, attempt): (String, u32) = soon("the result", task.result()).await.unwrap();
    assert_eq!((word.as_str(), attempt), ("hello", 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_nonce_is_the_same_message() {
    let (fabric, client) = fabric().await;
    let task = client.submit_and_confirm("gatherer", &2usize).await.unwrap();
    for _ in 0..3 {
        client.send(&request(task.id(), None, "n-1")).await.unwrap();
    }
    task.tell("other").await.unwrap();
    fabric.agent(Agent::new("gatherer", gather).unwrap()).await;
    let result: Vec<String> = soon("the result", task.result()).await.unwrap();
    assert_eq!(result, ["once", "other"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_wakes_who_waits_for_its_name_and_says_who_sent_it() {
    let (fabric, client) = fabric().await;
    let waits = |ctx: Ctx, _: ()| async move {
        let go = ctx.wait_signal("go", None).await?.ok_or_else(|| AgentError::fatal("no limit was given"))?;
        let said: u32 = go.decode()?;
        Ok::<_, AgentError>((go.from, said, ctx.attempt()))
    };
    fabric.agent(Agent::new("waiter", waits).unwrap().linger(Duration::ZERO)).await;
    let task = client.submit("waiter", &()).await.unwrap();
    reaches(&task, Phase::Waiting).await;
    assert_eq!(task.get().await.unwrap().instance, None, "a waiting task holds no slot");
    task.signal("other", &1).await.unwrap();
    task.tell(&2).await.unwrap();
    assert_eq!(task.get().await.unwrap().state, Phase::Waiting, "neither is what it waits for");
    task.signal_from("ada", "go", &3).await.unwrap();
    let result: (Option<String>, u32, u32) = soon("the result", task.result()).await.unwrap();
    assert_eq!(result, (Some("ada".to_owned()), 3, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_that_comes_too_late_is_none_however_often_the_handler_runs() {
    let (fabric, client) = fabric().await;
    let tally = Tally::default();
    let counted = tally.clone();
    let waits = move |ctx: Ctx, _: ()| {
        let tally = counted.clone();
        async move {
            let early = ctx.wait_signal("go", Duration::from_millis(50)).await?.is_some();
            if tally.count("past the wait") == 1 {
                return Err(AgentError::retryable("again"));
            }
            let late = ctx.wait_signal("go", None).await?.is_some();
            Ok::<_, AgentError>((early, late))
        }
    };
    fabric.agent(Agent::new("waiter", waits).unwrap().linger(Duration::ZERO)).await;
    let task = client.submit("waiter", &()).await.unwrap();
    reaches(&task, Phase::Waiting).await;
    while tally.of("past the wait") < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    task.signal("go", &()).await.unwrap();
    let result: (bool, bool) = soon("the result", task.result()).await.unwrap();
    assert_eq!(result, (false, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_tells_another_once_although_it_fails_behind_it() {
    let (fabric, client) = fabric().await;
    let tally = Tally::default();
    let counted = tally.clone();
    let tells = move |ctx: Ctx, to: TaskId| {
        let tally = counted.clone();
        async move {
            ctx.tell(&to, "from a task").await?;
            match tally.count("told") {
                1 => Err(AgentError::retryable("again")),
                _ => Ok(()),
            }
        }
    };
    fabric.agent(Agent::new("teller", tells).unwrap()).await;
    fabric.agent(Agent::new("gatherer", gather).unwrap()).await;
    let listener = client.submit_and_confirm("gatherer", &2usize).await.unwrap();
    let teller = client.submit("teller", listener.id()).await.unwrap();
    soon("it has told", teller.wait()).await.unwrap();
    assert_eq!(tally.of("told"), 2);
    listener.tell("from outside").await.unwrap();
    let result: Vec<String> = soon("the result", listener.result()).await.unwrap();
    assert_eq!(result, ["from a task", "from outside"]);
    let of = client.history(listener.id(), 0, 0).await.unwrap();
    assert!(of.messages.is_empty() && of.steps.is_empty(), "kept while the task lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_tells_nobody_is_told_why() {
    let (fabric, client) = fabric().await;
    fabric.agent(Agent::new("gatherer", gather).unwrap()).await;
    let never = TaskId::fresh();
    let refused = client.tell(&never, "x").await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::NotFound), "{refused}");
    let over = client.submit("gatherer", &0usize).await.unwrap();
    soon("its end", over.wait()).await.unwrap();
    let refused = over.signal("go", &()).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::TaskEnded), "{refused}");
    let task = client.submit_and_confirm("nobody", &()).await.unwrap();
    let refused = task.tell(&"x".repeat(70_000)).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::TooLarge), "{refused}");
    let refused = task.signal(&"x".repeat(200), &()).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::BadMessage), "{refused}");
    let refused = client.tell(task.id(), "x").await.unwrap();
    assert_eq!(refused.state, Some(Phase::Queued));
}
