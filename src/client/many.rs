//! Many tasks at once: a good hundred in a message, several messages at once. A stored message costs the same whatever
//! is in it.
//!
//! Each task is admitted or refused on its own; only whether they are stored is decided for a message as a whole.

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::{
    Client, Result, TaskHandle,
    submit::{NewTask, not_stored},
};
use crate::{
    task::BodyHash,
    wire::{
        VERSION, codec,
        messages::{MAX_SUBMITS, Submits, TaskSubmit},
        subjects,
    },
};

/// Tasks in one message; the protocol takes twice as many.
const TOGETHER: usize = MAX_SUBMITS / 2;

/// Bytes of their inputs, roughly; one task may have more.
const TOGETHER_BYTES: usize = 128 * 1024;

/// Messages that await their acknowledgement at once.
const WINDOW: usize = 16;

/// A task on its way, or why it is not.
type Entry = Result<(TaskSubmit, BodyHash)>;

impl Client {
    /// Submits many; the results are in the order of the tasks. `Ok` means stored and will be decided.
    pub async fn submit_many(&self, tasks: impl IntoIterator<Item = NewTask>) -> Vec<Result<TaskHandle>> {
        let mut tasks = tasks.into_iter();
        let messages = std::iter::from_fn(|| self.together(&mut tasks));
        let stored = stream::iter(messages).map(|message| self.store_together(message)).buffered(WINDOW);
        stored.collect::<Vec<_>>().await.into_iter().flatten().collect()
    }

    /// The next tasks that go out in one message.
    fn together(&self, tasks: &mut impl Iterator<Item = NewTask>) -> Option<Vec<Entry>> {
        let most = TOGETHER_BYTES.min(self.parts.link.main.max_payload() / 4);
        let (mut together, mut bytes) = (Vec::new(), 0);
        while together.len() < TOGETHER
            && bytes < most
            && let Some(task) = tasks.next()
        {
            bytes += task.spec.input.len();
            together.push(self.entry(task, false));
        }
        (!together.is_empty()).then_some(together)
    }

    async fn store_together(&self, message: Vec<Entry>) -> Vec<Result<TaskHandle>> {
        let mut tasks = Vec::with_capacity(message.len());
        let mut results = Vec::with_capacity(message.len());
        for entry in message {
            results.push(entry.map(|(task, hash)| {
                let known = (task.task.clone(), hash);
                tasks.push(task);
                known
            }));
        }
        let stored = match tasks.is_empty() {
            true => Ok(()),
            false => {
                let body = codec::pack(&Submits { v: VERSION, tasks });
                let subject = subjects::submits(&self.parts.tenant);
                self.parts.link.bulk.store(&subject, body, self.parts.submit_within).await
            }
        };
        let at = Instant::now();
        let each = results.into_iter().map(|known| {
            let (id, hash) = known?;
            match &stored {
                Ok(()) => Ok(self.stored(id, hash, at)),
                Err(error) => Err(not_stored(error.clone(), id)),
            }
        });
        each.collect()
    }
}
