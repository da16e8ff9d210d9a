//! Queries: discovered like any NATS service, refused with words and numbers, shed when too many.

use std::sync::Arc;

use async_nats::Client;
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use selvedge::{
    bus::service::{Answer, Query, ServiceConfig, serve},
    task::{Code, Refusal},
    wire::headers,
};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{connect, server::Nats, soon};

struct Served {
    _nats: Nats,
    client: Client,
    /// Lets one `list` go on per permit.
    gate: Arc<Semaphore>,
    /// Has one permit per `list` that waits.
    waiting: Arc<Semaphore>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

/// `get` echoes; `list` waits for the gate; everything else is refused.
async fn served(concurrency: usize) -> Served {
    let nats = Nats::start().await;
    let client = connect(&nats.url()).await.client();
    let (gate, stop) = (Arc::new(Semaphore::new(0)), CancellationToken::new());
    let waiting = Arc::new(Semaphore::new(0));
    let (behind, told) = (gate.clone(), waiting.clone());
    let handler = move |query: Query| {
        let (gate, waiting) = (behind.clone(), told.clone());
        async move { answer(query, &gate, &waiting).await }
    };
    let config = ServiceConfig { concurrency, ..ServiceConfig::default() };
    let service = serve(client.clone(), config, handler, stop.clone());
    let running = tokio::spawn(async move { service.await.unwrap() });
    while request(&client, "$SRV.PING.selvedge", "").await.is_none() {
        tokio::task::yield_now().await;
    }
    Served { _nats: nats, client, gate, waiting, stop, running }
}

async fn answer(query: Query, gate: &Semaphore, waiting: &Semaphore) -> Answer {
    match query.verb {
        "get" => Ok(query.format.encode(&format!("{}: {} bytes", query.tenant, query.body.len()))),
        "list" => {
            waiting.add_permits(1);
            gate.acquire().await.unwrap().forget();
            Ok(Bytes::from_static(b"{}"))
        }
        _ => Err(Refusal::over(Code::BacklogFull, "1000 tasks wait already", 1000, 1000).retry_after(500)),
    }
}

async fn request(client: &Client, subject: &str, body: &'static str) -> Option<async_nats::Message> {
    client.request(subject.to_owned(), body.into()).await.ok()
}

fn json(message: &async_nats::Message) -> Value {
    serde_json::from_slice(&message.payload).unwrap()
}

#[tokio::test]
async fn the_service_is_discovered_and_counts_each_request_once() {
    let s = served(4).await;
    let info = json(&request(&s.client, "$SRV.INFO", "").await.unwrap());
    assert_eq!(
        (&info["type"], &info["name"]),
        (&"io.nats.micro.v1.info_response".into(), &"selvedge".into())
    );
    let endpoints = info["endpoints"].as_array().unwrap();
    assert!(endpoints.iter().any(|e| e["subject"] == "sv.api.*.submit" && e["queue_group"] == "selvedge"));

    for _ in 0..3 {
        request(&s.client, "sv.api.acme.get", "{}").await.unwrap();
    }
    request(&s.client, "sv.api.acme.submit", "{}").await.unwrap();
    let id = info["id"].as_str().unwrap();
    let stats = json(&request(&s.client, &format!("$SRV.STATS.selvedge.{id}"), "").await.unwrap());
    let of = |verb: &str| {
        let all = stats["endpoints"].as_array().unwrap();
        let one = all.iter().find(|e| e["name"] == verb).unwrap();
        (one["num_requests"].as_u64().unwrap(), one["num_errors"].as_u64().unwrap())
    };
    assert_eq!((of("get"), of("submit"), of("list")), ((3, 0), (1, 1), (0, 0)));
}

#[tokio::test]
async fn every_endpoint_says_what_it_takes_and_gives() {
    let s = served(4).await;
    let info = json(&request(&s.client, "$SRV.INFO.selvedge", "").await.unwrap());
    assert!(info.to_string().len() < 64 * 1024, "it fits into a message of any server");
    for endpoint in info["endpoints"].as_array().unwrap() {
        for which in ["request_schema", "response_schema"] {
            let text = endpoint["metadata"][which].as_str().unwrap_or_else(|| panic!("{endpoint}"));
            let schema: Value = serde_json::from_str(text).unwrap();
            assert_eq!(schema["type"], "object", "{endpoint}");
        }
    }
    // A client library's own reading of it.
    let info: async_nats::service::Info = serde_json::from_value(info).unwrap();
    assert!(info.endpoints.iter().all(|endpoint| endpoint.queue_group == "selvedge"));
}

#[tokio::test]
async fn answers_come_in_kind_and_refusals_with_headers_and_body() {
    let s = served(4).await;
    let answer = request(&s.client, "sv.api.acme.get", r#"{"a":1}"#).await.unwrap();
    assert_eq!(json(&answer), "acme: 7 bytes");
    assert_eq!(answer.headers.unwrap().get("Content-Type").unwrap().as_str(), "application/json");

    let refused = request(&s.client, "sv.api.acme.submit", "{}").await.unwrap();
    let headers = refused.headers.clone().unwrap();
    assert_eq!(headers.get("Nats-Service-Error-Code").unwrap().as_str(), "429");
    assert_eq!(headers.get("Nats-Service-Error").unwrap().as_str(), "BACKLOG_FULL");
    assert_eq!(json(&refused)["retry_after_ms"], 500);

    let bad = request(&s.client, "sv.api.ACME.get", "{}").await.unwrap();
    assert_eq!(json(&bad)["code"], "BAD_NAME");
}

#[tokio::test]
async fn requests_beyond_the_bound_are_shed_at_once() {
    let s = served(2).await;
    let slow: Vec<_> = (0..2)
        .map(|_| {
            let client = s.client.clone();
            tokio::spawn(async move { request(&client, "sv.api.acme.list", "{}").await.unwrap() })
        })
        .collect();
    soon("two slow requests", s.waiting.acquire_many(2)).await.unwrap().forget();
    let busy = json(&request(&s.client, "sv.api.acme.get", "{}").await.unwrap());
    assert_eq!(busy["code"], "BUSY");
    assert_eq!((&busy["limit"], &busy["retry_after_ms"]), (&2.into(), &250.into()));

    // A stop lets what runs finish.
    s.stop.cancel();
    s.gate.add_permits(2);
    for answer in slow {
        assert_eq!(json(&soon("the slow answer", answer).await.unwrap()), serde_json::json!({}));
    }
    soon("the end of the service", s.running).await.unwrap();
    let gone = request(&s.client, "sv.api.acme.get", "{}").await;
    assert!(gone.is_none(), "nobody listens any more");
}

#[tokio::test]
async fn one_tenants_slow_queries_leave_places_to_another_and_are_shed_by_name() {
    let s = served(8).await;
    let slow = |tenant: &str| {
        let (client, subject) = (s.client.clone(), format!("sv.api.{tenant}.list"));
        tokio::spawn(async move { request(&client, &subject, "{}").await.unwrap() })
    };
    let mut flood: FuturesUnordered<_> = (0..20).map(|_| slow("flood")).collect();
    soon("all its places", s.waiting.acquire_many(6)).await.unwrap().forget();
    // The gate is closed: whoever is answered now was shed.
    for _ in 0..14 {
        let busy = json(&soon("a refusal", flood.next()).await.unwrap().unwrap());
        assert_eq!(
            (&busy["code"], &busy["limit"], &busy["retry_after_ms"]),
            (&"BUSY".into(), &6.into(), &250.into())
        );
        assert!(busy["message"].as_str().unwrap().contains("tenant flood"), "{busy}");
    }
    assert_eq!(json(&request(&s.client, "sv.api.acme.get", "{}").await.unwrap()), "acme: 2 bytes");
    s.gate.add_permits(6);
    while let Some(answer) = soon("the slow ones", flood.next()).await {
        assert_eq!(json(&answer.unwrap()), serde_json::json!({}));
    }
}

#[tokio::test]
async fn a_request_ends_with_its_askers_patience_and_its_place_is_free_again() {
    let s = served(1).await;
    let mut patience = async_nats::HeaderMap::new();
    patience.insert(headers::WITHIN_MS, "20");
    let slow = s.client.request_with_headers("sv.api.acme.list", patience, "{}".into()).await.unwrap();
    assert_eq!((json(&slow)["code"].as_str(), s.waiting.available_permits()), (Some("TIMED_OUT"), 1));
    assert_eq!(slow.headers.as_ref().unwrap().get(headers::SERVICE_ERROR_CODE).unwrap().as_str(), "504");
    // The handler was dropped where it waited: nothing took what would have let it go on.
    s.gate.add_permits(1);
    let next = request(&s.client, "sv.api.acme.get", "{}").await.unwrap();
    assert!(next.headers.unwrap().get(headers::SERVICE_ERROR).is_none(), "the only place is free");
    assert_eq!(s.gate.available_permits(), 1);
}

#[tokio::test]
async fn a_reply_subject_of_ours_is_not_answered() {
    let s = served(4).await;
    let mut forged = s.client.subscribe("sv.submit.>").await.unwrap();
    // One connection carries it all in order, so an answer would arrive before the next one's.
    s.client.publish_with_reply("sv.api.acme.get", "sv.submit.globex.reader.x", "{}".into()).await.unwrap();
    request(&s.client, "sv.api.acme.get", "{}").await.unwrap();
    s.client.publish("sv.submit.marker", "".into()).await.unwrap();
    let first = soon("the marker", forged.next()).await.unwrap();
    assert_eq!(first.subject.as_str(), "sv.submit.marker", "nothing was published with the service's rights");
}
