//! What must hold when things break: real servers, real processes that are killed, paused and cut off.
//!
//! `process` runs agents and coordinators as children of the test; `audit` reads the journal a run has left
//! behind and checks it record by record with code of its own; `by_hand` is a worker that does only what a
//! test tells it to; `copy` keeps the whole of a journal that is purged. `docs/faults.md` says which fault is covered where.

mod audit;
mod by_hand;
mod copy;
pub mod process;
mod work;

mod agents;
mod calls;
mod children;
mod coordinator;
mod leases;
mod nats;
mod redis;
mod reports;
mod shrink;
