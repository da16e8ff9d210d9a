//! What of a stream is decided, for consumers without acknowledgements: everything below the first message that
//! is not may be deleted, all of it at once.
//!
//! ```text
//! delivered   9 10 11 12 13 14 15        purge ─▶ 9 10 gone: 11 is the floor
//! settled     x  x     x  x
//! ```
//!
//! A message counts as settled only when its reader said so, and the floor never passes one that does not: also
//! not one that was never delivered here. A jump in the sequence is therefore looked into (see [`Seen::Jump`]) and
//! never taken for granted. So a purge deletes only what is decided, whoever owns the shard by then. What is not
//! yet purged when a reader goes comes again to the next one.
//!
//! Used by [`super::noted`] only. One ledger lives as long as one unbroken pull.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::jetstream::Context;
use serde_json::json;
use tokio::time::Instant;

use crate::bus::api::{self, ApiError, StreamState};

/// How often it is looked whether a purge is worth it.
const LOOK: Duration = Duration::from_millis(100);
/// Messages that make a purge worth it at once.
const MANY: u64 = 8_192;
/// Bytes that do.
const MANY_BYTES: u64 = 4 * 1024 * 1024;
/// How long fewer of them wait while messages come: a purge holds the stream up for some milliseconds, and whoever
/// publishes then waits.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long nothing must have come for them to wait no longer.
const QUIET: Duration = Duration::from_millis(500);
/// How long the floor may stand still while much behind it is settled. Longer: somebody dropped a message undecided.
const STANDSTILL: Duration = Duration::from_secs(60);

/// What a delivery means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The next one.
    Next,
    /// What lies between the last one and this one (from here on, exclusive) did not come.
    Jump(u64),
    /// It was here before: somebody has rewound the consumer.
    Again,
}

#[derive(Debug)]
struct Marks {
    /// Everything before it is settled or gone.
    floor: u64,
    /// From the floor on: what was delivered, and whether it is settled.
    settled: VecDeque<bool>,
    /// Settled and not purged.
    messages: u64,
    bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger(Mutex<Marks>);

impl Ledger {
    /// Nothing before `first` exists any more.
    pub(super) fn new(first: u64) -> Self {
        let settled = VecDeque::new();
        Self(Mutex::new(Marks { floor: first, settled, messages: 0, bytes: 0 }))
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a delivery; only the next one is taken.
    pub(super) fn deliver(&self, seq: u64) -> Seen {
        let mut marks = self.marks();
        let next = marks.next();
        match seq.cmp(&next) {
            std::cmp::Ordering::Equal => {
                marks.settled.push_back(false);
                Seen::Next
            }
            std::cmp::Ordering::Greater => Seen::Jump(next),
            std::cmp::Ordering::Less => Seen::Again,
        }
    }

    /// There is nothing before `seq` that was not delivered.
    pub(super) fn pass(&self, seq: u64) {
        let mut marks = self.marks();
        while marks.next() < seq {
            marks.settled.push_back(true);
        }
        marks.advance();
    }

    /// A message is decided.
    pub(super) fn settle(&self, seq: u64, bytes: usize) {
        let mut marks = self.marks();
        let at = seq.checked_sub(marks.floor).and_then(|at| usize::try_from(at).ok());
        if let Some(settled) = at.and_then(|at| marks.settled.get_mut(at))
            && !std::mem::replace(settled, true)
        {
            marks.messages += 1;
            marks.bytes += bytes as u64;
            marks.advance();
        }
    }

    /// The sequence the next delivery should have.
    pub(super) fn next(&self) -> u64 {
        self.marks().next()
    }
}

impl Marks {
    fn next(&self) -> u64 {
        self.floor + self.settled.len() as u64
    }

