//! A child process that cannot outlive us and cannot be confused with another.
//!
//! Two traps are closed here. Linux delivers the parent-death signal when the *thread* that forked ends, so every
//! child is forked by one thread that lives as long as the process. And a process id may be reused the moment it is
//! reaped, so a watcher waits *without* reaping, and reaping and signalling exclude each other.
//!
//! Every child leads its own process group; signals go to the group, so what it started goes with it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child as StdChild, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// A running (or ended) child. Dropping the last handle kills it.
pub struct Process {
    shared: Arc<Shared>,
}

struct Shared {
    pid: u32,
    state: Mutex<State>,
    ended: Condvar,
    told: tokio::sync::watch::Sender<Option<ExitStatus>>,
}

struct State {
    child: StdChild,
    /// Holds the pipe whose closing kills the group where the kernel won't; none on Linux.
    watchdog: Option<StdChild>,
    /// Set in the same critical section that reaps: `None` means the pid is still ours.
    exit: Option<ExitStatus>,
}

impl Process {
    /// Starts the command in its own process group, bound to our life.
    pub fn spawn(command: Command) -> io::Result<Process> {
        let child = fork_on_lasting_thread(command)?;
        let pid = child.id();
        let watchdog = if cfg!(target_os = "linux") { None } else { Some(watchdog(pid)?) };
        let shared = Arc::new(Shared {
            pid,
            state: Mutex::new(State { child, watchdog, exit: None }),
            ended: Condvar::new(),
            told: tokio::sync::watch::Sender::new(None),
        });
        let watched = Arc::clone(&shared);
        std::thread::Builder::new().name(format!("wait-{pid}")).spawn(move || watched.reap_when_it_ends())?;
        Ok(Process { shared })
    }

    /// Its process id; meaningless once it has ended.
    pub fn pid(&self) -> u32 {
        self.shared.pid
    }

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.shared.lock().exit
    }

    /// Sends a signal to its group; false if it has ended.
    pub fn signal(&self, signal: i32) -> bool {
        let state = self.shared.lock();
        if state.exit.is_some() {
            return false;
        }
        self.shared.signal(signal)
    }

    /// Waits until it ends, at most this long.
    pub fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        while state.exit.is_none() {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            state = self.shared.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.exit
    }

    /// Waits until it ends.
    pub async fn ended(&self) -> ExitStatus {
        let mut told = self.shared.told.subscribe();
        loop {
            if let Some(status) = *told.borrow_and_update() {
                return status;
            }
            if told.changed().await.is_err() {
                // The sender lives in `self.shared`, which we hold: not reachable, and waiting is the safe answer.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends it: SIGTERM, and after the grace SIGKILL. Returns once it is gone.
    pub fn stop(&self, grace: Duration) -> Option<ExitStatus> {
        self.signal(libc::SIGTERM);
        // A paused process would not hear the first one.
        self.signal(libc::SIGCONT);
        self.wait(grace).or_else(|| self.kill())
    }

    /// Ends it with SIGKILL and waits for that.
    pub fn kill(&self) -> Option<ExitStatus> {
        self.signal(libc::SIGKILL);
        self.wait(Duration::from_secs(5))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited().is_none() {
            self.kill();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only under the lock and before the reaping: the group is ours as long as its leader is not reaped.
    fn signal(&self, signal: i32) -> bool {
        // SAFETY: kill(2) has no memory effects.
        unsafe { libc::kill(-(self.pid as i32), signal) == 0 }
    }

    fn reap_when_it_ends(&self) {
        loop {
            // SAFETY: `info` is a plain C struct that waitid(2) fills; zeroes are valid for it.
            let waited = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                libc::waitid(libc::P_PID, self.pid as libc::id_t, &mut info, libc::WEXITED | libc::WNOWAIT)
            };
            if waited == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                break;
            }
        }
        let mut state = self.lock();
        // What it started and left behind goes, too, while the group's number cannot belong to others.
        self.signal(libc::SIGKILL);
        if let Ok(status) = state.child.wait() {
            state.exit = Some(status);
            self.told.send_replace(Some(status));
        }
        if let Some(mut watchdog) = state.watchdog.take() {
            let _ = watchdog.kill();
            let _ = watchdog.wait();
        }
        drop(state);
        self.ended.notify_all();
    }
}

type Order = (Command, mpsc::Sender<io::Result<StdChild>>);

/// Hands the command to the one thread that forks.
fn fork_on_lasting_thread(command: Command) -> io::Result<StdChild> {
    static FORKER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let forker = FORKER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        let serve = move || {
            for (command, answer) in inbox {
                let _ = answer.send(fork(command));
            }
        };
        // If no thread can be had, the inbox is dropped and every order is answered with an error below.
        let _ = std::thread::Builder::new().name("forker".to_owned()).spawn(serve);
        Mutex::new(orders)
    });
    let (answer, result) = mpsc::channel();
    let gone = || io::Error::other("the forking thread is gone");
    forker.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}

