//! The `cli` module.

pub mod nats;
