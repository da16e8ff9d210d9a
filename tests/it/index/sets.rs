//! What is in which set, and what a repetition or an older revision changes.

use selvedge::{
    store::{index::Written, keys, read::ScanLimits, record::MAX_INLINE},
    task::{AgentName, Payload, Phase},
    wire::api::{ListRequest, TaskView},
};

use super::{Bench, NOW, batch, by, id, task, tenant};

#[tokio::test]
async fn a_task_is_found_in_every_set_it_belongs_to_and_leaves_those_it_left() {
    let mut b = Bench::new().await;
    b.write(vec![task("t1", Phase::Queued, 1, 100), task("t2", Phase::Running, 2, 101)]).await;
    assert_eq!(b.ids(ListRequest::default()).await, ["t2", "t1"]);
    assert_eq!(b.ids(by(&[Phase::Queued])).await, ["t1"]);

    b.write(vec![task("t1", Phase::Completed, 5, 100), task("t2", Phase::Cancelled, 6, 101)]).await;
    assert_eq!(b.ids(ListRequest::default()).await, ["t1"]);
    assert_eq!(b.ids(by(&[Phase::Queued])).await, [""; 0]);
    assert_eq!(b.ids(by(&[Phase::Cancelled])).await, ["t2"]);
    assert_eq!(b.ids(by(&[Phase::Cancelled, Phase::Completed])).await, ["t2", "t1"]);
    let agent = Some(AgentName::new("reader").unwrap());
    assert_eq!(b.ids(ListRequest { agent: agent.clone(), ..Default::default() }).await, ["t1"]);
    assert_eq!(b.ids(ListRequest { agent, ..by(&[Phase::Cancelled]) }).await, ["t2"]);

    let stats = b.reader.stats(&tenant("acme")).await.unwrap();
    assert_eq!((stats.total, stats.states["completed"], stats.states["queued"]), (2, 1, 0));
    let view = b.reader.get(&tenant("acme"), &id("t1")).await.unwrap().unwrap();
    assert_eq!(view.result, Some(Payload::json("t1").unwrap()));
    let listed = b.reader.list(&tenant("acme"), &by(&[]), ScanLimits::default()).await.unwrap();
    assert_eq!(listed.tasks[0].result, None);
    assert_eq!(b.reader.get(&tenant("umbrella"), &id("t1")).await.unwrap(), None);
}

#[tokio::test]
async fn a_tree_lists_its_root_and_children_and_a_tree_of_one_lists_itself() {
    let mut b = Bench::new().await;
    let child = |name: &str, state, rev, at| TaskView {
        root: id("root"),
        parent: Some(id("root")),
        depth: 1,
        ..task(name, state, rev, at)
    };
    let tree = |root: &str| ListRequest { root: Some(id(root)), ..Default::default() };
    b.write(vec![task("alone", Phase::Queued, 1, 90), task("root", Phase::Running, 2, 100)]).await;
    assert_eq!(b.ids(tree("root")).await, ["root"]);
    b.write(vec![child("c1", Phase::Queued, 3, 110), child("c2", Phase::Queued, 4, 110)]).await;
    assert_eq!(b.ids(tree("root")).await, ["c2", "c1", "root"]);
    b.write(vec![child("c2", Phase::Cancelled, 5, 110)]).await;
    assert_eq!(b.ids(tree("root")).await, ["c1", "root"]);
    assert_eq!(b.ids(ListRequest { states: vec![Phase::Queued], ..tree("root") }).await, ["c1"]);
    assert_eq!(b.ids(tree("alone")).await, ["alone"]);
    assert_eq!(b.ids(tree("nobody")).await, [""; 0]);
    let exists: u8 = redis::cmd("EXISTS")
        .arg(keys::tree(&tenant("acme"), &id("alone")))
        .query_async(&mut b.connection.clone())
        .await
        .unwrap();
    assert_eq!(exists, 0, "a tree of one costs no key");

    // The root comes last in a rebuild of another order, and joins all the same.
    let mut b = Bench::new().await;
    b.write(vec![child("c1", Phase::Queued, 3, 110)]).await;
    b.write(vec![task("root", Phase::Running, 2, 100)]).await;
    assert_eq!(b.ids(tree("root")).await, ["c1", "root"]);
}

