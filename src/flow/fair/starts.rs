//! When what runs began, in virtual time: where a newcomer enters.

use std::collections::VecDeque;

/// Virtual starts of what runs, lowest first: nearly always they come in this order.
#[derive(Debug, Clone, Default)]
pub(super) struct Starts(VecDeque<(u64, u32)>);

impl Starts {
    pub(super) fn add(&mut self, start: u64) {
        if self.0.back().is_none_or(|(last, _)| *last < start) {
            return self.0.push_back((start, 1));
        }
        match self.0.binary_search_by_key(&start, |(start, _)| *start) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (start, 1)),
        }
    }

    pub(super) fn remove(&mut self, start: u64) {
        if let Ok(at) = self.0.binary_search_by_key(&start, |(start, _)| *start) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.0.front().map(|(start, _)| *start)
    }
}
