//! The two connections of a client or an instance, and plain messages over them.
//!
//! `main` carries subscriptions, queries, heartbeats and acceptances; `bulk` carries what is
//! published into streams, so that a burst of reports never delays a verdict. What must be ordered
//! against a subscription goes over `main`.

use std::{sync::Arc, time::Duration};

use async_nats::{Client as Nats, RequestErrorKind, client::Request, connection::State};
use bytes::Bytes;
use tokio::sync::watch;

use super::acks::Acks;
use crate::wire::headers;

/// A message as it came.
pub type Message = async_nats::Message;

/// What a subscription yields, as a stream.
pub type Subscription = async_nats::Subscriber;

/// The connection can't be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// Nobody answered at the address, or the credentials were refused.
    #[error("{0}")]
    Connect(String),
    /// The connection is closed for good.
    #[error("the NATS connection is closed: {0}")]
    Closed(String),
}

/// Why a query has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Nobody listens on the subject.
    #[error("nobody answers on this subject")]
    NoResponders,
    /// Somebody listens but did not answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The request is larger than the server's max_payload.
    #[error("the request is larger than the server's max_payload")]
    TooLarge,
    /// The connection is gone.
    #[error("the connection is closed")]
    Closed,
}

/// One connection. Cheap to clone.
#[derive(Clone)]
pub struct Lane(Arc<Parts>);

struct Parts {
    nats: Nats,
    acks: Arc<Acks>,
}

impl Lane {
    fn new(nats: Nats) -> Self {
        let acks = Arc::new(Acks::new(nats.clone()));
        Self(Arc::new(Parts { nats, acks }))
    }

    pub(super) fn acks(&self) -> &Arc<Acks> {
        &self.0.acks
    }

    /// The connection itself.
    pub fn nats(&self) -> &Nats {
        &self.0.nats
    }

    /// Whether the connection stands now, as far as the client knows.
    pub fn is_connected(&self) -> bool {
        self.0.nats.connection_state() == State::Connected
    }

    /// The largest message the server takes, in bytes.
    pub fn max_payload(&self) -> usize {
        self.0.nats.max_payload()
    }

    /// Subscribes. Ordered before everything sent over this lane later.
    pub async fn subscribe(&self, subject: impl Into<String>) -> Result<Subscription, BusError> {
        self.0.nats.subscribe(subject.into()).await.map_err(|e| BusError::Closed(e.to_string()))
    }

    /// Subscribes as one of a group, of which one gets each message.
    pub async fn subscribe_queue(
        &self,
        subject: impl Into<String>,
        group: &str,
    ) -> Result<Subscription, BusError> {
        let subscribed = self.0.nats.queue_subscribe(subject.into(), group.to_owned()).await;
        subscribed.map_err(|e| BusError::Closed(e.to_string()))
    }

    /// Sends a plain message.
    pub async fn tell(&self, subject: impl Into<String>, body: Bytes) -> Result<(), BusError> {
        self.0.nats.publish(subject.into(), body).await.map_err(|e| BusError::Closed(e.to_string()))
    }

    /// Sends a plain message that may be answered on `inbox`.
    pub async fn tell_answerable(
        &self,
        subject: impl Into<String>,
        inbox: &str,
        body: Bytes,
    ) -> Result<(), BusError> {
        self.0
            .nats
            .publish_with_reply(subject.into(), inbox.to_owned(), body)
            .await
            .map_err(|e| BusError::Closed(e.to_string()))
    }

    /// Sends an error as the service protocol says it, in headers, with its body.
    pub async fn tell_error(
        &self,
        subject: impl Into<String>,
        status: u16,
        text: &str,
        body: Bytes,
    ) -> Result<(), BusError> {
        let mut said = async_nats::HeaderMap::new();
        said.insert(headers::SERVICE_ERROR_CODE, status.to_string());
        // A header is one line.
        said.insert(headers::SERVICE_ERROR, text.replace(['\r', '\n'], " "));
        let told = self.0.nats.publish_with_headers(subject.into(), said, body).await;
        told.map_err(|e| BusError::Closed(e.to_string()))
    }

