//! What crosses the bus: subjects, headers, messages and their encoding, streams as data.
//!
//! No I/O. `docs/protocol.md` describes all of it; golden files hold it still.

pub mod about;
pub mod api;
pub mod calls;
pub mod codec;
pub mod headers;
pub mod history;
pub mod messages;
pub mod schema;
pub mod subjects;
pub mod topology;

pub use codec::{DecodeError, Format};

/// The protocol version this crate speaks; a message without `v` speaks this one.
pub const VERSION: u32 = 1;
