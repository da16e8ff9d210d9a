//! Large results go into a stream of NATS before the index names them: Redis holds a mark in their place.

use std::time::Duration;

use futures_util::{StreamExt, stream};

use crate::{
    bus::results::Results,
    store::index::IndexBatch,
    task::{Millis, TaskKey},
};

/// Results on their way at once.
const AT_ONCE: usize = 32;
/// The longest: the server counts nanoseconds.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3_600);
/// A result outlives its task in the index: what a reader has just found there is to be had.
const LONGER: Duration = Duration::from_secs(60);

/// Where large results go, and from which size on.
#[derive(Clone)]
pub struct Aside {
    /// The stream.
    pub results: Results,
    /// Results of more bytes than this leave the index.
    pub above: usize,
}

impl Aside {
    /// Stores the large results of a batch, and puts marks in their place. One that can't be stored stays, and goes into the
    /// index itself.
    pub(super) async fn put(&self, batch: &mut IndexBatch) {
        // Of an index that is made anew.
        let (now, again) = (batch.now_wall, batch.upto_seq == 0);
        let large = batch.writes.iter().enumerate().filter_map(|(at, write)| {
            let result = write.result.as_ref().filter(|result| result.len() > self.above)?;
            let key = TaskKey { tenant: write.view.tenant.clone(), id: write.view.task.clone() };
            let retain_ms = batch.retain.get(&key.tenant).map_or(0, |retention| retention.ms);
            let lives = left(write.view.ended_at, retain_ms, now);
            let results = self.results.clone();
            let result = result.clone();
            Some(async move {
                match results.store(&key, &result, lives, again).await {
                    Ok(()) => Some(at),
                    Err(error) => {
                        tracing::warn!(task = %key, bytes = result.len(), %error, "a large result stays in the index");
                        None
                    }
                }
            })
        });
        let large: Vec<_> = large.collect();
        let stored: Vec<Option<usize>> = stream::iter(large).buffer_unordered(AT_ONCE).collect().await;
        for at in stored.into_iter().flatten() {
            (batch.writes[at].result, batch.writes[at].aside) = (None, true);
        }
    }
}

/// How much longer the index keeps a task.
fn left(ended_at: Option<Millis>, retain_ms: Millis, now: Millis) -> Duration {
    let until = ended_at.unwrap_or(now).saturating_add(retain_ms);
    Duration::from_millis(until.saturating_sub(now)).min(LONGEST) + LONGER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_lives_as_long_as_its_task_in_the_index_and_a_minute_more() {
        let secs = |ended_at, retain_ms, now| left(ended_at, retain_ms, now).as_secs();
        assert_eq!(secs(Some(1_000), 10_000, 1_000), 70);
        assert_eq!(secs(Some(1_000), 10_000, 6_000), 65);
        assert_eq!(secs(Some(1_000), 10_000, 99_000), 60, "an index made anew may drop it at once");
        assert_eq!(secs(None, 10_000, 99_000), 70);
        assert!(secs(Some(1), Millis::MAX, 0) > 300_000_000);
    }
}
