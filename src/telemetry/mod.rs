//! What a process says about itself: log lines on standard error, metrics on the admin port.
//!
//! Neither ever carries a payload or a secret. Names of metrics and their labels are constants in [`names`]; whoever
//! counts something takes them from there.

#[cfg(feature = "cli")]
pub mod logs;
pub mod names;
#[cfg(feature = "coordinator")]
pub mod prometheus;
