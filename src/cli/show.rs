//! How tasks look: one in full, many in a table, results, and how one that did not complete ends a command.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;

use super::context::Ctx;
use super::failure::{Exit, Failure};
use super::output::{Output, age, escape_json, fields, human_duration, indent_json, safe, table, unix_now};
use crate::task::{Labels, Payload, Phase, Refusal, TaskId};
use crate::wire::api::TaskView;

/// Everything about one task, for people.
pub fn task(view: &TaskView) -> String {
    let now = unix_now();
    let ago = |at: Option<u64>| at.map(|at| format!("{} ago", age(Some(at), now))).unwrap_or_default();
    let span = |from: Option<u64>, to: Option<u64>| match (from, to) {
        (Some(from), Some(to)) => human_duration(Duration::from_millis(to.saturating_sub(from))),
        _ => String::new(),
    };
    let id = |id: &Option<TaskId>| id.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut text = fields([
        ("task", view.task.to_string()),
        ("state", view.state.to_string()),
        ("agent", view.agent.to_string()),
        ("tenant", view.tenant.to_string()),
        ("priority", view.priority.as_str().to_owned()),
        ("labels", safe(&view.labels.to_string()).to_string()),
        ("parent", id(&view.parent)),
        ("root", if view.root == view.task { String::new() } else { view.root.to_string() }),
        ("retry of", id(&view.retry_of)),
        ("attempt", if view.attempt == 0 { String::new() } else { view.attempt.to_string() }),
        ("tries lost", if view.tries == 0 { String::new() } else { view.tries.to_string() }),
        ("instance", view.instance.as_ref().map(ToString::to_string).unwrap_or_default()),
        (
            "not before",
            view.not_before.filter(|_| view.started_at.is_none()).map(|at| when(at, now)).unwrap_or_default(),
        ),
        ("deadline", view.deadline_at.map(|at| when(at, now)).unwrap_or_default()),
        ("created", ago((view.created_at > 0).then_some(view.created_at))),
        ("started", ago(view.started_at)),
        ("ended", ago(view.ended_at)),
        ("took", span(view.started_at, view.ended_at)),
        ("reason", view.refusal.as_ref().map(reason).unwrap_or_default()),
    ]);
    if !view.failures.is_empty() {
        text.push_str("\nfailed tries\n");
        text.push_str(&failures(view));
    }
    if let Some(result) = &view.result {
        text.push_str(&format!("\nresult\n{}\n", payload(result)));
    }
    text
}

/// A point of time: in UTC, and how far it is from now.
pub fn when(at: u64, now: u64) -> String {
    let stamp = i64::try_from(at).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let stamp = stamp.map_or_else(|| format!("{at} ms"), |stamp| stamp.to_string());
    let far = Duration::from_millis(at.abs_diff(now));
    match at > now {
        true => format!("{stamp} (in {})", human_duration(far)),
        false => format!("{stamp} ({} ago)", human_duration(far)),
    }
}

/// The tries that went wrong.
pub fn failures(view: &TaskView) -> String {
    let now = unix_now();
    table(
        ["ATTEMPT", "AGE", "CODE", "MESSAGE"],
        view.failures.iter().map(|failure| {
            [
                failure.attempt.to_string(),
                age(Some(failure.at), now),
                failure.code.to_string(),
                failure.message.clone(),
            ]
        }),
    )
}

/// A page of tasks.
pub fn tasks(views: &[TaskView]) -> String {
    let now = unix_now();
    let note = |view: &TaskView| match (&view.refusal, &view.instance) {
        (Some(refusal), _) => reason(refusal),
        (None, Some(instance)) => format!("on {instance}"),
        (None, None) => match view.not_before.filter(|at| *at > now && view.started_at.is_none()) {
            Some(at) => format!("not before {}", when(at, now)),
            None => String::new(),
        },
    };
    table(
        ["TASK", "AGENT", "STATE", "AGE", "ATTEMPT", "NOTE"],
        views.iter().map(|view| {
            [
                view.task.to_string(),
                view.agent.to_string(),
                view.state.to_string(),
                age((view.created_at > 0).then_some(view.created_at), now),
                view.attempt.to_string(),
                note(view),
            ]
        }),
    )
}

/// Code and message of a refusal.
pub fn reason(refusal: &Refusal) -> String {
    format!("{}: {}", refusal.code, refusal.message)
}

/// Labels of what tasks are made of; nothing if there are none.
pub fn labels(labels: Option<&Labels>) -> String {
    labels.map(|labels| safe(&labels.to_string())).unwrap_or_default()
}

/// A result or an event's data, for people.
pub fn payload(payload: &Payload) -> String {
    match payload {
        Payload::Json(text) => match std::str::from_utf8(text) {
            Ok(text) if is_json(text) => escape_json(&indent_json(text)),
            _ => String::from_utf8_lossy(text).lines().map(safe).collect::<Vec<_>>().join("\n"),
        },
        Payload::Bytes(bytes) => format!("{} bytes (get them with --result > FILE)", bytes.len()),
    }
}

/// A result alone: JSON indented, bytes untouched, but never bytes to a terminal.
pub fn result(output: &Output, result: Option<&Payload>) -> Result<()> {
    let nothing = Payload::default();
    match result.unwrap_or(&nothing) {
        Payload::Bytes(bytes) if !std::io::stdout().is_terminal() => output.bytes(bytes)?,
        other => output.raw(format_args!("{}\n", payload(other)))?,
    }
    Ok(())
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// What a command that waited for a task ends with.
pub fn verdict(task: &TaskId, state: Phase, refusal: Option<&Refusal>) -> Result<Exit> {
    if state == Phase::Completed {
        return Ok(Exit::Ok);
    }
    let code =
        refusal.map_or_else(|| format!("TASK_{}", state.as_str().to_uppercase()), |r| r.code.to_string());
    let why = refusal.map(|refusal| format!(": {}", refusal.message)).unwrap_or_default();
    let failure = Failure::new(Exit::Failed, code, format!("task {task} is {state}{why}"));
    Err(match (state, refusal) {
        (Phase::Failed, _) => failure.help(format!("`selvedge dead show {task}` lists its tries")),
        (_, Some(refusal)) => failure.help(format!("docs/codes.md has a page on {}", refusal.code)),
        _ => failure,
    }
    .into())
}

/// Gives up waiting after `patience`; the task goes on.
pub async fn within<T, E: Into<anyhow::Error>>(
    patience: Duration,
    task: &TaskId,
    waiting: impl Future<Output = Result<T, E>>,
) -> Result<T> {
    match tokio::time::timeout(patience, waiting).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(Failure::new(
            Exit::Temporary,
            "WAIT_TIMEOUT",
            format!("task {task} has not got there within {}", human_duration(patience)),
        )
        .help(format!("it goes on; `selvedge get {task} --wait` waits again"))
        .into()),
    }
}

/// Prints a task that was waited for: its result for people, all of it in JSON.
pub fn ended(ctx: &Ctx, view: &TaskView) -> Result<()> {
    if ctx.output.json {
        ctx.output.json_pretty(view)?;
    } else if view.state == Phase::Completed {
        result(&ctx.output, view.result.as_ref())?;
    }
    Ok(())
}
