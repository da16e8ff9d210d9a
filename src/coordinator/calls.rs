//! What the query plane may ask of the owner's loop, over one bounded channel.
//!
//! Answered between two journal messages only, so that an answer is acknowledged state. A full
//! channel is a `BUSY`, never a wait in the owner's way.

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    flow::operate::Change,
    task::{Code, Payload, Refusal, TaskKey, TenantName},
    wire::{
        about::{AgentsReply, AgentsRequest},
        api::{ChildrenPage, TaskView, TenantsReply, TenantsRequest, Why},
        history::HistoryPage,
    },
};

/// Questions that may wait at once.
pub const CAPACITY: usize = 1_024;

/// A question.
#[derive(Debug)]
pub enum OwnerCall {
    /// One task as the owner knows it now.
    View {
        /// Which.
        key: TaskKey,
        /// `None`: there is no such task.
        reply: oneshot::Sender<Option<TaskView>>,
    },
    /// A page of a task's children.
    Children {
        /// Whose.
        key: TaskKey,
        /// Skip this many.
        after: u32,
        /// At most this many.
        limit: u32,
        /// With their results.
        results: bool,
        /// `None`: there is no such task.
        reply: oneshot::Sender<Option<ChildrenPage>>,
    },
    /// What holds a task back.
    Why {
        /// Which.
        key: TaskKey,
        /// `None`: there is no such task.
        reply: oneshot::Sender<Option<Why>>,
    },
    /// Which agents are there.
    Agents {
        /// Whose tasks are told of.
        tenant: TenantName,
        /// Which.
        request: AgentsRequest,
        /// Those of which some instance lives.
        reply: oneshot::Sender<AgentsReply>,
    },
    /// What tenants have and may have.
    Tenants {
        /// Which.
        request: TenantsRequest,
        /// All that have work, or some of them.
        reply: oneshot::Sender<TenantsReply>,
    },
    /// A page of what a task was told and what its handler recorded.
    History {
        /// Of which task.
        key: TaskKey,
        /// Steps from this place on.
        place: u32,
        /// Messages after this number.
        after: u32,
        /// `None`: there is no such task.
        reply: oneshot::Sender<Option<HistoryPage>>,
    },
    /// Whether a change of limits is journaled.
    Applied {
        /// Which.
        change: Change,
        /// See [`is_applied`](crate::flow::operate::is_applied).
        reply: oneshot::Sender<Result<bool, Refusal>>,
    },
    /// Which of some tasks are not there or over.
    NotLive {
        /// Of which.
        keys: Vec<TaskKey>,
        /// Those, and the journal sequence up to which the owner knows.
        reply: oneshot::Sender<(Vec<TaskKey>, u64)>,
    },
    /// Results read back from the journal, for the index.
    Results {
        /// Journal sequence, task, result.
        results: Vec<(u64, TaskKey, Payload)>,
        /// Bytes of results waiting now: slow down if they are many.
        reply: oneshot::Sender<usize>,
    },
}

impl OwnerCall {
    /// Whether nobody waits for the answer any more.
    pub fn is_given_up(&self) -> bool {
        match self {
            Self::View { reply, .. } => reply.is_closed(),
            Self::Children { reply, .. } => reply.is_closed(),
            Self::Why { reply, .. } => reply.is_closed(),
            Self::Agents { reply, .. } => reply.is_closed(),
            Self::Tenants { reply, .. } => reply.is_closed(),
            Self::History { reply, .. } => reply.is_closed(),
            Self::Applied { reply, .. } => reply.is_closed(),
            Self::NotLive { reply, .. } => reply.is_closed(),
            Self::Results { reply, .. } => reply.is_closed(),
        }
    }
}

/// The way to the owner's loop while this process is the owner.
#[derive(Debug, Clone)]
pub struct OwnerHandle(watch::Receiver<Option<mpsc::Sender<OwnerCall>>>);

impl OwnerHandle {
    /// A handle, and where the loop says that it is there.
    pub fn new() -> (watch::Sender<Option<mpsc::Sender<OwnerCall>>>, Self) {
        let (tell, told) = watch::channel(None);
        (tell, Self(told))
    }

    /// Whether this process owns the shard.
    pub fn is_owner(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Asks; `Ok(None)`: this process is not the owner.
    pub async fn ask<T>(
        &self,
        call: impl FnOnce(oneshot::Sender<T>) -> OwnerCall,
    ) -> Result<Option<T>, Refusal> {
        let Some(owner) = self.0.borrow().clone() else { return Ok(None) };
        let (reply, answer) = oneshot::channel();
        owner.try_send(call(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Refusal::new(Code::Busy, "the owner has too many questions to answer").retry_after(100)
            }
            mpsc::error::TrySendError::Closed(_) => {
                Refusal::new(Code::Unknown, "the owner is changing").retry_after(1_000)
            }
        })?;
        match answer.await {
            Ok(answer) => Ok(Some(answer)),
            Err(_) => Err(Refusal::new(Code::Unknown, "the owner is changing").retry_after(1_000)),
        }
    }
}
