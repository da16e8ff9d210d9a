//! Which `nats-server` and which Redis to run: flag or variable, `PATH`, our cache, an installation.
//!
//! Owns the order and the version floors. Every place that was passed over is remembered with its reason, so that
//! the final error (or the first screen) can say "found 2.9.10 at /usr/bin/nats-server, need >= 2.15.1".

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Error, install};

/// A server Selvedge can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `nats-server`.
    Nats,
    /// `redis-server` or `valkey-server`.
    Redis,
}

impl Program {
    /// Executable names, best first.
    fn executables(self) -> &'static [&'static str] {
        match self {
            Program::Nats => &["nats-server"],
            Program::Redis => &["valkey-server", "redis-server"],
        }
    }

    /// The variable that names an executable.
    pub fn variable(self) -> &'static str {
        match self {
            Program::Nats => "SELVEDGE_NATS_SERVER",
            Program::Redis => "SELVEDGE_REDIS_SERVER",
        }
    }

    /// Ways to get one by hand.
    pub fn how_to_get(self) -> String {
        let pip = install::by_hand(self);
        match self {
            Program::Nats => {
                format!("install it with `brew install nats-server`, or `{pip}` and set {}", self.variable())
            }
            Program::Redis => format!(
                "install it with `apt install redis-server` or `brew install valkey`, or `{pip}` and set {}",
                self.variable()
            ),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Program::Nats => "nats-server (>= 2.15.1)",
            Program::Redis => "Redis (>= 7.0) or Valkey server",
        })
    }
}

/// A dotted version; what follows the third number is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Reads `2.15.1`, `v2.15.1-beta`, `7.0`.
    pub fn parse(text: &str) -> Option<Version> {
        let mut numbers = text.trim_start_matches('v').split('.').map(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u32>().ok()
        });
        let major = numbers.next()??;
        let minor = numbers.next()??;
        Some(Version(major, minor, numbers.next().flatten().unwrap_or(0)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Where an executable came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag or variable named it.
    Explicit,
    /// `PATH`.
    Path,
    /// Our cache.
    Cache,
    /// Just installed into our cache.
    Installed,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Explicit => "as given",
            Origin::Path => "PATH",
            Origin::Cache => "cache",
            Origin::Installed => "just installed",
        })
    }
}

/// An executable that will do.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it is.
    pub program: Program,
    /// Where it is.
    pub path: PathBuf,
    /// `nats-server`, `Redis` or `Valkey`.
    pub product: &'static str,
    /// Its version.
    pub version: Version,
    /// Which step found it.
    pub origin: Origin,
    /// What was passed over before it, and why.
    pub passed_over: Vec<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.product, self.version, self.origin)
    }
}

type Reporter = Arc<dyn Fn(&str) + Send + Sync>;

/// The search, with everything it depends on spelled out so that tests can bend it.
#[derive(Clone)]
pub struct Resolver {
    explicit: Option<(String, PathBuf)>,
    variables: bool,
    path: OsString,
    pub(super) cache: Option<PathBuf>,
    pub(super) offline: bool,
    pub(super) report: Reporter,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::from_env()
    }
}

impl Resolver {
    /// The search as the environment describes it: `PATH`, `SELVEDGE_CACHE_DIR`, `XDG_CACHE_HOME`, `HOME`.
    pub fn from_env() -> Resolver {
        Resolver {
            explicit: None,
            variables: true,
            path: std::env::var_os("PATH").unwrap_or_default(),
            cache: cache_dir(|name| std::env::var_os(name)),
            offline: false,
            report: Arc::new(|_| {}),
        }
    }

    /// An executable named by a flag (`by` is the flag, for messages); it beats the variable.
    pub fn explicit(mut self, by: &str, path: Option<PathBuf>) -> Resolver {
        self.explicit = path.map(|path| (by.to_owned(), path));
        self
    }

    /// Takes no notice of the variables that name executables.
    pub fn without_variables(mut self) -> Resolver {
        self.variables = false;
        self
    }

    /// Searches this instead of `PATH`; installers are looked up there, too.
    pub fn path(mut self, path: impl Into<OsString>) -> Resolver {
        self.path = path.into();
        self
    }

    /// Caches here instead.
    pub fn cache(mut self, dir: impl Into<PathBuf>) -> Resolver {
        self.cache = Some(dir.into());
        self
    }

    /// Forbids fetching anything.
    pub fn offline(mut self, offline: bool) -> Resolver {
        self.offline = offline;
        self
    }

    /// Called with one line before anything is fetched, and again if an installer fails and the next one is tried.
    pub fn reporter(mut self, report: impl Fn(&str) + Send + Sync + 'static) -> Resolver {
        self.report = Arc::new(report);
        self
    }

