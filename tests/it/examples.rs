//! Every example, run as it is, against a real coordinator; what it prints is checked.

mod conversation;
mod research;

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::OnceLock,
    time::Duration,
};

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    bus::{self, Clock, Link},
    client::Client,
    coordinator::run::{self, Connections, CoordinatorError, Options},
    store::connect as store,
};
use tokio::{
    process::{Child, Command},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Stack, soon};

/// Servers and a coordinator of a test's own.
struct Fabric {
    stack: Stack,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), CoordinatorError>>,
}

impl Fabric {
    async fn start() -> Self {
        Self::start_on(Clock::real()).await
    }

    async fn start_on(clock: Clock) -> Self {
        let stack = Stack::start().await;
        let nats = stack.nats_options();
        let redis = stack.redis_options();
        let connect = async |name: &str| bus::connect(&nats, name).await.unwrap();
        let connections = Connections {
            link: Link::connect(&nats, "coordinator").await.unwrap(),
            journal: connect("journal").await.jetstream().clone(),
            streams: connect("streams").await.jetstream().clone(),
            triggers: connect("triggers").await.jetstream().clone(),
            service: connect("service").await.client().clone(),
            store: store::connect(&redis).await.unwrap().0,
            reads: store::connect(&redis).await.unwrap().0,
        };
        let mut options = Options { clock, ..Options::new("c-1") };
        // An acceptance takes real time, however fast the clock runs.
        options.policy.offer_timeout_ms = 600_000;
        let stop = CancellationToken::new();
        let (up, is_up) = oneshot::channel();
        let ended = tokio::spawn(run::run(options, connections, Some(up), stop.clone()));
        soon("the coordinator is up", is_up).await.unwrap();
        Self { stack, stop, ended }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("NATS_URL", self.stack.nats.url())
            .env("XDG_CONFIG_HOME", self.stack.dir())
            .env_remove("NATS_CONTEXT")
            .env_remove("SELVEDGE_TENANT")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// A tenant that may do more than a new one.
    async fn pro(&self, tenant: &str) {
        let connection = bus::connect(&self.stack.nats_options(), "limits").await.unwrap();
        let limits = bus::limits::LimitsBucket::open(connection.jetstream()).await.unwrap();
        let pro = selvedge::task::TenantSettings::under("pro".parse().unwrap());
        limits.set_tenant(&tenant.parse().unwrap(), &pro, None).await.unwrap();
    }

    async fn client(&self) -> Client {
        Client::connect(&self.stack.nats.url()).await.unwrap()
    }

    /// Runs an example to its end and returns what it printed.
    async fn print_of(&self, example: &str) -> String {
        let run = self.command(executable(example)).output();
        let Output { status, stdout, .. } = soon(example, run).await.unwrap();
        let printed = String::from_utf8(stdout).unwrap();
        assert!(status.success(), "{example}: {status}, printed {printed}");
        printed
    }

    async fn stop(self) {
        self.stop.cancel();
        soon("the coordinator stops", self.ended).await.unwrap().unwrap();
    }
}

/// An example's executable, built by the first test that asks if `cargo test` has not done it.
fn executable(example: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let release = if cfg!(debug_assertions) { &[][..] } else { &["--release"][..] };
        let build = std::process::Command::new(env!("CARGO"))
            .args(["build", "--examples", "--quiet", "--manifest-path"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
            .args(release)
            .status()
            .expect("cargo");
        assert!(build.success(), "the examples don't build");
        Path::new(env!("CARGO_BIN_EXE_selvedge")).parent().expect("a directory").join("examples")
    });
    dir.join(example)
}

async fn terminate(mut agent: Child) {
    let pid = agent.id().expect("it runs").to_string();
    Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
    let status = soon("the agent drains", agent.wait()).await.unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn the_hello_agent_greets_and_leaves_on_sigterm_and_both_are_under_20_lines() {
    for file in ["hello_agent.rs", "hello_client.rs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file);
        assert!(std::fs::read_to_string(path).unwrap().lines().count() < 20, "{file}");
    }
    let fabric = Fabric::start().await;
    let agent = fabric.command(executable("hello_agent")).spawn().unwrap();
    assert_eq!(fabric.print_of("hello_client").await, "Hello, world!\n");
    terminate(agent).await;
    fabric.stop().await;
}

#[tokio::test]
async fn the_fanout_example_sums_up_what_its_children_counted() {
    let fabric = Fabric::start().await;
    assert_eq!(fabric.print_of("fanout").await, "45 words in 3 texts\n");
    fabric.stop().await;
}

#[tokio::test]
async fn the_approval_example_drafts_once_and_publishes_what_was_approved() {
    let fabric = Fabric::start().await;
    let printed = fabric.print_of("approval").await;
    let lines = ["writer: drafting", "person: approving", "a page about selvedges, approved by ada"];
    assert_eq!(printed.lines().collect::<Vec<_>>(), lines);
    fabric.stop().await;
}

#[tokio::test]
async fn the_cancel_example_reaches_the_handler_and_the_client() {
    let fabric = Fabric::start().await;
    let printed = fabric.print_of("cancel").await;
    for line in ["handler: cancelled, tidying up", "client: cancelled"] {
        assert!(printed.contains(line), "{printed}");
    }
    fabric.stop().await;
}

#[tokio::test]
async fn the_watch_example_shows_every_event_once_and_the_end_last() {
    let fabric = Fabric::start().await;
    let printed = fabric.print_of("watch").await;
    let lines: Vec<&str> = printed.lines().filter(|line| !line.starts_with("state: queued")).collect();
    let events = ["token: Ok(\"a\")", "token: Ok(\"self-finished\")", "token: Ok(\"edge\")"];
    let shown: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with("token")).collect();
    assert_eq!(shown, events, "{printed}");
    assert_eq!(lines.last(), Some(&"words: 3"), "{printed}");
    fabric.stop().await;
}

#[tokio::test]
async fn the_python_worker_runs_tasks_of_a_real_coordinator() {
    let fabric = Fabric::start().await;
    let packages = crate::harness::python::packages().await;
    let worker = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/worker.py");
    let _worker = fabric.command("python3").arg(worker).env("PYTHONPATH", packages).spawn().unwrap();
    let client = fabric.client().await;
    for word in ["hello", "again"] {
        let task = client.submit("shout", word).await.unwrap();
        let result: String = soon("the worker's result", task.result()).await.unwrap();
        assert_eq!(result, word.to_uppercase());
    }
    fabric.stop().await;
}

#[tokio::test]
async fn a_task_of_forty_minutes_keeps_its_lease_of_two_by_heartbeats_alone() {
    let clock = Clock::fast(600.0);
    let fabric = Fabric::start_on(clock).await;
    let nap = |ctx: Ctx, _: ()| async move {
        ctx.sleep_here(Duration::from_secs(40 * 60)).await?;
        Ok::<_, AgentError>(ctx.attempt())
    };
    let client = fabric.client().await;
    let stop = CancellationToken::new();
    let agent = Agent::new("napper", nap).unwrap().lease(Duration::from_secs(120)).clock(clock);
    let running = tokio::spawn(agent.run_until(client.link().clone(), stop.clone()));
    let started = clock.now();
    let attempt: u32 = soon("the nap", client.submit("napper", &()).await.unwrap().result()).await.unwrap();
    assert_eq!(attempt, 1, "the lease was lost on the way");
    assert!(clock.now() - started >= 40 * 60_000);
    stop.cancel();
    soon("the agent stops", running).await.unwrap().unwrap();
    fabric.stop().await;
}

#[tokio::test]
async fn the_newsroom_prints_every_document_in_one_edition() {
    let fabric = Fabric::start().await;
    fabric.pro("default").await;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let run = fabric.command(executable("newsroom")).arg(&docs).output();
    let Output { status, stdout, .. } = soon("the last edition", run).await.unwrap();
    let printed = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{status}, printed {printed}");
    let mut stories: Vec<&str> = printed.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    stories.sort_unstable();
    let documents = std::fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path());
    let expected = documents.filter(|path| path.extension().is_some_and(|e| e == "md")).map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        let headline = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap();
        format!("{}: {headline} ({} words)", path.display(), text.split_whitespace().count())
    });
    let mut expected: Vec<String> = expected.collect();
    expected.sort_unstable();
    assert_eq!(stories, expected);
    let editions = printed.lines().filter(|line| line.starts_with("edition ")).count();
    assert!(editions >= stories.len().div_ceil(5) && editions <= stories.len(), "{printed}");
    fabric.stop().await;
}
