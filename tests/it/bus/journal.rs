//! Appends end in certainty, whatever is lost on the way.

use std::time::Duration;

use bytes::Bytes;
use selvedge::{
    bus::journal::{AppendError, JournalReader, JournalWriter},
    wire::subjects::Shard,
};
use tokio_util::sync::CancellationToken;

use super::{connect, fabric, proxy::Proxy, soon};

const SHARD: Shard = Shard(0);

fn never() -> CancellationToken {
    CancellationToken::new()
}

async fn contents(reader: &JournalReader) -> Vec<(u64, Bytes)> {
    let mut tail = reader.read(0).await.unwrap();
    let mut all = Vec::new();
    while let Some(entry) = soon("a replay", tail.next()).await {
        let entry = entry.unwrap();
        all.push((entry.seq, entry.bytes));
    }
    all
}

#[tokio::test]
async fn a_second_writer_loses_its_compare_and_set() {
    let (_nats, js) = fabric().await;
    let (a, b) =
        (JournalWriter::new(&js, SHARD).await.unwrap(), JournalWriter::new(&js, SHARD).await.unwrap());
    assert_eq!(a.append("a1".into(), 0, &never()).await.unwrap(), 1);
    assert_eq!(b.append("b2".into(), 1, &never()).await.unwrap(), 2);
    let lost = a.append("a2".into(), 1, &never()).await;
    assert!(matches!(lost, Err(AppendError::Lost { expected: 1, found: Some(2) })), "{lost:?}");
    let reader = JournalReader::new(&js, SHARD).await.unwrap();
    assert_eq!(contents(&reader).await, [(1, "a1".into()), (2, "b2".into())]);
}

#[tokio::test]
async fn the_same_bytes_again_are_found_to_be_stored_already() {
    let (_nats, js) = fabric().await;
    let writer = JournalWriter::new(&js, SHARD).await.unwrap();
    assert_eq!(writer.append("once".into(), 0, &never()).await.unwrap(), 1);
    assert_eq!(writer.append("once".into(), 0, &never()).await.unwrap(), 1);
    let reader = JournalReader::new(&js, SHARD).await.unwrap();
    assert_eq!(contents(&reader).await.len(), 1);
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_stored_once() {
    let (nats, js) = fabric().await;
    let proxy = Proxy::to(nats.port()).await;
    let through = connect(&proxy.url()).await;
    let writer = JournalWriter::new(&through, SHARD).await.unwrap();
    let reader = JournalReader::new(&js, SHARD).await.unwrap();
    assert_eq!(writer.append("first".into(), 0, &never()).await.unwrap(), 1);

    let mut arrivals = reader.follow(2);
    proxy.lose_answers(true);
    let append = tokio::spawn(async move { writer.append("second".into(), 1, &never()).await });
    let stored = soon("the second message", arrivals.next()).await.unwrap().unwrap();
    assert_eq!((stored.seq, stored.bytes), (2, "second".into()));
    while proxy.lost_bytes() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!append.is_finished(), "without an answer nothing is certain");
    proxy.lose_answers(false);
    proxy.cut();

    assert_eq!(soon("certainty", append).await.unwrap().unwrap(), 2);
    assert_eq!(contents(&reader).await.len(), 2);
}

