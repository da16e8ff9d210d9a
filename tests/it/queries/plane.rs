//! Queries beside everything else: asked once, shared, and never older than they say.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use selvedge::{
    client::{Client, Error, NewTask},
    wire::{headers, subjects},
};

use crate::cli::Cli;
use crate::harness::{Stack, fabric::Fabric, soon};

/// Listens for a verb of tenant `acme` and never answers.
async fn deaf(stack: &Stack, verb: &str) -> async_nats::Subscriber {
    let nats = async_nats::connect(stack.nats.url()).await.unwrap();
    let heard = nats.subscribe(subjects::api(&"acme".parse().unwrap(), verb)).await.unwrap();
    nats.flush().await.unwrap();
    heard
}

/// How often it was asked: everything before a marker, on the same subject.
async fn asked(stack: &Stack, heard: &mut async_nats::Subscriber, verb: &str) -> Vec<async_nats::Message> {
    let nats = async_nats::connect(stack.nats.url()).await.unwrap();
    nats.publish(subjects::api(&"acme".parse().unwrap(), verb), "marker".into()).await.unwrap();
    let mut all = Vec::new();
    loop {
        let message = soon("the marker", heard.next()).await.unwrap();
        if message.payload == "marker" {
            return all;
        }
        all.push(message);
    }
}

#[tokio::test]
async fn a_query_that_times_out_is_asked_once_by_sdk_and_command_and_says_how_long_it_waits() {
    let stack = Stack::start().await;
    let mut heard = deaf(&stack, "list").await;
    let client = Client::connect(&stack.nats.url()).await.unwrap().tenant("acme").unwrap();
    let client = client.ask_within(Duration::from_millis(50));
    assert!(matches!(client.list().page().await, Err(Error::TimedOut { ms: 50, .. })));
    let all = asked(&stack, &mut heard, "list").await;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].headers.as_ref().unwrap().get(headers::WITHIN_MS).unwrap().as_str(), "50");

    let ran = Cli::on(&stack).env("NATS_TIMEOUT", "50ms").run(&["list", "--tenant", "acme"]).await;
    assert_ne!(ran.code, 0, "{}", ran.out);
    assert_eq!(asked(&stack, &mut heard, "list").await.len(), 1, "{}", ran.err);
}

/// Redis hangs, and with it every list: a tenant that asks on and on has its share of the places, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_asks_too_much_sheds_nobody_elses_queries() {
    let fabric = Fabric::start().await;
    let (flood, other) = (fabric.client("flood").await, fabric.client("other").await);
    let task = other.submit_task(NewTask::new("nobody", &1).unwrap()).confirmed().await.unwrap();
    fabric.stack.redis.pause();
    let lists = (1..=100).map(|n| {
        let flood = flood.clone();
        tokio::spawn(async move { flood.list().since(n).page().await })
    });
    let mut lists: FuturesUnordered<_> = lists.collect();
    // The first that is answered was shed: the others wait for Redis.
    let shed = soon("an answer", lists.next()).await.unwrap().unwrap().unwrap_err().to_string();
    assert!(shed.contains("48 queries of tenant flood"), "{shed}");
    other.why(task.id()).await.expect("the owner knows, and there is a place to ask it");
    fabric.stack.redis.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pollers_of_one_page_cost_redis_a_few_reads() {
    let fabric = Fabric::start().await;
    let client = fabric.client("acme").await;
    client.submit("nobody", &1).await.unwrap();
    let mut connection = redis::Client::open(fabric.stack.redis.url()).unwrap();
    let polls = (0..200).map(|_| async { client.list().page().await.map(|page| page.tasks.len()) });
    let () = redis::cmd("CONFIG").arg("RESETSTAT").query(&mut connection).unwrap();
    // As many at once as the service takes.
    let answers: Vec<_> = futures_util::stream::iter(polls).buffer_unordered(32).collect().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut connection).unwrap();
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:calls=")).unwrap_or_default();
    let calls: u64 = line.split(['=', ',']).nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    // The indexer's script is among them.
    assert!(calls < 50, "200 polls made {calls} calls");
}
