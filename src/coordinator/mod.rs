//! The `coordinator` module.

pub mod admin;
