//! JSON is spoken everywhere: by people with `nats req`, and by workers that know nothing else.

use async_nats::Client as Nats;
use bytes::Bytes;
use futures_util::StreamExt;
use selvedge::{
    task::{ObjectHash, Payload},
    wire::{api::verb, headers},
};
use serde_json::{Value, json};

use super::tenant;
use crate::harness::fabric::{Fabric, unbound};
use crate::harness::{soon, until};

/// What `nats req <subject> <text>` does.
async fn req(nats: &Nats, subject: &str, body: &str) -> (Value, Option<String>) {
    let reply = soon(subject, nats.request(subject.to_owned(), Bytes::from(body.to_owned()))).await.unwrap();
    let header = |name: &str| reply.headers.as_ref().and_then(|h| h.get(name)).map(|v| v.as_str().to_owned());
    assert_eq!(header(headers::CONTENT_TYPE).as_deref(), Some(headers::JSON), "{subject}");
    (serde_json::from_slice(&reply.payload).unwrap(), header(headers::SERVICE_ERROR))
}

/// A worker that has JSON, a NATS connection, and no SDK.
struct Worker {
    nats: Nats,
    offers: async_nats::Subscriber,
    ctl: async_nats::Subscriber,
}

impl Worker {
    async fn start(nats: &Nats) -> Worker {
        let offers = nats.subscribe("sv.offer.hand.w1").await.unwrap();
        let ctl = nats.subscribe("sv.ctl.hand.w1").await.unwrap();
        let worker = Worker { nats: nats.clone(), offers, ctl };
        let reply = worker.beat(&[]).await;
        assert!(reply["epoch"].as_u64().unwrap() >= 1 && reply["stop"] == json!([]), "{reply}");
        worker
    }

    async fn beat(&self, tokens: &[&str]) -> Value {
        let beat = json!({"slots": 1, "tokens": tokens, "lease_ms": 15_000}).to_string();
        let reply = soon("a beat's answer", self.nats.request("sv.beat.hand.w1", beat.into())).await.unwrap();
        serde_json::from_slice(&reply.payload).unwrap()
    }

    async fn offer(&mut self) -> Value {
        let message = soon("an offer", self.offers.next()).await.unwrap();
        let offers: Value = serde_json::from_slice(&message.payload).expect("in kind");
        let offer = offers["offers"][0].clone();
        let taken = json!({"taken": [offer["token"]]}).to_string();
        self.nats.publish("sv.accept.hand.w1", taken.into()).await.unwrap();
        offer
    }

