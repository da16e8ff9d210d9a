//! Connecting to NATS: passwords, TLS, contexts, old servers, crashes, forbidden subjects.

use std::time::{Duration, Instant};

use selvedge::bus::{self, BusEvent, Error, ErrorKind, NatsOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::certs::Certs;
use crate::harness::{nats, options_at, soon, until};

#[tokio::test]
async fn a_password_opens_and_a_wrong_one_is_refused_without_being_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let server = nats(dir.path(), |config| config.login = Some(("ann".into(), "hunter2\"\\ x".into()))).await;
    let with = |password: &str| NatsOptions {
        user: Some("ann".into()),
        password: Some(password.into()),
        ..options_at(&server.url())
    };
    let connection = bus::connect(&with("hunter2\"\\ x"), "test").await.unwrap();
    connection.check_jetstream().await.unwrap();

    let refused = bus::connect(&with("wrong-secret"), "test").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(
        refused.to_string().contains("user and password") && !refused.to_string().contains("wrong-secret")
    );
    let refused = bus::connect(&options_at(&server.url()), "test").await.unwrap_err();
    assert!(refused.to_string().contains("none given"), "{refused}");
}

#[tokio::test]
async fn credentials_in_the_url_work_and_are_kept_out_of_messages() {
    let dir = tempfile::tempdir().unwrap();
    let server = nats(dir.path(), |config| config.login = Some(("ann".into(), "p@ss".into()))).await;
    let url = format!("nats://ann:p%40ss@127.0.0.1:{}", server.port());
    let connection = bus::connect(&options_at(&url), "test").await.unwrap();
    assert!(!connection.servers().contains("p%40ss"));
}

#[tokio::test]
async fn tls_needs_the_authority_and_may_demand_a_client_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let certs = Certs::in_dir(&dir.path().join("certs"));
    let files = certs.server_files(true);
    let server = nats(&dir.path().join("nats"), move |config| config.tls = Some(files)).await;
    let trusting = NatsOptions { tls_ca: Some(certs.ca.clone()), ..options_at(&server.url()) };
    let (cert, key) = certs.client.clone();
    let full = NatsOptions { tls_cert: Some(cert.clone()), tls_key: Some(key), ..trusting.clone() };
    bus::connect(&full, "test").await.unwrap().check_jetstream().await.unwrap();

    let untrusted = bus::connect(&options_at(&server.url()), "test").await.unwrap_err();
    assert!(matches!(untrusted, Error::Tls { .. }), "{untrusted}");
    assert!(untrusted.help().unwrap().contains("--tlsca"));
    assert!(bus::connect(&trusting, "test").await.is_err(), "a client certificate is demanded");
    let half = NatsOptions { tls_cert: Some(cert), ..trusting };
    assert_eq!(bus::connect(&half, "test").await.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test]
async fn a_server_that_wants_tls_first_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let certs = Certs::in_dir(&dir.path().join("certs"));
    let files = certs.server_files(false);
    let server = nats(&dir.path().join("nats"), move |config| {
        config.tls = Some(files);
        config.tls_first = true;
    })
    .await;
    let options =
        NatsOptions { tls_ca: Some(certs.ca.clone()), tls_first: Some(true), ..options_at(&server.url()) };
    bus::connect(&options, "test").await.unwrap();
}

#[tokio::test]
async fn an_nkey_logs_in_from_a_seed_and_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let keys = nkeys::KeyPair::new_user();
    let public = keys.public_key();
    let server = nats(&dir.path().join("nats"), move |config| {
        config.extra = format!("authorization {{ users: [ {{ nkey: {public} }} ] }}\n");
    })
    .await;
    let seed = keys.seed().unwrap();
    let file = dir.path().join("user.nk");
    std::fs::write(&file, format!("{seed}\n")).unwrap();
    for nkey in [seed, file.to_string_lossy().into_owned()] {
        let options = NatsOptions { nkey: Some(nkey.as_str().into()), ..options_at(&server.url()) };
        bus::connect(&options, "test").await.unwrap();
    }
    let options = NatsOptions { nkey: Some("/no/such.nk".into()), ..options_at(&server.url()) };
    assert_eq!(bus::connect(&options, "test").await.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test]
async fn an_old_server_is_refused_by_version() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let info = r#"{"server_id":"A","version":"2.9.10","max_payload":1048576,"proto":1,"headers":true}"#;
        stream.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
            let _ = stream.write_all(b"PONG\r\n").await;
        }
    };
    let options = options_at(&url);
    let refused = tokio::select! {
        result = bus::connect(&options, "test") => result.unwrap_err(),
        () = serve => panic!("the server went first"),
    };
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("2.9.10") && refused.to_string().contains("2.15.1"));
    assert!(refused.help().unwrap().contains("upgrade"));
}

#[tokio::test]
async fn nobody_there_is_told_at_once_with_what_to_do() {
    let port = selvedge::cli::servers::ports::free_port().unwrap();
    let began = Instant::now();
    let refused = bus::connect(&options_at(&format!("127.0.0.1:{port}")), "test").await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(refused.kind(), ErrorKind::Unreachable);
    assert!(refused.to_string().contains(&port.to_string()) && refused.help().unwrap().contains("NATS_URL"));
}

