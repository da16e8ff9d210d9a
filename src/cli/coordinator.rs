//! `selvedge coordinator`: the process that admits, dispatches and settles.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::target::duration;
use crate::config::{Provision, Setting, Sources};

/// Arguments of `coordinator`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  selvedge coordinator
  selvedge coordinator --config /etc/selvedge/selvedge.toml --log-format json
  selvedge coordinator --provision check        (streams are made by somebody else)

Start as many as you like: one owns the shard, the others follow and take over. SIGTERM drains within --drain-timeout;
a second one ends at once. Everything else is set in selvedge.toml, see `selvedge config template`.")]
pub struct CoordinatorArgs {
    /// Name in logs and connection lists [default: host name and process id]
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,

    /// Whether to create and change streams and buckets: auto, check or never [default: auto]
    #[arg(long, value_name = "MODE", value_parser = provision)]
    pub provision: Option<Provision>,

    /// Where /livez, /readyz and /metrics are served [default: 127.0.0.1:7717]
    #[arg(long, value_name = "HOST:PORT")]
    pub admin_listen: Option<SocketAddr>,

    /// Servers that keep a copy of each stream and bucket, 1 to 5 [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=5))]
    pub replicas: Option<u64>,

    /// How long stopping may take [default: 25s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub drain_timeout: Option<Duration>,
}

impl CoordinatorArgs {
    /// Adds what was given to the sources of the configuration.
    pub fn put(&self, sources: &mut Sources) {
        sources.flag("coordinator.id", "--id", self.id.clone());
        sources.flag("coordinator.provision", "--provision", self.provision.map(Provision::as_str));
        sources.flag("coordinator.admin_listen", "--admin-listen", self.admin_listen.map(|a| a.to_string()));
        sources.flag("coordinator.replicas", "--replicas", self.replicas.map(|n| n.to_string()));
        let drain = self.drain_timeout.map(|d| format!("{}ms", d.as_millis()));
        sources.flag("coordinator.drain_timeout", "--drain-timeout", drain);
    }
}

fn provision(text: &str) -> Result<Provision, String> {
    Provision::parse(text)
}
