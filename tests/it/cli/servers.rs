//! The coordinator as a process, servers that are missing, old, drifted or guarded, and the doctor.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::Cli;
use crate::harness::certs::Certs;
use crate::harness::fabric::Fabric;
use crate::harness::{Stack, nats, redis, redis_executable, soon};
use selvedge::cli::servers::supports_tls;

/// A port nobody listens on.
fn nobody() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("127.0.0.1:{port}")
}

/// The coordinator, and where its admin port is.
async fn coordinator(cli: &Cli, args: &[&str]) -> (tokio::process::Child, Value) {
    let args: Vec<&str> =
        ["coordinator", "--json", "--admin-listen", "127.0.0.1:0"].iter().chain(args).copied().collect();
    let mut child = cli.command(&args).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let Some(line) = soon("the coordinator is up", lines.next_line()).await.unwrap() else {
        let mut said = String::new();
        let stderr = child.stderr.as_mut().expect("piped");
        tokio::io::AsyncReadExt::read_to_string(stderr, &mut said).await.unwrap();
        panic!("{said}");
    };
    // Nobody reads on; a full pipe must not stop it.
    let mut rest = BufReader::new(child.stderr.take().expect("piped")).lines();
    tokio::spawn(async move { while let Ok(Some(_)) = rest.next_line().await {} });
    (child, serde_json::from_str(&line).unwrap())
}

fn terminate(child: &tokio::process::Child) {
    let pid = child.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_serves_until_it_is_told_to_stop_and_drains() {
    let stack = Stack::start().await;
    let cli = Cli::on(&stack);
    let (mut child, up) = coordinator(&cli, &["--id", "one"]).await;
    assert_eq!(up["coordinator"], "one");
    let id = cli.ok(&["submit", "nobody", "--confirm"]).await;
    assert_eq!(cli.json(&["get", id.trim()]).await["state"], "queued");
    let metrics = http(up["admin"].as_str().unwrap(), "/metrics").await;
    assert!(metrics.contains("selvedge_"), "{metrics}");
    let doctor = cli.json(&["doctor"]).await;
    assert_eq!(doctor["ok"], true, "{doctor}");

    let taken = up["admin"].as_str().unwrap();
    let second = cli.fails(78, &["coordinator", "--admin-listen", taken]).await;
    assert_eq!(second["code"], "ADMIN_ADDRESS");
    terminate(&child);
    let status = soon("it drains", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(cli.fails(69, &["get", id.trim()]).await["code"], "UNAVAILABLE");
}

async fn http(address: &str, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_named_with_what_to_do() {
    let (nats, redis) = (nobody(), nobody());
    let cli = Cli::new().env("NATS_URL", &nats).env("REDIS_URL", &format!("redis://{redis}"));
    for args in [
        &["submit", "reader", "{}"][..],
        &["list"],
        &["nats", "check"],
        &["tenant", "list"],
        &["coordinator", "--start-timeout", "200ms", "--admin-listen", "127.0.0.1:0"],
    ] {
        let error = cli.fails(69, args).await;
        assert_eq!(error["code"], "NATS_UNREACHABLE", "{args:?}");
        assert!(error["what"].as_str().unwrap().contains(&nats), "{error}");
        assert!(error["do"].as_str().unwrap().contains("NATS_URL"), "{error}");
    }
    let ran = cli.run(&["doctor"]).await;
    assert_eq!(ran.code, 69);
    assert!(ran.out.contains("FAIL  nats") && ran.out.contains("FAIL  redis"), "{}", ran.out);
    let people = cli.run(&["list"]).await;
    assert!(people.err.contains("NATS_UNREACHABLE") && people.err.contains("help:"), "{}", people.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_coordinator_verbs_say_that_none_runs() {
    let stack = Stack::start().await;
    let error = Cli::on(&stack).fails(69, &["list"]).await;
    assert!(
        error["code"] == "UNAVAILABLE" && error["what"].as_str().unwrap().contains("no coordinator"),
        "{error}"
    );
    assert_eq!(Cli::on(&stack).fails(69, &["tenant", "list"]).await["code"], "LIMITS_BUCKET");
}

#[tokio::test]
async fn an_old_server_is_refused_with_its_version() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let old = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let info =
                r#"{"server_id":"A","version":"2.9.10","max_payload":1048576,"proto":1,"headers":true}"#;
            stream.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("PING") && write.write_all(b"PONG\r\n").await.is_err() {
                    break;
                }
            }
        }
    });
    let error = Cli::new().env("NATS_URL", &url).fails(78, &["list"]).await;
    assert_eq!(error["code"], "NATS_OLD_SERVER");
    assert!(error["what"].as_str().unwrap().contains("2.9.10"), "{error}");
    assert!(error["do"].as_str().unwrap().contains("2.15.1"), "{error}");
    old.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_were_changed_are_told_field_by_field() {
    let fabric = Fabric::start().await;
    let cli = Cli::on(&fabric.stack);
    assert_eq!(cli.json(&["nats", "check"]).await["ok"], true);

    let connection = fabric.stack.connect("test").await;
    let stream = connection.jetstream().get_stream("JOURNAL").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.max_age = std::time::Duration::from_secs(3_600);
    connection.jetstream().update_stream(config).await.unwrap();
    let ran = cli.run(&["nats", "check"]).await;
    assert_eq!(ran.code, 78, "{}", ran.err);
    assert!(ran.out.contains("JOURNAL: max_age is 3600000000000"), "{}", ran.out);
    let ran = cli.run(&["nats", "check", "--json"]).await;
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["ok"], &report["drift"][0]["severity"]), (&false.into(), &"breaks_promise".into()));
    let ran = cli.run(&["doctor"]).await;
    assert_eq!(ran.code, 78, "{}", ran.out);
    assert!(ran.out.contains("FAIL  streams"), "{}", ran.out);
    let args = ["coordinator", "--provision", "check", "--admin-listen", "127.0.0.1:0"];
    let error = cli.fails(78, &args).await;
    assert!(error["code"] == "NATS_DRIFT" && error["what"].as_str().unwrap().contains("max_age"), "{error}");
}

