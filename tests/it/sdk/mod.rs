//! The SDKs against a real NATS server, with the owner's part played by the test, message by message.

mod agent;
mod ahead;
mod attempts;
mod client;
mod owner;
mod python;
