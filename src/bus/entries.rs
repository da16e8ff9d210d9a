//! A KV bucket of JSON that is changed by compare-and-set. What its entries mean is for [`super::limits`] and
//! [`super::triggers`] to say.

use std::str::FromStr;

use async_nats::jetstream::{self, kv};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::{Serialize, de::DeserializeOwned};

use crate::wire::Format;

/// Why an entry could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum EntriesError {
    /// The bucket is not there, or may not be used.
    #[error("the bucket {bucket} can't be used: {reason}")]
    Bucket {
        /// Which.
        bucket: &'static str,
        /// Why.
        reason: String,
    },
    /// The entry was changed by somebody else since it was read.
    #[error("{key} was changed by somebody else meanwhile; read it again")]
    Conflict {
        /// In which bucket.
        bucket: &'static str,
        /// Which entry.
        key: String,
    },
    /// The entry is not what it should be.
    #[error("{key} can't be read: {reason}")]
    Unreadable {
        /// In which bucket.
        bucket: &'static str,
        /// Which entry.
        key: String,
        /// Why.
        reason: String,
    },
    /// What was to be set makes no sense.
    #[error("{rule}")]
    Nonsense {
        /// For which bucket.
        bucket: &'static str,
        /// The rule it breaks.
        rule: String,
    },
}

impl EntriesError {
    /// Whose bucket it is about.
    pub fn bucket(&self) -> &'static str {
        match self {
            Self::Bucket { bucket, .. }
            | Self::Conflict { bucket, .. }
            | Self::Unreadable { bucket, .. }
            | Self::Nonsense { bucket, .. } => bucket,
        }
    }
}

/// A change of an entry; `value`: absent if it was removed.
pub(super) struct Changed {
    pub key: String,
    pub revision: u64,
    pub value: Option<Bytes>,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Entries {
    store: kv::Store,
    bucket: &'static str,
    /// Larger entries are none of ours.
    most: usize,
}

type Result<T> = std::result::Result<T, EntriesError>;

impl Entries {
    /// Opens a bucket, which `bus::provision` makes. Entries have at most `most` bytes.
    pub async fn open(js: &jetstream::Context, bucket: &'static str, most: usize) -> Result<Self> {
        let store = js.get_key_value(bucket).await;
        let store = store.map_err(|e| EntriesError::Bucket { bucket, reason: e.to_string() })?;
        Ok(Self { store, bucket, most })
    }

    /// Every entry whose key fits, then every change, as they come.
    pub async fn follow(
        &self,
        keys: &str,
    ) -> Result<impl Stream<Item = Result<Changed>> + Unpin + Send + use<>> {
        let watch = self.store.watch_with_history(keys).await.map_err(|e| self.failed(e))?;
        let bucket = self.bucket;
        Ok(watch
            .map(move |entry| {
                let entry = entry.map_err(|e| EntriesError::Bucket { bucket, reason: e.to_string() })?;
                let value = (entry.operation == kv::Operation::Put).then_some(entry.value);
                Ok(Changed { key: entry.key, revision: entry.revision, value })
            })
            .boxed())
    }

    /// What stands behind this prefix in the keys that are there.
    pub async fn names<N: FromStr + Ord>(&self, prefix: &str) -> Result<Vec<N>> {
        let mut keys = self.store.keys().await.map_err(|e| self.failed(e))?;
        let mut names = Vec::new();
        while let Some(key) = keys.next().await {
            let key = key.map_err(|e| self.failed(e))?;
            names.extend(key.strip_prefix(prefix).and_then(|name| name.parse().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// An entry with its revision.
    pub async fn get<T: DeserializeOwned>(&self, key: String) -> Result<Option<(T, u64)>> {
        match self.store.entry(&key).await.map_err(|e| self.failed(e))? {
            Some(entry) if entry.operation == kv::Operation::Put => {
                let value = self.read(&entry.value);
                let value =
                    value.map_err(|reason| EntriesError::Unreadable { bucket: self.bucket, key, reason })?;
                Ok(Some((value, entry.revision)))
            }
            _ => Ok(None),
        }
    }

    /// The value of an entry.
    pub fn read<T: DeserializeOwned>(&self, value: &[u8]) -> std::result::Result<T, String> {
        Format::Json.decode(value, self.most).map_err(|e| e.to_string())
    }

    /// Sets an entry if it is still at `revision` (`None`: there is none). Returns the new revision.
    pub async fn set<T: Serialize>(&self, key: String, value: &T, revision: Option<u64>) -> Result<u64> {
        let body = Bytes::from(serde_json::to_vec(value).map_err(|e| self.nonsense(e.to_string()))?);
        match revision {
            Some(revision) => {
                self.store.update(&key, body, revision).await.map_err(|error| match error.kind() {
                    kv::UpdateErrorKind::WrongLastRevision => self.conflict(&key),
                    _ => self.failed(error),
                })
            }
            None => self.store.create(&key, body).await.map_err(|error| match error.kind() {
                kv::CreateErrorKind::AlreadyExists => self.conflict(&key),
                _ => self.failed(error),
            }),
        }
    }

    /// Removes an entry, whatever it says.
    pub async fn remove(&self, key: String) -> Result<()> {
        self.store.delete(key).await.map_err(|e| self.failed(e))
    }

    /// Removes an entry with all that it ever said.
    pub async fn purge(&self, key: String) -> Result<()> {
        self.store.purge(key).await.map_err(|e| self.failed(e))
    }

    /// Removes an entry if it is still at `revision`. Returns a revision that the removal is not above.
    pub async fn remove_at(&self, key: String, revision: u64) -> Result<u64> {
        let removed = self.store.delete_expect_revision(&key, Some(revision)).await;
        removed.map_err(|error| match error.kind() {
            kv::UpdateErrorKind::WrongLastRevision => self.conflict(&key),
            _ => self.failed(error),
        })?;
        let entry = self.store.entry(&key).await.map_err(|e| self.failed(e))?;
        Ok(entry.map_or(revision, |entry| entry.revision))
    }

    /// What was to be set breaks a rule.
    pub fn nonsense(&self, rule: String) -> EntriesError {
        EntriesError::Nonsense { bucket: self.bucket, rule }
    }

    fn conflict(&self, key: &str) -> EntriesError {
        EntriesError::Conflict { bucket: self.bucket, key: key.to_owned() }
    }

    fn failed(&self, error: impl std::fmt::Display) -> EntriesError {
        EntriesError::Bucket { bucket: self.bucket, reason: error.to_string() }
    }
}
