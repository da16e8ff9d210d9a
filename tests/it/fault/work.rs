//! The agent of the fault tests: does what its input says, and tells on plain subjects what it is doing.

use std::time::Duration;

use futures_util::StreamExt;
use selvedge::agent::{Agent, AgentError, Ctx};
use selvedge::bus::Subscription;
use selvedge::task::{TaskId, WaitFor};
use serde::{Deserialize, Serialize};

use crate::harness::fabric::Fabric;
use crate::harness::soon;

/// What every agent here is called.
pub const AGENT: &str = "worker";

/// An input.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Returns it.
    Echo(u64),
    /// Says that it started and waits for the gate.
    Gate(String),
    /// Three children per level; returns how many tasks the tree has. The gate, if any, is at the leaves.
    Tree(u32, Option<String>),
    /// The process dies at once.
    Die,
    /// Returns an error, worth another try or not.
    Fail(bool),
    /// Works for so many milliseconds of the agent's clock.
    Run(u64),
    /// Children of itself, for ever.
    Bomb,
    /// Waits for tasks that are not its children.
    WaitFor(Vec<TaskId>),
}

/// Said when a gated task starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Started {
    pub task: TaskId,
    pub attempt: u32,
    pub pid: u32,
}

/// The agent, in this process or another.
pub fn agent(slots: u32, lease: Duration) -> Agent {
    Agent::new(AGENT, work)
        .expect("a name")
        .slots(slots)
        .lease(lease)
        .cancel_grace(Duration::from_millis(200))
}

async fn work(ctx: Ctx, work: Work) -> Result<u64, AgentError> {
    match work {
        Work::Echo(n) => Ok(n),
        Work::Gate(gate) => {
            pass(&ctx, &gate).await?;
            Ok(u64::from(ctx.attempt()))
        }
        Work::Tree(0, gate) => {
            if let Some(gate) = gate {
                pass(&ctx, &gate).await?;
            }
            Ok(1)
        }
        Work::Tree(depth, gate) => {
            let branches = (0..3).map(|_| Work::Tree(depth - 1, gate.clone()));
            ctx.spawn("branch", AGENT, branches).await?;
            let mut sum = 1;
            for child in ctx.wait_all().await? {
                sum += child.decode::<u64>()?;
            }
            Ok(sum)
        }
        Work::Die => std::process::abort(),
        Work::Fail(true) => Err(AgentError::retryable("asked to fail")),
        Work::Fail(false) => Err(AgentError::fatal("asked to fail for good")),
        Work::Run(ms) => {
            let until = ctx.now() + ms;
            while ctx.now() < until {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(ms)
        }
        Work::Bomb => {
            ctx.spawn("boom", AGENT, (0..20).map(|_| Work::Bomb)).await?;
            let children = ctx.wait_all().await?;
            match ctx.refused().first() {
                Some(refused) => Err(AgentError::fatal(refused.refusal.to_string())),
                None => Ok(children.len() as u64),
            }
        }
        Work::WaitFor(_) if ctx.attempt() > 1 => Ok(u64::from(ctx.attempt())),
        Work::WaitFor(tasks) => Err(AgentError::wait(WaitFor::Children(tasks))),
    }
}

/// Says that the task has started; goes on when the gate is opened or the task is over.
async fn pass(ctx: &Ctx, gate: &str) -> Result<(), AgentError> {
    let lane = &ctx.client().link().main;
    let mut opened = lane.subscribe(format!("test.gate.{gate}")).await?;
    let started = Started { task: ctx.task().clone(), attempt: ctx.attempt(), pid: std::process::id() };
    let body = serde_json::to_vec(&started)?;
    lane.tell(format!("test.started.{gate}"), body.into()).await?;
    tokio::select! {
        _ = opened.next() => Ok(()),
        () = ctx.cancelled() => Err(AgentError::retryable("cancelled")),
    }
}

/// The test's side of a gate.
pub struct Gate {
    name: String,
    started: Subscription,
    lane: selvedge::bus::Lane,
}

impl Gate {
    /// Listens for who comes to it.
    pub async fn new(fabric: &Fabric, name: &str) -> Gate {
        let client = fabric.client("gate").await;
        let lane = client.link().main.clone();
        let started = lane.subscribe(format!("test.started.{name}")).await.expect("connected");
        lane.flush().await.expect("connected");
        Gate { name: name.to_owned(), started, lane }
    }

    /// Who came next.
    pub async fn next(&mut self) -> Started {
        let message = soon("a task starts", self.started.next()).await.expect("subscribed");
        serde_json::from_slice(&message.payload).expect("our own message")
    }

    /// Lets everybody who is there through.
    pub async fn open(&self) {
        self.lane.tell(format!("test.gate.{}", self.name), Default::default()).await.expect("connected");
        self.lane.flush().await.expect("connected");
    }
}
