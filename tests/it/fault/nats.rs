//! A NATS that is killed, away, full, tampered with, or older than what was seen of it.

use std::time::Duration;

use selvedge::bus::journal::{JournalReader, JournalWriter};
use selvedge::client::{Error, NewTask, TaskHandle};
use selvedge::coordinator::run::Options;
use selvedge::flow::record::{JournalMessage, Record};
use selvedge::task::{Code, Phase};
use selvedge::wire::subjects::Shard;
use selvedge::wire::topology::JOURNAL;
use tokio_util::sync::CancellationToken;

use super::audit::Audit;
use super::process::{self, policy};
use super::work::{self, AGENT, Gate, Work};
use crate::harness::fabric::{Fabric, eventually, unbound};
use crate::harness::{soon, until};

fn options(id: &str) -> Options {
    let mut options = Options::new(id);
    options.policy = policy();
    options
}

async fn fabric() -> Fabric {
    Fabric::start_with(|o| *o = options("test")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_under_load_keeps_what_it_acknowledged_and_doubles_nothing() {
    let mut fabric = fabric().await;
    fabric.plan("acme", unbound()).await;
    fabric.agent(work::agent(8, Duration::from_secs(5))).await;
    let client = fabric.client("acme").await;
    let submits = {
        let client = client.clone();
        tokio::spawn(async move {
            let tasks = (0..3_000).map(|n| NewTask::new(AGENT, &Work::Echo(n)).unwrap());
            client.submit_many(tasks).await
        })
    };
    for _ in 0..2 {
        let before = fabric.client("acme").await;
        until("some of it is done", async || before.stats().await.ok().filter(|s| s.total > 20)).await;
        fabric.stack.nats.kill9();
        tokio::task::block_in_place(|| fabric.stack.nats.restart()).expect("it comes back");
    }
    let submits = eventually("every submit has an answer", submits).await.unwrap();
    let mut acked = Vec::new();
    for submit in submits {
        match submit {
            Ok(task) => acked.push(task),
            Err(error) => {
                assert!(matches!(error, Error::Unknown { .. }), "never failed, if unknown: {error}")
            }
        }
    }
    assert!(acked.len() > 2_000, "{}", acked.len());
    for task in &acked {
        let ended = eventually("every accepted task ends", task.wait()).await.unwrap();
        assert_eq!(ended.state, Phase::Completed);
    }
    let audit = Audit::of(&fabric.stack).await;
    for task in &acked {
        assert_eq!(audit.end_of("acme", task.id()).0, Some("completed"));
    }
    assert_eq!(audit.count(|r| matches!(r, Record::LeaseLost { .. })), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_nats_longer_than_every_lease_expires_none() {
    let mut fabric = fabric().await;
    let mut gate = Gate::new(&fabric, "out").await;
    let lease = Duration::from_secs(1);
    let agents = [process::agent(&fabric.stack, 2, lease), process::agent(&fabric.stack, 2, lease)];
    let client = fabric.client("acme").await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        tasks.push(client.submit(AGENT, &Work::Gate("out".into())).await.unwrap());
        gate.next().await;
    }
    fabric.stack.nats.kill9();
    tokio::time::sleep(lease * 3).await;
    tokio::task::block_in_place(|| fabric.stack.nats.restart()).expect("it comes back");
    until("the fabric answers again", async || client.get(tasks[0].id()).await.ok()).await;
    for task in &tasks {
        assert_eq!(through(&gate, task).await, 1);
    }
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    assert_eq!(audit.count(|r| matches!(r, Record::LeaseLost { .. } | Record::Withdrawn { .. })), 0);
    drop(agents);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_nats_expires_no_lease_and_loses_no_task() {
    let fabric = fabric().await;
    let mut gate = Gate::new(&fabric, "ice").await;
    // Longer than ownership lasts: until that has run out, a frozen server looks like a silent agent.
    fabric.agent(work::agent(2, Duration::from_secs(4))).await;
    let client = fabric.client("acme").await;
    let task = client.submit(AGENT, &Work::Gate("ice".into())).await.unwrap();
    gate.next().await;
    fabric.stack.nats.pause();
    tokio::time::sleep(Duration::from_secs(6)).await;
    fabric.stack.nats.resume();
    until("the fabric answers again", async || client.get(task.id()).await.ok()).await;
    assert_eq!(through(&gate, &task).await, 1);
    assert_eq!(Audit::of(&fabric.stack).await.count(|r| matches!(r, Record::LeaseLost { .. })), 0);
}

/// The result of a task at a gate. After an outage the gates' subscriptions come back at moments of their own.
async fn through(gate: &Gate, task: &TaskHandle) -> u64 {
    let open = async {
        loop {
            gate.open().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        result = soon("the task ends where it ran", task.result::<u64>()) => result.unwrap(),
        () = open => unreachable!("opened for ever"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_intake_pushes_back_and_what_was_accepted_is_decided_later() {
    let mut fabric = Fabric::start_with(|o| {
        *o = options("test");
        o.sizing.intake_bytes = 64 * 1024;
    })
    .await;
    fabric.coordinator.take().unwrap().stop().await;
    let client = fabric.client("acme").await;
    let mut accepted = Vec::new();
    let refused = loop {
        match client.submit(AGENT, &vec![7_u8; 4_000]).await {
            Ok(task) => accepted.push(task),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code(), Some(Code::Backpressure), "{refused}");
    assert!(accepted.len() > 3, "{}", accepted.len());
    let mut again = options("again");
    again.sizing.intake_bytes = 64 * 1024;
    fabric.coordinator = Some(fabric.coordinate(again).await);
    for task in &accepted {
        until("it is decided", async || client.get(task.id()).await.ok()).await;
    }
    client.submit(AGENT, &Work::Echo(1)).await.expect("there is room again");
}

/// A fabric with some history whose coordinator is gone.
async fn with_history() -> Fabric {
    let mut fabric = fabric().await;
    fabric.agent(work::agent(2, Duration::from_secs(5))).await;
    let client = fabric.client("acme").await;
    for n in 0..5 {
        let task = client.submit(AGENT, &Work::Echo(n)).await.unwrap();
        soon("some history", task.result::<u64>()).await.unwrap();
    }
    fabric.coordinator.take().unwrap().stop().await;
    fabric
}

/// Starts a coordinator, which halts; returns what its readiness says of the shard.
async fn halted(fabric: &mut Fabric) -> String {
    let listen =
        std::net::SocketAddr::from(([127, 0, 0, 1], selvedge::cli::servers::ports::free_port().unwrap()));
    let mut options = options("halts");
    options.admin = Some(listen);
    fabric.coordinator = Some(fabric.coordinate(options).await);
    until("the shard halts", async || {
        let ready = readyz(listen).await?;
        let reason = ready["conditions"]["shard"]["reason"].as_str()?.to_owned();
        (ready["conditions"]["shard"]["ok"] == false && reason.contains("JOURNAL_")).then_some(reason)
    })
    .await
}

async fn readyz(at: std::net::SocketAddr) -> Option<serde_json::Value> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut tcp = tokio::net::TcpStream::connect(at).await.ok()?;
    let request = "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    tcp.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_with_a_foreign_message_halts_the_shard_by_name_and_dispatches_nothing() {
    let mut fabric = with_history().await;
    let connection = fabric.stack.connect("vandal").await;
    let js = connection.jetstream();
    let reader = JournalReader::new(js, Shard(0)).await.unwrap();
    let head = reader.head().await.unwrap().unwrap();
    let mut forged = JournalMessage::decode(&head.bytes).unwrap();
    forged.rev += 1;
    let writer = JournalWriter::new(js, Shard(0)).await.unwrap();
    let stop = CancellationToken::new();
    writer.append(forged.encode(), head.seq, &stop).await.unwrap();
    let task = fabric.client("acme").await.submit(AGENT, &Work::Echo(1)).await.unwrap();
    let reason = halted(&mut fabric).await;
    assert!(reason.contains("JOURNAL_GAP: shard 0") && reason.contains("hash"), "{reason}");
    assert_eq!(reader.head().await.unwrap().unwrap().seq, head.seq + 1, "nothing is appended to it");
    let _ = task;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_lost_a_message_in_the_middle_halts_the_shard_by_name() {
    let mut fabric = with_history().await;
    let connection = fabric.stack.connect("vandal").await;
    let js = connection.jetstream();
    let mut messages = Vec::new();
    let mut tail = JournalReader::new(js, Shard(0)).await.unwrap().read(1).await.unwrap();
    while let Some(entry) = tail.next().await {
        messages.push(entry.unwrap().bytes);
    }
    messages.remove(messages.len() / 2);
    rewrite(js, &messages).await;
    let reason = halted(&mut fabric).await;
    assert!(reason.contains("JOURNAL_GAP: shard 0") && reason.contains("revision"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_restored_from_an_old_backup_halts_the_shard_by_name() {
    let mut fabric = with_history().await;
    let connection = fabric.stack.connect("vandal").await;
    let js = connection.jetstream();
    let mut messages = Vec::new();
    let mut tail = JournalReader::new(js, Shard(0)).await.unwrap().read(1).await.unwrap();
    while let Some(entry) = tail.next().await {
        messages.push(entry.unwrap().bytes);
    }
    messages.truncate(messages.len() / 2);
    rewrite(js, &messages).await;
    let reason = halted(&mut fabric).await;
    assert!(reason.contains("JOURNAL_REGRESSED: shard 0"), "{reason}");
}

/// Replaces the journal by these messages, as a restore would.
async fn rewrite(js: &selvedge::bus::JetStream, messages: &[bytes::Bytes]) {
    let config = js.get_stream(JOURNAL).await.unwrap().cached_info().config.clone();
    js.delete_stream(JOURNAL).await.unwrap();
    js.create_stream(config).await.unwrap();
    let writer = JournalWriter::new(js, Shard(0)).await.unwrap();
    let stop = CancellationToken::new();
    for (seq, message) in (0..).zip(messages) {
        writer.append(message.clone(), seq, &stop).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_coordinators_that_both_believe_to_own_the_shard_never_both_progress() {
    let fabric = fabric().await;
    let second = fabric.coordinate(options("second")).await;
    fabric.plan("acme", selvedge::task::Plan { in_flight: 2, ..unbound() }).await;
    fabric.agent(work::agent(8, Duration::from_secs(5))).await;
    let client = fabric.client("acme").await;
    let js = fabric.stack.connect("vandal").await;
    let owners = js.jetstream().get_key_value(selvedge::wire::topology::OWNER_BUCKET).await.unwrap();
    let mut tasks = Vec::new();
    for round in 0..3 {
        for n in 0..60 {
            tasks.push(client.submit(AGENT, &Work::Echo(round * 60 + n)).await.unwrap());
        }
        // The key vanishes under its owner, who does not know until it renews; the other takes it.
        owners.delete(selvedge::wire::topology::owner_key(Shard(0))).await.unwrap();
        until("the shard changes hands", async || {
            let audit = Audit::of(&fabric.stack).await;
            let terms = audit.count(|r| matches!(r, Record::Opened { .. }));
            (terms >= round as usize + 2).then_some(())
        })
        .await;
    }
    for task in &tasks {
        soon("every task ends", task.result::<u64>()).await.unwrap();
    }
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    assert!(audit.most_in_flight["acme"] <= 2);
    for task in &tasks {
        assert_eq!(audit.end_of("acme", task.id()), (Some("completed"), 1, 0));
    }
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drifted_streams_take_readiness_away_and_are_left_alone() {
    let mut fabric = fabric().await;
    fabric.coordinator.take().unwrap().stop().await;
    let listen =
        std::net::SocketAddr::from(([127, 0, 0, 1], selvedge::cli::servers::ports::free_port().unwrap()));
    let mut options = options("watches");
    options.admin = Some(listen);
    options.drift_check = Duration::from_millis(200);
    fabric.coordinator = Some(fabric.coordinate(options).await);
    let connection = fabric.stack.connect("vandal").await;
    let js = connection.jetstream();
    let mut config = js.get_stream(JOURNAL).await.unwrap().cached_info().config.clone();
    config.max_age = Duration::from_secs(3_600);
    js.update_stream(&config).await.unwrap();
    let reason = until("readiness goes", async || {
        let ready = readyz(listen).await?;
        let streams = &ready["conditions"]["streams"];
        (streams["ok"] == false).then(|| streams["reason"].as_str().unwrap_or_default().to_owned())
    })
    .await;
    assert!(reason.contains("JOURNAL") && reason.contains("max_age"), "{reason}");
    let left = js.get_stream(JOURNAL).await.unwrap().cached_info().config.max_age;
    assert_eq!(left, Duration::from_secs(3_600), "an operator decides");
}
