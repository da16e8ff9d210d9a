//! The journal shrinks: snapshots, purges, starts from them; and what happens when one of them is broken or cut off.

use std::time::Duration;

use async_nats::HeaderMap;
use selvedge::agent::{Agent, AgentError, Ctx};
use selvedge::client::{Client, NewTask, TaskHandle};
use selvedge::coordinator::run::Options;
use selvedge::task::Phase;
use selvedge::wire::{headers, subjects, subjects::Shard};

use super::audit::Audit;
use super::copy::JournalCopy;
use super::process::{Coordinator, policy};
use super::work::{self, AGENT, Work};
use crate::harness::fabric::{Fabric, eventually, unbound};
use crate::harness::{soon, until};
use crate::queries::rebuild::equal;

const SHARD: Shard = Shard(0);
/// Small enough that a test takes several snapshots.
const EVERY: u64 = 64 << 10;
const MIB: i64 = 1 << 20;

fn options(id: &str) -> Options {
    let mut options = Options::new(id);
    options.policy = policy();
    options.shrink.journal_bytes = EVERY;
    options
}

async fn fabric() -> (Fabric, JournalCopy) {
    let fabric = Fabric::start_with(|o| *o = options("test")).await;
    fabric.plan("acme", unbound()).await;
    let copy = JournalCopy::follow(&fabric.stack).await;
    (fabric, copy)
}

/// Returns the length of what it is given.
fn measurer() -> Agent {
    async fn measure(_: Ctx, text: String) -> Result<usize, AgentError> {
        Ok(text.len())
    }
    Agent::new("measurer", measure).expect("a name").slots(32).lease(Duration::from_secs(10))
}

async fn submit(client: &Client, tasks: usize, bytes: usize) -> Vec<TaskHandle> {
    let text = "x".repeat(bytes);
    let tasks = (0..tasks).map(|_| NewTask::new("measurer", &text).unwrap());
    client.submit_many(tasks).await.into_iter().map(|task| task.expect("stored")).collect()
}

async fn all_complete(tasks: &[TaskHandle]) {
    for task in tasks {
        let ended = eventually("a task ends", task.wait()).await.unwrap();
        assert_eq!(ended.state, Phase::Completed);
    }
}

