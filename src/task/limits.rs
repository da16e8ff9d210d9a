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
    /// Live leases at once at any one agent; absent: no limit but [`Plan::in_flight`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_in_flight: Option<u32>,
    /// Cells (tokens, say) per minute, of which a task takes its cost; absent: no limit, 0: paused for tasks with a cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<u32>,
    /// Cells at once after a quiet time; absent: those of a minute. A task that costs more is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells_burst: Option<u32>,
    /// Places of [`Plan::in_flight`] that tasks never take, so that calls find one; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_reserve: Option<u32>,
    /// How long a call may take, in milliseconds; absent: [`CALL_MAX_MS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_max_ms: Option<Millis>,
    /// How soon what waits for a slot should have started, in milliseconds: for alerts, nothing is decided by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ms: Option<Millis>,
    /// Nothing of its tenants is dispatched; submits are still taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// How long a call may take if its plan says nothing, in milliseconds.
pub const CALL_MAX_MS: Millis = 60_000;
/// The longest a plan may let calls take, in milliseconds. What takes longer is a task.
const LONGEST_CALL_MS: Millis = 3_600_000;

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
            agent_in_flight: None,
            cells: None,
            cells_burst: None,
            call_reserve: None,
            call_max_ms: None,
            target_ms: None,
            paused: false,
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
            agent_in_flight: None,
            cells: None,
            cells_burst: None,
            call_reserve: None,
            call_max_ms: None,
            target_ms: None,
            paused: false,
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
            agent_in_flight: o.agent_in_flight.or(self.agent_in_flight),
            cells: o.cells.or(self.cells),
            cells_burst: o.cells_burst.or(self.cells_burst),
            call_reserve: o.call_reserve.or(self.call_reserve),
            call_max_ms: o.call_max_ms.or(self.call_max_ms),
            target_ms: o.target_ms.or(self.target_ms),
            paused: self.paused,
        }
    }

    /// Dispatches per second.
    pub fn rate_quota(&self) -> Quota {
        Quota { cells: self.rate, per_ms: 1_000, burst: self.burst }
    }

    /// Cells per minute, if they are limited.
    pub fn cell_quota(&self) -> Option<Quota> {
        cell_quota(self.cells, self.cells_burst)
    }

    /// Live leases at once: one place at least is left to tasks, however many are kept for calls.
    pub fn task_places(&self) -> u32 {
        let kept = self.call_reserve.unwrap_or(0).min(self.in_flight.saturating_sub(1));
        self.in_flight - kept
    }

    /// How long a call may take, in milliseconds.
    pub fn call_ms(&self) -> Millis {
        self.call_max_ms.unwrap_or(CALL_MAX_MS)
    }

    /// Names the first limit that makes no sense, with what to do.
    pub fn check(&self) -> Result<(), String> {
        let longest = self.call_max_ms.is_some_and(|ms| ms == 0 || ms > LONGEST_CALL_MS);
        let reserve = self.call_reserve.is_some_and(|kept| kept > 0 && kept >= self.in_flight);
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
            (self.target_ms == Some(0), "target must be at least a millisecond; leave it out for none"),
            (self.cells.is_none() && self.cells_burst.is_some(), "cells_burst means nothing without cells"),
            (reserve, "call_reserve must be less than in_flight: tasks need a place, too"),
            (longest, "call_max_ms is 1 to 3600000; submit what takes longer"),
        ];
        broken(&rules)?;
        self.cell_quota().map_or(Ok(()), |quota| quota.check("cells"))
    }
}

fn cell_quota(cells: Option<u32>, burst: Option<u32>) -> Option<Quota> {
    cells.map(|cells| Quota { cells, per_ms: 60_000, burst: burst.unwrap_or(cells) })
}

fn broken(rules: &[(bool, &str)]) -> Result<(), String> {
    match rules.iter().find(|(broken, _)| *broken) {
        Some((_, rule)) => Err((*rule).to_owned()),
        None => Ok(()),
    }
}

/// So many cells in so long, on average, and so many at once. 0 cells or a burst of 0: none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// How many.
    pub cells: u32,
    /// In how long, in milliseconds.
    pub per_ms: Millis,
    /// At once after a quiet time.
    pub burst: u32,
}

/// Within this a burst must be there again, in milliseconds: 30 days.
const LONGEST_REFILL: Millis = 30 * DAY;

