//! `selvedge demo`: starts everything, submits one task, shows how it goes, says what came out, stops everything.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use owo_colors::OwoColorize;
use serde::Serialize;
use serde_json::json;
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior};

use super::agents::{self, Role, Summary};
use super::args::DemoArgs;
use super::progress::{self, Progress};
use super::view::View;
use super::walk::{Limits, walk_with};
use crate::bus::entries::EntriesError;
use crate::bus::limits::LimitsBucket;
use crate::bus::{self, Link};
use crate::cli::context::Ctx;
use crate::cli::dev::{happened, own_name, say, write_whole};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{human_duration, safe};
use crate::cli::servers::Event;
use crate::cli::stack::{DataDir, Given, Member, Port, Stack, Wanted, ignore_in_git};
use crate::client::{self, Client, Ended, TaskHandle};
use crate::task::{Phase, Plan, PlanName, TaskId, TenantName, TenantSettings};

/// Tenant and plan of the demo.
const DEMO: &str = "demo";
/// Files the walk takes at most.
const FILES: u32 = 20_000;
/// How long the last word to a given server may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs it.
pub async fn run(args: DemoArgs, ctx: Ctx) -> Result<ExitCode> {
    let root = directory(args.path.as_deref())?;
    has_files(&root).await?;
    let output = output(&args.output)?;
    let began = Instant::now();
    let stop = ctx.stop.clone();
    let json = ctx.output.json;
    if !json {
        say(&format!(
            "starting NATS, Redis, a coordinator and {} agents for {}",
            args.readers + 2,
            shown(&root)
        ));
    }
    let wanted = Wanted {
        data: DataDir::ephemeral()?,
        persist: false,
        nats_port: Port::Any,
        redis_port: Port::Any,
        admin_port: Port::Any,
        servers: args.servers.clone(),
        given: Given::of(&ctx)?,
        config: ctx.globals.config.as_deref().map(std::path::absolute).transpose()?,
    };
    let mut stack = tokio::select! {
        started = Stack::start(wanted, Arc::new(say)) => started?,
        () = stop.cancelled() => return Ok(Exit::Interrupted.into()),
    };
    let ended = Demo { args: &args, ctx: &ctx, root: &root, output: &output, began }.run(&mut stack).await;
    if ended.is_err() {
        let kept = stack.keep_files().display().to_string();
        say(&format!("the logs of all processes are in {kept}/logs"));
    }
    stack.stop().await;
    ended
}

/// One run.
struct Demo<'a> {
    args: &'a DemoArgs,
    ctx: &'a Ctx,
    root: &'a Path,
    output: &'a Path,
    began: Instant,
}

/// How a run ended.
enum End {
    Task(Box<client::Result<Ended>>),
    TooLate,
    Stopped,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    task: &'a str,
    elapsed_ms: u64,
    restarts: u32,
}

