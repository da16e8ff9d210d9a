//! `count` from cardinalities, and `tree` in pages: both bounded, whatever is stored.

use redis::Pipeline;

use super::{IndexReader, ReadError, ScanLimits, foreign_cursor, range};
use crate::{
    store::{
        cursor::ListId,
        keys,
        record::{self, Filter},
    },
    task::{Code, Millis, Phase, Refusal, TaskId, TenantName},
    wire::api::{CountReply, CountRequest, ListRequest, TreePage},
};

/// Tasks on a page of a tree if the request names no limit.
const DEFAULT_TREE: u32 = 100;
/// Most tasks on a page of a tree.
const MAX_TREE: u32 = 100;

impl IndexReader {
    /// How many tasks one filter fits: the size of its set, or of a part of it. One round trip, no scan.
    pub async fn count(&self, tenant: &TenantName, request: &CountRequest) -> Result<CountReply, ReadError> {
        let (top, lowest) = range(request.since, request.until)?;
        let sets = count_sets(tenant, request)?;
        let mut pipeline = Pipeline::new();
        for set in &sets {
            match (request.since, request.until) {
                (None, None) => pipeline.cmd("ZCARD").arg(set),
                _ => pipeline.cmd("ZLEXCOUNT").arg(set).arg(&lowest).arg(&top),
            };
        }
        // A tree of one has no set of its own.
        let alone = request.root.as_ref();
        if let Some(root) = alone {
            pipeline.cmd("HGET").arg(keys::records(tenant)).arg(root.as_str()).cmd("EXISTS").arg(&sets);
        }
        pipeline.cmd("HGET").arg(keys::restart_point(self.shard)).arg("at");
        let mut connection = self.connection.clone();
        let (count, as_of) = match alone {
            None => {
                let mut found: Vec<Option<u64>> = pipeline.query_async(&mut connection).await?;
                let as_of = found.pop().flatten();
                (found.into_iter().flatten().sum(), as_of)
            }
            Some(root) => {
                type Found = (u64, Option<Vec<u8>>, u64, Option<Millis>);
                let (count, stored, exists, as_of): Found = pipeline.query_async(&mut connection).await?;
                let others = Phase::ALL.map(|phase| Some(phase).filter(|phase| *phase != Phase::Cancelled));
                let states: Vec<Phase> = others.into_iter().flatten().collect();
                let filter = Filter {
                    states: &states,
                    since: request.since,
                    until: request.until,
                    ..Filter::default()
                };
                let itself = match stored.filter(|_| exists == 0) {
                    Some(stored) => record::split(&stored)?.0.fits(root, &filter),
                    None => false,
                };
                (count + u64::from(itself), as_of)
            }
        };
        Ok(CountReply { count, as_of })
    }

