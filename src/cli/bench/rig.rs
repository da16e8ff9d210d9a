//! What is measured: a stack of its own with a plan that does not bind, an agent process, and what all of it used.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::jetstream;
use clap::ValueEnum;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::Bench;
use super::args::Work;
use super::counters::{self, Counters};
use super::floor::TENANTS;
use super::load::{self, Load};
use super::usage;
use crate::bus::limits::LimitsBucket;
use crate::bus::{self, Link};
use crate::cli::dev::say;
use crate::cli::operate::Desk;
use crate::cli::stack::{DataDir, Given, Port, Stack, Wanted};
use crate::client::{Client, DEFAULT_TENANT, NewTask};
use crate::config::ByteSize;
use crate::flow::operate::Change;
use crate::store::keys;
use crate::task::{
    AgentName, AgentSettings, AllSettings, Payload, Phase, Plan, PlanName, Priority, TenantName,
    TenantSettings,
};
use crate::telemetry::names;
use crate::wire::topology;

/// The agent every load is for.
pub const AGENT: &str = "noop";
/// Its slots.
pub const AGENT_SLOTS: u32 = 256;
/// Bytes of every input.
pub const INPUT: usize = 256;
/// The bench's own process, among the others.
pub const CLIENT: &str = "client";
/// Between two looks at what must become true.
const LOOK: Duration = Duration::from_millis(5);
/// The same where looking costs more.
const SELDOM: Duration = Duration::from_millis(100);
/// Tasks until the plan has arrived, at most.
const ARRIVES: u64 = 200;
/// How long anything may take to become true before it is given up.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the cases may want different.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Largest journal, in bytes.
    pub journal: u64,
    /// Largest intake, in bytes.
    pub intake: u64,
    /// Ended tasks that are kept per tenant, in the index and as remembered ids.
    pub kept: u64,
    /// Tasks a tenant may have waiting.
    pub backlog: u64,
    /// Seconds an event stream lives after its last entry.
    pub stream_ttl: u64,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { journal: 1 << 30, intake: 512 << 20, kept: 1_000_000, backlog: 4_000_000, stream_ttl: 3_600 }
    }
}

/// See the module.
pub struct Rig {
    /// The processes.
    pub stack: Stack,
    /// Speaks for the default tenant.
    pub client: Client,
    /// To look with.
    pub redis: MultiplexedConnection,
    js: jetstream::Context,
    monitor: SocketAddr,
    /// Tasks each tenant has been seen to complete.
    completed: Vec<u64>,
}

/// What every process and server had used at one moment.
pub struct Moment {
    at: Instant,
    cpu: BTreeMap<String, Duration>,
    counters: Counters,
}

/// What was used between two moments.
pub struct Used {
    /// Seconds.
    pub wall: f64,
    /// CPU seconds by process.
    pub cpu: BTreeMap<String, f64>,
    /// Of the servers.
    pub counters: Counters,
}

impl Used {
    /// CPU seconds of these processes together.
    pub fn of(&self, names: &[&str]) -> f64 {
        names.iter().filter_map(|name| self.cpu.get(*name)).sum()
    }
}

impl Rig {
    /// Starts servers and a coordinator, and sets the plan.
    pub async fn start(bench: &Bench, sizes: Sizes) -> Result<Rig> {
        let data = DataDir::ephemeral()?;
        let config = data.path().join("bench.toml");
        std::fs::write(&config, configuration(sizes))?;
        let wanted = Wanted {
            data,
            persist: false,
            nats_port: Port::Any,
            redis_port: Port::Any,
            admin_port: Port::Any,
            servers: bench.args.servers.clone(),
            // Never a server that is somebody else's: it is about to be loaded.
            given: Given::default(),
            config: Some(config),
        };
        let stack = Stack::start(wanted, Arc::new(say)).await?;
        let tenant = TenantName::new(DEFAULT_TENANT)?;
        let client = Client::on(Link::connect(&stack.options, "selvedge-bench").await?, tenant);
        let redis = stack.redis.as_ref().context("a stack of our own has a Redis")?;
        let redis = redis::Client::open(redis.url.as_str())?.get_multiplexed_async_connection().await?;
        let monitor = counters::monitor(&stack.data().dir("nats"))?;
        let js = jetstream::new(async_nats::connect(&stack.nats.url).await?);
        let rig = Rig { stack, client, redis, js, monitor, completed: vec![0; TENANTS] };
        rig.set_plan(sizes).await?;
        Ok(rig)
    }

