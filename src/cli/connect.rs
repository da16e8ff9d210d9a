//! From the configuration to connections.
//!
//! Every verb that talks to a server comes through here, so that all of them honour the same flags, variables, file
//! and context.

use std::time::Duration;

use anyhow::Result;

use super::context::Ctx;
use super::failure::{Exit, Failure};
use crate::bus::{self, Connection, Link, NatsOptions, Secret};
use crate::client::Client;
use crate::config;
use crate::store::connect::RedisOptions;
use crate::task::TenantName;

impl Ctx {
    /// How to reach NATS.
    pub fn nats_options(&self) -> Result<NatsOptions> {
        let nats = &self.settings()?.nats;
        let secret = |secret: &Option<config::Secret>| secret.as_ref().map(|s| Secret::new(s.expose()));
        let password = match &nats.password_file {
            Some(file) => Some(Secret::new(
                std::fs::read_to_string(file)
                    .map_err(|error| {
                        Failure::new(
                            Exit::Config,
                            "CONFIG_UNREADABLE",
                            format!("cannot read nats.password_file: {error}"),
                        )
                        .at(file.display().to_string())
                    })?
                    .trim_end_matches(['\r', '\n']),
            )),
            None => secret(&nats.password),
        };
        Ok(NatsOptions {
            urls: nats.urls.0.iter().map(|url| url.expose().to_owned()).collect(),
            user: nats.user.clone(),
            password,
            token: secret(&nats.token),
            creds: nats.creds.clone(),
            nkey: secret(&nats.nkey),
            jwt: secret(&nats.user_jwt),
            seed: secret(&nats.seed),
            tls_cert: nats.tls_cert.clone(),
            tls_key: nats.tls_key.clone(),
            tls_ca: nats.tls_ca.clone(),
            tls_first: nats.tls_first.then_some(true),
            js_domain: nats.js_domain.clone(),
            js_api_prefix: nats.js_api_prefix.clone(),
            inbox_prefix: nats.inbox_prefix.clone(),
            timeout: Some(nats.timeout),
            // The configuration has looked into the context already.
            context: None,
            no_context: true,
        })
    }

    /// How to reach Redis.
    pub fn redis_options(&self) -> Result<RedisOptions> {
        let redis = &self.settings()?.redis;
        Ok(RedisOptions {
            connect_timeout: redis.connect_timeout,
            response_timeout: redis.response_timeout,
            ..RedisOptions::at(redis.url.0.expose())
        })
    }

    /// A client that speaks for `tenant`.
    pub async fn client(&self, tenant: &TenantName) -> Result<Client> {
        let options = self.nats_options()?;
        let link = Link::connect(&options, "selvedge-cli").await?;
        Ok(Client::on(link, tenant.clone()).ask_within(options.timeout()))
    }

    /// One connection, for what operators do.
    pub async fn connection(&self) -> Result<Connection> {
        let options = self.nats_options()?;
        Ok(bus::connect(&options, "selvedge-cli").await?)
    }
}

/// A random part of `pause`.
pub fn jitter(pause: Duration) -> Duration {
    let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(bus::link::jitter_below((millis / 2).max(1)))
}
