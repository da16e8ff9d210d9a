//! The index's read side: every answer costs what it returns.
//!
//! ```text
//! read ── get, list, stats      walk ── count, tree
//! ```
//!
//! `get` and `list` are one round trip. A list asks for
//! `max(1, min(cap, offset + limit + (buffer if post-filtered)))` ids, whatever is stored. One filter is
//! exact from its own set (every task, cancelled ones too, from two that are merged), and so is a range of
//! time, alone or with one; filters combined are read from the smallest set that holds all of the answer and
//! sifted by the records' headers. Nothing in here retries.

mod walk;

use std::sync::Arc;

use redis::{Pipeline, RedisResult, Script};

use super::{
    Connection, StoreError,
    cursor::ListId,
    is_noscript, keys,
    record::{self, Filter, ResultAt},
};
use crate::{
    task::{Code, Millis, Phase, Refusal, TaskId, TenantName},
    wire::{
        api::{ListRequest, StatsReply, TaskPage, TaskView},
        subjects::Shard,
    },
};

/// Tasks on a page if the request names no limit.
pub const DEFAULT_LIMIT: u32 = 10;

/// Most tasks on a page.
pub const MAX_LIMIT: u32 = 100;

/// How far a list may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimits {
    /// Ids per request at most: `REDIS_TMS_MAX_INDEX_SCAN`.
    pub cap: u32,
    /// Ids beyond the page when filters are combined: `REDIS_TMS_LIST_SCAN_BUFFER`.
    pub buffer: u32,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self { cap: 200, buffer: 50 }
    }
}