    /// Limits as `pro` has them, only so high that none of them binds.
    async fn set_plan(&self, sizes: Sizes) -> Result<()> {
        let connection = bus::connect(&self.stack.options, "selvedge-bench/limits").await?;
        let bucket = LimitsBucket::open(connection.jetstream()).await?;
        let plan = Plan {
            in_flight: 1_000,
            rate: 100_000,
            burst: 100_000,
            backlog: sizes.backlog,
            retain_tasks: sizes.kept,
            ..Plan::pro()
        };
        bucket.set_plan(&PlanName::new("bench")?, &plan, None).await?;
        Ok(())
    }

    /// Starts an agent process of 256 slots, and runs a task of every tenant, so that nothing is done for the first
    /// time later. Gives how many have run.
    pub async fn start_agent(&mut self) -> Result<u64> {
        self.start_instance(AGENT)?;
        let warm = self.await_plan().await?;
        for tenant in 0..TENANTS {
            self.tenant(tenant).submit_task(load::task(AGENT)?).await?.wait().await?;
        }
        self.await_completed(TENANTS as u64).await?;
        Ok(warm + TENANTS as u64)
    }

    /// Waits until the coordinator goes by the bench's plan, and gives the number of tasks that took.
    pub async fn await_plan(&self) -> Result<u64> {
        let client = self.client.tenant("plan")?;
        for tried in 1..=ARRIVES {
            // A class that only our plan allows: until the plan has arrived, the class is lowered.
            let task = client.submit_task(load::task(AGENT)?.priority(Priority::High)).confirmed().await?;
            let is_ours = task.get().await?.priority == Priority::High;
            task.cancel("the plan has arrived").await?;
            task.wait().await?;
            if is_ours {
                return Ok(tried);
            }
            tokio::time::sleep(LOOK).await;
        }
        anyhow::bail!("the plan does not arrive")
    }

    /// Starts an agent process of 256 slots.
    pub fn start_instance(&mut self, agent: &str) -> Result<()> {
        self.stack.start_own(agent, &["bench-agent", agent])
    }

    /// Starts an instance of an agent that does this.
    pub fn start_working(&mut self, agent: &str, work: Work) -> Result<()> {
        let work = work.to_possible_value().context("work that is not offered")?;
        self.stack.start_own(agent, &["bench-agent", agent, "--work", work.get_name()])
    }

