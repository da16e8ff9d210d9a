//! Snapshots and the archive on a real server: what is written comes back, what was touched is named.

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::StreamExt;
use selvedge::{
    bus::{
        archive::{Archive, Archived},
        journal::{JournalReader, JournalWriter},
        snapshots::{About, Manifest, SnapshotError, SnapshotStore},
    },
    wire::{codec, headers, subjects, subjects::Shard},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Context as JetStream, fabric};

const SHARD: Shard = Shard(0);

fn about(rev: u64) -> About {
    About { shard: SHARD, rev, seq: rev + 3, head: [7; 32] }
}

/// Writes a snapshot of three chunks; the parts say which they are.
async fn write(store: &SnapshotStore, rev: u64) -> Manifest {
    let mut writer = store.begin(about(rev), 5, b"preface".to_vec()).await.unwrap();
    for n in 0..6u8 {
        writer.part(&vec![n; 100 * 1024]).await.unwrap();
    }
    writer.verify().await.unwrap();
    writer.publish().await.unwrap()
}

async fn parts(store: &SnapshotStore, manifest: &Manifest) -> Result<Vec<Bytes>, SnapshotError> {
    let mut parts = store.read(manifest);
    let mut all = Vec::new();
    while let Some(part) = parts.next().await {
        all.push(part?);
    }
    Ok(all)
}

async fn revisions(store: &SnapshotStore) -> Vec<u64> {
    store.manifests().await.unwrap().into_iter().map(|m| m.unwrap().about.rev).collect()
}

/// Stores a message as a coordinator would.
async fn forge(js: &JetStream, subject: String, body: Vec<u8>) -> u64 {
    let mut marked = HeaderMap::new();
    marked.insert(headers::COORDINATOR, "1");
    js.publish_with_headers(subject, marked, body.into()).await.unwrap().await.unwrap().sequence
}

#[tokio::test]
async fn a_snapshot_comes_back_as_it_was_written_newest_first() {
    let (_nats, js) = fabric().await;
    let store = SnapshotStore::new(&js, SHARD).await.unwrap();
    write(&store, 10).await;
    let newest = write(&store, 20).await;
    assert_eq!(revisions(&store).await, [20, 10]);
    assert_eq!((newest.chunks(), newest.about.seq, newest.preface.as_slice()), (3, 23, &b"preface"[..]));
    let found = parts(&store, &newest).await.unwrap();
    assert_eq!(found.len(), 6);
    assert!(found.iter().enumerate().all(|(n, part)| part.iter().all(|b| *b == n as u8)));
}

#[tokio::test]
async fn two_verified_snapshots_are_kept_and_what_has_no_manifest_is_swept() {
    let (_nats, js) = fabric().await;
    let store = SnapshotStore::new(&js, SHARD).await.unwrap();
    for rev in [10, 20, 30] {
        write(&store, rev).await;
    }
    for rev in [25, 40] {
        // Given up half-way by a coordinator that died.
        let mut writer = store.begin(about(rev), 5, Vec::new()).await.unwrap();
        for _ in 0..6 {
            writer.part(&vec![1; 100 * 1024]).await.unwrap();
        }
    }
    store.sweep(30).await.unwrap();
    assert_eq!(revisions(&store).await, [30, 20]);
    let left = js.get_stream("SNAPSHOTS").await.unwrap().info_with_subjects("sv.snapshot.0.>").await.unwrap();
    let mut left: Vec<u64> =
        left.map(|found| subjects::snapshot_rev(&found.unwrap().0).unwrap()).collect().await;
    left.sort_unstable();
    left.dedup();
    assert_eq!(left, [20, 30, 40], "what is newer than the newest may be a newer owner's");
}

#[tokio::test]
async fn a_snapshot_cut_in_half_is_named_by_the_chunk_that_is_missing() {
    let (_nats, js) = fabric().await;
    let store = SnapshotStore::new(&js, SHARD).await.unwrap();
    let manifest = write(&store, 10).await;
    let chunk = subjects::snapshot_chunk(SHARD, 10, 2);
    js.get_stream("SNAPSHOTS").await.unwrap().purge().filter(chunk).await.unwrap();
    let error = parts(&store, &manifest).await.unwrap_err().to_string();
    assert_eq!(error, "SNAPSHOT_BROKEN: chunk 2 of snapshot 10: it is missing");
}

/// The manifest as it stands in the stream, open to be touched.
#[derive(Serialize, Deserialize)]
struct Written {
    v: u32,
    about: About,
    bytes: u64,
    at: u64,
    #[serde(with = "serde_bytes")]
    preface: Vec<u8>,
    chunks: Vec<WrittenChunk>,
}

#[derive(Serialize, Deserialize)]
struct WrittenChunk {
    seq: u64,
    bytes: u64,
    #[serde(with = "serde_bytes")]
    sha256: Vec<u8>,
}

