//! The `store` module.

pub mod connect;