    /// Starts instances of an agent that takes as long as its tasks say, and waits until the owner has heard of all.
    pub async fn start_timed(&mut self, agent: &str, slots: u32, instances: u32) -> Result<()> {
        let (slots, instances) = (slots.to_string(), instances.to_string());
        let args = ["bench-agent", agent, "--work", "timed", "--slots", &slots, "--instances", &instances];
        self.stack.start_own(agent, &args)?;
        let there = self.client.tenant("there")?;
        let probe = NewTask::raw(agent, Payload::Bytes(vec![0; 8].into()))?;
        there.submit_task(probe).wait().await?;
        if instances == "1" {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        while self.metric(names::INSTANCES).await? < instances.parse::<f64>()? {
            anyhow::ensure!(Instant::now() < deadline, "the instances do not come");
            tokio::time::sleep(SELDOM).await;
        }
        Ok(())
    }

    /// The load of all tenants.
    pub fn load(&self, agent: &'static str) -> Load {
        Load::new((0..TENANTS).map(|n| self.tenant(n)).collect(), agent)
    }

    /// A client that speaks for the `n`th tenant.
    pub fn tenant(&self, n: usize) -> Client {
        // Names of this form fit the grammar.
        self.client.tenant(&tenant_name(n)).unwrap_or_else(|_| self.client.clone())
    }

    /// Waits until the index shows `more` tasks of all tenants as completed, beyond what it showed when this last
    /// returned.
    pub async fn await_completed(&mut self, more: u64) -> Result<()> {
        let wanted = self.completed.iter().sum::<u64>() + more;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut pipeline = redis::pipe();
            for tenant in 0..TENANTS {
                let tenant = TenantName::new(tenant_name(tenant))?;
                pipeline.cmd("ZCARD").arg(keys::state(&tenant, Phase::Completed));
            }
            let counts: Vec<u64> = pipeline.query_async(&mut self.redis).await?;
            if counts.iter().sum::<u64>() >= wanted {
                self.completed = counts;
                return Ok(());
            }
            let left = wanted - counts.iter().sum::<u64>();
            anyhow::ensure!(Instant::now() < deadline, "{left} tasks are not completed in the index");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What everything has used until now.
    pub async fn moment(&mut self) -> Result<Moment> {
        let counters = Counters::read(self.monitor, &mut self.redis).await?;
        let mut cpu = BTreeMap::from([(CLIENT.to_owned(), usage::cpu(std::process::id())?)]);
        for member in self.stack.members() {
            if let Some(pid) = member.pid {
                cpu.insert(member.name, usage::cpu(pid)?);
            }
        }
        Ok(Moment { at: Instant::now(), cpu, counters })
    }

    /// What was used since.
    pub async fn used(&mut self, before: &Moment) -> Result<Used> {
        let now = self.moment().await?;
        let cpu = now.cpu.iter().map(|(name, cpu)| {
            let before = before.cpu.get(name).copied().unwrap_or_default();
            (name.clone(), cpu.saturating_sub(before).as_secs_f64())
        });
        Ok(Used {
            wall: now.at.duration_since(before.at).as_secs_f64(),
            cpu: cpu.collect(),
            counters: now.counters.since(before.counters),
        })
    }

    /// The journal and what else stands in NATS.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.js
    }

    /// Streams and consumers there are.
    pub async fn assets(&self) -> Result<u64> {
        let page = counters::get(self.monitor, "/jsz").await?;
        let page: serde_json::Value = serde_json::from_str(&page)?;
        let of = |name: &str| page[name].as_u64().with_context(|| format!("/jsz has no {name}"));
        Ok(of("streams")? + of("consumers")?)
    }

    async fn desk(&self) -> Result<Desk> {
        let bucket = LimitsBucket::open(&self.js).await?;
        Ok(Desk::on(bucket, self.client.link().clone()))
    }

    /// Sets a tenant's settings; they are in force.
    pub async fn set_tenant(&self, name: &TenantName, settings: &TenantSettings) -> Result<()> {
        let desk = self.desk().await?;
        let known = desk.bucket.tenant(name).await?.map(|(_, revision)| revision);
        let revision = desk.bucket.set_tenant(name, settings, known).await?;
        desk.journaled(Change::Tenant(name.clone(), revision)).await
    }

    /// Sets an agent's settings; they are in force.
    pub async fn set_agent(&self, name: &str, settings: &AgentSettings) -> Result<()> {
        let (desk, name) = (self.desk().await?, AgentName::new(name)?);
        let known = desk.bucket.agent(&name).await?.map(|(_, revision)| revision);
        let revision = desk.bucket.set_agent(&name, settings, known).await?;
        desk.journaled(Change::Agent(name, revision)).await
    }

    /// Sets what holds for everything; it is in force.
    pub async fn set_all(&self, settings: &AllSettings) -> Result<()> {
        let desk = self.desk().await?;
        let known = desk.bucket.all().await?.map(|(_, revision)| revision);
        let revision = desk.bucket.set_all(settings, known).await?;
        desk.journaled(Change::All(revision)).await
    }

    /// Changes the bench's plan; it is in force.
    pub async fn change_plan(&self, change: impl FnOnce(&mut Plan)) -> Result<()> {
        let (desk, name) = (self.desk().await?, PlanName::new("bench")?);
        let (mut plan, revision) = desk.bucket.plan(&name).await?.context("the plan was set")?;
        change(&mut plan);
        let revision = desk.bucket.set_plan(&name, &plan, Some(revision)).await?;
        desk.journaled(Change::Plan(name, revision)).await
    }

    /// Ends everything, our own connections first.
    pub async fn stop(self) {
        let Rig { stack, client, redis, js, .. } = self;
        drop((client, redis, js));
        stack.stop().await;
    }

    /// Messages and bytes in a stream.
    pub async fn stored(&self, stream: &str) -> Result<(u64, u64)> {
        let stream = self.js.get_stream(stream).await?;
        let state = &stream.cached_info().state;
        Ok((state.messages, state.bytes))
    }

    /// Waits until the owner has decided everything in INTAKE.
    pub async fn await_decided(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.stored(topology::INTAKE).await?.0 > 0 {
            anyhow::ensure!(Instant::now() < deadline, "the intake does not empty");
            tokio::time::sleep(SELDOM).await;
        }
        Ok(())
    }

    /// The sum of a metric of the coordinator over all its labels.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let admin = self.stack.admin.as_ref().context("a stack of our own has an admin server")?;
        let address = admin.url.rsplit_once("://").map_or(admin.url.as_str(), |(_, address)| address);
        let page = counters::get(address.parse()?, "/metrics").await?;
        Ok(counters::metric(&page, name))
    }

