//! What every command gets: the configuration, where to print, and the signal to stop.

use std::path::PathBuf;

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use super::args::{Command, GlobalArgs};
use super::failure::{Exit, Failure};
use super::output::Output;
use crate::bus::{self, NatsOptions, context};
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
    loaded: std::result::Result<Loaded, ConfigError>,
    /// What it was read from.
    sources: Sources,
}

impl Ctx {
    /// Reads the configuration. Mistakes in it show when a command asks for it: `config template` never does.
    pub fn new(globals: GlobalArgs, command: &Command, stop: CancellationToken) -> Self {
        let mut sources = Sources::of_process(globals.config.clone());
        command.put(&mut sources);
        let loaded = load(&globals, sources.clone());
        Ctx { output: Output { json: globals.json }, stop, globals, loaded, sources }
    }

    /// The configuration.
    pub fn settings(&self) -> Result<&Settings> {
        Ok(&self.loaded()?.settings)
    }

    /// Reads the configuration's file once more. Flags and the environment are as they were at the start.
    pub fn read_again(&self) -> std::result::Result<Loaded, ConfigError> {
        load(&self.globals, self.sources.clone())
    }

    /// How to reach NATS, everything considered: flags, variables, file and context.
    pub fn nats(&self) -> Result<NatsOptions> {
        nats_options(&self.settings()?.nats)
    }

    /// The configuration with the origin of each value.
    pub fn loaded(&self) -> Result<&Loaded> {
        self.loaded.as_ref().map_err(|error| error.clone().into())
    }
}

/// Resolves `sources` after adding the global flags to them.
pub fn load(globals: &GlobalArgs, mut sources: Sources) -> std::result::Result<Loaded, ConfigError> {
    globals.put(&mut sources);
    config::load(&sources, &|name| match globals.nats.ignores_contexts() {
        true => Ok(None),
        false => nats_context(name),
    })
}

/// The NATS context of that name, or the selected one, under the keys of `[nats]`.
fn nats_context(name: Option<&str>) -> std::result::Result<Option<ContextLayer>, String> {
    let Some(dir) = context::config_dir() else { return Ok(None) };
    let Some(name) = name.map(str::to_owned).or_else(|| context::selected(&dir)) else { return Ok(None) };
    let found = context::load(&dir, &name).map_err(|error| error.to_string())?;
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let secret = |secret: &Option<bus::Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    let values = [
        ("nats.urls", (!found.urls.is_empty()).then(|| found.urls.join(","))),
        ("nats.user", found.user.clone()),
        ("nats.password", secret(&found.password)),
        ("nats.token", secret(&found.token)),
        ("nats.creds", path(&found.creds)),
        ("nats.nkey", secret(&found.nkey)),
        ("nats.user_jwt", secret(&found.jwt)),
        ("nats.seed", secret(&found.seed)),
        ("nats.tls_cert", path(&found.tls_cert)),
        ("nats.tls_key", path(&found.tls_key)),
        ("nats.tls_ca", path(&found.tls_ca)),
        ("nats.tls_first", found.tls_first.map(|first| first.to_string())),
        ("nats.js_domain", found.js_domain.clone()),
        ("nats.js_api_prefix", found.js_api_prefix.clone()),
        ("nats.inbox_prefix", found.inbox_prefix.clone()),
    ];
    let values = values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    Ok(Some(ContextLayer { name, values }))
}

/// The connection options that `[nats]` amounts to. The context is in them already.
fn nats_options(nats: &config::Nats) -> Result<NatsOptions> {
    let secret =
        |secret: &Option<config::Secret>| secret.as_ref().map(|secret| bus::Secret::new(secret.expose()));
    let path =
        |path: &Option<PathBuf>| path.as_ref().map(|path| context::expand_home(&path.to_string_lossy()));
    let password = match path(&nats.password_file) {
        None => secret(&nats.password),
        Some(file) => {
            let text = std::fs::read_to_string(&file).map_err(|error| {
                Failure::new(
                    Exit::Config,
                    "CONFIG_UNREADABLE",
                    format!("cannot read the password file: {error}"),
                )
                .at(file.display().to_string())
                .help("nats.password_file must name a file this user can read")
            })?;
            Some(bus::Secret::new(text.trim_end_matches(['\r', '\n'])))
        }
    };
    Ok(NatsOptions {
        urls: nats.urls.0.iter().map(|url| url.expose().to_owned()).collect(),
        user: nats.user.clone(),
        password,
        token: secret(&nats.token),
        creds: path(&nats.creds),
        nkey: secret(&nats.nkey),
        jwt: secret(&nats.user_jwt),
        seed: secret(&nats.seed),
        tls_cert: path(&nats.tls_cert),
        tls_key: path(&nats.tls_key),
        tls_ca: path(&nats.tls_ca),
        tls_first: nats.tls_first.then_some(true),
        js_domain: nats.js_domain.clone(),
        js_api_prefix: nats.js_api_prefix.clone(),
        inbox_prefix: nats.inbox_prefix.clone(),
        timeout: Some(nats.timeout),
        context: None,
        no_context: true,
    })
}