    /// Finds the program, installing it if it must. Blocks (up to a minute when it installs).
    pub fn resolve(&self, program: Program) -> Result<Found, Error> {
        let named = self.explicit.clone().or_else(|| {
            let value =
                std::env::var_os(program.variable()).filter(|value| self.variables && !value.is_empty())?;
            Some((program.variable().to_owned(), PathBuf::from(value)))
        });
        if let Some((by, path)) = named {
            return inspect(program, &path, Origin::Explicit).map_err(|reason| Error::Explicit {
                by,
                path,
                reason,
            });
        }
        let mut passed_over = Vec::new();
        for candidate in self.on_path(program.executables()) {
            match inspect(program, &candidate, Origin::Path) {
                Ok(found) => return Ok(Found { passed_over, ..found }),
                Err(reason) => passed_over.push(reason),
            }
        }
        if passed_over.is_empty() {
            passed_over.push(format!("no {} in PATH", program.executables().join(" or ")));
        }
        match install::cached_or_installed(self, program, &mut passed_over) {
            Some((path, origin)) => match inspect(program, &path, origin) {
                Ok(found) => Ok(Found { passed_over, ..found }),
                Err(reason) => {
                    passed_over.push(reason);
                    Err(Error::NotFound { program, looked: passed_over })
                }
            },
            None => Err(Error::NotFound { program, looked: passed_over }),
        }
    }

    /// Executables of these names in `PATH` order, best name first within a directory.
    pub(super) fn on_path(&self, names: &[&str]) -> Vec<PathBuf> {
        std::env::split_paths(&self.path)
            .filter(|dir| dir.is_absolute())
            .flat_map(|dir| names.iter().map(move |name| dir.join(name)).collect::<Vec<_>>())
            .filter(|path| path.is_file())
            .collect()
    }

    pub(super) fn search_path(&self) -> &OsString {
        &self.path
    }
}

/// `SELVEDGE_CACHE_DIR`, else `$XDG_CACHE_HOME/selvedge`, else `~/.cache/selvedge` (on macOS too: one rule to explain).
fn cache_dir(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("SELVEDGE_CACHE_DIR")
        .or_else(|| set("XDG_CACHE_HOME").filter(|dir| dir.is_absolute()).map(|dir| dir.join("selvedge")))
        .or_else(|| set("HOME").map(|home| home.join(".cache").join("selvedge")))
}

/// Asks an executable for its version and holds it against the floor.
pub(super) fn inspect(program: Program, path: &Path, origin: Origin) -> Result<Found, String> {
    let said = ask_version(path).map_err(|why| format!("{} does not run: {why}", path.display()))?;
    let (product, version) =
        read_version(program, &said).ok_or_else(|| format!("{} is not a {program}", path.display()))?;
    let floor = match product {
        "nats-server" => Version(2, 15, 1),
        "Redis" => Version(7, 0, 0),
        _ => Version(0, 0, 0),
    };
    if version < floor {
        return Err(format!("found {version} at {}, need >= {floor}", path.display()));
    }
    Ok(Found { program, path: path.to_owned(), product, version, origin, passed_over: Vec::new() })
}

fn read_version(program: Program, said: &str) -> Option<(&'static str, Version)> {
    let after = |mark: &str| said.split(mark).nth(1)?.split_whitespace().next().and_then(Version::parse);
    match program {
        Program::Nats => Some(("nats-server", after("nats-server: v")?)),
        Program::Redis if said.contains("Valkey") => Some(("Valkey", after("v=")?)),
        Program::Redis if said.contains("Redis") => Some(("Redis", after("v=")?)),
        Program::Redis => None,
    }
}

/// Runs `path --version`; a wrapper that hangs is given up after five seconds.
fn ask_version(path: &Path) -> Result<String, String> {
    let mut child = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("no answer to --version within 5 s".to_owned());
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("--version ended with {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_servers_say() {
        let nats = read_version(Program::Nats, "nats-server: v2.15.1\n");
        assert_eq!(nats, Some(("nats-server", Version(2, 15, 1))));
        let valkey = read_version(Program::Redis, "Valkey server v=9.1.2 sha=00000000:0 malloc=libc bits=64");
        assert_eq!(valkey, Some(("Valkey", Version(9, 1, 2))));
        let redis = read_version(Program::Redis, "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc");
        assert_eq!(redis, Some(("Redis", Version(7, 0, 15))));
        assert_eq!(read_version(Program::Redis, "nats-server: v2.15.1"), None);
    }

    #[test]
    fn versions_compare_by_number_not_by_text() {
        assert!(Version::parse("2.9.10") < Version::parse("2.15.1"));
        assert_eq!(Version::parse("v2.15.1-beta.3"), Some(Version(2, 15, 1)));
        assert_eq!(Version::parse("soon"), None);
    }

    #[test]
    fn the_cache_directory_follows_the_variables_in_order() {
        let with = |vars: &'static [(&str, &str)]| {
            cache_dir(move |name| {
                vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            })
        };
        assert_eq!(with(&[("HOME", "/h")]), Some("/h/.cache/selvedge".into()));
        assert_eq!(with(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x/selvedge".into()));
        assert_eq!(with(&[("XDG_CACHE_HOME", "/x"), ("SELVEDGE_CACHE_DIR", "/s")]), Some("/s".into()));
    }
}
