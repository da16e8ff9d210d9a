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

/// From the beginning of one write to the beginning of the next: `least`, and 1 ms more for so many tasks written, up to
/// `most`; longer if writing itself took long, so that it never takes more than its share of the time.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// However little there is.
    pub least: Duration,
    /// However much there is, if it is written quickly.
    pub most: Duration,
    /// Tasks that add a millisecond.
    pub tasks_per_ms: u32,
    /// The pause is so many times as long as the write took.
    pub rest: u32,
    /// And no longer than that.
    pub longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            least: Duration::from_millis(20),
            most: Duration::from_millis(100),
            tasks_per_ms: 10,
            rest: 3,
            longest: Duration::from_millis(500),
        }
    }
}

impl Pace {
    /// After so many tasks were written in that time.
    pub(super) fn after(self, tasks: usize, took: Duration) -> Duration {
        let more = tasks as u64 / u64::from(self.tasks_per_ms.max(1));
        let gather = (self.least + Duration::from_millis(more)).min(self.most);
        // A write of a thousand tenants with a task each costs ten times as much as one tenant's thousand: what is written
        // less often is written with more of each tenant at once.
        gather.max((took * (self.rest + 1)).min(self.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_gathers_longer_and_a_slow_write_longer_still() {
        let (pace, ms) = (Pace::default(), Duration::from_millis);
        assert_eq!(pace.after(0, ms(1)), ms(20));
        assert_eq!(pace.after(300, ms(5)), ms(50));
        assert_eq!(pace.after(5_000, ms(10)), ms(100));
        assert_eq!(pace.after(5_000, ms(60)), ms(240));
        assert_eq!(pace.after(5_000, ms(2_000)), ms(500));
    }
}
