//! What an operator sees of all tenants at once; asked of the owner on `sv.ask.<shard>`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::task::{Millis, PlanName, TenantName};

/// Which tenants.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TenantsRequest {
    /// Only this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// At most this many, those with the most work: 1 to 1000; 50 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// The tenants that have work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TenantsReply {
    /// With the most work first.
    #[serde(deserialize_with = "crate::task::grown")]
    pub tenants: Vec<TenantLoad>,
    /// Tenants that have work, shown or not.
    pub busy: u64,
    /// Live leases of all, and places held for calls.
    pub running: u64,
    /// The cap on those.
    pub in_flight: u64,
    /// Root tasks queued or retrying, of all.
    pub backlog: u64,
    /// When the owner said so, Unix milliseconds.
    pub at: Millis,
}

/// What a tenant has, and may have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantLoad {
    /// Which.
    pub tenant: TenantName,
    /// Its plan; absent: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanName>,
    /// Nothing of it is dispatched.
    pub paused: bool,
    /// Live leases.
    pub running: u32,
    /// Places held for calls.
    #[serde(default)]
    pub calls: u32,
    /// The cap on both.
    pub in_flight: u32,
    /// Tasks in its lanes.
    pub queued: u64,
    /// The same, by the first [`Reason`](super::Reason) that holds their lane back; `next`: none does.
    pub queued_by: BTreeMap<String, u64>,
    /// Tasks that wait elsewhere: for a time, for children, for their tree to be resumed; and those that are over while
    /// their tree is not.
    pub parked: u64,
    /// Root tasks queued or retrying.
    pub backlog: u64,
    /// The cap on those.
    pub backlog_limit: u64,
    /// Its weight.
    pub weight: u32,
    /// Its part of all live leases now, in thousandths.
    pub share: u32,
    /// The part that its weight gives it among the tenants that have work, in thousandths.
    pub fair_share: u32,
    /// Dispatches it may make at once now.
    pub rate_left: u32,
    /// Dispatches per second.
    pub rate: u32,
    /// Cells it has now, if they are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells_left: Option<u32>,
    /// Cells per minute, if they are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<u32>,
}
