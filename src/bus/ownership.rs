//! The shard lease: a key with a TTL in a bucket, so that coordinators don't duel.
//!
//! Whoever creates the key owns the shard until its own monotonic clock says that the key *may*
//! have expired; renewals are compare-and-sets on the key's revision. The lease is a courtesy:
//! safety comes from the compare-and-set on the journal. Never touches the journal.
//!
//! ```text
//!   Standby --(key absent or expired: create)--> Owner --(renew every ttl/3)--> Owner
//!      ^                                           |
//!      +--(conflict, deadline, step_down, drain)---+
//! ```

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{
        Context,
        context::PublishErrorKind,
        kv::Watch,
        message::PublishMessage,
        stream::{LastRawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::api::ApiError;
use crate::wire::{
    headers,
    subjects::Shard,
    topology::{self, OWNER_BUCKET},
};

/// Whether this coordinator may act for the shard now.
#[derive(Debug, Clone)]
pub enum Ownership {
    /// Somebody else owns it, or nobody.
    Standby,
    /// This coordinator owns it.
    Owner {
        /// Revision of the lease's key when it was acquired: higher for every later owner.
        revision: u64,
        /// Act no more from here on, whatever was not heard meanwhile.
        until: Instant,
        /// Cancelled when this ownership ends, for whichever reason; never un-cancelled.
        ended: CancellationToken,
    },
}

impl Ownership {
    /// Whether it may act at `now`.
    pub fn is_owner(&self, now: Instant) -> bool {
        matches!(self, Self::Owner { until, ended, .. } if now < *until && !ended.is_cancelled())
    }
}

/// How the lease is held.
#[derive(Debug, Clone)]
pub struct LeaseConfig {
    /// How long the key lives without renewal: whole seconds, at least 1. Default 2 s.
    pub ttl: Duration,
    /// Who, for people; made unique by the lease itself.
    pub coordinator: String,
}

impl LeaseConfig {
    /// Two seconds.
    pub fn new(coordinator: impl Into<String>) -> Self {
        Self { ttl: Duration::from_secs(2), coordinator: coordinator.into() }
    }

    /// How long after sending a renewal the owner may act. The server counts the TTL from when it
    /// stores the key, which is later; the eighth is for clocks that don't tick alike.
    fn usable(&self) -> Duration {
        self.ttl - self.ttl / 8
    }
}

/// What the rest of the coordinator holds of the lease.
#[derive(Debug, Clone)]
pub struct OwnershipHandle {
    state: watch::Receiver<Ownership>,
    step_down: mpsc::Sender<()>,
}

impl OwnershipHandle {
    /// The state as it changes. Renewals change `until`.
    pub fn watch(&self) -> watch::Receiver<Ownership> {
        self.state.clone()
    }

    /// The state now.
    pub fn now(&self) -> Ownership {
        self.state.borrow().clone()
    }

    /// Waits until this coordinator owns the shard; `None` once the lease is no longer run.
    pub async fn acquired(&mut self) -> Option<(u64, CancellationToken)> {
        let state = self.state.wait_for(|s| s.is_owner(Instant::now())).await.ok()?;
        match &*state {
            Ownership::Owner { revision, ended, .. } => Some((*revision, ended.clone())),
            Ownership::Standby => None,
        }
    }

    /// Gives the shard up, because the journal said that somebody else writes it or because this
    /// coordinator can't. It stays away for two TTLs.
    pub fn step_down(&self) {
        // A full channel means that it was already told.
        let _ = self.step_down.try_send(());
    }
}

/// Runs the lease. See [`Lease::run`].
pub struct Lease {
    js: Context,
    stream: Stream<()>,
    key: String,
    config: LeaseConfig,
    /// Holds the name and a nonce: how a renewal whose answer was lost is recognised.
    value: Bytes,
    state: watch::Sender<Ownership>,
    step_down: mpsc::Receiver<()>,
}

/// The key, as the stream's leader has it.
struct Seen {
    revision: u64,
    /// A value, not a marker of expiry or deletion.
    live: bool,
    /// Nothing a coordinator wrote: an acknowledgement a client had sent here, or a hand-written one.
    noise: bool,
    value: Bytes,
}

enum Written {
    At(u64),
    Conflict,
    Unknown,
}

/// How an ownership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Lost,
    StepDown,
    Stop,
}

/// A held lease.
struct Held {
    acquired: u64,
    revision: u64,
    until: Instant,
    ended: CancellationToken,
}

impl Lease {
    /// Prepares the lease of `shard`; the bucket must exist. Asks the server nothing yet.
    pub async fn new(
        js: &Context,
        shard: Shard,
        config: LeaseConfig,
    ) -> Result<(Self, OwnershipHandle), ApiError> {
        let stream = js
            .get_stream_no_info(topology::bucket_stream(OWNER_BUCKET))
            .await
            .map_err(|e| ApiError::from_source("the owner bucket", &e))?;
        let (state, watching) = watch::channel(Ownership::Standby);
        let (tell, told) = mpsc::channel(1);
        let value = Bytes::from(format!("{} {}", config.coordinator, uuid::Uuid::new_v4().simple()));
        let key = topology::owner_key(shard);
        let lease = Self { js: js.clone(), stream, key, config, value, state, step_down: told };
        Ok((lease, OwnershipHandle { state: watching, step_down: tell }))
    }

    /// Acquires, renews, loses and acquires again until `stop`; then releases the key, so that the
    /// next owner need not wait for its expiry. Stop the owner's work first.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some(held) = self.standby(&stop).await {
            tracing::info!(shard_key = %self.key, revision = held.acquired, "owner of the shard");
            let end = self.own(held, &stop).await;
            tracing::info!(shard_key = %self.key, ?end, "no longer owner of the shard");
            if end == End::Stop {
                return;
            }
            if end == End::StepDown {
                let away = self.config.ttl * 2 + jitter(self.config.ttl);
                tokio::select! { () = stop.cancelled() => {}, () = sleep(away) => {} }
                while self.step_down.try_recv().is_ok() {}
            }
        }
    }

    /// Waits for the key to be free and takes it. `None`: stopped.
    async fn standby(&mut self, stop: &CancellationToken) -> Option<Held> {
        let mut watch: Option<Watch> = None;
        // What was said about a former ownership is not meant for the next.
        while self.step_down.try_recv().is_ok() {}
        // A key that does not move for three TTLs has lost its TTL (a hand-written one, say).
        let mut unmoved: Option<(u64, Instant)> = None;
        loop {
            // The watch comes first: what expires between the two is then seen by it.
            if watch.is_none() {
                watch = self.watch().await;
            }
            if let Ok(seen) = self.read().await {
                let expected = match &seen {
                    None => Some(0),
                    // Our own value: an acquisition whose answer was lost.
                    Some(seen) if !seen.live || seen.value == self.value => Some(seen.revision),
                    Some(seen) => {
                        let (_, since) = *unmoved
                            .take_if(|(revision, _)| *revision == seen.revision)
                            .get_or_insert((seen.revision, Instant::now()));
                        unmoved = Some((seen.revision, since));
                        (since.elapsed() > self.config.ttl * 3).then_some(seen.revision)
                    }
                };
                if let Some(expected) = expected
                    && let Some(held) = self.acquire(expected).await
                {
                    return Some(held);
                }
            }
            // The watch sees the marker of expiry at once; the pause is for when it sees nothing.
            let pause = self.config.ttl / 2 + jitter(self.config.ttl / 2);
            tokio::select! {
                () = stop.cancelled() => return None,
                () = sleep(pause) => {}
                alive = freed(&mut watch) => {
                    if !alive {
                        watch = None;
                        sleep(Duration::from_millis(100)).await;
                    }
                    // Two standbys see the same marker: spread them a little.
                    sleep(jitter(Duration::from_millis(20))).await;
                }
            }
            if stop.is_cancelled() {
                return None;
            }
        }
    }

    async fn acquire(&self, expected: u64) -> Option<Held> {
        let sent = Instant::now();
        let until = sent + self.config.usable();
        let revision = match self.write(expected, until).await {
            Written::At(revision) => revision,
            // It may have been ours: the next read tells, and expiry heals it.
            Written::Unknown | Written::Conflict => return None,
        };
        let ended = CancellationToken::new();
        self.state.send_replace(Ownership::Owner { revision, until, ended: ended.clone() });
        Some(Held { acquired: revision, revision, until, ended })
    }

    /// Renews until the lease is lost, given up or stopped.
    async fn own(&mut self, mut held: Held, stop: &CancellationToken) -> End {
        let renew_every = self.config.ttl / 3;
        let mut renew_at = Instant::now() + renew_every;
        let end = loop {
            tokio::select! {
                biased;
                () = sleep_until(held.until) => break End::Lost,
                () = stop.cancelled() => break End::Stop,
                // Without a handle nobody acts on the ownership.
                told = self.step_down.recv() => break told.map_or(End::Stop, |()| End::StepDown),
                () = sleep_until(renew_at) => {}
            }
            let sent = Instant::now();
            match self.write(held.revision, held.until).await {
                Written::At(revision) => {
                    held.revision = revision;
                    held.until = sent + self.config.usable();
                    self.state.send_replace(Ownership::Owner {
                        revision: held.acquired,
                        until: held.until,
                        ended: held.ended.clone(),
                    });
                    renew_at = sent + renew_every;
                }
                Written::Unknown => renew_at = Instant::now() + renew_every / 8,
                // An earlier renewal without an answer may have arrived after all. Noise is written over.
                Written::Conflict => match self.read().await {
                    Ok(Some(seen)) if seen.live && (seen.noise || seen.value == self.value) => {
                        held.revision = seen.revision;
                        renew_at = Instant::now();
                    }
                    Ok(_) => break End::Lost,
                    Err(_) => renew_at = Instant::now() + renew_every / 8,
                },
            }
        };
        held.ended.cancel();
        self.state.send_replace(Ownership::Standby);
        if end != End::Lost {
            self.release(held.revision).await;
        }
        end
    }

    /// Writes our value with its TTL if the key is still at `expected`.
    async fn write(&self, expected: u64, deadline: Instant) -> Written {
        // The client's own create-with-TTL forgets the TTL when it replaces a marker.
        let message = PublishMessage::build()
            .header(headers::COORDINATOR, "1")
            .payload(self.value.clone())
            .expected_last_subject_sequence(expected)
            .ttl(self.config.ttl);
        self.publish(message, deadline).await
    }

    async fn release(&self, revision: u64) {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        let message = PublishMessage::build().headers(headers).expected_last_subject_sequence(revision);
        let deadline = Instant::now() + Duration::from_secs(1);
        if !matches!(self.publish(message, deadline).await, Written::At(_)) {
            tracing::debug!(shard_key = %self.key, "lease not released, it will expire");
        }
    }

    async fn publish(&self, message: PublishMessage, deadline: Instant) -> Written {
        let subject = topology::bucket_subject(OWNER_BUCKET, &self.key);
        let deadline = deadline.min(Instant::now() + self.config.ttl / 4);
        let sent = async { self.js.send_publish(subject, message).await?.await };
        match timeout_at(deadline, sent).await {
            Ok(Ok(ack)) => Written::At(ack.sequence),
            Ok(Err(e)) if e.kind() == PublishErrorKind::WrongLastSequence => Written::Conflict,
            Ok(Err(_)) | Err(_) => Written::Unknown,
        }
    }

    /// The key from the stream's leader; an error if it does not answer within a third of the TTL.
    async fn read(&self) -> Result<Option<Seen>, ApiError> {
        let subject = topology::bucket_subject(OWNER_BUCKET, &self.key);
        let asked = self.stream.get_last_raw_message_by_subject(&subject);
        let failed = |reason: String| ApiError::Unavailable { call: "the owner bucket".to_owned(), reason };
        match tokio::time::timeout(self.config.ttl / 3, asked).await {
            Err(_) => Err(failed("no answer in time".to_owned())),
            Ok(Err(e)) if e.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Ok(Err(e)) => Err(failed(e.to_string())),
            Ok(Ok(message)) => {
                let marker = ["KV-Operation", "Nats-Marker-Reason"];
                let live = marker.iter().all(|name| message.headers.get(*name).is_none());
                let noise = live && message.headers.get(headers::COORDINATOR).is_none();
                Ok(Some(Seen { revision: message.sequence, live, noise, value: message.payload }))
            }
        }
    }

    /// A watch of the key; none if the server does not answer now.
    async fn watch(&self) -> Option<Watch> {
        let opened =
            async { self.js.get_key_value(OWNER_BUCKET).await.ok()?.watch(self.key.clone()).await.ok() };
        tokio::time::timeout(self.config.ttl, opened).await.ok().flatten()
    }
}

/// Returns when the key was deleted or expired; false when the watch is over. Pends without a watch.
async fn freed(watch: &mut Option<Watch>) -> bool {
    use async_nats::jetstream::kv::Operation;
    let Some(watch) = watch else { return std::future::pending().await };
    loop {
        match watch.next().await {
            Some(Ok(entry)) if entry.operation == Operation::Put => {}
            Some(Ok(_)) => return true,
            Some(Err(_)) | None => return false,
        }
    }
}

/// Anything from nothing to `upto`.
fn jitter(upto: Duration) -> Duration {
    let share = (uuid::Uuid::new_v4().as_u128() % 1024) as u32;
    upto * share / 1024
}
