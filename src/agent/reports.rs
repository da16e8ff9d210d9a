//! The reports of one lease, until they are decided: numbered, few at once, due again when nobody answers.
//!
//! Pure: times are given, bytes are handed back for somebody else to publish.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

/// Reports that one attempt has undecided, at most; the owner keeps no more either.
const WINDOW: usize = 64;

/// How long the verdict on a new report is waited for before it is published again, at most.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);

/// Reports 1, 2, … of one lease.
pub(super) struct Reports {
    /// Number of the last one taken; 0 if none.
    last: u32,
    /// The last ones taken, without a gap, as they were published.
    undecided: VecDeque<Bytes>,
    /// A third of the lease, in real time: no verdict for that long is worth another publish.
    every: Duration,
    /// How long a verdict is waited for now: shorter at first, since a publish may be lost without a word.
    patience: Duration,
    /// When what is undecided is published again.
    due: Instant,
}

impl Reports {
    /// None yet. `every` is the longest time between two publishes of the same report.
    pub(super) fn new(every: Duration, now: Instant) -> Self {
        let patience = first_patience(every);
        Self { last: 0, undecided: VecDeque::new(), every, patience, due: now + patience }
    }

    /// Number the next one gets.
    pub(super) fn next(&self) -> u32 {
        self.last + 1
    }

    /// Whether another one may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.undecided.len() < WINDOW
    }

    /// Whether everything taken is decided.
    pub(super) fn is_settled(&self) -> bool {
        self.undecided.is_empty()
    }

    /// Whether everything up to `n` is decided.
    pub(super) fn is_decided(&self, n: u32) -> bool {
        self.undecided.len() as u32 <= self.last.saturating_sub(n)
    }

    /// Takes report [`Reports::next`].
    pub(super) fn take(&mut self, body: Bytes, now: Instant) {
        if self.is_settled() {
            self.wait_anew(now);
        }
        self.last += 1;
        self.undecided.push_back(body);
    }

    /// Everything up to `n` is decided.
    pub(super) fn settle(&mut self, n: u32, now: Instant) {
        let left = usize::try_from(self.last.saturating_sub(n)).unwrap_or(usize::MAX);
        while self.undecided.len() > left {
            self.undecided.pop_front();
        }
        if !self.is_settled() {
            self.wait_anew(now);
        }
    }

    /// What is undecided is due at `at`, if not before.
    pub(super) fn hurry(&mut self, at: Instant) {
        self.due = self.due.min(at);
    }

    /// What is to be published again now, in order; nobody has answered.
    pub(super) fn overdue(&mut self, now: Instant) -> impl Iterator<Item = Bytes> {
        let due = !self.is_settled() && self.due <= now;
        if due {
            self.patience = (self.patience * 2).min(self.every);
            self.due = now + self.patience;
        }
        self.undecided.iter().take(if due { usize::MAX } else { 0 }).cloned()
    }

    fn wait_anew(&mut self, now: Instant) {
        self.patience = first_patience(self.every);
        self.due = now + self.patience;
    }
}

/// How long the first verdict is waited for, given the longest wait.
pub(super) fn first_patience(every: Duration) -> Duration {
    every.min(FIRST_PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn report(n: u8) -> Bytes {
        Bytes::copy_from_slice(&[n])
    }

    fn due(reports: &mut Reports, now: Instant) -> Vec<u8> {
        reports.overdue(now).map(|body| body[0]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_undecided_comes_again_from_the_lowest_and_ever_later() {
        let start = Instant::now();
        let mut reports = Reports::new(20 * SECOND, start);
        assert!(due(&mut reports, start + 60 * SECOND).is_empty());
        let start = start + 60 * SECOND;
        for n in 1..=3 {
            assert_eq!(reports.next(), u32::from(n));
            reports.take(report(n), start);
        }
        assert!(due(&mut reports, start + 4 * SECOND).is_empty());
        reports.settle(1, start + 4 * SECOND);
        assert!(due(&mut reports, start + 8 * SECOND).is_empty(), "an answer begins the wait anew");
        assert_eq!(due(&mut reports, start + 9 * SECOND), [2, 3]);
        assert!(due(&mut reports, start + 18 * SECOND).is_empty());
        assert_eq!(due(&mut reports, start + 19 * SECOND), [2, 3]);
        assert!(due(&mut reports, start + 38 * SECOND).is_empty());
        assert_eq!(
            due(&mut reports, start + 39 * SECOND),
            [2, 3],
            "never later than every third of the lease"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_verdict_settles_everything_up_to_its_number_and_an_old_or_odd_one_nothing_more() {
        let now = Instant::now();
        let mut reports = Reports::new(SECOND, now);
        for n in 1..=3 {
            reports.take(report(n), now);
        }
        for (n, left) in [(0, &[1, 2, 3][..]), (2, &[3]), (1, &[3]), (9, &[])] {
            reports.settle(n, now);
            reports.hurry(now);
            assert_eq!(due(&mut reports, now), left, "after {n}");
        }
        assert!(reports.is_settled());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_a_window_is_undecided() {
        let now = Instant::now();
        let mut reports = Reports::new(SECOND, now);
        while reports.has_room() {
            reports.take(report(0), now);
        }
        assert_eq!(reports.next(), 65);
        reports.settle(1, now);
        assert!(reports.has_room());
    }
}
