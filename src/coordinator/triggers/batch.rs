//! Messages that wait for each other, until there are enough of them or the first has waited long enough.
//!
//! A batch's messages are decided once: the cut (its first and last message) is noted before the task is asked for, and the
//! task's id is made of it. What comes again after a crash is put together by the same cut, so a message is in one batch.
//! Batches are made one after the other; up to the last message of the last one everything is done.

use std::{collections::HashSet, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::reading::Read;
use crate::{
    bus::consume::Ack,
    task::{MAX_PAYLOAD_BYTES, trigger::scope::Scope, trigger::state::Cut},
};

/// Bytes of a batch's messages: written as JSON they may grow.
const MAX_BYTES: usize = MAX_PAYLOAD_BYTES / 2;
/// Messages that wait for a batch, and their bytes: with more of them it is made of what there is.
const MAX_HELD: (usize, usize) = (1_024, 1 << 20);

/// See the module.
pub(super) struct Gather {
    count: usize,
    within: Duration,
    /// The cut of before, if one was noted and its batch is not known to be made.
    resumes: Option<Cut>,
    values: Vec<Value>,
    keys: HashSet<String>,
    acks: Vec<(u64, Ack)>,
    first: u64,
    last: Option<Scope>,
    hops: u32,
    bytes: usize,
    /// Bytes of all messages that wait to be acknowledged with it.
    held: usize,
    since: Option<Instant>,
}

/// What is to be done about a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It belongs to the batch.
    In,
    /// The batch is complete without it.
    Behind,
    /// It is in an earlier batch.
    Done,
}

/// A batch that is put together.
pub(super) struct Batch {
    pub cut: Cut,
    pub scope: Scope,
    pub hops: u32,
    pub acks: Vec<(u64, Ack)>,
}

impl Gather {
    pub fn new(count: u32, within: Duration, resumes: Option<Cut>) -> Self {
        Self {
            count: count as usize,
            within,
            resumes,
            values: Vec::new(),
            keys: HashSet::new(),
            acks: Vec::new(),
            first: 0,
            last: None,
            hops: 0,
            bytes: 0,
            held: 0,
            since: None,
        }
    }

    /// Whether a message at `seq`, of so many bytes, belongs to the batch; up to `batched` all are in earlier ones.
    pub fn place(&self, seq: u64, bytes: usize, batched: u64) -> Place {
        match self.resumes {
            _ if seq <= batched => Place::Done,
            Some(cut) if seq < cut.first => Place::Done,
            Some(cut) if seq > cut.last => Place::Behind,
            None if self.bytes + bytes > MAX_BYTES && !self.values.is_empty() => Place::Behind,
            _ => Place::In,
        }
    }

    /// Takes a message in. False: it is the same as one in the batch.
    pub fn add(&mut self, read: Read) -> bool {
        let Read { seq, hops, key, scope, bytes, ack, .. } = read;
        self.acks.push((seq, ack));
        if let Some(key) = key
            && !self.keys.insert(key)
        {
            return false;
        }
        if self.values.is_empty() {
            self.first = seq;
        }
        self.since.get_or_insert_with(Instant::now);
        self.hops = self.hops.max(hops);
        (self.bytes, self.held) = (self.bytes + bytes, self.held + bytes);
        let mut last = scope;
        self.values.push(std::mem::take(&mut last.message));
        self.last = Some(last);
        true
    }

    /// A message between those of the batch that is none of it. Gives it back if there is no batch yet.
    pub fn pass(&mut self, seq: u64, bytes: usize, ack: Ack) -> Option<Ack> {
        if self.values.is_empty() {
            return Some(ack);
        }
        self.held += bytes;
        self.acks.push((seq, ack));
        None
    }

    /// Whether it has all its messages.
    pub fn is_complete(&self) -> bool {
        match (self.resumes, self.acks.last()) {
            (Some(cut), Some((last, _))) => *last >= cut.last,
            (None, _) => {
                self.values.len() >= self.count || self.acks.len() >= MAX_HELD.0 || self.held > MAX_HELD.1
            }
            (Some(_), None) => false,
        }
    }

