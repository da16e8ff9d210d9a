//! Draws the progress: a small live picture on a terminal, a line per second elsewhere.
//!
//! Owns what a person sees while the demo runs, never what is true. The picture is redrawn in place; what happens to
//! a process is a line above it that stays. Everything foreign in it (paths) is made safe and cut to the terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::Table;
use owo_colors::OwoColorize;

use super::progress::{Progress, Tasks};
use crate::cli::output::{human_duration, safe};

/// A picture needs this many columns.
const LEAST: usize = 76;
/// Width of the bar.
const BAR: usize = 20;
/// Between two pictures.
const FRAME: Duration = Duration::from_millis(100);
/// Between two lines.
const LINE: Duration = Duration::from_secs(1);

/// Where progress goes.
pub enum View {
    /// Redrawn in place; how many lines stand there now.
    Live {
        /// Lines of the last picture.
        drawn: usize,
        /// Columns.
        width: usize,
    },
    /// One line per second.
    Lines,
    /// Nothing.
    Quiet,
}

impl View {
    /// What standard error can show. A caller that wants JSON wants no lines.
    pub fn of_stderr(json: bool) -> View {
        let width = Table::new().use_stderr().width().map_or(0, usize::from);
        match std::io::stderr().is_terminal() && width >= LEAST {
            true => View::Live { drawn: 0, width },
            false if json => View::Quiet,
            false => View::Lines,
        }
    }

    /// How often to draw.
    pub fn pause(&self) -> Duration {
        match self {
            View::Live { .. } => FRAME,
            View::Lines | View::Quiet => LINE,
        }
    }

    /// Shows how things stand.
    pub fn draw(&mut self, progress: &Progress, elapsed: Duration) {
        match self {
            View::Quiet => {}
            View::Lines => put(&format!("{}\n", line(progress, elapsed))),
            View::Live { drawn, width } => {
                // The window may have changed.
                *width = Table::new().use_stderr().width().map_or(*width, usize::from);
                let picture = match *width >= LEAST {
                    true => picture(progress, elapsed, *width),
                    false => Vec::new(),
                };
                put(&redraw(drawn, &picture));
            }
        }
    }

    /// Shows a line that stays.
    pub fn say(&mut self, text: &str) {
        let text = format!("{} {}\n", "·".yellow(), safe(text));
        match self {
            View::Live { drawn, .. } => put(&(redraw(drawn, &[]) + &text)),
            View::Lines | View::Quiet => put(&text),
        }
    }

    /// Shows how it all ended, to stay.
    pub fn finish(&mut self, progress: &Progress, elapsed: Duration) {
        match self {
            View::Live { drawn, width } => {
                let picture = match *width >= LEAST {
                    true => table(progress),
                    false => Vec::new(),
                };
                put(&redraw(drawn, &picture));
                *drawn = 0;
            }
            View::Lines | View::Quiet => self.draw(progress, elapsed),
        }
    }

    /// Takes the picture away.
    pub fn clear(&mut self) {
        if let View::Live { drawn, .. } = self {
            put(&redraw(drawn, &[]));
        }
    }
}

/// Replaces the last picture by another, in one write.
fn redraw(drawn: &mut usize, picture: &[String]) -> String {
    let mut out = String::new();
    if *drawn > 0 {
        // Up to the picture's first line, and everything below it away.
        let _ = write!(out, "\x1b[{drawn}A\r\x1b[J");
    }
    for line in picture {
        out.push_str(line);
        out.push('\n');
    }
    *drawn = picture.len();
    out
}

fn put(text: &str) {
    let mut err = anstream::stderr().lock();
    // A terminal that went away takes nobody's result with it.
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

fn picture(progress: &Progress, elapsed: Duration, width: usize) -> Vec<String> {
    let mut reading = String::new();
    for path in progress.reading().map(safe) {
        let more = format!("{}{path}", if reading.is_empty() { "" } else { "   " });
        if columns(&reading) + columns(&more) > width.saturating_sub(14) {
            break;
        }
        reading += &more;
    }
    let mut note = format!("  {:<11}{}", "elapsed", human_duration(elapsed));
    if progress.counts.old {
        note += "   the coordinator does not answer now; the counts are old";
    }
    let mut lines = table(progress);
    lines.extend([
        String::new(),
        format!("  {:<11}{}", "files", bar(progress)),
        format!("  {:<11}{}", "reading", reading.cyan()),
        note.dimmed().to_string(),
    ]);
    lines
}

/// A row per agent.
fn table(progress: &Progress) -> Vec<String> {
    let counts = &progress.counts;
    let row = |name: &str, tasks: &Tasks, after: String| {
        let cell = |n: u64| match n {
            0 => format!("{:>9}", "-").dimmed().to_string(),
            n => format!("{n:>9}"),
        };
        let running = match tasks.running {
            0 => cell(0),
            n => format!("{n:>9}").green().to_string(),
        };
        let failed = match tasks.failed {
            0 => cell(0),
            n => format!("{n:>9}").red().to_string(),
        };
        let (queued, waiting, done) = (cell(tasks.queued), cell(tasks.waiting), cell(tasks.done));
        format!("  {name:<11}{queued}{running}{waiting}{done}{failed}{after}")
    };
    let titles =
        ["queued", "running", "waiting", "done", "failed"].map(|title| format!("{title:>9}")).concat();
    let merged = match (progress.merged, progress.files) {
        (Some(merged), Some(files)) if counts.librarian.running > 0 => {
            format!("   {merged} of {files} cards")
        }
        _ => String::new(),
    };
    vec![
        String::new(),
        format!("  {:<11}{titles}", "agent").dimmed().to_string(),
        row("planner", &counts.planner, String::new()),
        row("reader", &counts.reader, String::new()),
        row("librarian", &counts.librarian, merged),
    ]
}

fn bar(progress: &Progress) -> String {
    let ended = progress.counts.reader.done + progress.counts.reader.failed;
    let Some(files) = progress.files.filter(|files| *files > 0) else {
        return "the planner walks the directory".dimmed().to_string();
    };
    let part = (ended as f64 / files as f64).min(1.0);
    let full = (part * BAR as f64).round() as usize;
    let (done, open) = ("━".repeat(full), "─".repeat(BAR - full));
    let rate = progress.rate();
    format!("{}{} {:>3.0} %  {ended} of {files}  {rate:.0}/s", done.green(), open.dimmed(), part * 100.0)
}

fn line(progress: &Progress, elapsed: Duration) -> String {
    let counts = &progress.counts;
    let readers = &counts.reader;
    let of = progress.files.map(|files| format!(" of {files}")).unwrap_or_default();
    let mut line = format!(
        "{:>6}  readers: {} queued, {} running, {}{of} done, {:.0}/s",
        human_duration(elapsed),
        readers.queued,
        readers.running,
        readers.done,
        progress.rate(),
    );
    if readers.failed > 0 {
        let _ = write!(line, ", {} failed", readers.failed);
    }
    let _ = write!(line, "; planner {}, librarian {}", phase(&counts.planner), phase(&counts.librarian));
    if counts.old {
        line += " (old: nobody answers)";
    }
    line
}

fn phase(tasks: &Tasks) -> &'static str {
    match tasks {
        Tasks { done: 1.., .. } => "done",
        Tasks { failed: 1.., .. } => "failed",
        Tasks { running: 1.., .. } => "running",
        Tasks { waiting: 1.., .. } => "waiting",
        Tasks { queued: 1.., .. } => "queued",
        _ => "not yet",
    }
}

/// Columns a text takes: wide characters are counted as two, so that a line never wraps.
fn columns(text: &str) -> usize {
    text.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum()
}
