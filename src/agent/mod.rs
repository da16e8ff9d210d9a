//! The worker SDK: a typed handler, run in slots, with heartbeats, reports and drain taken care of.
//!
//! ```no_run
//! use selvedge::agent::{Agent, AgentError, Ctx};
//!
//! async fn count(ctx: Ctx, text: String) -> Result<usize, AgentError> {
//!     ctx.emit("progress", &"counting").await?;
//!     Ok(text.split_whitespace().count())
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! Agent::new("counter", count)?.slots(8).serve("nats://127.0.0.1:4222").await?;
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//! runner ── one task: offers, verdicts, heartbeats, every timer, drain; owns which leases are held
//!    │ starts, tells, drops                   ▲ a handler is gone
//!    ▼                                        │
//! attempt ── one per lease: its stage and its reports, behind a small lock
//!    ▲ the handler's task, through Ctx   │ reports                │ events, from the first one on
//!    │                                   ▼                        ▼
//!   Ctx ── what a handler holds       voice ── one task        events ── a task of the attempt's own
//! ```

mod about;
mod ahead;
mod answers;
mod attempt;
mod calls;
mod caught;
mod children;
mod context;
mod error;
mod events;
mod history;
mod instance;
mod leases;
mod objects;
mod publish;
mod reports;
mod runner;
mod voice;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
pub use tokio_util::sync::CancellationToken;

pub use children::{Child, ChildResult};
pub use context::Ctx;
pub use error::AgentError;
pub use history::Message;

use crate::{
    bus::{BusError, Clock, Link},
    task::{AgentName, InstanceId, Millis, NameError, Payload},
    wire::{about::About, messages::DEFAULT_LEASE_MS},
};

/// Whoever says something again after a take-over does so within this time, each at a moment of its own.
const JITTER_MS: u64 = 200;

type Handled = Pin<Box<dyn Future<Output = Result<Payload, AgentError>> + Send>>;
type Handler = Arc<dyn Fn(Ctx, Payload) -> Handled + Send + Sync>;

/// Why an agent stopped running.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RunError {
    /// The connection.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// What the agent says about itself can't be announced.
    #[error("the agent can't be announced: {0}")]
    About(String),
    /// The process can't listen for SIGTERM.
    #[error("can't listen for signals: {0}")]
    Signal(String),
}

/// A kind of worker, ready to run as one instance.
pub struct Agent {
    name: AgentName,
    handler: Handler,
    settings: Settings,
}

/// What an instance is run with.
#[derive(Debug, Clone)]
struct Settings {
    slots: u32,
    for_calls: u32,
    lease: Duration,
    drain: Duration,
    grace: Duration,
    linger: Duration,
    clock: Clock,
    instance: Option<InstanceId>,
    about: About,
}

