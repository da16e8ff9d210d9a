//! Keeps child processes running: restarts the ones that die, stops all of them in order.
//!
//! One thread per child waits for its end; whoever wants to show what happens subscribes to the events. The first
//! restarts come within 100 ms; a child that keeps dying young is restarted ever more slowly (up to 5 s) and announced
//! once. Invariant: when `stop` has returned or the supervisor is dropped, none of its children runs.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::broadcast;

use super::process::Process;

/// A child that lived this long is not crash-looping.
const SETTLED: Duration = Duration::from_secs(10);
/// Young deaths in a row that make a crash loop.
const LOOPING: u32 = 5;

type Respawn = Box<dyn FnMut() -> io::Result<Process> + Send>;

/// A process to be kept running.
pub struct Child {
    name: String,
    running: Option<Process>,
    respawn: Respawn,
}

impl Child {
    /// A command, its output appended to `log`.
    pub fn command(
        name: impl Into<String>,
        program: impl Into<PathBuf>,
        args: Vec<String>,
        env: Vec<(String, String)>,
        log: impl AsRef<Path>,
    ) -> Child {
        let (program, log) = (program.into(), log.as_ref().to_owned());
        let respawn = move || {
            let out = OpenOptions::new().create(true).append(true).mode(0o600).open(&log)?;
            let mut command = Command::new(&program);
            command.args(&args).envs(env.iter().map(|(key, value)| (key, value)));
            command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
            Process::spawn(command)
        };
        Child { name: name.into(), running: None, respawn: Box::new(respawn) }
    }

    /// A process that runs already, and how to start it again.
    pub fn running(
        name: impl Into<String>,
        process: Process,
        respawn: impl FnMut() -> io::Result<Process> + Send + 'static,
    ) -> Child {
        Child { name: name.into(), running: Some(process), respawn: Box::new(respawn) }
    }
}

/// What happened to a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It runs.
    Started {
        /// Which child.
        name: String,
        /// Its process id.
        pid: u32,
        /// How often it has been restarted.
        restarts: u32,
    },
    /// It ended although nobody asked it to.
    Died {
        /// Which child.
        name: String,
        /// The pid it had.
        pid: u32,
        /// How it ended, in words.
        how: String,
    },
    /// It cannot be started; tried again.
    NotStarted {
        /// Which child.
        name: String,
        /// Why.
        why: String,
    },
    /// It keeps dying; restarts slow down. Said once per loop.
    CrashLooping {
        /// Which child.
        name: String,
        /// Deaths in a row.
        deaths: u32,
    },
    /// It ended because it was asked to.
    Stopped {
        /// Which child.
        name: String,
    },
}

/// Runs children until told otherwise.
pub struct Supervisor {
    events: broadcast::Sender<Event>,
    children: Mutex<Vec<Keeper>>,
}

/// One child as the supervisor sees it.
struct Keeper {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

/// What a child's thread and the supervisor share.
struct Desk {
    name: String,
    state: Mutex<DeskState>,
    stopping: Condvar,
}

#[derive(Default)]
struct DeskState {
    stop: bool,
    restarts: u32,
    process: Option<Arc<Process>>,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, DeskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// A supervisor without children.
    pub fn new() -> Supervisor {
        Supervisor { events: broadcast::Sender::new(256), children: Mutex::new(Vec::new()) }
    }

    /// Everything that happens from now on. A reader that lags loses the oldest events, never delays a restart.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Starts the child (unless it runs already) and keeps it running. An immediate failure to start is returned.
    pub fn start(&self, child: Child) -> io::Result<u32> {
        let Child { name, running, mut respawn } = child;
        let process = Arc::new(match running {
            Some(process) => process,
            None => respawn()?,
        });
        let pid = process.pid();
        let state = DeskState { process: Some(Arc::clone(&process)), ..DeskState::default() };
        let desk = Arc::new(Desk { name: name.clone(), state: Mutex::new(state), stopping: Condvar::new() });
        let _ = self.events.send(Event::Started { name: name.clone(), pid, restarts: 0 });
        let (kept, events) = (Arc::clone(&desk), self.events.clone());
        let thread = std::thread::Builder::new()
            .name(format!("keep-{name}"))
            .spawn(move || keep(&kept, process, respawn, &events))?;
        self.lock().push(Keeper { desk, thread: Some(thread) });
        Ok(pid)
    }

    /// The child's process id, if it runs now.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.process(name).map(|process| process.pid())
    }

    /// How often the child was restarted.
    pub fn restarts(&self, name: &str) -> u32 {
        let children = self.lock();
        children
            .iter()
            .find(|keeper| keeper.desk.name == name)
            .map_or(0, |keeper| keeper.desk.lock().restarts)
    }

    /// Ends the child as a crash would; it is restarted.
    pub fn kill9(&self, name: &str) -> bool {
        self.process(name).is_some_and(|process| process.signal(libc::SIGKILL))
    }

    /// Stops all children, the last started first, and waits for each; past the deadline with SIGKILL. Blocks.
    pub fn stop(&self, deadline: Duration) {
        let end = Instant::now() + deadline;
        let keepers = std::mem::take(&mut *self.lock());
        // Nobody may be restarted while the others are being stopped.
        for keeper in &keepers {
            keeper.desk.lock().stop = true;
            keeper.desk.stopping.notify_all();
        }
        for mut keeper in keepers.into_iter().rev() {
            let process = keeper.desk.lock().process.clone();
            if let Some(process) = process {
                process.stop(end.saturating_duration_since(Instant::now()));
            }
            if let Some(thread) = keeper.thread.take() {
                let _ = thread.join();
            }
        }
    }

