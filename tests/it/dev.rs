//! `selvedge dev` as people run it: the real binary with real servers.

use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

use selvedge::bus::{self};
use serde_json::Value;

use crate::harness::binary::{
    Started, assert_nothing_left, pid_of, pids, read_json, runs, selvedge, send, wait_for,
};
use crate::harness::options_at;

const ANY_PORT: [&str; 6] = ["--nats-port", "0", "--redis-port", "0", "--admin-port", "0"];

fn dev(dir: &Path, args: &[&str]) -> Started {
    let mut command = selvedge(dir);
    command.arg("dev").args(ANY_PORT).args(args);
    Started::of(command)
}

fn endpoints(started: &mut Started) -> Value {
    serde_json::from_str(&started.line()).expect("one line of JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoints_work_and_ctrl_c_stops_everything() {
    let temp = tempfile::tempdir().unwrap();
    let mut dev = dev(temp.path(), &["--ephemeral", "--json"]);
    let told = endpoints(&mut dev);
    let connection = bus::connect(&options_at(told["nats_url"].as_str().unwrap()), "test").await.unwrap();
    connection.check_jetstream().await.unwrap();
    connection.jetstream().get_stream("JOURNAL").await.expect("a coordinator has provisioned it");
    assert_eq!(pids(&told).len(), 3);
    dev.signal(libc::SIGINT);
    let (ended, _) = dev.end();
    assert_eq!(ended.code(), Some(0));
    assert_nothing_left(&told, &pids(&told));
    assert!(!Path::new(told["data"].as_str().unwrap()).exists());
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "an ephemeral run leaves nothing here");
}

#[test]
fn the_first_screen_says_where_everything_is_and_what_to_try() {
    let temp = tempfile::tempdir().unwrap();
    let mut dev = dev(temp.path(), &["--ephemeral"]);
    let mut screen = String::new();
    while !screen.contains("Ctrl-C") {
        let line = dev.line();
        assert!(!line.is_empty(), "ended after: {screen}");
        screen += &line;
    }
    for part in [
        "selvedge 0",
        "NATS",
        "nats://127.0.0.1:",
        "Redis",
        "redis://127.0.0.1:",
        "/readyz",
        "export NATS_URL=",
        "selvedge demo",
    ] {
        assert!(screen.contains(part), "{part} is missing in: {screen}");
    }
    assert!(!screen.contains('\u{1b}'), "no colours into a pipe");
    dev.signal(libc::SIGTERM);
    assert_eq!(dev.end().0.code(), Some(0));
}

#[test]
fn a_command_finds_the_stack_and_its_exit_code_is_passed_on() {
    let temp = tempfile::tempdir().unwrap();
    let script = "echo $NATS_URL $REDIS_URL; exit 7";
    let (ended, output) = dev(temp.path(), &["--ephemeral", "--", "sh", "-c", script]).end();
    assert_eq!(ended.code(), Some(7));
    assert!(output.starts_with("nats://127.0.0.1:") && output.contains(" redis://127.0.0.1:"), "{output}");
    assert_eq!(output.lines().count(), 1, "standard output is the command's alone");
}

#[test]
fn killing_the_supervisor_leaves_nothing_running() {
    let temp = tempfile::tempdir().unwrap();
    let ports = temp.path().join("ports.json");
    let mut command = selvedge(temp.path());
    command.arg("dev").args(ANY_PORT).args(["--data", "data", "--ports-file"]).arg(&ports);
    command.args(["--", "sleep", "600"]);
    let dev = Started::of(command);
    let told = wait_for("the endpoints", || read_json(&ports));
    dev.signal(libc::SIGKILL);
    dev.end();
    if cfg!(target_os = "linux") {
        assert_nothing_left(&told, &pids(&told));
    }
}

#[test]
fn what_dies_is_back_within_a_second_and_data_survives_a_restart_of_all() {
    let temp = tempfile::tempdir().unwrap();
    let ports = temp.path().join("ports.json");
    let start = || {
        let mut command = selvedge(temp.path());
        command.arg("dev").args(ANY_PORT).args(["--data", "data", "--json", "--ports-file"]).arg(&ports);
        Started::of(command)
    };
    let mut dev = start();
    let told = endpoints(&mut dev);
    for name in ["coordinator", "redis", "nats-server"] {
        let pid = pid_of(&told, name).unwrap();
        send(pid, libc::SIGKILL);
        let killed = Instant::now();
        wait_for(&format!("{name} is back"), || {
            pid_of(&read_json(&ports)?, name).filter(|new| *new != pid && runs(*new))
        });
        assert!(killed.elapsed().as_millis() < 1_000, "{name} took {:?}", killed.elapsed());
    }

    let second = selvedge(temp.path()).args(["dev", "--data", "data"]).output().unwrap();
    assert_eq!(second.status.code(), Some(75));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("DATA_IN_USE") && said.contains(&dev.pid().to_string()), "{said}");

    dev.signal(libc::SIGINT);
    assert_eq!(dev.end().0.code(), Some(0));
    assert!(!ports.exists(), "a file of endpoints outlives them");
    assert!(temp.path().join("data/nats/jetstream").is_dir());
    let mut again = start();
    endpoints(&mut again);
    again.signal(libc::SIGINT);
    assert_eq!(again.end().0.code(), Some(0));
}

#[test]
fn a_port_asked_for_is_refused_with_its_holder_and_a_usual_one_gives_way() {
    let temp = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = selvedge(temp.path()).args(["dev", "--ephemeral", "--nats-port", &port]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("PORT_IN_USE") && said.contains("--nats-port") && said.contains(&port), "{said}");
    if cfg!(target_os = "linux") {
        assert!(said.contains(&std::process::id().to_string()), "{said}");
    }

    // Whoever holds the usual port, we or a stranger: it is taken now.
    let usual = TcpListener::bind("127.0.0.1:4222");
    let mut command = selvedge(temp.path());
    command.args(["dev", "--ephemeral", "--json", "--redis-port", "0", "--admin-port", "0"]);
    let mut dev = Started::of(command);
    let told = endpoints(&mut dev);
    assert_ne!(told["nats_url"], "nats://127.0.0.1:4222");
    dev.signal(libc::SIGINT);
    assert_eq!(dev.end().0.code(), Some(0));
    drop(usual);
}
