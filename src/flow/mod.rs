//! The `flow` module.
