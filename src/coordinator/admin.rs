//! The admin port: probes, metrics, version, how many instances an agent should have. Loopback by default; never touches
//! NATS or Redis itself.
//!
//! `/livez` says whether the process's loop turns, and nothing else: an outage of NATS must not
//! restart a fleet. `/readyz` says which named condition is not met and why. Others hand in a
//! [`Heartbeat`], a [`Readiness`] and a function that renders the metrics.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch};

use super::queries::Queries;
use crate::{
    flow::load::{AgentLoad, Scale},
    task::{AgentName, Code, Millis, Refusal},
};

/// When a loop last turned. The loop beats, `/livez` looks.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    began: Instant,
    /// Milliseconds after `began`.
    last: Arc<AtomicU64>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { began: Instant::now(), last: Arc::default() }
    }
}

impl Heartbeat {
    /// The loop turned.
    pub fn beat(&self) {
        self.last.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// Time since it last turned.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms().saturating_sub(self.last.load(Ordering::Relaxed)))
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Whether one condition is met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Met.
    pub ok: bool,
    /// Why not, or in which degraded way; empty if there is nothing to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Named conditions, all of which must be met to be ready. Cloned handles share them.
#[derive(Debug, Clone)]
pub struct Readiness(watch::Sender<BTreeMap<&'static str, Condition>>);

impl Readiness {
    /// None of `names` is met yet.
    pub fn new(names: &[&'static str]) -> Self {
        let not_yet = || Condition { ok: false, reason: "not yet checked".to_owned() };
        Self(watch::Sender::new(names.iter().map(|name| (*name, not_yet())).collect()))
    }

    /// The condition is met.
    pub fn met(&self, name: &'static str) {
        self.set(name, Condition { ok: true, reason: String::new() });
    }

    /// The condition is met in a degraded way one should know of.
    pub fn degraded(&self, name: &'static str, reason: impl Into<String>) {
        self.set(name, Condition { ok: true, reason: reason.into() });
    }

    /// The condition is not met.
    pub fn unmet(&self, name: &'static str, reason: impl Into<String>) {
        self.set(name, Condition { ok: false, reason: reason.into() });
    }

    fn set(&self, name: &'static str, condition: Condition) {
        self.0.send_if_modified(|all| {
            let changed = all.get(name) != Some(&condition);
            if changed {
                tracing::info!(condition = name, ok = condition.ok, reason = %condition.reason, "readiness");
                all.insert(name, condition);
            }
            changed
        });
    }

    /// Whether every condition is met.
    pub fn is_ready(&self) -> bool {
        self.0.borrow().values().all(|c| c.ok)
    }

    /// Waits until every condition is met.
    pub async fn ready(&self) {
        // We hold the sender: the channel can't close.
        let _ = self.0.subscribe().wait_for(|all| all.values().all(|c| c.ok)).await;
    }

    /// The conditions now.
    pub fn conditions(&self) -> BTreeMap<&'static str, Condition> {
        self.0.borrow().clone()
    }
}

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    /// Of the loop that must turn.
    pub heartbeat: Heartbeat,
    /// After how long without a turn the process counts as stuck.
    pub stuck_after: Duration,
    /// What must be met to get work.
    pub readiness: Readiness,
    /// Renders the metrics in the Prometheus text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Knows how much work there is.
    pub scale: Arc<dyn Loads>,
}

/// How much work an agent has.
pub trait Loads: Send + Sync {
    /// Asks the owner, wherever it is.
    fn load(&self, agent: AgentName) -> BoxFuture<'_, Result<AgentLoad, Refusal>>;
}

impl Loads for Queries {
    fn load(&self, agent: AgentName) -> BoxFuture<'_, Result<AgentLoad, Refusal>> {
        Box::pin(Queries::load(self, agent))
    }
}

/// The admin port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Somebody listens there already.
    #[error(
        "admin address {addr} is in use by another process: stop it, or choose another with --admin-listen"
    )]
    InUse {
        /// The address.
        addr: SocketAddr,
    },
    /// Not allowed, or not an address of this machine.
    #[error("cannot listen on admin address {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// An open admin port that does not answer yet.
pub struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Bound {
    /// Opens `addr`; port 0 takes a free one.
    pub async fn bind(addr: SocketAddr) -> Result<Self, AdminError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => AdminError::InUse { addr },
            _ => AdminError::Listen { addr, source },
        };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, addr })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers until `stop` resolves.
    pub async fn serve(
        self,
        admin: Admin,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        axum::serve(self.listener, router(admin)).with_graceful_shutdown(stop).await
    }
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .route("/api/v1/scale/{agent}", get(scale))
        .with_state(admin)
}

#[derive(Serialize)]
struct Live {
    live: bool,
    last_turn_ms: u64,
}

async fn livez(State(admin): State<Admin>) -> Response {
    let age = admin.heartbeat.age();
    let live = age <= admin.stuck_after;
    let last_turn_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    json(live, &Live { live, last_turn_ms })
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    conditions: BTreeMap<&'static str, Condition>,
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let conditions = admin.readiness.conditions();
    let ready = conditions.values().all(|c| c.ok);
    json(ready, &Ready { ready, conditions })
}

/// What a scaler may say about the agent it scales.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleQuery {
    /// Seconds within which what waits should have run; 30 if absent.
    target: Option<u64>,
    /// Slots of an instance, where none runs that could tell; 1 if absent.
    slots: Option<u64>,
    /// Instances at least; 0 if absent.
    min: Option<u64>,
    /// Instances at most; 1,000 if absent.
    max: Option<u64>,
}

