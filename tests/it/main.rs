//! Tests against real servers: each test starts its own, on free ports, in a directory that goes away.

mod harness;

mod bus;
mod events;
mod index;
mod indexer;
mod nats_connection;
mod redis_connection;
mod servers;
mod store_servers;
