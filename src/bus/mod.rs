//! The only place that knows async-nats.

pub mod api;
pub mod journal;
pub mod provision;
