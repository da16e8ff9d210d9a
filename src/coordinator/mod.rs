//! The coordinator: loops that load, call `flow`, and perform.
//!
//! ```text
//! run ── one process: provisions, competes, serves, drains
//! shard ── stands by, takes over, runs terms       queries ── the query plane, on its own
//!   owner ── one term: the loop around the engine  admin ── probes and metrics
//!     intake, limits ── inputs
//!     schemas ── what instances announce
//!     perform ── effects                         entropy ── tokens and jitter
//!     shrink ── snapshots, the archive, purging; payloads read back
//!     triggers ── messages that become tasks     objects ── drops what was kept of steps
//!     index_feed, indexer ── the Redis index       event_writer ── events to Redis
//! ```

pub mod admin;
pub mod calls;
pub mod entropy;
pub mod event_writer;
pub mod index_feed;
pub mod indexer;
pub mod intake;
pub mod limits;
pub mod measure;
pub mod objects;
pub mod owner;
pub mod perform;
pub mod queries;
pub mod run;
pub mod schemas;
pub mod shard;
pub mod shrink;
pub mod triggers;
