//! From the configuration to connections, and from their errors to what a user reads.
//!
//! Every verb that talks to a server comes through here, so that all of them honour the same flags, variables, file
//! and context, and fail with the same codes.

use std::time::Duration;

use anyhow::Result;

use super::context::Ctx;
use super::failure::{Exit, Failure};
use crate::bus::api::ApiError;
use crate::bus::{self, Connection, ErrorKind, Link, NatsOptions, Secret};
use crate::client::{self, Client};
use crate::config;
use crate::store::connect::{self as redis, RedisOptions};
use crate::task::{Code, Refusal, TenantName};

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
        let link = Link::connect(&options, "selvedge-cli").await.map_err(|error| nats_failure(&error))?;
        Ok(Client::on(link, tenant.clone()).ask_within(options.timeout()))
    }

    /// One connection, for what operators do.
    pub async fn connection(&self) -> Result<Connection> {
        let options = self.nats_options()?;
        Ok(bus::connect(&options, "selvedge-cli").await.map_err(|error| nats_failure(&error))?)
    }
}

/// What a failed connection to NATS is to a user.
pub fn nats_failure(error: &bus::Error) -> Failure {
    let exit = match error.kind() {
        ErrorKind::Unreachable => Exit::Unavailable,
        ErrorKind::Timeout => Exit::Temporary,
        ErrorKind::Denied | ErrorKind::Config | ErrorKind::Unsupported => Exit::Config,
        ErrorKind::Other => Exit::Failed,
    };
    let code = match error {
        bus::Error::Unreachable { .. } => "NATS_UNREACHABLE",
        bus::Error::Denied { .. } => "NATS_DENIED",
        bus::Error::Tls { .. } => "NATS_TLS",
        bus::Error::OldServer { .. } => "NATS_OLD_SERVER",
        bus::Error::JetStream { .. } => "NATS_JETSTREAM",
        bus::Error::Config { .. } => "NATS_CONFIG",
        bus::Error::Forbidden { .. } => "NATS_FORBIDDEN",
        bus::Error::Timeout { .. } => "NATS_TIMEOUT",
        bus::Error::Other { .. } => "NATS_FAILED",
    };
    let failure = Failure::new(exit, code, error.to_string());
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// What a failed connection to Redis is to a user.
pub fn redis_failure(error: &redis::Error) -> Failure {
    let (exit, code) = match error {
        redis::Error::Unreachable { .. } => (Exit::Unavailable, "REDIS_UNREACHABLE"),
        redis::Error::Denied { .. } => (Exit::Config, "REDIS_DENIED"),
        redis::Error::Config { .. } => (Exit::Config, "REDIS_CONFIG"),
        redis::Error::OldServer { .. } => (Exit::Config, "REDIS_OLD_SERVER"),
        redis::Error::Evicts { .. } => (Exit::Config, "REDIS_EVICTS"),
    };
    Failure::new(exit, code, error.to_string()).help(error.help())
}

/// What a call to JetStream that came to nothing is to a user.
pub fn api_failure(error: &ApiError) -> Failure {
    if error.is_unavailable() {
        return Failure::new(Exit::Unavailable, "NATS_JETSTREAM", error.to_string()).help(
            "enable JetStream for this account, and see nats/permissions.md for the rights a role needs",
        );
    }
    Failure::new(Exit::Config, "NATS_REFUSED", error.to_string())
        .help("`selvedge doctor` compares JetStream's limits with what is needed")
}

/// What a failed call of the client is to a user.
pub fn client_failure(error: &client::Error) -> Failure {
    let what = error.to_string();
    match error {
        client::Error::Refused(refusal) => refusal_failure(refusal),
        client::Error::Ended { .. } => Failure::new(Exit::Failed, "TASK_ENDED", what),
        client::Error::Unknown { .. } => Failure::new(Exit::Temporary, "UNKNOWN_OUTCOME", what)
            .help("submit again with the same --id: it is taken once at most"),
        client::Error::Unavailable(_) => Failure::new(Exit::Unavailable, "UNAVAILABLE", what)
            .help("start one with `selvedge coordinator`, or look with `selvedge doctor`"),
        client::Error::TimedOut { .. } => Failure::new(Exit::Temporary, "TIMED_OUT", what)
            .help("the query is not repeated for you; `selvedge doctor` says what is slow or down"),
        client::Error::Data(_) => Failure::new(Exit::Failed, "BAD_DATA", what),
        client::Error::Name(_) => Failure::new(Exit::Usage, "BAD_NAME", what),
        client::Error::Bus(_) => Failure::new(Exit::Unavailable, "NATS_CLOSED", what),
    }
}

/// What a refusal is to a user.
pub fn refusal_failure(refusal: &Refusal) -> Failure {
    let exit = match refusal.code {
        Code::Unavailable => Exit::Unavailable,
        code if code.is_retryable() => Exit::Temporary,
        Code::BadQuery | Code::BadName | Code::BadMessage => Exit::Usage,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, refusal.code.as_str(), refusal.message.clone());
    match refusal.retry_after_ms {
        Some(ms) => {
            failure.help(format!("try again in {ms} ms; docs/codes.md has a page on {}", refusal.code))
        }
        None => failure.help(format!("docs/codes.md has a page on {}", refusal.code)),
    }
}

/// A random part of `pause`.
pub fn jitter(pause: Duration) -> Duration {
    let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(bus::link::jitter_below((millis / 2).max(1)))
}
