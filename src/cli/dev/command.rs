//! The command of `selvedge dev -- command`: finds the stack in its environment, has the terminal, dies with us.
//!
//! It stays in our process group, so that it can read from the terminal and hears Ctrl-C like any foreground
//! command; its exit code becomes ours.

use std::ffi::OsString;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::Result;
use tokio::process::Child;

use crate::cli::failure::{Exit, Failure};
use crate::cli::servers::process::bind_to_our_life;
use crate::cli::stack::Stack;

/// How long it may go on after we were asked to stop.
const GRACE: Duration = Duration::from_secs(10);

/// See the module.
pub struct UserCommand {
    child: Child,
}

impl UserCommand {
    /// Starts it. Called on the main thread, whose end is the end of the process.
    pub fn start(words: &[OsString], stack: &Stack) -> Result<UserCommand> {
        // The caller has looked: there is a command.
        let (program, args) = words.split_first().ok_or_else(|| anyhow::anyhow!("no command"))?;
        let mut command = Command::new(program);
        command.args(args);
        stack.misleading().iter().for_each(|name| {
            command.env_remove(name);
        });
        command.envs(stack.environment());
        bind_to_our_life(&mut command);
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn().map_err(|error| {
            let what = format!("cannot run {}: {error}", program.to_string_lossy());
            Failure::new(Exit::Failed, "COMMAND_NOT_STARTED", what)
        })?;
        Ok(UserCommand { child })
    }

    /// Waits for its end; for ever if there is no command.
    pub async fn ended(command: Option<&mut UserCommand>) -> Result<ExitCode> {
        match command {
            Some(command) => Ok(code(command.child.wait().await?)),
            None => std::future::pending().await,
        }
    }

    /// Asks it to end, and insists after a while.
    pub async fn stop(mut self) -> Result<ExitCode> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // SAFETY: kill(2) has no memory effects; the child is not reaped yet, so the pid is its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        match tokio::time::timeout(GRACE, self.child.wait()).await {
            Ok(status) => Ok(code(status?)),
            Err(_) => {
                self.child.kill().await?;
                Ok(Exit::Interrupted.into())
            }
        }
    }
}

/// Its own code; after a signal what a shell would say.
fn code(status: ExitStatus) -> ExitCode {
    let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    let code = status.code().or(signal).and_then(|code| u8::try_from(code).ok());
    code.map_or(Exit::Failed.into(), ExitCode::from)
}
