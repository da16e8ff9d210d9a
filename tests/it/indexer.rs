//! The indexer against a small owner: whatever happens to Redis, the index equals the owner's state.

use std::{collections::BTreeMap, time::Duration};

use selvedge::{
    coordinator::indexer::{
        FollowReply, IndexAsk, IndexHealth, IndexState, Indexer, IndexerEnd, IndexerOptions, Pace,
    },
    flow::{
        dirty::{Dirty, Taken},
        tasks::Slot,
    },
    store::{
        Connection,
        index::{Generation, IndexBatch, Mark, Retention},
        read::{IndexReader, ScanLimits},
    },
    task::{Backoff, Phase},
    wire::{
        api::{ListRequest, TaskView},
        subjects::Shard,
    },
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    index::{task, tenant, write},
    store_servers::Redis,
};

/// A question for work: how much, how old, and who asks.
type Waiting = (usize, Option<Mark>, oneshot::Sender<IndexBatch>);

/// What the owner loop does for the indexer, and nothing else.
struct Owner {
    /// By the number that `dirty` knows them by.
    tasks: Vec<TaskView>,
    dirty: Dirty,
    head: u64,
    generation: Option<Generation>,
    /// Nothing was handed out of this generation yet.
    fresh: bool,
    waiting: Option<Waiting>,
    parked: Vec<Waiting>,
    written: watch::Sender<u64>,
    follows: watch::Sender<Vec<Option<u64>>>,
}

impl Owner {
    fn change(&mut self, view: TaskView) {
        self.head += 1;
        let view = TaskView { rev: self.head, ..view };
        let same = |known: &TaskView| known.tenant == view.tenant && known.task == view.task;
        let at = self.tasks.iter().position(same).unwrap_or(self.tasks.len());
        self.dirty.touch(self.head, Slot::numbered(at as u32));
        match self.tasks.get_mut(at) {
            Some(known) => *known = view,
            None => self.tasks.push(view),
        }
        self.hand_out();
    }

    fn ask(&mut self, ask: IndexAsk) {
        match ask {
            IndexAsk::Follow { generation, from, reply } => {
                self.generation = Some(generation);
                self.fresh = true;
                // Nobody waits for an answer to a question of before (but a second indexer, in one test).
                self.parked.extend(self.waiting.take());
                match from {
                    None => self.dirty.restart((0..self.tasks.len() as u32).map(Slot::numbered)),
                    Some(seq) => self.dirty.prune(seq, |slot| self.tasks[slot.number() as usize].rev),
                }
                self.follows.send_modify(|f| f.push(from));
                reply.send(FollowReply::Following).unwrap();
            }
            // A second indexer's question must not look like this owner's end to the first.
            IndexAsk::Next { max, until, reply, .. } => {
                self.parked.extend(self.waiting.replace((max, until, reply)))
            }
            IndexAsk::Retention { .. } => unreachable!("there is no archive here"),
            IndexAsk::Written { upto_seq, .. } => drop(self.written.send_replace(upto_seq)),
        }
        self.hand_out();
    }

    fn hand_out(&mut self) {
        if self.dirty.is_empty() && !self.fresh {
            return;
        }
        let (Some((max, until, reply)), Some(generation)) = (self.waiting.take(), self.generation) else {
            return;
        };
        self.fresh = false;
        let until = until.map(|until| until.seq).filter(|until| self.dirty.has_until(*until));
        let until = until.unwrap_or(u64::MAX);
        let taken = self.dirty.take(max, usize::MAX, until);
        let tasks = taken.iter().map(|taken| match taken {
            Taken::Task(slot, _) => self.tasks[slot.number() as usize].clone(),
            Taken::Gone(key) => panic!("{key} was not forgotten"),
        });
        let writes: Vec<_> = tasks.map(write).collect();
        // These tasks ended in 1970, and the sweep goes by the real clock.
        let keep = Retention { tasks: 100_000, ms: 1 << 45 };
        let batch = IndexBatch {
            shard: Shard(0),
            generation,
            upto_seq: self.dirty.clean_up_to(self.head),
            retain: writes.iter().map(|w| (w.view.tenant.clone(), keep)).collect(),
            writes,
            gone: vec![],
            now_wall: 10_000,
            left: if self.dirty.has_until(until) { self.dirty.len() } else { 0 },
            shows: self.dirty.is_empty().then_some(10_000),
            mark: Mark { seq: self.head, wall: 10_000 },
        };
        let _ = reply.send(batch);
    }
}