impl ScanLimits {
    /// How many ids a request asks for.
    pub fn ids(self, offset: u32, limit: u32, post_filtered: bool) -> u32 {
        let buffer = if post_filtered { self.buffer } else { 0 };
        offset.saturating_add(limit).saturating_add(buffer).min(self.cap).max(1)
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The request makes no sense; `BAD_QUERY` with the reason.
    #[error(transparent)]
    Query(#[from] Refusal),
    /// Redis can't answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<redis::RedisError> for ReadError {
    fn from(error: redis::RedisError) -> Self {
        Self::Store(error.into())
    }
}

/// Reads every tenant's index. Cheap to clone.
#[derive(Clone)]
pub struct IndexReader {
    connection: Connection,
    shard: Shard,
    /// Shared: it holds its own text.
    pick: Arc<Script>,
}

/// A task in the index.
pub struct Found {
    /// With its result, if that was asked for and stands in the index.
    pub view: TaskView,
    /// Its result is kept beside the index.
    pub aside: bool,
}

/// What a list request means: where to read, and what to sift out.
struct ListPlan {
    /// Sets that each hold all of the answer; or the two whose union does.
    sets: Vec<String>,
    /// The sets are to be merged.
    union: bool,
    /// Which of them is the tree's, from 1.
    tree: Option<usize>,
    /// What is read holds nothing but the answer.
    exact: bool,
    states: Vec<Phase>,
    limit: u32,
    offset: u32,
    /// Where to start, from above, and where to end.
    range: (String, String),
    /// It starts at the newest task.
    from_top: bool,
}

/// What the script found.
struct Picked {
    members: Vec<String>,
    /// How many more there are.
    follow: u64,
    /// Of the members but those skipped.
    records: Vec<Option<Vec<u8>>>,
    as_of: Option<Millis>,
}

impl IndexReader {
    /// Reads what this shard's indexer wrote.
    pub fn new(connection: Connection, shard: Shard) -> Self {
        Self { connection, shard, pick: Arc::new(Script::new(include_str!("pick.lua"))) }
    }

    /// One task, with its result if it is kept here. One round trip.
    pub async fn get(&self, tenant: &TenantName, task: &TaskId) -> Result<Option<TaskView>, StoreError> {
        Ok(self.find(tenant, task).await?.map(|found| found.view))
    }

    /// The same, and whether its result is kept beside the index.
    pub async fn find(&self, tenant: &TenantName, task: &TaskId) -> Result<Option<Found>, StoreError> {
        let mut found = self.find_many(tenant, std::slice::from_ref(task), true).await?;
        Ok(found.pop().flatten())
    }

    /// Several tasks in the order asked for, `None` where there is none; one round trip. The caller
    /// bounds the number, and asks for results only where their size is bounded too.
    pub async fn get_many(
        &self,
        tenant: &TenantName,
        tasks: &[TaskId],
        results: bool,
    ) -> Result<Vec<Option<TaskView>>, StoreError> {
        let found = self.find_many(tenant, tasks, results).await?;
        Ok(found.into_iter().map(|found| found.map(|found| found.view)).collect())
    }

    async fn find_many(
        &self,
        tenant: &TenantName,
        tasks: &[TaskId],
        results: bool,
    ) -> Result<Vec<Option<Found>>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::new();
        let mut ask = |key: String| {
            let cmd = pipeline.cmd("HMGET").arg(key);
            for task in tasks {
                cmd.arg(task.as_str());
            }
        };
        ask(keys::records(tenant));
        if results {
            ask(keys::results(tenant));
        }
        let found: Vec<Vec<Option<Vec<u8>>>> = pipeline.query_async(&mut self.connection.clone()).await?;
        let stored = found.first().map_or(&[][..], Vec::as_slice);
        let large = found.get(1).map_or(&[][..], Vec::as_slice);
        let mut views = Vec::with_capacity(tasks.len());
        for (i, task) in tasks.iter().enumerate() {
            let Some(Some(stored)) = stored.get(i) else {
                views.push(None);
                continue;
            };
            let record = record::split(stored)?;
            let aside = record.0.result == ResultAt::Aside;
            let mut view = record::decode_split(tenant, task, record, results)?;
            if let Some(Some(result)) = large.get(i) {
                view.result = Some(record::decode_result(result)?);
            }
            views.push(Some(Found { view, aside }));
        }
        Ok(views)
    }

    /// A page of tasks, newest first.
    pub async fn list(
        &self,
        tenant: &TenantName,
        request: &ListRequest,
        limits: ScanLimits,
    ) -> Result<TaskPage, ReadError> {
        let id = ListId::of(tenant, request);
        let plan = ListPlan::of(tenant, request, &id)?;
        let asked = limits.ids(plan.offset, plan.limit, !plan.exact);
        // What an exact list skips needs no look at its records.
        let skip = if plan.exact { plan.offset.min(asked) } else { 0 };
        let Picked { members, follow, records, as_of } =
            self.pick(tenant, &plan, request.root.as_ref(), asked, skip).await?;
        let scanned = members.len() as u32;

        let mut to_skip = plan.offset - skip;
        let mut tasks = Vec::with_capacity(plan.limit.min(asked) as usize);
        let mut end = members.len().min(skip as usize);
        for (member, stored) in members[end..].iter().zip(&records) {
            if tasks.len() == plan.limit as usize {
                break;
            }
            end += 1;
            let Some(stored) = stored else { continue };
            let task = keys::task_of(member)
                .ok_or_else(|| StoreError::Corrupt("a set holds something that is no member".into()))?;
            let record = record::split(stored)?;
            if !record.0.fits(&task, &plan.filter(request)) {
                continue;
            }
            if to_skip > 0 && request.labels.is_empty() {
                to_skip -= 1;
                continue;
            }
            let view = record::decode_split(tenant, &task, record, false)?;
            if !view.labels.hold(&request.labels) {
                continue;
            }
            if to_skip > 0 {
                to_skip -= 1;
                continue;
            }
            tasks.push(view);
        }
        let more = end < members.len() || follow > 0;
        let full = tasks.len() == plan.limit as usize;
        let last = end.checked_sub(1).and_then(|i| members.get(i));
        Ok(TaskPage {
            complete: full || !more,
            next: last.filter(|_| more).map(|member| id.after(member)),
            tasks,
            scanned,
            as_of,
        })
    }

    /// Members to look at, and their records.
    async fn pick(
        &self,
        tenant: &TenantName,
        plan: &ListPlan,
        root: Option<&TaskId>,
        asked: u32,
        skip: u32,
    ) -> Result<Picked, StoreError> {
        let (start, lowest) = &plan.range;
        let alone = root.filter(|_| plan.tree.is_some() && plan.from_top);
        let mut pipeline = Pipeline::new();
        pipeline
            .cmd("EVALSHA")
            .arg(self.pick.get_hash())
            .arg(1 + plan.sets.len())
            .arg(keys::records(tenant))
            .arg(&plan.sets)
            .arg(start)
            .arg(asked)
            .arg(skip)
            .arg(if plan.union { "union" } else { "" })
            .arg(plan.tree.unwrap_or(0))
            // A tree of one has no set of its own.
            .arg(alone.map_or(String::new(), |root| keys::member(0, root)))
            .arg(lowest);
        pipeline.cmd("HGET").arg(keys::restart_point(self.shard)).arg("at");
        let mut connection = self.connection.clone();
        type Found = ((Vec<String>, u64, Vec<Option<Vec<u8>>>), Option<Millis>);
        let mut found: RedisResult<Found> = pipeline.query_async(&mut connection).await;
        if found.as_ref().is_err_and(is_noscript) {
            self.pick.prepare_invoke().load_async(&mut connection).await?;
            found = pipeline.query_async(&mut connection).await;
        }
        let ((members, follow, records), as_of) = found?;
        Ok(Picked { members, follow, records, as_of })
    }

    /// Tasks by state. One round trip, no scan.
    pub async fn stats(&self, tenant: &TenantName) -> Result<StatsReply, StoreError> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("ZCARD").arg(keys::shown(tenant));
        for state in Phase::ALL {
            pipeline.cmd("ZCARD").arg(keys::state(tenant, state));
        }
        pipeline.cmd("HGET").arg(keys::restart_point(self.shard)).arg("at");
        let counts: Vec<Option<u64>> = pipeline.query_async(&mut self.connection.clone()).await?;
        let as_of = counts.last().copied().flatten();
        let counts: Vec<u64> = counts.into_iter().map(Option::unwrap_or_default).collect();
        let shown = counts.first().copied().unwrap_or(0);
        let states = || Phase::ALL.into_iter().zip(counts.iter().skip(1).copied());
        let cancelled: u64 = states().filter(|(state, _)| *state == Phase::Cancelled).map(|(_, n)| n).sum();
        Ok(StatsReply {
            total: shown + cancelled,
            states: states().map(|(state, n)| (state.as_str().to_owned(), n)).collect(),
            as_of,
        })
    }
}

