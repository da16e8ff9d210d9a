//! The bus: two work queues with at-least-once delivery and a journal with compare-and-set.

use std::collections::BTreeMap;

use bytes::Bytes;
use selvedge::flow::input::Input;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    Intake,
    Reports,
}

/// A stored message is there until it is acknowledged.
#[derive(Debug, Default)]
pub struct WorkQueue {
    pub messages: BTreeMap<u64, (Input, u32)>,
    last: u64,
}

impl WorkQueue {
    pub fn store(&mut self, input: Input) -> u64 {
        self.last += 1;
        self.messages.insert(self.last, (input, 0));
        self.last
    }
}

/// The journal's stream, one subject of it.
#[derive(Debug, Default)]
pub struct Journal {
    pub messages: Vec<(u64, Bytes)>,
    pub last_time: u64,
}

impl Journal {
    pub fn head(&self) -> u64 {
        self.messages.last().map_or(0, |(seq, _)| *seq)
    }

    /// Stores if the last sequence is the expected one. Sequences have gaps: other shards share the stream.
    pub fn append(&mut self, bytes: &Bytes, expect: u64, gap: u64, now: u64) -> Option<u64> {
        if self.head() != expect {
            return None;
        }
        let seq = expect + 1 + gap;
        self.messages.push((seq, bytes.clone()));
        self.last_time = now;
        Some(seq)
    }
}
