//! The `cli` module.

pub mod demo;
pub mod nats;
pub mod nats_args;
pub mod servers;
