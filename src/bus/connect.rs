//! One connection to NATS: opened with a clear error or not at all, kept for ever, its troubles counted and told.
//!
//! Owns everything async-nats leaves to the user: names, jittered reconnects, the server's version, what the server
//! forbids (which callers otherwise see as a timeout). Publish and consume on separate connections.

mod login;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{Client, ConnectErrorKind, ConnectOptions};
use tokio::sync::{broadcast, watch};

use self::login::{log_in, readable};
use super::error::Error;
use super::options::NatsOptions;
use crate::telemetry::names;

/// The oldest server that may be used, and the API level it has.
pub const OLDEST_SERVER: (u32, u32, u32) = (2, 15, 1);
const API_LEVEL: u64 = 5;

/// What a connection tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusEvent {
    /// It is (again) connected.
    Connected,
    /// The connection broke; it is being restored.
    Disconnected,
    /// The server is about to shut down.
    LameDuck,
    /// Messages were dropped because we were too slow.
    SlowConsumer,
    /// The server forbade something; its words.
    Forbidden(String),
    /// Another complaint of the server or the client library.
    Trouble(String),
    /// Closed for good.
    Closed,
}

/// How often each of them happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times connected, the first included.
    pub connected: u64,
    /// Times disconnected.
    pub disconnected: u64,
    /// Lame duck announcements.
    pub lame_duck: u64,
    /// Messages dropped because we were too slow.
    pub slow_consumer: u64,
    /// Things the server forbade.
    pub forbidden: u64,
    /// Other complaints.
    pub trouble: u64,
}

/// A live connection; cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection {
    client: Client,
    jetstream: jetstream::Context,
    /// `$JS.API`, or where the domain or prefix moves it.
    api_prefix: String,
    watch: Arc<Watch>,
    servers: String,
    timeout: Duration,
}

#[derive(Debug)]
struct Watch {
    name: String,
    connected: AtomicU64,
    disconnected: AtomicU64,
    lame_duck: AtomicU64,
    slow_consumer: AtomicU64,
    forbidden: AtomicU64,
    trouble: AtomicU64,
    last_forbidden: Mutex<Option<(Instant, String)>>,
    events: broadcast::Sender<BusEvent>,
    /// Times connected, possibly shared by several connections of one role.
    returns: Arc<watch::Sender<u64>>,
}

/// Connects, under this name, to a server that is new enough.
///
/// Fails rather than retries if no server answers now; once connected, it is kept up for ever.
pub async fn connect(options: &NatsOptions, name: &str) -> Result<Connection, Error> {
    connect_counting(options, name, Arc::new(watch::Sender::new(0))).await
}

/// Connects; `returns` is raised every time the connection stands (again).
pub(super) async fn connect_counting(
    options: &NatsOptions,
    name: &str,
    returns: Arc<watch::Sender<u64>>,
) -> Result<Connection, Error> {
    install_crypto();
    let servers = options.servers().join(", ");
    let watch = Arc::new(Watch::new(name, returns));
    let connect_options = build(options, name, &watch).await?;
    let client = connect_options
        .connect(options.servers())
        .await
        .map_err(|error| explain(&error, &servers, options))?;
    let info = client.server_info();
    if version(&info.version) < Some(OLDEST_SERVER) {
        let _ = client.drain().await;
        return Err(Error::OldServer { found: info.version, servers });
    }
    tracing::info!(connection = name, server = %info.server_name, version = %info.version, "connected to NATS");
    let timeout = options.timeout();
    let api_prefix = jetstream_prefix(options);
    let jetstream =
        ContextBuilder::new().timeout(timeout).api_prefix(api_prefix.clone()).build(client.clone());
    Ok(Connection { client, jetstream, api_prefix, watch, servers, timeout })
}

impl Connection {
    /// The async-nats client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// JetStream, in the domain or behind the prefix that was asked for.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// Where the JetStream API is: `$JS.API`, or where a domain or prefix moves it.
    pub fn api_prefix(&self) -> &str {
        &self.api_prefix
    }

    /// Where it was told to connect, without credentials.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// The version of the server it is connected to now.
    pub fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// The largest message the server takes.
    pub fn max_payload(&self) -> usize {
        self.client.server_info().max_payload
    }

