//! What a snapshot is made of: its head, and the entries of its parts. Knows neither how they are gathered nor where they
//! go.
//!
//! The order of fields and the names of variants are the format.

use serde::{Deserialize, Serialize};

use crate::{
    flow::{
        fair::KeptQueue,
        kept::{KeptTask, TaskRef},
        limiter::{Limiter, RateState},
        permits::Permit,
        record::Hash,
        schedules::Schedule,
        state::Policy,
    },
    task::{
        AgentName, AgentSettings, AllSettings, Millis, Plan, PlanName, Quota, ScheduleName, TenantName,
        TenantSettings,
    },
    wire::subjects::Shard,
};

/// Version of the format.
pub const SNAPSHOT_VERSION: u32 = 1;

/// How many entries of each kind a snapshot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Tenants.
    pub tenants: u64,
    /// Agents.
    pub agents: u64,
    /// Tasks.
    pub tasks: u64,
    /// Schedules.
    #[serde(default)]
    pub schedules: u64,
    /// Blocks of places for calls.
    #[serde(default)]
    pub permits: u64,
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotHead {
    /// Version of the format.
    pub v: u32,
    /// Whose state.
    pub shard: Shard,
    /// Stream sequence of the last journal message in it.
    pub seq: u64,
    /// Its revision.
    pub rev: u64,
    /// Its hash.
    pub head: Hash,
    /// Its epoch.
    pub epoch: u64,
    /// Its logical time.
    pub now: Millis,
    /// Its wall time.
    pub wall: Millis,
    /// As of the last owner.
    pub policy: Policy,
    /// With the revision of their KV entries.
    #[serde(deserialize_with = "crate::task::grown")]
    pub plans: Vec<(PlanName, Plan, u64)>,
    /// The next number in the order of arrival.
    pub next_order: u64,
    /// What tenants that left took with them.
    pub departed: Option<Millis>,
    /// What an operator said about everything, with the revision of its KV entry.
    #[serde(default)]
    pub all: (AllSettings, u64),
    /// What the parts hold together.
    pub counts: Counts,
}

/// A tenant as a snapshot holds it.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptTenant {
    pub(super) number: u32,
    pub(super) name: TenantName,
    pub(super) settings: Option<TenantSettings>,
    pub(super) kv_rev: u64,
    pub(super) rate: RateState,
    pub(super) forgotten: Option<Millis>,
    pub(super) idle_since: Option<Millis>,
    #[serde(default)]
    pub(super) rate_basis: Option<Quota>,
    #[serde(default)]
    pub(super) cells: Limiter,
}

/// An agent as a snapshot holds it.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptAgent {
    pub(super) number: u32,
    pub(super) name: AgentName,
    pub(super) queue: Option<KeptQueue>,
    #[serde(default)]
    pub(super) own: Option<KeptGoverned>,
}

/// An agent's own limits.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptGoverned {
    pub(super) settings: AgentSettings,
    pub(super) kv_rev: u64,
    pub(super) rate: Limiter,
    pub(super) cells: Limiter,
}

/// One thing in a part.
#[derive(Serialize)]
#[allow(clippy::large_enum_variant, reason = "made and written one at a time, never kept")]
pub(super) enum EntryRef<'a> {
    #[serde(rename = "n")]
    Tenant(KeptTenant),
    #[serde(rename = "a")]
    Agent(KeptAgent),
    #[serde(rename = "s")]
    Schedule(&'a ScheduleName, &'a Schedule),
    #[serde(rename = "p")]
    Permit(u32, u32, Permit),
    #[serde(rename = "t")]
    Task(TaskRef<'a, u32, u32>),
}

/// The same, read back.
#[derive(Deserialize)]
pub(super) enum Entry {
    #[serde(rename = "n")]
    Tenant(Box<KeptTenant>),
    #[serde(rename = "a")]
    Agent(Box<KeptAgent>),
    #[serde(rename = "s")]
    Schedule(ScheduleName, Box<Schedule>),
    #[serde(rename = "p")]
    Permit(u32, u32, Permit),
    #[serde(rename = "t")]
    Task(Box<KeptTask>),
}
