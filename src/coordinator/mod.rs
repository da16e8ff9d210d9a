//! The `coordinator` module.
