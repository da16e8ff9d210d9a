//! The connection flags, named as in the `nats` command line tool.
//!
//! Only the flags: they become a layer of the configuration, which knows the variables, the file and the context.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::target::duration;
use crate::config::Sources;

/// How to reach NATS.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "NATS")]
pub struct NatsArgs {
    /// Servers, comma separated [env: NATS_URL]
    #[arg(short = 's', long = "server", global = true, value_name = "URL")]
    server: Option<String>,
    /// User or token [env: NATS_USER]
    #[arg(long, global = true)]
    user: Option<String>,
    /// Password [env: NATS_PASSWORD]
    #[arg(long, global = true)]
    password: Option<String>,
    /// Token [env: NATS_TOKEN]
    #[arg(long, global = true)]
    token: Option<String>,
    /// Credentials file [env: NATS_CREDS]
    #[arg(long, global = true, value_name = "FILE")]
    creds: Option<PathBuf>,
    /// NKey seed file [env: NATS_NKEY]
    #[arg(long, global = true, value_name = "FILE")]
    nkey: Option<String>,
    /// Client certificate [env: NATS_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Key of the client certificate [env: NATS_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Authority that vouches for the server [env: NATS_CA]
    #[arg(long, global = true, value_name = "FILE")]
    tlsca: Option<PathBuf>,
    /// TLS before the server's first byte
    #[arg(long, global = true)]
    tlsfirst: bool,
    /// JetStream domain
    #[arg(long, global = true, value_name = "DOMAIN")]
    js_domain: Option<String>,
    /// JetStream API prefix
    #[arg(long, global = true, value_name = "PREFIX")]
    js_api_prefix: Option<String>,
    /// Prefix of reply subjects
    #[arg(long, global = true, value_name = "PREFIX")]
    inbox_prefix: Option<String>,
    /// Bound for connecting and for requests, such as 5s [env: NATS_TIMEOUT]
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Saved connection of the nats CLI [env: NATS_CONTEXT]
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Ignore contexts
    #[arg(long, global = true, conflicts_with = "context")]
    pub no_context: bool,
}

/// Flags may hold secrets.
impl std::fmt::Debug for NatsArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsArgs").field("context", &self.context).finish_non_exhaustive()
    }
}

impl NatsArgs {
    /// Adds what was given to the sources of the configuration.
    pub fn put(&self, sources: &mut Sources) {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        sources.flag("nats.urls", "--server", self.server.clone());
        sources.flag("nats.user", "--user", self.user.clone());
        sources.flag("nats.password", "--password", self.password.clone());
        sources.flag("nats.token", "--token", self.token.clone());
        sources.flag("nats.creds", "--creds", path(&self.creds));
        sources.flag("nats.nkey", "--nkey", self.nkey.clone());
        sources.flag("nats.tls_cert", "--tlscert", path(&self.tlscert));
        sources.flag("nats.tls_key", "--tlskey", path(&self.tlskey));
        sources.flag("nats.tls_ca", "--tlsca", path(&self.tlsca));
        sources.flag("nats.tls_first", "--tlsfirst", self.tlsfirst.then_some("true"));
        sources.flag("nats.js_domain", "--js-domain", self.js_domain.clone());
        sources.flag("nats.js_api_prefix", "--js-api-prefix", self.js_api_prefix.clone());
        sources.flag("nats.inbox_prefix", "--inbox-prefix", self.inbox_prefix.clone());
        sources.flag("nats.timeout", "--timeout", self.timeout.map(|t| format!("{}ms", t.as_millis())));
        sources.flag("nats.context", "--context", self.context.clone());
    }
}
