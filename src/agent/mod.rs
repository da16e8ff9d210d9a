//! The `agent` module.
