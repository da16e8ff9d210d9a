//! The `bus` module.

pub mod consume;
