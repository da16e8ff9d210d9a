//! Our own executable as a child: which environment it gets, and when a coordinator is ready.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::{COORDINATOR, DataDir, Given};
use crate::cli::failure::{Exit, Failure};
use crate::cli::servers::{Child, Event, Process};

/// How long a coordinator may take; it is ready in well under a second unless it replays a long journal.
const READY: Duration = Duration::from_secs(60);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(10);
/// Deaths after which it is not waited for any longer.
const DEATHS: u32 = 3;

/// How to start ourselves.
pub(super) struct Own {
    executable: PathBuf,
    /// Variables that lead to the stack.
    pub(super) set: Vec<(String, String)>,
    /// Flags of every child.
    flags: Vec<String>,
    /// Where a child runs, so that it does not find a stranger's `selvedge.toml`.
    dir: PathBuf,
}

impl Own {
    pub(super) fn new(data: &DataDir, given: &Given) -> Result<Own> {
        let executable = std::env::current_exe().context("cannot find our own executable")?;
        let mut set = given.variables();
        set.extend(given.redis.iter().map(|url| ("REDIS_URL".to_owned(), url.clone())));
        let mut flags = given.flags();
        flags.extend(["--log-format", "pretty"].map(str::to_owned));
        Ok(Own { executable, set, flags, dir: data.path().to_owned() })
    }

    pub(super) fn nats_url(&mut self, url: &str) {
        self.set.push(("NATS_URL".to_owned(), url.to_owned()));
    }

    pub(super) fn redis_url(&mut self, url: &str) {
        self.set.push(("REDIS_URL".to_owned(), url.to_owned()));
    }

    pub(super) fn config(&mut self, file: PathBuf) {
        self.flags.extend(["--config".to_owned(), file.to_string_lossy().into_owned()]);
    }

    /// Variables of this process that would lead a child elsewhere.
    pub(super) fn misleading(&self) -> Vec<String> {
        let set: BTreeSet<&str> = self.set.iter().map(|(name, _)| name.as_str()).collect();
        let about_nats = |name: &str| name.starts_with("NATS_") || name.starts_with("SELVEDGE_NATS_");
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        names.filter(|name| about_nats(name) && !set.contains(name.as_str())).collect()
    }

    /// Ourselves with these arguments, kept running, the output appended to `log`.
    pub(super) fn child(&self, name: &str, args: &[&str], log: PathBuf) -> io::Result<Child> {
        let executable = self.executable.clone();
        let args: Vec<String> =
            args.iter().map(|arg| (*arg).to_owned()).chain(self.flags.iter().cloned()).collect();
        let (set, unset, dir) = (self.set.clone(), self.misleading(), self.dir.clone());
        let spawn = move || {
            let out = OpenOptions::new().create(true).append(true).mode(0o600).open(&log)?;
            let mut command = Command::new(&executable);
            command.args(&args).current_dir(&dir);
            unset.iter().for_each(|name| {
                command.env_remove(name);
            });
            command.envs(set.iter().map(|(name, value)| (name, value)));
            command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
            Process::spawn(command)
        };
        Ok(Child::running(name, spawn()?, spawn))
    }
}

/// Waits until the coordinator's `/readyz` says so. Fails with its last words if it keeps dying.
pub(super) async fn await_ready(
    address: SocketAddr,
    events: &mut broadcast::Receiver<Event>,
    log: &Path,
) -> Result<()> {
    let deadline = Instant::now() + READY;
    let mut deaths = 0;
    let mut said = "it does not answer".to_owned();
    loop {
        match readyz(address).await {
            Ok((200, _)) => return Ok(()),
            Ok((_, body)) => said = body,
            // Not listening yet.
            Err(_) => {}
        }
        while let Ok(event) = events.try_recv() {
            deaths += u32::from(matches!(event, Event::Died { name, .. } if name == COORDINATOR));
        }
        if deaths >= DEATHS || Instant::now() > deadline {
            let why = last_line(log).unwrap_or(said);
            let what = format!("the coordinator did not become ready: {why}");
            return Err(Failure::new(Exit::Unavailable, "COORDINATOR_NOT_READY", what)
                .at(log.display().to_string())
                .help("its log says more")
                .into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn readyz(address: SocketAddr) -> io::Result<(u16, String)> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = String::new();
        stream.take(64 * 1024).read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let slow = |_| io::Error::from(io::ErrorKind::TimedOut);
    let answer = tokio::time::timeout(Duration::from_secs(2), ask).await.map_err(slow)??;
    let status = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

fn last_line(log: &Path) -> Option<String> {
    let text = std::fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(8192)..]).into_owned();
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}
