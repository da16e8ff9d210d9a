//! Servers that were given instead of started: by flag or variable, never by a file or a selected context.
//!
//! A context or a file in the working directory may well name production; a stack for trying things out must not
//! end up there because of it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Endpoint;
use crate::bus::{Link, NatsOptions};
use crate::cli::context::Ctx;
use crate::client::{self, Client, DEFAULT_TENANT};
use crate::config::{self, Origin};
use crate::store::connect::RedisOptions;
use crate::task::TenantName;

/// See the module.
#[derive(Clone, Default)]
pub struct Given {
    /// How to reach the NATS that was given.
    pub nats: Option<NatsOptions>,
    /// The URL of the Redis that was given; may hold a password.
    pub redis: Option<String>,
}

impl Given {
    /// What this process was given.
    pub fn of(ctx: &Ctx) -> Result<Given> {
        let loaded = ctx.loaded()?;
        let by_hand = |section: &str, name: &str| {
            let option = config::all().find(|option| option.section == section && option.name == name)?;
            let (text, origin) = loaded.given(option);
            matches!(origin, Origin::Env(_) | Origin::Flag(_)).then(|| text.to_owned())
        };
        let nats = match by_hand("nats", "urls") {
            Some(_) => Some(ctx.nats()?),
            None => None,
        };
        Ok(Given { nats, redis: by_hand("redis", "url") })
    }

    /// The given NATS as an endpoint.
    pub(super) fn nats_endpoint(&self) -> Endpoint {
        let urls = self.nats.iter().flat_map(NatsOptions::servers);
        let url = urls.map(|url| RedisOptions::at(url).address()).collect::<Vec<_>>().join(",");
        Endpoint { url, server: "given with NATS_URL".to_owned(), ours: false }
    }

    /// The given Redis as an endpoint.
    pub(super) fn redis_endpoint(&self) -> Option<Endpoint> {
        let url = RedisOptions::at(self.redis.as_deref()?).address();
        Some(Endpoint { url, server: "given with REDIS_URL".to_owned(), ours: false })
    }

    /// The variables that lead another process to the given NATS. Secrets travel in the environment, never on a
    /// command line.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        let Some(nats) = &self.nats else { return Vec::new() };
        let path =
            |path: &Option<std::path::PathBuf>| path.as_deref().map(Path::to_string_lossy).map(String::from);
        let secret = |secret: &Option<crate::bus::Secret>| secret.as_ref().map(|s| s.expose().to_owned());
        [
            ("NATS_URL", Some(nats.servers().join(","))),
            ("NATS_USER", nats.user.clone()),
            ("NATS_PASSWORD", secret(&nats.password)),
            ("NATS_TOKEN", secret(&nats.token)),
            ("NATS_CREDS", path(&nats.creds)),
            ("NATS_NKEY", secret(&nats.nkey)),
            ("NATS_JWT", secret(&nats.jwt)),
            ("NATS_SEED", secret(&nats.seed)),
            ("NATS_CERT", path(&nats.tls_cert)),
            ("NATS_KEY", path(&nats.tls_key)),
            ("NATS_CA", path(&nats.tls_ca)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
    }

    /// The flags for what no variable says.
    pub(super) fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--no-context".to_owned()];
        let Some(nats) = &self.nats else { return flags };
        if nats.tls_first == Some(true) {
            flags.push("--tlsfirst".to_owned());
        }
        let named = [
            ("--js-domain", &nats.js_domain),
            ("--js-api-prefix", &nats.js_api_prefix),
            ("--inbox-prefix", &nats.inbox_prefix),
        ];
        for (flag, value) in named {
            flags.extend(value.iter().flat_map(|value| [flag.to_owned(), value.clone()]));
        }
        flags
    }
}

/// Whether a coordinator answers there already.
pub(super) async fn is_coordinated(nats: &NatsOptions) -> Result<bool> {
    let link = Link::connect(nats, "selvedge-look").await?;
    let client = Client::on(link, TenantName::new(DEFAULT_TENANT)?).ask_within(Duration::from_secs(2));
    // A refusal is an answer, and so is being too slow.
    Ok(!matches!(client.stats().await, Err(client::Error::Unavailable(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_shows_no_secret() {
        let nats = NatsOptions { urls: vec!["nats://u:geheim@h:1".into()], ..NatsOptions::default() };
        let given = Given { nats: Some(nats), redis: Some("redis://:geheim@r:6379".into()) };
        let shown = format!("{:?}{:?}", given.nats_endpoint(), given.redis_endpoint());
        assert!(!shown.contains("geheim"), "{shown}");
        assert!(shown.contains("nats://h:1") && shown.contains("r:6379"), "{shown}");
    }
}
