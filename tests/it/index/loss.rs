//! An index that is lost, old, of another layout or of another owner: noticed, and begun anew.

use selvedge::{
    store::{
        index::{Generation, IndexWriter, Written},
        keys,
    },
    task::Phase,
    wire::api::TaskView,
};

use super::{Bench, NOW, SHARD, batch, by, task, tenant};
use crate::store_servers::Redis;

#[tokio::test]
async fn an_index_of_another_layout_is_begun_anew() {
    let b = Bench::new().await;
    let point = async || IndexWriter::restart_point(&b.connection, SHARD).await.unwrap();
    assert!(point().await.is_some());
    let _: () = redis::cmd("HSET")
        .arg(&[keys::restart_point(SHARD).as_str(), "layout", "1"])
        .query_async(&mut b.connection.clone())
        .await
        .unwrap();
    assert_eq!(point().await, None);
}

#[tokio::test]
async fn a_flushall_is_noticed_by_the_next_batch_and_by_the_idle_check() {
    let mut b = Bench::new().await;
    b.write(vec![task("t1", Phase::Queued, 1, 100)]).await;
    let flush = async || {
        let _: () = redis::cmd("FLUSHALL").query_async(&mut b.connection.clone()).await.unwrap();
    };
    flush().await;
    assert_eq!(b.writer.check(NOW).await.unwrap(), Written::Lost);
    // Both for a tenant written before and for one never seen.
    let generation = b.writer.generation();
    let known = batch(generation, 2, vec![task("t1", Phase::Running, 2, 100)]);
    assert_eq!(b.writer.write(&known).await.unwrap(), Written::Lost);
    let other = TaskView { tenant: tenant("umbrella"), ..task("t1", Phase::Running, 2, 100) };
    assert_eq!(b.writer.write(&batch(generation, 2, vec![other])).await.unwrap(), Written::Lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_went_back_in_time_is_noticed() {
    let mut b = Bench::with(Redis::start().await).await;
    b.write(vec![task("t1", Phase::Queued, 1, 100)]).await;
    let _: () = redis::cmd("SAVE").query_async(&mut b.connection.clone()).await.unwrap();
    b.write(vec![task("t1", Phase::Completed, 2, 100)]).await;
    b.redis.kill();
    b.redis.up();
    let mut failures = 0;
    let outcome = loop {
        match b.writer.check(NOW).await {
            Ok(outcome) => break outcome,
            // The connection is made anew on the first use after it broke.
            Err(_) => failures += 1,
        }
        assert!(failures < 100);
    };
    assert_eq!(b.ids(by(&[])).await, ["t1"], "the old file was loaded");
    assert_eq!(outcome, Written::Lost);
}

#[tokio::test]
async fn an_old_owner_is_fenced_off_by_a_newer_ones_first_write() {
    let mut b = Bench::new().await;
    b.write(vec![task("t1", Phase::Running, 1, 100)]).await;
    let point = IndexWriter::restart_point(&b.connection, SHARD).await.unwrap().unwrap();
    assert_eq!(point.seq, 1);
    let mut newer = IndexWriter::resume(b.connection.clone(), SHARD, 2, point).await.unwrap().unwrap();
    let done = batch(newer.generation(), 2, vec![task("t1", Phase::Completed, 5, 100)]);
    assert!(matches!(newer.write(&done).await.unwrap(), Written::Done(_)));

    let zombie = b.batch(vec![task("ghost", Phase::Running, 2, 100)]);
    assert_eq!(b.writer.write(&zombie).await.unwrap(), Written::Fenced);
    assert_eq!(b.writer.check(NOW).await.unwrap(), Written::Fenced);
    assert_eq!(b.ids(by(&[])).await, ["t1"]);
    let point = IndexWriter::restart_point(&b.connection, SHARD).await.unwrap().unwrap();
    assert!(IndexWriter::resume(b.connection.clone(), SHARD, 1, point).await.unwrap().is_none());
}

#[tokio::test]
async fn a_new_generation_wipes_every_index_key_and_no_event() {
    let mut b = Bench::new().await;
    b.write((0..3_000).map(|i| task(&format!("t{i}"), Phase::Queued, i + 1, i)).collect()).await;
    let event = "sv:{acme}:e:t1";
    let _: () = redis::cmd("XADD")
        .arg(event)
        .arg("1-1")
        .arg(&["e", "x"])
        .query_async::<String>(&mut b.connection.clone())
        .await
        .map(|_| ())
        .unwrap();
    IndexWriter::begin(b.connection.clone(), SHARD, 2, Generation::fresh()).await.unwrap();
    let mut left: Vec<String> =
        redis::cmd("KEYS").arg("*").query_async(&mut b.connection.clone()).await.unwrap();
    left.sort();
    assert_eq!(left, [event.to_owned(), keys::restart_point(SHARD)]);
}
