//! The only place that knows async-nats: connecting, and what the fabric asks of NATS beyond a
//! publish and a subscribe.
//!
//! ```text
//! options, context, connect   how a user says where NATS is; a connection that stays up
//! provision                   streams and consumers as `wire::topology` defines them
//! journal, ownership          the truth, and who may write it
//! service                     queries as a NATS service
//! api                         the JetStream API in its own words
//! ```

pub mod api;
pub mod connect;
pub mod context;
pub mod error;
pub mod journal;
pub mod options;
pub mod ownership;
pub mod provision;
pub mod service;

pub use connect::{BusEvent, Connection, Counts, connect};
pub use error::{Error, ErrorKind};
pub use options::{NatsOptions, Secret};
