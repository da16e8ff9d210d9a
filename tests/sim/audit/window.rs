//! A quota over every window of time. Knows no tenant and no agent.

use selvedge::task::Quota;

/// A quota, and what was taken of it since it is in force: what is given back is taken away again.
#[derive(Debug, Default)]
pub(super) struct Window {
    quota: Option<Quota>,
    taken: Vec<(u64, i64)>,
}

impl Window {
    pub(super) fn set(&mut self, quota: Option<Quota>) {
        if self.quota != quota {
            self.quota = quota;
            self.taken.clear();
        }
    }

    pub(super) fn settle(&mut self, now: u64, more: i64) {
        if self.quota.is_some() && more != 0 {
            self.taken.push((now, more));
        }
    }

    /// Takes `n`; every window that ends here holds no more than the quota gives. What costs more than the burst may
    /// pass when the burst is there, and is owed. Returns whether there is a quota.
    pub(super) fn take(&mut self, now: u64, n: u32, what: &str) -> Result<bool, String> {
        let Some(quota) = self.quota else { return Ok(false) };
        ensure!(quota.cells > 0 && quota.burst > 0, "I9: {n} {what} of none");
        self.taken.push((now, n.into()));
        let mut sum = 0i128;
        for (from, cells) in self.taken.iter().rev() {
            sum += i128::from(*cells);
            let share = u128::from(quota.cells) * u128::from(now - from)
                + u128::from(quota.burst.max(n)) * u128::from(quota.per_ms);
            ensure!(
                sum <= 0 || sum as u128 * u128::from(quota.per_ms) <= share,
                "I9: {sum} {what} in {} ms of {quota:?}",
                now - from
            );
        }
        Ok(true)
    }
}
