//! Connecting to Redis: passwords, TLS, eviction, old servers, crashes.

use std::sync::Arc;

use selvedge::store::connect::{Error, RedisOptions, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::certs::Certs;
use crate::harness::{redis, until};

#[tokio::test]
async fn a_password_opens_and_a_wrong_one_is_refused_without_being_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let server = redis(dir.path(), |config| config.password = Some("hunter2".into())).await;
    let at = |info: &str| RedisOptions::at(format!("redis://{info}127.0.0.1:{}", server.port()));
    let (mut connection, facts) = connect(&at(":hunter2@")).await.unwrap();
    let pong: String = redis::cmd("PING").query_async(&mut connection).await.unwrap();
    assert_eq!(pong, "PONG");
    assert!(facts.product == "Valkey" || facts.product == "Redis");

    for info in ["", ":wrong-secret@"] {
        let refused = connect(&at(info)).await.err().unwrap();
        assert!(matches!(refused, Error::Denied { .. }), "{refused}");
        assert!(!refused.to_string().contains("wrong-secret"));
    }
}

#[tokio::test]
async fn a_server_that_evicts_keys_is_refused() {
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let dir = tempfile::tempdir().unwrap();
        let server = redis(dir.path(), move |config| {
            config.maxmemory = Some("64mb".into());
            config.policy = policy.into();
        })
        .await;
        let refused = connect(&RedisOptions::at(server.url())).await.err().unwrap();
        assert!(refused.to_string().contains(policy), "{refused}");
        assert!(refused.help().contains("noeviction"));
    }
}

#[tokio::test]
async fn a_limited_server_that_evicts_nothing_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let server = redis(dir.path(), |config| config.maxmemory = Some("64mb".into())).await;
    let (_, facts) = connect(&RedisOptions::at(server.url())).await.unwrap();
    assert_eq!((facts.maxmemory, facts.policy.as_str()), (64 << 20, "noeviction"));
}

#[tokio::test]
async fn an_old_server_is_refused_by_version() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer).await.unwrap_or(0);
            if read == 0 {
                return std::future::pending::<()>().await;
            }
            // The handshake's commands come pipelined: one answer each, told apart by their array headers.
            let asked = String::from_utf8_lossy(&buffer[..read]).into_owned();
            for command in asked.split('*').skip(1) {
                let info = "redis_version:6.2.14\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n";
                let answer = match command.to_uppercase().contains("\r\nINFO\r\n") {
                    true => format!("${}\r\n{info}\r\n", info.len()),
                    false => "+OK\r\n".to_owned(),
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    };
    let options = RedisOptions::at(url);
    let refused = tokio::select! {
        result = connect(&options) => result.err().unwrap(),
        () = serve => unreachable!(),
    };
    assert!(matches!(&refused, Error::OldServer { found, .. } if found == "6.2.14"), "{refused}");
}

#[tokio::test]
async fn a_connection_comes_back_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = redis(dir.path(), |config| config.persist = true).await;
    let (mut connection, _) = connect(&RedisOptions::at(server.url())).await.unwrap();
    let () = redis::cmd("SET").arg("kept").arg("yes").query_async(&mut connection).await.unwrap();
    server.kill9();
    let server =
        tokio::task::spawn_blocking(move || server.restart().map(|()| server)).await.unwrap().unwrap();
    let kept: String = until("Redis answers again", || {
        let mut connection = connection.clone();
        async move { redis::cmd("GET").arg("kept").query_async(&mut connection).await.ok() }
    })
    .await;
    assert_eq!(kept, "yes");
    drop(server);
}

/// Small builds of Valkey come without TLS, so the encrypted end is a proxy of ours in front of the real server.
#[tokio::test]
async fn rediss_connects_if_the_authority_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let certs = Certs::in_dir(&dir.path().join("certs"));
    let server = redis(&dir.path().join("redis"), |config| config.password = Some("hunter2".into())).await;
    let port = tls_front(&certs, server.port()).await;
    let url = format!("rediss://:hunter2@127.0.0.1:{port}");
    let trusting = RedisOptions { tls_ca: Some(certs.ca.clone()), ..RedisOptions::at(url.clone()) };
    let (mut connection, _) = connect(&trusting).await.unwrap();
    let pong: String = redis::cmd("PING").query_async(&mut connection).await.unwrap();
    assert_eq!(pong, "PONG");

    let refused = connect(&RedisOptions::at(url)).await.err().unwrap();
    assert!(
        matches!(refused, Error::Unreachable { .. }) && !refused.to_string().contains("hunter2"),
        "{refused}"
    );
}

/// Listens with the server's certificate and passes on what it hears.
async fn tls_front(certs: &Certs, behind: u16) -> u16 {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    selvedge::bus::connect::install_crypto();
    let chain = CertificateDer::pem_file_iter(&certs.server.0).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&certs.server.1).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = tokio::net::TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    port
}
