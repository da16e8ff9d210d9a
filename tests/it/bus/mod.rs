//! `selvedge::bus` against a real nats-server.

mod consume;
mod journal;
mod ownership;
mod permissions;
mod provision;
mod proxy;
mod server;
mod service;
mod snapshots;

use std::time::Duration;

use async_nats::jetstream::{self, Context};
use selvedge::{
    bus::provision::{Provision, provision as provision_topology},
    wire::topology::{Sizing, Topology},
};

use server::Nats;

/// Longest wait for anything that must happen; a test that gets here has failed.
const LONG: Duration = Duration::from_secs(30);

async fn connect(url: &str) -> Context {
    let client = async_nats::ConnectOptions::new()
        .reconnect_delay_callback(|_| Duration::from_millis(20))
        .connect(url)
        .await
        .unwrap();
    jetstream::new(client)
}

/// A server with the whole topology, and a context on it.
async fn fabric() -> (Nats, Context) {
    let nats = Nats::start().await;
    let js = connect(&nats.url()).await;
    provision_topology(&js, Provision::Auto, &Topology::new(&small())).await.unwrap();
    (nats, js)
}

fn small() -> Sizing {
    const MIB: i64 = 1024 * 1024;
    Sizing {
        intake_bytes: 64 * MIB,
        reports_bytes: 64 * MIB,
        journal_bytes: 64 * MIB,
        snapshots_bytes: 64 * MIB,
        archive_bytes: 16 * MIB,
        events_bytes: 16 * MIB,
        topics_bytes: 16 * MIB,
        ..Sizing::default()
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}
