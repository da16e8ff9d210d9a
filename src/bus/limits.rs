//! Plans, tenants, agents, schedules and pauses as operators set them: a KV bucket of JSON, changed by compare-and-set.
//!
//! Written by the CLI and whoever has the rights, read by the owner, which journals every change.

use async_nats::jetstream::{self, kv};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    task::{
        AgentName, AgentSettings, AllSettings, Plan, PlanName, ScheduleName, ScheduleSettings, TenantName,
        TenantSettings,
    },
    wire::{
        Format,
        topology::{self, LIMITS_BUCKET},
    },
};

/// Why limits could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// The bucket is not there, or may not be used.
    #[error("the bucket {LIMITS_BUCKET} can't be used: {0}")]
    Bucket(String),
    /// The entry was changed by somebody else since it was read.
    #[error("{key} was changed by somebody else meanwhile; read it again")]
    Conflict {
        /// Which entry.
        key: String,
    },
    /// The entry holds no limits.
    #[error("{key} can't be read: {reason}")]
    Unreadable {
        /// Which entry.
        key: String,
        /// Why.
        reason: String,
    },
    /// The limits make no sense.
    #[error("{0}")]
    Nonsense(String),
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    /// A plan; `None`: removed.
    Plan {
        /// Which.
        name: PlanName,
        /// Its limits.
        plan: Option<Plan>,
    },
    /// A tenant's settings; `None`: removed.
    Tenant {
        /// Which.
        name: TenantName,
        /// Its settings.
        settings: Option<TenantSettings>,
    },
    /// A schedule; `None`: removed.
    Schedule {
        /// Which.
        name: ScheduleName,
        /// What it does.
        settings: Option<Box<ScheduleSettings>>,
    },
    /// An agent's settings; `None`: removed.
    Agent {
        /// Which.
        name: AgentName,
        /// Its settings.
        settings: Option<AgentSettings>,
    },
    /// What holds for everything.
    All {
        /// As by default if it was removed.
        settings: AllSettings,
    },
}

/// A change of the bucket.
#[derive(Debug)]
pub struct Change {
    /// The entry's key.
    pub key: String,
    /// The bucket's revision.
    pub revision: u64,
    /// What it says, or why it can't be read.
    pub limit: Result<Limit, String>,
}

/// The bucket.
#[derive(Clone)]
pub struct LimitsBucket {
    store: kv::Store,
}

impl LimitsBucket {
    /// Opens the bucket, which `bus::provision` makes.
    pub async fn open(js: &jetstream::Context) -> Result<Self, LimitsError> {
        let store = js.get_key_value(LIMITS_BUCKET).await.map_err(|e| LimitsError::Bucket(e.to_string()))?;
        Ok(Self { store })
    }

    /// Every entry, then every change, as they come.
    pub async fn follow(
        &self,
    ) -> Result<impl Stream<Item = Result<Change, LimitsError>> + Unpin + use<>, LimitsError> {
        let watch =
            self.store.watch_with_history(">").await.map_err(|e| LimitsError::Bucket(e.to_string()))?;
        Ok(watch
            .map(|entry| {
                let entry = entry.map_err(|e| LimitsError::Bucket(e.to_string()))?;
                let value = (entry.operation == kv::Operation::Put).then_some(&entry.value);
                let limit = parse(&entry.key, value);
                Ok(Change { key: entry.key.clone(), revision: entry.revision, limit })
            })
            .boxed())
    }

    /// Names of all plans that were set.
    pub async fn plans(&self) -> Result<Vec<PlanName>, LimitsError> {
        self.names("plan.").await
    }

    /// Names of all schedules that were set.
    pub async fn schedules(&self) -> Result<Vec<ScheduleName>, LimitsError> {
        self.names("schedule.").await
    }

    /// Names of all tenants that were set.
    pub async fn tenants(&self) -> Result<Vec<TenantName>, LimitsError> {
        self.names("tenant.").await
    }

    /// Names of all agents that were set.
    pub async fn agents(&self) -> Result<Vec<AgentName>, LimitsError> {
        self.names("agent.").await
    }

