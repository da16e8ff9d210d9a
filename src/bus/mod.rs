//! The only place that knows async-nats.
//!
//! ```text
//! api        the JetStream API in plain JSON        link      the two connections of a role
//! clock      real or accelerated time               ordered   numbered publishing, in order, resent
//! journal    append by compare-and-set, read back   publish   into streams, with an honest "unknown"
//! ownership  the shard lease                        provision streams, consumers, buckets
//! service    the query plane as a NATS service
//! ```

pub mod api;
pub mod clock;
pub mod consume;
pub mod journal;
pub mod limits;
pub mod link;
pub mod ordered;
pub mod ownership;
pub mod provision;
pub mod publish;
pub mod service;

/// A JetStream context: domain, prefix and time-outs of a connection.
pub type JetStream = async_nats::jetstream::Context;

pub use clock::Clock;
pub use link::{AskError, BusError, Lane, Link, Message, Subscription};
pub use publish::{Posted, StoreError};
