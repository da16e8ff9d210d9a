//! From the configuration to connections.
//!
//! Every verb that talks to a server comes through here, so that all of them honour the same flags, variables, file
//! and context.

use std::time::Duration;

use anyhow::Result;

use super::context::Ctx;
use crate::bus::{self, Connection, Link};
use crate::client::Client;
use crate::store::connect::RedisOptions;
use crate::task::TenantName;

impl Ctx {
    /// How to reach Redis.
    pub fn redis_options(&self) -> Result<RedisOptions> {
        let redis = &self.settings()?.redis;
        Ok(RedisOptions {
            connect_timeout: redis.connect_timeout,
            response_timeout: redis.response_timeout,
            tls_ca: redis.tls_ca.clone(),
            tls_client: redis.tls_cert.clone().zip(redis.tls_key.clone()),
            ..RedisOptions::at(redis.url.0.expose())
        })
    }

    /// A client that speaks for `tenant`.
    pub async fn client(&self, tenant: &TenantName) -> Result<Client> {
        let options = self.nats()?;
        let link = Link::connect(&options, "selvedge-cli").await?;
        Ok(Client::on(link, tenant.clone()).ask_within(options.timeout()))
    }

    /// One connection, for what operators do.
    pub async fn connection(&self) -> Result<Connection> {
        let options = self.nats()?;
        Ok(bus::connect(&options, "selvedge-cli").await?)
    }
}

/// A random part of `pause`.
pub fn jitter(pause: Duration) -> Duration {
    let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(bus::link::jitter_below((millis / 2).max(1)))
}