struct Bench {
    redis: Redis,
    connection: Connection,
    changes: mpsc::Sender<TaskView>,
    written: watch::Receiver<u64>,
    follows: watch::Receiver<Vec<Option<u64>>>,
    health: watch::Receiver<IndexHealth>,
    expected: BTreeMap<String, TaskView>,
    head: u64,
    stop: CancellationToken,
    indexer: tokio::task::JoinHandle<IndexerEnd>,
    asks: mpsc::Sender<IndexAsk>,
}

fn options() -> IndexerOptions {
    IndexerOptions {
        max_tasks: 50,
        pace: Pace { most: Duration::from_millis(2), rest: 0, ..Pace::default() },
        idle_check: Duration::from_millis(50),
        backoff: Backoff { base_ms: 10, cap_ms: 100 },
        ..IndexerOptions::default()
    }
}

impl Bench {
    async fn new(redis: Redis) -> Self {
        let connection = redis.connect().await;
        let (asks, mut asked) = mpsc::channel(8);
        let (changes, mut changed) = mpsc::channel::<TaskView>(8);
        let (written, written_rx) = watch::channel(0);
        let (follows, follows_rx) = watch::channel(Vec::new());
        let (health, health_rx) = watch::channel(IndexHealth::default());
        let mut owner = Owner {
            tasks: Vec::new(),
            dirty: Dirty::default(),
            // The message that opened the journal.
            head: 1,
            generation: None,
            fresh: false,
            waiting: None,
            parked: Vec::new(),
            written,
            follows,
        };
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(ask) = asked.recv() => owner.ask(ask),
                    Some(view) = changed.recv() => owner.change(view),
                    else => return,
                }
            }
        });
        let stop = CancellationToken::new();
        let indexer = Indexer::new(connection.clone(), Shard(0), 1, asks.clone(), health, options());
        let indexer = tokio::spawn(indexer.run(stop.clone()));
        Self {
            redis,
            connection,
            changes,
            written: written_rx,
            follows: follows_rx,
            health: health_rx,
            expected: BTreeMap::new(),
            head: 1,
            stop,
            indexer,
            asks,
        }
    }

    async fn change(&mut self, name: &str, state: Phase) {
        let view = task(name, state, 0, 100);
        self.head += 1;
        self.expected.insert(name.to_owned(), TaskView { rev: self.head, ..view.clone() });
        self.changes.send(view).await.unwrap();
    }

    async fn until_written(&mut self) {
        let head = self.head;
        let wait = self.written.wait_for(|seq| *seq >= head);
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the index catches up").unwrap();
    }

    async fn until(&mut self, fits: impl FnMut(&IndexHealth) -> bool) {
        let wait = self.health.wait_for(fits);
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the state changes").unwrap();
    }

    /// Waits for the rebuild with this number (from 1) to be over.
    async fn until_following(&mut self, rebuilds: usize) {
        let wait = self.follows.wait_for(|f| f.len() >= rebuilds);
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the loss is noticed").unwrap();
        let head = self.head;
        self.until(|h| h.state == IndexState::Following && h.upto_seq == head).await;
    }

    /// Every task, from Redis, page by page.
    async fn indexed(&self) -> BTreeMap<String, TaskView> {
        let reader = IndexReader::new(self.redis.connect().await, Shard(0));
        let mut found = BTreeMap::new();
        let mut request = ListRequest { states: Phase::ALL.to_vec(), limit: Some(100), ..Default::default() };
        loop {
            let page = reader.list(&tenant("acme"), &request, ScanLimits::default()).await.unwrap();
            found.extend(page.tasks.into_iter().map(|t| (t.task.to_string(), t)));
            request.cursor = page.next;
            if request.cursor.is_none() {
                return found;
            }
        }
    }

    async fn assert_equal(&self) {
        let indexed = self.indexed().await;
        let wrong: Vec<_> =
            self.expected.iter().filter(|(id, view)| indexed.get(*id) != Some(*view)).collect();
        let wrong: Vec<_> =
            wrong.iter().map(|(id, view)| (*id, view.rev, indexed.get(*id).map(|v| v.rev))).collect();
        let sizes = (indexed.len(), self.expected.len());
        assert!(wrong.is_empty() && sizes.0 == sizes.1, "{sizes:?} {wrong:?}");
    }

    async fn flushall(&self) {
        let _: () = redis::cmd("FLUSHALL").query_async(&mut self.connection.clone()).await.unwrap();
    }
}

#[tokio::test]
async fn an_index_of_no_tasks_is_complete() {
    let mut b = Bench::new(Redis::start().await).await;
    b.until_following(1).await;
    assert!(b.indexed().await.is_empty());
}

