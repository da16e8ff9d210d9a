//! The binary as a user runs it, against real servers: what it prints, what it exits with.

mod limits;
mod servers;
mod tasks;

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::harness::Stack;
use crate::harness::fabric::eventually;

/// The binary in a directory of its own, with nothing of our environment that could set an option.
pub struct Cli {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
}

/// What came of a run.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Cli {
    pub fn new() -> Cli {
        Cli { dir: tempfile::tempdir().unwrap(), env: Vec::new() }
    }

    /// Pointed at these servers by the variables.
    pub fn on(stack: &Stack) -> Cli {
        Cli::new().env("NATS_URL", &stack.nats.url()).env("REDIS_URL", &stack.redis.url())
    }

    pub fn env(mut self, name: &str, value: &str) -> Cli {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command.args(args).current_dir(self.dir()).env_clear().env("HOME", self.dir()).kill_on_drop(true);
        command
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub async fn run(&self, args: &[&str]) -> Ran {
        let output = eventually(&args.join(" "), self.command(args).output()).await;
        ran(output.unwrap())
    }

    /// The same with something on standard input.
    pub async fn fed(&self, input: &str, args: &[&str]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        ran(eventually(&args.join(" "), child.wait_with_output()).await.unwrap())
    }

    /// Must succeed; what it printed.
    pub async fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args).await;
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
        ran.out
    }

    /// Must succeed and print one JSON value.
    pub async fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        serde_json::from_str(&self.ok(&args).await).unwrap()
    }

    /// Must fail with this exit code; the error it printed as JSON.
    pub async fn fails(&self, code: i32, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let ran = self.run(&args).await;
        assert_eq!(ran.code, code, "{args:?}: {}{}", ran.out, ran.err);
        let line = ran.err.lines().last().unwrap_or_default();
        let mut value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {}", ran.err));
        value["error"].take()
    }
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().expect("it ends by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