#[tokio::test]
async fn the_exported_files_are_the_ones_in_the_repository() {
    let cli = Cli::new();
    let files = cli.json(&["nats", "export", "out"]).await;
    for file in files["files"].as_array().unwrap() {
        let file = file.as_str().unwrap();
        let ours = std::fs::read_to_string(cli.dir().join(file)).unwrap();
        let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("nats")
            .join(file.strip_prefix("out/").unwrap());
        assert_eq!(ours, std::fs::read_to_string(&kept).unwrap(), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_evicts_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let nats = nats(&dir.path().join("nats"), |_| {}).await;
    let redis = redis(&dir.path().join("redis"), |config| config.policy = "allkeys-lru".to_owned()).await;
    let cli = Cli::new().env("NATS_URL", &nats.url()).env("REDIS_URL", &redis.url());
    let error = cli.fails(78, &["coordinator", "--admin-listen", "127.0.0.1:0"]).await;
    assert!(
        error["code"] == "REDIS_EVICTS" && error["do"].as_str().unwrap().contains("noeviction"),
        "{error}"
    );
    let ran = cli.run(&["doctor"]).await;
    assert!(ran.code == 78 && ran.out.contains("FAIL  redis"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_and_tls_work_from_variables_flags_and_contexts() {
    let dir = tempfile::tempdir().unwrap();
    let certs = Certs::in_dir(&dir.path().join("certs"));
    let files = certs.server_files(false);
    let nats = nats(&dir.path().join("nats"), move |config| {
        config.login = Some(("ann".into(), "hunter2".into()));
        config.tls = Some(files);
    })
    .await;
    // Not every build has TLS; the password is there in any case.
    let redis_tls = supports_tls(&redis_executable()).then(|| certs.server_files(false));
    let redis = redis(&dir.path().join("redis"), move |config| {
        config.password = Some("s3cret".into());
        config.tls = redis_tls;
    })
    .await;
    let ca = certs.ca.to_str().unwrap();
    let bare = || Cli::new().env("NATS_URL", &nats.url()).env("REDIS_URL", &redis.url());
    // The server's own URL leaves the password out.
    let with_password = redis.url().replace("://", "://:s3cret@");
    let cli = bare()
        .env("REDIS_URL", &with_password)
        .env("NATS_USER", "ann")
        .env("NATS_PASSWORD", "hunter2")
        .env("NATS_CA", ca);
    let cli = match redis.url().starts_with("rediss") {
        true => cli.env("SELVEDGE_REDIS_TLS_CA", ca),
        false => cli,
    };
    let (_coordinator, _) = coordinator(&cli, &[]).await;
    cli.ok(&["submit", "nobody", "--confirm"]).await;

    let flags = ["--user", "ann", "--password", "hunter2", "--tlsca", ca];
    let list: Vec<&str> = ["list"].into_iter().chain(flags).collect();
    assert!(bare().ok(&list).await.contains("nobody"));

    let by_context = Cli::new();
    let contexts = by_context.dir().join(".config/nats/context");
    std::fs::create_dir_all(&contexts).unwrap();
    let context = serde_json::json!({"url": nats.url(), "user": "ann", "password": "hunter2", "ca": ca});
    std::fs::write(contexts.join("prod.json"), context.to_string()).unwrap();
    assert!(by_context.ok(&["list", "--context", "prod"]).await.contains("nobody"));

    let wrong = bare().env("NATS_USER", "ann").env("NATS_PASSWORD", "wr0ng").env("NATS_CA", ca);
    let error = wrong.fails(78, &["list"]).await;
    assert!(error["code"] == "NATS_DENIED" && !error.to_string().contains("wr0ng"), "{error}");
    let untrusting = bare().env("NATS_USER", "ann").env("NATS_PASSWORD", "hunter2");
    assert_eq!(untrusting.fails(78, &["list"]).await["code"], "NATS_TLS");
}

#[tokio::test]
async fn a_mistake_in_the_configuration_stops_every_verb() {
    let cli = Cli::new();
    std::fs::write(cli.dir().join("selvedge.toml"), "[coordinator]\nreplica = 3\n").unwrap();
    for args in [&["coordinator"][..], &["list"], &["doctor"], &["nats", "check"]] {
        let error = cli.fails(78, args).await;
        assert!(error["code"] == "CONFIG_UNKNOWN_KEY" && error["where"] == "selvedge.toml:2:1", "{error}");
    }
}
