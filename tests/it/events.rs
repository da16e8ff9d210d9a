//! Events: what Redis keeps of them, and how they get there from the EVENTS stream.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, pull},
    stream,
};
use selvedge::{
    bus::consume::{self, PullOptions},
    coordinator::event_writer,
    store::{
        Connection,
        events::{Appended, EventPolicy, EventStore, EventWrite},
        keys,
    },
    task::{Payload, TaskKey},
    wire::{Format, codec, headers, messages::Event, subjects},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::until,
    index::{id, tenant},
    store_servers::{Nats, Redis},
};

fn key(task: &str) -> TaskKey {
    TaskKey { tenant: tenant("acme"), id: id(task) }
}

fn event(attempt: u32, n: u32) -> Event {
    Event { v: 1, attempt, n, at: 7, kind: "progress".into(), data: Payload::json(&n).unwrap() }
}

fn write(task: &str, attempt: u32, n: u32) -> EventWrite {
    EventWrite { key: key(task), attempt, n, encoded: codec::pack(&event(attempt, n)) }
}

async fn ttl(connection: &Connection, task: &str) -> i64 {
    redis::cmd("TTL").arg(keys::events(&key(task))).query_async(&mut connection.clone()).await.unwrap()
}

#[tokio::test]
async fn an_event_stored_before_or_of_a_former_attempt_is_refused_and_that_is_success() {
    let redis = Redis::start().await;
    let store = EventStore::new(redis.connect().await);
    let policy = EventPolicy::default();
    let batch = [write("t", 1, 1), write("t", 1, 2), write("t", 2, 1)];
    let first = store.append(&batch, policy).await.unwrap();
    assert_eq!(first, Appended { stored: 3, ..Appended::default() });
    let again = store.append(&batch, policy).await.unwrap();
    assert_eq!(again, Appended { refused: 3, ..Appended::default() });
    let zombie = store.append(&[write("t", 1, 3)], policy).await.unwrap();
    assert_eq!(zombie, Appended { refused: 1, ..Appended::default() });
    let page = store.read(&key("t"), None, 10).await.unwrap();
    assert_eq!((page.events, page.more), (vec![event(1, 1), event(1, 2), event(2, 1)], false));
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repeat() {
    let redis = Redis::start().await;
    let store = EventStore::new(redis.connect().await);
    let all: Vec<_> = (1..=25).map(|n| write("t", 1, n)).collect();
    store.append(&all, EventPolicy::default()).await.unwrap();
    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let page = store.read(&key("t"), after, 10).await.unwrap();
        seen.extend(page.events.iter().map(|e| e.n));
        after = page.events.last().map(|e| (e.attempt, e.n));
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, (1..=25).collect::<Vec<_>>());
    assert!(store.read(&key("nobody"), None, 10).await.unwrap().events.is_empty());
}

#[tokio::test]
async fn a_page_of_large_events_is_cut_where_a_message_would_not_hold_it() {
    let redis = Redis::start().await;
    let store = EventStore::new(redis.connect().await);
    let large = |n| {
        let event = Event { data: Payload::json(&"x".repeat(15_000)).unwrap(), ..event(1, n) };
        EventWrite { encoded: codec::pack(&event), ..write("t", 1, n) }
    };
    let all: Vec<_> = (1..=100).map(large).collect();
    store.append(&all, EventPolicy::default()).await.unwrap();
    let (mut after, mut seen, mut pages) = (None, 0, 0);
    loop {
        let page = store.read(&key("t"), after, 1_000).await.unwrap();
        assert!(codec::pack(&page).len() < 600_000);
        (seen, pages) = (seen + page.events.len(), pages + 1);
        after = page.events.last().map(|e| (e.attempt, e.n));
        if !page.more {
            break;
        }
    }
    assert_eq!((seen, pages), (100, 3));
}

