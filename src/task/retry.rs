//! Exponential backoff with full jitter.

use serde::{Deserialize, Serialize};

use super::Millis;

/// Delay before try `n + 1`: uniform in `0 ..= min(cap, base · 2^(n-1))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Upper bound of the first delay, in milliseconds.
    pub base_ms: Millis,
    /// Upper bound of any delay, in milliseconds.
    pub cap_ms: Millis,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base_ms: 1_000, cap_ms: 5 * 60_000 }
    }
}

impl Backoff {
    /// `tries` lost so far (≥ 1); `jitter` any random number.
    pub fn delay(&self, tries: u32, jitter: u64) -> Millis {
        let doublings = tries.saturating_sub(1).min(32);
        let bound = self.base_ms.saturating_mul(1 << doublings).min(self.cap_ms);
        ((u128::from(jitter) * (u128::from(bound) + 1)) >> 64) as Millis
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_span_the_whole_range_and_never_pass_the_cap() {
        let b = Backoff::default();
        assert_eq!(b.delay(1, 0), 0);
        assert_eq!(b.delay(1, u64::MAX), 1_000);
        assert_eq!(b.delay(3, u64::MAX), 4_000);
        assert_eq!(b.delay(40, u64::MAX), 300_000);
    }
}
