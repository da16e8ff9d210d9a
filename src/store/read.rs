//! The index's read side: every answer costs what it returns.
//!
//! `get` is one round trip, `list` two: ids, then their records. A list asks for
//! `max(1, min(cap, offset + limit + (buffer if post-filtered)))` ids, whatever is stored. One filter is
//! exact from its own set; filters combined are read from the smallest set that holds all of the answer
//! and sifted by the records' headers. Nothing in here retries.

use redis::{Pipeline, Script};

use super::{Connection, StoreError, cursor::ListId, keys, record};
use crate::{
    task::{Code, Phase, Refusal, TaskId, TenantName},
    wire::api::{ListRequest, StatsReply, TaskPage, TaskView},
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
    pick: Script,
}

/// What a list request means: where to read, and what to sift out.
struct ListPlan {
    /// Sets that each hold all of the answer.
    sets: Vec<String>,
    /// Which of them is the tree's.
    tree: Option<usize>,
    /// Any set holds nothing but the answer.
    exact: bool,
    states: Vec<Phase>,
    limit: u32,
    offset: u32,
    after: Option<String>,
}

impl IndexReader {
    /// Reads through this connection.
    pub fn new(connection: Connection) -> Self {
        Self { connection, pick: Script::new(include_str!("pick.lua")) }
    }

    /// One task, with its result if it is kept here. One round trip.
    pub async fn get(&self, tenant: &TenantName, task: &TaskId) -> Result<Option<TaskView>, StoreError> {
        let both: Vec<Option<Vec<u8>>> = redis::cmd("MGET")
            .arg(keys::record(tenant, task))
            .arg(keys::result(tenant, task))
            .query_async(&mut self.connection.clone())
            .await?;
        let [stored, result] = both.as_slice() else { return Ok(None) };
        let Some(stored) = stored else { return Ok(None) };
        let mut view = record::decode(stored)?;
        view.result = result.as_deref().map(record::decode_result).transpose()?;
        Ok(Some(view))
    }

    /// Several tasks in the order asked for, `None` where there is none; one round trip. The caller
    /// bounds the number, and asks for results only where their size is bounded too.
    pub async fn get_many(
        &self,
        tenant: &TenantName,
        tasks: &[TaskId],
        results: bool,
    ) -> Result<Vec<Option<TaskView>>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let mut cmd = redis::cmd("MGET");
        for task in tasks {
            cmd.arg(keys::record(tenant, task));
        }
        if results {
            for task in tasks {
                cmd.arg(keys::result(tenant, task));
            }
        }
        let found: Vec<Option<Vec<u8>>> = cmd.query_async(&mut self.connection.clone()).await?;
        let mut views = Vec::with_capacity(tasks.len());
        for i in 0..tasks.len() {
            let Some(stored) = found.get(i).and_then(Option::as_ref) else {
                views.push(None);
                continue;
            };
            let mut view = record::decode(stored)?;
            if let Some(Some(result)) = found.get(tasks.len() + i) {
                view.result = Some(record::decode_result(result)?);
            }
            views.push(Some(view));
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
        let (members, follow) = self.members(&plan, request.root.as_ref(), asked).await?;
        let scanned = members.len() as u32;

        // What an exact set skips needs no look at its records.
        let skip = if plan.exact { members.len().min(plan.offset as usize) } else { 0 };
        let mut to_skip = if plan.exact { 0 } else { plan.offset };
        let records = self.records(tenant, &members[skip..]).await?;
        let mut tasks = Vec::new();
        let mut end = skip;
        for stored in &records {
            if tasks.len() == plan.limit as usize {
                break;
            }
            end += 1;
            // A task that retention dropped between the two reads.
            let Some(stored) = stored else { continue };
            let (header, _) = record::split(stored)?;
            if !header.fits(&plan.states, request.agent.as_ref(), request.root.as_ref()) {
                continue;
            }
            if to_skip > 0 {
                to_skip -= 1;
                continue;
            }
            tasks.push(record::decode(stored)?);
        }
        let more = end < members.len() || follow > 0;
        let full = tasks.len() == plan.limit as usize;
        let last = end.checked_sub(1).and_then(|i| members.get(i));
        Ok(TaskPage {
            complete: full || !more,
            next: last.filter(|_| more).map(|member| id.after(member)),
            tasks,
            scanned,
        })
    }