    /// Waits until the coordinator has ended or refused `tasks` since it started, and the index shows them.
    pub async fn await_ended(&self, tasks: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.metric(names::TASKS_ENDED).await? + self.metric(names::TASKS_REFUSED).await?;
            if ended >= tasks as f64 {
                return self.await_indexed().await;
            }
            anyhow::ensure!(Instant::now() < deadline, "{ended} tasks of {tasks} have ended or were refused");
            tokio::time::sleep(SELDOM).await;
        }
    }

    /// Waits until the index shows everything that is in the journal now.
    pub async fn await_indexed(&self) -> Result<()> {
        let head = self.js.get_stream(topology::JOURNAL).await?.cached_info().state.last_sequence;
        let deadline = Instant::now() + PATIENCE;
        while self.metric(names::INDEX_UPTO).await? < head as f64 {
            anyhow::ensure!(Instant::now() < deadline, "the index does not catch up with {head}");
            tokio::time::sleep(SELDOM).await;
        }
        Ok(())
    }

    /// Ends a process as a crash would; it is started again.
    pub fn kill9(&self, name: &str) -> Result<()> {
        self.signal(name, libc::SIGKILL)
    }

    /// Lets a process do nothing, until it is thawed.
    pub fn freeze(&self, name: &str) -> Result<()> {
        self.signal(name, libc::SIGSTOP)
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self, name: &str) -> Result<()> {
        self.signal(name, libc::SIGCONT)
    }

    fn signal(&self, name: &str, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.pid(name)?)?;
        // SAFETY: no memory is involved, and the process is a child of ours.
        anyhow::ensure!(unsafe { libc::kill(pid, signal) } == 0, "cannot signal {name}");
        Ok(())
    }

    fn pid(&self, name: &str) -> Result<u32> {
        let members = self.stack.members();
        let member = members.iter().find(|member| member.name == name);
        member.and_then(|member| member.pid).with_context(|| format!("{name} does not run"))
    }

    /// Bytes Redis has allocated.
    pub async fn redis_memory(&self) -> Result<f64> {
        let info: String = redis::cmd("INFO").arg("memory").query_async(&mut self.redis.clone()).await?;
        Ok(counters::field(&info, "used_memory"))
    }

    /// Resident bytes of a process.
    pub fn resident(&self, name: &str) -> Result<u64> {
        Ok(usage::resident(self.pid(name)?)?)
    }
}

/// The `n`th tenant's name.
pub fn tenant_name(n: usize) -> String {
    format!("t{n}")
}

fn configuration(sizes: Sizes) -> String {
    format!(
        "[coordinator]\ndefault_plan = \"bench\"\ndedupe_max_per_tenant = {}\njournal_max_bytes = \"{}\"\n\
         intake_max_bytes = \"{}\"\nreports_max_bytes = \"256MiB\"\narchive_max_bytes = \"256MiB\"\nresults_max_bytes = \"64MiB\"\nsteps_max_bytes = \"64MiB\"\nevents_max_bytes = \"64MiB\"\n[redis]\nstream_ttl_seconds = {}\n",
        sizes.kept,
        ByteSize(sizes.journal),
        ByteSize(sizes.intake),
        sizes.stream_ttl
    )
}
