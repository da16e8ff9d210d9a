//! Tests against real servers: each test starts its own, on free ports, in a directory that goes away.

mod harness;

mod bench;
mod bridge;
mod bus;
mod cli;
mod contract;
mod demo;
mod dev;
mod discovery;
mod events;
mod examples;
mod fault;
mod flow;
mod golden;
mod index;
mod index_plan;
mod indexer;
mod nats_connection;
mod queries;
mod redis_connection;
mod sdk;
mod servers;
mod store_servers;
mod talk;
mod triggers;