    /// Members to look at, and how many more there are.
    async fn members(
        &self,
        plan: &ListPlan,
        root: Option<&TaskId>,
        asked: u32,
    ) -> Result<(Vec<String>, u64), StoreError> {
        let start = plan.after.as_ref().map_or("+".to_owned(), |member| format!("({member}"));
        let mut call = self.pick.prepare_invoke();
        for set in &plan.sets {
            call.key(set);
        }
        call.arg(start).arg(asked);
        let (set, members, follow): (usize, Vec<String>, u64) =
            call.invoke_async(&mut self.connection.clone()).await?;
        match root {
            // A tree of one has no set of its own.
            Some(root) if members.is_empty() && plan.after.is_none() && plan.tree == Some(set - 1) => {
                Ok((vec![keys::member(0, root)], 0))
            }
            _ => Ok((members, follow)),
        }
    }

    async fn records(
        &self,
        tenant: &TenantName,
        members: &[String],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        if members.is_empty() {
            return Ok(Vec::new());
        }
        let mut cmd = redis::cmd("MGET");
        for member in members {
            let task = keys::task_of(member)
                .ok_or_else(|| StoreError::Corrupt("a set holds something that is no member".into()))?;
            cmd.arg(keys::record(tenant, &task));
        }
        Ok(cmd.query_async(&mut self.connection.clone()).await?)
    }

    /// Tasks by state. One round trip, no scan.
    pub async fn stats(&self, tenant: &TenantName) -> Result<StatsReply, StoreError> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("ZCARD").arg(keys::all(tenant));
        for state in Phase::ALL {
            pipeline.cmd("ZCARD").arg(keys::state(tenant, state));
        }
        let counts: Vec<u64> = pipeline.query_async(&mut self.connection.clone()).await?;
        let states = Phase::ALL.iter().zip(counts.iter().skip(1));
        Ok(StatsReply {
            total: counts.first().copied().unwrap_or(0),
            states: states.map(|(state, n)| (state.as_str().to_owned(), *n)).collect(),
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
        if request.offset.is_some() && request.cursor.is_some() {
            return Err(Refusal::new(Code::BadQuery, "give offset or cursor, not both"));
        }
        let after = match &request.cursor {
            None => None,
            Some(cursor) => Some(id.member(cursor).ok_or_else(|| {
                Refusal::new(
                    Code::BadQuery,
                    "the cursor does not belong to this tenant and filter; start without one",
                )
            })?),
        };

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
        // These two hold no cancelled tasks.
        if let Some(agent) = request.agent.as_ref().filter(|_| !with_cancelled) {
            sets.push(keys::agent(tenant, agent));
        }
        if let Some(root) = request.root.as_ref().filter(|_| !with_cancelled) {
            tree = Some(sets.len());
            sets.push(keys::tree(tenant, root));
        }
        if let [state] = states.as_slice() {
            sets.push(keys::state(tenant, *state));
        }
        if sets.is_empty() {
            sets.push(if with_cancelled { keys::all(tenant) } else { keys::shown(tenant) });
        }
        let filters = [request.agent.is_some(), request.root.is_some(), !default];
        let exact = match filters.iter().filter(|f| **f).count() {
            0 => true,
            1 => default || states.len() == 1 || every,
            _ => false,
        };
        Ok(Self { sets, tree, exact, states, limit, offset: request.offset.unwrap_or(0), after })
    }
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
        assert!(!exact(&ListRequest { root, agent: agent.clone(), ..Default::default() }));
        assert!(!exact(&ListRequest { states: vec![Phase::Failed], agent, ..Default::default() }));
        assert!(!exact(&ListRequest { states: vec![Phase::Failed, Phase::Queued], ..Default::default() }));
    }
}
