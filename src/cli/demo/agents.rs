//! The three agents of the demo, each a process of its own: what they do with a task.
//!
//! ```text
//! planner    walks the directory once, spawns a reader task per file, waits; then spawns the librarian's task, waits
//! reader     reads and parses one file, answers with its card
//! librarian  takes the cards page by page, writes the digest, answers with its totals
//! ```
//!
//! Any of them may be killed at any moment. What a task did before is done again by its next attempt, and the
//! attempt finds the children of the one before. Which directory is read is fixed when the process starts: a task
//! names files below it and nothing else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::args::DemoAgentArgs;
use super::card::{Counts, FileCard, FileKind};
use super::digest::{Digest, DigestBuilder, KindTotals, RankedFile};
use super::markdown;
use super::parse::read_file;
use super::walk::{Omissions, SkipReason, Walk, walk};
use crate::agent::{Agent, AgentError, Ctx};
use crate::bus::Link;
use crate::cli::context::Ctx as Command;
use crate::cli::dev::write_whole;
use crate::cli::failure::Exit;
use crate::client::{self, Client};
use crate::task::{Phase, TaskId, WaitFor};
use crate::wire::api::ChildrenPage;

/// The step of a reader's task.
pub const READ: &str = "read";
/// The step of the librarian's task.
pub const DIGEST: &str = "digest";

/// Short, so that a killed process's tasks go to another one soon.
const LEASE: Duration = Duration::from_secs(3);
/// How often a query that found nobody is repeated, a pause in between.
const ASKS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(250);
/// Best files in the summary.
const TOP: usize = 3;

/// Which agent a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "see the module")]
pub enum Role {
    Planner,
    Reader,
    Librarian,
}

impl Role {
    /// Its name as an agent.
    pub fn name(self) -> &'static str {
        match self {
            Role::Planner => "planner",
            Role::Reader => "reader",
            Role::Librarian => "librarian",
        }
    }
}

/// Input of planner and librarian.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The directory that is meant. An agent that was started for another one refuses.
    pub root: PathBuf,
}

/// Input of a reader.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ReadJob {
    /// Relative to the directory the agent was started for.
    path: String,
    /// That directory, if the sender cares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<PathBuf>,
}

/// Result of a reader. A file that cannot be read is a result, too: another try would not read it either.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Read {
    Card(Box<FileCard>),
    Skipped(SkipReason),
}

/// Result of librarian and planner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// The page that was written.
    pub digest: PathBuf,
    /// Files read.
    pub files: u64,
    /// Summed over all files.
    pub totals: Counts,
    /// The same per kind of file.
    pub kinds: std::collections::BTreeMap<FileKind, KindTotals>,
    /// The best files.
    pub top: Vec<RankedFile>,
    /// Pairs of files of which one mentions the other.
    pub reference_pairs: u64,
    /// What was not read, by reason.
    pub left_out: std::collections::BTreeMap<SkipReason, u64>,
}

/// Runs one agent until SIGTERM.
pub async fn run(args: DemoAgentArgs, ctx: Command) -> Result<ExitCode> {
    let role = args.role;
    let name = format!("selvedge-demo/{}/{}", role.name(), std::process::id());
    let link = Link::connect(&ctx.nats()?, &name).await?;
    let (slots, place) = (args.slots, Arc::new(args));
    let agent = match role {
        Role::Planner => Agent::new(role.name(), move |ctx, job| plan(ctx, job, Arc::clone(&place))),
        Role::Reader => Agent::new(role.name(), move |ctx, job| read(ctx, job, Arc::clone(&place))),
        Role::Librarian => Agent::new(role.name(), move |ctx, job| digest(ctx, job, Arc::clone(&place))),
    };
    let agent = agent?.slots(slots).lease(LEASE).drain_timeout(Duration::from_secs(3));
    agent.run_until(link, ctx.stop).await?;
    Ok(Exit::Ok.into())
}

