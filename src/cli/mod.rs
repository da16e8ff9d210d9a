//! The `cli` module.

pub mod servers;