#[tokio::test]
async fn the_index_equals_the_owners_state_after_a_flushall_at_any_moment() {
    let mut b = Bench::new(Redis::start().await).await;
    for round in 0..10 {
        for i in 0..60 {
            b.change(&format!("t{round}-{i}"), Phase::Queued).await;
            if i == 6 * round {
                b.flushall().await;
            }
            if i % 3 == 0 {
                b.change(&format!("t{round}-{i}"), Phase::Completed).await;
            }
        }
    }
    b.until_written().await;
    b.assert_equal().await;
    let follows = b.follows.borrow_and_update().len();
    assert!(follows > 1, "the losses were noticed");
    // Nothing is written any more: the idle check finds this one.
    b.flushall().await;
    b.until_following(follows + 1).await;
    b.assert_equal().await;
    assert!(!b.indexer.is_finished());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_degrades_the_index_and_an_empty_one_is_filled_again() {
    let mut b = Bench::new(Redis::start().await).await;
    for i in 0..100 {
        b.change(&format!("t{i}"), Phase::Queued).await;
    }
    b.until_written().await;
    b.redis.kill();
    b.until(|h| matches!(h.state, IndexState::Degraded { .. })).await;
    for i in 0..50 {
        b.change(&format!("t{i}"), Phase::Running).await;
    }
    b.redis.up();
    b.until_following(2).await;
    b.assert_equal().await;
    assert_eq!(*b.follows.borrow(), [None, None], "two rebuilds: at the start and after the loss");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_restarted_with_old_data_is_wiped_and_filled_again() {
    let mut b = Bench::new(Redis::start().await).await;
    for i in 0..60 {
        b.change(&format!("t{i}"), Phase::Running).await;
    }
    b.until_written().await;
    let _: () = redis::cmd("SAVE").query_async(&mut b.connection.clone()).await.unwrap();
    for i in 0..60 {
        b.change(&format!("t{i}"), Phase::Completed).await;
    }
    b.until_written().await;
    b.redis.kill();
    b.redis.up();
    b.until_following(2).await;
    b.assert_equal().await;
}

#[tokio::test]
async fn a_redis_that_stands_still_loses_nothing_and_needs_no_rebuild() {
    let mut b = Bench::new(Redis::start().await).await;
    b.change("t0", Phase::Queued).await;
    b.until_written().await;
    b.redis.pause();
    for i in 0..120 {
        b.change(&format!("t{i}"), Phase::Running).await;
    }
    b.until(|h| h.state == IndexState::Degraded { reason: "unavailable" }).await;
    b.redis.resume();
    b.until_written().await;
    b.assert_equal().await;
    assert_eq!(*b.follows.borrow(), [None]);
}

#[tokio::test]
async fn a_full_redis_degrades_the_index_which_catches_up_when_there_is_room() {
    let mut b = Bench::new(Redis::start().await).await;
    b.change("t0", Phase::Queued).await;
    b.until_written().await;
    let connection = b.connection.clone();
    let limit = async |bytes: u32| {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory").arg(bytes);
        set.query_async::<()>(&mut connection.clone()).await.unwrap();
    };
    limit(1).await;
    for i in 0..20 {
        b.change(&format!("t{i}"), Phase::Running).await;
    }
    b.until(|h| h.state == IndexState::Degraded { reason: "full" }).await;
    limit(0).await;
    b.until_written().await;
    b.until(|h| h.state == IndexState::Following).await;
    b.assert_equal().await;
    assert_eq!(*b.follows.borrow(), [None], "nothing was lost, so nothing was rebuilt");
}

#[tokio::test]
async fn a_next_owner_goes_on_from_the_restart_point_and_the_old_one_ends() {
    let mut b = Bench::new(Redis::start().await).await;
    for i in 0..100 {
        b.change(&format!("t{i}"), Phase::Queued).await;
    }
    b.until_written().await;
    let (health, _) = watch::channel(IndexHealth::default());
    let second = Indexer::new(b.connection.clone(), Shard(0), 2, b.asks.clone(), health, options());
    let stop = CancellationToken::new();
    let second = tokio::spawn(second.run(stop.clone()));
    let wait = b.follows.wait_for(|f| f.len() == 2);
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it asks to follow").unwrap();
    assert_eq!(*b.follows.borrow(), [None, Some(101)]);
    let end = tokio::time::timeout(Duration::from_secs(10), &mut b.indexer).await.expect("it ends").unwrap();
    assert_eq!(end, IndexerEnd::Fenced);
    b.change("t5", Phase::Completed).await;
    b.until_written().await;
    b.assert_equal().await;
    stop.cancel();
    assert_eq!(second.await.unwrap(), IndexerEnd::Stopped);
    b.stop.cancel();
}
