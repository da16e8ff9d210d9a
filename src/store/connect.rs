//! One connection to Redis: explicit timeouts, reconnecting by itself, to a server that will not throw our keys away.
//!
//! Owns the checks (version, eviction policy) and the wording of failures. No message ever contains the password.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::{AsyncConnectionConfig, Client, ClientTlsConfig, RedisError, TlsCertificates};

use super::Connection;

/// The oldest Redis that may be used; any Valkey will do.
pub const OLDEST_REDIS: (u32, u32) = (7, 0);

/// How to reach Redis.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://` or `rediss://`, with user, password and database as usual.
    pub url: String,
    /// Bound for opening a connection.
    pub connect_timeout: Duration,
    /// Bound for the answer to a command.
    pub response_timeout: Duration,
    /// Authority that vouches for the server; `None`: the system's.
    pub tls_ca: Option<PathBuf>,
    /// Client certificate and its key.
    pub tls_client: Option<(PathBuf, PathBuf)>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        RedisOptions {
            url: "redis://127.0.0.1:6379".to_owned(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(1),
            tls_ca: None,
            tls_client: None,
        }
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions").field("url", &self.address()).finish_non_exhaustive()
    }
}

impl RedisOptions {
    /// The defaults, at this URL.
    pub fn at(url: impl Into<String>) -> RedisOptions {
        RedisOptions { url: url.into(), ..RedisOptions::default() }
    }

    /// What `REDIS_URL` says, if it is set.
    pub fn from_env() -> Option<RedisOptions> {
        std::env::var("REDIS_URL").ok().filter(|url| !url.is_empty()).map(RedisOptions::at)
    }

    /// The URL without user, password and parameters.
    pub fn address(&self) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("", &self.url));
        // A password may contain anything, so the last `@` counts.
        let host = rest.rsplit('@').next().unwrap_or_default();
        let host = host.split(['?', '#']).next().unwrap_or_default();
        if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
    }
}

/// What is known about the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `Redis` or `Valkey`.
    pub product: &'static str,
    /// Its version.
    pub version: String,
    /// `maxmemory` in bytes; 0 is unlimited.
    pub maxmemory: u64,
    /// `maxmemory-policy`.
    pub policy: String,
    /// It is a node of a cluster.
    pub cluster: bool,
}

/// Why there is no usable Redis.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server answered.
    #[error("cannot reach Redis at {address}: {reason}")]
    Unreachable {
        /// Where, without credentials.
        address: String,
        /// What the last try said.
        reason: String,
    },
    /// The server does not accept our credentials.
    #[error("Redis at {address} refuses the credentials")]
    Denied {
        /// Where.
        address: String,
    },
    /// The URL or a TLS file makes no sense.
    #[error("Redis options for {address}: {reason}")]
    Config {
        /// Where.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// The server is older than we support.
    #[error("Redis {found} at {address} is too old, need >= 7.0 (or any Valkey)")]
    OldServer {
        /// Its version.
        found: String,
        /// Where.
        address: String,
    },
    /// The server would evict keys of the index when memory is short.
    #[error("Redis at {address} has maxmemory-policy {policy}: it would silently drop parts of the index")]
    Evicts {
        /// Its policy.
        policy: String,
        /// Where.
        address: String,
    },
}

impl Error {
    /// What the reader can do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Error::Unreachable { .. } => {
                "check REDIS_URL and that the server runs; `selvedge dev` starts one for you"
            }
            Error::Denied { .. } => "put user and password into REDIS_URL: redis://user:password@host:port",
            Error::Config { .. } => {
                "use redis://host:port/db or rediss://host:port/db, special characters percent-encoded"
            }
            Error::OldServer { .. } => "upgrade to Redis >= 7.0 or Valkey; `selvedge dev` brings one",
            Error::Evicts { .. } => {
                "give Selvedge a Redis of its own with `CONFIG SET maxmemory-policy noeviction`"
            }
        }
    }
}

/// Connects and checks the server. Fails at once if nobody answers.
pub async fn connect(options: &RedisOptions) -> Result<(Connection, Server), Error> {
    let client = client(options)?;
    // A plain connection first: it fails promptly and says why, where the manager would keep trying.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(options.connect_timeout))
        .set_response_timeout(Some(options.response_timeout));
    let mut probe = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(|error| explain(&error, options))?;
    let server = inspect(&mut probe, options).await?;
    let connection = match server.cluster {
        true => {
            let cluster = cluster(options)?.get_async_connection().await;
            cluster.map_err(|error| explain(&error, options))?.into()
        }
        false => ConnectionManager::new_with_config(client, manager_config(options))
            .await
            .map_err(|error| explain(&error, options))?
            .into(),
    };
    tracing::info!(
        address = %options.address(),
        product = server.product,
        version = %server.version,
        cluster = server.cluster,
        "connected to Redis"
    );
    Ok((connection, server))
}

pub(super) async fn open(options: &RedisOptions) -> Result<Connection, Error> {
    connect(options).await.map(|(connection, _)| connection)
}

/// A connection that comes up when Redis does, for those who must go on without it. It is checked then: one that is not
/// fit stays unusable.
pub fn connect_lazily(options: &RedisOptions) -> Result<Connection, Error> {
    // What is wrong with the options themselves shows now.
    client(options)?;
    Ok(Connection::late(options.clone()))
}

