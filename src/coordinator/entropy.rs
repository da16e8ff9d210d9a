//! Random numbers from the operating system, fetched many at a time.
//!
//! Every byte is used once, and wiped when it is: what was handed out as a token is nowhere else.

use crate::{flow::input::Entropy, task::Token};

/// Bytes fetched at once: tokens for 32 dispatches.
const POOL: usize = 512;

/// See the module.
pub struct SystemEntropy {
    pool: [u8; POOL],
    used: usize,
}

impl Default for SystemEntropy {
    fn default() -> Self {
        Self { pool: [0; POOL], used: POOL }
    }
}

impl SystemEntropy {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        if self.used + N > POOL {
            // Without random numbers no lease is a secret: there is nothing to go on with.
            getrandom::fill(&mut self.pool)
                .unwrap_or_else(|error| panic!("the operating system gives no random numbers: {error}"));
            self.used = 0;
        }
        let mut out = [0; N];
        let taken = &mut self.pool[self.used..self.used + N];
        out.copy_from_slice(taken);
        taken.fill(0);
        self.used += N;
        out
    }
}

impl Entropy for SystemEntropy {
    fn token(&mut self) -> Token {
        Token(u128::from_ne_bytes(self.take()))
    }

    fn jitter(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_number_comes_twice_whatever_is_asked_for_in_between() {
        let mut entropy = SystemEntropy::default();
        let mut seen = HashSet::new();
        for n in 0..1_000 {
            assert!(seen.insert(entropy.token()));
            if n % 3 == 0 {
                entropy.jitter();
            }
        }
    }
}
