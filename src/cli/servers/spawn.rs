//! A `nats-server` of our own: started, awaited until healthy, restarted on the same port and data, stopped.
//!
//! Secrets go into a configuration file of mode 0600, never onto a command line. Being healthy is the server's own
//! word (its ports file, then `/healthz`), never the passing of time.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::process::Process;
use super::{Error, ports};

/// How long a server may take to become healthy; it takes some 20 ms unless it recovers a large store.
pub(super) const STARTUP: Duration = Duration::from_secs(30);
/// Between two looks at a server that is starting.
pub(super) const LOOK: Duration = Duration::from_millis(3);

/// A certificate and its key, and who may vouch for the other side.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// PEM certificate chain.
    pub cert: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM certificates of the authority.
    pub ca: PathBuf,
    /// Clients must show a certificate of that authority, too.
    pub verify_clients: bool,
}

/// What a `nats-server` should be like.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// The executable.
    pub executable: PathBuf,
    /// Where configuration, ports file, log and (unless `store` says otherwise) the JetStream store go.
    pub dir: PathBuf,
    /// The JetStream store; `None`: `dir/jetstream`.
    pub store: Option<PathBuf>,
    /// A fixed port; `None`: a free one.
    pub port: Option<u16>,
    /// User and password that everybody must give.
    pub login: Option<(String, String)>,
    /// TLS for everybody.
    pub tls: Option<TlsFiles>,
    /// TLS before the first byte (`handshake_first`).
    pub tls_first: bool,
    /// Further configuration in the server's own language, appended to ours.
    pub extra: String,
}

impl NatsConfig {
    /// A plain JetStream server on a free port.
    pub fn new(executable: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> NatsConfig {
        NatsConfig {
            executable: executable.into(),
            dir: dir.into(),
            store: None,
            port: None,
            login: None,
            tls: None,
            tls_first: false,
            extra: String::new(),
        }
    }

    fn text(&self) -> String {
        let store = self.store.clone().unwrap_or_else(|| self.dir.join("jetstream"));
        let mut text = format!("jetstream {{ store_dir: {} }}\n", quoted(&store.to_string_lossy()));
        if let Some((user, password)) = &self.login {
            text += &format!("authorization {{ user: {}, password: {} }}\n", quoted(user), quoted(password));
        }
        if let Some(tls) = &self.tls {
            let path = |path: &Path| quoted(&path.to_string_lossy());
            text += &format!(
                "tls {{ cert_file: {}, key_file: {}, ca_file: {}, verify: {}, handshake_first: {} }}\n",
                path(&tls.cert),
                path(&tls.key),
                path(&tls.ca),
                tls.verify_clients,
                self.tls_first
            );
        }
        text + &self.extra
    }
}

/// A `nats-server` that lives no longer than this value.
pub struct NatsServer {
    config: NatsConfig,
    port: u16,
    monitor: u16,
    process: Process,
}

impl NatsServer {
    /// Starts it and waits until JetStream is healthy. Blocks.
    pub fn start(config: NatsConfig) -> Result<NatsServer, Error> {
        fs::create_dir_all(&config.dir)
            .map_err(Error::io(format!("cannot create {}", config.dir.display())))?;
        write_private(&config.dir.join("nats.conf"), &config.text())?;
        if let Some(port) = config.port {
            ports::check_free(port)?;
        }
        let process = launch(&config, config.port)?;
        let (port, monitor) = await_healthy(&config, &process)?;
        Ok(NatsServer { config, port, monitor, process })
    }

    /// Starts it from asynchronous code.
    pub async fn start_async(config: NatsConfig) -> Result<NatsServer, Error> {
        super::off_the_loop(move || NatsServer::start(config)).await
    }

