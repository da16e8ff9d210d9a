//! Planned writes against careful ones: whatever the owner supposes of what is stored, the keys are the same.

use std::collections::{BTreeMap, HashMap};

use selvedge::{
    store::{
        Connection,
        index::{Generation, IndexBatch, IndexWrite, IndexWriter, Mark, Retention, Written},
        record::MAX_INLINE,
    },
    task::{AgentName, Payload, Phase, TaskKey},
    wire::{api::TaskView, subjects::Shard},
};

use crate::{
    index::{NOW, commandstats, id, task, tenant},
    store_servers::Redis,
};

const SHARD: Shard = Shard(0);

/// Xorshift: the same seed is the same story.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A task as its owner knows it, and in which phase it was handed out last.
#[derive(Clone)]
struct Owned {
    view: TaskView,
    told: Option<Phase>,
}

struct Owner {
    dice: Dice,
    rev: u64,
    now: u64,
    tasks: HashMap<String, Owned>,
}

impl Owner {
    /// A new task of some id; sometimes of one that was forgotten and may stand in the index still.
    fn create(&mut self) -> Option<String> {
        let n = self.dice.below(60);
        // Small numbers are roots of trees, large ones mostly their children.
        let (name, root) = (format!("t{n}"), format!("t{}", n % 4));
        if self.tasks.contains_key(&name) {
            return None;
        }
        let agent = if self.dice.below(3) == 0 { "writer" } else { "reader" };
        let mut view = task(&name, Phase::Queued, self.rev, self.now);
        view.agent = AgentName::new(agent).unwrap();
        if n >= 30 {
            // Some of them are grandchildren.
            let parent = if n.is_multiple_of(3) { format!("t{}", 30 + n % 7) } else { root.clone() };
            (view.root, view.parent, view.depth) = (id(&root), Some(id(&parent)), 1);
        }
        self.tasks.insert(name.clone(), Owned { view, told: None });
        Some(name)
    }

    /// A step of a task that is there, if it has one left; some are touched without a step.
    fn step(&mut self, name: &str) {
        let phases = [Phase::Running, Phase::Waiting, Phase::Retrying, Phase::Queued];
        let ends = [Phase::Completed, Phase::Completed, Phase::Failed, Phase::Cancelled, Phase::Expired];
        let (roll, live, end) = (self.dice.below(10), self.dice.below(4), self.dice.below(5));
        let Some(Owned { view, .. }) = self.tasks.get_mut(name) else { return };
        view.rev = self.rev;
        view.tries += 1;
        if view.state.is_terminal() {
            return;
        }
        match roll {
            0 => {}
            1..6 => view.state = phases[live as usize],
            _ => {
                view.state = ends[end as usize];
                view.ended_at = Some(self.now);
            }
        }
    }

    /// What the owner hands out of these tasks; it remembers what it told.
    fn hand_out(&mut self, names: &[String]) -> Vec<IndexWrite> {
        let mut writes = Vec::new();
        for name in names {
            let size = [0, 20, MAX_INLINE, MAX_INLINE + 1, 2_000][self.dice.below(5) as usize];
            let has_result = self.dice.below(8) > 0;
            let Some(owned) = self.tasks.get_mut(name) else { continue };
            let view = owned.view.clone();
            let completed = view.state == Phase::Completed && has_result;
            let result = completed.then(|| Payload::Bytes(vec![b'\n'; size].into()));
            let before = owned.told.replace(view.state);
            writes.push(IndexWrite { view, result, aside: false, before });
        }
        writes
    }
}

/// All keys with what they hold, in an order of their own.
async fn contents(connection: &Connection) -> BTreeMap<String, Vec<String>> {
    let mut c = connection.clone();
    let names: Vec<String> = redis::cmd("KEYS").arg("sv:*").query_async(&mut c).await.unwrap();
    let mut all = BTreeMap::new();
    for name in names {
        let kind: String = redis::cmd("TYPE").arg(&name).query_async(&mut c).await.unwrap();
        let lines: Vec<Vec<u8>> = match kind.as_str() {
            "hash" => redis::cmd("HGETALL").arg(&name).query_async(&mut c).await.unwrap(),
            _ => redis::cmd("ZRANGE")
                .arg(&name)
                .arg(&["0", "-1", "WITHSCORES"])
                .query_async(&mut c)
                .await
                .unwrap(),
        };
        let mut pairs: Vec<String> = lines
            .chunks(2)
            .map(|pair| format!("{} = {}", pair[0].escape_ascii(), pair[1].escape_ascii()))
            .collect();
        pairs.sort();
        let ttl: i64 = redis::cmd("PTTL").arg(&name).query_async(&mut c).await.unwrap();
        pairs.push(format!("expires: {}", ttl > 0));
        all.insert(name, pairs);
    }
    all
}