    /// When it is complete however few there are.
    pub fn due(&self) -> Option<Instant> {
        Some(self.since? + self.within)
    }

    /// Forgets the cut of before: nothing is left of that batch.
    pub fn forget_cut(&mut self) -> Option<Cut> {
        self.resumes.take()
    }

    /// What it holds, as a batch; `None` if that is nothing. What comes next begins another.
    pub fn close(&mut self) -> Option<Batch> {
        let mut scope = self.last.take()?;
        let values = std::mem::take(&mut self.values);
        let acks = std::mem::take(&mut self.acks);
        let last = acks.last().map_or(self.first, |(seq, _)| *seq);
        let count = values.len() as u32;
        let cut = self.resumes.take().unwrap_or(Cut { first: self.first, last, count });
        scope.batch = values;
        scope.id = String::new();
        let hops = std::mem::take(&mut self.hops);
        self.keys.clear();
        (self.bytes, self.held, self.since) = (0, 0, None);
        Some(Batch { cut, scope, hops, acks })
    }

    /// A message it holds has come again: from now on this acknowledges it. Gives it back if it is not here.
    pub fn replace(&mut self, seq: u64, ack: Ack) -> Option<Ack> {
        match self.acks.iter_mut().find(|(known, _)| *known == seq) {
            Some((_, known)) => {
                *known = ack;
                None
            }
            None => Some(ack),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(seq: u64, key: &str) -> Read {
        let scope = Scope { message: seq.into(), seq, ..Scope::default() };
        let key = (!key.is_empty()).then(|| key.to_owned());
        Read { seq, hops: seq as u32, key, scope, bytes: 10, ack: Ack::none() }
    }

    fn gather(resumes: Option<Cut>) -> Gather {
        Gather::new(3, Duration::from_secs(1), resumes)
    }

    #[test]
    fn a_batch_is_complete_by_count_and_repeats_count_once() {
        let mut some = gather(None);
        assert!(some.pass(1, 5, Ack::none()).is_some(), "nothing to wait for");
        assert!(some.add(message(2, "a")) && !some.add(message(3, "a")) && some.add(message(4, "b")));
        assert!(some.pass(5, 5, Ack::none()).is_none());
        assert!(!some.is_complete() && some.due().is_some());
        assert!(some.add(message(6, "")) && some.is_complete());
        let batch = some.close().unwrap();
        assert_eq!(batch.cut, Cut { first: 2, last: 6, count: 3 });
        assert_eq!((batch.scope.batch, batch.hops), (vec![2.into(), 4.into(), 6.into()], 6));
        assert_eq!(batch.acks.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        assert!(some.close().is_none() && some.due().is_none());
    }

    #[test]
    fn a_cut_of_before_decides_and_nothing_else() {
        let cut = Cut { first: 4, last: 5, count: 2 };
        let mut again = gather(Some(cut));
        assert_eq!(again.place(3, 1, 3), Place::Done, "of the batch before");
        assert_eq!(again.place(4, usize::MAX / 2, 3), Place::In);
        again.add(message(4, ""));
        assert!(!again.is_complete());
        assert_eq!(again.place(6, 1, 3), Place::Behind);
        again.add(message(5, ""));
        assert!(again.is_complete(), "though there could be three");
        assert_eq!(again.close().unwrap().cut, cut);
        assert_eq!(again.place(6, 1, 5), Place::In);
        // Half of it is gone: it keeps its cut, and its id.
        let mut rest = gather(Some(cut));
        rest.add(message(5, ""));
        assert_eq!(rest.close().unwrap().cut, cut);
    }

    #[test]
    fn a_batch_holds_no_more_than_a_task_takes() {
        let mut large = gather(None);
        assert_eq!(large.place(1, MAX_BYTES * 2, 0), Place::In, "alone it is refused with its size");
        large.add(message(1, ""));
        assert_eq!(large.place(2, MAX_BYTES, 0), Place::Behind);
    }
}
