//! The Redis index: what it holds, what a read costs, what a replay or a loss does to it.

use std::collections::{BTreeMap, HashMap};

use selvedge::{
    store::{
        Connection, StoreError,
        index::{Generation, IndexBatch, IndexWrite, IndexWriter, Mark, Retention, Written},
        keys,
        read::{IndexReader, ReadError, ScanLimits},
        record::MAX_INLINE,
    },
    task::{AgentName, Code, Payload, Phase, Priority, TaskId, TaskKey, TenantName},
    wire::{
        api::{ListRequest, TaskView},
        subjects::Shard,
    },
};

use crate::store_servers::Redis;

pub const NOW: u64 = 1_800_000_000_000;
const SHARD: Shard = Shard(0);

pub fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

pub fn id(text: impl AsRef<str>) -> TaskId {
    TaskId::new(text).unwrap()
}

/// A root task of tenant `acme` for agent `reader`.
pub fn task(name: &str, state: Phase, rev: u64, created_at: u64) -> TaskView {
    TaskView {
        labels: Default::default(),
        tenant: tenant("acme"),
        task: id(name),
        agent: AgentName::new("reader").unwrap(),
        state,
        rev,
        priority: Priority::Normal,
        parent: None,
        root: id(name),
        depth: 0,
        attempt: 1,
        tries: 0,
        instance: None,
        created_at,
        not_before: None,
        deadline_at: None,
        started_at: None,
        ended_at: state.is_terminal().then_some(created_at + 5),
        refusal: None,
        failures: vec![],
        retry_of: None,
        last_event: 0,
        body_hash: None,
        result: None,
    }
}

pub fn write(view: TaskView) -> IndexWrite {
    let result = (view.state == Phase::Completed).then(|| Payload::json(view.task.as_str()).unwrap());
    IndexWrite { view, result, aside: false, before: None }
}

pub fn batch(generation: Generation, upto_seq: u64, views: Vec<TaskView>) -> IndexBatch {
    let keep = Retention { tasks: 10_000, ms: 86_400_000 };
    IndexBatch {
        shard: SHARD,
        generation,
        upto_seq,
        retain: views.iter().map(|v| (v.tenant.clone(), keep)).collect(),
        writes: views.into_iter().map(write).collect(),
        gone: vec![],
        now_wall: 10_000,
        left: 0,
        shows: Some(10_000),
        mark: Mark { seq: upto_seq, wall: 10_000 },
    }
}

struct Bench {
    redis: Redis,
    connection: Connection,
    writer: IndexWriter,
    reader: IndexReader,
    seq: u64,
}

impl Bench {
    async fn new() -> Self {
        Self::with(Redis::start().await).await
    }

    async fn with(redis: Redis) -> Self {
        let connection = redis.connect().await;
        let writer = IndexWriter::begin(connection.clone(), SHARD, 1, Generation::fresh()).await.unwrap();
        let reader = IndexReader::new(connection.clone(), SHARD);
        Self { redis, connection, writer, reader, seq: 0 }
    }

    fn batch(&mut self, views: Vec<TaskView>) -> IndexBatch {
        self.seq += 1;
        batch(self.writer.generation(), self.seq, views)
    }

    async fn write(&mut self, views: Vec<TaskView>) -> Written {
        let batch = self.batch(views);
        self.writer.write(&batch).await.unwrap()
    }

    async fn ids(&self, request: ListRequest) -> Vec<String> {
        let page = self.reader.list(&tenant("acme"), &request, ScanLimits::default()).await.unwrap();
        page.tasks.iter().map(|t| t.task.to_string()).collect()
    }

    /// Everything in Redis but the watermarks, to compare before and after.
    async fn dump(&self) -> BTreeMap<String, Vec<u8>> {
        let mut c = self.connection.clone();
        let names: Vec<String> = redis::cmd("KEYS").arg("sv:*").query_async(&mut c).await.unwrap();
        let mut all = BTreeMap::new();
        for name in names.into_iter().filter(|n| !n.ends_with("meta") && !n.ends_with("}:i")) {
            let value = redis::cmd("DUMP").arg(&name).query_async(&mut c).await.unwrap();
            all.insert(name, value);
        }
        all
    }