    fn advance(&mut self) {
        while self.settled.front() == Some(&true) {
            self.settled.pop_front();
            self.floor += 1;
        }
    }
}

/// Whether the stream holds a message from `from` on, before `before`.
pub(super) async fn is_there(js: &Context, stream: &str, from: u64, before: u64) -> Result<bool, ApiError> {
    let body = json!({"seq": from, "next_by_subj": ">"});
    let found = api::call(js, &format!("STREAM.MSG.GET.{stream}"), &body).await?;
    Ok(found["message"]["seq"].as_u64().is_none_or(|seq| seq < before))
}

/// Purges what is settled, while the stream is the one that `opened` describes. Ends with the reason when it is not.
pub(super) async fn purge(js: &Context, stream: &str, ledger: &Ledger, opened: &StreamState) -> String {
    let many_bytes = MANY_BYTES.min(opened.max_bytes / 8);
    let mut purged = opened.first_seq;
    let mut last = Instant::now();
    // Where the floor is, and since when.
    let mut stands = (purged, last);
    loop {
        tokio::time::sleep(LOOK).await;
        let (floor, next, messages, bytes) = {
            let marks = ledger.marks();
            (marks.floor, marks.next(), marks.messages, marks.bytes)
        };
        if stands.0 != floor {
            stands = (floor, Instant::now());
        } else if messages >= MANY && stands.1.elapsed() > STANDSTILL {
            return format!("message {floor} was given up undecided");
        }
        let quiet = floor == next && stands.1.elapsed() >= QUIET;
        let worth = messages >= MANY || bytes >= many_bytes || quiet || last.elapsed() >= PATIENCE;
        if floor == purged || !worth {
            continue;
        }
        match once(js, stream, floor, opened).await {
            Ok(None) => {
                let mut marks = ledger.marks();
                marks.messages = marks.messages.saturating_sub(messages);
                marks.bytes = marks.bytes.saturating_sub(bytes);
                (purged, last) = (floor, Instant::now());
            }
            Ok(Some(reason)) => return reason,
            Err(error) => tracing::debug!(stream, %error, "what is decided could not be purged; later"),
        }
    }
}

/// One purge of everything before `floor`; the reason if the stream is another one now, whose messages have the
/// numbers of ours.
async fn once(
    js: &Context,
    stream: &str,
    floor: u64,
    opened: &StreamState,
) -> Result<Option<String>, ApiError> {
    let now = api::stream_state(js, stream).await?;
    if now.created != opened.created || now.last_seq + 1 < floor {
        return Ok(Some("the stream was made anew".to_owned()));
    }
    api::call(js, &format!("STREAM.PURGE.{stream}"), &json!({"seq": floor})).await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor(ledger: &Ledger) -> u64 {
        ledger.marks().floor
    }

    #[test]
    fn the_floor_never_passes_what_is_undecided() {
        let ledger = Ledger::new(9);
        for seq in 9..15 {
            assert_eq!(ledger.deliver(seq), Seen::Next);
        }
        for seq in [10, 12, 13, 14] {
            ledger.settle(seq, 1);
        }
        assert_eq!(floor(&ledger), 9);
        ledger.settle(9, 1);
        assert_eq!(floor(&ledger), 11);
        ledger.settle(11, 1);
        assert_eq!((floor(&ledger), ledger.next()), (15, 15));
        // Twice, or from another life, changes nothing.
        ledger.settle(11, 1);
        ledger.settle(99, 1);
        assert_eq!((floor(&ledger), ledger.marks().messages), (15, 6));
    }

    #[test]
    fn a_jump_is_not_passed_until_it_is_known_to_be_empty() {
        let ledger = Ledger::new(1);
        assert_eq!(ledger.deliver(1), Seen::Next);
        assert_eq!(ledger.deliver(4), Seen::Jump(2));
        ledger.settle(1, 1);
        ledger.settle(4, 1);
        assert_eq!(floor(&ledger), 2);
        ledger.pass(4);
        assert_eq!(ledger.deliver(4), Seen::Next);
        assert_eq!(ledger.deliver(2), Seen::Again);
        ledger.settle(4, 1);
        assert_eq!(floor(&ledger), 5);
    }
}