    /// A page of the tree that `task` belongs to, oldest first; `None` if the task is not in the index. Two round
    /// trips from the root, three from below it.
    pub async fn tree(
        &self,
        tenant: &TenantName,
        task: &TaskId,
        limit: Option<u32>,
        cursor: Option<&str>,
        limits: ScanLimits,
    ) -> Result<Option<TreePage>, ReadError> {
        let limit = limit.unwrap_or(DEFAULT_TREE);
        if limit == 0 || limit > MAX_TREE {
            let message = format!("limit {limit} is not between 1 and {MAX_TREE}");
            return Err(Refusal::over(Code::BadQuery, message, limit.into(), MAX_TREE.into()).into());
        }
        let limit = limits.ids(0, limit, false);
        let mut connection = self.connection.clone();
        let stored: Option<Vec<u8>> = redis::cmd("HGET")
            .arg(keys::records(tenant))
            .arg(task.as_str())
            .query_async(&mut connection)
            .await?;
        let Some(stored) = stored else { return Ok(None) };
        let (header, _) = record::split(&stored)?;
        let root = match header.root {
            None => task.clone(),
            Some(root) => TaskId::new(root).map_err(|e| crate::store::StoreError::Corrupt(e.to_string()))?,
        };
        // Pages of one tree are one list, whichever of its tasks was asked for.
        let id = ListId::of(
            tenant,
            &ListRequest { root: Some(root.clone()), limit: None, ..ListRequest::default() },
        );
        let after = match cursor {
            None => "-".to_owned(),
            Some(cursor) => format!("({}", id.member(cursor).ok_or_else(foreign_cursor)?),
        };
        let mut pipeline = Pipeline::new();
        pipeline
            .cmd("ZRANGE")
            .arg(keys::tree(tenant, &root))
            .arg(&after)
            .arg("+")
            .arg("BYLEX")
            .arg("LIMIT")
            .arg(0)
            .arg(u64::from(limit) + 1);
        pipeline.cmd("HGET").arg(keys::restart_point(self.shard)).arg("at");
        let (mut members, as_of): (Vec<String>, Option<Millis>) =
            pipeline.query_async(&mut connection).await?;
        let more = members.len() > limit as usize;
        members.truncate(limit as usize);
        if members.is_empty() && cursor.is_none() && header.state != Phase::Cancelled {
            members.push(keys::member(header.created_at, task));
        }
        let ids: Vec<TaskId> = members.iter().filter_map(|member| keys::task_of(member)).collect();
        let tasks = self.get_many(tenant, &ids, false).await?.into_iter().flatten().collect();
        let next = members.last().filter(|_| more).map(|last| id.after(last));
        Ok(Some(TreePage { root, tasks, next, as_of }))
    }
}

/// The sets whose sizes are the answer.
fn count_sets(tenant: &TenantName, request: &CountRequest) -> Result<Vec<String>, Refusal> {
    let mut states = request.states.clone();
    states.sort();
    states.dedup();
    if !request.labels.is_empty() {
        let message = "count does not take labels: there is no set of the tasks with one; list them";
        return Err(Refusal::new(Code::BadQuery, message));
    }
    let mut sets: Vec<Vec<String>> = Vec::new();
    if !states.is_empty() {
        sets.push(states.iter().map(|state| keys::state(tenant, *state)).collect());
    }
    sets.extend(request.agent.iter().map(|agent| vec![keys::agent(tenant, agent)]));
    sets.extend(request.root.iter().map(|root| vec![keys::tree(tenant, root)]));
    sets.extend(request.parent.iter().map(|parent| vec![keys::parent(tenant, parent)]));
    match sets.len() {
        0 => Ok(vec![keys::shown(tenant)]),
        1 => Ok(sets.remove(0)),
        filters => Err(Refusal::over(
            Code::BadQuery,
            "count takes one of states, agent, root and parent: sizes of sets can't be combined; list with all of them",
            filters as u64,
            1,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{AgentName, Labels};

    #[test]
    fn a_count_is_of_one_filter_and_a_range_runs_forward() {
        let tenant = TenantName::new("acme").unwrap();
        let states = vec![Phase::Failed, Phase::Failed, Phase::Queued];
        let request = CountRequest { states: states.clone(), ..CountRequest::default() };
        assert_eq!(count_sets(&tenant, &request).unwrap().len(), 2);
        let both =
            CountRequest { states, agent: Some(AgentName::new("a").unwrap()), ..CountRequest::default() };
        assert_eq!(count_sets(&tenant, &both).unwrap_err().code, Code::BadQuery);
        let labels = Labels::from_iter([("team", "search")]);
        let refusal = count_sets(&tenant, &CountRequest { labels, ..CountRequest::default() }).unwrap_err();
        assert!(refusal.code == Code::BadQuery && refusal.message.contains("labels"), "{refusal:?}");
        assert_eq!(range(Some(5), Some(5)).unwrap_err().code, Code::BadQuery);
        assert_eq!(range(Some(1), Some(16)).unwrap(), ("(00000000010".to_owned(), "[00000000001".to_owned()));
    }
}
