//! The `bus` module.

pub mod connect;
pub mod context;
pub mod error;
pub mod options;

pub use connect::{BusEvent, Connection, Counts, connect};
pub use error::{Error, ErrorKind};
pub use options::{NatsOptions, Secret};
