//! What a task was told and what its handler recorded, as the state holds it; payloads are references into the journal.
//!
//! A handler runs from its start whenever it is resumed or retried. Its calls that record something or wait are counted:
//! the *place*. What is recorded at a place is final, whatever attempt it was, so a later one is given it back and goes
//! on where the former stood. A mailbox is the same thing seen from outside: messages are kept in the order they came,
//! and one is *taken* when it is recorded at a place. A signal is a message with a name.
//!
//! Kept while the task lives, within the bounds of [`crate::task::MAX_HISTORY`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    entry::{Stored, Task},
    record::{Hash, What},
};
use crate::{
    task::{Millis, Object, TaskId, WaitFor, grown},
    wire::history::Did,
};

/// A message as it was told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Where it stands.
    pub message: Stored,
    /// Of what it is recognised by when it comes again: enough of a hash of the nonce, for one task's messages.
    nonce: u64,
    /// Its name, of a signal.
    pub signal: Option<Box<str>>,
    /// Who says it.
    pub from: Option<Box<str>>,
    /// Unix milliseconds.
    pub at: Millis,
    /// It is recorded at a place.
    pub taken: bool,
}

/// What is recorded at a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Of the step or the signal; empty for a message without a name and for a time.
    pub name: Box<str>,
    /// What it was.
    pub did: Recorded,
}

/// See [`Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Recorded {
    /// The result of a step.
    Result(Stored),
    /// The message of this number.
    Took(u32),
    /// No message came in time.
    TimedOut,
    /// A time has passed.
    Slept,
    /// The result of a step, kept outside of the journal.
    Kept(Object),
}

impl Recorded {
    /// Whether this is what was reported.
    pub fn is(&self, did: &Did) -> bool {
        match (self, did) {
            (Self::Result(stored), Did::Result(result)) => {
                *stored == Stored::of(result, stored.rev().unwrap_or_default())
            }
            (Self::Took(seq), Did::Took(reported)) => seq == reported,
            (Self::Kept(object), Did::Kept(reported)) => object == reported,
            _ => false,
        }
    }
}

/// What a waiting task waits for, if not for children.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Awaits {
    /// Where it is recorded.
    pub place: u32,
    /// For what.
    pub what: Awaited,
}

/// See [`Awaits`]. An option in an option would not outlive being written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Awaited {
    /// A message, of this name or without one.
    Message(Option<Box<str>>),
    /// A time.
    Time,
}

/// See the module.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    #[serde(deserialize_with = "grown")]
    told: Vec<Told>,
    entries: BTreeMap<u32, Entry>,
    /// While waiting.
    pub awaits: Option<Awaits>,
    /// So many messages from the first on are taken.
    taken: u32,
    /// Messages that are not taken, and bytes of them.
    open: (u32, u32),
    /// Bytes of everything in the journal.
    bytes: u64,
    /// Bytes of everything that is kept outside.
    #[serde(default)]
    kept: u64,
}

/// Enough of a nonce to tell one task's messages apart.
fn short(nonce: &TaskId) -> u64 {
    let hash = Hash::of(nonce.as_str().as_bytes());
    u64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| hash.0[at]))
}

