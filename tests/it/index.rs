//! The Redis index: what it holds, what a read costs, what a replay or a loss does to it.

mod loss;
mod pages;
mod retention;
mod sets;

use std::collections::{BTreeMap, HashMap};

use selvedge::{
    store::{
        Connection,
        index::{Generation, IndexBatch, IndexWrite, IndexWriter, Mark, Retention, Written},
        read::{IndexReader, ScanLimits},
    },
    task::{AgentName, Payload, Phase, Priority, TaskId, TenantName},
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