#[tokio::test]
async fn a_server_without_jetstream_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let server = nats(dir.path(), |config| {
        config.extra = "accounts { A { users: [ { user: a, password: b } ] } }\n".into();
    })
    .await;
    let options =
        NatsOptions { user: Some("a".into()), password: Some("b".into()), ..options_at(&server.url()) };
    let connection = bus::connect(&options, "test").await.unwrap();
    let refused = connection.check_jetstream().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
}

#[tokio::test]
async fn a_connection_comes_back_after_a_crash_and_counts_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut nats = nats(dir.path(), |_| {}).await;
    let port = nats.port();
    let connection = bus::connect(&options_at(&nats.url()), "survivor").await.unwrap();
    let mut events = connection.events();
    nats.kill9();
    soon("the loss is told", async { while events.recv().await.unwrap() != BusEvent::Disconnected {} }).await;
    let nats = tokio::task::spawn_blocking(move || nats.restart().map(|()| nats));
    let nats = nats.await.unwrap().unwrap();
    assert_eq!(nats.port(), port);
    soon("the return is told", async { while events.recv().await.unwrap() != BusEvent::Connected {} }).await;
    until("JetStream answers again", || async { connection.check_jetstream().await.ok() }).await;
    let counts = connection.counts();
    assert!(counts.connected >= 2 && counts.disconnected >= 1, "{counts:?}");
}

#[tokio::test]
async fn what_the_server_forbids_is_named_and_not_mistaken_for_a_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let server = nats(dir.path(), |config| {
        config.extra = "authorization { users: [ { user: a, password: b, \
            permissions: { publish: { deny: [\"secret.>\", \"$JS.API.INFO\"] } } } ] }\n"
            .into();
    })
    .await;
    let options = NatsOptions {
        user: Some("a".into()),
        password: Some("b".into()),
        timeout: Some(Duration::from_millis(500)),
        ..options_at(&server.url())
    };
    let connection = bus::connect(&options, "test").await.unwrap();
    let mut events = connection.events();
    connection.client().publish("secret.x", "".into()).await.unwrap();
    let said = soon("the refusal is told", async {
        loop {
            if let BusEvent::Forbidden(said) = events.recv().await.unwrap() {
                return said;
            }
        }
    })
    .await;
    assert!(said.contains("secret.x"), "{said}");
    assert_eq!(connection.counts().forbidden, 1);
    let refused = connection.check_jetstream().await.unwrap_err();
    assert!(matches!(&refused, Error::Forbidden { what } if what.contains("$JS.API.INFO")), "{refused}");
}

#[tokio::test]
async fn flags_beat_variables_beat_the_file_beat_the_context() {
    let dir = tempfile::tempdir().unwrap();
    let server =
        nats(&dir.path().join("nats"), |config| config.login = Some(("ann".into(), "right".into()))).await;
    let home = dir.path().join("config");
    std::fs::create_dir_all(home.join("context")).unwrap();
    let context = format!(r#"{{"url":"{}","user":"ann","password":"right"}}"#, server.url());
    std::fs::write(home.join("context/dev.json"), context).unwrap();
    std::fs::write(home.join("context.txt"), "dev").unwrap();

    let from_context = NatsOptions::default().with_context_in(&home).unwrap();
    bus::connect(&from_context, "test").await.unwrap();

    let file = NatsOptions { urls: vec!["127.0.0.1:1".into()], ..NatsOptions::default() };
    let url = server.url();
    let env = NatsOptions::from_vars(|name| (name == "NATS_URL").then(|| url.clone())).unwrap();
    let resolved = env.clone().or(file.clone()).with_context_in(&home).unwrap();
    bus::connect(&resolved, "test").await.expect("the variable's URL with the context's credentials");

    let flags =
        NatsOptions { user: Some("ann".into()), password: Some("wrong".into()), ..NatsOptions::default() };
    let resolved = flags.or(env).or(file.clone()).with_context_in(&home).unwrap();
    assert_eq!(bus::connect(&resolved, "test").await.unwrap_err().kind(), ErrorKind::Denied);

    let without = NatsOptions { no_context: true, ..file };
    assert_eq!(without.with_context_in(&home).unwrap().user, None);
}

#[tokio::test]
async fn both_connections_of_a_link_follow_the_options_and_count_their_returns() {
    let dir = tempfile::tempdir().unwrap();
    let mut nats = nats(dir.path(), |config| config.login = Some(("ann".into(), "secret".into()))).await;
    let options =
        NatsOptions { user: Some("ann".into()), password: Some("secret".into()), ..options_at(&nats.url()) };
    let link = bus::Link::connect(&options, "pair").await.unwrap();
    link.main.flush().await.unwrap();
    link.bulk.flush().await.unwrap();
    let mut reconnects = link.reconnects();
    let nats = tokio::task::spawn_blocking(move || nats.restart().map(|()| nats)).await.unwrap().unwrap();
    soon("a return is counted", reconnects.changed()).await.unwrap();
    drop(nats);
}