    /// Whether the connection stands now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<BusEvent> {
        self.watch.events.subscribe()
    }

    /// How often what has happened.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            connected: read(&self.watch.connected),
            disconnected: read(&self.watch.disconnected),
            lame_duck: read(&self.watch.lame_duck),
            slow_consumer: read(&self.watch.slow_consumer),
            forbidden: read(&self.watch.forbidden),
            trouble: read(&self.watch.trouble),
        }
    }

    /// Names the reason for a timeout that began at `since`: a forbidden operation looks like one to its caller.
    pub fn explain_timeout(&self, what: &str, since: Instant) -> Error {
        let last = self.watch.last_forbidden.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*last {
            Some((at, said)) if *at >= since => Error::Forbidden { what: said.clone() },
            _ => Error::Timeout { what: what.to_owned() },
        }
    }

    /// Whether JetStream is on for this account and has the API level we need. Needs the right to `$JS.API.INFO`.
    pub async fn check_jetstream(&self) -> Result<(), Error> {
        #[derive(serde::Deserialize)]
        struct Info {
            #[serde(default)]
            api: Api,
            error: Option<serde_json::Value>,
        }
        #[derive(serde::Deserialize, Default)]
        struct Api {
            #[serde(default)]
            level: u64,
        }
        let began = Instant::now();
        let cannot = |reason: String| Error::JetStream { servers: self.servers.clone(), reason };
        let subject = format!("{}.INFO", self.api_prefix);
        let answer = tokio::time::timeout(self.timeout, self.client.request(subject, "".into())).await;
        let message = match answer {
            Ok(Ok(message)) => message,
            Ok(Err(error)) if error.kind() == async_nats::RequestErrorKind::NoResponders => {
                return Err(cannot("no JetStream answers there".to_owned()));
            }
            _ => return Err(self.explain_timeout("the JetStream account", began)),
        };
        let info: Info =
            serde_json::from_slice(&message.payload).map_err(|error| cannot(error.to_string()))?;
        if let Some(error) = info.error {
            return Err(cannot(error["description"].as_str().unwrap_or("refused").to_owned()));
        }
        if info.api.level < API_LEVEL {
            return Err(cannot(format!("API level {}, need >= {API_LEVEL}", info.api.level)));
        }
        Ok(())
    }

    /// Sends what is buffered, closes, and waits until that has happened or the deadline has passed.
    pub async fn close(self, deadline: Duration) {
        let mut events = self.events();
        let closing = async {
            if self.client.drain().await.is_err() {
                return;
            }
            while !matches!(
                events.recv().await,
                Ok(BusEvent::Closed) | Err(broadcast::error::RecvError::Closed)
            ) {}
        };
        if tokio::time::timeout(deadline, closing).await.is_err() {
            tracing::warn!(connection = %self.watch.name, "NATS connection not drained in time");
        }
    }
}

impl Watch {
    fn new(name: &str, returns: Arc<watch::Sender<u64>>) -> Watch {
        Watch {
            name: name.to_owned(),
            connected: AtomicU64::new(0),
            disconnected: AtomicU64::new(0),
            lame_duck: AtomicU64::new(0),
            slow_consumer: AtomicU64::new(0),
            forbidden: AtomicU64::new(0),
            trouble: AtomicU64::new(0),
            last_forbidden: Mutex::new(None),
            events: broadcast::Sender::new(256),
            returns,
        }
    }

