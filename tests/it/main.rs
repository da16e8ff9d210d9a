//! Tests against real servers: each test starts its own, on free ports, in a directory that goes away.

mod harness;

mod bus;
mod contract;
mod events;
mod examples;
mod flow;
mod golden;
mod index;
mod indexer;
mod nats_connection;
mod redis_connection;
mod sdk;
mod servers;
mod store_servers;
