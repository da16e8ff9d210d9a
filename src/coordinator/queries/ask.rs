//! Questions to the owner's loop: over a channel in this process, over `sv.ask.<shard>` in another one.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{OWNER_ANSWER, Queries, changing, nonsense};
use crate::{
    bus::AskError,
    coordinator::calls::OwnerCall,
    flow::{input::unreadable, load::AgentLoad, operate::Change},
    task::{AgentName, Code, Refusal, TaskKey, TenantName},
    wire::{
        about::{AgentsReply, AgentsRequest},
        api::{ChildrenPage, TaskView, TenantsReply, TenantsRequest, Why},
        codec,
        history::HistoryPage,
        subjects,
    },
};

/// What one coordinator asks the owner for in another process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// One task.
    View(TaskKey),
    /// A page of children.
    Children(TaskKey, u32, u32, bool),
    /// A page of a task's history, from a place and after a message.
    History(TaskKey, u32, u32),
    /// What holds a task back.
    Why(TaskKey),
    /// Which agents are there, with this tenant's tasks.
    Agents(TenantName, AgentsRequest),
    /// What tenants have and may have; asked by operators.
    Tenants(TenantsRequest),
    /// Whether a change of limits is journaled; also asked by whoever made it.
    Applied(Change),
    /// How much work an agent has.
    Load(AgentName),
}

/// The owner's answer to [`Ask`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// One task, or that there is none.
    View(Option<Box<TaskView>>),
    /// A page, or that there is no such task.
    Children(Option<ChildrenPage>),
    /// A page, or that there is no such task.
    History(Option<HistoryPage>),
    /// Why, or that there is no such task.
    Why(Option<Box<Why>>),
    /// The agents.
    Agents(AgentsReply),
    /// The tenants.
    Tenants(TenantsReply),
    /// Whether it is.
    Applied(bool),
    /// How much.
    Load(Box<AgentLoad>),
    /// Not now, or never.
    Refused(Refusal),
}

impl Queries {
    /// A task as its owner knows it; `None`: there is none.
    pub(super) async fn view(&self, key: &TaskKey) -> Result<Option<TaskView>, Refusal> {
        let asked = key.clone();
        if let Some(view) = self.owner.ask(|reply| OwnerCall::View { key: asked, reply }).await? {
            return Ok(view);
        }
        match self.elsewhere(Ask::View(key.clone())).await? {
            Told::View(view) => Ok(view.map(|view| *view)),
            Told::Refused(refusal) => Err(refusal),
            _ => Err(nonsense()),
        }
    }

    /// Which agents are there.
    pub(super) async fn agents(
        &self,
        tenant: &TenantName,
        request: AgentsRequest,
    ) -> Result<AgentsReply, Refusal> {
        let (of, asked) = (tenant.clone(), request.clone());
        let call = |reply| OwnerCall::Agents { tenant: of, request: asked, reply };
        if let Some(agents) = self.owner.ask(call).await? {
            return Ok(agents);
        }
        match self.elsewhere(Ask::Agents(tenant.clone(), request)).await? {
            Told::Agents(agents) => Ok(agents),
            Told::Refused(refusal) => Err(refusal),
            _ => Err(nonsense()),
        }
    }

    /// Whether a change of limits is journaled.
    pub(super) async fn applied(&self, change: Change) -> Result<bool, Refusal> {
        let asked = change.clone();
        if let Some(applied) = self.owner.ask(|reply| OwnerCall::Applied { change: asked, reply }).await? {
            return applied;
        }
        match self.elsewhere(Ask::Applied(change)).await? {
            Told::Applied(applied) => Ok(applied),
            Told::Refused(refusal) => Err(refusal),
            _ => Err(nonsense()),
        }
    }

