//! The `coordinator` module.

pub mod dirty;
pub mod event_writer;
pub mod indexer;
