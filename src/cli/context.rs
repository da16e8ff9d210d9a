//! What every command gets: the configuration, where to print, and the signal to stop.

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use super::args::GlobalArgs;
use super::output::Output;
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
    pub fn new(globals: GlobalArgs, stop: CancellationToken) -> Self {
        let loaded = load(&globals, Sources::of_process(globals.config.clone()));
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
    config::load(&sources, &nats_context)
}

/// The NATS context of that name, or the selected one, under the keys of `[nats]`.
fn nats_context(_name: Option<&str>) -> Result<Option<ContextLayer>, String> {
    Ok(None)
}