/// Runs tasks until the journal was purged and has at least two snapshots.
async fn until_purged(client: &Client, copy: &JournalCopy) -> usize {
    let mut done = 0;
    for _ in 0..100 {
        all_complete(&submit(client, 20, 4_096).await).await;
        done += 20;
        if copy.room().await.first_seq > 1 && copy.snapshots().await.len() == 2 {
            return done;
        }
    }
    panic!("nothing was purged: {:?}, snapshots {:?}", copy.room().await, copy.snapshots().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_journal_heals_itself_under_load_and_a_start_gives_the_same_state() {
    let mut fabric = Fabric::start_with(|o| {
        *o = options("test");
        o.shrink = Default::default();
        o.sizing.journal_bytes = 8 * MIB;
    })
    .await;
    fabric.plan("acme", unbound()).await;
    let copy = JournalCopy::follow(&fabric.stack).await;
    fabric.agent(measurer()).await;
    let client = fabric.client("acme").await;
    for _ in 0..8 {
        all_complete(&submit(&client, 300, 16 * 1024).await).await;
    }
    let room = copy.room().await;
    assert!(room.first_seq > 1 && room.bytes < 8 * MIB as u64, "{room:?}");
    let whole = copy.whole().await;
    let written: usize = whole.iter().map(|entry| entry.bytes.len()).sum();
    assert!(written > 32 * MIB as usize, "{written} bytes went through it");
    Audit::of_entries(&whole).assert_settled();
    fabric.coordinator.take().unwrap().stop().await;
    assert!(copy.assert_a_start_gives_the_same().await > 0);
    fabric.coordinator = Some(fabric.coordinate(options("next")).await);
    all_complete(&submit(&client, 10, 100).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_every_point_of_a_snapshot_loses_nothing_and_the_next_owner_goes_on() {
    let (mut fabric, copy) = fabric().await;
    fabric.coordinator.take().unwrap().stop().await;
    fabric.agent(measurer()).await;
    fabric.agent(work::agent(4, Duration::from_secs(5))).await;
    let client = fabric.client("acme").await;
    let mut tasks = Vec::new();
    for point in ["snapshot_begun", "snapshot_part", "snapshot_written", "snapshot_verified", "purged"] {
        let coordinator =
            Coordinator::new(point).snapshots_every(EVERY).crash_at(point, 2).spawn(&fabric.stack);
        tasks.push(client.submit(AGENT, &Work::Tree(1, None)).await.unwrap());
        eventually(&format!("the crash at {point}"), async {
            while coordinator.exited().is_none() {
                tasks.extend(submit(&client, 10, 4_096).await);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        copy.assert_a_start_gives_the_same().await;
    }
    fabric.coordinator = Some(fabric.coordinate(options("last")).await);
    all_complete(&tasks).await;
    until_purged(&client, &copy).await;
    fabric.coordinator.take().unwrap().stop().await;
    let audit = Audit::of_entries(&copy.whole().await);
    audit.assert_settled();
    assert!(copy.assert_a_start_gives_the_same().await > 0);
}

/// Stores a message as a coordinator would.
async fn forge(copy: &JournalCopy, subject: String, body: Vec<u8>) {
    let mut marked = HeaderMap::new();
    marked.insert(headers::COORDINATOR, "1");
    let stored = copy.jetstream().publish_with_headers(subject, marked, body.into()).await;
    stored.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_newest_snapshot_is_passed_over_and_the_one_before_is_used() {
    let (mut fabric, copy) = fabric().await;
    fabric.agent(measurer()).await;
    let client = fabric.client("acme").await;
    until_purged(&client, &copy).await;
    fabric.coordinator.take().unwrap().stop().await;
    let newest = copy.snapshots().await[0];
    let stream = copy.jetstream().get_stream("SNAPSHOTS").await.unwrap();
    let manifest = stream
        .get_last_raw_message_by_subject(&subjects::snapshot_manifest(SHARD, newest))
        .await
        .unwrap()
        .payload
        .to_vec();
    let cut = manifest[..manifest.len() / 2].to_vec();
    let mut flipped = manifest.clone();
    flipped[40] ^= 1;
    for (later, body) in [cut, flipped, manifest].into_iter().enumerate() {
        // The last is whole, but of another revision than its place says.
        forge(&copy, subjects::snapshot_manifest(SHARD, newest + 1 + later as u64), body).await;
    }
    let found = copy.store().await.manifests().await.unwrap();
    assert_eq!(found.iter().take(3).filter(|manifest| manifest.is_err()).count(), 3);
    copy.assert_a_start_gives_the_same().await;
    fabric.coordinator = Some(fabric.coordinate(options("next")).await);
    all_complete(&submit(&client, 10, 100).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_journal_without_a_good_snapshot_halts_the_shard_by_name() {
    let (mut fabric, copy) = fabric().await;
    fabric.agent(measurer()).await;
    let client = fabric.client("acme").await;
    until_purged(&client, &copy).await;
    fabric.coordinator.take().unwrap().stop().await;
    let stream = copy.jetstream().get_stream("SNAPSHOTS").await.unwrap();
    for rev in copy.snapshots().await {
        // Cut: the chunks are gone, the manifests stay.
        stream.purge().filter(subjects::snapshot_chunk(SHARD, rev, 1)).await.unwrap();
    }
    let connections = selvedge::coordinator::run::Connections::open(
        &fabric.stack.nats_options(),
        &fabric.stack.redis_options(),
        "halted",
    )
    .await
    .unwrap();
    let before = copy.room().await.last_seq;
    let stop = tokio_util::sync::CancellationToken::new();
    let halted =
        tokio::spawn(selvedge::coordinator::run::run(options("halted"), connections, None, stop.clone()));
    let task = client.submit("measurer", &"x").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.cancel();
    let error = soon("it ends", halted).await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with("JOURNAL_GAP"), "{error}");
    assert_eq!(copy.room().await.last_seq, before, "nothing was appended");
    drop(task);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_shrinks_without_redis_and_a_flushed_index_equals_it_again() {
    let (mut fabric, copy) = fabric().await;
    fabric.agent(measurer()).await;
    let client = fabric.client("acme").await;
    all_complete(&submit(&client, 20, 4_096).await).await;
    fabric.stack.redis.kill9();
    let mut tasks = Vec::new();
    let before = copy.room().await.first_seq;
    eventually("the journal is purged while Redis is away", async {
        while copy.room().await.first_seq <= before.max(20) {
            tasks.extend(submit(&client, 20, 4_096).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    tokio::task::block_in_place(|| fabric.stack.redis.restart()).expect("it comes back");
    all_complete(&tasks).await;
    for how in ["away", "flushed", "flushed and started anew"] {
        if how != "away" {
            let mut redis = selvedge::store::connect::connect(&fabric.stack.redis_options()).await.unwrap().0;
            let answer: String = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
            assert_eq!(answer, "OK");
        }
        if how == "flushed and started anew" {
            fabric.coordinator.take().unwrap().crash();
            fabric.coordinator = Some(fabric.coordinate(options("next")).await);
        }
        let all = tasks.len() as u64 + 20;
        until(&format!("the index shows everything, {how}"), async || {
            let stats = client.stats().await.ok()?;
            (stats.states.get("completed") == Some(&all) && stats.total == all).then_some(())
        })
        .await;
        equal(&fabric.stack, all).await;
        let audit = Audit::of_entries(&copy.whole().await);
        for task in &tasks {
            let found = until("the result of a task", async || task.result::<usize>().await.ok()).await;
            assert_eq!(found, 4_096, "{how}");
            assert_eq!(audit.end_of("acme", task.id()).0, Some("completed"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_input_of_a_task_that_waits_for_long_is_carried_along_and_arrives_as_it_was_sent() {
    let (mut fabric, copy) = fabric().await;
    fabric.agent(measurer()).await;
    let client = fabric.client("acme").await;
    // Nobody runs these; they lie in the journal's first messages.
    let long = "y".repeat(3_000);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(client.submit("sleeper", &long).await.unwrap());
    }
    let first = until("they are decided", async || {
        let room = copy.room().await;
        (client.stats().await.ok()?.total == 3).then_some(room.last_seq)
    })
    .await;
    eventually("the journal is purged beyond them", async {
        while copy.room().await.first_seq <= first {
            all_complete(&submit(&client, 20, 4_096).await).await;
        }
    })
    .await;
    // Also by another owner, who knows nothing but the snapshot and the tail.
    fabric.coordinator.take().unwrap().stop().await;
    copy.assert_a_start_gives_the_same().await;
    fabric.coordinator = Some(fabric.coordinate(options("next")).await);
    fabric.agent(sleeper()).await;
    for task in waiting {
        assert_eq!(eventually("it runs at last", task.result::<String>()).await.unwrap(), long);
    }
}

/// Returns what it is given.
fn sleeper() -> Agent {
    async fn echo(_: Ctx, text: String) -> Result<String, AgentError> {
        Ok(text)
    }
    Agent::new("sleeper", echo).expect("a name").slots(4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_right_after_inputs_were_carried_loses_none_of_them() {
    let (mut fabric, copy) = fabric().await;
    fabric.coordinator.take().unwrap().stop().await;
    fabric.agent(measurer()).await;
    let client = fabric.client("acme").await;
    let long = "y".repeat(3_000);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(client.submit("sleeper", &long).await.unwrap());
    }
    let coordinator =
        Coordinator::new("carrier").snapshots_every(EVERY).crash_at("carried", 1).spawn(&fabric.stack);
    let mut tasks = Vec::new();
    eventually("it carries, and crashes", async {
        while coordinator.exited().is_none() {
            tasks.extend(submit(&client, 20, 4_096).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    copy.assert_a_start_gives_the_same().await;
    fabric.coordinator = Some(fabric.coordinate(options("next")).await);
    all_complete(&tasks).await;
    fabric.agent(sleeper()).await;
    for task in waiting {
        assert_eq!(eventually("it runs at last", task.result::<String>()).await.unwrap(), long);
    }
    Audit::of_entries(&copy.whole().await).assert_settled();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_behind_a_snapshot_is_named_and_never_believed() {
    let (mut fabric, copy) = fabric().await;
    fabric.agent(measurer()).await;
    let client = fabric.client("acme").await;
    until_purged(&client, &copy).await;
    // Without a last snapshot: something stands behind the newest.
    all_complete(&submit(&client, 3, 100).await).await;
    fabric.coordinator.take().unwrap().crash();
    let (_, tail) = copy.start().await;
    assert!(tail.len() >= 2, "{} messages behind the snapshot", tail.len());
    let length = tail[0].bytes.len();
    for at in (0..length).step_by(length.div_ceil(24)) {
        let (mut engine, _) = copy.start().await;
        let mut bytes = tail[0].bytes.to_vec();
        bytes[at] ^= 1;
        let first = engine.replay(tail[0].seq, &bytes);
        // What still reads like a message has another hash than the next one says.
        let found = first.and_then(|()| engine.replay(tail[1].seq, &tail[1].bytes));
        let error = found.expect_err("it is noticed").to_string();
        assert!(error.starts_with("JOURNAL_"), "byte {at}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_finds_the_journal_full_makes_room_before_it_writes() {
    let sized = |id: &str| {
        let mut options = options(id);
        options.shrink = Default::default();
        options.sizing.journal_bytes = 8 * MIB;
        options
    };
    let mut fabric = Fabric::start_with(|o| *o = sized("test")).await;
    fabric.plan("acme", unbound()).await;
    let copy = JournalCopy::follow(&fabric.stack).await;
    fabric.agent(measurer()).await;
    let client = fabric.client("acme").await;
    all_complete(&submit(&client, 60, 16 * 1024).await).await;
    fabric.coordinator.take().unwrap().crash();
    assert_eq!(copy.snapshots().await.len(), 0);
    // Somebody else fills the rest, to the last message that fits.
    let mut size = 200_000;
    while size > 10 {
        let noise = copy.jetstream().publish(subjects::journal(SHARD), vec![b'x'; size].into()).await;
        if noise.unwrap().await.is_err() {
            size /= 2;
        }
    }
    let full = copy.room().await;
    assert!(full.bytes > 8 * MIB as u64 / 100 * 99, "{full:?}");
    fabric.coordinator = Some(fabric.coordinate(sized("next")).await);
    all_complete(&submit(&client, 10, 4_096).await).await;
    let room = copy.room().await;
    assert!(room.first_seq > full.first_seq, "{room:?} after {full:?}");
    eventually("the rest goes as well", async {
        while copy.room().await.bytes > 4 * MIB as u64 {
            all_complete(&submit(&client, 20, 16 * 1024).await).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_was_frozen_across_purges_begins_again_from_the_snapshot_and_takes_over() {
    let (mut fabric, copy) = fabric().await;
    fabric.agent(measurer()).await;
    let client = fabric.client("acme").await;
    let standby = Coordinator::new("standby").snapshots_every(EVERY).spawn(&fabric.stack);
    all_complete(&submit(&client, 20, 4_096).await).await;
    standby.signal(libc::SIGSTOP);
    let frozen_at = copy.room().await.last_seq;
    let mut tasks = Vec::new();
    // It still gets every second query, and answers none: nothing is asked meanwhile.
    eventually("the journal is purged beyond it", async {
        while copy.room().await.first_seq <= frozen_at {
            tasks.extend(submit(&client, 20, 4_096).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let purged = copy.room().await.first_seq;
    standby.signal(libc::SIGCONT);
    fabric.coordinator.take().unwrap().crash();
    tasks.extend(submit(&client, 50, 4_096).await);
    all_complete(&tasks).await;
    assert!(copy.room().await.first_seq >= purged);
    standby.kill();
    copy.assert_a_start_gives_the_same().await;
    Audit::of_entries(&copy.whole().await).assert_settled();
}
