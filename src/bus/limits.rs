//! Plans, tenants, agents, schedules and pauses as operators set them: a KV bucket of JSON, changed by compare-and-set.
//!
//! Written by the CLI and whoever has the rights, read by the owner, which journals every change.

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::entries::{Changed, Entries, EntriesError};
use crate::{
    task::{
        AgentName, AgentSettings, AllSettings, Plan, PlanName, ScheduleName, ScheduleSettings, TenantName,
        TenantSettings,
    },
    wire::topology::{self, LIMITS_BUCKET},
};

/// Larger entries are none of ours.
const MAX_ENTRY: usize = 64 * 1024;

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
    entries: Entries,
}

impl LimitsBucket {
    /// Opens the bucket, which `bus::provision` makes.
    pub async fn open(js: &jetstream::Context) -> Result<Self, EntriesError> {
        Ok(Self { entries: Entries::open(js, LIMITS_BUCKET, MAX_ENTRY).await? })
    }

    /// Every entry, then every change, as they come.
    pub async fn follow(
        &self,
    ) -> Result<impl Stream<Item = Result<Change, EntriesError>> + Unpin + use<>, EntriesError> {
        let (changes, entries) = (self.entries.follow(">").await?, self.entries.clone());
        Ok(changes.map(move |changed| {
            let Changed { key, revision, value } = changed?;
            let limit = parse(&entries, &key, value.as_ref());
            Ok(Change { key, revision, limit })
        }))
    }

    /// Names of all plans that were set.
    pub async fn plans(&self) -> Result<Vec<PlanName>, EntriesError> {
        self.entries.names("plan.").await
    }

    /// Names of all schedules that were set.
    pub async fn schedules(&self) -> Result<Vec<ScheduleName>, EntriesError> {
        self.entries.names("schedule.").await
    }

    /// Names of all tenants that were set.
    pub async fn tenants(&self) -> Result<Vec<TenantName>, EntriesError> {
        self.entries.names("tenant.").await
    }

    /// Names of all agents that were set.
    pub async fn agents(&self) -> Result<Vec<AgentName>, EntriesError> {
        self.entries.names("agent.").await
    }

    /// A plan with its revision.
    pub async fn plan(&self, name: &PlanName) -> Result<Option<(Plan, u64)>, EntriesError> {
        self.entries.get(topology::plan_key(name)).await
    }

    /// A tenant's settings with their revision.
    pub async fn tenant(&self, name: &TenantName) -> Result<Option<(TenantSettings, u64)>, EntriesError> {
        self.entries.get(topology::tenant_key(name)).await
    }

    /// A schedule with its revision.
    pub async fn schedule(
        &self,
        name: &ScheduleName,
    ) -> Result<Option<(ScheduleSettings, u64)>, EntriesError> {
        self.entries.get(topology::schedule_key(name)).await
    }

    /// Sets a schedule if the entry is still at `revision` (`None`: there is none). Returns the new revision. Whether its
    /// cron expression can be read is the caller's to know.
    pub async fn set_schedule(
        &self,
        name: &ScheduleName,
        settings: &ScheduleSettings,
        revision: Option<u64>,
    ) -> Result<u64, EntriesError> {
        settings.check().map_err(|rule| self.entries.nonsense(rule))?;
        self.entries.set(topology::schedule_key(name), settings, revision).await
    }

    /// Removes a schedule; its tasks stay.
    pub async fn remove_schedule(&self, name: &ScheduleName) -> Result<(), EntriesError> {
        self.entries.remove(topology::schedule_key(name)).await
    }

    /// An agent's settings with their revision.
    pub async fn agent(&self, name: &AgentName) -> Result<Option<(AgentSettings, u64)>, EntriesError> {
        self.entries.get(topology::agent_key(name)).await
    }

    /// What holds for everything, with its revision.
    pub async fn all(&self) -> Result<Option<(AllSettings, u64)>, EntriesError> {
        self.entries.get(topology::ALL_KEY.to_owned()).await
    }

