//! A tenant's tasks at one agent: a line for each class, and what its tasks take.

use std::collections::VecDeque;

use super::{Ageing, LEAST, Place, RANKS, RESUMED, UNIT};
use crate::flow::tasks::Slot;

/// Tasks that a lane's mean looks back on: enough that short and long ones in turn don't make it swing.
pub(super) const LOOK_BACK: u32 = 128;
/// Entries that are looked at one by one to tell the holes among them.
const COUNTED: usize = 65_536;

/// A task in its line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) order: u64,
    /// [`HOLE`]: it was taken out.
    pub(super) slot: Slot,
    /// When it was admitted, in seconds of logical time; never before what stands in front of it.
    pub(super) since: u32,
}

/// No task's slot.
const HOLE: Slot = Slot(u32::MAX);

impl Entry {
    pub(super) fn task(self) -> Option<Slot> {
        (self.slot != HOLE).then_some(self.slot)
    }
}

/// Tasks of one class in order of arrival. Most come at the back and go from the front; one that is taken out of the
/// middle leaves a hole.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    pub(super) entries: VecDeque<Entry>,
    holes: usize,
}

impl Line {
    fn push(&mut self, entry: Entry) -> bool {
        if self.entries.back().is_none_or(|last| last.order < entry.order) {
            self.entries.push_back(entry);
            return true;
        }
        match self.entries.binary_search_by_key(&entry.order, |known| known.order) {
            Ok(at) if self.entries[at].task().is_some() => return false,
            Ok(at) => {
                self.entries[at] = entry;
                self.holes -= 1;
            }
            Err(at) => self.entries.insert(at, entry),
        }
        true
    }

    fn remove(&mut self, order: u64) -> bool {
        let Ok(at) = self.entries.binary_search_by_key(&order, |entry| entry.order) else { return false };
        if self.entries[at].task().is_none() {
            return false;
        }
        self.entries[at].slot = HOLE;
        self.holes += 1;
        while self.entries.front().is_some_and(|entry| entry.task().is_none()) {
            self.entries.pop_front();
            self.holes -= 1;
        }
        if self.holes > 32 && self.holes * 2 > self.entries.len() {
            self.entries.retain(|entry| entry.task().is_some());
            self.holes = 0;
        }
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        } else if self.entries.capacity() > 64 && self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        true
    }

    /// How many stand before the first that is not meant.
    pub(super) fn before(&self, is_meant: impl Fn(&Entry) -> bool) -> usize {
        let end = self.entries.partition_point(is_meant);
        match (self.holes, end <= COUNTED) {
            (0, _) => end,
            (_, true) => self.entries.range(..end).filter(|entry| entry.task().is_some()).count(),
            (holes, false) => end.saturating_sub(holes),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    pub(super) lines: [Line; RANKS],
    pub(super) queued: usize,
    pub(super) vtime: u64,
    pub(super) running: u32,
    /// Mean slot-time of its tasks, in units, and of how many, up to [`LOOK_BACK`].
    pub(super) service: u64,
    pub(super) seen: u32,
    /// Mean of its square, in units squared by [`UNIT`].
    pub(super) square: u64,
    /// The tag under which the lane stands in `ready`, if it does, and whether it stands in `resumes`, too.
    pub(super) ready_as: Option<(u64, bool)>,
}

impl Lane {
    /// The oldest of each class, with its rank.
    pub(super) fn fronts(&self) -> impl Iterator<Item = (usize, Entry)> {
        let lines = self.lines.iter().enumerate();
        lines.filter_map(|(rank, line)| Some((rank, *line.entries.front()?)))
    }

    pub(super) fn first(&self, ageing: Ageing) -> Option<Slot> {
        let aged =
            self.fronts().map(|(rank, entry)| (ageing.aged(rank, entry.since), entry.order, entry.slot));
        aged.min().map(|(_, _, slot)| slot)
    }

    pub(super) fn resumes(&self) -> bool {
        !self.lines[usize::from(RESUMED)].entries.is_empty()
    }

    pub(super) fn push(&mut self, (rank, order): Place, slot: Slot, since: u32) -> bool {
        let pushed = self.lines[usize::from(rank) % RANKS].push(Entry { order, slot, since });
        self.queued += usize::from(pushed);
        pushed
    }

    pub(super) fn remove(&mut self, (rank, order): Place) -> bool {
        let removed = self.lines[usize::from(rank) % RANKS].remove(order);
        self.queued -= usize::from(removed);
        removed
    }

    /// A task has run for so long.
    pub(super) fn learn(&mut self, units: u64) {
        self.seen = (self.seen + 1).min(LOOK_BACK);
        let seen = u64::from(self.seen);
        let mean = |old: u64, new: u64| old.saturating_mul(seen - 1).saturating_add(new) / seen;
        self.service = mean(self.service, units).max(LEAST);
        self.square = mean(self.square, units.saturating_mul(units) / UNIT);
    }

    /// What its next task is expected to take: the mean over its slot-time, not over its tasks.
    pub(super) fn expected(&self) -> u64 {
        let expected = u128::from(self.square) * u128::from(UNIT) / u128::from(self.service.max(1));
        u64::try_from(expected).unwrap_or(u64::MAX).max(self.service)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queued == 0 && self.running == 0 && self.ready_as.is_none()
    }
}
