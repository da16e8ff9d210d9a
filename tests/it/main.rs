//! Everything that runs against real servers, and the contract's golden files.

mod golden;
mod sdk;
mod server;