fn fork(mut command: Command) -> io::Result<StdChild> {
    command.process_group(0);
    bind_to_our_life(&mut command);
    command.spawn()
}

/// Has the kernel end the child when the thread that forks it ends: fork on one that lasts. Does nothing where the
/// kernel cannot.
pub fn bind_to_our_life(command: &mut Command) {
    #[cfg(not(target_os = "linux"))]
    let _ = command;
    #[cfg(target_os = "linux")]
    {
        let parent = std::process::id();
        // SAFETY: runs between fork and exec and calls only prctl, getppid and _exit, which are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // We may have died before the line above took effect.
                if libc::getppid() as u32 != parent {
                    libc::_exit(1);
                }
                Ok(())
            });
        }
    }
}

/// A shell that waits for the end of a pipe only we hold, then kills the group: for kernels without a death signal.
fn watchdog(group: u32) -> io::Result<StdChild> {
    Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("read -r _; kill -9 -{group}"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .process_group(0)
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Command {
        let mut command = Command::new("sleep");
        command.arg("600");
        command
    }

    fn alive(pid: u32) -> bool {
        // SAFETY: signal 0 only asks.
        unsafe { libc::kill(pid as i32, 0) == 0 }
    }

    #[test]
    fn a_child_survives_the_thread_that_asked_for_it_and_dies_with_its_guard() {
        let process = std::thread::spawn(|| Process::spawn(sleeper()).unwrap()).join().unwrap();
        assert_eq!(
            process.wait(Duration::from_millis(100)),
            None,
            "the asking thread is gone, the child is not"
        );
        let pid = process.pid();
        drop(process);
        assert!(!alive(pid));
    }

    #[test]
    fn a_paused_child_can_still_be_stopped_politely() {
        let process = Process::spawn(sleeper()).unwrap();
        process.signal(libc::SIGSTOP);
        let status = process.stop(Duration::from_secs(5)).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM));
    }

    #[test]
    fn what_a_child_started_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("pid");
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!("sleep 600 & echo $! > {}; wait", note.display()));
        let process = Process::spawn(command).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let grandchild: u32 = loop {
            if let Ok(pid) = std::fs::read_to_string(&note).unwrap_or_default().trim().parse() {
                break pid;
            }
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        };
        process.kill();
        // The signal is sent to all of them at once, but each dies when it is scheduled next. An orphan is
        // reaped by init; until then it may show as a zombie, which does not run.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let state = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z") || !alive(grandchild) {
                break;
            }
            assert!(Instant::now() < deadline, "{state}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_watchdog_kills_the_group_when_its_pipe_closes() {
        let process = Process::spawn(sleeper()).unwrap();
        let mut dog = watchdog(process.pid()).unwrap();
        drop(dog.stdin.take());
        assert!(process.wait(Duration::from_secs(10)).is_some());
        let _ = dog.wait();
    }
}
