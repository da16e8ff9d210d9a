//! Messages that become tasks, on real servers.

mod batches;
mod crashes;
mod limits;
mod setup;
mod topics;
