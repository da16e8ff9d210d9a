//! A Redis or Valkey, and a NATS server, of a test's own.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};

/// Killed and cleaned up when dropped.
pub struct Redis {
    child: Option<Child>,
    dir: tempfile::TempDir,
    port: u16,
    args: Vec<String>,
}

fn binary(variable: &str, names: &[&str]) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = names.iter().flat_map(|n| std::env::split_paths(&path).map(move |d| d.join(n)));
    found
        .into_iter()
        .find(|p| p.is_file())
        .unwrap_or_else(|| panic!("none of {names:?} in PATH; set {variable}"))
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Redis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(args: &[&str]) -> Self {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        let mut redis = Self { child: None, dir: tempfile::tempdir().unwrap(), port: free_port(), args };
        redis.up().await;
        redis
    }

    /// Starts it again after `kill`, with what its directory holds.
    pub async fn up(&mut self) {
        let mut command = Command::new(binary("SELVEDGE_REDIS_SERVER", &["valkey-server", "redis-server"]));
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.args)
            .stdout(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let client = redis::Client::open(self.url()).unwrap();
        let start = Instant::now();
        while client.get_multiplexed_async_connection().await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "Redis does not come up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub async fn connect(&self) -> ConnectionManager {
        self.connect_to(&self.url()).await
    }

    pub async fn connect_to(&self, url: &str) -> ConnectionManager {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(Duration::from_secs(1)))
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_max_delay(Duration::from_millis(100))
            .set_number_of_retries(1);
        ConnectionManager::new_with_config(redis::Client::open(url).unwrap(), config).await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Killed and cleaned up when dropped.
pub struct Nats {
    child: Child,
    _dir: tempfile::TempDir,
    port: u16,
}

impl Nats {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let child = Command::new(binary("SELVEDGE_NATS_SERVER", &["nats-server"]))
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nats = Self { child, _dir: dir, port };
        let start = Instant::now();
        while async_nats::connect(nats.url()).await.is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "nats-server does not come up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        nats
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
