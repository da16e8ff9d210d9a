//! Which files of a directory the demo reads.
//!
//! Owns the rules of inclusion (written down in [`super`]) and the list of what was left out, with
//! reasons. Never follows a symlink, never opens anything but regular files, never fails because an
//! entry vanished, is unreadable or has an odd name: that entry is reported and the walk goes on.
//! Called by the planner. Invariant: the same tree gives the same list.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::parse::{ReadError, open_regular, sniff_binary};

/// Directories that hold what tools made, not what people wrote.
pub const EXCLUDED_DIRS: [&str; 4] = ["target", "node_modules", "__pycache__", "venv"];

/// Bounds of one walk.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The walk stops when it has found this many files.
    pub max_files: usize,
    /// Larger files are left out.
    pub max_file_bytes: u64,
    /// Longer relative paths are left out, in bytes.
    pub max_path_bytes: usize,
    /// The walk stops after looking at this many directory entries.
    pub max_entries: usize,
    /// How many left-out entries are listed by name; all are counted.
    pub max_listed: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_files: 20_000,
            max_file_bytes: 1 << 20,
            max_path_bytes: 1024,
            max_entries: 1_000_000,
            max_listed: 200,
        }
    }
}

/// Why an entry was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Its name starts with a dot.
    Hidden,
    /// A directory of [`EXCLUDED_DIRS`].
    Excluded,
    /// A symbolic link.
    Symlink,
    /// A socket, pipe or device.
    NotAFile,
    /// Larger than [`Limits::max_file_bytes`].
    TooLarge,
    /// A NUL byte near its beginning.
    Binary,
    /// Its name is not UTF-8.
    NotUtf8,
    /// Its path is longer than [`Limits::max_path_bytes`].
    PathTooLong,
    /// It was listed but gone when looked at.
    Vanished,
    /// The system refused to open it.
    Unreadable,
    /// The task that should have read it did not complete.
    TaskFailed,
}

impl SkipReason {
    /// The reason as a person reads it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Excluded => "excluded directory",
            Self::Symlink => "symbolic link",
            Self::NotAFile => "not a regular file",
            Self::TooLarge => "larger than 1 MiB",
            Self::Binary => "binary",
            Self::NotUtf8 => "name is not UTF-8",
            Self::PathTooLong => "path too long",
            Self::Vanished => "vanished while reading",
            Self::Unreadable => "not readable",
            Self::TaskFailed => "its task did not complete",
        }
    }
}

/// One entry that was left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Skipped {
    /// Relative to the root; invalid UTF-8 replaced, so for showing only.
    pub path: String,
    /// Why.
    pub reason: SkipReason,
}

/// What was left out: exact counts, and the first entries by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omissions {
    /// Per reason.
    pub counts: BTreeMap<SkipReason, u64>,
    /// The first [`Limits::max_listed`].
    pub listed: Vec<Skipped>,
}

impl Omissions {
    /// Counts one entry and lists it while there is room.
    pub fn add(&mut self, path: String, reason: SkipReason, max_listed: usize) {
        *self.counts.entry(reason).or_default() += 1;
        if self.listed.len() < max_listed {
            self.listed.push(Skipped { path, reason });
        }
    }

    /// How many entries were left out.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// The result of a walk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    /// Relative to the root, with `/`, in walk order.
    pub files: Vec<String>,
    /// What was left out.
    pub omissions: Omissions,
    /// Set if a limit ended the walk: a sentence that says which.
    pub stopped: Option<String>,
}

/// The root itself cannot be walked.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// It is a file or something else.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// It does not exist or may not be listed.
    #[error("cannot read the directory {}: {source}", path.display())]
    Unreadable {
        /// The root as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Walks `root` with the default [`Limits`]. Blocking: call it off the async threads.
pub fn walk(root: &Path) -> Result<Walk, WalkError> {
    walk_with(root, Limits::default())
}

/// Walks `root` within `limits`.
pub fn walk_with(root: &Path, limits: Limits) -> Result<Walk, WalkError> {
    let unreadable = |source| WalkError::Unreadable { path: root.to_owned(), source };
    if !root.metadata().map_err(unreadable)?.is_dir() {
        return Err(WalkError::NotADirectory(root.to_owned()));
    }
    let mut walk = Walk::default();
    let mut seen = 0;
    // A stack of entries still to visit, the next on top: no recursion, however deep the tree.
    let mut pending = children(root, "").map_err(unreadable)?;
    while let Some(entry) = pending.pop() {
        seen += 1;
        if seen > limits.max_entries {
            walk.stopped = Some(format!("stopped after {} directory entries", limits.max_entries));
            break;
        }
        match judge(root, &entry, limits) {
            Ok(Found::File(_)) if walk.files.len() >= limits.max_files => {
                walk.stopped = Some(format!(
                    "stopped at {} files; the rest of the directory was not read",
                    limits.max_files
                ));
                break;
            }
            Ok(Found::File(rel)) => walk.files.push(rel),
            Ok(Found::Dir(rel)) => match children(&root.join(&rel), &rel) {
                Ok(mut more) => pending.append(&mut more),
                Err(error) => walk.omissions.add(rel, reason_of(&error), limits.max_listed),
            },
            Err(reason) => walk.omissions.add(entry.shown(), reason, limits.max_listed),
        }
    }
    Ok(walk)
}

struct Entry {
    parent: String,
    name: OsString,
}

impl Entry {
    fn join(&self, name: &str) -> String {
        match self.parent.as_str() {
            "" => name.to_owned(),
            parent => format!("{parent}/{name}"),
        }
    }

    fn shown(&self) -> String {
        self.join(&self.name.to_string_lossy())
    }
}

enum Found {
    File(String),
    Dir(String),
}

fn judge(root: &Path, entry: &Entry, limits: Limits) -> Result<Found, SkipReason> {
    if entry.name.as_encoded_bytes().starts_with(b".") {
        return Err(SkipReason::Hidden);
    }
    let name = entry.name.to_str().ok_or(SkipReason::NotUtf8)?;
    let rel = entry.join(name);
    if rel.len() > limits.max_path_bytes {
        return Err(SkipReason::PathTooLong);
    }
    let path = root.join(&rel);
    let meta = path.symlink_metadata().map_err(|error| reason_of(&error))?;
    if meta.is_symlink() {
        Err(SkipReason::Symlink)
    } else if meta.is_dir() {
        if EXCLUDED_DIRS.contains(&name) { Err(SkipReason::Excluded) } else { Ok(Found::Dir(rel)) }
    } else if !meta.is_file() {
        Err(SkipReason::NotAFile)
    } else if meta.len() > limits.max_file_bytes {
        Err(SkipReason::TooLarge)
    } else {
        let file = open_regular(&path).map_err(|error| error.reason())?;
        match sniff_binary(file) {
            Ok(true) => Err(SkipReason::Binary),
            Ok(false) => Ok(Found::File(rel)),
            Err(error) => Err(ReadError::from(error).reason()),
        }
    }
}

/// The entries of a directory, the last by name first, ready to be popped.
fn children(dir: &Path, rel: &str) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        entries.push(Entry { parent: rel.to_owned(), name: entry?.file_name() });
    }
    entries.sort_unstable_by(|a, b| b.name.as_encoded_bytes().cmp(a.name.as_encoded_bytes()));
    Ok(entries)
}

pub(super) fn reason_of(error: &io::Error) -> SkipReason {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => SkipReason::Vanished,
        _ => SkipReason::Unreadable,
    }
}

#[cfg(test)]
#[path = "walk_test.rs"]
mod tests;
