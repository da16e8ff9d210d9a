//! The verbs that look: the index first, the owner for what only it knows. Nothing here is tried again.

use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::{Ask, INDEX_LAG, Queries, Told, nonsense, not_found, read_refusal, store_refusal, wall, within};
use crate::{
    coordinator::calls::OwnerCall,
    flow::why,
    store::read::Found,
    task::{Code, Phase, Refusal, TaskId, TaskKey, TenantName},
    wire::api::{
        ChildrenPage, ChildrenRequest, GetRequest, ManyReply, ManyRequest, TaskView, TreePage, TreeRequest,
        Why, WhyRequest,
    },
};

/// Tasks that may be asked for at once.
const MAX_MANY: usize = 100;
/// Questions to the owner at once, for one query.
const OWNER_AT_ONCE: usize = 8;

impl Queries {
    pub(super) async fn get(&self, tenant: &TenantName, request: GetRequest) -> Result<TaskView, Refusal> {
        let key = TaskKey { tenant: tenant.clone(), id: request.task };
        let indexed = match self.index.find(tenant, &key.id).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "the index can't be read; asking the owner");
                None
            }
        };
        if let Some(found) = indexed
            && request.min_rev.is_none_or(|rev| found.view.rev >= rev)
            && (found.view.state.is_terminal() || request.min_rev.is_some())
        {
            return self.whole(&key, found).await;
        }
        // Not there, not new enough, or still moving: the owner knows.
        let Some(view) = self.view(&key).await? else {
            return match self.index.find(tenant, &key.id).await {
                Ok(Some(found)) => self.whole(&key, found).await,
                _ => Err(not_found(&key)),
            };
        };
        if view.state != Phase::Completed || view.result.is_some() {
            return Ok(view);
        }
        self.indexed(&key, view).await
    }

    /// A task of the index with its result, wherever that is.
    async fn whole(&self, key: &TaskKey, found: Found) -> Result<TaskView, Refusal> {
        if !found.aside {
            return Ok(found.view);
        }
        match self.results.get(key).await {
            Ok(Some(result)) => Ok(TaskView { result: Some(result), ..found.view }),
            Ok(None) => {
                let message = format!(
                    "{} is completed, but its large result is kept no more: RESULTS was full",
                    key.id
                );
                Err(Refusal::new(Code::Unavailable, message))
            }
            Err(error) => {
                tracing::warn!(task = %key, %error, "a large result could not be read");
                let message = format!("{} is completed, but its large result can't be read now", key.id);
                Err(Refusal::new(Code::Unavailable, message).retry_after(1_000))
            }
        }
    }

    /// A completed task's result is in the index, or will be in a moment.
    pub(super) async fn indexed(&self, key: &TaskKey, view: TaskView) -> Result<TaskView, Refusal> {
        let deadline = tokio::time::Instant::now() + INDEX_LAG;
        let mut pause = Duration::from_millis(2);
        loop {
            if let Ok(Some(found)) = self.index.find(&key.tenant, &key.id).await
                && found.view.rev >= view.rev
            {
                return self.whole(key, found).await;
            }
            if tokio::time::Instant::now() >= deadline {
                let message = format!("{} is completed, but the index with its result lags behind", key.id);
                return Err(Refusal::new(Code::Unavailable, message).retry_after(1_000));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// What holds a task back: of one that the owner has forgotten the index tells how it ended.
    pub(super) async fn why(&self, tenant: &TenantName, request: WhyRequest) -> Result<Why, Refusal> {
        let key = TaskKey { tenant: tenant.clone(), id: request.task };
        let asked = key.clone();
        let told = match self.owner.ask(|reply| OwnerCall::Why { key: asked, reply }).await? {
            Some(told) => told,
            None => match self.elsewhere(Ask::Why(key.clone())).await? {
                Told::Why(told) => told.map(|why| *why),
                Told::Refused(refusal) => return Err(refusal),
                _ => return Err(nonsense()),
            },
        };
        match told {
            Some(told) => Ok(told),
            None => match self.index.get(tenant, &key.id).await {
                Ok(Some(view)) if view.state.is_terminal() => Ok(why::of_ended(view, wall())),
                _ => Err(not_found(&key)),
            },
        }
    }

    /// Several tasks: the index in one round trip, and the owner for those that are not in it.
    pub(super) async fn many(&self, tenant: &TenantName, request: ManyRequest) -> Result<ManyReply, Refusal> {
        let asked = request.tasks.len();
        if asked == 0 || asked > MAX_MANY {
            let message = format!("{asked} tasks are not within 1 to {MAX_MANY}");
            return Err(Refusal::over(Code::BadQuery, message, asked as u64, MAX_MANY as u64));
        }
        let found = self.index.get_many(tenant, &request.tasks, false).await.map_err(store_refusal)?;
        let look = |(task, found): (TaskId, Option<TaskView>)| async move {
            match found {
                Some(view) => (task, Ok(Some(view))),
                None => {
                    let key = TaskKey { tenant: tenant.clone(), id: task };
                    let told = self.view(&key).await;
                    (key.id, told)
                }
            }
        };
        let mut all = stream::iter(request.tasks.into_iter().zip(found).map(look)).buffered(OWNER_AT_ONCE);
        let mut reply = ManyReply::default();
        while let Some((task, told)) = all.next().await {
            match told {
                Ok(Some(view)) => reply.tasks.push(TaskView { result: None, ..view }),
                Ok(None) => reply.missing.push(task),
                Err(_) => reply.unknown.push(task),
            }
        }
        Ok(reply)
    }

    /// A page of the tree that a task belongs to.
    pub(super) async fn tree(&self, tenant: &TenantName, request: TreeRequest) -> Result<TreePage, Refusal> {
        let (task, scan) = (&request.task, *self.scan.borrow());
        let page = self.index.tree(tenant, task, request.limit, request.cursor.as_deref(), scan).await;
        match page.map_err(read_refusal)? {
            Some(page) => Ok(page),
            None => {
                let key = TaskKey { tenant: tenant.clone(), id: request.task };
                match self.view(&key).await? {
                    None => Err(not_found(&key)),
                    Some(_) => {
                        Err(Refusal::new(Code::Unavailable, format!("{} is not in the index yet", key.id))
                            .retry_after(250))
                    }
                }
            }
        }
    }

    pub(super) async fn children(
        &self,
        tenant: &TenantName,
        request: ChildrenRequest,
    ) -> Result<ChildrenPage, Refusal> {
        let limit = within(request.limit, 100, 1_000)?;
        let key = TaskKey { tenant: tenant.clone(), id: request.task };
        let (after, results) = (request.after, request.results);
        let mine = {
            let key = key.clone();
            self.owner.ask(|reply| OwnerCall::Children { key, after, limit, results, reply }).await?
        };
        let page = match mine {
            Some(page) => page,
            None => match self.elsewhere(Ask::Children(key.clone(), after, limit, results)).await? {
                Told::Children(page) => page,
                Told::Refused(refusal) => return Err(refusal),
                _ => return Err(nonsense()),
            },
        };
        page.ok_or_else(|| not_found(&key))
    }
}