impl ListPlan {
    fn of(tenant: &TenantName, request: &ListRequest, id: &ListId) -> Result<Self, Refusal> {
        let limit = request.limit.unwrap_or(DEFAULT_LIMIT);
        if limit == 0 || limit > MAX_LIMIT {
            let message = format!("limit {limit} is not between 1 and {MAX_LIMIT}");
            return Err(Refusal::over(Code::BadQuery, message, limit.into(), MAX_LIMIT.into()));
        }
        request.labels.check().map_err(|refusal| Refusal { code: Code::BadQuery, ..refusal })?;
        if request.offset.is_some() && request.cursor.is_some() {
            return Err(Refusal::new(Code::BadQuery, "give offset or cursor, not both"));
        }
        let after = match &request.cursor {
            None => None,
            Some(cursor) => Some(id.member(cursor).ok_or_else(foreign_cursor)?),
        };
        let (top, lowest) = range(request.since, request.until)?;
        let from_top = after.is_none();
        let start = after.map_or(top, |member| format!("({member}"));

        let mut states = request.states.clone();
        states.sort();
        states.dedup();
        let default = states.is_empty();
        if default {
            states = Phase::ALL.into_iter().filter(|p| *p != Phase::Cancelled).collect();
        }
        let with_cancelled = states.contains(&Phase::Cancelled);
        let every = states.len() == Phase::ALL.len();

        let mut sets = Vec::new();
        let mut tree = None;
        // These three hold no cancelled tasks.
        if let Some(agent) = request.agent.as_ref().filter(|_| !with_cancelled) {
            sets.push(keys::agent(tenant, agent));
        }
        if let Some(parent) = request.parent.as_ref().filter(|_| !with_cancelled) {
            sets.push(keys::parent(tenant, parent));
        }
        if let Some(root) = request.root.as_ref().filter(|_| !with_cancelled) {
            sets.push(keys::tree(tenant, root));
            tree = Some(sets.len());
        }
        if let [state] = states.as_slice() {
            sets.push(keys::state(tenant, *state));
        }
        let union = sets.is_empty() && with_cancelled;
        if sets.is_empty() {
            sets.push(keys::shown(tenant));
            if union {
                sets.push(keys::state(tenant, Phase::Cancelled));
            }
        }
        let filters = [request.agent.is_some(), request.parent.is_some(), request.root.is_some(), !default];
        let exact = match filters.iter().filter(|f| **f).count() {
            0 => true,
            1 => default || states.len() == 1 || every,
            _ => false,
        } && request.labels.is_empty();
        let offset = request.offset.unwrap_or(0);
        Ok(Self { sets, union, tree, exact, states, limit, offset, range: (start, lowest), from_top })
    }