impl History {
    /// Messages and entries there ever were.
    pub fn len(&self) -> usize {
        self.told.len() + self.entries.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of everything in the journal.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of everything that is kept outside of it.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Messages that are not taken, and bytes of them.
    pub fn open(&self) -> (usize, usize) {
        (self.open.0 as usize, self.open.1 as usize)
    }

    /// All messages, from 1.
    pub fn told(&self) -> impl Iterator<Item = (u32, &Told)> {
        (1..).zip(&self.told)
    }

    /// How many messages there ever were.
    pub fn count_told(&self) -> u32 {
        self.told.len() as u32
    }

    /// The message of this number.
    pub fn message(&self, seq: u32) -> Option<&Told> {
        self.told.get((seq as usize).checked_sub(1)?)
    }

    /// Everything that is recorded, by place.
    pub fn entries(&self) -> &BTreeMap<u32, Entry> {
        &self.entries
    }

    /// The number of a message told with this nonce.
    pub fn knows(&self, nonce: &TaskId) -> bool {
        let nonce = short(nonce);
        self.told.iter().any(|told| told.nonce == nonce)
    }

    /// The first message that is not taken, of this name or without one.
    pub fn next_of(&self, signal: Option<&str>) -> Option<u32> {
        let mut open = self.told().skip(self.taken as usize);
        open.find(|(_, told)| !told.taken && told.signal.as_deref() == signal).map(|(seq, _)| seq)
    }

    /// Where a payload stands.
    pub fn stored(&self, what: What) -> Option<Stored> {
        match what {
            What::Message(seq) => self.message(seq).map(|told| told.message),
            What::Step(place) => match self.entries.get(&place)?.did {
                Recorded::Result(stored) => Some(stored),
                _ => None,
            },
            What::Input | What::Result => None,
        }
    }

    /// All that stand anywhere.
    pub fn all_stored(&self) -> impl Iterator<Item = (What, Stored)> {
        let messages = (1..).zip(&self.told).map(|(seq, told)| (What::Message(seq), told.message));
        let steps = self.entries.iter().filter_map(|(place, entry)| match entry.did {
            Recorded::Result(stored) => Some((What::Step(*place), stored)),
            _ => None,
        });
        messages.chain(steps)
    }

    /// A payload was written again.
    pub(super) fn carried(&mut self, what: What, to: Stored) {
        match what {
            What::Message(seq) => {
                if let Some(told) = self.told.get_mut((seq as usize).wrapping_sub(1)) {
                    told.message = to;
                }
            }
            What::Step(place) => {
                if let Some(entry) = self.entries.get_mut(&place) {
                    entry.did = Recorded::Result(to);
                }
            }
            What::Input | What::Result => {}
        }
    }

    pub(super) fn put(
        &mut self,
        message: Stored,
        nonce: &TaskId,
        signal: Option<&str>,
        from: Option<&str>,
        at: Millis,
    ) {
        self.bytes = self.bytes.saturating_add(message.len() as u64);
        self.open.0 = self.open.0.saturating_add(1);
        self.open.1 = self.open.1.saturating_add(message.len() as u32);
        let (signal, from) = (signal.map(Box::from), from.map(Box::from));
        self.told.push(Told { message, nonce: short(nonce), signal, from, at, taken: false });
    }

    pub(super) fn record(&mut self, place: u32, name: &str, did: Recorded) {
        match did {
            Recorded::Result(stored) => self.bytes = self.bytes.saturating_add(stored.len() as u64),
            Recorded::Took(seq) => {
                if let Some(told) = self.told.get_mut((seq as usize).wrapping_sub(1)) {
                    told.taken = true;
                    self.open.0 = self.open.0.saturating_sub(1);
                    self.open.1 = self.open.1.saturating_sub(told.message.len() as u32);
                }
                while self.told.get(self.taken as usize).is_some_and(|told| told.taken) {
                    self.taken += 1;
                }
            }
            Recorded::Kept(object) => self.kept = self.kept.saturating_add(object.bytes),
            Recorded::TimedOut | Recorded::Slept => {}
        }
        self.entries.insert(place, Entry { name: name.into(), did });
    }

    /// The wait is over by itself: with the first message it may take, if there is one.
    pub(super) fn answer(&mut self) -> bool {
        let Some(Awaits { place, what: Awaited::Message(signal) }) = &self.awaits else { return false };
        let (place, signal) = (*place, signal.clone());
        let Some(seq) = self.next_of(signal.as_deref()) else { return false };
        self.awaits = None;
        self.record(place, signal.as_deref().unwrap_or_default(), Recorded::Took(seq));
        true
    }

    /// The time of the wait is over.
    pub(super) fn pass(&mut self) {
        match self.awaits.take() {
            Some(Awaits { place, what: Awaited::Message(signal) }) => {
                self.record(place, signal.as_deref().unwrap_or_default(), Recorded::TimedOut);
            }
            Some(Awaits { place, what: Awaited::Time }) => self.record(place, "", Recorded::Slept),
            None => {}
        }
    }
}

impl Awaits {
    /// What a handler waits for; `None`: for children.
    pub fn of(wait: &WaitFor) -> Option<Self> {
        match wait {
            WaitFor::AllChildren | WaitFor::Children(_) => None,
            WaitFor::Message { place, signal, .. } => {
                Some(Self { place: *place, what: Awaited::Message(signal.as_deref().map(Box::from)) })
            }
            WaitFor::Time { place, .. } => Some(Self { place: *place, what: Awaited::Time }),
        }
    }
}

impl Task {
    /// What it was told and what its handler recorded, if anything.
    pub fn history(&self) -> Option<&History> {
        self.more().history.as_deref()
    }

