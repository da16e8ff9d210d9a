//! Watchers beside writers: one that does not look, and many of one process.

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    client::{Client, TaskHandle, WatchItem},
    coordinator::run::Options,
    task::TaskId,
};

use crate::harness::{
    fabric::{Fabric, eventually, unbound},
    until,
};

const EVENTS: u32 = 3_000;
/// Of a task's newest events, what is kept at least.
const KEPT: u32 = 10_000;

async fn talk(ctx: Ctx, n: u32) -> Result<u32, AgentError> {
    for i in 0..n {
        ctx.emit("token", &i).await?;
    }
    Ok(n)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_look_slows_nobody_and_then_sees_each_event_once_or_a_gap() {
    let fabric = Fabric::start().await;
    let client = fabric.client("acme").await;
    let id = TaskId::new("talker").unwrap();
    // Before there is a task, and it is not looked at until the task is over.
    let mut watch = client.watch(&id).await.unwrap();
    fabric.agent(Agent::new("talk", talk).unwrap()).await;
    let other = fabric.client("acme").await;
    let task = other.submit("talk", &EVENTS).id("talker").await.unwrap();
    assert_eq!(eventually("the agent ends", task.result::<u32>()).await.unwrap(), EVENTS);

    let (mut next, mut ended) = (1, false);
    while let Some(item) = eventually("an item", watch.next()).await {
        assert!(!ended, "nothing follows the end");
        match item.unwrap() {
            WatchItem::Event(event) => {
                assert_eq!((event.attempt, event.n), (1, next), "in order, each once");
                next += 1;
            }
            WatchItem::Gap { attempt, from, to } => {
                assert_eq!((attempt, from), (1, next), "a gap begins where the last event was");
                next = to + 1;
            }
            WatchItem::State(_) => {}
            WatchItem::End(end) => {
                assert_eq!(next, EVENTS + 1, "the end comes after the last event");
                assert!(end.state.is_terminal());
                ended = true;
            }
        }
    }
    assert!(ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_outlive_crashes_of_who_writes_them() {
    const MANY: u32 = 20_000;
    let mut fabric = Fabric::start().await;
    let client = fabric.client("acme").await;
    fabric.agent(Agent::new("talk", talk).unwrap()).await;
    let task = client.submit("talk", &MANY).await.unwrap();
    for stored in [500, 4_000, 9_000] {
        until("some are stored", || async { (newest(&client, &task).await >= stored).then_some(()) }).await;
        fabric.coordinator.take().unwrap().crash();
        fabric.coordinator = Some(fabric.coordinate(Options::new("next")).await);
    }
    assert_eq!(eventually("the agent ends", task.result::<u32>()).await.unwrap(), MANY);
    until("the last one is stored", || async { (newest(&client, &task).await == MANY).then_some(()) }).await;
    let (mut after, mut expected) = (Some((1, MANY - KEPT)), MANY - KEPT + 1);
    loop {
        let page = client.events(task.id(), after).await.unwrap();
        for event in &page.events {
            assert_eq!(event.n, expected, "none is lost, none is there twice");
            expected += 1;
        }
        after = page.events.last().map(|event| (event.attempt, event.n));
        if !page.more {
            break;
        }
    }
    assert_eq!(expected, MANY + 1);
}

/// The number of the last stored event; 0 if nobody answers now.
async fn newest(client: &Client, task: &TaskHandle) -> u32 {
    let mut newest = 0;
    let mut step = 1 << 15;
    while step > 0 {
        let page = client.events(task.id(), Some((1, newest + step - 1))).await;
        if page.is_ok_and(|page| !page.events.is_empty()) {
            newest += step;
        }
        step /= 2;
    }
    newest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_watchers_of_one_process_open_no_connection_of_their_own() {
    let fabric = Fabric::start().await;
    fabric.plan("acme", unbound()).await;
    let client = fabric.client("acme").await;
    fabric.agent(Agent::new("talk", talk).unwrap().slots(8)).await;
    let mut c = redis::Client::open(fabric.stack.redis.url()).unwrap();
    let mut clients = || -> usize {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut c).unwrap();
        list.lines().count()
    };
    client.list().page().await.unwrap();
    let before = clients();
    let mut watches = Vec::new();
    for n in 0..100 {
        watches.push(client.watch(&TaskId::new(format!("w{n}")).unwrap()).await.unwrap());
    }
    for n in 0..100 {
        client.submit("talk", &3u32).id(&format!("w{n}")).await.unwrap();
    }
    for mut watch in watches {
        let mut seen = 0;
        while let Some(item) = eventually("an item", watch.next()).await {
            seen += usize::from(matches!(item.unwrap(), WatchItem::Event(_)));
        }
        assert_eq!(seen, 3);
    }
    assert_eq!(clients(), before, "readers of events share the coordinator's connection");
}
