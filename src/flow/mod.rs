//! The verbs, pure and synchronous: submit, admit, dispatch, run, settle, query.
//!
//! ```text
//! input ──▶ decide(&state, &live, input, now) ──▶ records ──▶ evolve(&mut state, record)
//!                                                     └─────▶ effects(&state, record)
//! ```
//!
//! No clock, no randomness, no I/O: `now`, tokens and jitter come in with the input. Imports
//! neither tokio nor NATS nor Redis nor tracing.

pub mod admit;
pub mod agents;
pub mod announced;
pub mod calls;
mod check;
pub mod cron;
pub mod dirty;
pub mod dispatch;
pub mod engine;
pub mod entry;
pub mod evolve;
pub mod facts;
pub mod fair;
pub mod gate;
pub mod history;
pub mod input;
mod kept;
pub mod limiter;
pub mod live;
pub mod load;
pub mod named;
pub mod operate;
pub mod permits;
pub mod query;
pub mod quick;
pub mod record;
pub mod resident;
#[cfg(test)]
mod rig;
pub mod run;
pub mod schedules;
pub mod settle;
pub mod snapshot;
pub mod state;
pub mod step;
pub mod submit;
pub mod tasks;
pub mod tell;
pub mod tenants;
pub mod times;
pub mod trigger;
pub mod why;
