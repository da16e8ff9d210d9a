//! Rates by governor, on our own clock and our own state store.
//!
//! A [`Limiter`] is charged with a limiter whose clock starts at logical time zero, so that the stored arrival time is
//! absolute: it survives restarts and fail-overs. When its quota changes, what was used and is not there again yet is
//! carried over in cells: no free burst, no false block. When the next cells are there follows from the arrival time
//! by arithmetic; nothing is built for it.

use std::{cell::Cell, num::NonZeroU32, time::Duration};

use governor::{
    Quota as Governed, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};
use serde::{Deserialize, Serialize};

use crate::task::{Millis, Quota};

const MS: u64 = 1_000_000;
/// No arrival is later: 146 years. What is reckoned from it does not overflow.
const LATEST: u64 = u64::MAX / 4;

/// The theoretical arrival time of the next cell, in nanoseconds of logical time; none: never used.
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

/// Nanoseconds per cell, rounded up: never faster than the quota says.
fn interval(quota: Quota) -> u64 {
    (quota.per_ms.saturating_mul(MS)).div_ceil(u64::from(quota.cells.max(1))).max(1)
}

/// Takes `n` cells at `now` if they are there.
fn take(state: RateState, quota: Quota, n: NonZeroU32, now: Millis) -> Option<RateState> {
    let burst = NonZeroU32::new(quota.burst)?;
    let governed = Governed::with_period(Duration::from_nanos(interval(quota)))?.allow_burst(burst);
    let clock = Cell::new(Duration::ZERO);
    let limiter: RateLimiter<NotKeyed, Slot, At<'_>, NoOpMiddleware<Duration>> =
        RateLimiter::new(governed, Slot(Cell::new(state.0)), At(&clock));
    clock.set(Duration::from_millis(now));
    match limiter.check_n(n) {
        Ok(Ok(())) => Some(RateState(limiter.into_state_store().0.get())),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// One limit: what it gives, and what was taken of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limiter {
    state: RateState,
    /// The last quota that let anything pass: the state is counted by it.
    basis: Option<Quota>,
    /// In force; absent: no limit. Follows from the settings.
    #[serde(skip)]
    quota: Option<Quota>,
}

impl Limiter {
    /// As a snapshot holds it.
    pub fn kept(state: RateState, basis: Option<Quota>) -> Self {
        Self { state, basis, quota: None }
    }

    /// The two of [`Limiter::kept`].
    pub fn parts(&self) -> (RateState, Option<Quota>) {
        (self.state, self.basis)
    }

    /// What is in force; `None`: no limit.
    pub fn quota(&self) -> Option<Quota> {
        self.quota
    }

    /// Logical time from which on it is as if it had never been used.
    pub fn full_at(&self) -> Millis {
        self.state.0.map_or(0, |arrival| arrival.div_ceil(MS))
    }

    /// Logical time at which `n` cells are there; for more than the burst, at which it is full. [`Millis::MAX`]: never.
    pub fn free_at(&self, n: u32) -> Millis {
        let Some(quota) = self.quota.filter(|_| n > 0) else { return 0 };
        if quota.is_shut() {
            return Millis::MAX;
        }
        let Some(arrival) = self.state.0 else { return 0 };
        let missing = u64::from(quota.burst - n.min(quota.burst));
        arrival.saturating_sub(interval(quota).saturating_mul(missing)).div_ceil(MS)
    }

    /// Logical time at which the last of the next `n` cells is there, if each is taken as soon as it is; 0: no limit.
    pub fn nth_at(&self, n: u64, now: Millis) -> Millis {
        let Some(quota) = self.quota.filter(|_| n > 0) else { return 0 };
        if quota.is_shut() {
            return Millis::MAX;
        }
        let from = self.state.0.unwrap_or(0).max(now.saturating_mul(MS));
        let (burst, each) = (u64::from(quota.burst), interval(quota));
        let at = match n.checked_sub(burst) {
            Some(more) => from.saturating_add(each.saturating_mul(more)),
            None => from.saturating_sub(each.saturating_mul(burst - n)),
        };
        at.div_ceil(MS)
    }

    /// Cells that are there at `now`, whole ones; `None`: no limit.
    pub fn left(&self, now: Millis) -> Option<u32> {
        let quota = self.quota?;
        let debt = self.state.0.unwrap_or(0).saturating_sub(now.saturating_mul(MS));
        let used = u32::try_from(debt.div_ceil(interval(quota))).unwrap_or(u32::MAX);
        Some(if quota.is_shut() { 0 } else { quota.burst.saturating_sub(used) })
    }

    /// Takes `n` cells. If they are not there (more than the burst, or decided under an older quota), the debt is so much
    /// deeper. Returns whether it took them: without a limit there are none to take.
    pub fn charge(&mut self, n: u32, now: Millis) -> bool {
        let (Some(quota), Some(cells)) = (self.quota, NonZeroU32::new(n)) else { return false };
        match take(self.state, quota, cells, now) {
            Some(state) => self.state = state,
            None => self.owe(n, now),
        }
        true
    }

    /// More was used than was taken.
    pub fn owe(&mut self, n: u32, now: Millis) {
        let Some(quota) = self.quota.filter(|quota| !quota.is_shut()) else { return };
        let from = self.state.0.unwrap_or(0).max(now.saturating_mul(MS));
        let cells = interval(quota).saturating_mul(u64::from(n));
        self.state.0 = Some(from.saturating_add(cells).min(LATEST));
    }

    /// Less was used than was taken. What is full stays full.
    pub fn give_back(&mut self, n: u32) {
        let Some(basis) = self.basis else { return };
        let cells = interval(basis).saturating_mul(u64::from(n));
        self.state.0 = self.state.0.map(|arrival| arrival.saturating_sub(cells));
    }

    /// What was taken ahead is settled to what was used.
    pub fn settle(&mut self, taken: u32, used: u32, now: Millis) {
        if used > taken {
            self.owe(used - taken, now);
        } else {
            self.give_back(taken - used);
        }
    }

    /// Another quota is in force from `now` on. What is missing of the burst is missing of the new one, too, but never
    /// more than all of it; what is owed beyond that stays owed.
    pub fn set_quota(&mut self, quota: Option<Quota>, now: Millis) {
        self.quota = quota;
        let Some(new) = quota.filter(|quota| !quota.is_shut()) else { return };
        let old = self.basis.replace(new);
        let (Some(old), Some(arrival)) = (old.filter(|old| *old != new), self.state.0) else { return };
        let now = now.saturating_mul(MS);
        let debt = u128::from(arrival.saturating_sub(now));
        if debt == 0 {
            return;
        }
        let (from, to) = (u128::from(interval(old)), u128::from(interval(new)));
        let burst = debt.min(from * u128::from(old.burst));
        let missing = (burst * to).div_ceil(from).min(to * u128::from(new.burst));
        let owed = ((debt - burst) * to).div_ceil(from);
        let debt = u64::try_from(missing + owed).unwrap_or(u64::MAX);
        self.state.0 = Some(now.saturating_add(debt).min(LATEST));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limiter(cells: u32, per_ms: Millis, burst: u32) -> Limiter {
        let mut limiter = Limiter::default();
        limiter.set_quota(Some(Quota { cells, per_ms, burst }), 0);
        limiter
    }

    fn is_free(limiter: &Limiter, now: Millis) -> bool {
        limiter.free_at(1) <= now
    }

    /// Every window of every length holds at most rate·w + burst cells.
    #[test]
    fn no_window_holds_more_than_its_share() {
        let (rate, burst) = (20, 100);
        let mut limiter = limiter(rate, 1_000, burst);
        let mut taken = Vec::new();
        let mut now = 0;
        for step in 0..20_000u64 {
            now += [0, 0, 1, 7, 50][(step % 5) as usize];
            if is_free(&limiter, now) {
                limiter.charge(1, now);
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
        let mut limiter = limiter(1, 1_000, 5);
        for _ in 0..5 {
            limiter.charge(1, 1_000);
        }
        assert_eq!(limiter.free_at(1), 2_000);
        assert_eq!((limiter.left(1_000), limiter.left(2_000)), (Some(0), Some(1)));
    }

    #[test]
    fn the_wait_of_the_nth_is_that_of_taking_all_before_it() {
        let mut limiter = limiter(10, 1_000, 3);
        limiter.charge(2, 1_000);
        let told: Vec<Millis> = (1..=6).map(|n| limiter.nth_at(n, 1_000)).collect();
        let mut taken = Vec::new();
        let mut now = 1_000;
        for _ in 0..6 {
            now = now.max(limiter.free_at(1));
            limiter.charge(1, now);
            taken.push(now);
        }
        let told: Vec<Millis> = told.into_iter().map(|at| at.max(1_000)).collect();
        assert_eq!(told, taken);
    }

    #[test]
    fn a_rate_of_zero_is_a_pause_and_none_is_no_limit() {
        assert_eq!(limiter(0, 1_000, 5).free_at(1), Millis::MAX);
        assert_eq!(limiter(0, 1_000, 5).free_at(0), 0, "what costs nothing needs nothing");
        let mut none = Limiter::default();
        assert_eq!((none.free_at(7), none.charge(7, 3), none.left(3)), (0, false, None));
    }

    #[test]
    fn what_costs_more_than_the_burst_waits_for_all_of_it_and_is_owed() {
        let mut limiter = limiter(60, 60_000, 10);
        limiter.charge(3, 0);
        assert_eq!(limiter.free_at(25), 3_000);
        limiter.charge(25, 3_000);
        assert_eq!((limiter.free_at(1), limiter.left(3_000)), (3_000 + 16_000, Some(0)));
    }

    fn quotas() -> impl Strategy<Value = Quota> {
        (1u32..5_000, prop_oneof![Just(1_000u64), Just(60_000), Just(3_600_000)], 1u32..500)
            .prop_map(|(cells, per_ms, burst)| Quota { cells, per_ms, burst })
    }

    proptest! {
        /// The arithmetic and governor agree on when cells are there, to the millisecond.
        #[test]
        fn governor_says_the_same(
            quota in quotas(),
            steps in proptest::collection::vec((0u64..20_000, 1u32..20, any::<bool>()), 1..40),
        ) {
            let mut limiter = Limiter::default();
            limiter.set_quota(Some(quota), 0);
            let mut now = 0;
            for (pause, n, back) in steps {
                now += pause;
                let cells = NonZeroU32::new(n.min(quota.burst)).unwrap();
                let at = limiter.free_at(cells.get());
                prop_assert_eq!(take(limiter.state, quota, cells, now).is_some(), at <= now);
                if at > now {
                    prop_assert!(take(limiter.state, quota, cells, at).is_some());
                    prop_assert!(take(limiter.state, quota, cells, at - 1).is_none());
                }
                limiter.charge(n, now);
                if back {
                    limiter.give_back(n / 2);
                }
            }
        }

        /// Whatever the quotas, before and after a change: never more is free than before, never more is missing than
        /// the new burst, unless it was owed.
        #[test]
        fn a_changed_quota_carries_its_debt_over(
            old in quotas(),
            new in quotas(),
            used in 0u32..600,
            wait in 0u64..5_000,
            pause in any::<bool>(),
        ) {
            let mut limiter = Limiter::default();
            limiter.set_quota(Some(old), 0);
            limiter.charge(used, 10);
            let now = 10 + wait;
            let debt = limiter.state.0.unwrap_or(0).saturating_sub(now * MS);
            let missing = debt.div_ceil(interval(old));
            if pause {
                limiter.set_quota(Some(Quota { cells: 0, ..old }), now);
                prop_assert_eq!(limiter.free_at(1), Millis::MAX);
            }
            limiter.set_quota(Some(new), now);
            let owed = missing.saturating_sub(u64::from(old.burst));
            let want = missing.min(u64::from(old.burst)).min(u64::from(new.burst)) + owed;
            let after = limiter.state.0.unwrap_or(0).saturating_sub(now * MS);
            let found = after.div_ceil(interval(new));
            prop_assert!(found == want || found + 1 == want, "{} cells missing, was {}", found, want);
            // No false block: what is not owed is back within the time the quota gives it in.
            if owed == 0 {
                let back = (now * MS + interval(new) * u64::from(new.burst)).div_ceil(MS);
                prop_assert!(limiter.free_at(new.burst) <= back);
            }
        }

        /// What was set aside and not used is there again, and no more than that.
        #[test]
        fn what_is_given_back_is_as_if_it_had_not_been_taken(quota in quotas(), n in 1u32..500, m in 0u32..500) {
            let (taken, used) = (n.max(m), n.min(m));
            let mut settled = Limiter::default();
            settled.set_quota(Some(quota), 0);
            let mut exact = settled;
            settled.charge(taken, 1_000);
            settled.give_back(taken - used);
            exact.charge(used, 1_000);
            prop_assert_eq!(settled.free_at(1).max(1_000), exact.free_at(1).max(1_000));
            prop_assert_eq!(settled.left(1_000), exact.left(1_000));
        }
    }
}