    /// Sets a plan if the entry is still at `revision` (`None`: there is none). Returns the new revision.
    pub async fn set_plan(
        &self,
        name: &PlanName,
        plan: &Plan,
        revision: Option<u64>,
    ) -> Result<u64, EntriesError> {
        plan.check().map_err(|rule| self.entries.nonsense(rule))?;
        self.entries.set(topology::plan_key(name), plan, revision).await
    }

    /// Sets a tenant if the entry is still at `revision` (`None`: there is none). Returns the new revision.
    pub async fn set_tenant(
        &self,
        name: &TenantName,
        settings: &TenantSettings,
        revision: Option<u64>,
    ) -> Result<u64, EntriesError> {
        self.entries.set(topology::tenant_key(name), settings, revision).await
    }

    /// Sets an agent if the entry is still at `revision` (`None`: there is none). Returns the new revision.
    pub async fn set_agent(
        &self,
        name: &AgentName,
        settings: &AgentSettings,
        revision: Option<u64>,
    ) -> Result<u64, EntriesError> {
        settings.check().map_err(|rule| self.entries.nonsense(rule))?;
        self.entries.set(topology::agent_key(name), settings, revision).await
    }

    /// Sets what holds for everything if the entry is still at `revision` (`None`: there is none). Returns the new
    /// revision.
    pub async fn set_all(&self, settings: &AllSettings, revision: Option<u64>) -> Result<u64, EntriesError> {
        self.entries.set(topology::ALL_KEY.to_owned(), settings, revision).await
    }

    /// Removes a plan if the entry is still at `revision`. Who may still use it is for the caller to look, and the owner
    /// keeps a plan that has tenants.
    pub async fn remove_plan(&self, name: &PlanName, revision: u64) -> Result<u64, EntriesError> {
        self.entries.remove_at(topology::plan_key(name), revision).await
    }

    /// Removes a tenant's settings if the entry is still at `revision`: it falls back to the default plan.
    pub async fn remove_tenant(&self, name: &TenantName, revision: u64) -> Result<u64, EntriesError> {
        self.entries.remove_at(topology::tenant_key(name), revision).await
    }

    /// Removes an agent's settings if the entry is still at `revision`: it has no limits of its own any more.
    pub async fn remove_agent(&self, name: &AgentName, revision: u64) -> Result<u64, EntriesError> {
        self.entries.remove_at(topology::agent_key(name), revision).await
    }
}

fn parse(entries: &Entries, key: &str, value: Option<&Bytes>) -> Result<Limit, String> {
    if let Some(name) = key.strip_prefix("plan.") {
        let name = PlanName::new(name).map_err(|e| e.to_string())?;
        let plan: Option<Plan> = value.map(|v| entries.read(v)).transpose()?;
        plan.as_ref().map_or(Ok(()), Plan::check)?;
        return Ok(Limit::Plan { name, plan });
    }
    if let Some(name) = key.strip_prefix("tenant.") {
        let name = TenantName::new(name).map_err(|e| e.to_string())?;
        return Ok(Limit::Tenant { name, settings: value.map(|v| entries.read(v)).transpose()? });
    }
    if let Some(name) = key.strip_prefix("schedule.") {
        let name = ScheduleName::new(name).map_err(|e| e.to_string())?;
        let settings: Option<Box<ScheduleSettings>> = value.map(|v| entries.read(v)).transpose()?;
        settings.as_ref().map_or(Ok(()), |settings| settings.check())?;
        return Ok(Limit::Schedule { name, settings });
    }
    if let Some(name) = key.strip_prefix("agent.") {
        let name = AgentName::new(name).map_err(|e| e.to_string())?;
        let settings: Option<AgentSettings> = value.map(|v| entries.read(v)).transpose()?;
        settings.as_ref().map_or(Ok(()), AgentSettings::check)?;
        return Ok(Limit::Agent { name, settings });
    }
    if key == topology::ALL_KEY {
        let settings: Option<AllSettings> = value.map(|v| entries.read(v)).transpose()?;
        return Ok(Limit::All { settings: settings.unwrap_or_default() });
    }
    Err("neither plan.<name>, tenant.<name>, agent.<name>, schedule.<name> nor all".to_owned())
}