    /// Where clients connect; without credentials.
    pub fn url(&self) -> String {
        let scheme = if self.config.tls.is_some() { "tls" } else { "nats" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The client port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The monitoring endpoint.
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.config.dir.join("nats-server.log")
    }

    /// The process itself, for signals and for waiting.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends it as a crash would.
    pub fn kill9(&self) {
        self.process.kill();
    }

    /// Freezes it.
    pub fn pause(&self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.signal(libc::SIGCONT);
    }

    /// Ends it politely (SIGTERM, then SIGKILL).
    pub fn stop(&self) {
        self.process.stop(Duration::from_secs(5));
    }

    /// Starts it again on the same port and data, ending it first if it runs. Blocks.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.stop();
        ports::check_free(self.port)?;
        self.process = launch(&self.config, Some(self.port))?;
        (_, self.monitor) = await_healthy(&self.config, &self.process)?;
        Ok(())
    }

    /// Hands it to a supervisor: the running process, and how to start it again.
    pub fn into_child(self, name: &str) -> super::Child {
        let NatsServer { config, port, process, .. } = self;
        super::Child::running(name, process, move || {
            launch(&config, Some(port)).map_err(std::io::Error::other)
        })
    }
}

fn launch(config: &NatsConfig, port: Option<u16>) -> Result<Process, Error> {
    let log = open_log(&config.dir.join("nats-server.log"))?;
    for stale in ports_files(&config.dir) {
        let _ = fs::remove_file(stale);
    }
    let mut command = Command::new(&config.executable);
    command
        .arg("-c")
        .arg(config.dir.join("nats.conf"))
        .args(["-a", "127.0.0.1", "-m", "-1", "-p"])
        .arg(port.map_or("-1".to_owned(), |port| port.to_string()))
        .arg("--ports_file_dir")
        .arg(&config.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    Process::spawn(command).map_err(Error::io(format!("cannot start {}", config.executable.display())))
}

/// Waits for the ports file and then for `/healthz`; gives the client and the monitoring port.
fn await_healthy(config: &NatsConfig, process: &Process) -> Result<(u16, u16), Error> {
    let log = config.dir.join("nats-server.log");
    let deadline = Instant::now() + STARTUP;
    loop {
        let ports = ports_files(&config.dir).iter().find_map(|file| read_ports(file));
        if let Some((client, monitor)) = ports
            && healthy(monitor)
        {
            return Ok((client, monitor));
        }
        if let Some(status) = process.wait(LOOK) {
            let reason = last_words(&log).unwrap_or_else(|| status.to_string());
            return Err(Error::Unhealthy { name: "nats-server".to_owned(), reason, log });
        }
        if Instant::now() > deadline {
            let reason = format!("not healthy after {} s", STARTUP.as_secs());
            return Err(Error::Unhealthy { name: "nats-server".to_owned(), reason, log });
        }
    }
}

fn ports_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|kind| kind == "ports")).collect()
}

/// `{"nats":["nats://127.0.0.1:4222"],"monitoring":["http://127.0.0.1:8222"]}`; `None` while half written.
fn read_ports(file: &Path) -> Option<(u16, u16)> {
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    let port = |kind: &str| ports[kind][0].as_str()?.rsplit(':').next()?.parse().ok();
    Some((port("nats")?, port("monitoring")?))
}

fn healthy(monitor: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, monitor))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /healthz?js-enabled-only=true HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.split_whitespace().nth(1) == Some("200"))
}

/// Opens a log for appending.
pub(super) fn open_log(path: &Path) -> Result<fs::File, Error> {
    let opened = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.map_err(Error::io(format!("cannot write {}", path.display())))
}

/// Writes a file only we may read.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let _ = fs::remove_file(path);
    let written = fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(Error::io(format!("cannot write {}", path.display())))
}

/// The last line of a log, preferring one that admits an error.
pub(super) fn last_words(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(8192)..]).into_owned();
    let lines = || text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let telling = ["[FTL]", "[ERR]", "FATAL", "Fatal", "rror", "Could not", "Bad directive"];
    lines()
        .find(|line| telling.iter().any(|mark| line.contains(mark)))
        .or_else(|| lines().next())
        .map(str::to_owned)
}

/// A string of the server's configuration language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