    /// Counts, logs and passes on what async-nats reports.
    fn on(&self, event: async_nats::Event) {
        use async_nats::{Event, ServerError};
        let connection = self.name.as_str();
        let (counter, label, told) = match event {
            Event::Connected => {
                self.returns.send_modify(|count| *count += 1);
                if self.connected.load(Ordering::Relaxed) > 0 {
                    metrics::counter!(names::NATS_RECONNECTS).increment(1);
                }
                (&self.connected, "connected", BusEvent::Connected)
            }
            Event::Disconnected => {
                tracing::warn!(connection, "NATS connection lost, reconnecting");
                (&self.disconnected, "disconnected", BusEvent::Disconnected)
            }
            Event::LameDuckMode => {
                tracing::warn!(connection, "NATS server is shutting down (lame duck)");
                (&self.lame_duck, "lame_duck", BusEvent::LameDuck)
            }
            Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
                tracing::warn!(connection, "too slow: NATS messages were dropped");
                metrics::counter!(names::NATS_SLOW_CONSUMER).increment(1);
                (&self.slow_consumer, "slow_consumer", BusEvent::SlowConsumer)
            }
            Event::ServerError(ServerError::AuthorizationViolation) => {
                self.forbid("authorization violation".to_owned())
            }
            Event::ServerError(ServerError::Other(said))
                if said.to_lowercase().contains("permissions violation") =>
            {
                self.forbid(said)
            }
            Event::ServerError(error) => self.complain(error.to_string()),
            Event::ClientError(error) => self.complain(error.to_string()),
            Event::Draining => return,
            Event::Closed => {
                let _ = self.events.send(BusEvent::Closed);
                return;
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(names::NATS_EVENTS, names::EVENT => label).increment(1);
        let _ = self.events.send(told);
    }

    fn forbid(&self, said: String) -> (&AtomicU64, &'static str, BusEvent) {
        tracing::warn!(connection = %self.name, said, "NATS forbids an operation");
        let mut last = self.last_forbidden.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = Some((Instant::now(), said.clone()));
        (&self.forbidden, "forbidden", BusEvent::Forbidden(said))
    }

    fn complain(&self, said: String) -> (&AtomicU64, &'static str, BusEvent) {
        tracing::warn!(connection = %self.name, said, "NATS trouble");
        (&self.trouble, "trouble", BusEvent::Trouble(said))
    }
}

/// Makes `ring` the process's TLS provider, unless somebody chose one before.
pub fn install_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

async fn build(options: &NatsOptions, name: &str, watch: &Arc<Watch>) -> Result<ConnectOptions, Error> {
    let on_event = Arc::clone(watch);
    let once = AtomicBool::new(false);
    let seen = Arc::clone(watch);
    let mut built = ConnectOptions::new()
        .name(name)
        .connection_timeout(options.timeout())
        .max_reconnects(None)
        .event_callback(move |event| {
            on_event.on(event);
            std::future::ready(())
        })
        .reconnect_delay_callback(move |attempts| {
            // The first connection must not wait; after that even the first attempt is spread out.
            let again = seen.connected.load(Ordering::Relaxed) > 0 || once.swap(true, Ordering::Relaxed);
            if again { full_jitter(attempts) } else { Duration::ZERO }
        });
    built = log_in(built, options).await?;
    if let Some(ca) = &options.tls_ca {
        built = built.add_root_certificates(readable("the TLS authority", ca)?).require_tls(true);
    }
    match (&options.tls_cert, &options.tls_key) {
        (Some(cert), Some(key)) => {
            let (cert, key) = (readable("the TLS certificate", cert)?, readable("the TLS key", key)?);
            built = built.add_client_certificate(cert, key).require_tls(true);
        }
        (None, None) => {}
        _ => return Err(Error::config("TLS", "a client certificate and its key must be given together")),
    }
    if options.tls_first == Some(true) {
        built = built.tls_first();
    }
    if let Some(prefix) = &options.inbox_prefix {
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '*' || c == '>';
        if prefix.is_empty() || prefix.starts_with('.') || prefix.ends_with('.') || prefix.contains(bad) {
            return Err(Error::config(
                "inbox prefix",
                format!("{prefix:?} is not a subject without wildcards"),
            ));
        }
        built = built.custom_inbox_prefix(prefix);
    }
    Ok(built)
}

fn jetstream_prefix(options: &NatsOptions) -> String {
    match (&options.js_api_prefix, &options.js_domain) {
        (Some(prefix), _) => prefix.trim_end_matches('.').to_owned(),
        (None, Some(domain)) => format!("$JS.{domain}.API"),
        (None, None) => "$JS.API".to_owned(),
    }
}

/// Anywhere between nothing and an exponentially growing bound, so that a fleet does not come back as one.
fn full_jitter(attempts: usize) -> Duration {
    let bound = Duration::from_millis(50 << attempts.min(7)).min(Duration::from_secs(4));
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    bound.mul_f64(random as f64 / u64::MAX as f64)
}

fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

/// The kind, the reason below it, and nothing that was secret.
fn explain(error: &async_nats::ConnectError, servers: &str, options: &NatsOptions) -> Error {
    let servers = servers.to_owned();
    let reason = match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.kind().to_string(),
    };
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            Error::Denied { servers, with: options.credentials().to_owned() }
        }
        ConnectErrorKind::Tls => Error::Tls { servers, reason },
        ConnectErrorKind::ServerParse => Error::config("NATS server URL", reason),
        // async-nats reports a failed handshake as an I/O error.
        ConnectErrorKind::Io
            if ["certificate", "tls", "handshake"]
                .iter()
                .any(|word| reason.to_lowercase().contains(word)) =>
        {
            Error::Tls { servers, reason }
        }
        _ => Error::Unreachable { servers, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(version("2.9.10") < Some(OLDEST_SERVER));
        assert!(version("2.15.1-beta.1") >= Some(OLDEST_SERVER));
        assert!(version("dev") < Some(OLDEST_SERVER), "a version nobody can read is not new enough");
    }

    #[test]
    fn reconnects_are_spread_and_bounded() {
        let delays: Vec<_> = (0..200).map(full_jitter).collect();
        assert!(delays.iter().all(|delay| *delay <= Duration::from_secs(4)));
        assert!(delays.windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_prefix_beats_a_domain() {
        let mut options = NatsOptions { js_domain: Some("hub".into()), ..NatsOptions::default() };
        assert_eq!(jetstream_prefix(&options), "$JS.hub.API");
        options.js_api_prefix = Some("acme.js.".into());
        assert_eq!(jetstream_prefix(&options), "acme.js");
    }
}
