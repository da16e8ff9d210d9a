//! The only place that knows async-nats.

pub mod api;
pub mod journal;
pub mod ownership;
pub mod provision;
pub mod service;
