//! The `coordinator` module.

pub mod admin;
pub mod event_writer;
pub mod indexer;
