//! Publishes what attempts report, in the order they said it: what has come together goes out together.
//!
//! Attempts hand over and go on: a connection that takes nothing holds up this task and no other. What
//! is lost here is no loss, because a report is kept until its verdict and comes again; then alone, so that one that
//! can't be read takes no other with it.

use std::{future::poll_fn, task::Poll};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    bus::Lane,
    wire::messages::{MAX_REPORTS, Reports},
};

/// A report, encoded.
pub(super) type Said = Bytes;

/// Bytes of reports in one message, roughly; one report may have more.
const TOGETHER: usize = 64 * 1024;

/// Publishes to `subject` until nobody can say anything more.
pub(super) async fn speak(lane: Lane, subject: String, mut said: mpsc::UnboundedReceiver<Said>) {
    let mut together = Vec::new();
    while said.recv_many(&mut together, MAX_REPORTS).await > 0 {
        others_first().await;
        while let Ok(next) = said.try_recv() {
            together.push(next);
        }
        let mut rest = together.as_slice();
        while !rest.is_empty() {
            let (some, later) = rest.split_at(fitting(rest));
            tell(&lane, &subject, some).await;
            rest = later;
        }
        together.clear();
    }
}

/// How many of these go into one message: at least one.
fn fitting(said: &[Said]) -> usize {
    let mut bytes = 0;
    let fits = |one: &&Said| {
        bytes += one.len();
        bytes <= TOGETHER
    };
    said.iter().take(MAX_REPORTS).take_while(fits).count().max(1)
}

/// Publishes these, in order.
pub(super) async fn repeat(lane: Lane, subject: String, again: Vec<Said>) {
    for said in again {
        tell(&lane, &subject, &[said]).await;
    }
}

/// Goes to the end of this thread's queue: handlers that are ready to run may end too, and one message takes
/// all their reports. Unlike `yield_now`, another thread may take over from one that is held up.
async fn others_first() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn tell(lane: &Lane, subject: &str, said: &[Said]) {
    if let Err(error) = lane.tell(subject, Reports::of_encoded(said)).await {
        tracing::debug!(%error, "reports have not left; they come again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_takes_what_fits_and_a_large_report_goes_alone() {
        let small = Bytes::from_static(&[0; 100]);
        let large = Bytes::from(vec![0; TOGETHER + 1]);
        assert_eq!(fitting(&vec![small.clone(); 1_000]), MAX_REPORTS);
        assert_eq!(fitting(&[small.clone(), small.clone(), large.clone(), small.clone()]), 2);
        assert_eq!(fitting(&[large.clone(), small]), 1);
        assert_eq!(fitting(&[large]), 1);
    }
}
