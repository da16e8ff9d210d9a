//! Time as the loops see it: real, or running faster so that a 40-minute lease fits into a test.
//!
//! Only durations and intervals go through it; network timeouts stay real.

use std::{
    future::Future,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::task::Millis;

/// A clock that runs `speed` times as fast as the wall. Copies share their start.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    wall_at_start: Millis,
    speed: f64,
}

impl Default for Clock {
    fn default() -> Self {
        Self::real()
    }
}

impl Clock {
    /// Real time.
    pub fn real() -> Self {
        Self::fast(1.0)
    }

    /// Time that runs `speed` times as fast.
    pub fn fast(speed: f64) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            start: Instant::now(),
            wall_at_start: millis(since_epoch),
            speed: if speed.is_finite() && speed > 0.0 { speed } else { 1.0 },
        }
    }

    /// Milliseconds since the clock was made; never goes back.
    pub fn now(&self) -> Millis {
        (self.start.elapsed().as_secs_f64() * self.speed * 1_000.0) as Millis
    }

    /// Unix milliseconds: the system's at speed 1, running ahead of it otherwise.
    pub fn wall(&self) -> Millis {
        if self.speed == 1.0 {
            return millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        }
        self.wall_at_start + self.now()
    }

    /// How long `duration` of this clock lasts on the real one.
    pub fn real_duration(&self, duration: Duration) -> Duration {
        if self.speed == 1.0 { duration } else { duration.div_f64(self.speed) }
    }

    /// The real instant at which `duration` of this clock will have passed.
    pub fn after(&self, duration: Duration) -> Instant {
        Instant::now() + self.real_duration(duration)
    }

    /// Waits for `duration` of this clock.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(self.real_duration(duration)).await;
    }

    /// Gives `future` at most `duration` of this clock; `None` if that was not enough.
    pub async fn within<F: Future>(&self, duration: Duration, future: F) -> Option<F::Output> {
        tokio::time::timeout(self.real_duration(duration), future).await.ok()
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fast_clock_fits_forty_minutes_into_four_seconds() {
        let clock = Clock::fast(600.0);
        let before = Instant::now();
        clock.sleep(Duration::from_secs(40 * 60)).await;
        assert_eq!(before.elapsed().as_secs(), 4);
        assert!((40 * 60_000..41 * 60_000).contains(&clock.now()), "{}", clock.now());
    }
}