    /// How much work an agent has, as its owner saw it last: some seconds ago at most.
    pub async fn load(&self, agent: AgentName) -> Result<AgentLoad, Refusal> {
        if let Some(load) = self.own_load(&agent) {
            return Ok(load);
        }
        match self.elsewhere(Ask::Load(agent)).await? {
            Told::Load(load) => Ok(*load),
            Told::Refused(refusal) => Err(refusal),
            _ => Err(nonsense()),
        }
    }

    fn own_load(&self, agent: &AgentName) -> Option<AgentLoad> {
        let load = || self.loads.borrow().agents.get(agent).cloned().unwrap_or_default();
        self.owner.is_owner().then(load)
    }

    pub(super) async fn elsewhere(&self, ask: Ask) -> Result<Told, Refusal> {
        let subject = subjects::ask(self.shard);
        let answer = self.link.main.ask(subject, codec::pack(&ask), OWNER_ANSWER).await;
        let message = answer.map_err(|error| {
            let why = match error {
                AskError::NoResponders => "no coordinator owns the shard now",
                _ => "the owner does not answer",
            };
            Refusal::new(Code::Unknown, format!("{why}; the task may exist")).retry_after(1_000)
        })?;
        codec::unpack(&message.payload).map_err(|_| nonsense())
    }

    /// The owner's side of a question from another coordinator.
    pub async fn tell(&self, body: &[u8]) -> Bytes {
        let told = match codec::unpack::<Ask>(body) {
            Ok(Ask::View(key)) => match self.owner.ask(|reply| OwnerCall::View { key, reply }).await {
                Ok(Some(view)) => Told::View(view.map(Box::new)),
                Ok(None) => Told::Refused(changing()),
                Err(refusal) => Told::Refused(refusal),
            },
            Ok(Ask::Children(key, after, limit, results)) => {
                let limit = limit.min(1_000);
                let call = |reply| OwnerCall::Children { key, after, limit, results, reply };
                match self.owner.ask(call).await {
                    Ok(Some(page)) => Told::Children(page),
                    Ok(None) => Told::Refused(changing()),
                    Err(refusal) => Told::Refused(refusal),
                }
            }
            Ok(Ask::History(key, place, after)) => {
                match self.owner.ask(|reply| OwnerCall::History { key, place, after, reply }).await {
                    Ok(Some(page)) => Told::History(page),
                    Ok(None) => Told::Refused(changing()),
                    Err(refusal) => Told::Refused(refusal),
                }
            }
            Ok(Ask::Why(key)) => match self.owner.ask(|reply| OwnerCall::Why { key, reply }).await {
                Ok(Some(why)) => Told::Why(why.map(Box::new)),
                Ok(None) => Told::Refused(changing()),
                Err(refusal) => Told::Refused(refusal),
            },
            Ok(Ask::Agents(tenant, request)) => {
                match self.owner.ask(|reply| OwnerCall::Agents { tenant, request, reply }).await {
                    Ok(Some(agents)) => Told::Agents(agents),
                    Ok(None) => Told::Refused(changing()),
                    Err(refusal) => Told::Refused(refusal),
                }
            }
            Ok(Ask::Tenants(request)) => {
                match self.owner.ask(|reply| OwnerCall::Tenants { request, reply }).await {
                    Ok(Some(tenants)) => Told::Tenants(tenants),
                    Ok(None) => Told::Refused(changing()),
                    Err(refusal) => Told::Refused(refusal),
                }
            }
            Ok(Ask::Applied(change)) => {
                match self.owner.ask(|reply| OwnerCall::Applied { change, reply }).await {
                    Ok(Some(Ok(applied))) => Told::Applied(applied),
                    Ok(None) => Told::Refused(changing()),
                    Ok(Some(Err(refusal))) | Err(refusal) => Told::Refused(refusal),
                }
            }
            Ok(Ask::Load(agent)) => match self.own_load(&agent) {
                Some(load) => Told::Load(Box::new(load)),
                None => Told::Refused(changing()),
            },
            Err(error) => Told::Refused(unreadable(&error)),
        };
        codec::pack(&told)
    }
}
