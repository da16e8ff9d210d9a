//! The open loop: says when each of many things is due, whatever became of the ones before.
//!
//! A thread of its own, because a runtime's timers round up to a millisecond, which would be more than what is measured.

use std::time::Duration;

use tokio::sync::mpsc;

use super::clock;

/// Due times of `count` things at `rate` a second, in nanoseconds of [`clock`], each sent when it has come.
pub fn due_times(count: u64, rate: f64) -> mpsc::UnboundedReceiver<u64> {
    let (due, times) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let begin = clock::now() + 1_000_000;
        for n in 0..count {
            let at = begin + (n as f64 * 1e9 / rate) as u64;
            // Late is no reason to wait: the time lost is part of what is measured.
            if let Some(early) = at.checked_sub(clock::now()) {
                std::thread::sleep(Duration::from_nanos(early));
            }
            if due.send(at).is_err() {
                return;
            }
        }
    });
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_due_early_and_the_rate_is_kept() {
        let mut times = due_times(50, 1_000.0);
        let mut all = Vec::new();
        while let Some(due) = times.recv().await {
            assert!(clock::now() >= due);
            all.push(due);
        }
        assert_eq!(all.len(), 50);
        assert!(all.windows(2).all(|pair| (999_000..=1_001_000).contains(&(pair[1] - pair[0]))));
    }
}
