//! How much an indexer writes at once, and how long it lets changes gather.

use std::time::Duration;

use crate::{bus::Clock, task::Backoff};

/// Sizes and paces.
#[derive(Debug, Clone)]
pub struct IndexerOptions {
    /// Tasks that the owner hands out at once.
    pub max_tasks: usize,
    /// Bytes of results that the owner hands out at once.
    pub max_bytes: usize,
    /// How long changes gather.
    pub pace: Pace,
    /// How often Redis is looked at while nothing is written.
    pub idle_check: Duration,
    /// Pause after a failure, with full jitter.
    pub backoff: Backoff,
    /// For the retention by age of tenants that nobody writes to.
    pub clock: Clock,
}

impl Default for IndexerOptions {
    fn default() -> Self {
        Self {
            max_tasks: 1_000,
            max_bytes: 4 * 1024 * 1024,
            pace: Pace::default(),
            idle_check: Duration::from_secs(1),
            backoff: Backoff { base_ms: 100, cap_ms: 5_000 },
            clock: Clock::real(),
        }
    }
}

/// From the beginning of one write to the beginning of the next: `least`, and 1 ms more for so many tasks
/// written, up to `most`.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// However little there is.
    pub least: Duration,
    /// However much there is.
    pub most: Duration,
    /// Tasks that add a millisecond.
    pub tasks_per_ms: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { least: Duration::from_millis(20), most: Duration::from_millis(100), tasks_per_ms: 10 }
    }
}

impl Pace {
    pub(super) fn after(self, tasks: usize) -> Duration {
        let more = tasks as u64 / u64::from(self.tasks_per_ms.max(1));
        (self.least + Duration::from_millis(more)).min(self.most)
    }
}
