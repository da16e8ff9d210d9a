//! The dev stack: NATS, Redis and a coordinator as child processes, healthy, watched, and gone when we are.
//!
//! ```text
//! Wanted ──▶ data (lock, directories) ──▶ servers (or the ones that were given) ──▶ `selvedge coordinator` ──▶ ready
//!                                                             └── Supervisor: restarts what dies, stops in order
//! ```
//!
//! Called by `selvedge dev` and `selvedge demo`. Never prints: what a person should know goes through `notice`. Never
//! stops or changes a server that was given. Everything we start listens on loopback only and dies with us, however
//! we end.

mod data;
mod given;
pub mod logs;
mod own;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::sync::broadcast;

use self::own::Own;
use super::dev::ServerArgs;
use super::failure::{Exit, Failure};
use super::servers::{
    self, Event, NatsConfig, NatsServer, Program, RedisConfig, RedisServer, Resolver, Supervisor, ports,
};
use crate::bus::NatsOptions;

pub use data::{DataDir, ignore_in_git};
pub use given::Given;

/// How long stopping everything may take before it is killed.
const STOPPING: Duration = Duration::from_secs(8);

/// The names of the stack's own processes, as events and logs call them.
pub const NATS: &str = "nats-server";
/// See [`NATS`].
pub const REDIS: &str = "redis";
/// See [`NATS`].
pub const COORDINATOR: &str = "coordinator";

/// Which port a server should have.
#[derive(Debug, Clone, Copy)]
pub enum Port {
    /// Any free one.
    Any,
    /// This one, or the next that is free.
    From(u16),
    /// This one and no other; asked for with this flag.
    Exactly(u16, &'static str),
}

impl Port {
    /// What a flag says: absent means the usual port or the next, 0 means any.
    pub fn of(flag: Option<u16>, usual: u16, name: &'static str) -> Port {
        match flag {
            None => Port::From(usual),
            Some(0) => Port::Any,
            Some(port) => Port::Exactly(port, name),
        }
    }

    /// A port that is free now. Tells when it is not the usual one, and who is in the way.
    fn choose(self, what: &str, notice: &Notice) -> Result<u16, servers::Error> {
        let none = |source| servers::Error::Io { what: "no free port".to_owned(), source };
        match self {
            Port::Any => ports::free_port().map_err(none),
            Port::Exactly(port, flag) => {
                ports::check_free(port).map_err(|taken| taken.flag(flag))?;
                Ok(port)
            }
            Port::From(first) => {
                let port = ports::free_from(first).map_err(none)?;
                if port != first {
                    let taken = ports::PortInUse::at(first);
                    notice(&format!("{taken}; {what} listens on {port} instead"));
                }
                Ok(port)
            }
        }
    }
}

/// Says one line to a person while the stack starts.
pub type Notice = Arc<dyn Fn(&str) + Send + Sync>;

/// What a stack should be like.
pub struct Wanted {
    /// Where everything is kept.
    pub data: DataDir,
    /// Keep what Redis holds over a restart.
    pub persist: bool,
    /// Port of NATS.
    pub nats_port: Port,
    /// Port of Redis.
    pub redis_port: Port,
    /// Port of the admin server.
    pub admin_port: Port,
    /// Where executables come from.
    pub servers: ServerArgs,
    /// Servers to use instead of starting some.
    pub given: Given,
    /// The configuration file of the coordinator; `None`: one of ours.
    pub config: Option<PathBuf>,
}

/// One endpoint of a running stack.
#[derive(Debug, Clone, Serialize)]
pub struct Endpoint {
    /// Where it is; without secrets.
    pub url: String,
    /// Which server it is and where it comes from.
    pub server: String,
    /// Whether we started it.
    pub ours: bool,
}

/// One process of a running stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its process id; absent between its death and its restart.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
}

/// A stack that runs. Dropping it stops everything it started.
pub struct Stack {
    /// Where NATS is.
    pub nats: Endpoint,
    /// Where Redis is; absent if a coordinator that runs already uses one we don't know.
    pub redis: Option<Endpoint>,
    /// Where `/readyz` and `/metrics` are; absent if the coordinator is not ours.
    pub admin: Option<Endpoint>,
    /// How to connect to its NATS from this process.
    pub options: NatsOptions,
    names: Vec<String>,
    own: Own,
    supervisor: Supervisor,
    /// Last: the files go after the processes that use them.
    data: DataDir,
}

