//! The only place that knows async-nats: connecting, and what the fabric asks of NATS beyond a
//! publish and a subscribe.
//!
//! ```text
//! options, context, connect   how a user says where NATS is; a connection that stays up
//! link        the two connections of a role       clock     real or accelerated time
//! provision   streams, consumers, buckets         consume   durable pull consumers that keep going
//! journal     append by compare-and-set, read     publish   into streams, with an honest "unknown"
//! snapshots   the state at points of the journal  archive   ended tasks, for an index made anew
//! results     large results, one message a task
//! objects     large results of steps, in chunks that instances write
//! kept        what these four share: purged and read by coordinators
//! ownership   who may write it                    ordered   numbered publishing, in order, resent
//! entries     a bucket of JSON under compare-and-set: the next, and triggers
//! limits      plans and tenants in KV             service   queries as a NATS service
//! api         the JetStream API in its own words     survey    looking without touching
//! triggers    triggers in KV, and their consumers
//! ```

mod acks;
pub mod api;
pub mod archive;
pub mod clock;
pub mod connect;
pub mod consume;
pub mod context;
pub mod entries;
pub mod error;
pub mod journal;
pub mod kept;
pub mod limits;
pub mod link;
pub mod objects;
pub mod options;
pub mod ordered;
pub mod ownership;
pub mod provision;
pub mod publish;
pub mod results;
pub mod service;
pub mod snapshots;
pub mod survey;
pub mod triggers;

/// A JetStream context: domain, prefix and time-outs of a connection.
pub type JetStream = async_nats::jetstream::Context;

pub use clock::Clock;
pub use connect::{BusEvent, Connection, Counts, connect};
pub use error::{Error, ErrorKind};
pub use link::{AskError, BusError, Lane, Link, Message, Subscription};
pub use options::{NatsOptions, Secret};
pub use publish::{Marks, Posted, StoreError};