/// The planner. Runs again from its start after each wait, and after a crash.
async fn plan(ctx: Ctx, job: Job, place: Arc<DemoAgentArgs>) -> Result<Summary, AgentError> {
    serves(&place, &job.root)?;
    let walk = recorded_walk(&ctx, &place).await?;
    let Some(last) = walk.files.len().checked_sub(1) else {
        return Err(AgentError::fatal(nothing_to_read(&place.root, &walk.omissions)));
    };
    // Children are spawned in order, so the last one is there only if all of them are.
    if !has_child(&ctx, last).await? {
        let input = |path| ReadJob { path, root: Some(place.root.clone()) };
        ctx.emit("walked", &json!({"files": walk.files.len(), "left_out": walk.omissions.total()})).await?;
        ctx.spawn(READ, Role::Reader.name(), walk.files.into_iter().map(input)).await?;
        ctx.wait_all().await?;
    }
    let mut librarian = None;
    let mut after = 0;
    loop {
        let page = children(&ctx, ctx.task(), after, false).await?;
        if page.children.iter().any(|child| !child.state.is_terminal()) {
            return Err(AgentError::wait(WaitFor::AllChildren));
        }
        librarian = page.children.into_iter().find(|child| child.step == DIGEST).or(librarian);
        match page.next {
            Some(next) if next > after => after = next,
            _ => break,
        }
    }
    let Some(librarian) = librarian else {
        ctx.spawn(DIGEST, Role::Librarian.name(), [job]).await?;
        return Err(AgentError::wait(WaitFor::AllChildren));
    };
    let ended = patiently(|| ctx.client().get(&librarian.task)).await?;
    match (ended.state, ended.result) {
        (Phase::Completed, Some(result)) => {
            Ok(result.decode::<Summary>().map_err(|e| AgentError::fatal(e.to_string()))?)
        }
        (state, _) => {
            let why = ended.refusal.map(|refusal| refusal.message).unwrap_or_default();
            Err(AgentError::fatal(format!("the librarian's task is {state}: {why}")))
        }
    }
}

/// One reader's task.
async fn read(ctx: Ctx, job: ReadJob, place: Arc<DemoAgentArgs>) -> Result<Read, AgentError> {
    if let Some(root) = &job.root {
        serves(&place, root)?;
    }
    ctx.emit("reading", &json!({"path": job.path})).await?;
    let root = place.root.clone();
    let read = tokio::task::spawn_blocking(move || read_file(&root, &job.path)).await?;
    if let Some(pace) = place.pace {
        tokio::time::sleep(pace).await;
    }
    Ok(match read {
        Ok(card) => Read::Card(Box::new(card)),
        Err(error) => Read::Skipped(error.reason()),
    })
}

/// The librarian's task.
async fn digest(ctx: Ctx, job: Job, place: Arc<DemoAgentArgs>) -> Result<Summary, AgentError> {
    serves(&place, &job.root)?;
    let planner = ctx.parent().ok_or_else(|| AgentError::fatal("only a planner can ask for a digest"))?;
    let walk = recorded(&place, planner)
        .await?
        .ok_or_else(|| AgentError::fatal("the planner's walk is not recorded on this machine"))?;
    let mut builder = DigestBuilder::new();
    builder.omit(&walk.omissions);
    if let Some(stopped) = &walk.stopped {
        builder.note(stopped.clone());
    }
    let (mut merged, mut after) = (0_usize, 0);
    loop {
        let page = children(&ctx, planner, after, true).await?;
        for child in page.children.iter().filter(|child| child.step == READ) {
            let path = walk.files.get(child.index as usize).map_or("?", String::as_str);
            match child.result.as_ref().map(|result| result.decode::<Read>()) {
                Some(Ok(Read::Card(card))) => drop(builder.add(&card)),
                Some(Ok(Read::Skipped(reason))) => builder.skip(path, reason),
                Some(Err(_)) | None => builder.skip(path, SkipReason::TaskFailed),
            }
            merged += 1;
        }
        ctx.emit("merging", &json!({"cards": merged, "of": walk.files.len()})).await?;
        match page.next {
            Some(next) if next > after => after = next,
            _ => break,
        }
    }
    let written = tokio::task::spawn_blocking(move || -> Result<Summary> {
        let digest = builder.finish();
        let name = place.root.file_name().map_or("/".into(), |name| name.to_string_lossy());
        write_whole(&place.output, markdown::render(&digest, &name).as_bytes())?;
        Ok(summary(digest, place.output.clone()))
    });
    written.await?.map_err(|error| AgentError::retryable(format!("{error:#}")))
}