    fn filter<'a>(&'a self, request: &'a ListRequest) -> Filter<'a> {
        Filter {
            states: &self.states,
            agent: request.agent.as_ref(),
            root: request.root.as_ref(),
            parent: request.parent.as_ref(),
            since: request.since,
            until: request.until,
        }
    }
}

fn foreign_cursor() -> Refusal {
    Refusal::new(Code::BadQuery, "the cursor does not belong to this tenant and filter; start without one")
}

/// Where a range of time ends and begins among members, newest first.
fn range(since: Option<Millis>, until: Option<Millis>) -> Result<(String, String), Refusal> {
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        let message = format!("since ({since}) is not before until ({until})");
        return Err(Refusal::new(Code::BadQuery, message));
    }
    let top = until.map_or("+".to_owned(), |at| format!("({}", keys::Stamp(at)));
    let lowest = since.map_or("-".to_owned(), |at| format!("[{}", keys::Stamp(at)));
    Ok((top, lowest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_asked_for_follow_the_formula() {
        let limits = ScanLimits::default();
        assert_eq!(limits.ids(0, 10, false), 10);
        assert_eq!(limits.ids(0, 10, true), 60);
        assert_eq!(limits.ids(30, 10, false), 40);
        assert_eq!(limits.ids(10_000, 10, false), 200);
        assert_eq!(limits.ids(u32::MAX, u32::MAX, true), 200);
        assert_eq!(ScanLimits { cap: 0, buffer: 0 }.ids(0, 10, false), 1);
    }

    #[test]
    fn one_filter_is_exact_and_two_are_sifted() {
        let tenant = TenantName::new("acme").unwrap();
        let exact = |request: &ListRequest| {
            ListPlan::of(&tenant, request, &ListId::of(&tenant, request)).unwrap().exact
        };
        let agent = Some(crate::task::AgentName::new("reader").unwrap());
        let root = Some(TaskId::new("r").unwrap());
        assert!(exact(&ListRequest::default()));
        assert!(exact(&ListRequest { states: vec![Phase::Cancelled], ..Default::default() }));
        assert!(exact(&ListRequest { states: Phase::ALL.to_vec(), ..Default::default() }));
        assert!(exact(&ListRequest { agent: agent.clone(), ..Default::default() }));
        assert!(exact(&ListRequest { root: root.clone(), ..Default::default() }));
        assert!(exact(&ListRequest { parent: root.clone(), since: Some(1), ..Default::default() }));
        let labels = crate::task::Labels::from_iter([("team", "search")]);
        assert!(!exact(&ListRequest { labels, ..Default::default() }));
        assert!(!exact(&ListRequest { parent: root.clone(), root: root.clone(), ..Default::default() }));
        assert!(!exact(&ListRequest { root, agent: agent.clone(), ..Default::default() }));
        assert!(!exact(&ListRequest { states: vec![Phase::Failed], agent, ..Default::default() }));
        assert!(!exact(&ListRequest { states: vec![Phase::Failed, Phase::Queued], ..Default::default() }));
    }
}
