//! Limits on the command line, one flag each, as `plan set` and `tenant set` take them.

use std::time::Duration;

use clap::Args;

use super::output::{human_duration, table};
use super::target::{duration, priority};
use crate::task::{Overrides, Plan, Priority};

/// The limits; what is not given stays as it is.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Tasks running at once; 0 pauses
    #[arg(long, value_name = "N")]
    pub in_flight: Option<u32>,

    /// Dispatches per second, on average; 0 pauses
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<u32>,

    /// Dispatches at once after a quiet time
    #[arg(long, value_name = "N")]
    pub burst: Option<u32>,

    /// Root tasks that may wait
    #[arg(long, value_name = "N")]
    pub backlog: Option<u64>,

    /// Generations below a root
    #[arg(long, value_name = "N")]
    pub depth: Option<u32>,

    /// Children of one task
    #[arg(long, value_name = "N")]
    pub children: Option<u32>,

    /// Tasks of one tree, the root included
    #[arg(long, value_name = "N")]
    pub tree: Option<u32>,

    /// Share under contention, relative to other tenants
    #[arg(long, value_name = "N")]
    pub weight: Option<u32>,

    /// Highest class a task may ask for: low, normal, high or critical
    #[arg(long, value_name = "CLASS", value_parser = priority)]
    pub max_priority: Option<Priority>,

    /// Tries before a task is dead
    #[arg(long, value_name = "N")]
    pub max_tries: Option<u32>,

    /// Tasks running at once at any one agent; 0 pauses
    #[arg(long, value_name = "N")]
    pub agent_in_flight: Option<u32>,

    /// Cells (tokens, say) per minute, of which tasks take their cost; 0 pauses tasks with a cost
    #[arg(long, value_name = "PER_MINUTE")]
    pub cells: Option<u32>,

    /// Cells at once after a quiet time [default: those of a minute]
    #[arg(long, value_name = "N")]
    pub cells_burst: Option<u32>,

    /// Places of --in-flight that tasks never take, so that calls find one
    #[arg(long, value_name = "N")]
    pub call_reserve: Option<u32>,

    /// How long a call may take
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub call_max: Option<Duration>,

    /// How soon what waits for a slot should have started: for alerts, nothing is decided by it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub target: Option<Duration>,

    /// Ended tasks that are kept
    #[arg(long, value_name = "N")]
    pub retain_tasks: Option<u64>,

    /// How long ended tasks are kept
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub retain: Option<Duration>,
}

impl LimitArgs {
    /// The limits that were given.
    pub fn overrides(&self) -> Overrides {
        let millis = |d: Duration| d.as_millis().try_into().unwrap_or(u64::MAX);
        Overrides {
            in_flight: self.in_flight,
            rate: self.rate,
            burst: self.burst,
            backlog: self.backlog,
            depth: self.depth,
            children: self.children,
            tree: self.tree,
            weight: self.weight,
            max_priority: self.max_priority,
            max_tries: self.max_tries,
            retain_tasks: self.retain_tasks,
            retain_ms: self.retain.map(millis),
            agent_in_flight: self.agent_in_flight,
            cells: self.cells,
            cells_burst: self.cells_burst,
            call_reserve: self.call_reserve,
            call_max_ms: self.call_max.map(millis),
            target_ms: self.target.map(millis),
        }
    }
}

/// Every limit that counts; with a tenant's own, which of them are its own.
pub fn shown(plan: &Plan, own: Option<&Overrides>) -> String {
    let none = Overrides::default();
    let o = own.unwrap_or(&none);
    let rows = [
        ("in flight", plan.in_flight.to_string(), o.in_flight.is_some()),
        ("rate per second", plan.rate.to_string(), o.rate.is_some()),
        ("burst", plan.burst.to_string(), o.burst.is_some()),
        ("in flight per agent", optional(plan.agent_in_flight), o.agent_in_flight.is_some()),
        ("cells per minute", optional(plan.cells), o.cells.is_some()),
        (
            "cells at once",
            optional(plan.cell_quota().map(|quota| quota.burst)),
            o.cells.is_some() || o.cells_burst.is_some(),
        ),
        ("kept for calls", plan.call_reserve.unwrap_or(0).to_string(), o.call_reserve.is_some()),
        ("a call may take", human_duration(Duration::from_millis(plan.call_ms())), o.call_max_ms.is_some()),
        ("backlog", plan.backlog.to_string(), o.backlog.is_some()),
        ("depth", plan.depth.to_string(), o.depth.is_some()),
        ("children", plan.children.to_string(), o.children.is_some()),
        ("tree", plan.tree.to_string(), o.tree.is_some()),
        ("weight", plan.weight.to_string(), o.weight.is_some()),
        ("max priority", plan.max_priority.as_str().to_owned(), o.max_priority.is_some()),
        ("max tries", plan.max_tries.to_string(), o.max_tries.is_some()),
        (
            "target",
            plan.target_ms.map_or("-".to_owned(), |ms| human_duration(Duration::from_millis(ms))),
            o.target_ms.is_some(),
        ),
        ("retained tasks", plan.retain_tasks.to_string(), o.retain_tasks.is_some()),
        ("retained for", human_duration(Duration::from_millis(plan.retain_ms)), o.retain_ms.is_some()),
    ];
    match own {
        None => table(["LIMIT", "VALUE"], rows.map(|(name, value, _)| [name.to_owned(), value])),
        Some(_) => table(
            ["LIMIT", "VALUE", "FROM"],
            rows.map(|(name, value, own)| {
                [name.to_owned(), value, if own { "tenant" } else { "plan" }.to_owned()]
            }),
        ),
    }
}

/// A limit that need not be there.
pub fn optional(limit: Option<u32>) -> String {
    limit.map_or("-".to_owned(), |limit| limit.to_string())
}

/// `new` over `old`, limit by limit.
pub fn merged(old: Overrides, new: Overrides) -> Overrides {
    Overrides {
        in_flight: new.in_flight.or(old.in_flight),
        rate: new.rate.or(old.rate),
        burst: new.burst.or(old.burst),
        backlog: new.backlog.or(old.backlog),
        depth: new.depth.or(old.depth),
        children: new.children.or(old.children),
        tree: new.tree.or(old.tree),
        weight: new.weight.or(old.weight),
        max_priority: new.max_priority.or(old.max_priority),
        max_tries: new.max_tries.or(old.max_tries),
        retain_tasks: new.retain_tasks.or(old.retain_tasks),
        retain_ms: new.retain_ms.or(old.retain_ms),
        agent_in_flight: new.agent_in_flight.or(old.agent_in_flight),
        cells: new.cells.or(old.cells),
        cells_burst: new.cells_burst.or(old.cells_burst),
        call_reserve: new.call_reserve.or(old.call_reserve),
        call_max_ms: new.call_max_ms.or(old.call_max_ms),
        target_ms: new.target_ms.or(old.target_ms),
    }
}
