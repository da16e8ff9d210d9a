//! Limits on the command line, one flag each, as `plan set` and `tenant set` take them.

use std::time::Duration;

use clap::Args;

use super::target::{duration, priority};
use crate::task::{Overrides, Priority};

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
        }
    }
}