impl Agent {
    /// An agent called `name` whose tasks are run by `handler`. Inputs are decoded, results encoded.
    pub fn new<T, R, F, Fut>(name: &str, handler: F) -> Result<Self, NameError>
    where
        T: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        F: Fn(Ctx, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, AgentError>> + Send + 'static,
    {
        Self::erased(
            name,
            Arc::new(move |ctx, input| {
                // Another try would find the same input.
                let handled = match input.decode::<T>() {
                    Ok(input) => handler(ctx, input),
                    Err(why) => {
                        let error = AgentError::fatal(format!("the input does not fit: {why}"));
                        return Box::pin(std::future::ready(Err(error)));
                    }
                };
                Box::pin(async move {
                    let result = handled.await?;
                    Payload::json(&result)
                        .map_err(|e| AgentError::fatal(format!("the result is no JSON: {e}")))
                })
            }),
        )
    }

    /// The same for a handler that decodes and encodes itself, or wants bytes.
    pub fn raw<F, Fut>(name: &str, handler: F) -> Result<Self, NameError>
    where
        F: Fn(Ctx, Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Payload, AgentError>> + Send + 'static,
    {
        Self::erased(name, Arc::new(move |ctx, input| Box::pin(handler(ctx, input))))
    }

    fn erased(name: &str, handler: Handler) -> Result<Self, NameError> {
        Ok(Self {
            name: AgentName::new(name)?,
            handler,
            settings: Settings {
                slots: 1,
                for_calls: 0,
                lease: Duration::from_millis(DEFAULT_LEASE_MS),
                drain: Duration::from_secs(25),
                grace: Duration::from_secs(10),
                linger: Duration::from_millis(100),
                clock: Clock::real(),
                instance: None,
                about: About::default(),
            },
        })
    }

    /// How many tasks it runs at once; 1 unless set. Size it by what a task needs: memory, or the
    /// provider's limit on parallel calls.
    pub fn slots(mut self, slots: u32) -> Self {
        self.settings.slots = slots;
        self
    }

    /// How many of its slots take calls only; none unless set. So many calls find a slot however many tasks wait; beyond them
    /// calls take the other slots, too, if they are free. With all of its slots kept it runs no task.
    pub fn reserve_for_calls(mut self, slots: u32) -> Self {
        self.settings.for_calls = slots;
        self
    }

    /// How long it may be silent before its tasks are given to somebody else; 15 s unless set.
    /// Heartbeats come every third of it.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long running tasks may go on after SIGTERM; 25 s unless set. What is not done by then is
    /// handed back without counting a try.
    pub fn drain_timeout(mut self, drain: Duration) -> Self {
        self.settings.drain = drain;
        self
    }

    /// How long a handler may go on after its task was cancelled, before it is dropped; 10 s unless set.
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// How long a handler that waits for a message stays in its slot before it gives it up; 100 ms unless set. Whoever is
    /// answered within it goes on at once, without running again from the start.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// The clock for heartbeats and timers; the real one unless set.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// The id of this process; fresh unless set. Never reuse one.
    pub fn instance(mut self, instance: InstanceId) -> Self {
        self.settings.instance = Some(instance);
        self
    }

    /// Connects to `url` and runs until SIGTERM or Ctrl-C, then drains.
    pub async fn serve(self, url: &str) -> Result<(), RunError> {
        let link = Link::open(url, &format!("selvedge-agent/{}", self.name)).await?;
        self.run(link).await
    }

    /// Connects as the `NATS_*` variables and the selected context of the `nats` CLI say, to a local
    /// server if they say nothing, and runs until SIGTERM or Ctrl-C, then drains.
    pub async fn serve_from_env(self) -> Result<(), RunError> {
        let link = Link::from_env(&format!("selvedge-agent/{}", self.name)).await?;
        self.run(link).await
    }

    /// Runs until SIGTERM or Ctrl-C, then drains. A second signal ends it at once.
    pub async fn run(self, link: Link) -> Result<(), RunError> {
        let stop = CancellationToken::new();
        let mut signals = Signals::listen()?;
        let run = self.run_until(link, stop.clone());
        tokio::pin!(run);
        tokio::select! {
            ended = &mut run => return ended,
            () = signals.next() => stop.cancel(),
        }
        tracing::info!("draining");
        tokio::select! {
            ended = &mut run => ended,
            () = signals.next() => Ok(()),
        }
    }

    /// Runs until `stop` is cancelled, then drains. Listens for no signals.
    pub async fn run_until(self, link: Link, stop: CancellationToken) -> Result<(), RunError> {
        runner::Runner::start(self, link).await?.run(stop).await
    }
}

/// Waits for an instant, or for ever.
async fn at(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

impl Settings {
    /// Slots that take calls only.
    fn call_slots(&self) -> u32 {
        self.for_calls.min(self.slots)
    }

    fn lease_ms(&self) -> Millis {
        u64::try_from(self.lease.as_millis()).unwrap_or(Millis::MAX)
    }
}

/// What asks a process to stop.
#[cfg(unix)]
struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> Result<Self, RunError> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).map_err(|e| RunError::Signal(e.to_string()));
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> Result<Self, RunError> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