#[tokio::test]
async fn replay_of_old_revisions_changes_nothing() {
    let mut b = Bench::new().await;
    let old = vec![task("t1", Phase::Queued, 1, 100), task("t2", Phase::Running, 2, 101)];
    let new = vec![task("t1", Phase::Completed, 8, 100), task("t2", Phase::Cancelled, 9, 101)];
    b.write(old.clone()).await;
    b.write(new.clone()).await;
    let before = b.dump().await;
    for views in [old, new] {
        let written = b.write(views).await;
        assert!(matches!(written, Written::Done(f) if f.applied == 0), "{written:?}");
    }
    assert_eq!(b.dump().await, before);
}

#[tokio::test]
async fn a_result_may_come_after_its_task() {
    let mut b = Bench::new().await;
    let mut batch = b.batch(vec![task("t1", Phase::Completed, 8, 100)]);
    let result = batch.writes[0].result.take();
    b.writer.write(&batch).await.unwrap();
    batch.writes[0].result = result.clone();
    b.writer.write(&batch).await.unwrap();
    let view = b.reader.get(&tenant("acme"), &id("t1")).await.unwrap().unwrap();
    assert_eq!(view.result, result);
}

#[tokio::test]
async fn a_batch_sent_again_after_a_lost_answer_is_taken_again() {
    let mut b = Bench::new().await;
    b.write(vec![task("t0", Phase::Queued, 1, 99)]).await;
    let again = b.batch(vec![task("t1", Phase::Queued, 2, 100)]);
    assert!(matches!(b.writer.write(&again).await.unwrap(), Written::Done(f) if f.applied == 1));
    assert!(matches!(b.writer.write(&again).await.unwrap(), Written::Done(f) if f.applied == 0));
}

#[tokio::test]
async fn a_small_result_lives_in_the_record_and_a_large_one_apart_and_both_go_with_their_task() {
    let mut b = Bench::new().await;
    let sizes = [0, MAX_INLINE, MAX_INLINE + 1, 100_000];
    let result = |size: usize| Some(Payload::Bytes(vec![7; size].into()));
    let mut batch = b.batch(sizes.iter().map(|n| task(&format!("t{n}"), Phase::Completed, 8, 100)).collect());
    for (write, size) in batch.writes.iter_mut().zip(sizes) {
        write.result = result(size);
    }
    b.writer.write(&batch).await.unwrap();
    let acme = tenant("acme");
    let apart = async || -> u64 {
        redis::cmd("HLEN").arg(keys::results(&acme)).query_async(&mut b.connection.clone()).await.unwrap()
    };
    assert_eq!(apart().await, 2);
    for size in sizes {
        let view = b.reader.get(&acme, &id(format!("t{size}"))).await.unwrap().unwrap();
        assert_eq!(view.result, result(size));
    }

    // Touched once more after the result was handed out: the result stays.
    b.seq += 1;
    let again = batch.writes.iter().map(|w| TaskView { rev: 9, tries: 3, ..w.view.clone() });
    let mut again = self::batch(b.writer.generation(), b.seq, again.collect());
    again.writes.iter_mut().for_each(|write| write.result = None);
    assert!(matches!(b.writer.write(&again).await.unwrap(), Written::Done(f) if f.applied == 4));
    for size in sizes {
        let view = b.reader.get(&acme, &id(format!("t{size}"))).await.unwrap().unwrap();
        assert_eq!((view.rev, view.tries, view.result), (9, 3, result(size)));
    }

    b.writer.sweep(NOW, 16).await.unwrap();
    assert!(b.dump().await.is_empty());
}
