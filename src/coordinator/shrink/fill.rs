//! How full the journal is, between two looks at it.

use std::collections::VecDeque;

use crate::{bus::journal::Room, flow::input::Input, telemetry::names};

/// The journal's size: as looked at, and what was appended since.
#[derive(Default)]
pub(super) struct Fill {
    pub(super) used: u64,
    pub(super) max: u64,
    /// Sequence and bytes of appends since the last look.
    pub(super) since: VecDeque<(u64, u64)>,
    /// What the engine was told last.
    pub(super) told: u64,
}

impl Fill {
    pub(super) fn appended(&mut self, seq: u64, bytes: u64) {
        self.used += bytes;
        self.since.push_back((seq, bytes));
        if self.since.len() > 65_536 {
            self.since.pop_front();
        }
    }

    pub(super) fn seen(&mut self, room: Room) {
        while self.since.front().is_some_and(|(seq, _)| *seq <= room.last_seq) {
            self.since.pop_front();
        }
        self.used = room.bytes + self.since.iter().map(|(_, bytes)| bytes).sum::<u64>();
        self.max = room.max_bytes;
        metrics::gauge!(names::JOURNAL_FILL).set(room.bytes as f64);
        metrics::gauge!(names::JOURNAL_MAX).set(room.max_bytes as f64);
    }

    /// What the engine has to be told, if it changed enough to matter.
    pub(super) fn news(&mut self) -> Option<Input> {
        if self.max == 0 || self.used.abs_diff(self.told) < self.max / 128 {
            return None;
        }
        self.told = self.used;
        Some(Input::Room { used: self.used, max: self.max })
    }
}
