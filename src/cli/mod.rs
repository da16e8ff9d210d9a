//! The `cli` module.

pub mod demo;
pub mod nats_args;
pub mod servers;
