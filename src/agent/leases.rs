//! Which leases an instance holds, and which it held lately. Used by the runner alone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{attempt::Attempt, voice::Said};
use crate::task::{Millis, Token};

/// Released leases that are remembered; offers are repeated for a second or so only.
const RELEASED: usize = 1_024;

/// A lease this instance has accepted and that is not released.
struct Held {
    attempt: Arc<Attempt>,
    /// When the handler is dropped if it is still there.
    drop_at: Option<Instant>,
}

/// How an offer is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It is not.
    New,
    /// It was accepted.
    Held,
    /// Its end was decided: it must not start again.
    Released,
}

/// See the module.
#[derive(Default)]
pub(super) struct Leases {
    held: HashMap<Token, Held>,
    released: Released,
}

impl Leases {
    pub(super) fn know(&self, token: &Token) -> Known {
        if self.held.contains_key(token) {
            Known::Held
        } else if self.released.tokens.contains(token) {
            Known::Released
        } else {
            Known::New
        }
    }

    pub(super) fn take(&mut self, attempt: Arc<Attempt>) {
        self.held.insert(attempt.offer.token, Held { attempt, drop_at: None });
    }

    pub(super) fn get(&self, token: &Token) -> Option<&Arc<Attempt>> {
        self.held.get(token).map(|held| &held.attempt)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Attempt>> {
        self.held.values().map(|held| &held.attempt)
    }

    pub(super) fn tokens(&self) -> Vec<Token> {
        self.held.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// The shortest lease held.
    pub(super) fn shortest(&self) -> Option<Millis> {
        self.all().map(|attempt| attempt.offer.lease_ms).min()
    }

    pub(super) fn release(&mut self, token: Token) {
        if self.held.remove(&token).is_some() {
            self.released.add(token);
        }
    }

    /// The handler is dropped at `at` unless it is gone by then.
    pub(super) fn drop_handler_at(&mut self, token: &Token, at: Instant) {
        if let Some(held) = self.held.get_mut(token) {
            held.drop_at.get_or_insert(at);
        }
    }

    /// Drops the handlers whose time is over.
    pub(super) fn drop_handlers(&mut self, now: Instant) {
        for held in self.held.values_mut() {
            if held.drop_at.is_some_and(|at| at <= now) {
                held.drop_at = None;
                held.attempt.drop_handler();
            }
        }
    }

    /// What is to be published again now.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Said> {
        let mut again = Vec::new();
        self.all().for_each(|attempt| attempt.overdue(now, &mut again));
        again
    }

    /// When it is to be looked next whether something is due; `None` while nothing is held.
    pub(super) fn look_at(&self, now: Instant) -> Option<Instant> {
        let soonest = |held: &Held| {
            let look: Duration = held.attempt.look_every();
            held.drop_at.map_or(now + look, |at| at.min(now + look))
        };
        self.held.values().map(soonest).min()
    }
}

impl Drop for Leases {
    /// An instance that ends leaves no handler behind, and nothing is reported after it.
    fn drop(&mut self) {
        for attempt in self.all() {
            attempt.lease_over();
            attempt.drop_handler();
        }
    }
}

/// The last [`RELEASED`] of them.
#[derive(Default)]
struct Released {
    tokens: HashSet<Token>,
    order: VecDeque<Token>,
}

impl Released {
    fn add(&mut self, token: Token) {
        if !self.tokens.insert(token) {
            return;
        }
        self.order.push_back(token);
        if self.order.len() > RELEASED
            && let Some(oldest) = self.order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_released_leases_are_remembered_and_no_more() {
        let mut released = Released::default();
        for n in 0..RELEASED as u128 + 10 {
            released.add(Token(n));
            released.add(Token(n));
        }
        assert_eq!((released.tokens.len(), released.order.len()), (RELEASED, RELEASED));
        assert!(released.tokens.contains(&Token(10)) && !released.tokens.contains(&Token(9)));
    }
}
