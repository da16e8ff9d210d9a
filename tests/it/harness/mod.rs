//! What every test against real servers needs: a NATS and a Redis of its own, certificates, and patience with a limit.
//!
//! The servers are found and installed by the code that `selvedge dev` uses; they die with the test.

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod binary;
pub mod certs;
pub mod fabric;
pub mod python;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use selvedge::bus::{self, Connection, NatsOptions};
use selvedge::cli::servers::{NatsConfig, NatsServer, Program, RedisConfig, RedisServer, Resolver};
use selvedge::store::connect::RedisOptions;

/// The `nats-server` executable, installed into the cache by the first test that asks.
pub fn nats_executable() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| resolve(Program::Nats)).clone()
}

/// The Redis or Valkey executable, installed into the cache by the first test that asks.
pub fn redis_executable() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| resolve(Program::Redis)).clone()
}

fn resolve(program: Program) -> PathBuf {
    let resolver = Resolver::from_env().reporter(|line| eprintln!("{line}"));
    match resolver.resolve(program) {
        Ok(found) => found.path,
        Err(error) => panic!("{error}\n{}", error.help()),
    }
}

/// A NATS and a Redis of one test's own.
pub struct Stack {
    /// JetStream on, store in `dir`.
    pub nats: NatsServer,
    /// Evicts nothing.
    pub redis: RedisServer,
    /// Gone when the test ends; last, so that the servers end before their files do.
    dir: tempfile::TempDir,
}

impl Stack {
    /// Starts both and waits until they are healthy.
    pub async fn start() -> Stack {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (nats_dir, redis_dir) = (dir.path().join("nats"), dir.path().join("redis"));
        let servers = tokio::task::spawn_blocking(move || {
            let nats = NatsServer::start(nats_config(nats_dir));
            let redis = RedisServer::start(RedisConfig::new(redis_executable(), redis_dir));
            (nats, redis)
        });
        let (nats, redis) = servers.await.expect("starting does not panic");
        Stack { nats: nats.expect("nats-server starts"), redis: redis.expect("redis starts"), dir }
    }

    /// A directory for the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How to reach its NATS.
    pub fn nats_options(&self) -> NatsOptions {
        options_at(&self.nats.url())
    }

    /// How to reach its Redis.
    pub fn redis_options(&self) -> RedisOptions {
        RedisOptions::at(self.redis.url())
    }

    /// A new connection to its NATS.
    pub async fn connect(&self, name: &str) -> Connection {
        bus::connect(&self.nats_options(), name).await.expect("our own server can be reached")
    }
}

/// Options that lead to one server and to no context of the user's.
pub fn options_at(url: &str) -> NatsOptions {
    NatsOptions { urls: vec![url.to_owned()], no_context: true, ..NatsOptions::default() }
}

/// A plain `nats-server`. Streams reserve more than they use: how much of the disk is free does not matter.
pub fn nats_config(dir: PathBuf) -> NatsConfig {
    let store = dir.join("jetstream");
    let extra = format!("jetstream {{ store_dir: \"{}\", max_file_store: 64GB }}\n", store.display());
    NatsConfig { extra, ..NatsConfig::new(nats_executable(), dir) }
}

/// A `nats-server` with changes to the plain configuration.
pub async fn nats(dir: &Path, change: impl FnOnce(&mut NatsConfig) + Send + 'static) -> NatsServer {
    let dir = dir.to_owned();
    let start = move || {
        let mut config = nats_config(dir);
        change(&mut config);
        NatsServer::start(config).expect("nats-server starts")
    };
    tokio::task::spawn_blocking(start).await.expect("starting does not panic")
}

/// A Redis with changes to the plain configuration.
pub async fn redis(dir: &Path, change: impl FnOnce(&mut RedisConfig) + Send + 'static) -> RedisServer {
    let dir = dir.to_owned();
    let start = move || {
        let mut config = RedisConfig::new(redis_executable(), dir);
        change(&mut config);
        RedisServer::start(config).expect("redis starts")
    };
    tokio::task::spawn_blocking(start).await.expect("starting does not panic")
}

/// Waits for something that must happen; panics with its name if it does not within 20 seconds.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("did not happen within 60 s: {what}"),
    }
}

/// Asks again until there is an answer; for state that only polling can show.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = ask().await {
            return value;
        }
        assert!(Instant::now() < deadline, "did not happen within 60 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
