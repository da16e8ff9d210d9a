//! The `bus` module.
