//! Secrets go where they are sent, and nowhere else: not into logs, not into errors, not into the index.

use std::fmt::Write as _;

use bytes::Bytes;
use selvedge::bus::{Link, NatsOptions};
use selvedge::cli::servers::{NatsServer, RedisConfig, RedisServer};
use selvedge::client::Client;
use selvedge::store::connect::RedisOptions;
use selvedge::store::record::{self, ResultAt};
use selvedge::task::{Code, Phase};
use serde_json::json;

use super::process::Process;
use crate::harness::{nats_config, options_at, redis_executable, soon, until};

/// In every secret of this test.
const CANARY: &str = "kanarienvogel";

fn secret(what: &str) -> String {
    format!("{CANARY}-{what}")
}

/// Where the canary was found in a text, with what stands before it.
fn sightings(name: &str, text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.contains(CANARY));
    lines.map(|line| format!("{name}: {}", line.chars().take(400).collect::<String>())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_a_log_an_error_or_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let (password, redis_password) = (secret("nats-password"), secret("redis-password"));
    let (user, key) = (password.clone(), redis_password.clone());
    let (nats, redis) = tokio::task::spawn_blocking(move || {
        let mut config = nats_config(path.join("nats"));
        config.login = Some(("fabric".to_owned(), user));
        let nats = NatsServer::start(config).unwrap();
        let mut config = RedisConfig::new(redis_executable(), path.join("redis"));
        config.password = Some(key);
        (nats, RedisServer::start(config).unwrap())
    })
    .await
    .unwrap();
    let nats_url = nats.url().replace("nats://", &format!("nats://fabric:{password}@"));
    let redis_url = format!("redis://:{redis_password}@127.0.0.1:{}/0", redis.port());
    let log = dir.path().join("process.log");
    let process = Process::start(&nats_url, &redis_url, &log);
    let link = Link::connect(&options_at(&nats_url), "test").await.unwrap();
    let client = Client::on(link, "acme".parse().unwrap());
    let mut errors = String::new();

    // Success: input, event and result hold it.
    let first =
        until("the first task is stored", || async { client.submit("echo", &secret("input")).await.ok() });
    let first = first.await;
    assert_eq!(soon("the result", first.result::<String>()).await.unwrap(), secret("input"));
    // Failure: an input that does not fit, and an error with a long tail.
    let unfit = client.submit("failing", &json!({"fail": {"token": secret("unfit")}})).await.unwrap();
    let ended = soon("the end", unfit.wait()).await.unwrap();
    assert_eq!((ended.state, ended.refusal.as_ref().unwrap().code), (Phase::Failed, Code::HandlerFailed));
    let unfit = client.submit("failing", &secret("unfit-whole")).await.unwrap();
    let other = soon("the end", unfit.wait()).await.unwrap();
    let tail = format!("{}{}", "x".repeat(600), secret("tail"));
    let long = client.submit("failing", &json!({ "fail": tail })).await.unwrap();
    let cut = soon("the end", long.wait()).await.unwrap();
    for ended in [ended, other, cut] {
        writeln!(errors, "{}", ended.refusal.unwrap()).unwrap();
    }
    let error = first.result::<u64>().await.unwrap_err();
    writeln!(errors, "{error}").unwrap();
    // Refusal, and garbage on everything that takes input.
    let connection = selvedge::bus::connect(&options_at(&nats_url), "hostile").await.unwrap();
    let nats_client = connection.client();
    let bodies = [
        json!({"v": 1, "priority": secret("priority"), "input": secret("bad-input")}).to_string(),
        json!({"v": secret("version")}).to_string(),
        json!({"v": 1, "op": {secret("op"): {}}, "token": secret("token")}).to_string(),
        json!({"v": 1, "op": secret("op"), "slots": secret("slots"), "taken": [secret("taken")]}).to_string(),
        json!({"task": secret("TASK"), "agent": secret("AGENT"), "states": [secret("state")]}).to_string(),
        json!({"plan": secret("PLAN"), secret("field"): 1}).to_string(),
        secret("text"),
    ];
    let mut garbage: Vec<Bytes> = bodies.iter().map(|text| Bytes::from(text.clone())).collect();
    for text in &bodies {
        if let Ok(value) = serde_json::from_str::<serde_json::Value>(text) {
            garbage.push(selvedge::wire::codec::pack(&value));
        }
    }
    let mut last = 0;
    for body in &garbage {
        for subject in [
            format!("sv.submit.acme.echo.bad{last}"),
            format!("sv.cmd.acme.{}.n{last}", first.id()),
            format!("sv.report.acme.{}", first.id()),
            format!("sv.event.acme.{}", first.id()),
            "sv.beat.echo.stranger".to_owned(),
            "sv.accept.echo.stranger".to_owned(),
            "sv.owner.0".to_owned(),
            "sv.ask.0".to_owned(),
            format!("$KV.selvedge_limits.tenant.t{last}"),
        ] {
            nats_client.publish(subject, body.clone()).await.unwrap();
        }
        for verb in selvedge::wire::api::verb::ALL {
            let asked = nats_client.request(format!("sv.api.acme.{verb}"), body.clone());
            let reply = soon(verb, asked).await.unwrap();
            write!(errors, "{} {:?}", String::from_utf8_lossy(&reply.payload), reply.headers).unwrap();
            writeln!(errors).unwrap();
        }
        last += 1;
    }
    nats_client.flush().await.unwrap();
    for n in 0..last {
        let ended = soon("a bad submit", client.wait(&format!("bad{n}").parse().unwrap())).await.unwrap();
        writeln!(errors, "{:?}", ended.refusal).unwrap();
    }

    // Errors of connections: a wrong password, a closed port, a URL that is none.
    let wrong = nats.url().replace("nats://", &format!("nats://fabric:{}@", secret("wrong")));
    let closed = format!("nats://fabric:{}@127.0.0.1:1", secret("closed"));
    let broken = format!("nats://fabric:{}@[::", secret("broken"));
    for url in [wrong, closed, broken] {
        let options = NatsOptions { timeout: Some(std::time::Duration::from_secs(2)), ..options_at(&url) };
        let Err(error) = selvedge::bus::connect(&options, "test").await else { panic!("connected") };
        write!(errors, "{error}\n{error:?}\n{options:?}\n").unwrap();
    }
    for url in [
        format!("redis://:{}@127.0.0.1:{}/0", secret("wrong"), redis.port()),
        format!("redis://:{}@127.0.0.1:1/0", secret("closed")),
        format!("redis://:{}@[::", secret("broken")),
    ] {
        let options = RedisOptions::at(url);
        let Err(error) = selvedge::store::connect::connect(&options).await else { panic!("connected") };
        write!(errors, "{error}\n{error:?}\n{options:?}\n").unwrap();
    }

    // The index holds metadata. Results, within a record or apart, and events are what agents said.
    let store = redis::Client::open(redis_url.as_str()).unwrap();
    let mut store = store.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut store).await.unwrap();
    let mut found = Vec::new();
    let (mut results, mut looked) = (0, 0);
    for key in &keys {
        looked += 1;
        let said = if key.ends_with(":i:t") {
            let records: std::collections::HashMap<String, Vec<u8>> =
                redis::cmd("HGETALL").arg(key).query_async(&mut store).await.unwrap();
            let mut said = String::new();
            for record in records.values() {
                let (header, mut rest) = record::split(record).unwrap();
                if let ResultAt::Inline(bytes) = header.result {
                    results += 1;
                    rest = &rest[bytes..];
                }
                write!(said, "{header:?} {}", String::from_utf8_lossy(rest)).unwrap();
            }
            said
        } else if key.contains(":i:x") || key.contains(":e:") {
            results += 1;
            String::new()
        } else {
            let dump: Vec<u8> = redis::cmd("DUMP").arg(key).query_async(&mut store).await.unwrap();
            String::from_utf8_lossy(&dump).into_owned()
        };
        if said.contains(CANARY) || key.contains(CANARY) {
            found.push(format!("redis: {key}"));
        }
    }
    assert!(looked > results && results > 0, "{keys:?}");

    drop(process);
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("DEBUG") && log.contains("can't be read"), "the log is there, with its errors");
    found.extend(sightings("log", &log));
    found.extend(sightings("error", &errors));
    assert!(found.is_empty(), "{}", found.join("\n"));
}
