//! A nats-server of a test's own: free port, temporary directory, gone with the value.

use std::sync::OnceLock;

use selvedge::cli::servers::{NatsConfig, NatsServer, Program, Resolver};

pub struct Server {
    pub nats: NatsServer,
    _dir: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = NatsConfig::new(executable(), dir.path());
        let nats = NatsServer::start_async(config).await.expect("nats-server starts");
        Self { nats, _dir: dir }
    }

    /// Stops the process where it is; returns when it stands still.
    pub async fn freeze(&self) {
        self.nats.pause();
        let status = format!("/proc/{}/stat", self.nats.pid());
        while std::fs::read_to_string(&status).is_ok_and(|stat| !stat.contains(") T ")) {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    pub fn url(&self) -> String {
        self.nats.url()
    }
}

fn executable() -> std::path::PathBuf {
    static FOUND: OnceLock<std::path::PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| Resolver::from_env().resolve(Program::Nats).expect("a nats-server").path).clone()
}
