//! What every command gets: the configuration, where to print, and the signal to stop.

use std::path::PathBuf;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use super::args::{Command, GlobalArgs};
use super::output::Output;
use crate::bus::{Secret, context};
use crate::config::{self, ConfigError, ContextLayer, Loaded, Settings, Sources};

/// Handed to each verb's `run`.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// Where results go.
    pub output: Output,
    /// Cancelled at the first SIGINT or SIGTERM; a second one ends the process.
    pub stop: CancellationToken,
    /// The flags every command has.
    pub globals: GlobalArgs,
    loaded: Result<Loaded, ConfigError>,
}

impl Ctx {
    /// Reads the configuration. Mistakes in it show when a command asks for it: `config template` never does.
    pub fn new(globals: GlobalArgs, command: &Command, stop: CancellationToken) -> Self {
        let mut sources = Sources::of_process(globals.config.clone());
        command.put(&mut sources);
        let loaded = load(&globals, sources);
        Ctx { output: Output { json: globals.json }, stop, globals, loaded }
    }

    /// The configuration.
    pub fn settings(&self) -> Result<&Settings> {
        Ok(&self.loaded()?.settings)
    }

    /// The configuration with the origin of each value.
    pub fn loaded(&self) -> Result<&Loaded> {
        self.loaded.as_ref().map_err(|error| error.clone().into())
    }
}

/// Resolves `sources` after adding the global flags to them.
pub fn load(globals: &GlobalArgs, mut sources: Sources) -> Result<Loaded, ConfigError> {
    globals.put(&mut sources);
    config::load(&sources, &|name| nats_context(globals, name))
}

/// The NATS context of that name, or the selected one, under the keys of `[nats]`.
fn nats_context(globals: &GlobalArgs, name: Option<&str>) -> Result<Option<ContextLayer>, String> {
    if globals.nats.no_context {
        return Ok(None);
    }
    let Some(dir) = context::config_dir() else { return Ok(None) };
    let Some(name) = name.map(str::to_owned).or_else(|| context::selected(&dir)) else { return Ok(None) };
    let found = context::load(&dir, &name).map_err(|error| error.to_string())?;
    let path = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
    let secret = |secret: Option<Secret>| secret.map(|secret| secret.expose().to_owned());
    let values = [
        ("nats.urls", (!found.urls.is_empty()).then(|| found.urls.join(","))),
        ("nats.user", found.user),
        ("nats.password", secret(found.password)),
        ("nats.token", secret(found.token)),
        ("nats.creds", path(found.creds)),
        ("nats.nkey", secret(found.nkey)),
        ("nats.user_jwt", secret(found.jwt)),
        ("nats.seed", secret(found.seed)),
        ("nats.tls_cert", path(found.tls_cert)),
        ("nats.tls_key", path(found.tls_key)),
        ("nats.tls_ca", path(found.tls_ca)),
        ("nats.tls_first", found.tls_first.map(|first| first.to_string())),
        ("nats.js_domain", found.js_domain),
        ("nats.js_api_prefix", found.js_api_prefix),
        ("nats.inbox_prefix", found.inbox_prefix),
    ];
    let values = values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    Ok(Some(ContextLayer { name, values }))
}
