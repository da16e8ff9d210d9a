//! How many tasks an instance takes beyond its slots, so that short ones need not wait for the way there and back.
//!
//! A slot that becomes free is filled by an offer that comes a round trip later. A task of seconds does not notice; a task of
//! a millisecond leaves the slot idle half the time. So an instance measures how long its handlers run and how long the owner
//! takes to answer an end. As long as none of the last [`IN_A_ROW`] handlers took [`SHORT`], it asks in its heartbeats for
//! as many tasks more as its slots finish within a round trip.
//!
//! Such an offer is [`Waiting`], and not accepted: an acceptance says that the handler starts, also to whoever has paused
//! everything and is told that nothing starts any more. When a handler ends, the first one is accepted and begins. One
//! that has waited for [`LONGEST`] is declined, and from then on none is asked for until so many short ones have ended
//! again. A process that dies has not accepted what waited, and no try is counted for it.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{task::Token, wire::messages::Offer};

/// A handler that ends sooner may be waited for.
const SHORT: Duration = Duration::from_millis(10);
/// Short ones in a row, before anything is taken ahead.
const IN_A_ROW: u32 = 64;
/// The longest an offer waits for a slot.
const LONGEST: Duration = Duration::from_millis(20);
/// Taken ahead at most, or as many as there are slots if that is more.
const MOST: u32 = 16;
/// Each sample moves the mean by so much of its distance.
const WEIGHT: f64 = 1.0 / 16.0;

/// How many to ask for.
pub(super) struct Ahead {
    slots: u32,
    measured: Mutex<Measured>,
    /// In the last heartbeat, and the one before: offers to the latter may be on their way.
    said: AtomicU32,
    before: AtomicU32,
}

/// Means, in microseconds.
#[derive(Default)]
struct Measured {
    ran: f64,
    away: f64,
    short: u32,
}

impl Ahead {
    pub(super) fn new(slots: u32) -> Self {
        Self { slots, measured: Mutex::default(), said: AtomicU32::new(0), before: AtomicU32::new(0) }
    }

    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An offer has waited too long, or waits no more for another reason: handlers are not as short as they were.
    pub(super) fn declined(&self) {
        self.measured().short = 0;
    }

    /// A handler took so long.
    pub(super) fn ran(&self, took: Duration) {
        let mut measured = self.measured();
        if took >= SHORT {
            measured.short = 0;
            return;
        }
        measured.short = measured.short.saturating_add(1);
        let micros = took.as_secs_f64() * 1e6;
        measured.ran += (micros - measured.ran) * WEIGHT;
    }

    /// The owner answered an end after so long.
    pub(super) fn away(&self, took: Duration) {
        let mut measured = self.measured();
        let micros = took.as_secs_f64() * 1e6;
        measured.away += (micros - measured.away) * WEIGHT;
    }

    /// How many to take ahead.
    fn places(&self) -> u32 {
        let measured = self.measured();
        if measured.short < IN_A_ROW {
            return 0;
        }
        let meanwhile = f64::from(self.slots) * measured.away / measured.ran.max(1.0);
        (meanwhile.ceil() as u32).min(self.slots.max(MOST))
    }

    /// How many to ask for in the heartbeat that leaves now.
    pub(super) fn say(&self) -> u32 {
        let places = self.places();
        self.before.store(self.said.swap(places, Ordering::AcqRel), Ordering::Release);
        places
    }

    /// How many may come.
    pub(super) fn expected(&self) -> u32 {
        self.said.load(Ordering::Acquire).max(self.before.load(Ordering::Acquire))
    }

    /// Whether what was asked for is far from what is needed now.
    pub(super) fn is_off(&self) -> bool {
        let (said, now) = (self.said.load(Ordering::Acquire), self.places());
        (said == 0) != (now == 0) || now > 2 * said || said > 2 * now
    }
}

/// Offers that were not answered yet, in the order they came. Used by the runner alone.
#[derive(Default)]
pub(super) struct Waiting {
    offers: VecDeque<(Offer, Instant)>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.offers.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.offers.len()
    }

    pub(super) fn has(&self, token: &Token) -> bool {
        self.offers.iter().any(|(offer, _)| offer.token == *token)
    }

    pub(super) fn push(&mut self, offer: Offer, now: Instant) {
        self.offers.push_back((offer, now + LONGEST));
    }

    /// The first one, for which there is a slot.
    pub(super) fn pop(&mut self) -> Option<Offer> {
        self.offers.pop_front().map(|(offer, _)| offer)
    }

    /// When the first one has waited for too long.
    pub(super) fn over_at(&self) -> Option<Instant> {
        self.offers.front().map(|(_, over_at)| *over_at)
    }

    /// Takes out those that have waited for too long.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Token> {
        let over = self.offers.iter().take_while(|(_, over_at)| *over_at <= now).count();
        self.offers.drain(..over).map(|(offer, _)| offer.token).collect()
    }

    /// Takes one out. False: it does not wait.
    pub(super) fn remove(&mut self, token: &Token) -> bool {
        let before = self.offers.len();
        self.offers.retain(|(offer, _)| offer.token != *token);
        self.offers.len() < before
    }

    /// Takes all of them out.
    pub(super) fn drain(&mut self) -> Vec<Token> {
        self.offers.drain(..).map(|(offer, _)| offer.token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(slots: u32, ran: Duration, away: Duration) -> Ahead {
        let ahead = Ahead::new(slots);
        for _ in 0..200 {
            ahead.ran(ran);
            ahead.away(away);
        }
        ahead
    }

    #[test]
    fn as_many_as_end_within_a_round_trip() {
        let (ms, us) = (Duration::from_millis, Duration::from_micros);
        assert_eq!(measured(4, ms(1), us(900)).say(), 4);
        assert_eq!(measured(4, ms(2), us(900)).say(), 2);
        assert_eq!(measured(1, us(100), us(900)).say(), 9);
        assert_eq!(measured(1, us(1), ms(9)).say(), MOST);
        assert_eq!(measured(100, us(1), ms(9)).say(), 100);
    }

    #[test]
    fn nothing_is_taken_ahead_of_long_tasks_nor_until_many_were_short() {
        let ms = Duration::from_millis;
        assert_eq!(measured(4, ms(10), ms(1)).say(), 0);
        let ahead = measured(4, ms(1), ms(1));
        assert!(ahead.is_off());
        assert_eq!(ahead.say(), 4);
        assert!(!ahead.is_off());
        ahead.ran(ms(50));
        assert!(ahead.is_off());
        assert_eq!((ahead.say(), ahead.expected()), (0, 4));
        for _ in 0..IN_A_ROW - 1 {
            ahead.ran(ms(1));
        }
        assert_eq!((ahead.say(), ahead.expected()), (0, 0));
        ahead.ran(ms(1));
        assert_eq!(ahead.say(), 4);
    }
}
