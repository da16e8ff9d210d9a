//! The `wire` module.