    async fn calls(&self) -> HashMap<String, (u64, u64)> {
        commandstats(&self.connection).await
    }
}

/// (calls, microseconds) per command since the server started.
pub async fn commandstats(connection: &Connection) -> HashMap<String, (u64, u64)> {
    let text: String =
        redis::cmd("INFO").arg("commandstats").query_async(&mut connection.clone()).await.unwrap();
    let number = |fields: &str, name: &str| -> u64 {
        let field = fields.split(',').find_map(|f| f.strip_prefix(name)?.strip_prefix('='));
        field.unwrap().parse().unwrap()
    };
    text.lines()
        .filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':'))
        .map(|(name, fields)| (name.to_owned(), (number(fields, "calls"), number(fields, "usec"))))
        .collect()
}

fn by(states: &[Phase]) -> ListRequest {
    ListRequest { states: states.to_vec(), limit: Some(100), ..ListRequest::default() }
}

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

#[tokio::test]
async fn a_page_reads_ten_ids_and_ten_records_whatever_is_stored() {
    let mut b = Bench::new().await;
    let views = |n: u64| {
        (0..n)
            .map(|i| {
                let state = if i % 50 == 0 { Phase::Failed } else { Phase::Completed };
                TaskView {
                    agent: AgentName::new(if i % 2 == 0 { "reader" } else { "writer" }).unwrap(),
                    ..task(&format!("t{i:05}"), state, i + 1, 1_000 + i / 10)
                }
            })
            .collect::<Vec<_>>()
    };
    for chunk in views(5_000).chunks(500) {
        b.write(chunk.to_vec()).await;
    }
    let limits = ScanLimits::default();
    let acme = tenant("acme");
    let failed = ListRequest { states: vec![Phase::Failed], ..Default::default() };
    let cases = [
        (ListRequest::default(), 10, 10),
        (failed.clone(), 10, 10),
        (ListRequest { agent: Some(AgentName::new("writer").unwrap()), ..Default::default() }, 10, 10),
        (ListRequest { offset: Some(30), ..Default::default() }, 40, 10),
        (ListRequest { offset: Some(10_000), ..Default::default() }, 200, 0),
        // Combined: 100 failed tasks, all of the agent `reader`.
        (ListRequest { agent: Some(AgentName::new("reader").unwrap()), ..failed.clone() }, 60, 10),
        (ListRequest { agent: Some(AgentName::new("writer").unwrap()), ..failed }, 60, 0),
    ];
    b.reader.list(&acme, &ListRequest::default(), limits).await.unwrap(); // loads the script
    for (request, scanned, found) in cases {
        let before = b.calls().await;
        let page = b.reader.list(&acme, &request, limits).await.unwrap();
        let after = b.calls().await;
        let delta = |name: &str| after.get(name).map_or(0, |c| c.0) - before.get(name).map_or(0, |c| c.0);
        assert_eq!((page.scanned, page.tasks.len()), (scanned, found), "{request:?}");
        assert_eq!(delta("evalsha"), 1, "{request:?}");
        assert!(delta("hmget") <= 1 && delta("zrange") == 1 && delta("hget") == 1, "{request:?}");
        assert_eq!(page.complete, found == 10, "{request:?}");
    }
}

