//! How many tasks an instance takes beyond its slots, so that short ones need not wait for the way there and back.
//!
//! A slot that becomes free is filled by an offer that comes a round trip later. A task of seconds does not notice; a task of
//! a millisecond leaves the slot idle half the time. So an instance measures how long its handlers run and how long the owner
//! takes to answer an end. As long as none of the last [`IN_A_ROW`] handlers took [`SHORT`], it asks in its heartbeats for
//! as many tasks more as its slots finish within a round trip. They wait at the [`Ahead::turn`] for a handler to end,
//! which takes about that round trip; one that waits for [`LONGEST`] all the same is given back, and from then on nothing
//! is taken ahead until so many short ones have ended again. With long tasks nothing ever waits in an instance.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};

/// A handler that ends sooner may be waited for.
const SHORT: Duration = Duration::from_millis(10);
/// Short ones in a row, before anything is taken ahead.
const IN_A_ROW: u32 = 64;
/// The longest a task waits for its turn.
const LONGEST: Duration = Duration::from_millis(20);
/// Taken ahead at most, or as many as there are slots if that is more.
const MOST: u32 = 16;
/// Each sample moves the mean by so much of its distance.
const WEIGHT: f64 = 1.0 / 16.0;

/// See the module.
pub(super) struct Ahead {
    slots: u32,
    gate: Semaphore,
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
        Self {
            slots,
            gate: Semaphore::new(slots as usize),
            measured: Mutex::default(),
            said: AtomicU32::new(0),
            before: AtomicU32::new(0),
        }
    }

    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a handler; `None`: there was none for so long that the task is better off elsewhere.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(turn) = self.gate.try_acquire() {
            return Some(turn);
        }
        match tokio::time::timeout(LONGEST, self.gate.acquire()).await {
            Ok(turn) => turn.ok(),
            Err(_) => {
                self.measured().short = 0;
                None
            }
        }
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

    #[tokio::test(start_paused = true)]
    async fn what_waits_too_long_is_given_back() {
        let ahead = measured(1, Duration::from_millis(1), Duration::from_millis(1));
        let first = ahead.turn().await;
        assert!(first.is_some());
        assert!(ahead.turn().await.is_none());
        assert_eq!(ahead.say(), 0);
        drop(first);
        assert!(ahead.turn().await.is_some());
    }
}
