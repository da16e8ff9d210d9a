//! The `cli` module.

pub mod demo;
