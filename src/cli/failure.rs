//! How a command fails: an exit code that scripts can rely on, and a message that says what, where and what to do.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};
use serde_json::json;

pub mod known;

use super::output::safe;
use crate::config::{ConfigError, Problem};

/// The exit codes, all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// The operation, or the task it was about, failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// A server cannot be reached.
    Unavailable = 69,
    /// Not now: a time-out or backpressure; the same command may work later.
    Temporary = 75,
    /// The configuration is wrong, or differs from what a check expects.
    Config = 78,
    /// Ended by Ctrl-C or SIGTERM before it was done.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// The exit codes as the help shows them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   the operation or the task failed
  2   wrong usage
  69  a server cannot be reached
  75  not now (time-out, backpressure): try again later
  78  the configuration is wrong, or a check found a difference
  130 interrupted";

/// An error with everything a user needs.
#[derive(Debug)]
pub struct Failure {
    /// What the process ends with.
    pub exit: Exit,
    /// A stable code, `NATS_UNREACHABLE`.
    pub code: String,
    /// What happened.
    pub what: String,
    /// Where: a server, a file, a subject.
    pub place: Option<String>,
    /// What to do.
    pub help: Option<String>,
    /// Whether `what` is a list of ours, one finding a line.
    lines: bool,
}

impl Failure {
    /// A failure with its code and what happened.
    pub fn new(exit: Exit, code: impl Into<String>, what: impl Into<String>) -> Self {
        Failure { exit, code: code.into(), what: what.into(), place: None, help: None, lines: false }
    }

    /// Adds where it happened.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Keeps the line breaks of what happened.
    pub fn multiline(mut self) -> Self {
        self.lines = true;
        self
    }

    /// Adds what to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may quote what a server or another user wrote.
        if self.lines {
            let lines: Vec<String> = self.what.lines().map(safe).collect();
            return f.write_str(&lines.join("\n"));
        }
        match &self.place {
            Some(place) => write!(f, "{} ({})", safe(&self.what), safe(place)),
            None => f.write_str(&safe(&self.what)),
        }
    }
}

impl std::error::Error for Failure {}

impl Diagnostic for Failure {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }
}

/// Tells the user why the command failed, on standard error, and returns what to exit with.
pub fn report(error: &anyhow::Error, json: bool) -> Exit {
    // Whoever read our output has seen enough: not an error, and nobody is left to be told.
    if error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
    {
        return Exit::Ok;
    }
    let (exit, shown) = if let Some(config) = error.downcast_ref::<ConfigError>() {
        (Exit::Config, show_all(&config.problems, json))
    } else if let Some(failure) = error.downcast_ref::<Failure>() {
        (failure.exit, show(failure, failure.place.as_deref(), json))
    } else if let Some(failure) = known::recognise(error) {
        (failure.exit, show(&failure, failure.place.as_deref(), json))
    } else {
        let what = format!("{error:#}");
        (Exit::Failed, show(&Failure::new(Exit::Failed, "FAILED", what), None, json))
    };
    // There is nowhere to tell that telling failed.
    let _ = anstream::stderr().write_all(shown.as_bytes());
    exit
}

fn show_all(problems: &[Problem], json: bool) -> String {
    problems.iter().map(|problem| show(problem, Some(problem.place()), json)).collect()
}

fn show(diagnostic: &dyn Diagnostic, place: Option<&str>, as_json: bool) -> String {
    if as_json {
        let text = |part: Option<Box<dyn fmt::Display + '_>>| part.map(|part| part.to_string());
        let what = diagnostic.to_string();
        let error = json!({"code": text(diagnostic.code()), "what": what, "where": place, "do": text(diagnostic.help())});
        return format!("{}\n", json!({ "error": error }));
    }
    let mut out = String::new();
    // anstream strips the colours again where they are not wanted.
    let handler =
        GraphicalReportHandler::new_themed(GraphicalTheme::unicode()).with_context_lines(1).with_links(false);
    match handler.render_report(&mut out, diagnostic) {
        Ok(()) => {}
        Err(fmt::Error) => out = format!("error: {diagnostic}\n"),
    }
    // Without a quoted source miette says nothing of the place; some messages name it themselves.
    match place {
        Some(place) if diagnostic.source_code().is_none() && !diagnostic.to_string().contains(place) => {
            out.push_str(&format!("  where: {}\n", safe(place)));
        }
        _ => {}
    }
    out
}