impl Stack {
    /// Starts what is missing and returns when all of it is healthy.
    pub async fn start(wanted: Wanted, notice: Notice) -> Result<Stack> {
        let Wanted { data, persist, nats_port, redis_port, admin_port, servers, given, config } = wanted;
        let supervisor = Supervisor::new();
        let mut names = Vec::new();

        let nats = given.nats.is_none().then(|| {
            let (dir, notice) = (data.dir("nats"), Arc::clone(&notice));
            let resolver = resolver(&servers, Program::Nats, &notice);
            tokio::task::spawn_blocking(move || {
                let found = resolver.resolve(Program::Nats)?;
                let port = nats_port.choose("NATS", &notice)?;
                let mut config = NatsConfig::new(&found.path, dir);
                config.port = Some(port);
                Ok::<_, servers::Error>((NatsServer::start(config)?, found))
            })
        });
        // Two coordinators with different Redis servers would answer the same questions differently.
        let coordinated = match &given.nats {
            Some(nats) => given::is_coordinated(nats).await?,
            None => false,
        };
        let redis = (given.redis.is_none() && !coordinated).then(|| {
            let (dir, notice) = (data.dir("redis"), Arc::clone(&notice));
            let resolver = resolver(&servers, Program::Redis, &notice);
            tokio::task::spawn_blocking(move || {
                let found = resolver.resolve(Program::Redis)?;
                let port = redis_port.choose("Redis", &notice)?;
                let mut config = RedisConfig::new(&found.path, dir);
                config.port = Some(port);
                config.persist = persist;
                Ok::<_, servers::Error>((RedisServer::start(config)?, found))
            })
        });

        let mut own = Own::new(&data, &given)?;
        let nats = match nats {
            Some(starting) => {
                let (server, found) = starting.await?.map_err(failure)?;
                let url = server.url();
                own.nats_url(&url);
                supervisor.start(server.into_child(NATS))?;
                names.push(NATS.to_owned());
                Endpoint { url, server: format!("{found}   JetStream on"), ours: true }
            }
            None => given.nats_endpoint(),
        };
        let redis = match redis {
            Some(starting) => {
                let (server, found) = starting.await?.map_err(failure)?;
                let url = server.url();
                own.redis_url(&url);
                supervisor.start(server.into_child(REDIS))?;
                names.push(REDIS.to_owned());
                Some(Endpoint { url, server: found.to_string(), ours: true })
            }
            None => given.redis_endpoint(),
        };

        let options = given.nats.clone().unwrap_or_else(|| NatsOptions {
            urls: vec![nats.url.clone()],
            no_context: true,
            ..NatsOptions::default()
        });
        own.config(config.map_or_else(|| data.write_config(), Ok)?);
        let mut stack = Stack { nats, redis, admin: None, options, names, own, supervisor, data };
        if !coordinated {
            let port = admin_port.choose("the admin server", &notice).map_err(failure)?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut events = stack.events();
            stack.start_own(COORDINATOR, &["coordinator", "--admin-listen", &address.to_string()])?;
            own::await_ready(address, &mut events, &stack.log(COORDINATOR)).await?;
            let (url, server) = (format!("http://{address}"), "/metrics /livez /readyz".to_owned());
            stack.admin = Some(Endpoint { url, server, ours: true });
        }
        Ok(stack)
    }

    /// Starts another process of our own executable, kept running like the others.
    pub fn start_own(&mut self, name: &str, args: &[&str]) -> Result<()> {
        let log = self.log(name);
        self.supervisor.start(self.own.child(name, args, log)?)?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// What happens to its processes from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.supervisor.events()
    }

    /// Its processes now, in the order they were started.
    pub fn members(&self) -> Vec<Member> {
        let member = |name: &String| Member {
            name: name.clone(),
            pid: self.supervisor.pid(name),
            restarts: self.supervisor.restarts(name),
        };
        self.names.iter().map(member).collect()
    }

    /// Where its files are.
    pub fn data(&self) -> &DataDir {
        &self.data
    }

    /// Where a process of our own executable logs.
    pub fn log(&self, name: &str) -> PathBuf {
        self.data.dir("logs").join(format!("{name}.log"))
    }

    /// The logs of every process, by name.
    pub fn logs(&self) -> Vec<(String, PathBuf)> {
        let of = |name: &String| match name.as_str() {
            NATS => self.data.dir("nats").join("nats-server.log"),
            REDIS => self.data.dir("redis").join("redis.log"),
            own => self.log(own),
        };
        self.names.iter().map(|name| (name.clone(), of(name))).collect()
    }

    /// What a command needs in its environment to find the stack.
    pub fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.own.set.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Variables that would lead a command elsewhere.
    pub fn misleading(&self) -> Vec<String> {
        self.own.misleading()
    }

    /// Keeps the files of an ephemeral stack, and says where they are.
    pub fn keep_files(&mut self) -> &Path {
        self.data.keep()
    }

    /// Stops everything it started, in reverse order, and waits for that.
    pub async fn stop(self) {
        // A panic in there would have stopped everything on the way out.
        let _ = tokio::task::spawn_blocking(move || {
            self.supervisor.stop(STOPPING);
            drop(self);
        })
        .await;
    }
}

fn resolver(args: &ServerArgs, program: Program, notice: &Notice) -> Resolver {
    let (flag, path) = match program {
        Program::Nats => ("--nats-server", &args.nats_server),
        Program::Redis => ("--redis-server", &args.redis_server),
    };
    let notice = Arc::clone(notice);
    Resolver::from_env().explicit(flag, path.clone()).offline(args.offline).reporter(move |line| notice(line))
}

/// A server that cannot be had, as a command fails with it.
pub fn failure(error: servers::Error) -> Failure {
    let (exit, code) = match &error {
        servers::Error::NotFound { .. } => (Exit::Unavailable, "SERVER_NOT_FOUND"),
        servers::Error::Explicit { .. } => (Exit::Config, "SERVER_UNUSABLE"),
        servers::Error::PortInUse(_) => (Exit::Unavailable, "PORT_IN_USE"),
        servers::Error::Unhealthy { .. } => (Exit::Unavailable, "SERVER_UNHEALTHY"),
        servers::Error::Unsupported { .. } => (Exit::Config, "SERVER_UNSUPPORTED"),
        servers::Error::Io { .. } => (Exit::Failed, "SERVER_NOT_STARTED"),
    };
    let help = error.help();
    Failure::new(exit, code, error.to_string()).help(help)
}