/// The same batch without any supposition: its tasks are looked at one by one.
fn carefully(batch: &IndexBatch) -> IndexBatch {
    let mut batch = batch.clone();
    batch.writes.iter_mut().for_each(|write| write.before = Some(Phase::Completed));
    batch
}

async fn story(seed: u64, planned: &Redis, careful: &Redis) {
    let (planned, careful) = (planned.connect().await, careful.connect().await);
    let generation = Generation::fresh();
    let begin = async |to: &Connection| IndexWriter::begin(to.clone(), SHARD, 1, generation).await.unwrap();
    let mut writers = (begin(&planned).await, begin(&careful).await);
    let mut owner = Owner { dice: Dice(seed | 1), rev: 1, now: NOW, tasks: HashMap::new() };
    for round in 1..=60 {
        owner.rev += 1;
        owner.now += owner.dice.below(3) * 50;
        let mut names = Vec::new();
        for _ in 0..owner.dice.below(12) {
            names.extend(owner.create());
        }
        let mut there: Vec<String> = owner.tasks.keys().cloned().collect();
        there.sort();
        for name in there {
            if owner.dice.below(3) == 0 {
                owner.step(&name);
                names.push(name);
            }
        }
        names.sort();
        names.dedup();
        let mut gone = Vec::new();
        let mut forgotten: Vec<String> =
            owner.tasks.iter().filter(|(_, t)| t.view.state.is_terminal()).map(|(n, _)| n.clone()).collect();
        forgotten.sort();
        for name in forgotten {
            if owner.dice.below(6) == 0 {
                owner.tasks.remove(&name);
                // Of some the index is told; others stay there until retention drops them.
                if names.contains(&name) {
                    gone.push(TaskKey { tenant: tenant("acme"), id: id(&name) });
                }
            }
        }
        names.retain(|name| owner.tasks.contains_key(name));
        let mut writes = owner.hand_out(&names);
        for write in &mut writes {
            // Some suppositions are wrong: a restart point was followed, a slot is another's.
            if owner.dice.below(12) == 0 {
                write.before = Phase::ALL.get(owner.dice.below(12) as usize).copied();
            }
        }
        let keep = Retention { tasks: 8 + round / 20, ms: 1_000 + 500 * (round / 30) };
        let batch = IndexBatch {
            shard: SHARD,
            generation,
            upto_seq: round,
            writes,
            gone,
            retain: HashMap::from([(tenant("acme"), keep)]),
            now_wall: owner.now,
            left: 0,
            shows: Some(owner.now),
            mark: Mark::default(),
        };
        if owner.dice.below(8) == 0 {
            // Handed out and never written, which only a rebuild may forgive; its tasks come again some time.
            continue;
        }
        let cautious = carefully(&batch);
        for _ in 0..1 + owner.dice.below(5) / 4 {
            let done = writers.0.write(&batch).await.unwrap();
            assert!(matches!(done, Written::Done(_)), "seed {seed}, round {round}: {done:?}");
            assert_eq!(done, writers.1.write(&cautious).await.unwrap(), "seed {seed}, round {round}");
        }
        if owner.dice.below(10) == 0 {
            let later = owner.now + owner.dice.below(2_000);
            writers.0.sweep(later, 16).await.unwrap();
            writers.1.sweep(later, 16).await.unwrap();
        }
        assert_eq!(contents(&planned).await, contents(&careful).await, "seed {seed}, round {round}");
        if owner.dice.below(15) == 0 {
            // The next owner's writer goes on; what it supposes is what it knows from the journal: nothing.
            let point = IndexWriter::restart_point(&planned, SHARD).await.unwrap().unwrap();
            let resume = async |to: &Connection| {
                IndexWriter::resume(to.clone(), SHARD, point.flush.epoch + 1, point).await.unwrap().unwrap()
            };
            writers = (resume(&planned).await, resume(&careful).await);
            owner.tasks.values_mut().for_each(|owned| owned.told = None);
        }
    }
}

#[tokio::test]
async fn planned_writes_leave_the_same_keys_as_careful_ones() {
    let (planned, careful) = (Redis::start().await, Redis::start().await);
    for seed in 1..=25u64 {
        story(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), &planned, &careful).await;
    }
    let calls = async |redis: &Redis, name: &str| {
        commandstats(&redis.connect().await).await.get(name).map_or(0, |calls| calls.0)
    };
    assert!(calls(&planned, "zmscore").await > 100, "stored tasks were planned for");
    assert_eq!(calls(&careful, "zmscore").await, 0, "the other side was careful throughout");
    let (few, many) = (calls(&planned, "zrem").await, calls(&careful, "zrem").await);
    assert!(few > 0 && many > 0, "{few} {many}");
}
