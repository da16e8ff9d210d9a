//! Numbered messages into a stream: in order, a bounded window of them unsettled, and after any
//! doubt published again, the same bytes, from the lowest unsettled one on.
//!
//! Events are published with it: the stream's acknowledgement settles them. Used by one task at a time; holds no
//! task of its own.

use std::{collections::VecDeque, future::Future, pin::Pin};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{link::Lane, publish::StoreError};

/// What [`Ordered::progress`] saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A message was stored, and that settles it.
    Settled,
    /// This message is not known to be stored, is still unsettled and was sent in the latest round.
    Doubt(u32, StoreError),
}

type AckFuture = Pin<Box<dyn Future<Output = (u32, u32, Result<(), StoreError>)> + Send>>;

/// Messages 1, 2, … to one subject.
pub struct Ordered {
    lane: Lane,
    subject: String,
    window: usize,
    /// Number of the last message taken.
    last: u32,
    /// Taken and unsettled, in order of number.
    unsettled: VecDeque<(u32, Bytes)>,
    /// Acknowledgements on their way, with the round they were sent in.
    acks: Option<FuturesUnordered<AckFuture>>,
    /// Grows with every resend, so that failures of an earlier round count once.
    round: u32,
}

impl Ordered {
    /// No message yet.
    pub fn new(lane: Lane, subject: String, window: usize) -> Self {
        Self { lane, subject, window, last: 0, unsettled: VecDeque::new(), acks: None, round: 0 }
    }

    /// Where they go.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Number of the last message taken; 0 if none.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// Number the next message gets.
    pub fn next(&self) -> u32 {
        self.last + 1
    }

    /// Whether another message may be taken.
    pub fn has_room(&self) -> bool {
        self.unsettled.len() < self.window
    }

    /// Whether everything taken is settled.
    pub fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// Takes and publishes message [`Ordered::next`].
    pub async fn push(&mut self, body: Bytes) {
        self.last += 1;
        self.unsettled.push_back((self.last, body.clone()));
        self.publish(self.last, body).await;
    }

    /// Publishes everything unsettled again. While disconnected it does nothing: what was handed over
    /// before is sent by the connection itself when it is back, and the reconnect asks for a resend.
    pub async fn resend(&mut self) {
        if !self.lane.is_connected() {
            return;
        }
        self.round += 1;
        for (n, body) in self.unsettled.clone() {
            self.publish(n, body).await;
        }
    }

    async fn publish(&mut self, n: u32, body: Bytes) {
        let round = self.round;
        let ack: AckFuture = match self.lane.post(self.subject.clone(), body).await {
            Ok(posted) => Box::pin(async move { (n, round, posted.stored().await) }),
            Err(error) => Box::pin(async move { (n, round, Err(error)) }),
        };
        self.acks.get_or_insert_default().push(ack);
    }

    /// Everything up to `n` is settled, stored or given up.
    pub fn settle(&mut self, n: u32) {
        while self.unsettled.front().is_some_and(|(first, _)| *first <= n) {
            self.unsettled.pop_front();
        }
    }

    /// What happens next to what was published. Pends while nothing does. Safe to drop at any time.
    pub async fn progress(&mut self) -> Progress {
        loop {
            let Some(acks) = &mut self.acks else { return std::future::pending().await };
            match acks.next().await {
                None => self.acks = None,
                Some((n, _, Ok(()))) => {
                    self.unsettled.retain(|(other, _)| *other != n);
                    return Progress::Settled;
                }
                Some((n, round, Err(error))) => {
                    if round == self.round && self.unsettled.iter().any(|(other, _)| *other == n) {
                        return Progress::Doubt(n, error);
                    }
                }
            }
        }
    }
}
