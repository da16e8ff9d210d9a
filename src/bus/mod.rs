//! The only place that knows async-nats.
//!
//! ```text
//! connect   options → connection            clock     real or accelerated time for everything that waits
//! link      the two connections of a role   publish   into streams, with an honest "unknown"
//! ordered   numbered publishing, in order, resent from the lowest one that is unsettled
//! ```

pub mod clock;
pub mod link;
pub mod ordered;
pub mod publish;

pub use clock::Clock;
pub use link::{AskError, BusError, Lane, Link, Message, Subscription};
pub use publish::{Posted, StoreError};