    fn process(&self, name: &str) -> Option<Arc<Process>> {
        let children = self.lock();
        let keeper = children.iter().find(|keeper| keeper.desk.name == name)?;
        let process = keeper.desk.lock().process.clone();
        process.filter(|process| process.exited().is_none())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Keeper>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(5));
    }
}

/// The life of one child: wait for its end, start it again, until told to stop.
fn keep(desk: &Desk, first: Arc<Process>, mut respawn: Respawn, events: &broadcast::Sender<Event>) {
    let name = || desk.name.clone();
    let mut process = Some(first);
    let mut young_deaths = 0;
    loop {
        if let Some(running) = process.take() {
            let since = Instant::now();
            let status = wait_for_end(&running);
            let mut state = desk.lock();
            state.process = None;
            if state.stop {
                let _ = events.send(Event::Stopped { name: name() });
                return;
            }
            drop(state);
            let _ = events.send(Event::Died { name: name(), pid: running.pid(), how: in_words(status) });
            young_deaths = if since.elapsed() < SETTLED { young_deaths + 1 } else { 1 };
        } else {
            young_deaths += 1;
        }
        if young_deaths == LOOPING {
            let _ = events.send(Event::CrashLooping { name: name(), deaths: young_deaths });
        }
        if stopped_within(desk, pause_after(young_deaths)) {
            let _ = events.send(Event::Stopped { name: name() });
            return;
        }
        match respawn() {
            Ok(started) => {
                let started = Arc::new(started);
                let mut state = desk.lock();
                state.restarts += 1;
                state.process = Some(Arc::clone(&started));
                let (restarts, stop) = (state.restarts, state.stop);
                drop(state);
                if stop {
                    // `stop` looked before we were there.
                    started.stop(Duration::from_secs(2));
                }
                let _ = events.send(Event::Started { name: name(), pid: started.pid(), restarts });
                process = Some(started);
            }
            Err(error) => {
                let _ = events.send(Event::NotStarted { name: name(), why: error.to_string() });
            }
        }
    }
}

fn wait_for_end(process: &Process) -> ExitStatus {
    loop {
        if let Some(status) = process.wait(Duration::from_secs(3600)) {
            return status;
        }
    }
}

/// 100 ms for the first deaths, so that a killed child is back within a second; then doubling up to 5 s.
fn pause_after(young_deaths: u32) -> Duration {
    let doublings = young_deaths.saturating_sub(2).min(6);
    (Duration::from_millis(100) * 2_u32.pow(doublings)).min(Duration::from_secs(5))
}

/// Pauses; true as soon as the child is to be stopped.
fn stopped_within(desk: &Desk, pause: Duration) -> bool {
    let waited = desk.stopping.wait_timeout_while(desk.lock(), pause, |state| !state.stop);
    waited.unwrap_or_else(PoisonError::into_inner).0.stop
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(events: &mut broadcast::Receiver<Event>) -> Event {
        tokio::time::timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap()
    }

    fn shell(name: &str, script: &str, log: &Path) -> Child {
        Child::command(name, "/bin/sh", vec!["-c".into(), script.into()], vec![], log)
    }

    #[tokio::test]
    async fn a_killed_child_is_back_within_a_second_and_gone_after_stop() {
        let dir = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new();
        let mut events = supervisor.events();
        let first = supervisor.start(shell("worker", "exec sleep 600", &dir.path().join("log"))).unwrap();
        assert!(matches!(next(&mut events).await, Event::Started { restarts: 0, .. }));
        let killed = Instant::now();
        assert!(supervisor.kill9("worker"));
        assert!(
            matches!(next(&mut events).await, Event::Died { pid, how, .. } if pid == first && how.contains('9'))
        );
        let Event::Started { pid: second, restarts: 1, .. } = next(&mut events).await else { panic!() };
        assert!(killed.elapsed() < Duration::from_secs(1));
        assert_ne!(first, second);
        supervisor.stop(Duration::from_secs(5));
        assert_eq!(next(&mut events).await, Event::Stopped { name: "worker".into() });
        // SAFETY: signal 0 only asks.
        assert_ne!(unsafe { libc::kill(second as i32, 0) }, 0);
    }

    #[tokio::test]
    async fn a_child_that_keeps_dying_is_announced_once_and_restarted_more_slowly() {
        let dir = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new();
        let mut events = supervisor.events();
        supervisor.start(shell("broken", "exit 3", &dir.path().join("log"))).unwrap();
        let (mut deaths, mut announced) = (0, 0);
        while deaths < 6 {
            match next(&mut events).await {
                Event::Died { how, .. } => {
                    assert_eq!(how, "exit code 3");
                    deaths += 1;
                }
                Event::CrashLooping { .. } => announced += 1,
                _ => {}
            }
        }
        assert_eq!(announced, 1);
        assert!(pause_after(20) == Duration::from_secs(5) && pause_after(1) < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn children_stop_in_reverse_order_and_stubborn_ones_are_killed() {
        let dir = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new();
        supervisor.start(shell("store", "exec sleep 600", &dir.path().join("a"))).unwrap();
        supervisor
            .start(shell("stubborn", "trap '' TERM; while :; do sleep 1; done", &dir.path().join("b")))
            .unwrap();
        let mut events = supervisor.events();
        supervisor.stop(Duration::from_millis(300));
        assert_eq!(next(&mut events).await, Event::Stopped { name: "stubborn".into() });
        assert_eq!(next(&mut events).await, Event::Stopped { name: "store".into() });
    }
}
