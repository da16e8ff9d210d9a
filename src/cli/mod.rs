//! The `cli` module.

pub mod demo;
pub mod servers;
