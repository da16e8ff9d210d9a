//! A Redis or Valkey of our own: started, awaited until it answers, restarted on the same port and data, stopped.
//!
//! Redis has no "any port": we choose a free one and try again if somebody was faster. The answer to our PING must come
//! from our own process, so that a stranger on the port is never taken for it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::process::Process;
use super::spawn::{LOOK, STARTUP, TlsFiles, last_words, open_log, write_private};
use super::{Error, ports};

/// What a Redis should be like.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// The executable, Redis or Valkey.
    pub executable: PathBuf,
    /// Where configuration, log and data go.
    pub dir: PathBuf,
    /// A fixed port; `None`: a free one.
    pub port: Option<u16>,
    /// The password everybody must give.
    pub password: Option<String>,
    /// TLS instead of plain TCP; not every build has it.
    pub tls: Option<TlsFiles>,
    /// `maxmemory`, such as `512mb`; `None`: unlimited.
    pub maxmemory: Option<String>,
    /// `maxmemory-policy`.
    pub policy: String,
    /// Keep the data over a restart (append-only file).
    pub persist: bool,
    /// A node of a cluster, reached by its peers on this port.
    pub cluster: Option<u16>,
}

impl RedisConfig {
    /// A plain server on a free port that evicts nothing and forgets everything when it ends.
    pub fn new(executable: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> RedisConfig {
        RedisConfig {
            executable: executable.into(),
            dir: dir.into(),
            port: None,
            password: None,
            tls: None,
            maxmemory: None,
            policy: "noeviction".to_owned(),
            persist: false,
            cluster: None,
        }
    }

    fn text(&self, port: u16) -> String {
        let word = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let path = |path: &Path| word(&path.to_string_lossy());
        let mut text =
            format!("bind 127.0.0.1\nprotected-mode yes\ndaemonize no\ndir {}\nsave \"\"\n", path(&self.dir));
        text += &format!("appendonly {}\n", if self.persist { "yes" } else { "no" });
        text += &format!("maxmemory-policy {}\n", self.policy);
        if let Some(bus) = self.cluster {
            text += &format!("cluster-enabled yes\ncluster-port {bus}\ncluster-node-timeout 2000\n");
        }
        if let Some(maxmemory) = &self.maxmemory {
            text += &format!("maxmemory {maxmemory}\n");
        }
        if let Some(password) = &self.password {
            text += &format!("requirepass {}\n", word(password));
        }
        match &self.tls {
            None => text += &format!("port {port}\n"),
            Some(tls) => {
                text += &format!("port 0\ntls-port {port}\n");
                text += &format!("tls-cert-file {}\ntls-key-file {}\n", path(&tls.cert), path(&tls.key));
                let verify = if tls.verify_clients { "yes" } else { "no" };
                text += &format!("tls-ca-cert-file {}\ntls-auth-clients {verify}\n", path(&tls.ca));
            }
        }
        text
    }
}

/// Whether this build can do TLS. Runs the executable with nothing to listen on, so that it ends by itself.
pub fn supports_tls(executable: &Path) -> bool {
    let output = Command::new(executable)
        .args(["--port", "0", "--tls-port", "1", "--save", ""])
        .stdin(Stdio::null())
        .output();
    output.is_ok_and(|output| {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // With TLS it misses the certificate and ends, before it listens.
        !said.contains("Bad directive") && !said.contains("Failed finding TLS support")
    })
}

/// A Redis that lives no longer than this value.
pub struct RedisServer {
    config: RedisConfig,
    port: u16,
    process: Process,
}

impl RedisServer {
    /// Starts it and waits until it answers. Blocks.
    pub fn start(config: RedisConfig) -> Result<RedisServer, Error> {
        fs::create_dir_all(&config.dir)
            .map_err(Error::io(format!("cannot create {}", config.dir.display())))?;
        if config.tls.is_some() && !supports_tls(&config.executable) {
            return Err(Error::Unsupported { path: config.executable.clone(), feature: "TLS" });
        }
        if let Some(port) = config.port {
            ports::check_free(port)?;
            let process = launch_and_await(&config, port)?;
            return Ok(RedisServer { config, port, process });
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let port = ports::free_port().map_err(Error::io("no free port"))?;
            match launch_and_await(&config, port) {
                Ok(process) => return Ok(RedisServer { config, port, process }),
                // Somebody was faster between our look and its bind.
                Err(_) if tries < 10 && ports::check_free(port).is_err() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts it from asynchronous code.
    pub async fn start_async(config: RedisConfig) -> Result<RedisServer, Error> {
        super::off_the_loop(move || RedisServer::start(config)).await
    }

    /// Where clients connect; without the password.
    pub fn url(&self) -> String {
        let scheme = if self.config.tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        log_of(&self.config)
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
        self.process = launch_and_await(&self.config, self.port)?;
        Ok(())
    }

    /// Hands it to a supervisor: the running process, and how to start it again.
    pub fn into_child(self, name: &str) -> super::Child {
        let RedisServer { config, port, process } = self;
        super::Child::running(name, process, move || launch(&config, port).map_err(std::io::Error::other))
    }
}

fn log_of(config: &RedisConfig) -> PathBuf {
    config.dir.join("redis.log")
}

fn launch(config: &RedisConfig, port: u16) -> Result<Process, Error> {
    let file = config.dir.join("redis.conf");
    write_private(&file, &config.text(port))?;
    let log = open_log(&log_of(config))?;
    let mut command = Command::new(&config.executable);
    command.arg(file).stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    Process::spawn(command).map_err(Error::io(format!("cannot start {}", config.executable.display())))
}

fn launch_and_await(config: &RedisConfig, port: u16) -> Result<Process, Error> {
    let process = launch(config, port)?;
    let deadline = Instant::now() + STARTUP;
    let unhealthy = |reason| Error::Unhealthy { name: "redis".to_owned(), reason, log: log_of(config) };
    while !answers(config, port, process.pid()) {
        if let Some(status) = process.wait(LOOK) {
            return Err(unhealthy(last_words(&log_of(config)).unwrap_or_else(|| status.to_string())));
        }
        if Instant::now() > deadline {
            return Err(unhealthy(format!("no answer after {} s", STARTUP.as_secs())));
        }
    }
    Ok(process)
}

/// Whether *our* process answers. Over TLS the log has to do: a second TLS stack only for this is not worth having.
fn answers(config: &RedisConfig, port: u16, pid: u32) -> bool {
    if config.tls.is_some() {
        let log = fs::read(log_of(config)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        return log
            .lines()
            .any(|line| line.starts_with(&format!("{pid}:")) && line.contains("Ready to accept"));
    }
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        if let Some(password) = &config.password {
            write!(stream, "*2\r\n$4\r\nAUTH\r\n${}\r\n{password}\r\n", password.len())?;
        }
        stream.write_all(b"INFO\r\nQUIT\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| {
        answer.lines().any(|line| line.strip_prefix("process_id:") == Some(&pid.to_string()))
            && answer.lines().any(|line| line == "loading:0")
    })
}
