//! The bridge to the Synadia Agent Protocol for NATS (0.3): fabric agents as its agents, its agents as fabric agents.
//!
//! ```text
//! its clients ── prompt ─▶ expose ── call ─▶ fabric agent          one `agents` service for each of them
//! fabric task, call ─▶ forward ── prompt ─▶ its agent              a worker like any other
//! ```
//!
//! Both ways use the SDKs and plain messages only; neither holds any state. What that protocol has no word for (durability,
//! queues, budgets) stays on this side of it. `docs/bridge.md` says what becomes of what.

pub mod expose;
pub mod forward;
pub mod prompt;
