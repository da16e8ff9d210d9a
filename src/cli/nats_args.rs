//! The connection flags, named as in the `nats` command line tool.
//!
//! Only the flags: variables, file and context are laid below them by [`crate::config`], so that an error can name
//! where a value comes from. Nothing is parsed here for the same reason.

use clap::Args;

use crate::config::Sources;

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
    creds: Option<String>,
    /// NKey seed, or a file that holds it [env: NATS_NKEY]
    #[arg(long, global = true, value_name = "FILE")]
    nkey: Option<String>,
    /// Client certificate [env: NATS_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    tlscert: Option<String>,
    /// Key of the client certificate [env: NATS_KEY]
    #[arg(long, global = true, value_name = "FILE")]
    tlskey: Option<String>,
    /// Authority that vouches for the server [env: NATS_CA]
    #[arg(long, global = true, value_name = "FILE")]
    tlsca: Option<String>,
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
    #[arg(long, global = true, value_name = "DURATION")]
    timeout: Option<String>,
    /// Context of the nats CLI [env: NATS_CONTEXT]
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Ignore NATS contexts, the selected one too
    #[arg(long, global = true, conflicts_with = "context")]
    no_context: bool,
}

impl NatsArgs {
    /// Whether contexts are to be ignored.
    pub fn ignores_contexts(&self) -> bool {
        self.no_context
    }

    /// Adds what was given to the sources of the configuration.
    pub fn put(&self, sources: &mut Sources) {
        let given = [
            ("nats.urls", "--server", &self.server),
            ("nats.user", "--user", &self.user),
            ("nats.password", "--password", &self.password),
            ("nats.token", "--token", &self.token),
            ("nats.creds", "--creds", &self.creds),
            ("nats.nkey", "--nkey", &self.nkey),
            ("nats.tls_cert", "--tlscert", &self.tlscert),
            ("nats.tls_key", "--tlskey", &self.tlskey),
            ("nats.tls_ca", "--tlsca", &self.tlsca),
            ("nats.js_domain", "--js-domain", &self.js_domain),
            ("nats.js_api_prefix", "--js-api-prefix", &self.js_api_prefix),
            ("nats.inbox_prefix", "--inbox-prefix", &self.inbox_prefix),
            ("nats.timeout", "--timeout", &self.timeout),
            ("nats.context", "--context", &self.context),
        ];
        for (key, flag, value) in given {
            sources.flag(key, flag, value.clone());
        }
        sources.flag("nats.tls_first", "--tlsfirst", self.tlsfirst.then_some("true"));
    }
}
