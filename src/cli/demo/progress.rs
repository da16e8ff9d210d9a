//! What is known of a running demo: counts from queries, the files being read from events.
//!
//! Nothing here comes from inside the coordinator or the agents: the counts are answers of `sv.api`, the files are
//! events anybody may subscribe to. A lost event costs a name on the screen; a query that finds nobody leaves the
//! last counts standing, marked as old.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::agents::librarian_of;
use crate::bus::{BusError, Subscription};
use crate::client::{self, Client};
use crate::task::{Code, Phase, TaskId};
use crate::wire::messages::{Done, Event};
use crate::wire::{codec, subjects};

/// Between two questions.
const EVERY: Duration = Duration::from_millis(250);
/// How often the last counts are asked for, and the pause in between.
const LAST_LOOKS: u32 = 10;
const LAST_PAUSE: Duration = Duration::from_millis(20);
/// Over which time the rate is taken.
const RATE_OVER: Duration = Duration::from_secs(3);
/// Files remembered as being read.
const FILES: usize = 64;
/// Larger messages are none of ours.
const MAX_MESSAGE: usize = 1 << 20;

/// Tasks of one agent, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tasks {
    pub queued: u64,
    pub running: u64,
    pub waiting: u64,
    pub done: u64,
    pub failed: u64,
}

impl Tasks {
    fn of(phase: Option<Phase>) -> Tasks {
        let mut tasks = Tasks::default();
        if let Some(phase) = phase {
            tasks.add(phase, 1);
        }
        tasks
    }

    fn add(&mut self, phase: Phase, n: u64) {
        let count = match phase {
            Phase::Queued | Phase::Retrying => &mut self.queued,
            Phase::Running => &mut self.running,
            Phase::Waiting => &mut self.waiting,
            Phase::Completed => &mut self.done,
            _ => &mut self.failed,
        };
        *count += n;
    }

    fn minus(self, other: Tasks) -> Tasks {
        Tasks {
            queued: self.queued.saturating_sub(other.queued),
            running: self.running.saturating_sub(other.running),
            waiting: self.waiting.saturating_sub(other.waiting),
            done: self.done.saturating_sub(other.done),
            failed: self.failed.saturating_sub(other.failed),
        }
    }
}

/// Counts at one moment.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counts {
    /// The planner's one task.
    pub planner: Tasks,
    /// A task per file.
    pub reader: Tasks,
    /// The librarian's one task.
    pub librarian: Tasks,
    /// Whether nobody answered the last question.
    pub old: bool,
}

/// What is known.
pub struct Progress {
    /// The last counts.
    pub counts: Counts,
    /// Files found by the planner, once it said so.
    pub files: Option<u64>,
    /// Cards merged by the librarian, once it said so.
    pub merged: Option<u64>,
    reading: VecDeque<(TaskId, String)>,
    seen: VecDeque<(Instant, u64)>,
    asked: watch::Receiver<Counts>,
    asking: JoinHandle<()>,
    events: Subscription,
    hints: Subscription,
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

/// Data of the agents' events.
#[derive(Deserialize)]
struct Said {
    path: Option<String>,
    files: Option<u64>,
    cards: Option<u64>,
}

impl Progress {
    /// Subscribes and begins to ask. `before` are the counts from before the run, which a given server may have.
    pub async fn follow(client: &Client, planner: &TaskId, before: Tasks) -> Result<Progress, BusError> {
        let tenant = client.tenant_name();
        let all = |subject: String| subject.replace(planner.as_str(), "*");
        let events = client.link().main.subscribe(all(subjects::event(tenant, planner))).await?;
        let hints = client.link().main.subscribe(all(subjects::done(tenant, planner))).await?;
        let (tell, asked) = watch::channel(Counts::default());
        let asking = tokio::spawn(ask(client.clone(), planner.clone(), before, tell));
        Ok(Progress {
            counts: Counts::default(),
            files: None,
            merged: None,
            reading: VecDeque::new(),
            seen: VecDeque::new(),
            asked,
            asking,
            events,
            hints,
        })
    }

    /// Waits for the next news and takes it in. Cancel-safe.
    pub async fn next(&mut self) {
        tokio::select! {
            Some(message) = self.events.next() => self.take_event(&message),
            Some(message) = self.hints.next() => self.take_hint(&message),
            Ok(()) = self.asked.changed() => self.take_counts(),
            else => std::future::pending().await,
        }
    }