    async fn names<N: std::str::FromStr + Ord>(&self, prefix: &str) -> Result<Vec<N>, LimitsError> {
        let mut keys = self.store.keys().await.map_err(|e| LimitsError::Bucket(e.to_string()))?;
        let mut names = Vec::new();
        while let Some(key) = keys.next().await {
            let key = key.map_err(|e| LimitsError::Bucket(e.to_string()))?;
            names.extend(key.strip_prefix(prefix).and_then(|name| name.parse().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// A plan with its revision.
    pub async fn plan(&self, name: &PlanName) -> Result<Option<(Plan, u64)>, LimitsError> {
        self.get(topology::plan_key(name)).await
    }

    /// A tenant's settings with their revision.
    pub async fn tenant(&self, name: &TenantName) -> Result<Option<(TenantSettings, u64)>, LimitsError> {
        self.get(topology::tenant_key(name)).await
    }

    /// A schedule with its revision.
    pub async fn schedule(
        &self,
        name: &ScheduleName,
    ) -> Result<Option<(ScheduleSettings, u64)>, LimitsError> {
        self.get(topology::schedule_key(name)).await
    }

    /// Sets a schedule if the entry is still at `revision` (`None`: there is none). Returns the new revision. Whether its
    /// cron expression can be read is the caller's to know.
    pub async fn set_schedule(
        &self,
        name: &ScheduleName,
        settings: &ScheduleSettings,
        revision: Option<u64>,
    ) -> Result<u64, LimitsError> {
        settings.check().map_err(LimitsError::Nonsense)?;
        self.set(topology::schedule_key(name), settings, revision).await
    }

    /// Removes a schedule; its tasks stay.
    pub async fn remove_schedule(&self, name: &ScheduleName) -> Result<(), LimitsError> {
        let key = topology::schedule_key(name);
        self.store.delete(key).await.map_err(|e| LimitsError::Bucket(e.to_string()))
    }

    /// An agent's settings with their revision.
    pub async fn agent(&self, name: &AgentName) -> Result<Option<(AgentSettings, u64)>, LimitsError> {
        self.get(topology::agent_key(name)).await
    }

    /// What holds for everything, with its revision.
    pub async fn all(&self) -> Result<Option<(AllSettings, u64)>, LimitsError> {
        self.get(topology::ALL_KEY.to_owned()).await
    }

    /// Sets a plan if the entry is still at `revision` (`None`: there is none). Returns the new revision.
    pub async fn set_plan(
        &self,
        name: &PlanName,
        plan: &Plan,
        revision: Option<u64>,
    ) -> Result<u64, LimitsError> {
        plan.check().map_err(LimitsError::Nonsense)?;
        self.set(topology::plan_key(name), plan, revision).await
    }

    /// Sets a tenant if the entry is still at `revision` (`None`: there is none). Returns the new revision.
    pub async fn set_tenant(
        &self,
        name: &TenantName,
        settings: &TenantSettings,
        revision: Option<u64>,
    ) -> Result<u64, LimitsError> {
        self.set(topology::tenant_key(name), settings, revision).await
    }

    /// Sets an agent if the entry is still at `revision` (`None`: there is none). Returns the new revision.
    pub async fn set_agent(
        &self,
        name: &AgentName,
        settings: &AgentSettings,
        revision: Option<u64>,
    ) -> Result<u64, LimitsError> {
        settings.check().map_err(LimitsError::Nonsense)?;
        self.set(topology::agent_key(name), settings, revision).await
    }

    /// Sets what holds for everything if the entry is still at `revision` (`None`: there is none). Returns the new
    /// revision.
    pub async fn set_all(&self, settings: &AllSettings, revision: Option<u64>) -> Result<u64, LimitsError> {
        self.set(topology::ALL_KEY.to_owned(), settings, revision).await
    }

    /// Removes a plan if the entry is still at `revision`. Who may still use it is for the caller to look, and the owner
    /// keeps a plan that has tenants.
    pub async fn remove_plan(&self, name: &PlanName, revision: u64) -> Result<u64, LimitsError> {
        self.remove(topology::plan_key(name), revision).await
    }

    /// Removes a tenant's settings if the entry is still at `revision`: it falls back to the default plan.
    pub async fn remove_tenant(&self, name: &TenantName, revision: u64) -> Result<u64, LimitsError> {
        self.remove(topology::tenant_key(name), revision).await
    }

    /// Removes an agent's settings if the entry is still at `revision`: it has no limits of its own any more.
    pub async fn remove_agent(&self, name: &AgentName, revision: u64) -> Result<u64, LimitsError> {
        self.remove(topology::agent_key(name), revision).await
    }

    /// Returns a revision that the removal is not above.
    async fn remove(&self, key: String, revision: u64) -> Result<u64, LimitsError> {
        let removed = self.store.delete_expect_revision(&key, Some(revision)).await;
        removed.map_err(|error| match error.kind() {
            kv::UpdateErrorKind::WrongLastRevision => LimitsError::Conflict { key: key.clone() },
            _ => LimitsError::Bucket(error.to_string()),
        })?;
        let entry = self.store.entry(&key).await.map_err(|e| LimitsError::Bucket(e.to_string()))?;
        Ok(entry.map_or(revision, |entry| entry.revision))
    }

    async fn get<T: DeserializeOwned>(&self, key: String) -> Result<Option<(T, u64)>, LimitsError> {
        let entry = self.store.entry(&key).await.map_err(|e| LimitsError::Bucket(e.to_string()))?;
        match entry {
            Some(entry) if entry.operation == kv::Operation::Put => {
                let value = read(&entry.value).map_err(|reason| LimitsError::Unreadable { key, reason })?;
                Ok(Some((value, entry.revision)))
            }
            _ => Ok(None),
        }
    }

    async fn set<T: Serialize>(
        &self,
        key: String,
        value: &T,
        revision: Option<u64>,
    ) -> Result<u64, LimitsError> {
        let body = Bytes::from(serde_json::to_vec(value).map_err(|e| LimitsError::Nonsense(e.to_string()))?);
        match revision {
            Some(revision) => {
                self.store.update(&key, body, revision).await.map_err(|error| match error.kind() {
                    kv::UpdateErrorKind::WrongLastRevision => LimitsError::Conflict { key: key.clone() },
                    _ => LimitsError::Bucket(error.to_string()),
                })
            }
            None => self.store.create(&key, body).await.map_err(|error| match error.kind() {
                kv::CreateErrorKind::AlreadyExists => LimitsError::Conflict { key: key.clone() },
                _ => LimitsError::Bucket(error.to_string()),
            }),
        }
    }
}

/// Larger entries are none of ours.
const MAX_ENTRY: usize = 64 * 1024;

fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    Format::Json.decode(value, MAX_ENTRY).map_err(|e| e.to_string())
}

fn parse(key: &str, value: Option<&Bytes>) -> Result<Limit, String> {
    if let Some(name) = key.strip_prefix("plan.") {
        let name = PlanName::new(name).map_err(|e| e.to_string())?;
        let plan: Option<Plan> = value.map(|v| read(v)).transpose()?;
        plan.as_ref().map_or(Ok(()), Plan::check)?;
        return Ok(Limit::Plan { name, plan });
    }
    if let Some(name) = key.strip_prefix("tenant.") {
        let name = TenantName::new(name).map_err(|e| e.to_string())?;
        return Ok(Limit::Tenant { name, settings: value.map(|v| read(v)).transpose()? });
    }
    if let Some(name) = key.strip_prefix("schedule.") {
        let name = ScheduleName::new(name).map_err(|e| e.to_string())?;
        let settings: Option<Box<ScheduleSettings>> = value.map(|v| read(v)).transpose()?;
        settings.as_ref().map_or(Ok(()), |settings| settings.check())?;
        return Ok(Limit::Schedule { name, settings });
    }
    if let Some(name) = key.strip_prefix("agent.") {
        let name = AgentName::new(name).map_err(|e| e.to_string())?;
        let settings: Option<AgentSettings> = value.map(|v| read(v)).transpose()?;
        settings.as_ref().map_or(Ok(()), AgentSettings::check)?;
        return Ok(Limit::Agent { name, settings });
    }
    if key == topology::ALL_KEY {
        let settings: Option<AllSettings> = value.map(|v| read(v)).transpose()?;
        return Ok(Limit::All { settings: settings.unwrap_or_default() });
    }
    Err("neither plan.<name>, tenant.<name>, agent.<name>, schedule.<name> nor all".to_owned())
}
