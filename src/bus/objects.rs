//! Large results of steps: objects in chunks, one message a chunk, on a subject of its task, its hash and its number.
//!
//! Instances write them, and have no rights on the JetStream API, so this is not the server's own object store, which
//! needs them. The first message of a subject counts: whoever comes later can't take the place of what was recorded, and
//! a chunk that is published again takes no room. What the bytes are is checked by whoever puts them together: the
//! coordinator never holds an object, only a chunk of one. Purged by the owner alone, when their task is over.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{HeaderMap, jetstream::Context};
use bytes::Bytes;

use super::{
    api::ApiError,
    kept::{Kept, KeptError},
    link::Lane,
    publish::StoreError,
};
use crate::{
    task::{ObjectHash, TaskId, TaskKey, TenantName},
    wire::{headers, subjects, topology::STEPS},
};

/// The objects of all tasks, as coordinators see them. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    kept: Kept,
}

/// Some of what is kept, in the order of the server.
#[derive(Debug, Default)]
pub struct Page {
    /// Whose, with the number of subjects.
    pub tasks: BTreeMap<TaskKey, usize>,
    /// Subjects that name no task: nobody will ever read them.
    pub strangers: Vec<String>,
    /// Subjects on this page.
    pub subjects: usize,
    /// Subjects there are in all.
    pub total: usize,
    /// Everything on it has this sequence at most, or came while it was read.
    pub last_seq: u64,
}

impl Objects {
    /// Asks the server nothing yet.
    pub async fn new(js: &Context) -> Result<Self, ApiError> {
        match Kept::new(js, STEPS).await {
            Ok(kept) => Ok(Self { kept }),
            Err(KeptError::Api(error)) => Err(error),
            Err(other) => {
                Err(ApiError::Unavailable { call: format!("the stream {STEPS}"), reason: other.to_string() })
            }
        }
    }

    /// A chunk; `None`: it is not there.
    pub async fn chunk(
        &self,
        tenant: &TenantName,
        task: &TaskId,
        hash: &ObjectHash,
        chunk: u32,
    ) -> Result<Option<Bytes>, KeptError> {
        let subject = subjects::step_chunk(tenant, task, hash, chunk);
        Ok(self.kept.next(&subject, 1).await?.map(|message| message.payload))
    }

    /// Bytes there are, and bytes there may be.
    pub async fn fill(&self) -> Result<(u64, u64), KeptError> {
        self.kept.fill().await
    }

    /// Whose objects there are, `skip` subjects further on.
    pub async fn page(&self, skip: usize) -> Result<Page, KeptError> {
        let found = self.kept.subjects_from(subjects::STEP_ALL, skip).await?;
        let mut page = Page {
            subjects: found.subjects.len(),
            total: found.total,
            last_seq: found.last_seq,
            ..Page::default()
        };
        for subject in found.subjects {
            match subjects::step_task(&subject) {
                Some(task) => *page.tasks.entry(task).or_default() += 1,
                None => page.strangers.push(subject),
            }
        }
        Ok(page)
    }

    /// Drops everything of a subject.
    pub async fn drop_subject(&self, subject: &str) -> Result<u64, KeptError> {
        self.kept.purge(subject, None).await
    }

    /// Drops everything of a task; with `upto`, only what has this sequence at most. Returns how many messages.
    pub async fn drop_of(&self, task: &TaskKey, upto: Option<u64>) -> Result<u64, KeptError> {
        self.kept.purge(&subjects::steps_of_task(task), upto.map(|seq| seq + 1)).await
    }
}

impl Lane {
    /// Stores a message unless its subject has one already. `Ok`: there is one.
    pub async fn store_once(&self, subject: &str, body: Bytes, within: Duration) -> Result<(), StoreError> {
        let mut first = HeaderMap::new();
        first.insert(headers::EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        match self.store_with(subject, Some(first), body, within).await {
            Err(StoreError::Taken) => Ok(()),
            other => other,
        }
    }
}