#[tokio::test]
async fn every_stream_is_capped_and_expires_unless_told_otherwise() {
    let redis = Redis::start().await;
    let connection = redis.connect().await;
    let store = EventStore::new(connection.clone());
    let capped = EventPolicy { maxlen: 100, ttl_seconds: 60 };
    for chunk in (1..=2_000).collect::<Vec<u32>>().chunks(200) {
        let batch: Vec<_> = chunk.iter().map(|n| write("long", 1, *n)).collect();
        store.append(&batch, capped).await.unwrap();
    }
    let len: u64 = redis::cmd("XLEN")
        .arg(keys::events(&key("long")))
        .query_async(&mut connection.clone())
        .await
        .unwrap();
    assert!((100..=300).contains(&len), "{len}");
    store.append(&[write("a", 1, 1), write("b", 1, 1)], capped).await.unwrap();
    for task in ["long", "a", "b"] {
        assert!((1..=60).contains(&ttl(&connection, task).await), "{task}");
    }
    // Writes refresh it, reads don't.
    let _: () = redis::cmd("EXPIRE")
        .arg(keys::events(&key("a")))
        .arg(5)
        .query_async(&mut connection.clone())
        .await
        .unwrap();
    store.read(&key("a"), None, 10).await.unwrap();
    assert!(ttl(&connection, "a").await <= 5);
    store.append(&[write("a", 1, 2)], capped).await.unwrap();
    assert!(ttl(&connection, "a").await > 5);

    store.append(&[write("kept", 1, 1)], EventPolicy { maxlen: 100, ttl_seconds: 0 }).await.unwrap();
    assert_eq!(ttl(&connection, "kept").await, -1);
}

#[tokio::test]
async fn an_expire_that_fails_is_counted_and_never_surfaces() {
    let redis = Redis::start().await;
    let admin = redis.connect().await;
    let _: () = redis::cmd("ACL")
        .arg(&["SETUSER", "noexpire", "on", ">pw", "~*", "+@all", "-expire"])
        .query_async(&mut admin.clone())
        .await
        .unwrap();
    let url = redis.url().replace("redis://", "redis://noexpire:pw@");
    let store = EventStore::new(redis.connect_to(&url).await);
    let done = store.append(&[write("t", 1, 1)], EventPolicy::default()).await.unwrap();
    assert_eq!(done, Appended { stored: 1, unexpiring: 1, ..Appended::default() });
    assert_eq!(store.read(&key("t"), None, 10).await.unwrap().events.len(), 1);
}

fn durable() -> pull::Config {
    pull::Config {
        durable_name: Some("event-writer".into()),
        ack_policy: AckPolicy::None,
        ..Default::default()
    }
}

struct Bench {
    nats: Nats,
    js: jetstream::Context,
    store: EventStore,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Bench {
    async fn new(redis: &Redis) -> Self {
        let nats = Nats::start().await;
        let js = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
        let stream = js
            .create_stream(stream::Config {
                name: "EVENTS".into(),
                subjects: vec![subjects::EVENT_ALL.into()],
                ..Default::default()
            })
            .await
            .unwrap();
        stream.create_consumer(durable()).await.unwrap();
        let store = EventStore::new(redis.connect().await);
        let mut bench = Self { nats, js, store, stop: CancellationToken::new(), tasks: Vec::new() };
        bench.begin();
        bench
    }

    /// Starts a reader and a writer.
    fn begin(&mut self) {
        let (out, deliveries) = mpsc::channel(1_024);
        let (_policy, policy) = watch::channel(EventPolicy::default());
        let options =
            PullOptions { expires: Duration::from_secs(2), ..PullOptions::new("EVENTS", "event-writer") };
        let stop = || self.stop.clone();
        self.tasks = vec![
            tokio::spawn(consume::pull(self.js.clone(), options, out, stop())),
            tokio::spawn(event_writer::run(self.store.clone(), policy, deliveries, stop())),
        ];
    }

    /// Ends both as a crash would.
    fn crash(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
    }

    async fn publish(&self, task: &str, body: bytes::Bytes) {
        self.js.publish(subjects::event(&tenant("acme"), &id(task)), body).await.unwrap().await.unwrap();
    }

    /// Waits until everything is written, and gone from the stream.
    async fn until_drained(&self) {
        let drained = async {
            let mut stream = self.js.get_stream("EVENTS").await.unwrap();
            while stream.info().await.unwrap().state.messages > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), drained).await.expect("everything is written");
    }

