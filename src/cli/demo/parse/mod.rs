//! Reads one file and makes its card.
//!
//! Owns opening a file safely (a path from a task's payload is not to be trusted), the counts, and
//! the way from bytes to a [`FileCard`]. Never reads outside the root, never through a symlink, never
//! more than [`MAX_FILE_BYTES`]. Called by readers; [`super::walk`] shares the way of opening.

mod code;
mod data;
pub mod mask;
mod mentions;
mod prose;
pub mod scan;
mod terms;

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Component, Path};

use super::card::{Counts, Dropped, FileCard, FileKind, Symbol, SymbolKind, clip};
use super::walk::{SkipReason, reason_of};

/// Larger files are refused.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// A NUL among this many first bytes makes a file binary.
pub const SNIFF_BYTES: usize = 8192;

/// Why a file has no card.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Absolute, empty, or with `..`: not a path below the root.
    #[error("not a path below the root")]
    OutsideRoot,
    /// The path is, or leads through, a symbolic link.
    #[error("a symbolic link")]
    Symlink,
    /// A directory, pipe, socket or device.
    #[error("not a regular file")]
    NotAFile,
    /// It is larger than [`MAX_FILE_BYTES`].
    #[error("larger than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// It has a NUL byte near its beginning.
    #[error("binary")]
    Binary,
    /// It was there when the directory was walked.
    #[error("vanished")]
    Vanished,
    /// The system refused.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match reason_of(&error) {
            SkipReason::Vanished => Self::Vanished,
            _ => Self::Unreadable(error),
        }
    }
}

impl ReadError {
    /// The reason as the digest lists it.
    pub fn reason(&self) -> SkipReason {
        match self {
            Self::OutsideRoot | Self::Unreadable(_) => SkipReason::Unreadable,
            Self::Symlink => SkipReason::Symlink,
            Self::NotAFile => SkipReason::NotAFile,
            Self::TooLarge => SkipReason::TooLarge,
            Self::Binary => SkipReason::Binary,
            Self::Vanished => SkipReason::Vanished,
        }
    }
}

/// Reads and parses `rel` below `root`. Blocking: call it off the async threads.
pub fn read_file(root: &Path, rel: &str) -> Result<FileCard, ReadError> {
    let mut path = root.to_owned();
    let mut parts = Path::new(rel).components().peekable();
    if parts.peek().is_none() {
        return Err(ReadError::OutsideRoot);
    }
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else {
            return Err(ReadError::OutsideRoot);
        };
        path.push(name);
        // The last component is judged on the open file, which nobody can exchange any more.
        if parts.peek().is_some() && path.symlink_metadata()?.is_symlink() {
            return Err(ReadError::Symlink);
        }
    }
    let mut source = Vec::new();
    open_regular(&path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut source)?;
    if source.len() as u64 > MAX_FILE_BYTES {
        return Err(ReadError::TooLarge);
    }
    if source[..source.len().min(SNIFF_BYTES)].contains(&0) {
        return Err(ReadError::Binary);
    }
    Ok(parse(rel, &source))
}

/// Makes the card of a file's content. Pure; any bytes will do.
pub fn parse(rel: &str, source: &[u8]) -> FileCard {
    let kind = FileKind::of(rel);
    let headings = match kind {
        FileKind::Markdown => prose::headings(source),
        _ => Vec::new(),
    };
    let symbols = match kind {
        FileKind::Toml | FileKind::Json | FileKind::Yaml => data::keys(source, kind),
        _ => code::symbols(source, kind),
    };
    let mut counts = Counts {
        bytes: source.len() as u64,
        lines: scan::lines(source).count() as u64,
        words: source.split(|byte| scan::is_space(*byte)).filter(|word| !word.is_empty()).count() as u64,
        headings: headings.len() as u64,
        ..Counts::default()
    };
    for symbol in &symbols {
        *counts.symbols.entry(symbol.kind).or_default() += 1;
    }
    let text = String::from_utf8_lossy(source);
    let (terms, keywords) = terms::keywords(&text);
    FileCard {
        path: rel.to_owned(),
        kind,
        counts,
        terms,
        keywords,
        headings,
        symbols,
        paths: mentions::paths(&text),
        names: mentions::names(&text, kind.is_code()),
        dropped: Dropped::default(),
    }
    .bounded()
}

/// Opens a regular file, without waiting for a pipe's other end and without following a link.
pub(super) fn open_regular(path: &Path) -> Result<File, ReadError> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
    }
    let file = options.open(path).map_err(|error| match path.symlink_metadata() {
        Ok(meta) if meta.is_symlink() => ReadError::Symlink,
        Ok(meta) if !meta.is_file() => ReadError::NotAFile,
        _ => error.into(),
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(ReadError::NotAFile) }
}

/// Whether the file begins like a binary.
pub(super) fn sniff_binary(file: File) -> io::Result<bool> {
    let mut head = Vec::with_capacity(SNIFF_BYTES);
    file.take(SNIFF_BYTES as u64).read_to_end(&mut head)?;
    Ok(head.contains(&0))
}

/// A symbol whose name is cut to its bound; `at` is its offset in the source.
fn symbol(kind: SymbolKind, name: &[u8], line: u32) -> Symbol {
    let name = String::from_utf8_lossy(name);
    Symbol { kind, name: clip(&name, super::card::MAX_NAME_BYTES).to_owned(), line }
}

/// Turns growing offsets into line numbers, from 1, in one pass over the source.
struct LineNumbers<'a> {
    source: &'a [u8],
    at: usize,
    line: u32,
}

impl<'a> LineNumbers<'a> {
    fn new(source: &'a [u8]) -> Self {
        Self { source, at: 0, line: 1 }
    }

    fn of(&mut self, offset: usize) -> u32 {
        let passed = &self.source[self.at..offset.max(self.at)];
        self.line += passed.iter().filter(|byte| **byte == b'\n').count() as u32;
        self.at = offset.max(self.at);
        self.line
    }
}

#[cfg(test)]
#[path = "parse_test.rs"]
mod tests;