#[tokio::test]
async fn appends_go_on_through_killed_servers_without_loss_or_duplicate() {
    const N: u64 = 3_000;
    let (mut nats, js) = fabric().await;
    let writer = JournalWriter::new(&js, SHARD).await.unwrap();
    let reader = JournalReader::new(&js, SHARD).await.unwrap();
    let (progress, mut seen) = tokio::sync::watch::channel(0);
    let writing = tokio::spawn(async move {
        let mut head = 0;
        for i in 0..N {
            head = writer.append(format!("message {i}").into(), head, &never()).await.unwrap();
            progress.send_replace(i);
        }
    });
    for at in [N / 10, N / 3, N / 2] {
        soon("progress", seen.wait_for(|i| *i >= at)).await.unwrap();
        assert!(!writing.is_finished(), "the kill must hit the writing");
        nats.kill9();
        nats.restart().await;
    }
    soon("the last append", writing).await.unwrap();
    let found: Vec<Bytes> = contents(&reader).await.into_iter().map(|(_, bytes)| bytes).collect();
    let expected: Vec<Bytes> = (0..N).map(|i| Bytes::from(format!("message {i}"))).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_append_to_a_dead_server_ends_when_told_to_stop() {
    let (mut nats, js) = fabric().await;
    let writer = JournalWriter::new(&js, SHARD).await.unwrap();
    nats.kill9();
    let stop = never();
    let stopper = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stopper.cancel();
    });
    let stopped = soon("the stop", writer.append("x".into(), 0, &stop)).await;
    assert!(matches!(stopped, Err(AppendError::Stopped)), "{stopped:?}");
}

#[tokio::test]
async fn a_full_journal_is_said_to_be_full_and_heals() {
    let (_nats, js) = fabric().await;
    let writer = JournalWriter::new(&js, SHARD).await.unwrap();
    let block = Bytes::from(vec![b'x'; 900_000]);
    let mut head = 0;
    let full = loop {
        match writer.append(block.clone(), head, &never()).await {
            Ok(seq) => head = seq,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, AppendError::Full { .. }), "{full}");
    assert!(head > 60, "some 64 MiB fit");
    let reader = JournalReader::new(&js, SHARD).await.unwrap();
    assert_eq!(reader.extent().await.unwrap().first_seq, 1, "nothing old was deleted to make room");

    js.get_stream("JOURNAL").await.unwrap().purge().sequence(head).await.unwrap();
    assert_eq!(writer.append("again".into(), head, &never()).await.unwrap(), head + 1);
    assert_eq!(reader.extent().await.unwrap().first_seq, head);
}

#[tokio::test]
async fn a_message_above_the_servers_limit_is_too_large_not_unknown() {
    let (_nats, js) = fabric().await;
    let writer = JournalWriter::new(&js, SHARD).await.unwrap();
    let huge = soon("the refusal", writer.append(vec![0; 2_000_000].into(), 0, &never())).await;
    assert!(matches!(huge, Err(AppendError::TooLarge { bytes: 2_000_000, .. })), "{huge:?}");
    assert_eq!(writer.append("x".into(), 0, &never()).await.unwrap(), 1, "the connection stays usable");
}

#[tokio::test]
async fn a_follower_sees_each_message_once_through_a_restart() {
    let (mut nats, js) = fabric().await;
    let writer = JournalWriter::new(&js, SHARD).await.unwrap();
    let reader = JournalReader::new(&js, SHARD).await.unwrap();
    let mut tail = reader.follow(1);
    writer.append("1".into(), 0, &never()).await.unwrap();
    assert_eq!(soon("1", tail.next()).await.unwrap().unwrap().seq, 1);
    nats.kill9();
    nats.restart().await;
    writer.append("2".into(), 1, &never()).await.unwrap();
    writer.append("3".into(), 2, &never()).await.unwrap();
    assert_eq!(soon("2", tail.next()).await.unwrap().unwrap().bytes, "2");
    assert_eq!(soon("3", tail.next()).await.unwrap().unwrap().bytes, "3");
}

#[tokio::test]
async fn the_time_since_the_head_is_measured_by_the_server() {
    let (_nats, js) = fabric().await;
    let writer = JournalWriter::new(&js, SHARD).await.unwrap();
    let reader = JournalReader::new(&js, SHARD).await.unwrap();
    let empty = reader.extent().await.unwrap();
    assert_eq!((empty.head, empty.idle), (None, Duration::ZERO));

    let begun = std::time::Instant::now();
    writer.append("x".into(), 0, &never()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(120)).await;
    let idle = reader.extent().await.unwrap().idle;
    assert!(
        idle >= Duration::from_millis(118) && idle <= begun.elapsed() + Duration::from_millis(2),
        "{idle:?}"
    );
}