    fn take_event(&mut self, message: &crate::bus::Message) {
        let Ok(key) = subjects::parse_event(&message.subject) else { return };
        let Ok(event) = codec::decode_any::<Event>(None, &message.payload, MAX_MESSAGE).1 else { return };
        let Ok(said) = event.data.decode::<Said>() else { return };
        self.files = said.files.or(self.files);
        self.merged = said.cards.or(self.merged);
        if let Some(path) = said.path {
            self.reading.retain(|(task, _)| *task != key.id);
            self.reading.push_back((key.id, path));
            if self.reading.len() > FILES {
                self.reading.pop_front();
            }
        }
    }

    fn take_hint(&mut self, message: &crate::bus::Message) {
        let Ok(key) = subjects::parse_done(&message.subject) else { return };
        let done = codec::decode_any::<Done>(None, &message.payload, MAX_MESSAGE).1;
        if done.is_ok_and(|done| done.state.is_terminal()) {
            self.reading.retain(|(task, _)| *task != key.id);
        }
    }

    fn take_counts(&mut self) {
        self.counts = *self.asked.borrow_and_update();
        let now = Instant::now();
        self.seen.push_back((now, self.counts.reader.done));
        while self.seen.front().is_some_and(|(at, _)| now.duration_since(*at) > RATE_OVER) {
            self.seen.pop_front();
        }
    }

    /// The last counts of a run that has ended; the index they come from may be a moment behind.
    pub async fn finish(&mut self, client: &Client, planner: &TaskId, before: Tasks) {
        self.reading.clear();
        let settled = |counts: &Counts| {
            let open = counts.reader.queued + counts.reader.running + counts.librarian.running;
            open == 0 && counts.planner.done + counts.planner.failed == 1
        };
        for _ in 0..LAST_LOOKS {
            if let Ok(counts) = count(client, planner, before).await {
                self.counts = counts;
                if settled(&counts) {
                    return;
                }
            }
            tokio::time::sleep(LAST_PAUSE).await;
        }
    }

    /// Files read per second, lately.
    pub fn rate(&self) -> f64 {
        match (self.seen.front(), self.seen.back()) {
            (Some((from, before)), Some((to, now))) if to > from => {
                now.saturating_sub(*before) as f64 / to.duration_since(*from).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    /// Files being read now, the latest first: a lost hint leaves a name behind, so no more of them than run.
    pub fn reading(&self) -> impl Iterator<Item = &str> {
        let running = usize::try_from(self.counts.reader.running).unwrap_or(FILES);
        self.reading.iter().rev().take(running).map(|(_, path)| path.as_str())
    }
}

/// All tasks of the tenant, by what became of them.
pub async fn all_tasks(client: &Client) -> client::Result<Tasks> {
    let stats = client.stats().await?;
    let states: BTreeMap<&str, u64> = stats.states.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let mut tasks = Tasks::default();
    for phase in Phase::ALL {
        tasks.add(phase, states.get(phase.as_str()).copied().unwrap_or(0));
    }
    Ok(tasks)
}

/// Asks again and again, for as long as somebody listens.
async fn ask(client: Client, planner: TaskId, before: Tasks, tell: watch::Sender<Counts>) {
    let client = client.ask_within(Duration::from_secs(2));
    let mut pauses = tokio::time::interval(EVERY);
    pauses.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !tell.is_closed() {
        pauses.tick().await;
        match count(&client, &planner, before).await {
            Ok(counts) => drop(tell.send_replace(counts)),
            Err(_) => tell.send_modify(|counts| counts.old = true),
        }
    }
}

/// Three cheap questions, whatever the size of the run: readers are what is neither planner nor librarian.
async fn count(client: &Client, planner: &TaskId, before: Tasks) -> client::Result<Counts> {
    let librarian = librarian_of(planner);
    let (all, planner, librarian) =
        tokio::join!(all_tasks(client), phase(client, planner), phase(client, &librarian));
    let (all, planner, librarian) = (all?, Tasks::of(planner?), Tasks::of(librarian?));
    let reader = all.minus(before).minus(planner).minus(librarian);
    Ok(Counts { planner, reader, librarian, old: false })
}

/// Where a task is; nothing if there is none yet.
async fn phase(client: &Client, task: &TaskId) -> client::Result<Option<Phase>> {
    match client.get(task).await {
        Ok(view) => Ok(Some(view.state)),
        Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