#[derive(Serialize)]
struct Scaled {
    agent: AgentName,
    desired: u64,
    instances: usize,
    slots: u64,
    queued: u64,
    runnable: u64,
    running: u64,
    oldest_seconds: f64,
    service_seconds: Option<f64>,
    target_seconds: u64,
}

async fn scale(
    State(admin): State<Admin>,
    Path(agent): Path<String>,
    query: Result<Query<ScaleQuery>, QueryRejection>,
) -> Response {
    let bad = |message: String| answer(StatusCode::BAD_REQUEST, &Refusal::new(Code::BadQuery, message));
    let agent = match AgentName::new(&agent) {
        Ok(agent) => agent,
        Err(error) => return bad(error.to_string()),
    };
    let query = match query {
        Ok(Query(query)) => query,
        Err(error) => return bad(error.body_text()),
    };
    let target_seconds = query.target.unwrap_or(30).clamp(1, 86_400);
    let scale = Scale {
        target: target_seconds * 1_000,
        slots: query.slots.unwrap_or(1),
        min: query.min.unwrap_or(0),
        max: query.max.unwrap_or(1_000),
    };
    let load = match admin.scale.load(agent.clone()).await {
        Ok(load) => load,
        // A scaler must tell "nobody knows" from "nothing to do".
        Err(refusal) => return answer(StatusCode::SERVICE_UNAVAILABLE, &refusal),
    };
    let seconds = |ms: Millis| ms as f64 / 1_000.0;
    answer(
        StatusCode::OK,
        &Scaled {
            desired: scale.desired(&load),
            agent,
            instances: load.size.instances,
            slots: load.size.slots,
            queued: load.queued,
            runnable: load.runnable,
            running: load.running,
            oldest_seconds: seconds(load.oldest.unwrap_or(0)),
            service_seconds: load.service.map(seconds),
            target_seconds,
        },
    )
}

async fn metrics(State(admin): State<Admin>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], (admin.metrics)()).into_response()
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
    protocol: u32,
}

async fn version() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    json(true, &Version { name: "selvedge", version, protocol: crate::wire::VERSION })
}

fn json(ok: bool, body: &impl Serialize) -> Response {
    answer(if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    let headers = [(header::CONTENT_TYPE, crate::wire::headers::JSON)];
    (status, headers, crate::wire::Format::Json.encode(body)).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(addr: SocketAddr, path: &str) -> String {
        let mut tcp = tokio::net::TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn admin(stuck_after: Duration) -> Admin {
        Admin {
            heartbeat: Heartbeat::default(),
            stuck_after,
            readiness: Readiness::new(&["nats", "journal"]),
            metrics: Arc::new(|| "selvedge_up 1\n".to_owned()),
            scale: Arc::new(Twelve),
        }
    }

    /// Twelve tasks of a second wait at `reader`; of others the owner is not there to tell.
    struct Twelve;

    impl Loads for Twelve {
        fn load(&self, agent: AgentName) -> BoxFuture<'_, Result<AgentLoad, Refusal>> {
            let load = AgentLoad { queued: 12, runnable: 12, service: Some(1_000), ..AgentLoad::default() };
            let told = match agent.as_str() {
                "reader" => Ok(load),
                _ => Err(Refusal::new(Code::Unknown, "no coordinator owns the shard now")),
            };
            Box::pin(std::future::ready(told))
        }
    }

    #[tokio::test]
    async fn a_scaler_is_told_a_number_or_that_nobody_knows() {
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (addr, admin) = (bound.addr(), admin(Duration::from_secs(60)));
        let server = tokio::spawn(bound.serve(admin, std::future::pending()));
        let answer = get(addr, "/api/v1/scale/reader?target=3&slots=2").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""desired":2,"#), "{answer}");
        assert!(get(addr, "/api/v1/scale/reader?target=3&max=1").await.contains(r#""desired":1,"#));
        assert!(get(addr, "/api/v1/scale/writer").await.starts_with("HTTP/1.1 503"));
        for bad in ["/api/v1/scale/No*", "/api/v1/scale/reader?target=-1", "/api/v1/scale/reader?traget=3"] {
            let answer = get(addr, bad).await;
            assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("BAD_QUERY"), "{bad}: {answer}");
        }
        server.abort();
    }

    #[tokio::test]
    async fn readiness_names_what_is_not_met() {
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (addr, admin) = (bound.addr(), admin(Duration::from_secs(60)));
        let server = tokio::spawn(bound.serve(admin.clone(), std::future::pending()));

        admin.readiness.met("nats");
        admin.readiness.unmet("journal", "JOURNAL: discard is \"old\"");
        let answer = get(addr, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains(r#""journal":{"ok":false,"reason":"JOURNAL: discard"#), "{answer}");

        admin.readiness.degraded("journal", "slow");
        assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(addr, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(addr, "/metrics").await.ends_with("selvedge_up 1\n"));
        assert!(get(addr, "/version").await.contains(env!("CARGO_PKG_VERSION")));
        server.abort();
    }

    #[tokio::test]
    async fn a_loop_that_stopped_turning_is_not_live() {
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (addr, admin) = (bound.addr(), admin(Duration::ZERO));
        let beat = admin.heartbeat.clone();
        while beat.age() == Duration::ZERO {
            tokio::task::yield_now().await;
        }
        let server = tokio::spawn(bound.serve(admin, std::future::pending()));
        assert!(get(addr, "/livez").await.starts_with("HTTP/1.1 503"));
        server.abort();
    }

    #[tokio::test]
    async fn a_port_in_use_is_said_to_be_in_use() {
        let taken = Bound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = Bound::bind(taken.addr()).await.err().unwrap();
        assert!(matches!(error, AdminError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&taken.addr().to_string()));
    }
}