    async fn report(&mut self, offer: &Value, n: u32, op: Value) -> Value {
        let subject =
            format!("sv.report.{}.{}", offer["tenant"].as_str().unwrap(), offer["task"].as_str().unwrap());
        let report = json!({
            "token": offer["token"], "attempt": offer["attempt"], "agent": "hand", "instance": "w1", "n": n, "op": op,
        });
        self.nats.publish(subject, report.to_string().into()).await.unwrap();
        soon("a verdict", async {
            loop {
                let message = self.ctl.next().await.unwrap();
                let ctl: Value = serde_json::from_slice(&message.payload).expect("in kind");
                let verdicts = ctl["ops"].as_array().unwrap().iter().map(|op| &op["verdict"]);
                if let Some(verdict) = verdicts.into_iter().find(|verdict| verdict["n"] == n) {
                    return verdict.clone();
                }
            }
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_submits_looks_lists_and_cancels_with_plain_requests() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", unbound()).await;
    let connection = fabric.stack.connect("person").await;
    let nats = connection.client();
    let (told, error) =
        req(nats, "sv.api.acme.submit", r#"{"agent": "hand", "input": {"say": "hello"}}"#).await;
    assert_eq!((&told["state"], error), (&json!("queued"), None), "{told}");
    let id = told["task"].as_str().unwrap().to_owned();
    let ask = json!({ "task": id }).to_string();
    let (view, _) = req(nats, "sv.api.acme.get", &ask).await;
    assert_eq!((&view["state"], &view["agent"]), (&json!("queued"), &json!("hand")), "{view}");

    // An empty list or stats request is a whole one, white space is nothing, and an error is text, too.
    until("it is listed", || async {
        let (page, _) = req(nats, "sv.api.acme.list", "").await;
        (page["tasks"][0]["task"] == json!(id)).then_some(())
    })
    .await;
    let (stats, _) = req(nats, "sv.api.acme.stats", "").await;
    assert_eq!(stats["states"]["queued"], 1, "{stats}");
    let (children, _) = req(nats, "sv.api.acme.children", &format!("\n {ask}")).await;
    assert_eq!(children["children"], json!([]));
    let (events, _) = req(nats, "sv.api.acme.events", &ask).await;
    assert_eq!(events["events"], json!([]));
    for (verb, body, code) in [
        ("get", "", "BAD_MESSAGE"),
        ("get", "what?", "BAD_MESSAGE"),
        ("get", r#"{"task": "none"}"#, "NOT_FOUND"),
        ("submit", r#"{"agent": "a.b"}"#, "BAD_MESSAGE"),
        ("retry", &ask, "NOT_DEAD"),
    ] {
        let (refusal, error) = req(nats, &format!("sv.api.acme.{verb}"), body).await;
        assert_eq!((&refusal["code"], error.as_deref()), (&json!(code), Some(code)), "{refusal}");
        assert!(refusal["message"].as_str().unwrap().len() > 10, "{refusal}");
    }
    let (told, _) = req(nats, "sv.api.acme.cancel", &ask).await;
    assert_eq!((&told["task"], &told["state"]), (&json!(id), &json!("cancelled")), "{told}");
    // The same key is the same task, and another body under it a conflict.
    let keyed = r#"{"agent": "hand", "key": "order 17", "input": 1}"#;
    let (first, _) = req(nats, "sv.api.acme.submit", keyed).await;
    let (again, _) = req(nats, "sv.api.acme.submit", keyed).await;
    assert_eq!(first["task"], again["task"]);
    assert_eq!(again["state"], "queued", "{again}");
    let (other, _) = req(nats, "sv.api.acme.submit", &keyed.replace(": 1", ": 2")).await;
    assert_eq!(other["refusal"]["code"], "IDEMPOTENCY_CONFLICT", "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_speaks_json_only_is_a_whole_worker() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", unbound()).await;
    let client = fabric.client("acme").await;
    let connection = fabric.stack.connect("worker").await;
    let mut worker = Worker::start(connection.client()).await;

    // A result, bytes as well.
    let task = client.submit("hand", &json!({"say": "hello"})).await.unwrap();
    let offer = worker.offer().await;
    assert_eq!((&offer["input"], &offer["attempt"]), (&json!({"say": "hello"}), &json!(1)));
    let event =
        json!({"attempt": 1, "n": 1, "at": 0, "kind": "progress", "data": {"half": true}}).to_string();
    let ack =
        connection.jetstream().publish(format!("sv.event.acme.{}", task.id()), event.into()).await.unwrap();
    soon("the event is stored", ack.into_future()).await.unwrap();
    let end = json!({"end": {"last_event": 1, "outcome": {"completed": {"result": {"said": "HELLO"}}}}});
    let verdict = worker.report(&offer, 1, end.clone()).await;
    assert!(verdict.get("refusal").is_none(), "{verdict}");
    assert_eq!(soon("the result", task.result::<Value>()).await.unwrap(), json!({"said": "HELLO"}));
    let events = until("the event is there", || async {
        let page = client.events(task.id(), None).await.unwrap();
        (page.events.len() == 1).then_some(page.events)
    })
    .await;
    assert_eq!(events[0].data.decode::<Value>(), Ok(json!({"half": true})));
    // A repeat is answered as the first was; another end is told apart.
    assert!(worker.report(&offer, 1, end).await.get("refusal").is_none());
    let other = json!({"end": {"outcome": {"completed": {"result": "another"}}}});
    assert_eq!(worker.report(&offer, 1, other).await["refusal"]["code"], "RESULT_CONFLICT");

    // A child, waited for without a slot; a refusal that says why.
    let parent = client.submit("hand", &"parent").await.unwrap();
    let offer = worker.offer().await;
    let nameless = json!({"spawn": {"step": "", "children": [{"agent": "hand"}]}});
    assert_eq!(worker.report(&offer, 1, nameless).await["refusal"]["code"], "BAD_MESSAGE");
    let spawn = json!({"spawn": {"step": "s", "first": 0, "children": [{"agent": "hand", "input": {"$bytes": "AAEC"}}]}});
    assert!(worker.report(&offer, 2, spawn).await.get("refusal").is_none());
    let wait = json!({"end": {"outcome": {"wait": "all_children"}}});
    assert!(worker.report(&offer, 3, wait).await.get("refusal").is_none());
    let child = worker.offer().await;
    assert_eq!((&child["parent"], &child["depth"]), (&json!(parent.id().as_str()), &json!(1)));
    assert_eq!(child["input"], json!({"$bytes": "AAEC"}));
    let failed = json!({"end": {"outcome": {"failed": {"message": "no", "retryable": false}}}});
    worker.report(&child, 1, failed).await;
    let resumed = worker.offer().await;
    assert_eq!(
        (&resumed["task"], &resumed["attempt"], &resumed["children"]),
        (&offer["task"], &json!(2), &json!(1))
    );
    let ask = json!({"task": parent.id().as_str(), "results": true}).to_string();
    let (page, _) = req(connection.client(), "sv.api.acme.children", &ask).await;
    assert_eq!(page["children"][0]["refusal"]["code"], "HANDLER_FAILED", "{page}");
    let done = json!({"end": {"outcome": {"completed": {"result": {"$bytes": "AwQ="}}}}});
    worker.report(&resumed, 1, done).await;
    let ended = soon("the parent", parent.wait()).await.unwrap();
    assert_eq!(ended.result.unwrap().as_bytes().as_ref(), [3, 4]);

    // The old lease is a zombie's now.
    let zombie = json!({"end": {"outcome": {"completed": {"result": 0}}}});
    assert_eq!(worker.report(&offer, 4, zombie).await["refusal"]["code"], "STALE_LEASE");
    // So says the answer to a heartbeat that lists a lease nobody gave.
    let unknown = "0123456789abcdef0123456789abcdef";
    assert_eq!(worker.beat(&[unknown]).await["stop"], json!([unknown]));

    // Cancelled while it works.
    worker.beat(&[]).await;
    let task = client.submit("hand", &"long").await.unwrap();
    let offer = worker.offer().await;
    task.cancel("enough").await.unwrap();
    let stop = soon("a stop", worker.ctl.next()).await.unwrap();
    let stop: Value = serde_json::from_slice(&stop.payload).unwrap();
    assert_eq!(stop["ops"][0]["stop"], json!({"token": offer["token"], "code": "CANCELLED"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_is_there_for_whoever_looks_for_services() {
    let fabric = Fabric::start().await;
    let connection = fabric.stack.connect("person").await;
    for (verb, kind) in [("PING", "ping"), ("INFO", "info"), ("STATS", "stats")] {
        let subject = format!("$SRV.{verb}.selvedge");
        let ask = || async { connection.client().request(subject.clone(), Bytes::new()).await.ok() };
        let reply = until(&subject, ask).await;
        let told: Value = serde_json::from_slice(&reply.payload).unwrap();
        assert_eq!(told["name"], "selvedge");
        assert_eq!(told["type"], format!("io.nats.micro.v1.{kind}_response"));
        if verb != "PING" {
            assert_eq!(told["endpoints"].as_array().unwrap().len(), verb::ALL.len(), "{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_speaks_json_only_keeps_a_large_result_of_a_step_and_is_given_it_back() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", unbound()).await;
    let client = fabric.client("acme").await;
    let connection = fabric.stack.connect("worker").await;
    let nats = connection.client();
    let mut worker = Worker::start(nats).await;
    let task = client.submit("hand", &()).await.unwrap();
    let offer = worker.offer().await;

    let text = json!("x".repeat(100_000)).to_string();
    let hash = ObjectHash::of(text.as_bytes()).to_string();
    let (first, second) = text.split_at(70_000);
    let publish = async |n: u32, chunk: &str| {
        let mut once = async_nats::HeaderMap::new();
        once.insert("Nats-Expected-Last-Subject-Sequence", "0");
        let subject = format!("sv.step.acme.{}.{hash}.{n}", task.id());
        let ack = nats.request_with_headers(subject, once, Bytes::from(chunk.to_owned()));
        serde_json::from_slice::<Value>(&soon("an acknowledgement", ack).await.unwrap().payload).unwrap()
    };
    assert_eq!(publish(0, first).await["stream"], "STEPS");
    assert_eq!(publish(1, second).await["stream"], "STEPS");
    assert_eq!(publish(0, first).await["error"]["err_code"], 10_071, "it is there already");
    let kept = json!({"kept": {"hash": hash, "bytes": text.len(), "chunks": 2}});
    let step = |place: u32, did: &Value| json!({"step": {"place": place, "name": "scrape", "did": did}});
    let verdict = worker.report(&offer, 1, step(0, &kept)).await;
    assert!(verdict.get("refusal").is_none(), "{verdict}");
    let too_large = json!({"kept": {"hash": hash, "bytes": 67_108_865, "chunks": 200}});
    let verdict = worker.report(&offer, 2, step(1, &too_large)).await;
    assert_eq!(verdict["refusal"]["code"], "TOO_LARGE", "{verdict}");
    worker.report(&offer, 3, json!({"end": {"last_event": 0, "outcome": {"snooze": {"ms": 1}}}})).await;
    worker.beat(&[]).await;

    let offer = worker.offer().await;
    assert_eq!(offer["recorded"], 1);
    let ask = json!({"task": task.id()}).to_string();
    let (page, _) = req(nats, "sv.api.acme.history", &ask).await;
    assert_eq!(page["steps"], json!([{"place": 0, "name": "scrape", "did": kept}]));
    let mut found = Vec::new();
    for n in 0..2 {
        let ask = json!({"task": task.id(), "hash": hash, "chunk": n}).to_string();
        let (mut reply, _) = req(nats, "sv.api.acme.kept", &ask).await;
        let chunk: Payload = serde_json::from_value(reply["chunk"].take()).unwrap();
        found.extend_from_slice(chunk.as_bytes());
    }
    assert_eq!(found, text.as_bytes());
    let ask = json!({"task": task.id(), "hash": hash, "chunk": 2}).to_string();
    let (refusal, error) = req(nats, "sv.api.acme.kept", &ask).await;
    assert_eq!((&refusal["code"], error.as_deref()), (&json!("STEP_LOST"), Some("STEP_LOST")), "{refusal}");
    worker
        .report(&offer, 1, json!({"end": {"last_event": 0, "outcome": {"completed": {"result": 1}}}}))
        .await;
    assert_eq!(soon("the result", task.result::<u32>()).await.unwrap(), 1);
}
