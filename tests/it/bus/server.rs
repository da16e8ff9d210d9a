//! A nats-server of the test's own, on a free port, in a directory of its own.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use selvedge::cli::servers::{Program, Resolver};

pub struct Nats {
    dir: tempfile::TempDir,
    args: Vec<String>,
    env: Vec<(String, String)>,
    port: u16,
    child: Child,
}

fn executable() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| Resolver::from_env().resolve(Program::Nats).unwrap().path)
}

impl Nats {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store").display().to_string();
        Self::launch(dir, vec!["-js".into(), "-sd".into(), store], vec![])
    }

    /// With a configuration file and its environment.
    pub async fn with_config(config: PathBuf, env: Vec<(String, String)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ("SELVEDGE_NATS_STORE".to_owned(), dir.path().join("store").display().to_string());
        let args = vec!["-c".into(), config.display().to_string()];
        Self::launch(dir, args, env.into_iter().chain([store]).collect())
    }

    fn launch(dir: tempfile::TempDir, args: Vec<String>, env: Vec<(String, String)>) -> Self {
        let child = spawn(&dir, &args, &env, None);
        let mut nats = Self { dir, args, env, port: 0, child };
        nats.port = nats.await_port();
        nats
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port and data.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.dir, &self.args, &self.env, Some(self.port));
        self.await_port();
    }

    fn ports_file(&self) -> PathBuf {
        self.dir.path().join(format!("nats-server_{}.ports", self.child.id()))
    }

    fn await_port(&mut self) -> u16 {
        let begun = Instant::now();
        loop {
            let name = executable();
            let name = name.file_name().unwrap().to_string_lossy().into_owned();
            let file = self.dir.path().join(format!("{name}_{}.ports", self.child.id()));
            let found = std::fs::read(&file).or_else(|_| std::fs::read(self.ports_file())).ok();
            let ports = found.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
            if let Some(port) = ports.and_then(|p| p["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()) {
                return port;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("nats-server ended: {status}; {}", self.log());
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "nats-server did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

fn spawn(dir: &tempfile::TempDir, args: &[String], env: &[(String, String)], port: Option<u16>) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
    Command::new(executable())
        .args(args)
        .args(["-a", "127.0.0.1", "-m", "-1", "-p"])
        .arg(port.map_or("-1".to_owned(), |port| port.to_string()))
        .arg("--ports_file_dir")
        .arg(dir.path())
        .envs(env.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