fn summary(digest: Digest, page: PathBuf) -> Summary {
    Summary {
        digest: page,
        files: digest.files,
        totals: digest.totals,
        kinds: digest.kinds,
        top: digest.ranked.into_iter().take(TOP).collect(),
        reference_pairs: digest.reference_pairs,
        left_out: digest.omissions.counts,
    }
}

/// A task that is about another directory belongs to another demo on the same server.
fn serves(place: &DemoAgentArgs, root: &Path) -> Result<(), AgentError> {
    if place.root == root {
        return Ok(());
    }
    Err(AgentError::fatal(format!(
        "this agent was started for {}, not for {}",
        place.root.display(),
        root.display()
    )))
}

/// Walks once per task. The list is written down before the first child is spawned: the directory may change, the
/// numbers of the children must not.
async fn recorded_walk(ctx: &Ctx, place: &Arc<DemoAgentArgs>) -> Result<Walk, AgentError> {
    if let Some(walk) = recorded(place, ctx.task()).await? {
        return Ok(walk);
    }
    let (place, task) = (Arc::clone(place), ctx.task().clone());
    let walked = tokio::task::spawn_blocking(move || -> Result<Walk> {
        let walk = walk(&place.root)?;
        write_whole(&record(&place, &task), &serde_json::to_vec(&walk)?)?;
        Ok(walk)
    });
    walked.await?.map_err(|error| AgentError::fatal(format!("{error:#}")))
}

async fn recorded(place: &DemoAgentArgs, task: &TaskId) -> Result<Option<Walk>, AgentError> {
    match tokio::fs::read(record(place, task)).await {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn record(place: &DemoAgentArgs, task: &TaskId) -> PathBuf {
    place.work.join(format!("walk-{task}.json"))
}

/// Why a directory has nothing to digest.
pub fn nothing_to_read(root: &Path, omissions: &Omissions) -> String {
    let mut why = format!("there is nothing to read in {}", root.display());
    if omissions.total() > 0 {
        let reasons = omissions.counts.iter().map(|(reason, n)| format!("{n} {}", reason.label()));
        why += &format!(" (left out: {})", reasons.collect::<Vec<_>>().join(", "));
    }
    why
}

/// Whether the child at this place exists.
async fn has_child(ctx: &Ctx, at: usize) -> Result<bool, AgentError> {
    if ctx.attempt() == 1 {
        return Ok(false);
    }
    let at = u32::try_from(at).map_err(|_| AgentError::fatal("more files than there are numbers"))?;
    Ok(!children(ctx, ctx.task(), at, false).await?.children.is_empty())
}

async fn children(ctx: &Ctx, of: &TaskId, after: u32, results: bool) -> Result<ChildrenPage, AgentError> {
    patiently(|| ctx.client().children(of, after, results)).await
}

/// Asks again while there is nobody to answer: a coordinator is back within seconds, and a try is worth more.
async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, AgentError>
where
    F: Future<Output = client::Result<T>>,
{
    for _ in 0..ASKS {
        match ask().await {
            Err(client::Error::Unavailable(_) | client::Error::TimedOut { .. }) => {}
            Err(client::Error::Refused(refusal)) if refusal.code.is_retryable() => {}
            answer => return Ok(answer?),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(AgentError::snooze(Duration::from_secs(1)))
}

/// The id of the librarian's task under a planner's.
pub fn librarian_of(planner: &TaskId) -> TaskId {
    crate::task::child_id(planner, DIGEST, 0)
}

/// Submits the planner's task.
pub async fn submit(client: &Client, id: &TaskId, root: &Path) -> client::Result<client::TaskHandle> {
    let job = Job { root: root.to_owned() };
    client.submit(Role::Planner.name(), &job).id(id.as_str()).max_tries(5).confirmed().await
}
