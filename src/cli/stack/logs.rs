//! Follows the logs of the stack's processes and picks out what deserves a person's attention.
//!
//! Files are looked at a few times a second; a line that is still being written waits for its end. A file that
//! shrinks or vanishes is read from its start again.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

/// Most bytes taken from one file at a time.
const BITE: u64 = 256 * 1024;

/// See the module.
pub struct Tail {
    files: Vec<Followed>,
}

struct Followed {
    name: String,
    path: PathBuf,
    at: u64,
    partial: Vec<u8>,
}

impl Tail {
    /// Follows these files from their present end.
    pub fn from_now(logs: Vec<(String, PathBuf)>) -> Tail {
        let follow = |(name, path): (String, PathBuf)| {
            let at = path.metadata().map_or(0, |meta| meta.len());
            Followed { name, path, at, partial: Vec::new() }
        };
        Tail { files: logs.into_iter().map(follow).collect() }
    }

    /// Lines since the last look that are a warning or worse, with the name of who wrote them.
    pub fn warnings(&mut self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for file in &mut self.files {
            for line in file.lines() {
                if is_warning(&line) {
                    found.push((file.name.clone(), line));
                }
            }
        }
        found
    }
}

impl Followed {
    fn lines(&mut self) -> Vec<String> {
        let mut read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            if file.metadata()?.len() < self.at {
                self.at = 0;
                self.partial.clear();
            }
            file.seek(SeekFrom::Start(self.at))?;
            let mut bytes = Vec::new();
            file.take(BITE).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let Ok(bytes) = read() else { return Vec::new() };
        self.at += bytes.len() as u64;
        self.partial.extend(bytes);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }
}

/// Whether a line of nats-server, Redis or ourselves is a warning or worse.
fn is_warning(line: &str) -> bool {
    // `[pid] date time [WRN] …`
    if ["[WRN]", "[ERR]", "[FTL]"].iter().any(|mark| line.contains(mark)) {
        return true;
    }
    let mut words = line.split_whitespace();
    let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if first.contains('T') && matches!(second, "WARN" | "ERROR") {
        return true;
    }
    // `pid:M 21 Nov 2026 06:00:00.000 # …`: the fifth word is the level.
    // What it says about the kernel's settings at every start matters in production only.
    first.ends_with(":M") && words.nth(3) == Some("#") && !line.contains("Memory overcommit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_apart_in_every_server_s_own_format() {
        for line in [
            "[7] 2026/11/21 06:00:00.1 [WRN] JetStream is slow",
            "2026-11-21T06:00:00.1Z  WARN selvedge::bus: disconnected",
            "7:M 21 Nov 2026 06:00:00.123 # Out of memory",
        ] {
            assert!(is_warning(line), "{line}");
        }
        for line in [
            "[7] 2026/11/21 06:00:00.1 [INF] Server is ready",
            "2026-11-21T06:00:00.1Z  INFO selvedge: WARN is only a word here",
            "7:M 21 Nov 2026 06:00:00.123 * Ready to accept connections",
            "",
        ] {
            assert!(!is_warning(line), "{line}");
        }
    }

    #[test]
    fn a_line_is_told_once_and_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "a [ERR] old\n").unwrap();
        let mut tail = Tail::from_now(vec![("nats".into(), path.clone())]);
        assert!(tail.warnings().is_empty());
        let append = |text: &str| {
            use std::io::Write;
            File::options().append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
        };
        append("b [ERR] half");
        assert!(tail.warnings().is_empty());
        append(" and whole\nc [INF] fine\n");
        assert_eq!(tail.warnings(), [("nats".to_owned(), "b [ERR] half and whole".to_owned())]);
        std::fs::write(&path, "[FTL] anew\n").unwrap();
        assert_eq!(tail.warnings().len(), 1);
        assert!(tail.warnings().is_empty());
    }
}
