//! The real `selvedge` binary as a child of a test: a clean environment, and proof that nothing is left of it.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// The binary, led by nothing in the environment or the working directory.
pub fn selvedge(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    for (name, _) in std::env::vars() {
        if name.starts_with("NATS_") || name.starts_with("REDIS_") || name.starts_with("SELVEDGE_CONFIG") {
            command.env_remove(name);
        }
    }
    command.current_dir(dir).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// A started binary, killed if the test ends before it does.
pub struct Started {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Started {
    /// Starts it; its standard output can be read, its standard error goes to the test's.
    pub fn of(mut command: Command) -> Started {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        Started { child, out }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its output; blocks until it is there or the output ends.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("readable output");
        line
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        send(self.pid(), signal);
    }

    /// Waits for its end; gives its exit status and the rest of its output.
    pub fn end(mut self) -> (ExitStatus, String) {
        let status = wait_for("its end", || self.child.try_wait().expect("our child"));
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).expect("readable output");
        (status, rest)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process.
pub fn send(pid: u32, signal: i32) {
    // SAFETY: kill(2) has no memory effects.
    unsafe { libc::kill(pid as i32, signal) };
}

/// Whether a process runs: not gone, and not merely waiting to be reaped by a parent that is not us.
pub fn runs(pid: u32) -> bool {
    let state = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().expect("ps runs");
    let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

/// The process ids in a list of processes as `dev` and `demo` write it.
pub fn pids(status: &Value) -> Vec<u32> {
    let list = status["processes"].as_array().expect("processes");
    list.iter().filter_map(|process| process["pid"].as_u64()).map(|pid| pid as u32).collect()
}

/// The process id under a name.
pub fn pid_of(status: &Value, name: &str) -> Option<u32> {
    let list = status["processes"].as_array()?;
    list.iter().find(|process| process["name"] == name)?["pid"].as_u64().map(|pid| pid as u32)
}

/// Fails unless the processes are gone and their ports closed.
pub fn assert_nothing_left(status: &Value, pids: &[u32]) {
    for pid in pids {
        wait_for(&format!("process {pid} is gone"), || (!runs(*pid)).then_some(()));
    }
    for url in ["nats_url", "redis_url", "admin_url"] {
        let address = status[url].as_str().expect("a URL").rsplit('/').next().expect("an address");
        wait_for(&format!("{url} {address} is closed"), || TcpStream::connect(address).err());
    }
}

/// A JSON file that a process keeps up to date.
pub fn read_json(file: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// Looks again until there is an answer; for what only looking can show.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