#[tokio::test]
async fn a_cursor_walks_every_task_once_while_others_are_inserted() {
    let mut b = Bench::new().await;
    // All in the same millisecond, as a parent's children are.
    b.write((0..250).map(|i| task(&format!("t{i:03}"), Phase::Queued, i + 1, 100)).collect()).await;
    let (acme, limits) = (tenant("acme"), ScanLimits::default());
    let mut seen = Vec::new();
    let mut cursor = None;
    let mut pages = 0;
    loop {
        let request = ListRequest { limit: Some(20), cursor, ..Default::default() };
        let page = b.reader.list(&acme, &request, limits).await.unwrap();
        seen.extend(page.tasks.iter().map(|t| t.task.to_string()));
        pages += 1;
        b.write(vec![task(&format!("new{pages}"), Phase::Queued, 1_000 + pages, 200 + pages)]).await;
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let mut expected: Vec<String> = (0..250).map(|i| format!("t{i:03}")).collect();
    expected.reverse();
    assert_eq!(seen, expected);
    assert_eq!(pages, 13, "and no empty page at the end");

    // Sifted pages end where they stopped looking, and the walk still sees everything.
    let request =
        ListRequest { states: vec![Phase::Queued, Phase::Failed], limit: Some(100), ..Default::default() };
    let mut found = 0;
    let mut cursor = None;
    loop {
        let page = b.reader.list(&acme, &ListRequest { cursor, ..request.clone() }, limits).await.unwrap();
        found += page.tasks.len();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, 263);
}

#[tokio::test]
async fn senseless_queries_are_refused_not_guessed_at() {
    let mut b = Bench::new().await;
    b.write((0..30).map(|i| task(&format!("t{i}"), Phase::Queued, i + 1, i)).collect()).await;
    let (acme, limits) = (tenant("acme"), ScanLimits::default());
    let mine = b.reader.list(&acme, &ListRequest::default(), limits).await.unwrap().next.unwrap();
    let refused =
        async |tenant: &TenantName, request: ListRequest| match b.reader.list(tenant, &request, limits).await
        {
            Err(ReadError::Query(refusal)) => assert_eq!(refusal.code, Code::BadQuery),
            other => panic!("{request:?}: {other:?}"),
        };
    let cursor = |c: &str| ListRequest { cursor: Some(c.to_owned()), ..Default::default() };
    refused(&tenant("umbrella"), cursor(&mine)).await;
    refused(&acme, ListRequest { states: vec![Phase::Failed], ..cursor(&mine) }).await;
    refused(&acme, cursor("forged")).await;
    refused(&acme, cursor(&mine[..mine.len() / 2])).await;
    refused(&acme, ListRequest { offset: Some(1), ..cursor(&mine) }).await;
    for limit in [0, 101, 1_000_000_000] {
        refused(&acme, ListRequest { limit: Some(limit), ..Default::default() }).await;
    }
}

#[tokio::test]
async fn a_write_to_more_tenants_than_one_answer_has_time_for_is_written_once() {
    let mut b = Bench::new().await;
    let tenants = 40_000;
    let views = (0..tenants).map(|n| {
        let mut view = task("t", Phase::Queued, 1, 1_000);
        view.tenant = tenant(&format!("many{n}"));
        view
    });
    // All the calls together take longer than the second that the connection waits for an answer.
    let Written::Done(flushed) = b.write(views.collect()).await else { panic!("lost or fenced") };
    assert_eq!(flushed.applied, tenants);
    // One more: the first call finds that Redis does not know the script.
    let (calls, _) = commandstats(&b.connection).await["evalsha"];
    assert!(calls >= tenants && calls < tenants + 1_000, "{calls} calls of {tenants}");
}

#[tokio::test]
async fn one_task_from_queued_to_completed_costs_few_commands() {
    let mut b = Bench::new().await;
    b.write(vec![task("warm", Phase::Queued, 1, 1)]).await;
    let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut b.connection.clone()).await.unwrap();
    let n = 2_000;
    for chunk in (0..n).collect::<Vec<u64>>().chunks(250) {
        b.write(chunk.iter().map(|i| task(&format!("t{i}"), Phase::Queued, i + 2, *i)).collect()).await;
    }
    let queued = b.calls().await;
    for chunk in (0..n).collect::<Vec<u64>>().chunks(250) {
        b.write(chunk.iter().map(|i| task(&format!("t{i}"), Phase::Completed, n + i + 2, *i)).collect())
            .await;
    }
    let completed = b.calls().await;
    for (what, stats) in [("queued", &queued), ("queued, then completed", &completed)] {
        let inner: u64 = stats.iter().filter(|(name, _)| *name != "evalsha").map(|(_, c)| c.0).sum();
        let usec = stats["evalsha"].1;
        println!(
            "{what}: {:.1} commands and {:.1} us of Redis per task, {} script calls for {n} tasks",
            inner as f64 / n as f64,
            usec as f64 / n as f64,
            stats["evalsha"].0
        );
    }
}