impl Demo<'_> {
    async fn run(&self, stack: &mut Stack) -> Result<ExitCode> {
        let mut events = stack.events();
        let mut status = Status { file: self.args.status_file.as_deref(), began: self.began };
        let link = Link::connect(&stack.options, "selvedge-demo").await?;
        set_limits(stack).await?;
        self.start_agents(stack)?;
        let client = Client::on(link, TenantName::new(DEMO)?);
        // Only a server that was given may know earlier runs.
        let before = progress::all_tasks(&client).await.unwrap_or_default();
        // Followed before it is there: the planner is quick to say what it found.
        let id = TaskId::fresh();
        let mut progress = Progress::follow(&client, &id, before).await?;
        let task = agents::submit(&client, &id, self.root).await?;
        let mut view = View::of_stderr(self.ctx.output.json);

        let end = self.watch(stack, &mut events, &task, &mut progress, &mut view, &mut status).await?;
        match &end {
            End::Task(_) => {
                progress.finish(&client, task.id(), before).await;
                view.finish(&progress, self.began.elapsed());
            }
            End::TooLate | End::Stopped => view.clear(),
        }
        status.write("ended", &progress, stack)?;
        let ended = match end {
            End::Task(ended) => (*ended)?,
            End::Stopped | End::TooLate => {
                if !stack.nats.ours {
                    // Nobody would work on it after us.
                    let _ = tokio::time::timeout(FAREWELL, task.cancel("the demo was stopped")).await;
                }
                if matches!(end, End::Stopped) {
                    view.say("stopped by you; everything is stopped, and nothing was written");
                    return Ok(Exit::Interrupted.into());
                }
                let what = format!("not done after {}", human_duration(self.args.max_wait));
                return Err(Failure::new(Exit::Temporary, "TIMED_OUT", what)
                    .help("give it longer with --max-wait, or a smaller PATH")
                    .into());
            }
        };
        if ended.state != Phase::Completed {
            let why = ended.refusal.map(|refusal| refusal.message).unwrap_or_else(|| ended.state.to_string());
            return Err(Failure::new(Exit::Failed, "DEMO_FAILED", why)
                .help("`selvedge demo --keep` leaves everything running, to look at it")
                .into());
        }
        let summary: Summary = ended.result()?;
        let restarts = stack.members().iter().map(|member| member.restarts).sum();
        if self.ctx.output.json {
            let elapsed_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let report = Report { summary: &summary, task: task.id().as_str(), elapsed_ms, restarts };
            self.ctx.output.json_line(&report)?;
        } else {
            self.ctx.output.raw(self.last_screen(&summary, restarts))?;
        }
        if self.args.keep {
            self.keep(stack).await?;
        }
        Ok(Exit::Ok.into())
    }

    fn start_agents(&self, stack: &mut Stack) -> Result<()> {
        let work = stack.data().dir("work");
        std::fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path that is not UTF-8");
        let (root, work, output) = (text(self.root)?, text(&work)?, text(self.output)?);
        let slots = self.args.slots.to_string();
        let pace = self.args.pace.map(|pace| format!("{}ms", pace.as_millis()));
        let mut start = |name: &str, role: Role, more: &[&str]| {
            let places = ["--root", &root, "--work", &work, "--output", &output];
            let args: Vec<&str> =
                ["demo-agent", role.name()].iter().chain(&places).chain(more).copied().collect();
            stack.start_own(name, &args)
        };
        start("planner", Role::Planner, &[])?;
        for n in 1..=self.args.readers {
            let mut more = vec!["--slots", &slots];
            more.extend(pace.iter().flat_map(|pace| ["--pace", pace.as_str()]));
            start(&format!("reader-{n}"), Role::Reader, &more)?;
        }
        start("librarian", Role::Librarian, &[])
    }

    async fn watch(
        &self,
        stack: &Stack,
        events: &mut broadcast::Receiver<Event>,
        task: &TaskHandle,
        progress: &mut Progress,
        view: &mut View,
        status: &mut Status<'_>,
    ) -> Result<End> {
        let mut frames = tokio::time::interval(view.pause());
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut states = tokio::time::interval(Duration::from_millis(100));
        states.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = self.began + self.args.max_wait;
        let ended = task.wait();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                ended = &mut ended => return Ok(End::Task(Box::new(ended))),
                () = self.ctx.stop.cancelled() => return Ok(End::Stopped),
                () = tokio::time::sleep_until(deadline) => return Ok(End::TooLate),
                Ok(event) = events.recv() => {
                    if let Some(line) = happened(&event) {
                        view.say(&line);
                    }
                }
                () = progress.next() => {}
                _ = frames.tick() => view.draw(progress, self.began.elapsed()),
                _ = states.tick() => status.write("running", progress, stack)?,
            }
        }
    }

    async fn keep(&self, stack: &Stack) -> Result<()> {
        let text = format!(
            "\n  {}\n  export NATS_URL={} SELVEDGE_TENANT={DEMO}\n  {}\n",
            "Everything is still running.".bold(),
            stack.nats.url,
            "Ctrl-C stops everything.".dimmed()
        );
        self.ctx.output.line(text)?;
        self.ctx.stop.cancelled().await;
        Ok(())
    }

    fn last_screen(&self, summary: &Summary, restarts: u32) -> String {
        let elapsed = self.began.elapsed();
        let symbols = summary.totals.symbol_total();
        let totals = [
            (summary.files, "file"),
            (summary.totals.lines, "line"),
            (summary.totals.words, "word"),
            (summary.totals.headings, "heading"),
            (symbols, "symbol"),
            (summary.reference_pairs, "cross-reference"),
        ];
        let totals: Vec<String> =
            totals.iter().filter(|(n, _)| *n > 0).map(|(n, noun)| count(*n, noun)).collect();
        let mut page = format!("\n  {} in {}\n\n", totals.join(", ").bold(), human_duration(elapsed));
        for (at, file) in summary.top.iter().enumerate() {
            let label = if at == 0 { "Read first" } else { "" };
            let why = match file.mentioned_by {
                0 => file.keywords.iter().take(4).map(|word| safe(word)).collect::<Vec<_>>().join(", "),
                n => format!("mentioned by {}", count(n, "file")),
            };
            page += &format!("  {label:<12}{}  {}\n", safe(&file.path).cyan(), why.dimmed());
        }
        let left_out: u64 = summary.left_out.values().sum();
        if left_out > 0 {
            let reasons = summary.left_out.iter().map(|(reason, n)| format!("{n} {}", reason.label()));
            page += &format!("  {:<12}{}\n", "Left out", reasons.collect::<Vec<_>>().join(", ").dimmed());
        }
        if restarts > 0 {
            page += &format!("  {:<12}{}\n", "Restarts", count(restarts.into(), "process restart"));
        }
        page += &format!("\n  {:<12}{}\n\n", "Digest", shown(&summary.digest).bold());
        let (own, digest, path) = (own_name(), shown(&summary.digest), shown(self.root));
        let next = [
            (format!("less {digest}"), "what was found"),
            (format!("{own} demo {path} --pace 50ms"), "slowly: kill -9 a reader"),
            (format!("{own} dev"), "keep a stack for your own agents"),
        ];
        let width = next.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
        for (at, (command, about)) in next.iter().enumerate() {
            let label = if at == 0 { "Next" } else { "" };
            page += &format!("  {label:<12}{command:<width$}  {}\n", format!("# {about}").dimmed());
        }
        if !self.args.keep {
            page += &format!("  {:<12}{}\n", "", "Nothing is left running.".dimmed());
        }
        page
    }
}

