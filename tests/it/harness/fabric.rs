//! A whole fabric of one test's own: servers, a coordinator in this process, agents as tasks.

use std::future::Future;
use std::time::Duration;

use selvedge::agent::Agent;
use selvedge::bus::limits::LimitsBucket;
use selvedge::bus::{Clock, Link};
use selvedge::cli::operate::Desk;
use selvedge::client::Client;
use selvedge::coordinator::run::{Connections, Options, run};
use selvedge::flow::operate::Change;
use selvedge::task::{Plan, TenantName, TenantSettings};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Stack, soon};

/// A coordinator running in this process.
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Drains it and waits.
    pub async fn stop(self) {
        self.stop.cancel();
        soon("the coordinator drains", self.task).await.expect("no panic");
    }

    /// Ends it as a crash would: nothing is drained or released.
    pub fn crash(self) {
        self.task.abort();
    }
}

/// See the module.
pub struct Fabric {
    pub coordinator: Option<Running>,
    pub clock: Clock,
    agents: CancellationToken,
    pub stack: Stack,
}

impl Fabric {
    /// Servers and one coordinator.
    pub async fn start() -> Fabric {
        Self::start_with(|_| {}).await
    }

    /// The same with changed options.
    pub async fn start_with(change: impl FnOnce(&mut Options)) -> Fabric {
        let stack = Stack::start().await;
        let mut fabric =
            Fabric { stack, coordinator: None, clock: Clock::real(), agents: CancellationToken::new() };
        let mut options = Options::new("test");
        change(&mut options);
        fabric.clock = options.clock;
        fabric.coordinator = Some(fabric.coordinate(options).await);
        fabric
    }

    /// Another coordinator on the same servers. Returns when it is up, owner or not.
    pub async fn coordinate(&self, options: Options) -> Running {
        let connections =
            Connections::open(&self.stack.nats_options(), &self.stack.redis_options(), &options.id)
                .await
                .expect("own servers");
        let stop = CancellationToken::new();
        let (up, is_up) = tokio::sync::oneshot::channel();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = run(options, connections, Some(up), stopped).await {
                panic!("the coordinator failed: {error}");
            }
        });
        soon("the coordinator is up", is_up).await.expect("it tells");
        Running { stop, task }
    }

    /// A client of `tenant`.
    pub async fn client(&self, tenant: &str) -> Client {
        let link = Link::connect(&self.stack.nats_options(), "test-client").await.expect("own server");
        Client::on(link, TenantName::new(tenant).expect("a name"))
    }

    /// Runs an instance until the fabric is dropped, or the returned token is cancelled.
    pub async fn agent(&self, agent: Agent) -> CancellationToken {
        let link = Link::connect(&self.stack.nats_options(), "test-agent").await.expect("own server");
        let stop = self.agents.child_token();
        let until = stop.clone();
        let agent = agent.clock(self.clock);
        tokio::spawn(async move {
            if let Err(error) = agent.run_until(link, until).await {
                panic!("the agent failed: {error}");
            }
        });
        stop
    }

    /// Sets a tenant to a plan of its own, and waits until the owner goes by it.
    pub async fn plan_in_force(&self, tenant: &str, plan: Plan) {
        let revision = self.plan(tenant, plan).await;
        let link = Link::connect(&self.stack.nats_options(), "test-operator").await.expect("own server");
        let desk = Desk::on(self.limits().await, link);
        let change = Change::Tenant(tenant.parse().expect("a name"), revision);
        desk.journaled(change).await.expect("an owner takes it up");
    }

    /// Sets a tenant to a plan of its own. Returns the revision of the tenant's entry.
    pub async fn plan(&self, tenant: &str, plan: Plan) -> u64 {
        let bucket = self.limits().await;
        let name = tenant.parse().expect("a name");
        bucket.set_plan(&name, &plan, None).await.expect("a plan that makes sense");
        let settings = TenantSettings::under(name);
        let tenant = tenant.parse().expect("a name");
        bucket.set_tenant(&tenant, &settings, None).await.expect("a new tenant")
    }

    /// Plans and tenants.
    pub async fn limits(&self) -> LimitsBucket {
        let connection = self.stack.connect("test-limits").await;
        LimitsBucket::open(connection.jetstream()).await.expect("the bucket is provisioned")
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.agents.cancel();
        if let Some(running) = self.coordinator.take() {
            running.crash();
        }
    }
}

/// A plan that binds nothing.
pub fn unbound() -> Plan {
    Plan { in_flight: 10_000, rate: 100_000, burst: 100_000, ..Plan::pro() }
}

/// Waits longer than [`soon`], for what takes its time.
pub async fn eventually<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), future).await {
        Ok(value) => value,
        Err(_) => panic!("did not happen within 60 s: {what}"),
    }
}
