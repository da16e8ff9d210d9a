//! The verbs, pure and synchronous: submit, admit, dispatch, run, settle, query.
//!
//! ```text
//! input ──▶ decide(&state, &live, input, now) ──▶ records ──▶ evolve(&mut state, record)
//!                                                     └─────▶ effects(&state, record)
//! ```
//!
//! No clock, no randomness, no I/O: `now`, tokens and jitter come in with the input. Imports
//! neither tokio nor NATS nor Redis nor tracing.

pub mod record;
