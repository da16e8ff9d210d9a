//! A Redis, or a NATS server, of a test's own, that can be killed and started again.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use selvedge::cli::servers::{NatsServer, RedisServer};
use selvedge::store::Connection;

use crate::harness;

/// Killed and cleaned up when dropped.
pub struct Redis {
    server: RedisServer,
    _dir: tempfile::TempDir,
}

impl Redis {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { server: harness::redis(dir.path(), |_| {}).await, _dir: dir }
    }

    /// Starts it again after `kill`, with what its directory holds.
    pub fn up(&mut self) {
        tokio::task::block_in_place(|| self.server.restart()).unwrap();
    }

    pub fn kill(&mut self) {
        self.server.kill9();
    }

    /// It takes connections and requests, and answers nothing.
    pub fn pause(&self) {
        self.server.pause();
    }

    pub fn resume(&self) {
        self.server.resume();
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub async fn connect(&self) -> Connection {
        self.connect_to(&self.url()).await
    }

    pub async fn connect_to(&self, url: &str) -> Connection {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(Duration::from_secs(1)))
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_max_delay(Duration::from_millis(100))
            .set_number_of_retries(1);
        ConnectionManager::new_with_config(redis::Client::open(url).unwrap(), config).await.unwrap().into()
    }
}

/// Killed and cleaned up when dropped.
pub struct Nats {
    server: NatsServer,
    _dir: tempfile::TempDir,
}

impl Nats {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { server: harness::nats(dir.path(), |_| {}).await, _dir: dir }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }
}