/// Cells a task may cost, report, or be given per minute, at most.
pub const MAX_CELLS: u32 = 1_000_000_000;

impl Quota {
    /// Whether nothing passes.
    pub fn is_shut(self) -> bool {
        self.cells == 0 || self.burst == 0
    }

    /// Names what makes no sense, with what to do.
    fn check(self, what: &str) -> Result<(), String> {
        if self.cells > MAX_CELLS {
            return Err(format!("{what} is at most {MAX_CELLS}"));
        }
        if self.cells > 0 && self.burst == 0 {
            return Err(format!("the burst of {what} must be at least 1 when {what} is not 0"));
        }
        let refill = u128::from(self.burst) * u128::from(self.per_ms);
        if self.cells > 0 && refill > u128::from(self.cells) * u128::from(LONGEST_REFILL) {
            return Err(format!("the burst of {what} would take more than 30 days to be there again"));
        }
        Ok(())
    }
}

/// The time a rate of an agent is counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Per second.
    #[default]
    Second,
    /// Per minute, as model providers count requests.
    Minute,
    /// Per hour.
    Hour,
}

impl Per {
    /// The word on the wire and on screens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
        }
    }

    /// The inverse of [`Per::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Second, Self::Minute, Self::Hour].into_iter().find(|per| per.as_str() == text)
    }

    /// In milliseconds.
    pub fn millis(self) -> Millis {
        match self {
            Self::Second => 1_000,
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
        }
    }
}

/// What an operator says about an agent: limits that all tenants share. What is absent is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSettings {
    /// Live leases at once; 0: paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// Dispatches per [`AgentSettings::per`], on average; resumes after a wait are free. 0: paused but for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// What the rate is counted by.
    pub per: Per,
    /// Dispatches at once after a quiet time; absent: 1, an even pace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Cells (tokens, say) per minute, of which a task takes its cost; 0: paused for tasks with a cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cells: Option<u32>,
    /// Cells at once after a quiet time; absent: those of a minute. A task that costs more is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cells_burst: Option<u32>,
    /// Nothing is dispatched to it; submits are still taken.
    pub paused: bool,
    /// What runs is stopped, too, and queued again; no try is lost.
    pub stopped: bool,
}

impl AgentSettings {
    /// Dispatches, if they are limited.
    pub fn rate_quota(&self) -> Option<Quota> {
        let burst = self.burst.unwrap_or(1);
        self.rate.map(|cells| Quota { cells, per_ms: self.per.millis(), burst })
    }

    /// Cells per minute, if they are limited.
    pub fn cell_quota(&self) -> Option<Quota> {
        cell_quota(self.cells, self.cells_burst)
    }

    /// Names the first limit that makes no sense, with what to do.
    pub fn check(&self) -> Result<(), String> {
        broken(&[
            (self.rate.is_none() && self.burst.is_some(), "burst means nothing without rate"),
            (self.rate.is_some_and(|rate| rate > 1_000_000), "rate is at most 1000000"),
            (self.cells.is_none() && self.cells_burst.is_some(), "cells_burst means nothing without cells"),
            (self.stopped && !self.paused, "what is stopped must be paused, too"),
        ])?;
        self.rate_quota().map_or(Ok(()), |quota| quota.check("rate"))?;
        self.cell_quota().map_or(Ok(()), |quota| quota.check("cells"))
    }
}

/// What an operator says about everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AllSettings {
    /// Nothing is dispatched; submits are still taken.
    pub paused: bool,
    /// What runs is stopped, too, and queued again; no try is lost.
    pub stopped: bool,
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
    /// See [`Plan::agent_in_flight`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_in_flight: Option<u32>,
    /// See [`Plan::cells`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cells: Option<u32>,
    /// See [`Plan::cells_burst`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cells_burst: Option<u32>,
    /// See [`Plan::call_reserve`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_reserve: Option<u32>,
    /// See [`Plan::call_max_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_max_ms: Option<Millis>,
    /// See [`Plan::target_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ms: Option<Millis>,
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
    /// What runs is stopped, too, and queued again; no try is lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

impl TenantSettings {
    /// Under a plan, with nothing of its own.
    pub fn under(plan: PlanName) -> Self {
        Self { plan, overrides: Overrides::default(), paused: false, suspended: false, stopped: false }
    }
}