async fn touch(js: &JetStream, change: impl AsyncFnOnce(&mut Written)) {
    let subject = subjects::snapshot_manifest(SHARD, 10);
    let stream = js.get_stream("SNAPSHOTS").await.unwrap();
    let stored = stream.get_last_raw_message_by_subject(&subject).await.unwrap();
    let mut written: Written = codec::unpack(&stored.payload[32..]).unwrap();
    change(&mut written).await;
    let body = codec::pack(&written);
    let mut bytes = Sha256::digest(&body).to_vec();
    bytes.extend_from_slice(&body);
    forge(js, subject, bytes).await;
}

#[tokio::test]
async fn a_flipped_byte_in_a_chunk_is_named() {
    let (_nats, js) = fabric().await;
    let store = SnapshotStore::new(&js, SHARD).await.unwrap();
    write(&store, 10).await;
    touch(&js, async |written| {
        let stream = js.get_stream("SNAPSHOTS").await.unwrap();
        let chunk = stream.get_raw_message(written.chunks[1].seq).await.unwrap();
        let mut bytes = chunk.payload.to_vec();
        bytes[5_000] ^= 1;
        written.chunks[1].seq = forge(&js, chunk.subject.to_string(), bytes).await;
    })
    .await;
    let manifest = store.manifests().await.unwrap().remove(0).unwrap();
    let error = parts(&store, &manifest).await.unwrap_err().to_string();
    assert_eq!(error, "SNAPSHOT_BROKEN: chunk 2 of snapshot 10: its hash differs");
}

#[tokio::test]
async fn a_snapshot_of_another_shard_or_a_newer_format_is_named() {
    let (_nats, js) = fabric().await;
    let store = SnapshotStore::new(&js, SHARD).await.unwrap();
    write(&store, 10).await;
    touch(&js, async |written| written.about.shard = Shard(3)).await;
    let error = store.manifests().await.unwrap().remove(0).unwrap_err().to_string();
    assert_eq!(error, "SNAPSHOT_BROKEN: the manifest of snapshot 10: it is of shard 3");
    touch(&js, async |written| written.v = 9).await;
    let error = store.manifests().await.unwrap().remove(0).unwrap_err().to_string();
    assert_eq!(error, "SNAPSHOT_BROKEN: the manifest of snapshot 10: format 9, this version reads 1");
}

#[tokio::test]
async fn an_acknowledgement_sent_onto_a_manifest_is_noise() {
    let (_nats, js) = fabric().await;
    let store = SnapshotStore::new(&js, SHARD).await.unwrap();
    write(&store, 10).await;
    for rev in [10, 99] {
        js.publish(subjects::snapshot_manifest(SHARD, rev), "{\"stream\":\"INTAKE\"}".into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    assert_eq!(revisions(&store).await, [10]);
}

#[tokio::test]
async fn the_archive_comes_back_in_order_with_noise_between_and_says_how_far_it_reaches() {
    let (_nats, js) = fabric().await;
    let archive = Archive::new(&js, SHARD).await.unwrap();
    assert_eq!(archive.covered().await.unwrap(), 0);
    let none: [Archived; 0] = [];
    archive.append(1, 8, &none).await.unwrap();
    js.publish(subjects::archive(SHARD), "noise".into()).await.unwrap().await.unwrap();
    archive.append(9, 20, &none).await.unwrap();
    js.publish(subjects::archive(SHARD), "noise".into()).await.unwrap().await.unwrap();
    assert_eq!(archive.covered().await.unwrap(), 20);
    let (mut next, mut found) = (1, Vec::new());
    while let Some((seq, chunk)) = archive.next(next).await.unwrap() {
        next = seq + 1;
        found.push((chunk.from_seq, chunk.upto_seq));
    }
    assert_eq!(found, [(1, 8), (9, 20)]);
}

#[tokio::test]
async fn a_purge_never_takes_the_journals_last_message() {
    let (_nats, js) = fabric().await;
    let never = CancellationToken::new();
    let writer = JournalWriter::new(&js, SHARD).await.unwrap();
    let reader = JournalReader::new(&js, SHARD).await.unwrap();
    for seq in 0..5 {
        writer.append(vec![seq as u8; 10].into(), seq, &never).await.unwrap();
    }
    js.publish("sv.journal.0", "noise".into()).await.unwrap().await.unwrap();
    assert_eq!(reader.purge(2).await.unwrap(), 2);
    assert_eq!(reader.room().await.unwrap().first_seq, 3);
    reader.purge(100).await.unwrap();
    assert_eq!(reader.head().await.unwrap().unwrap().seq, 5);
    assert_eq!(writer.append("next".into(), 5, &never).await.unwrap(), 7);
}
