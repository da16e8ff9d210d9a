//! The `selvedge` command line: one file per verb, the dev supervisor, the demo.

pub mod demo;
pub mod nats;
pub mod nats_args;
pub mod servers;