    async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            tokio::time::timeout(Duration::from_secs(5), task).await.expect("it ends").unwrap();
        }
        drop(self.nats);
    }
}

#[tokio::test]
async fn events_reach_redis_in_order_and_bad_ones_are_skipped() {
    let redis = Redis::start().await;
    let b = Bench::new(&redis).await;
    b.publish("t", codec::pack(&event(1, 1))).await;
    b.publish("t", "not an event".into()).await;
    b.publish("t", bytes::Bytes::new()).await;
    b.publish("t", codec::pack(&event(0, 0))).await;
    b.publish("t", codec::pack(&Event { data: Payload::json(&"x".repeat(20_000)).unwrap(), ..event(1, 2) }))
        .await;
    b.js.publish("sv.event.ACME.t", codec::pack(&event(1, 1))).await.unwrap().await.unwrap();
    let mut json = async_nats::HeaderMap::new();
    json.insert(headers::CONTENT_TYPE, headers::JSON);
    let subject = subjects::event(&tenant("acme"), &id("t"));
    let body = Format::Json.encode(&event(1, 3));
    b.js.publish_with_headers(subject, json, body).await.unwrap().await.unwrap();
    for n in 4..=600 {
        b.publish("t", codec::pack(&event(1, n))).await;
    }
    b.until_drained().await;
    let page = b.store.read(&key("t"), None, 1_000).await.unwrap();
    let numbers: Vec<u32> = page.events.iter().map(|e| e.n).collect();
    assert_eq!(numbers, std::iter::once(1).chain(3..=600).collect::<Vec<_>>());
    b.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_wait_in_the_stream_while_redis_is_down_and_none_is_doubled() {
    let mut redis = Redis::start().await;
    let b = Bench::new(&redis).await;
    b.publish("t", codec::pack(&event(1, 1))).await;
    b.until_drained().await;
    redis.kill();
    for n in 2..=300 {
        b.publish("t", codec::pack(&event(1, n))).await;
    }
    redis.up();
    b.until_drained().await;
    let page = b.store.read(&key("t"), None, 1_000).await.unwrap();
    let numbers: Vec<u32> = page.events.iter().map(|e| e.n).collect();
    assert_eq!(numbers, (2..=300).collect::<Vec<_>>(), "the first one went with the empty restart");
    b.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_are_read_and_not_written_come_again_after_a_crash() {
    let mut redis = Redis::start().await;
    let mut b = Bench::new(&redis).await;
    redis.kill();
    for n in 1..=300 {
        b.publish("t", codec::pack(&event(1, n))).await;
    }
    until("all of them are read", || async {
        let info =
            b.js.get_consumer_from_stream::<pull::Config, _, _>("event-writer", "EVENTS").await.ok()?;
        (info.cached_info().delivered.stream_sequence == 300).then_some(())
    })
    .await;
    // Nothing is to happen: what is settled would be purged after half a second of quiet.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    b.crash();
    redis.up();
    b.begin();
    b.until_drained().await;
    let page = b.store.read(&key("t"), None, 1_000).await.unwrap();
    assert_eq!(page.events.iter().map(|e| e.n).collect::<Vec<_>>(), (1..=300).collect::<Vec<_>>());
    b.end().await;
}

#[tokio::test]
async fn pulling_survives_a_consumer_that_is_deleted_and_made_again() {
    let redis = Redis::start().await;
    let b = Bench::new(&redis).await;
    b.publish("t", codec::pack(&event(1, 1))).await;
    b.until_drained().await;
    let stream = b.js.get_stream("EVENTS").await.unwrap();
    stream.delete_consumer("event-writer").await.unwrap();
    stream.create_consumer(durable()).await.unwrap();
    b.publish("t", codec::pack(&event(1, 2))).await;
    b.until_drained().await;
    assert_eq!(b.store.read(&key("t"), None, 10).await.unwrap().events.len(), 2);
    b.end().await;
}
