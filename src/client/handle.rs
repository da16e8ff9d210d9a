//! A task somebody submitted or knows the id of.

use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use super::{Client, Ended, Error, Result, Watch, query::told};
use crate::{
    task::{BodyHash, Code, Refusal, TaskId},
    wire::api::{TaskView, Why},
};

/// One task of one tenant. Holds no state of it.
#[derive(Clone)]
pub struct TaskHandle {
    pub(super) client: Client,
    pub(super) id: TaskId,
    /// What this process submitted under the id, if it did.
    pub(super) body_hash: Option<BodyHash>,
    /// When this process submitted it, if it did.
    pub(super) stored: Option<Instant>,
}

impl TaskHandle {
    /// Its id.
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// How it stands now.
    pub async fn get(&self) -> Result<TaskView> {
        self.client.get(&self.id).await
    }

    /// What holds it back, or where it is, with the numbers.
    pub async fn why(&self) -> Result<Why> {
        self.client.why(&self.id).await
    }

    /// Waits for its end, however long that takes. Refused with `IDEMPOTENCY_CONFLICT` if the id
    /// belongs to a task that was submitted with another body.
    pub async fn wait(&self) -> Result<Ended> {
        let ended = self.client.wait_as(&self.id, self.body_hash, self.stored).await?;
        self.ours(ended)
    }

    /// The end of what was submitted here, not of somebody else's task with the same id.
    pub(super) fn ours(&self, ended: Ended) -> Result<Ended> {
        self.check(ended.body_hash)?;
        match ended.refusal {
            // Nothing of the task has this revision: it is the submit that was refused.
            Some(refusal) if ended.rev == 0 => Err(Error::Refused(refusal)),
            _ => Ok(ended),
        }
    }

    /// Waits for its result.
    pub async fn result<T: DeserializeOwned>(&self) -> Result<T> {
        self.wait().await?.result()
    }

    /// Its events and states, from the first.
    pub async fn watch(&self) -> Result<Watch> {
        self.client.watch(&self.id).await
    }

    /// Puts a message into its mailbox.
    pub async fn tell<T: Serialize + ?Sized>(&self, message: &T) -> Result<()> {
        self.client.tell(&self.id, message).await.map(drop)
    }

    /// The same with a name.
    pub async fn signal<T: Serialize + ?Sized>(&self, name: &str, message: &T) -> Result<()> {
        self.client.signal(&self.id, name, message).await.map(drop)
    }

    /// The same, saying who says it.
    pub async fn signal_from<T: Serialize + ?Sized>(
        &self,
        from: &str,
        name: &str,
        message: &T,
    ) -> Result<()> {
        let mut request = told(&self.id, Some(name.to_owned()), message)?;
        request.from = Some(from.to_owned());
        self.client.send(&request).await.map(drop)
    }

    /// Cancels it and everything below it.
    pub async fn cancel(&self, reason: &str) -> Result<()> {
        self.client.cancel(&self.id, reason).await.map(drop)
    }

    pub(super) fn check(&self, found: Option<BodyHash>) -> Result<()> {
        match (self.body_hash, found) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(Error::Refused(Refusal::new(
                Code::IdempotencyConflict,
                format!(
                    "the id {} belongs to a task with another body; that task is untouched, this submit was not taken",
                    self.id
                ),
            ))),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TaskHandle({}/{})", self.client.parts.tenant, self.id)
    }
}

impl Client {
    /// A handle to a task with this id.
    pub fn task(&self, id: &TaskId) -> TaskHandle {
        TaskHandle { client: self.clone(), id: id.clone(), body_hash: None, stored: None }
    }
}