    pub(super) fn history_mut(&mut self) -> &mut History {
        self.more_mut().history.get_or_insert_default()
    }

    /// Where one of its payloads stands, if it has that.
    pub(super) fn stored(&self, what: What) -> Option<Stored> {
        match what {
            What::Input => Some(self.input),
            What::Result => self.more().result,
            What::Message(_) | What::Step(_) => self.history()?.stored(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{ObjectHash, Payload};

    fn told(history: &mut History, signals: &[Option<&str>]) {
        for signal in signals {
            let at = history.len();
            let message = Stored::of(&Payload::json(&"four").unwrap(), 7);
            history.put(message, &format!("n-{at}").parse().unwrap(), *signal, None, 0);
        }
    }

    #[test]
    fn what_was_written_down_before_there_were_objects_is_read() {
        let entries = BTreeMap::from([(0u32, ("pay", "Slept"))]);
        let open = (0u32, 0u32);
        let former = rmp_serde::to_vec(&(Vec::<()>::new(), entries, None::<()>, 0u32, open, 7u64)).unwrap();
        let mut history: History = rmp_serde::from_slice(&former).unwrap();
        assert_eq!((history.len(), history.bytes(), history.kept()), (1, 7, 0));
        let object = Object { hash: ObjectHash::of(b"pages"), bytes: 5 << 20, chunks: 10 };
        history.record(1, "scrape", Recorded::Kept(object));
        let again: History = rmp_serde::from_slice(&rmp_serde::to_vec(&history).unwrap()).unwrap();
        assert_eq!((again.kept(), again.bytes()), (5 << 20, 7));
        assert_eq!(again, history);
    }

    #[test]
    fn each_name_has_its_own_order_and_what_is_taken_is_not_next() {
        let mut history = History::default();
        told(&mut history, &[Some("go"), None, Some("go"), None]);
        assert_eq!((history.next_of(None), history.next_of(Some("go"))), (Some(2), Some(1)));
        history.record(0, "", Recorded::Took(2));
        assert_eq!((history.next_of(None), history.next_of(Some("go"))), (Some(4), Some(1)));
        history.record(1, "go", Recorded::Took(1));
        history.record(2, "", Recorded::Took(4));
        assert_eq!((history.next_of(None), history.next_of(Some("go"))), (None, Some(3)));
        assert_eq!((history.open(), history.len()), ((1, 6), 7));
        assert!(history.knows(&"n-2".parse().unwrap()) && !history.knows(&"n-4".parse().unwrap()));
    }

    #[test]
    fn a_wait_is_answered_once_by_a_message_or_by_its_time() {
        let mut history = History::default();
        let wait = WaitFor::Message { place: 3, signal: Some("go".into()), within_ms: None };
        history.awaits = Awaits::of(&wait);
        told(&mut history, &[None]);
        assert!(!history.answer(), "another's name");
        told(&mut history, &[Some("go")]);
        assert!(history.answer() && !history.answer());
        history.pass();
        assert_eq!(history.entries()[&3].did, Recorded::Took(2));
        history.awaits = Awaits::of(&WaitFor::Message { place: 4, signal: None, within_ms: Some(1) });
        history.pass();
        assert_eq!(history.entries()[&4].did, Recorded::TimedOut);
        assert_eq!(history.next_of(None), Some(1), "what comes later stays");
    }
}
