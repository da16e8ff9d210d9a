//! Rates by governor, on our own clock and our own state store.
//!
//! Each check builds a limiter whose clock starts at logical time zero, so that the stored arrival
//! time is absolute: it survives restarts, fail-overs and changed quotas without a free burst and
//! without a false block.

use std::{cell::Cell, num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};
use serde::{Deserialize, Serialize};

use crate::task::Millis;

/// A limiter's whole state: the theoretical arrival time of the next cell, in nanoseconds of logical time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RateState(Option<u64>);

struct Slot(Cell<Option<u64>>);

impl StateStore for Slot {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (value, next) = f(self.0.get().map(Nanos::from))?;
        self.0.set(Some(next.into()));
        Ok(value)
    }
}

/// Logical time as governor sees it.
#[derive(Clone)]
struct At<'a>(&'a Cell<Duration>);

impl Clock for At<'_> {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.get()
    }
}

/// Takes one cell at `now` if there is one; else says when there will be.
fn take(state: &mut RateState, rate: u32, burst: u32, now: Millis) -> Result<(), Millis> {
    let (Some(rate), Some(burst)) = (NonZeroU32::new(rate), NonZeroU32::new(burst)) else {
        return Err(Millis::MAX); // paused
    };
    let clock = Cell::new(Duration::ZERO);
    let limiter: RateLimiter<NotKeyed, Slot, At<'_>, NoOpMiddleware<Duration>> =
        RateLimiter::new(Quota::per_second(rate).allow_burst(burst), Slot(Cell::new(state.0)), At(&clock));
    clock.set(Duration::from_millis(now));
    match limiter.check() {
        Ok(()) => {
            state.0 = limiter.into_state_store().0.get();
            Ok(())
        }
        Err(not_until) => {
            let earliest = not_until.earliest_possible();
            let ms = earliest.as_millis() as u64;
            let up = u64::from(earliest.subsec_nanos() % 1_000_000 != 0);
            Err((ms + up).max(now + 1))
        }
    }
}

impl RateState {
    /// Whether a cell is there at `now`; if not, the logical time of the next one.
    pub fn peek(self, rate: u32, burst: u32, now: Millis) -> Result<(), Millis> {
        take(&mut { self }, rate, burst, now)
    }

    /// Logical time from which on it is as if it had never been used.
    pub fn full_at(self) -> Millis {
        self.0.map_or(0, |arrival| arrival.div_ceil(1_000_000))
    }

    /// Takes a cell. If none is there (a decision made under an older quota), the debt is one cell deeper.
    pub fn charge(&mut self, rate: u32, burst: u32, now: Millis) {
        if take(self, rate, burst, now).is_err() && rate > 0 {
            let cell = 1_000_000_000 / u64::from(rate);
            self.0 = self.0.map(|tat| tat.saturating_add(cell));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every window of every length holds at most rate·w + burst cells.
    #[test]
    fn no_window_holds_more_than_its_share() {
        let (rate, burst) = (20, 100);
        let mut state = RateState::default();
        let mut taken = Vec::new();
        let mut now = 0;
        for step in 0..20_000u64 {
            now += [0, 0, 1, 7, 50][(step % 5) as usize];
            if state.peek(rate, burst, now).is_ok() {
                state.charge(rate, burst, now);
                taken.push(now);
            }
        }
        for (i, from) in taken.iter().enumerate().step_by(37) {
            for (j, to) in taken.iter().enumerate().skip(i) {
                let cells = (j - i + 1) as f64;
                let share = f64::from(rate) * (to - from) as f64 / 1000.0 + f64::from(burst);
                assert!(cells <= share + 1e-6, "{cells} cells in {} ms", to - from);
            }
        }
        assert!(taken.len() > 4_600, "the limiter gives what it may: {}", taken.len());
    }

    #[test]
    fn the_wait_it_names_is_exact() {
        let mut state = RateState::default();
        for _ in 0..5 {
            state.charge(1, 5, 1_000);
        }
        let next = state.peek(1, 5, 1_000).unwrap_err();
        assert_eq!(next, 2_000);
        assert!(state.peek(1, 5, next - 1).is_err());
        assert!(state.peek(1, 5, next).is_ok());
    }

    #[test]
    fn a_rate_of_zero_is_a_pause() {
        assert_eq!(RateState::default().peek(0, 5, 7), Err(Millis::MAX));
    }
}
