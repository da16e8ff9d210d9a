//! The `coordinator` module.

pub mod event_writer;
pub mod indexer;
