//! Arguments that several verbs share: whose task, and how long to wait.

use std::time::Duration;

use clap::Args;

use crate::config::parse_duration;
use crate::task::{Labels, Millis, Priority, TaskId, TenantName, Times, millis};

/// Whose tasks a command is about.
#[derive(Debug, Clone, Args)]
pub struct TenantArg {
    /// Tenant the task belongs to
    #[arg(short = 't', long, env = "SELVEDGE_TENANT", default_value = "default", value_name = "NAME")]
    pub tenant: TenantName,
}

/// One task of a tenant.
#[derive(Debug, Clone, Args)]
pub struct TaskArg {
    /// Task id
    #[arg(value_name = "TASK")]
    pub task: TaskId,

    /// Whose it is.
    #[command(flatten)]
    pub tenant: TenantArg,
}

/// A duration on the command line: `250ms`, `15s`, `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}

/// A label on the command line: the first `=` divides it.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    let labels = Labels::from_iter([(key, value)]);
    labels.check().map_err(|refusal| refusal.message)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A priority class on the command line.
pub fn priority(text: &str) -> Result<Priority, String> {
    Priority::parse(text).ok_or_else(|| "expected low, normal, high or critical".to_owned())
}

/// When a task may start, and by when it must be over.
#[derive(Debug, Clone, Args)]
pub struct TimesArgs {
    /// Do not start it before this long after it is accepted
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "run_at")]
    delay: Option<Duration>,

    /// Do not start it before this time: RFC 3339, or Unix milliseconds
    #[arg(long, value_name = "TIME", value_parser = time)]
    run_at: Option<Millis>,

    /// Let it expire unless it is started within this long of when it may be
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,

    /// Stop a try that takes longer; it counts as failed
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    try_timeout: Option<Duration>,

    /// Let it expire by then, with its children, whatever it does: a duration from now, RFC 3339, or Unix milliseconds
    #[arg(long, value_name = "WHEN", value_parser = deadline)]
    deadline: Option<Deadline>,
}

/// What the tasks are like that something else than a submit makes: a schedule, a trigger.
#[derive(Debug, Clone, Args)]
pub struct MadeArgs {
    /// Class within the tenant: low, normal, high or critical; the plan may lower it
    #[arg(long, value_name = "CLASS", default_value = "normal", value_parser = priority)]
    pub priority: Priority,

    /// Tries before a task is dead [default: the plan's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tries: Option<u32>,

    /// Cells (tokens, say) that an attempt of a task is expected to use
    #[arg(long, value_name = "CELLS")]
    pub cost: Option<u32>,

    /// Write a label on each task, for `list --label`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,

    /// Let a task expire unless it is started within this long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,

    /// Stop a try that takes longer; it counts as failed
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    try_timeout: Option<Duration>,

    /// Let a task expire this long after it was made, whatever it does
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    deadline: Option<Duration>,
}

impl MadeArgs {
    /// Their labels, if they have any.
    pub fn labels(&self) -> Option<Box<Labels>> {
        (!self.label.is_empty()).then(|| Box::new(self.label.iter().cloned().collect()))
    }

    /// Their times, counted from when each is made, if any is limited.
    pub fn times(&self) -> Option<Box<Times>> {
        let times = Times {
            ttl_ms: self.ttl.map(millis),
            try_timeout_ms: self.try_timeout.map(millis),
            deadline_ms: self.deadline.map(millis),
            ..Times::default()
        };
        (!times.is_empty()).then(|| Box::new(times))
    }
}

/// A deadline as it was typed.
#[derive(Debug, Clone, Copy)]
enum Deadline {
    In(Millis),
    At(Millis),
}

impl TimesArgs {
    /// What they ask for.
    pub fn times(&self) -> Times {
        let (deadline_ms, deadline_at) = match self.deadline {
            None => (None, None),
            Some(Deadline::In(ms)) => (Some(ms), None),
            Some(Deadline::At(at)) => (None, Some(at)),
        };
        Times {
            delay_ms: self.delay.map(millis),
            run_at: self.run_at,
            ttl_ms: self.ttl.map(millis),
            try_timeout_ms: self.try_timeout.map(millis),
            deadline_ms,
            deadline_at,
        }
    }
}

/// A point of time on the command line: `2026-12-01T09:00:00Z`, `2026-12-01T09:00+01:00`, or Unix milliseconds.
pub fn time(text: &str) -> Result<Millis, String> {
    if let Ok(ms) = text.parse::<Millis>() {
        return Ok(ms);
    }
    let at: jiff::Timestamp = text.parse().map_err(|_| {
        "expected a time as in RFC 3339 (2026-12-01T09:00:00Z, 2026-12-01T09:00:00+01:00) or Unix milliseconds"
            .to_owned()
    })?;
    Millis::try_from(at.as_millisecond()).map_err(|_| "a time before 1970".to_owned())
}

/// A time, or a duration from now.
fn deadline(text: &str) -> Result<Deadline, String> {
    match duration(text) {
        Ok(ahead) => Ok(Deadline::In(millis(ahead))),
        Err(_) => time(text).map(Deadline::At).map_err(|error| format!("{error}, or a duration (2h)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_with_its_zone_or_unix_milliseconds() {
        assert_eq!(time("2026-12-01T09:00:00+01:00"), Ok(1_796_112_000_000));
        assert_eq!(time("1796112000000"), Ok(1_796_112_000_000));
        assert!(time("2026-12-01T09:00:00").is_err());
        assert!(time("tomorrow").unwrap_err().contains("RFC 3339"));
        assert!(time("1960-01-01T00:00:00Z").is_err());
    }

    #[test]
    fn a_deadline_is_a_length_or_a_time() {
        assert!(matches!(deadline("90s"), Ok(Deadline::In(90_000))));
        assert!(matches!(deadline("2026-12-01T08:00:00Z"), Ok(Deadline::At(1_796_112_000_000))));
        assert!(deadline("-5m").is_err());
    }
}
