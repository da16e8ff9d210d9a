//! The connection flags, named as in the `nats` command line tool.
//!
//! Only the flags: variables are read by [`NatsOptions::from_env`], so that an error can name the variable.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::bus::{Error, NatsOptions, Secret, options};

/// How to reach NATS.
#[derive(Args, Clone, Debug, Default)]
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
    #[arg(long, global = true, value_name = "DURATION", value_parser = timeout)]
    timeout: Option<Duration>,
    /// Context of the nats CLI [env: NATS_CONTEXT]
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Ignore contexts
    #[arg(long, global = true, conflicts_with = "context")]
    no_context: bool,
}

impl NatsArgs {
    /// The flags alone.
    pub fn options(&self) -> NatsOptions {
        let args = self.clone();
        NatsOptions {
            urls: args.server.map(|urls| options::split_urls(&urls)).unwrap_or_default(),
            user: args.user,
            password: args.password.map(Secret::new),
            token: args.token.map(Secret::new),
            creds: args.creds,
            nkey: args.nkey.map(Secret::new),
            tls_cert: args.tlscert,
            tls_key: args.tlskey,
            tls_ca: args.tlsca,
            tls_first: args.tlsfirst.then_some(true),
            js_domain: args.js_domain,
            js_api_prefix: args.js_api_prefix,
            inbox_prefix: args.inbox_prefix,
            timeout: args.timeout,
            context: args.context,
            no_context: args.no_context,
            ..NatsOptions::default()
        }
    }

    /// Flags over variables over the file over the context.
    pub fn resolve(&self, file: NatsOptions) -> Result<NatsOptions, Error> {
        self.options().or(NatsOptions::from_env()?).or(file).with_context()
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    options::duration(text).ok_or_else(|| "not a duration such as 5s or 500ms".to_owned())
}