/// Reads what the server is and refuses one that is too old or evicts.
pub async fn inspect(
    connection: &mut impl redis::aio::ConnectionLike,
    options: &RedisOptions,
) -> Result<Server, Error> {
    // INFO, not CONFIG GET: managed services forbid the latter.
    let info: String =
        redis::cmd("INFO").query_async(connection).await.map_err(|error| explain(&error, options))?;
    let server = read_info(&info);
    let address = options.address();
    let mut numbers = server.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if server.product == "Redis" && version < OLDEST_REDIS {
        return Err(Error::OldServer { found: server.version, address });
    }
    // Evicting is harmless while memory is unlimited, and a trap on the day somebody limits it: refused either way.
    let evicts = server.policy.starts_with("allkeys-") || server.policy.starts_with("volatile-");
    if evicts || server.maxmemory > 0 && server.policy != "noeviction" {
        return Err(Error::Evicts { policy: server.policy, address });
    }
    Ok(server)
}

fn read_info(info: &str) -> Server {
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let (product, version) = match field("valkey_version") {
        Some(version) => ("Valkey", version),
        None => ("Redis", field("redis_version").unwrap_or("unknown")),
    };
    Server {
        product,
        version: version.to_owned(),
        maxmemory: field("maxmemory").and_then(|bytes| bytes.parse().ok()).unwrap_or(0),
        policy: field("maxmemory_policy").unwrap_or("unknown").to_owned(),
        cluster: field("cluster_enabled") == Some("1"),
    }
}

fn client(options: &RedisOptions) -> Result<Client, Error> {
    // Both libraries must find a TLS provider; the first to install one wins, and both are ring.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let address = options.address();
    let bad = |reason: String| Error::Config { address: address.clone(), reason };
    let read = |file: &Path| {
        std::fs::read(file).map_err(|error| bad(format!("cannot read {}: {error}", file.display())))
    };
    if !options.url.starts_with("redis://") && !options.url.starts_with("rediss://") {
        return Err(bad("the URL must begin with redis:// or rediss://".to_owned()));
    }
    // The library's own words may quote the URL, so they are not repeated.
    let unusable = |_| bad("not a usable Redis URL, or the TLS files do not fit together".to_owned());
    if options.tls_ca.is_none() && options.tls_client.is_none() {
        return Client::open(options.url.as_str()).map_err(unusable);
    }
    let client_tls = match &options.tls_client {
        None => None,
        Some((cert, key)) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
    };
    let root_cert = options.tls_ca.as_deref().map(read).transpose()?;
    Client::build_with_tls(options.url.as_str(), TlsCertificates { client_tls, root_cert }).map_err(unusable)
}

/// The whole cluster, found by way of the node at the URL.
fn cluster(options: &RedisOptions) -> Result<ClusterClient, Error> {
    let bad = |reason: String| Error::Config { address: options.address(), reason };
    let read = |file: &Path| {
        std::fs::read(file).map_err(|error| bad(format!("cannot read {}: {error}", file.display())))
    };
    let mut builder = ClusterClient::builder([options.url.as_str()])
        .connection_timeout(options.connect_timeout)
        .response_timeout(options.response_timeout)
        // Slots may have moved; whatever has to be tried again for that is within the time of one command.
        .overall_response_timeout(Some(options.response_timeout))
        .retries(3);
    if options.tls_ca.is_some() || options.tls_client.is_some() {
        let client_tls = match &options.tls_client {
            None => None,
            Some((cert, key)) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
        };
        let root_cert = options.tls_ca.as_deref().map(read).transpose()?;
        builder = builder.certs(TlsCertificates { client_tls, root_cert });
    }
    builder
        .build()
        .map_err(|_| bad("not a usable Redis URL, or the TLS files do not fit together".to_owned()))
}

fn manager_config(options: &RedisOptions) -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_connection_timeout(Some(options.connect_timeout))
        .set_response_timeout(Some(options.response_timeout))
        .set_min_delay(Duration::from_millis(50))
        .set_max_delay(Duration::from_secs(2))
}

/// The failure in our words; a password that the server or the library quoted is struck out.
fn explain(error: &RedisError, options: &RedisOptions) -> Error {
    let address = options.address();
    let code = error.code().unwrap_or_default();
    if error.kind() == redis::ErrorKind::AuthenticationFailed
        || ["NOAUTH", "WRONGPASS", "NOPERM"].contains(&code)
    {
        return Error::Denied { address };
    }
    let mut reason = if error.is_timeout() { "no answer in time".to_owned() } else { error.to_string() };
    let info = options.url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
    for secret in info.iter().flat_map(|(info, _)| [*info, info.split_once(':').map_or("", |pair| pair.1)]) {
        if !secret.is_empty() {
            reason = reason.replace(secret, "***");
        }
    }
    Error::Unreachable { address, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_no_credentials() {
        let address = |url: &str| RedisOptions::at(url).address();
        assert_eq!(address("redis://user:p@ss/w@host:6379/0?protocol=resp3"), "redis://host:6379/0");
        assert_eq!(address("rediss://host"), "rediss://host");
        assert!(!format!("{:?}", RedisOptions::at("redis://:hunter2@h")).contains("hunter2"));
    }

    #[test]
    fn a_url_that_makes_no_sense_is_refused_without_repeating_it() {
        for url in ["http://u:hunter2@h", "redis://u:hunter2@h:port", "hunter2@h"] {
            let error = connect_lazily(&RedisOptions::at(url)).err().unwrap().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn valkey_is_told_from_redis() {
        let info = "redis_version:7.2.4\r\nvalkey_version:9.1.2\r\nmaxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\n";
        let server = read_info(info);
        assert_eq!((server.product, server.version.as_str(), server.maxmemory), ("Valkey", "9.1.2", 100));
        assert_eq!(server.policy, "allkeys-lru");
    }
}
