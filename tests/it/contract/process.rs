//! A coordinator and two agents in a process of their own, for tests that look at memory and logs.
//!
//! The process is this test binary again, running the one ignored test below.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use selvedge::agent::{Agent, AgentError, Ctx};
use selvedge::bus::{Link, NatsOptions};
use selvedge::coordinator::run::{Connections, Options, run};
use selvedge::store::connect::RedisOptions;
use selvedge::task::Payload;
use tokio_util::sync::CancellationToken;

const NATS: &str = "SELVEDGE_TEST_PROCESS_NATS";
const REDIS: &str = "SELVEDGE_TEST_PROCESS_REDIS";

/// The process; ends with this value.
pub struct Process(Child);

impl Process {
    /// Starts it; logs, at debug level and of all libraries, go to `log`.
    pub fn start(nats: &str, redis: &str, log: &Path) -> Process {
        let name = concat!(module_path!(), "::process").split_once("::").unwrap().1;
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture", "--test-threads", "1"])
            .env(NATS, nats)
            .env(REDIS, redis)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log).unwrap())
            .spawn()
            .unwrap();
        Process(child)
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Whether it runs.
    pub fn is_up(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by other tests, as a process of its own"]
async fn process() {
    let (Ok(nats), Ok(redis)) = (std::env::var(NATS), std::env::var(REDIS)) else { return };
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let nats = NatsOptions { urls: vec![nats], no_context: true, ..NatsOptions::default() };
    let redis = RedisOptions::at(redis);
    let connections = Connections::open(&nats, &redis, "process").await.unwrap();
    let stop = CancellationToken::new();
    let coordinator = tokio::spawn(run(Options::new("process"), connections, None, stop.clone()));
    let echo = Agent::raw("echo", |ctx: Ctx, input: Payload| async move {
        ctx.emit_raw("echo", input.clone()).await?;
        Ok(input)
    });
    // Fails as its input says: {"fail": text} for good, anything else because it does not fit.
    #[derive(serde::Deserialize)]
    struct Failing {
        fail: String,
    }
    let failing =
        Agent::new(
            "failing",
            |_: Ctx, input: Failing| async move { Err::<(), _>(AgentError::fatal(input.fail)) },
        );
    for agent in [echo.unwrap(), failing.unwrap()] {
        let link = Link::connect(&nats, "process-agent").await.unwrap();
        tokio::spawn(agent.slots(8).run_until(link, stop.clone()));
    }
    coordinator.await.unwrap().unwrap();
}
