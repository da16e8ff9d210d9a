//! What can be seen of a NATS server without changing anything on it: limits, clock, coordinators, rights.
//!
//! For `selvedge doctor`; nothing else depends on it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{self, ApiError};
use super::journal::{JournalReader, Room};
use super::service::SERVICE;
use super::snapshots::SnapshotStore;
use super::{BusEvent, Connection, Error};
use crate::wire::subjects::Shard;
use crate::wire::topology::JOURNAL;

/// How long the coordinators have to introduce themselves.
const INTRODUCTIONS: Duration = Duration::from_millis(400);
/// How long the server has to forbid a subscription.
const OBJECTIONS: Duration = Duration::from_millis(200);

/// JetStream as this account may use it. Limits of -1 are no limits.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Account {
    /// Bytes stored on disk.
    #[serde(default)]
    pub storage: i64,
    /// Bytes set aside for streams with a size.
    #[serde(default)]
    pub reserved_storage: i64,
    /// Streams there are.
    #[serde(default)]
    pub streams: i64,
    /// What the account may use.
    #[serde(default)]
    pub limits: AccountLimits,
    /// The API.
    #[serde(default)]
    pub api: Api,
}

/// What an account may use.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AccountLimits {
    /// Bytes on disk.
    pub max_storage: i64,
    /// Streams.
    pub max_streams: i64,
    /// Consumers.
    pub max_consumers: i64,
}

/// The JetStream API.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Api {
    /// Its level.
    pub level: u64,
}

/// A coordinator that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coordinator {
    /// The service instance's id.
    pub id: String,
    /// Its version.
    pub version: String,
}

/// The account's limits.
pub async fn account(connection: &Connection) -> Result<Account, ApiError> {
    let info = api::call(connection.jetstream(), "INFO", &json!({})).await?;
    serde_json::from_value(info)
        .map_err(|error| ApiError::Unavailable { call: "INFO".to_owned(), reason: error.to_string() })
}

/// How far this machine's clock is ahead of the server's, in milliseconds, give or take half a round trip. `None`
/// if there is no stream yet to ask.
pub async fn clock_ahead(connection: &Connection) -> Option<(i64, Duration)> {
    let (began, asked) = (unix_millis()?, Instant::now());
    let info = api::call(connection.jetstream(), &format!("STREAM.INFO.{JOURNAL}"), &json!({})).await.ok()?;
    let round_trip = asked.elapsed();
    let server = async_nats::datetime::parse_rfc3339(info["ts"].as_str()?).ok()?;
    let server = i64::try_from(server.unix_timestamp_nanos() / 1_000_000).ok()?;
    let ours = began + i64::try_from(round_trip.as_millis() / 2).ok()?;
    Some((ours - server, round_trip))
}

/// How full the journal is, and what could take its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrinking {
    /// How full the journal is.
    pub journal: Room,
    /// The newest snapshot that can be read: its age by this machine's clock, and its bytes.
    pub newest: Option<(Duration, u64)>,
    /// What is wrong with others.
    pub broken: Vec<String>,
}

/// How full the journal is and how old the newest snapshot; an error if there are no such streams yet, or no right to look.
pub async fn shrinking(connection: &Connection, shard: Shard) -> Result<Shrinking, String> {
    let js = connection.jetstream();
    let reader = JournalReader::new(js, shard).await.map_err(|error| error.to_string())?;
    let journal = reader.room().await.map_err(|error| error.to_string())?;
    let store = SnapshotStore::new(js, shard).await.map_err(|error| error.to_string())?;
    let (mut newest, mut broken) = (None, Vec::new());
    for manifest in store.manifests().await.map_err(|error| error.to_string())? {
        match manifest {
            Ok(manifest) if newest.is_none() => {
                let now = unix_millis().unwrap_or(0).unsigned_abs();
                newest = Some((Duration::from_millis(now.saturating_sub(manifest.at)), manifest.bytes));
            }
            Ok(_) => {}
            Err(error) => broken.push(error.to_string()),
        }
    }
    Ok(Shrinking { journal, newest, broken })
}

/// The coordinators that introduce themselves.
pub async fn coordinators(connection: &Connection) -> Result<Vec<Coordinator>, Error> {
    let client = connection.client();
    let failed = |reason: String| Error::Other { what: "asking for coordinators".to_owned(), reason };
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| failed(error.to_string()))?;
    client
        .publish_with_reply(format!("$SRV.INFO.{SERVICE}"), inbox, "".into())
        .await
        .map_err(|error| failed(error.to_string()))?;
    let mut found = Vec::new();
    let deadline = tokio::time::Instant::now() + INTRODUCTIONS;
    while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, answers.next()).await {
        // An empty answer means that nobody listens.
        let Ok(info) = serde_json::from_slice::<Value>(&answer.payload) else { break };
        let text = |field: &str| info[field].as_str().unwrap_or("unknown").to_owned();
        found.push(Coordinator { id: text("id"), version: text("version") });
    }
    Ok(found)
}

/// Which of these subjects the user may not subscribe.
pub async fn forbidden(connection: &Connection, subjects: &[String]) -> Result<Vec<String>, Error> {
    let failed = |reason: String| Error::Other { what: "trying subscriptions".to_owned(), reason };
    let mut events = connection.events();
    let mut held = Vec::new();
    for subject in subjects {
        held.push(
            connection
                .client()
                .subscribe(subject.clone())
                .await
                .map_err(|error| failed(error.to_string()))?,
        );
    }
    connection.client().flush().await.map_err(|error| failed(error.to_string()))?;
    let mut forbidden = Vec::new();
    let deadline = tokio::time::Instant::now() + OBJECTIONS;
    while let Ok(Ok(event)) = tokio::time::timeout_at(deadline, events.recv()).await {
        if let BusEvent::Forbidden(said) = event {
            forbidden
                .extend(subjects.iter().filter(|subject| said.contains(&format!("\"{subject}\""))).cloned());
        }
    }
    drop(held);
    Ok(forbidden)
}

fn unix_millis() -> Option<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}
