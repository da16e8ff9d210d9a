//! Python packages of the examples, hash-pinned, installed once per target directory by the first test that asks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

/// Those of `examples/requirements.txt`.
pub async fn packages() -> PathBuf {
    of("examples/requirements.txt", "worker-py", &[]).await
}

/// Those of `examples/bridge/requirements.txt`, of which one is to be built.
pub async fn bridge_packages() -> PathBuf {
    of("examples/bridge/requirements.txt", "bridge-py", &["--no-binary=nkeys"]).await
}

async fn of(requirements: &'static str, name: &'static str, more: &'static [&'static str]) -> PathBuf {
    tokio::task::spawn_blocking(move || installed(requirements, name, more)).await.unwrap()
}

fn installed(requirements: &str, name: &str, more: &[&str]) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join(requirements);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-packages"));
    // What was pinned when they were installed: another pin, another installation.
    let (pins, stamp) = (fs::read(&requirements).unwrap(), dir.join("installed-from.txt"));
    if fs::read(&stamp).is_ok_and(|found| found == pins) {
        return dir;
    }
    let fresh = dir.with_extension(std::process::id().to_string());
    let pinned = ["--require-hashes", "--no-deps", "--only-binary=:all:"];
    let tries: [&[&str]; 2] = [&["python3", "-m", "pip", "install"], &["uv", "pip", "install"]];
    for words in tries {
        let done = Command::new(words[0])
            .args(&words[1..])
            .args(pinned)
            .args(more)
            .arg("--target")
            .arg(&fresh)
            .arg("-r")
            .arg(&requirements)
            .stdout(Stdio::null())
            .status();
        if done.is_ok_and(|status| status.success()) {
            // Whole or not at all, whoever else installs them.
            fs::write(fresh.join("installed-from.txt"), &pins).unwrap();
            let _none = fs::remove_dir_all(&dir);
            if fs::rename(&fresh, &dir).is_err() {
                assert!(fs::read(&stamp).is_ok_and(|found| found == pins), "{} is in the way", dir.display());
                let _ours = fs::remove_dir_all(&fresh);
            }
            return dir;
        }
    }
    panic!("neither pip nor uv could install {}", requirements.display());
}
