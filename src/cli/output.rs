//! What a command prints: tables for people, JSON for programs, both on standard output; everything else goes to
//! standard error.
//!
//! Text that came from elsewhere (names in errors, failure messages, file names) passes through [`safe`] before it
//! reaches a terminal. A reader that goes away (`selvedge list | head`) ends the command quietly: write through
//! [`Output`], never with `println!`.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde::Serialize;

/// Where results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// JSON instead of tables and sentences.
    pub json: bool,
}

impl Output {
    /// One line for people; nothing in JSON mode.
    pub fn line(&self, text: impl Display) -> io::Result<()> {
        if self.json { Ok(()) } else { self.raw(format_args!("{text}\n")) }
    }

    /// One line for people on standard error: what to do next, where to go on. Nothing in JSON mode.
    pub fn hint(&self, text: impl Display) -> io::Result<()> {
        if self.json { Ok(()) } else { writeln!(anstream::stderr().lock(), "{text}") }
    }

    /// Bytes as they are, in either mode.
    pub fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    /// Text as it is, in either mode.
    pub fn raw(&self, text: impl Display) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        write!(out, "{text}")?;
        out.flush()
    }

    /// A value as JSON: one object, on one line, so that streams of them can be read line by line.
    pub fn json_line(&self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value).map_err(io::Error::other)?;
        self.raw(format_args!("{}\n", escape_json(&text)))
    }

    /// A value as indented JSON.
    pub fn json_pretty(&self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.raw(format_args!("{}\n", escape_json(&text)))
    }

    /// The value in JSON mode, what `people` makes of it otherwise.
    pub fn either<T: Serialize>(&self, value: &T, people: impl FnOnce(&T) -> String) -> io::Result<()> {
        if self.json {
            return self.json_pretty(value);
        }
        let text = people(value);
        let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
        self.raw(format_args!("{text}{end}"))
    }
}

/// A table in the style of every listing: a header, no frame, columns that wrap to the terminal. Cells are made safe.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| Cell::new(safe(cell))));
    }
    // The style pads every cell, the first one too.
    table.lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end())).collect()
}

/// `text` with everything replaced that could command a terminal: control bytes, escape sequences, and the marks
/// that reorder what a reader sees.
pub fn safe(text: &str) -> String {
    let harmless = |c: char| !c.is_control() && !is_invisible_mark(c);
    if text.chars().all(harmless) {
        return text.to_owned();
    }
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => " ".to_owned(),
            c if harmless(c) => c.to_string(),
            c => c.escape_unicode().to_string(),
        })
        .collect()
}

/// JSON with the characters of [`safe`] written as escapes: the same value, harmless to a terminal.
pub fn escape_json(text: &str) -> String {
    let harmless = |c: char| c == '\n' || !c.is_control() && !is_invisible_mark(c);
    if text.chars().all(harmless) {
        return text.to_owned();
    }
    // Outside of strings JSON has nothing to escape but white space.
    let mut units = [0; 2];
    text.chars().fold(String::with_capacity(text.len() + 16), |mut out, c| {
        match c {
            c if harmless(c) => out.push(c),
            '\r' | '\t' => out.push(' '),
            c => {
                out.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
        out
    })
}

/// Valid JSON with line breaks and indentation. Numbers stay as they were written.
pub fn indent_json(text: &str) -> String {
    let (mut out, mut depth, mut in_string, mut escaped) = (String::new(), 0usize, false, false);
    let mut chars = text.chars().filter(|c| !matches!(c, '\u{feff}')).peekable();
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(c) = chars.next() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(close) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// Names and values below one another, values aligned and made safe; an empty value leaves its line out.
pub fn fields<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let rows: Vec<_> = rows.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {}\n", safe(value))).collect()
}

/// Unix milliseconds by this machine's clock.
pub fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Bidirectional controls, zero-width characters and line separators.
fn is_invisible_mark(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{061c}' | '\u{feff}')
}

/// An id at most `width` characters wide, cut in the middle: time-ordered ids differ at their ends.
pub fn short_id(id: &str, width: usize) -> String {
    let id = safe(id);
    let count = id.chars().count();
    if count <= width || width < 3 {
        return id;
    }
    let head = (width - 1).div_ceil(2);
    let tail = width - 1 - head;
    let start: String = id.chars().take(head).collect();
    let end: String = id.chars().skip(count - tail).collect();
    format!("{start}…{end}")
}

/// A duration in its two largest units: `340ms`, `4.2s`, `1m05s`, `3h10m`, `2d4h`.
pub fn human_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{}.{}s", seconds, duration.subsec_millis() / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// How long ago a Unix time in milliseconds was; `-` if it is not known. A time ahead of us counts as now.
pub fn age(then: Option<u64>, now: u64) -> String {
    match then {
        Some(then) => human_duration(Duration::from_millis(now.saturating_sub(then))),
        None => "-".to_owned(),
    }
}

/// A number of bytes with three digits: `17 B`, `4.2 KiB`, `1.0 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printed_can_command_a_terminal() {
        let text = safe("a\u{1b}[2Jb\u{7}c\u{9b}1md\u{202e}e\nf");
        assert!(text.chars().all(|c| !c.is_control() && !is_invisible_mark(c)), "{text:?}");
        assert_eq!(safe("plain – ünïcode 漢字"), "plain – ünïcode 漢字");
        let shown = table(["NAME"], [["x\u{1b}]0;title\u{7}".to_owned()]]);
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'));
    }

    #[test]
    fn json_stays_the_same_value_when_it_is_made_harmless_and_indented() {
        let text = "{\"a\\\"{\":[1,2.50,{},[ ]],\"b\":\"x\u{9b}\u{202e}\u{e0001}, \\\\\",\"n\":12345678901234567890123}";
        let shown = escape_json(&indent_json(text));
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control() && !is_invisible_mark(c)), "{shown}");
        assert!(shown.contains("2.50") && shown.contains("12345678901234567890123"), "{shown}");
        assert!(shown.contains("\n  \"b\": \"x\\u009b\\u202e"), "{shown}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(text));
    }

    #[test]
    fn an_id_is_cut_in_the_middle() {
        let id = "0190abcdef0123456789abcdef012345";
        assert_eq!(short_id(id, 13), "0190ab…012345");
        assert_eq!(short_id(id, 32), id);
        assert_eq!(short_id("short", 13), "short");
    }

    #[test]
    fn durations_are_read_at_a_glance() {
        let shown: Vec<_> = [340, 4_250, 65_000, 11_400_000, 187_200_000]
            .map(|ms| human_duration(Duration::from_millis(ms)))
            .into();
        assert_eq!(shown, ["340ms", "4.2s", "1m05s", "3h10m", "2d4h"]);
        assert_eq!(age(Some(5_000), 4_000), "0ms");
        assert_eq!(age(None, 4_000), "-");
        assert_eq!(
            [human_bytes(17), human_bytes(4_301), human_bytes(1 << 30)],
            ["17 B", "4.2 KiB", "1.0 GiB"]
        );
    }
}
