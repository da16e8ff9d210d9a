//! The `task` module.
