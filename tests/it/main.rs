//! Tests against real servers, all in one binary. Each test starts its own on free ports, so they run in parallel.

mod harness;

mod golden;
mod nats_connection;
mod redis_connection;
mod sdk;
mod servers;
