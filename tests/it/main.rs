//! Tests against real servers: each test starts its own, on free ports, in a directory that goes away.

mod bus;
mod events;
mod index;
mod indexer;
mod store_servers;
