//! What is kept and for how long, and what is left of it afterwards.

use selvedge::{
    store::{
        StoreError,
        index::{Retention, Written},
        keys,
    },
    task::{Phase, TaskKey},
};

use super::{Bench, NOW, SHARD, by, id, task, tenant};

#[tokio::test]
async fn retention_keeps_the_newest_terminal_tasks_and_every_live_one() {
    let mut b = Bench::new().await;
    let mut views: Vec<_> =
        (0..20).map(|i| task(&format!("d{i:02}"), Phase::Completed, i + 1, NOW + i)).collect();
    views.push(task("live", Phase::Waiting, 30, 1));
    let mut batch = b.batch(views);
    batch.retain.insert(tenant("acme"), Retention { tasks: 5, ms: 86_400_000 });
    let written = b.writer.write(&batch).await.unwrap();
    assert!(matches!(written, Written::Done(f) if f.dropped == 15), "{written:?}");
    assert_eq!(b.ids(by(&[])).await, ["d19", "d18", "d17", "d16", "d15", "live"]);
    assert_eq!(b.reader.get(&tenant("acme"), &id("d00")).await.unwrap(), None);

    // By age: what ended longer ago than allowed goes with the next write.
    let mut batch = b.batch(vec![task("live", Phase::Running, 40, 1)]);
    batch.retain.insert(tenant("acme"), Retention { tasks: 5, ms: 1_000 });
    batch.now_wall = NOW + 2_000;
    b.writer.write(&batch).await.unwrap();
    assert_eq!(b.ids(by(&[])).await, ["live"]);
}

#[tokio::test]
async fn a_forgotten_task_leaves_no_trace() {
    let mut b = Bench::new().await;
    b.write(vec![task("t1", Phase::Running, 1, 100), task("t2", Phase::Completed, 2, 100)]).await;
    let mut batch = b.batch(vec![]);
    batch.gone = ["t1", "t2", "never-seen"].map(|t| TaskKey { tenant: tenant("acme"), id: id(t) }).to_vec();
    batch.retain.insert(tenant("acme"), Retention { tasks: 10, ms: 86_400_000 });
    b.writer.write(&batch).await.unwrap();
    assert!(b.dump().await.is_empty());
}

#[tokio::test]
async fn an_idle_tenant_shrinks_to_nothing_by_the_sweep() {
    let mut b = Bench::new().await;
    b.write((0..10).map(|i| task(&format!("d{i}"), Phase::Completed, i + 1, NOW)).collect()).await;
    b.writer.sweep(NOW + 1_000, 16).await.unwrap();
    assert_eq!(b.ids(by(&[])).await.len(), 10);
    b.writer.sweep(NOW + 86_400_000 + 10_000, 16).await.unwrap();
    let left: Vec<String> = b.dump().await.into_keys().collect();
    assert!(left.is_empty(), "{left:?}");
    let ttl: i64 = redis::cmd("PTTL")
        .arg(keys::meta(&tenant("acme")))
        .query_async(&mut b.connection.clone())
        .await
        .unwrap();
    assert!(ttl > 0, "the last key of an empty tenant expires");
    assert!(matches!(b.writer.check(NOW).await.unwrap(), Written::Done(_)));
    // And the tenant can come back.
    assert!(matches!(b.write(vec![task("t", Phase::Queued, 50, NOW)]).await, Written::Done(_)));
    assert!(matches!(b.write(vec![task("t", Phase::Running, 51, NOW)]).await, Written::Done(_)));
}

#[tokio::test]
async fn what_is_due_is_dropped_even_when_memory_is_full() {
    let mut b = Bench::new().await;
    b.write((0..10).map(|i| task(&format!("d{i}"), Phase::Completed, i + 1, NOW)).collect()).await;
    let _: () = redis::cmd("CONFIG")
        .arg(&["SET", "maxmemory", "1"])
        .query_async(&mut b.connection.clone())
        .await
        .unwrap();
    let batch = b.batch(vec![task("t", Phase::Queued, 20, NOW)]);
    let error = b.writer.write(&batch).await.unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error:?}");
    b.writer.sweep(NOW + 86_400_000 + 10_000, 16).await.unwrap();
    assert_eq!(b.reader.stats(&tenant("acme")).await.unwrap().total, 0);
}

#[tokio::test]
async fn a_sweep_between_a_batch_and_its_repetition_is_no_newer_owners() {
    let mut b = Bench::new().await;
    b.write((0..10).map(|i| task(&format!("d{i}"), Phase::Completed, i + 1, NOW)).collect()).await;
    // The tenants are written, the restart point can't be.
    let point = keys::restart_point(SHARD);
    let mut c = b.connection.clone();
    let _: () = redis::cmd("RENAME").arg(&[point.as_str(), "aside"]).query_async(&mut c).await.unwrap();
    let _: () = redis::cmd("SET").arg(&[point.as_str(), "x"]).query_async(&mut c).await.unwrap();
    let batch = b.batch(vec![task("t", Phase::Queued, 20, NOW)]);
    b.writer.write(&batch).await.unwrap_err();
    let _: () = redis::cmd("RENAME").arg(&["aside", point.as_str()]).query_async(&mut c).await.unwrap();

    let swept = b.writer.sweep(NOW + 86_400_000 + 10_000, 16).await.unwrap();
    assert!(matches!(swept, Written::Done(f) if f.dropped == 10), "{swept:?}");
    assert!(matches!(b.writer.write(&batch).await.unwrap(), Written::Done(_)));
    assert_eq!(b.ids(by(&[])).await, ["t"]);
}
