//! The harness's nats-server together with its directory.

use std::path::Path;

use selvedge::cli::servers::NatsServer;

use crate::harness;

pub struct Nats {
    server: NatsServer,
    _dir: tempfile::TempDir,
}

impl Nats {
    pub async fn start() -> Self {
        Self::with_config(String::new()).await
    }

    /// With further configuration.
    pub async fn with_config(extra: String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = harness::nats(dir.path(), move |config| config.extra = extra).await;
        Self { server, _dir: dir }
    }

    /// With the configuration file we ship for production, its variables defined.
    pub async fn production(variables: &[(String, String)]) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats/server.prod.conf");
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store").display().to_string();
        let store = ("SELVEDGE_NATS_STORE".to_owned(), store);
        let defined = variables.iter().chain([&store]).map(|(name, value)| format!("{name}: \"{value}\"\n"));
        let text: String = defined.chain([std::fs::read_to_string(file).unwrap()]).collect();
        let server = harness::nats(dir.path(), move |config| config.extra = text).await;
        Self { server, _dir: dir }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// `host:port` of the monitoring endpoint.
    pub fn monitor(&self) -> String {
        self.server.monitor_url().trim_start_matches("http://").to_owned()
    }

    pub fn kill9(&mut self) {
        self.server.kill9();
    }

    /// On the same port and data.
    pub async fn restart(&mut self) {
        self.server.restart().unwrap();
    }
}
