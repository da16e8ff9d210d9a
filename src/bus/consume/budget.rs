//! How much may be held that is not decided yet, in bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a budget counts in.
const BUDGET_UNIT: usize = 1024;
/// More than a budget ever has.
const MOST_UNITS: u32 = 1 << 24;
/// What a relieved budget grows by.
const RELIEF: usize = 16 << 20;
/// Bytes of deliveries that may be held unacknowledged at once; the rest waits in the stream. Copies share it.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    /// Of so many bytes, and at least one message of any size.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes / BUDGET_UNIT).clamp(1, MOST_UNITS as usize))))
    }

    /// Grows by as much as it was made with, if nothing is left of it: for when what is held waits for something that is not.
    pub fn relieve(&self) {
        if self.0.available_permits() == 0 {
            self.0.add_permits(RELIEF / BUDGET_UNIT);
        }
    }

    pub(super) async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(BUDGET_UNIT)).unwrap_or(MOST_UNITS).clamp(1, MOST_UNITS);
        let mut all = self.0.clone().acquire_owned().await.ok()?;
        // What is larger than the rest takes what there is: nothing waits for more than the whole budget.
        let more = (units - 1).min(u32::try_from(self.0.available_permits()).unwrap_or(MOST_UNITS));
        if more > 0
            && let Ok(rest) = self.0.clone().try_acquire_many_owned(more)
        {
            all.merge(rest);
        }
        Some(all)
    }
}
