//! The verbs that look: the index first, the owner for what only it knows. Nothing here is tried again.

use std::time::Duration;

use super::{Ask, INDEX_LAG, Queries, Told, nonsense, not_found, within};
use crate::{
    coordinator::calls::OwnerCall,
    task::{Code, Phase, Refusal, TaskKey, TenantName},
    wire::api::{ChildrenPage, ChildrenRequest, GetRequest, TaskView},
};

impl Queries {
    pub(super) async fn get(&self, tenant: &TenantName, request: GetRequest) -> Result<TaskView, Refusal> {
        let key = TaskKey { tenant: tenant.clone(), id: request.task };
        let indexed = match self.index.get(tenant, &key.id).await {
            Ok(view) => view,
            Err(error) => {
                tracing::debug!(%error, "the index can't be read; asking the owner");
                None
            }
        };
        if let Some(view) = indexed
            && request.min_rev.is_none_or(|rev| view.rev >= rev)
            && (view.state.is_terminal() || request.min_rev.is_some())
        {
            return Ok(view);
        }
        // Not there, not new enough, or still moving: the owner knows.
        let Some(view) = self.view(&key).await? else {
            return match self.index.get(tenant, &key.id).await {
                Ok(Some(view)) => Ok(view),
                _ => Err(not_found(&key)),
            };
        };
        if view.state != Phase::Completed || view.result.is_some() {
            return Ok(view);
        }
        self.indexed(&key, view).await
    }

    /// A completed task's result is in the index, or will be in a moment.
    pub(super) async fn indexed(&self, key: &TaskKey, view: TaskView) -> Result<TaskView, Refusal> {
        let deadline = tokio::time::Instant::now() + INDEX_LAG;
        let mut pause = Duration::from_millis(2);
        loop {
            if let Ok(Some(found)) = self.index.get(&key.tenant, &key.id).await
                && found.rev >= view.rev
            {
                return Ok(found);
            }
            if tokio::time::Instant::now() >= deadline {
                let message = format!("{} is completed, but the index with its result lags behind", key.id);
                return Err(Refusal::new(Code::Unavailable, message).retry_after(1_000));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    pub(super) async fn children(&self, tenant: &TenantName, request: ChildrenRequest) -> Result<ChildrenPage, Refusal> {
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
                Told::View(_) | Told::Applied(_) => return Err(nonsense()),
            },
        };
        page.ok_or_else(|| not_found(&key))
    }
}