    /// A subject only this process listens on.
    pub fn inbox(&self) -> String {
        self.0.nats.new_inbox()
    }

    /// Waits until everything sent so far has left for the server.
    pub async fn flush(&self) -> Result<(), BusError> {
        self.0.nats.flush().await.map_err(|e| BusError::Closed(e.to_string()))
    }

    /// Asks and waits for one answer. Says how long it waits, so that nobody works for it longer.
    pub async fn ask(
        &self,
        subject: impl Into<String>,
        body: Bytes,
        within: Duration,
    ) -> Result<Message, AskError> {
        let mut said = async_nats::HeaderMap::new();
        said.insert(headers::WITHIN_MS, within.as_millis().to_string());
        // The bound outside covers a connection that takes nothing, too.
        let request = Request::new().payload(body).headers(said).timeout(None);
        let answer = tokio::time::timeout(within, self.0.nats.send_request(subject.into(), request));
        match answer.await {
            Err(_) => Err(AskError::TimedOut),
            Ok(Ok(message)) => Ok(message),
            Ok(Err(error)) => Err(match error.kind() {
                RequestErrorKind::NoResponders => AskError::NoResponders,
                RequestErrorKind::TimedOut => AskError::TimedOut,
                RequestErrorKind::MaxPayloadExceeded => AskError::TooLarge,
                RequestErrorKind::InvalidSubject | RequestErrorKind::Other => AskError::Closed,
            }),
        }
    }
}

/// Both connections of one client or instance.
#[derive(Clone)]
pub struct Link {
    /// Subscriptions, queries, heartbeats, acceptances.
    pub main: Lane,
    /// Publishing into streams.
    pub bulk: Lane,
    reconnects: watch::Receiver<u64>,
}

impl Link {
    /// Puts two connections together. `reconnects` counts every time `main` or `bulk` came back.
    pub fn new(main: Nats, bulk: Nats, reconnects: watch::Receiver<u64>) -> Self {
        Self { main: Lane::new(main), bulk: Lane::new(bulk), reconnects }
    }

    /// Connects twice as the options say: credentials, TLS, JetStream domain, a server that is new enough.
    pub async fn connect(options: &super::NatsOptions, name: &str) -> Result<Self, super::Error> {
        let (count, reconnects) = watch::channel(0);
        let count = std::sync::Arc::new(count);
        let main = super::connect::connect_counting(options, name, count.clone()).await?;
        let bulk = super::connect::connect_counting(options, &format!("{name}/bulk"), count).await?;
        let lane = |connection: &super::Connection| Lane::new(connection.client().clone());
        Ok(Self { main: lane(&main), bulk: lane(&bulk), reconnects })
    }

    /// Connects twice to `url` (a comma separates several servers of one cluster).
    pub async fn open(url: &str, name: &str) -> Result<Self, BusError> {
        let urls = super::options::split_urls(url);
        let options = super::NatsOptions { urls, no_context: true, ..super::NatsOptions::default() };
        Self::connect(&options, name).await.map_err(|error| BusError::Connect(error.to_string()))
    }

    /// Connects twice as the `NATS_*` variables and the selected context of the `nats` CLI say.
    pub async fn from_env(name: &str) -> Result<Self, BusError> {
        let connect = async {
            let options = super::NatsOptions::from_env()?.with_context()?;
            Self::connect(&options, name).await
        };
        connect.await.map_err(|error| BusError::Connect(error.to_string()))
    }

    /// Changes whenever a connection came back. A fresh receiver has seen the current value.
    pub fn reconnects(&self) -> watch::Receiver<u64> {
        let mut receiver = self.reconnects.clone();
        receiver.mark_unchanged();
        receiver
    }
}

/// A random number below `bound` (≥ 1), for jitter only.
pub fn jitter_below(bound: u64) -> u64 {
    let random = uuid::Uuid::new_v4().as_u128() as u64;
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}
