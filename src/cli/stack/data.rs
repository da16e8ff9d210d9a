//! Where a stack keeps its files: a directory that one stack at a time may use.
//!
//! A kept directory is locked for as long as we live (the kernel gives the lock back, however we end); an ephemeral
//! one is ours alone and removed at the end. Nothing but what we made ourselves is ever removed from a kept one.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cli::failure::{Exit, Failure};

/// What we make in a data directory, and what `--reset` removes.
const OURS: [&str; 3] = ["nats", "redis", "logs"];
const CONFIG: &str = "selvedge.toml";
/// A log above this size is put aside at the start.
const LARGE_LOG: u64 = 16 << 20;

/// Streams on a developer's disk; the defaults are meant for servers.
const CONFIG_TEXT: &str = "\
# Written by `selvedge dev` at every start; use `selvedge dev --config FILE` for settings of your own.
[coordinator]
intake_max_bytes = \"256MiB\"
reports_max_bytes = \"256MiB\"
events_max_bytes = \"256MiB\"
journal_max_bytes = \"2GiB\"
steps_max_bytes = \"1GiB\"
";

/// See the module.
pub struct DataDir {
    path: PathBuf,
    /// Held open: closing it gives the lock back.
    _lock: Option<File>,
    remove: bool,
}

impl DataDir {
    /// A directory that stays, locked against other stacks. `reset` empties it first.
    pub fn kept(path: &Path, reset: bool) -> Result<DataDir> {
        let shown = path.display().to_string();
        fs::create_dir_all(path).with_context(|| format!("cannot create {shown}"))?;
        let path = path.canonicalize().with_context(|| format!("cannot use {shown}"))?;
        if let Some(parent) = path.parent().filter(|parent| parent.ends_with(".selvedge")) {
            ignore_in_git(parent);
        }
        let lock = lock(&path.join("lock"), &shown)?;
        if reset {
            for name in OURS {
                match fs::remove_dir_all(path.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error).with_context(|| format!("cannot remove {name} in {shown}"));
                    }
                    _ => {}
                }
            }
        }
        let dir = DataDir { path, _lock: Some(lock), remove: false };
        dir.prepare()?;
        Ok(dir)
    }

    /// A fresh directory that is removed at the end.
    pub fn ephemeral() -> Result<DataDir> {
        let name = format!("selvedge-{}-{}", std::process::id(), uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot create {}", path.display()))?;
        let dir = DataDir { path, _lock: None, remove: true };
        dir.prepare()?;
        Ok(dir)
    }

    fn prepare(&self) -> Result<()> {
        for name in OURS {
            let dir = self.dir(name);
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        for name in OURS {
            for log in fs::read_dir(self.dir(name)).into_iter().flatten().flatten().map(|entry| entry.path())
            {
                let large = log.metadata().is_ok_and(|meta| meta.len() > LARGE_LOG);
                if large && log.extension().is_some_and(|kind| kind == "log") {
                    // If it cannot be put aside it merely goes on growing.
                    let _ = fs::rename(&log, log.with_extension("log.old"));
                }
            }
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One of its parts.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether it goes away at the end.
    pub fn is_ephemeral(&self) -> bool {
        self.remove
    }

    /// Leaves an ephemeral directory where it is.
    pub(super) fn keep(&mut self) -> &Path {
        self.remove = false;
        &self.path
    }

    /// Writes the coordinator's configuration.
    pub(super) fn write_config(&self) -> Result<PathBuf> {
        let file = self.path.join(CONFIG);
        fs::write(&file, CONFIG_TEXT).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.remove {
            // Best effort: a temporary directory that stays is swept by the system.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Makes git pass over a directory of ours, without touching anybody's own `.gitignore`.
pub fn ignore_in_git(dir: &Path) {
    let file = dir.join(".gitignore");
    if !file.exists() {
        // Not worth failing for.
        let _ = fs::write(file, "*\n");
    }
}

fn lock(path: &Path, shown: &str) -> Result<File> {
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(path).unwrap_or_default();
            let holder = holder.trim().parse::<u32>();
            let by = holder.map_or("another process".to_owned(), |pid| format!("pid {pid}"));
            Err(Failure::new(Exit::Temporary, "DATA_IN_USE", format!("{shown} is in use by {by}"))
                .help("stop that one, or keep this one's data elsewhere: --data DIR, or --ephemeral")
                .into())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {shown}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_stacks_never_share_a_directory_and_a_dead_one_does_not_block_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(".selvedge/dev");
        let first = DataDir::kept(&path, false).unwrap();
        let error = DataDir::kept(&path, false).err().unwrap();
        let failure = error.downcast::<Failure>().unwrap();
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::Temporary, "DATA_IN_USE"));
        assert!(failure.what.contains(&std::process::id().to_string()), "{}", failure.what);
        drop(first);
        DataDir::kept(&path, false).unwrap();
        assert_eq!(fs::read_to_string(temp.path().join(".selvedge/.gitignore")).unwrap(), "*\n");
    }

    #[test]
    fn a_reset_removes_what_we_made_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("precious"), "mine").unwrap();
        fs::create_dir_all(temp.path().join("nats/jetstream")).unwrap();
        let dir = DataDir::kept(temp.path(), true).unwrap();
        assert!(!dir.dir("nats").join("jetstream").exists());
        assert_eq!(fs::read_to_string(temp.path().join("precious")).unwrap(), "mine");
    }

    #[test]
    fn an_ephemeral_directory_is_gone_afterwards() {
        let dir = DataDir::ephemeral().unwrap();
        let path = dir.path().to_owned();
        assert!(path.join("logs").is_dir());
        drop(dir);
        assert!(!path.exists());
    }
}
