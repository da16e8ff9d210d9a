//! Agents and coordinators as processes of their own: this very test binary, started again.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use selvedge::bus::{Clock, Link};
use selvedge::cli::servers::Process;
use selvedge::coordinator::run::{Connections, Options, run};
use selvedge::store::connect::RedisOptions;
use selvedge::task::Backoff;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::work;
use crate::harness::{Stack, options_at};

const ROLE: &str = "SELVEDGE_TEST_CHILD";

/// What a child is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Role {
    nats: String,
    redis: String,
    kind: Kind,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Kind {
    Agent { slots: u32, lease_ms: u64, drain_ms: u64 },
    Coordinator(Coordinator),
}

/// How a coordinator in a process of its own is run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Coordinator {
    pub id: String,
    pub owner_ttl_s: u64,
    /// Aborts when this point of the loop is reached for the given time.
    pub crash_at: Option<(String, u32)>,
    /// Bytes appended before a snapshot is taken; without it, the default.
    pub snapshot_bytes: Option<u64>,
}

impl Coordinator {
    pub fn new(id: &str) -> Coordinator {
        Coordinator { id: id.to_owned(), owner_ttl_s: 1, crash_at: None, snapshot_bytes: None }
    }

    pub fn crash_at(mut self, point: &str, time: u32) -> Coordinator {
        self.crash_at = Some((point.to_owned(), time));
        self
    }

    pub fn snapshots_every(mut self, bytes: u64) -> Coordinator {
        self.snapshot_bytes = Some(bytes);
        self
    }

    pub fn spawn(self, stack: &Stack) -> Process {
        spawn(stack, Kind::Coordinator(self))
    }
}

/// An agent in a process of its own.
pub fn agent(stack: &Stack, slots: u32, lease: Duration) -> Process {
    draining_agent(stack, slots, lease, Duration::from_secs(25))
}

/// The same with another time to drain.
pub fn draining_agent(stack: &Stack, slots: u32, lease: Duration, drain: Duration) -> Process {
    let (lease_ms, drain_ms) = (lease.as_millis() as u64, drain.as_millis() as u64);
    spawn(stack, Kind::Agent { slots, lease_ms, drain_ms })
}

fn spawn(stack: &Stack, kind: Kind) -> Process {
    let role = Role { nats: stack.nats.url(), redis: stack.redis.url(), kind };
    let mut command = Command::new(std::env::current_exe().expect("this very binary"));
    command.args(["--exact", "fault::process::child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, serde_json::to_string(&role).expect("plain data"));
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    Process::spawn(command).expect("the test binary starts")
}

/// Policy that suits tests: short backoff, short patience with offers.
pub fn policy() -> selvedge::flow::state::Policy {
    selvedge::flow::state::Policy {
        backoff: Backoff { base_ms: 50, cap_ms: 200 },
        offer_timeout_ms: 2_000,
        default_plan: "pro".parse().ok(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "not a test: what the children of other tests run"]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let role: Role = serde_json::from_str(&role).expect("written by a test");
    if let Ok(filter) = std::env::var("RUST_LOG") {
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        logs.init();
    }
    let nats = options_at(&role.nats);
    match role.kind {
        Kind::Agent { slots, lease_ms, drain_ms } => {
            let link = Link::connect(&nats, "test-agent").await.expect("the test's server");
            let agent = work::agent(slots, Duration::from_millis(lease_ms))
                .clock(Clock::real())
                .drain_timeout(Duration::from_millis(drain_ms));
            agent.run(link).await.expect("it drains");
        }
        Kind::Coordinator(coordinator) => {
            let connections = Connections::open(&nats, &RedisOptions::at(role.redis), &coordinator.id).await;
            let mut options = Options::new(coordinator.id);
            options.policy = policy();
            options.owner_ttl = Duration::from_secs(coordinator.owner_ttl_s);
            if let Some(bytes) = coordinator.snapshot_bytes {
                options.shrink.journal_bytes = bytes;
            }
            if let Some((point, time)) = coordinator.crash_at {
                let reached = AtomicU32::new(0);
                options.probe = Arc::new(move |at| {
                    if at == point && reached.fetch_add(1, Ordering::Relaxed) + 1 == time {
                        std::process::abort();
                    }
                });
            }
            let connections = connections.expect("the test's servers");
            run(options, connections, None, CancellationToken::new()).await.expect("it does not fail");
        }
    }
}
