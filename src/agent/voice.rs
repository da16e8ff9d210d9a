//! Publishes what attempts report, in the order they said it.
//!
//! Attempts hand over and go on: a connection that takes nothing holds up this task and no other. What
//! is lost here is no loss, because a report is kept until its verdict and comes again.

use std::{future::poll_fn, task::Poll};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::bus::Lane;

/// A subject and a message.
pub(super) type Said = (String, Bytes);

/// Publishes until nobody can say anything more.
pub(super) async fn speak(lane: Lane, mut said: mpsc::UnboundedReceiver<Said>) {
    while let Some(first) = said.recv().await {
        others_first().await;
        tell(&lane, first).await;
        while let Ok(next) = said.try_recv() {
            tell(&lane, next).await;
        }
    }
}

/// Publishes these, in order.
pub(super) async fn repeat(lane: Lane, again: Vec<Said>) {
    for said in again {
        tell(&lane, said).await;
    }
}

/// Goes to the end of this thread's queue: handlers that are ready to run may end too, and one write takes
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

async fn tell(lane: &Lane, (subject, body): Said) {
    if let Err(error) = lane.tell(subject, body).await {
        tracing::debug!(%error, "a report has not left; it comes again");
    }
}
