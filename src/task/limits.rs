//! Plans, and what a tenant may have of its own.

use serde::{Deserialize, Serialize};

use super::{Millis, PlanName, Priority};

/// A named set of limits. 0 for in-flight or rate means: paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Live leases at once.
    pub in_flight: u32,
    /// Dispatches per second, on average; resumes after a wait are free.
    pub rate: u32,
    /// Dispatches at once after a quiet time.
    pub burst: u32,
    /// Root tasks queued or retrying.
    pub backlog: u64,
    /// Depth of a child; a root has depth 0.
    pub depth: u32,
    /// Children of one task.
    pub children: u32,
    /// Tasks of one tree, the root included.
    pub tree: u32,
    /// Share under contention, relative to other tenants.
    pub weight: u32,
    /// The highest class a task may ask for; higher ones are lowered to it.
    pub max_priority: Priority,
    /// Tries before a task is dead.
    pub max_tries: u32,
    /// Terminal tasks kept in the index.
    pub retain_tasks: u64,
    /// How long they are kept, in milliseconds.
    pub retain_ms: Millis,
}

const DAY: Millis = 24 * 3_600_000;

impl Plan {
    /// For trying things out.
    pub fn free() -> Self {
        Self {
            in_flight: 2,
            rate: 1,
            burst: 5,
            backlog: 1_000,
            depth: 3,
            children: 8,
            tree: 100,
            weight: 1,
            max_priority: Priority::Normal,
            max_tries: 3,
            retain_tasks: 1_000,
            retain_ms: DAY,
        }
    }

    /// For production tenants.
    pub fn pro() -> Self {
        Self {
            in_flight: 20,
            rate: 20,
            burst: 100,
            backlog: 100_000,
            depth: 6,
            children: 64,
            tree: 5_000,
            weight: 4,
            max_priority: Priority::High,
            max_tries: 5,
            retain_tasks: 10_000,
            retain_ms: 7 * DAY,
        }
    }

    /// The plans every installation has until it changes them.
    pub fn shipped() -> Vec<(&'static str, Plan)> {
        vec![("free", Plan::free()), ("pro", Plan::pro())]
    }

    /// This plan with a tenant's overrides applied.
    pub fn with(&self, o: &Overrides) -> Plan {
        Plan {
            in_flight: o.in_flight.unwrap_or(self.in_flight),
            rate: o.rate.unwrap_or(self.rate),
            burst: o.burst.unwrap_or(self.burst),
            backlog: o.backlog.unwrap_or(self.backlog),
            depth: o.depth.unwrap_or(self.depth),
            children: o.children.unwrap_or(self.children),
            tree: o.tree.unwrap_or(self.tree),
            weight: o.weight.unwrap_or(self.weight),
            max_priority: o.max_priority.unwrap_or(self.max_priority),
            max_tries: o.max_tries.unwrap_or(self.max_tries),
            retain_tasks: o.retain_tasks.unwrap_or(self.retain_tasks),
            retain_ms: o.retain_ms.unwrap_or(self.retain_ms),
        }
    }

    /// Names the first limit that makes no sense, with what to do.
    pub fn check(&self) -> Result<(), String> {
        let rules = [
            (self.weight == 0, "weight must be at least 1; pause a tenant with in_flight = 0"),
            (self.weight > 10_000, "weight is at most 10000"),
            (self.max_tries == 0, "max_tries must be at least 1"),
            (self.rate > 0 && self.burst == 0, "burst must be at least 1 when rate is not 0"),
            (self.tree == 0, "tree counts the root: it must be at least 1"),
            (self.rate > 1_000_000, "rate is at most 1000000 per second"),
            (self.burst > 10_000_000, "burst is at most 10000000"),
            (self.depth > 64, "depth is at most 64"),
            (self.children > 1_000_000, "children is at most 1000000"),
        ];
        match rules.iter().find(|(broken, _)| *broken) {
            Some((_, rule)) => Err((*rule).to_owned()),
            None => Ok(()),
        }
    }
}

/// Limits of one tenant that differ from its plan's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    /// See [`Plan::in_flight`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// See [`Plan::rate`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// See [`Plan::burst`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// See [`Plan::backlog`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u64>,
    /// See [`Plan::depth`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// See [`Plan::children`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<u32>,
    /// See [`Plan::tree`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree: Option<u32>,
    /// See [`Plan::weight`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// See [`Plan::max_priority`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_priority: Option<Priority>,
    /// See [`Plan::max_tries`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tries: Option<u32>,
    /// See [`Plan::retain_tasks`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_tasks: Option<u64>,
    /// See [`Plan::retain_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_ms: Option<Millis>,
}

/// What an operator says about a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantSettings {
    /// Its plan.
    pub plan: PlanName,
    /// Where it differs from the plan.
    #[serde(default)]
    pub overrides: Overrides,
    /// Nothing of it is dispatched; submits are still taken.
    #[serde(default)]
    pub paused: bool,
    /// Submits are refused too.
    #[serde(default)]
    pub suspended: bool,
}