/// Where scripts read how the run stands.
struct Status<'a> {
    file: Option<&'a Path>,
    began: Instant,
}

impl Status<'_> {
    fn write(&mut self, phase: &str, progress: &Progress, stack: &Stack) -> Result<()> {
        let Some(file) = self.file else { return Ok(()) };
        let members: Vec<Member> = stack.members();
        let status = json!({
            "phase": phase,
            "pid": std::process::id(),
            "elapsed_ms": u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "files": progress.files,
            "tasks": progress.counts,
            "processes": members,
            "nats_url": stack.nats.url,
            "redis_url": stack.redis.as_ref().map(|redis| &redis.url),
            "admin_url": stack.admin.as_ref().map(|admin| &admin.url),
            "data": stack.data().path(),
        });
        write_whole(file, &serde_json::to_vec(&status)?)
    }
}

/// Sets the plan and the tenant `demo`: a file each for the children, room for planner and librarian beside them.
async fn set_limits(stack: &Stack) -> Result<()> {
    let connection = bus::connect(&stack.options, "selvedge-demo/limits").await?;
    let bucket = LimitsBucket::open(connection.jetstream()).await.map_err(limits_failure)?;
    let plan = Plan {
        in_flight: 64,
        rate: 1_000_000,
        burst: 1_000_000,
        backlog: 1_000,
        depth: 3,
        children: FILES + 1,
        tree: FILES + 2,
        weight: 1,
        max_tries: 5,
        retain_tasks: 2 * u64::from(FILES),
        ..Plan::pro()
    };
    let name = PlanName::new(DEMO)?;
    let known = bucket.plan(&name).await.map_err(limits_failure)?;
    if known.as_ref().map(|(known, _)| known) != Some(&plan) {
        bucket.set_plan(&name, &plan, known.map(|(_, revision)| revision)).await.map_err(limits_failure)?;
    }
    let tenant = TenantName::new(DEMO)?;
    let settings = TenantSettings::under(name);
    let known = bucket.tenant(&tenant).await.map_err(limits_failure)?;
    if known.as_ref().map(|(known, _)| known) != Some(&settings) {
        let revision = known.map(|(_, revision)| revision);
        bucket.set_tenant(&tenant, &settings, revision).await.map_err(limits_failure)?;
    }
    Ok(())
}

fn limits_failure(error: EntriesError) -> Failure {
    Failure::new(Exit::Failed, "LIMITS", error.to_string())
        .help("the demo sets a plan and a tenant called demo; the user must be allowed to")
}

/// The directory to read: as given, or the repository around us, or where we are.
fn directory(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => {
            let here = std::env::current_dir().context("there is no working directory")?;
            let repository = here.ancestors().find(|dir| dir.join(".git").exists());
            repository.map_or_else(|| here.clone(), Path::to_owned)
        }
    };
    let shown = path.display().to_string();
    let cannot = |why: String| {
        Failure::new(Exit::Failed, "PATH_UNREADABLE", format!("cannot read {shown}: {why}"))
            .help("name a directory, for example: selvedge demo .")
    };
    let real = path.canonicalize().map_err(|error| cannot(error.to_string()))?;
    if !real.is_dir() {
        return Err(cannot("it is not a directory".to_owned()).into());
    }
    std::fs::read_dir(&real).map_err(|error| cannot(error.to_string()))?;
    Ok(real)
}

/// An empty directory is better known before anything is started.
async fn has_files(root: &Path) -> Result<()> {
    let dir = root.to_owned();
    let limits = Limits { max_files: 1, ..Limits::default() };
    let walk = tokio::task::spawn_blocking(move || walk_with(&dir, limits)).await??;
    if !walk.files.is_empty() {
        return Ok(());
    }
    let what = agents::nothing_to_read(root, &walk.omissions);
    Err(Failure::new(Exit::Failed, "PATH_EMPTY", what)
        .help("name another directory, for example: selvedge demo .")
        .into())
}

/// Where the digest goes, made ready; a place that cannot be written is better known now than later.
fn output(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    if dir.ends_with(".selvedge") {
        ignore_in_git(dir);
    }
    let probe = dir.join(format!(".selvedge-{}.probe", std::process::id()));
    write_whole(&probe, b"")?;
    std::fs::remove_file(&probe).with_context(|| format!("cannot remove {}", probe.display()))?;
    Ok(path)
}

/// A path as short as it can be said from here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let short = match path.strip_prefix(&here) {
        Ok(rest) if rest.as_os_str().is_empty() => Path::new("."),
        Ok(rest) => rest,
        Err(_) => path,
    };
    safe(&short.display().to_string())
}

/// `12,345 files`.
fn count(n: u64, noun: &str) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{out} {noun}{}", if n == 1 { "" } else { "s" })
}
