//! `selvedge demo` as people run it: the real binary, real processes, real kills.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::binary::{
    Started, assert_nothing_left, pid_of, pids, read_json, runs, selvedge, send, wait_for,
};

const FILES: usize = 320;

/// Some hundred files of every kind, and some that must not be read.
fn directory(root: &Path) {
    for n in 0..FILES {
        let (name, text) = match n % 8 {
            0 => (
                format!("docs/page{n}.md"),
                format!(
                    "---\ntitle: x\n---\n# Page {n}\n\nSee `src/part{}.rs` and weave{}.\n\nMore\n====\n\n```\n# no\n```\n",
                    n + 1,
                    n + 1
                ),
            ),
            1 => (
                format!("src/part{n}.rs"),
                format!(
                    "//! Part {n}.\npub struct Loom{n};\nimpl Loom{n} {{}}\n/* fn no() */\npub fn weave{n}() -> &'static str {{ \"fn no\" }}\n"
                ),
            ),
            2 => (
                format!("py/mod{n}.py"),
                format!(
                    "\"\"\"def no(): pass\"\"\"\nclass Shuttle{n}:\n    async def throw(self):\n        return weave{n}\n"
                ),
            ),
            3 => (format!("conf/c{n}.toml"), format!("name = \"c{n}\"\n[warp]\nthreads = {n}\n")),
            4 => (format!("conf/d{n}.json"), format!("{{\"weft\": {n}, \"warp\": [1, 2]}}\n")),
            5 => (
                format!("go/g{n}.go"),
                format!("package g\n\ntype Bobbin{n} struct{{}}\n\nfunc (b Bobbin{n}) Wind() {{}}\n"),
            ),
            6 => (
                format!("web/w{n}.ts"),
                format!(
                    "export interface Reed{n} {{}}\nexport const beat{n} = 1;\nexport function lay{n}() {{}}"
                ),
            ),
            _ => (format!("notes/n{n}.txt"), format!("plain words {n}\r\nand some more\n")),
        };
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    fs::write(root.join("blob.bin"), [1, 0, 2]).expect("a file");
    fs::write(root.join(".hidden"), "x").expect("a file");
    fs::create_dir_all(root.join("target")).expect("a directory");
    fs::write(root.join("target/out.rs"), "fn no() {}").expect("a file");
}

/// What an independent count in another language says.
fn recount(root: &Path) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/demo_recount.py");
    let output = Command::new("python3").arg(script).arg(root).output().expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Counts without what one side leaves out: empty maps, and what an old Python could not count.
fn comparable(mut value: Value, other: &Value) -> Value {
    if let (Value::Object(map), other) = (&mut value, other) {
        map.retain(|key, value| *value != json!({}) && !value.is_null() && !other[key].is_null());
        for (key, value) in map.iter_mut() {
            *value = comparable(value.take(), &other[key]);
        }
    }
    value
}

#[test]
fn the_demo_counts_right_although_a_reader_and_the_coordinator_are_killed_in_the_middle() {
    let temp = tempfile::tempdir().unwrap();
    let (root, status_file) = (temp.path().join("input"), temp.path().join("status.json"));
    directory(&root);
    let mut command = selvedge(temp.path());
    command.arg("demo").arg(&root).args([
        "--json",
        "--pace",
        "40ms",
        "--readers",
        "2",
        "--output",
        "digest.md",
    ]);
    command.arg("--status-file").arg(&status_file);
    let demo = Started::of(command);

    let mut seen = BTreeSet::new();
    let mut read_at_least = |n: u64| {
        wait_for(&format!("{n} files are read"), || {
            let status = read_json(&status_file)?;
            seen.extend(pids(&status));
            (status["tasks"]["reader"]["done"].as_u64()? >= n).then_some(status)
        })
    };
    let status = read_at_least(20);
    let reader = pid_of(&status, "reader-1").expect("it runs");
    send(reader, libc::SIGKILL);
    let status = read_at_least(60);
    send(pid_of(&status, "coordinator").expect("it runs"), libc::SIGKILL);
    let status = read_at_least(100);
    assert_eq!(status["phase"], "running", "killed too late to prove anything");
    assert_ne!(pid_of(&status, "reader-1"), Some(reader), "another process reads now");

    let (ended, output) = demo.end();
    assert!(ended.success(), "{ended}");
    let report: Value = serde_json::from_str(&output).expect("one JSON object and nothing else");
    assert_eq!(report["restarts"], 2);
    let theirs = recount(&root);
    let ours = json!({ "files": report["files"], "totals": report["totals"], "kinds": report["kinds"] });
    assert_eq!(comparable(ours.clone(), &theirs), comparable(theirs, &ours));
    assert_eq!(report["files"], FILES);
    assert_eq!(report["left_out"], json!({ "hidden": 1, "excluded": 1, "binary": 1 }));
    let page = fs::read_to_string(temp.path().join("digest.md")).expect("the digest");
    assert!(page.starts_with("# What is in `input`"), "{page}");

    let last = read_json(&status_file).expect("a status");
    assert_eq!(last["phase"], "ended");
    seen.extend(pids(&last));
    assert!(seen.len() >= 9, "seven processes, two of them twice: {seen:?}");
    assert_nothing_left(&last, &seen.into_iter().collect::<Vec<_>>());
    assert!(!Path::new(last["data"].as_str().expect("a path")).exists(), "the data is removed");
}

#[test]
fn every_process_of_the_demo_may_be_killed_once() {
    let temp = tempfile::tempdir().unwrap();
    let (root, status_file) = (temp.path().join("input"), temp.path().join("status.json"));
    directory(&root);
    let mut command = selvedge(temp.path());
    command.arg("demo").arg(&root).args(["--json", "--pace", "60ms", "--status-file"]).arg(&status_file);
    let demo = Started::of(command);
    let kills = ["planner", "nats-server", "reader-1", "redis", "coordinator", "librarian", "reader-2"];
    for (n, name) in kills.iter().enumerate() {
        let pid = wait_for(&format!("{name} runs, {n} were killed"), || {
            let status = read_json(&status_file)?;
            let read = status["tasks"]["reader"]["done"].as_u64()?;
            assert_eq!(status["phase"], "running", "ended before {name} was killed");
            (read >= 10 * (n as u64 + 1)).then(|| pid_of(&status, name)).flatten()
        });
        send(pid, libc::SIGKILL);
    }
    let (ended, output) = demo.end();
    assert!(ended.success(), "{ended}");
    let report: Value = serde_json::from_str(&output).expect("one JSON object");
    assert_eq!(report["files"], FILES);
    // One that found no server when it came back is started once more.
    assert!(report["restarts"].as_u64() >= Some(kills.len() as u64), "{}", report["restarts"]);
    assert_eq!(report["totals"]["lines"], recount(&root)["totals"]["lines"]);
}

#[test]
fn a_server_that_was_given_is_used_and_left_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let (root, status_file) = (temp.path().join("input"), temp.path().join("status.json"));
    directory(&root);
    let mut command = selvedge(temp.path());
    command.args([
        "dev",
        "--ephemeral",
        "--json",
        "--nats-port",
        "0",
        "--redis-port",
        "0",
        "--admin-port",
        "0",
    ]);
    let mut dev = Started::of(command);
    let told: Value = serde_json::from_str(&dev.line()).expect("one line of JSON");
    for round in 0..2 {
        let mut command = selvedge(temp.path());
        command.arg("demo").arg(&root).args(["--json", "--status-file"]).arg(&status_file);
        command.env("NATS_URL", told["nats_url"].as_str().unwrap());
        let output = command.output().unwrap();
        assert!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(report["files"], FILES, "round {round}");
        let status = read_json(&status_file).expect("a status");
        assert_eq!(pids(&status).len(), 4, "agents only: {status}");
    }
    assert!(pids(&told).into_iter().all(runs), "nothing of the other stack was stopped");
    dev.signal(libc::SIGINT);
    assert_eq!(dev.end().0.code(), Some(0));
}

#[test]
fn what_cannot_be_read_is_said_and_nothing_is_left_behind() {
    let temp = tempfile::tempdir().unwrap();
    let output = selvedge(temp.path()).args(["demo", "missing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("PATH_UNREADABLE") && said.contains("missing"), "{said}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0, "nothing was written");

    let empty = temp.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("blob.bin"), [0; 10]).unwrap();
    let output = selvedge(temp.path()).args(["demo", "empty", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!temp.path().join(".selvedge").exists(), "nothing was written");
    assert!(
        said.contains("PATH_EMPTY") && said.contains("nothing to read") && said.contains("1 binary"),
        "{said}"
    );
}
