//! Selvedge: a NATS-native, event-driven fabric for fleets of AI agents.
//!
//! The folders tell the way of a task:
//!
//! ```text
//! task ← flow      nouns; then the pure verbs over them: submit admit dispatch run settle query
//! wire ← bus       what crosses NATS; then the only place that knows async-nats
//! store            the only place that knows Redis
//! client, agent    the two SDKs
//! coordinator      loops that load, call `flow`, perform
//! bridge           to the Synadia Agent Protocol, by the two SDKs alone
//! config, telemetry, cli
//! ```
//!
//! Imports point one way: `task ← flow`, `wire ← bus`, `store ← client, agent, coordinator ← cli`.

pub mod task;
pub mod telemetry;
pub mod wire;

#[cfg(feature = "client")]
pub mod bus;
#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "agent")]
pub mod agent;

#[cfg(feature = "coordinator")]
pub mod coordinator;
#[cfg(feature = "coordinator")]
pub mod flow;
#[cfg(feature = "coordinator")]
pub mod store;

#[cfg(feature = "cli")]
pub mod bridge;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod config;
