//! Bad input on every subject that takes input: refused by name where somebody can be told, and never
//! in the way of good input.

use std::collections::BTreeMap;

use async_nats::{Client as Nats, HeaderMap};
use bytes::Bytes;
use selvedge::agent::{Agent, AgentError, Ctx};
use selvedge::client::{Client, Error, TaskHandle};
use selvedge::flow::record::Record;
use selvedge::task::{Code, MAX_PAYLOAD_BYTES, Payload, Phase, Refusal, TaskId, Token};
use selvedge::wire::codec::{self, Format};
use selvedge::wire::messages::{End, Report, ReportOp};
use selvedge::wire::{api::verb, headers, subjects};
use serde_json::json;

use super::process::Process;
use super::{journal, journaled, tenant};
use crate::harness::fabric::{Fabric, eventually, unbound};
use crate::harness::{Stack, soon, until};

fn doubler() -> Agent {
    Agent::new("doubler", |_: Ctx, n: u64| async move { Ok::<_, AgentError>(n * 2) }).unwrap().slots(8)
}

fn packed(value: serde_json::Value) -> Vec<u8> {
    codec::pack(&value).to_vec()
}

fn with(mut head: Vec<u8>, tail: &[u8]) -> Vec<u8> {
    head.extend_from_slice(tail);
    head
}

/// Bodies that are no message of ours, whatever the subject.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let submit = packed(json!({"v": 1, "input": "x"}));
    vec![
        ("empty", vec![]),
        ("half a MessagePack map", submit[..submit.len() - 1].to_vec()),
        ("half a JSON object", b"{\"v\":1,\"input\":".to_vec()),
        ("MessagePack and more", with(submit.clone(), b"more")),
        ("JSON and more", b"{\"v\":1} {\"v\":1}".to_vec()),
        ("a version of another type", b"{\"v\":\"one\"}".to_vec()),
        ("a negative version", b"{\"v\":-1}".to_vec()),
        ("a version twice", b"{\"v\":1,\"v\":1}".to_vec()),
        ("a MessagePack version twice", b"\x82\xa1v\x01\xa1v\x01".to_vec()),
        ("a MessagePack extension", b"\x82\xa1v\xc7\x04\x01abcd\xa5input\xc0".to_vec()),
        ("keys that are no strings", b"\x81\x01\x01".to_vec()),
        ("a map that claims four thousand million entries", b"\xdf\xff\xff\xff\xff\xa1v".to_vec()),
        ("a text that claims four thousand million bytes", b"\x81\xdb\xff\xff\xff\xff".to_vec()),
        ("deep MessagePack", with(b"\x82\xa1v\x01\xa1x".to_vec(), &[0x91; 100_000])),
        ("deep JSON, unclosed", with(b"{\"v\":1,\"x\":".to_vec(), &[b'['; 100_000])),
        ("text that is no UTF-8", b"{\"v\":1,\"input\":\"\xff\xfe\"}".to_vec()),
        ("a MessagePack text that is no UTF-8", b"\x82\xa1v\x01\xa8priority\xa2\xff\xfe".to_vec()),
        ("a list", b"[1,2,3]".to_vec()),
        ("null", b"null".to_vec()),
        ("a word", b"hello".to_vec()),
        ("zeroes", vec![0; 1_000]),
        ("a megabyte, almost", vec![b'x'; 1_000_000]),
    ]
}

/// What is wrong with a submit only.
fn bad_submits() -> Vec<(&'static str, Vec<u8>, Code)> {
    let mut all: Vec<_> = garbage()
        .into_iter()
        .map(|(what, body)| {
            let code = if body.len() > 2 * MAX_PAYLOAD_BYTES { Code::TooLarge } else { Code::BadMessage };
            (what, body, code)
        })
        .collect();
    let big = "x".repeat(MAX_PAYLOAD_BYTES + 1);
    all.extend([
        ("another protocol", b"{\"v\":2,\"input\":1}".to_vec(), Code::UnsupportedVersion),
        ("an unknown priority", b"{\"v\":1,\"priority\":\"urgent\"}".to_vec(), Code::BadMessage),
        ("tries of another type", b"{\"v\":1,\"max_tries\":\"many\"}".to_vec(), Code::BadMessage),
        ("more tries than a number holds", b"{\"v\":1,\"max_tries\":4294967296}".to_vec(), Code::BadMessage),
        ("base64 that is none", b"{\"v\":1,\"input\":{\"$bytes\":\"*\"}}".to_vec(), Code::BadMessage),
        ("an input of a MessagePack map", b"\x82\xa1v\x01\xa5input\x80".to_vec(), Code::BadMessage),
        ("an input above 256 KiB", packed(json!({"v": 1, "input": big})), Code::TooLarge),
        ("the same in JSON", json!({"v": 1, "input": big}).to_string().into_bytes(), Code::TooLarge),
    ]);
    all
}

async fn store(stack: &Stack, nats: &async_nats::jetstream::Context, subject: &str, body: Vec<u8>) {
    let _ = stack;
    let ack = nats.publish(subject.to_owned(), Bytes::from(body)).await.unwrap();
    soon("stored", ack.into_future()).await.unwrap();
}

async fn good(client: &Client, n: u64) -> TaskHandle {
    client.submit("doubler", &n).await.unwrap()
}

async fn all_good(tasks: Vec<TaskHandle>) {
    for task in tasks {
        eventually("a good task among bad ones", task.result::<u64>()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_submit_is_rejected_by_name_and_the_good_ones_between_complete() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", unbound()).await;
    fabric.agent(doubler()).await;
    let client = fabric.client("acme").await;
    let connection = fabric.stack.connect("hostile").await;
    let mut goods = Vec::new();
    let mut bads = Vec::new();
    for (i, (what, body, code)) in bad_submits().into_iter().enumerate() {
        goods.push(good(&client, i as u64).await);
        let id = TaskId::new(format!("bad-{i}")).unwrap();
        store(&fabric.stack, connection.jetstream(), &format!("sv.submit.acme.doubler.{id}"), body).await;
        bads.push((what, id, code));
    }
    all_good(goods).await;
    for (what, id, code) in bads {
        let ended = soon(what, client.wait(&id)).await.unwrap();
        let refusal = ended.refusal.unwrap();
        assert_eq!((ended.state, refusal.code), (Phase::Rejected, code), "{what}: {refusal}");
        assert!(refusal.message.len() > 10 && refusal.message.len() < 512, "{what}: {refusal}");
        if code == Code::TooLarge {
            assert!(refusal.actual.unwrap() > refusal.limit.unwrap(), "{what}: {refusal:?}");
        }
    }
    // The header decides over the first byte.
    let mut says_json = HeaderMap::new();
    says_json.insert(headers::CONTENT_TYPE, headers::JSON);
    let body = packed(json!({"v": 1, "input": "1"}));
    let subject = "sv.submit.acme.doubler.mislabelled";
    let ack = connection.jetstream().publish_with_headers(subject, says_json, body.into()).await.unwrap();
    soon("stored", ack.into_future()).await.unwrap();
    let id = TaskId::new("mislabelled").unwrap();
    assert_eq!(soon("refused", client.wait(&id)).await.unwrap().refusal.unwrap().code, Code::BadMessage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_none_makes_no_task_and_leaves_nothing_behind() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", unbound()).await;
    fabric.agent(doubler()).await;
    let client = fabric.client("acme").await;
    let connection = fabric.stack.connect("hostile").await;
    let long = "x".repeat(2_000);
    let names =
        ["UPPER", "*", ">", "\u{430}cme", "\u{ff41}", "-x", "_x", "a\u{1b}[31m", "a\u{7f}", "{a}", &long];
    for name in names {
        for subject in [
            format!("sv.submit.{name}.doubler.t1"),
            format!("sv.submit.acme.{name}.t2"),
            format!("sv.submit.acme.doubler.{name}"),
            format!("sv.cmd.acme.{name}.n"),
            format!("sv.report.{name}.t"),
            format!("sv.event.acme.{name}"),
            format!("sv.beat.{name}.i"),
            format!("sv.accept.doubler.{name}"),
            format!("$KV.selvedge_limits.tenant.{name}"),
        ] {
            // What the client library refuses to send needs no answer.
            let _unsent = connection.client().publish(subject, Bytes::from_static(b"{\"v\":1}")).await;
        }
    }
    // Names in bodies.
    for name in names.into_iter().chain(["", "a.b", "a b", "a\r\nPING"]) {
        for (verb, body) in [
            (verb::GET, json!({ "task": name })),
            (verb::SUBMIT, json!({ "agent": name })),
            (verb::SUBMIT, json!({"agent": "doubler", "task": name})),
            (verb::LIST, json!({ "agent": name })),
            (verb::CANCEL, json!({ "task": name })),
        ] {
            for format in [Format::Json, Format::MsgPack] {
                let refusal = refused(connection.client(), "acme", verb, format.encode(&body)).await;
                assert_eq!(refusal.code, Code::BadMessage, "{verb} {name:?}");
                assert!(refusal.message.chars().all(|c| !c.is_control()), "{refusal}");
                assert!(refusal.message.len() < 500, "{refusal}");
            }
        }
    }
    let refusal = refused(connection.client(), "ACME", verb::GET, Bytes::from_static(b"{}")).await;
    assert_eq!(refusal.code, Code::BadName);
    all_good(vec![good(&client, 1).await]).await;
    for stream in ["INTAKE", "REPORTS"] {
        let stream = connection.jetstream().get_stream(stream).await.unwrap();
        until("nothing is left in the stream", || async {
            (stream.get_info().await.unwrap().state.messages == 0).then_some(())
        })
        .await;
    }
    for record in journal(&fabric.stack).await.iter().flat_map(|m| &m.records) {
        if let Record::Submitted { tenant, .. } = record {
            assert_eq!(tenant.as_str(), "acme");
        }
    }
}

/// Asks and expects a refusal, with its headers and in the encoding of the request.
async fn refused(nats: &Nats, tenant: &str, verb: &str, body: Bytes) -> Refusal {
    let format = Format::of(None, &body);
    let subject = format!("sv.api.{tenant}.{verb}");
    let reply = soon("an answer", nats.request(subject, body)).await.unwrap();
    let of = |name: &str| {
        let value = reply.headers.as_ref().and_then(|h| h.get(name));
        value.unwrap_or_else(|| panic!("{verb}: no {name}")).as_str().to_owned()
    };
    let refusal = format.decode::<Refusal>(&reply.payload, 1 << 20);
    let refusal = refusal.unwrap_or_else(|_| panic!("{verb} did not refuse: {:?}", reply.payload));
    assert_eq!(of(headers::SERVICE_ERROR), refusal.code.as_str());
    assert_eq!(of(headers::SERVICE_ERROR_CODE), refusal.code.status().to_string());
    assert_eq!(of(headers::CONTENT_TYPE), format.content_type());
    refusal
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_refuses_every_bad_question_in_its_own_encoding() {
    let fabric = Fabric::start().await;
    let connection = fabric.stack.connect("hostile").await;
    for verb in verb::ALL.into_iter().filter(|verb| *verb != verb::STATS) {
        for (what, body) in garbage() {
            // An empty list request is a list of everything, and others skip fields they don't know.
            let fits = [verb::LIST, verb::COUNT, verb::AGENTS].contains(&verb)
                && (body.is_empty() || what.contains("version") || what.contains("extension"));
            if fits || ([verb::LIST, verb::COUNT, verb::AGENTS].contains(&verb) && what.contains("UTF-8")) {
                continue;
            }
            let code = if body.len() > 2 * MAX_PAYLOAD_BYTES { Code::TooLarge } else { Code::BadMessage };
            let refusal = refused(connection.client(), "acme", verb, body.into()).await;
            assert_eq!(refusal.code, code, "{verb}, {what}: {refusal}");
        }
    }
    for (verb, body, code) in [
        (verb::LIST, json!({"limit": 0}), Code::BadQuery),
        (verb::LIST, json!({"limit": 101}), Code::BadQuery),
        (verb::LIST, json!({"cursor": "*"}), Code::BadQuery),
        (verb::LIST, json!({"cursor": "x".repeat(10_000)}), Code::BadQuery),
        (verb::LIST, json!({"states": ["asleep"]}), Code::BadMessage),
        (verb::LIST, json!({"limit": -1}), Code::BadMessage),
        (verb::LIST, json!({"limit": 1_000_000_000}), Code::BadQuery),
        (verb::LIST, json!({"since": 5, "until": 5}), Code::BadQuery),
        (verb::LIST, json!({"parent": "*"}), Code::BadMessage),
        (verb::COUNT, json!({"since": 6, "until": 5}), Code::BadQuery),
        (verb::COUNT, json!({"agent": "a", "root": "t"}), Code::BadQuery),
        (verb::MANY, json!({"tasks": []}), Code::BadQuery),
        (verb::MANY, json!({"tasks": vec!["t"; 101]}), Code::BadQuery),
        (verb::TREE, json!({"task": "nobody-knows"}), Code::NotFound),
        (verb::TREE, json!({"task": "nobody-knows", "limit": 101}), Code::BadQuery),
        (verb::EVENTS, json!({"task": "t", "limit": 1_001}), Code::BadQuery),
        (verb::CHILDREN, json!({"task": "t", "limit": 0}), Code::BadQuery),
        (verb::SUBMIT, json!({"agent": "a", "task": "t", "key": "k"}), Code::BadQuery),
        (verb::SUBMIT, json!({"agent": "a", "input": "x".repeat(MAX_PAYLOAD_BYTES + 1)}), Code::TooLarge),
        (verb::GET, json!({"task": "nobody-knows"}), Code::NotFound),
        (verb::CHILDREN, json!({"task": "nobody-knows"}), Code::NotFound),
        (verb::RETRY, json!({"task": "nobody-knows"}), Code::NotFound),
    ] {
        for format in [Format::Json, Format::MsgPack] {
            let refusal = refused(connection.client(), "acme", verb, format.encode(&body)).await;
            assert_eq!(refusal.code, code, "{verb}: {refusal}");
            assert!(!refusal.message.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_report_command_heartbeat_or_limit_changes_nothing() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", unbound()).await;
    let (go, gate) = tokio::sync::watch::channel(false);
    let slow = Agent::new("slow", move |ctx: Ctx, n: u64| {
        let mut gate = gate.clone();
        async move {
            ctx.emit("started", &n).await?;
            gate.wait_for(|open| *open).await?;
            Ok::<_, AgentError>(n + 1)
        }
    });
    fabric.agent(slow.unwrap()).await;
    fabric.agent(doubler()).await;
    let client = fabric.client("acme").await;
    let task = client.submit("slow", &41u64).await.unwrap();
    let mut lease = None;
    journaled(&fabric.stack, "it runs", |record| {
        if let Record::Dispatched { key, instance, .. } = record
            && key.id == *task.id()
        {
            lease = Some(instance.clone());
        }
        lease.is_some()
    })
    .await;
    let connection = fabric.stack.connect("hostile").await;
    let id = task.id();
    let mut goods = Vec::new();
    for (i, (_, body)) in garbage().into_iter().enumerate() {
        goods.push(good(&client, i as u64).await);
        for subject in [
            format!("sv.report.acme.{id}"),
            "sv.reports.slow.stranger".to_owned(),
            format!("sv.cmd.acme.{id}.n{i}"),
            format!("sv.event.acme.{id}"),
            "sv.beat.slow.stranger".to_owned(),
            "sv.accept.slow.stranger".to_owned(),
            "sv.ask.0".to_owned(),
            "$KV.selvedge_limits.tenant.acme".to_owned(),
            "$KV.selvedge_limits.plan.free".to_owned(),
            "$KV.selvedge_limits.nonsense".to_owned(),
        ] {
            connection.client().publish(subject, Bytes::from(body.clone())).await.unwrap();
        }
    }
    // Readable, and still not the holder's: another token, another instance.
    let forged = Report {
        v: 1,
        token: Token(7),
        attempt: 1,
        agent: "slow".parse().unwrap(),
        instance: lease.unwrap(),
        n: 1,
        op: ReportOp::End(End {
            last_event: 0,
            outcome: selvedge::task::Outcome::Completed { result: Payload::json(&0).unwrap() },
            used: None,
        }),
    };
    let mut told =
        connection.client().subscribe(subjects::ctl(&forged.agent, &forged.instance)).await.unwrap();
    connection.client().flush().await.unwrap();
    store(
        &fabric.stack,
        connection.jetstream(),
        &format!("sv.report.acme.{id}"),
        codec::pack(&forged).to_vec(),
    )
    .await;
    use futures_util::StreamExt;
    let verdict = soon("the forger's verdict", async {
        loop {
            let text = String::from_utf8_lossy(&told.next().await.unwrap().payload).into_owned();
            if text.contains("STALE_LEASE") {
                return text;
            }
        }
    })
    .await;
    assert!(!verdict.is_empty());
    // Other protocol versions are refused by name, too.
    let cmd = json!({"v": 9, "op": {"cancel": {}}}).to_string();
    store(&fabric.stack, connection.jetstream(), &format!("sv.cmd.acme.{id}.vv"), cmd.into()).await;
    // It changes nothing and nobody is told: it is taken, and leaves no record.
    until("the command is taken", || async {
        let stream = connection.jetstream().get_stream("INTAKE").await.unwrap();
        (stream.get_info().await.unwrap().state.messages == 0).then_some(())
    })
    .await;
    all_good(goods).await;
    go.send(true).unwrap();
    assert_eq!(soon("the result", task.result::<u64>()).await.unwrap(), 42);
    assert_eq!(client.get(id).await.unwrap().tries, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_subject_of_ours_makes_no_task_and_moves_none() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", unbound()).await;
    tenant(&fabric, "other", unbound()).await;
    fabric.agent(doubler()).await;
    let (client, other) = (fabric.client("acme").await, fabric.client("other").await);
    // A victim that waits: nobody runs it.
    let victim = soon("admitted", other.submit_and_confirm("nobody", &1u64)).await.unwrap();
    let connection = fabric.stack.connect("hostile").await;
    let nats = connection.client();
    let mut targets = vec![
        "sv.submit.other.doubler.evil".to_owned(),
        format!("sv.cmd.other.{}.evil", victim.id()),
        format!("sv.report.other.{}", victim.id()),
        format!("sv.event.other.{}", victim.id()),
        format!("sv.done.other.{}", victim.id()),
        "sv.journal.0".to_owned(),
        "sv.beat.doubler.evil".to_owned(),
        "sv.accept.doubler.evil".to_owned(),
        "sv.owner.0".to_owned(),
        "$KV.selvedge_limits.tenant.other".to_owned(),
    ];
    targets.push(format!("sv.api.other.{}", verb::CANCEL));
    let body = Bytes::from(json!({"v": 1, "agent": "doubler", "input": 1, "task": "mine"}).to_string());
    for (i, target) in targets.iter().enumerate() {
        // The server acknowledges to it,
        let mine = format!("sv.submit.acme.doubler.m{i}");
        nats.publish_with_reply(mine, target.clone(), Bytes::from_static(b"{\"v\":1,\"input\":1}"))
            .await
            .unwrap();
        // the services answer to it, and so does the server's own.
        for verb in verb::ALL {
            let subject = format!("sv.api.acme.{verb}");
            nats.publish_with_reply(subject, target.clone(), body.clone()).await.unwrap();
        }
        for subject in
            ["$SRV.PING", "$SRV.INFO", "$SRV.STATS", "sv.ask.0", "$SYS.REQ.USER.INFO", "$JS.API.INFO"]
        {
            nats.publish_with_reply(subject, target.clone(), Bytes::new()).await.unwrap();
        }
        let beat =
            Bytes::from_static(b"{\"v\":1,\"slots\":0,\"tokens\":[\"0123456789abcdef0123456789abcdef\"]}");
        nats.publish_with_reply("sv.beat.doubler.me", target.clone(), beat).await.unwrap();
    }
    nats.flush().await.unwrap();
    for i in 0..targets.len() {
        let id = TaskId::new(format!("m{i}")).unwrap();
        soon("the attacker's own task", client.wait(&id)).await.unwrap();
    }
    // Whatever was aimed at INTAKE lies there before this.
    all_good(vec![good(&client, 1).await, good(&other, 2).await]).await;
    let evil = other.get(&TaskId::new("evil").unwrap()).await.unwrap_err();
    assert_eq!(evil.code(), Some(Code::NotFound), "{evil}");
    let view = victim.get().await.unwrap();
    assert_eq!((view.state, view.refusal), (Phase::Queued, None));
    for record in journal(&fabric.stack).await.iter().flat_map(|m| &m.records) {
        if let Record::Submitted { tenant, admission } = record
            && tenant.as_str() == "other"
        {
            assert_ne!(admission.task.as_str(), "evil");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_above_the_limit_is_refused_before_it_is_sent() {
    let fabric = Fabric::start().await;
    let client = fabric.client("acme").await;
    let connection = fabric.stack.connect("hostile").await;
    let mut seen = connection.client().subscribe("sv.>").await.unwrap();
    connection.client().flush().await.unwrap();
    let big = "x".repeat(MAX_PAYLOAD_BYTES);
    let error = client.submit("doubler", &big).await.unwrap_err();
    let Error::Refused(refusal) = error else { panic!("{error}") };
    // Two quotation marks more than the text.
    let limit = MAX_PAYLOAD_BYTES as u64;
    assert_eq!((refusal.code, refusal.actual, refusal.limit), (Code::TooLarge, Some(limit + 2), Some(limit)));
    let fits = client.submit("doubler", &big[..MAX_PAYLOAD_BYTES - 2]).id("fits").await.unwrap();
    use futures_util::StreamExt;
    let first = soon("the one that fits", async {
        loop {
            let message = seen.next().await.unwrap();
            if message.subject.starts_with("sv.submit.") {
                return message.subject.to_string();
            }
        }
    })
    .await;
    assert!(first.ends_with(fits.id().as_str()), "{first}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_garbage_leaves_the_process_up_and_its_memory_flat() {
    let stack = Stack::start().await;
    let log = stack.dir().join("process.log");
    let mut process = Process::start(&stack.nats.url(), &stack.redis.url(), &log);
    let link = selvedge::bus::Link::connect(&stack.nats_options(), "test").await.unwrap();
    let client = Client::on(link, "acme".parse().unwrap());
    // Stored only once the streams are there.
    until("the first good task is stored", || async { client.submit("echo", &0).await.ok() }).await;
    let connection = stack.connect("hostile").await;
    let open = || async { selvedge::bus::limits::LimitsBucket::open(connection.jetstream()).await.ok() };
    let limits = until("the bucket of limits is there", open).await;
    limits.set_plan(&"acme".parse().unwrap(), &unbound(), None).await.unwrap();
    let settings = serde_json::from_value(json!({"plan": "acme"})).unwrap();
    limits.set_tenant(&"acme".parse().unwrap(), &settings, None).await.unwrap();
    let bodies: BTreeMap<_, _> = garbage().into_iter().collect();
    let flood = async |rounds: usize| {
        for round in 0..rounds {
            for (i, body) in bodies.values().enumerate() {
                let task = format!("g{}", (round * bodies.len() + i) % 200);
                for subject in [
                    format!("sv.submit.acme.echo.{task}"),
                    format!("sv.cmd.acme.{task}.n"),
                    format!("sv.report.acme.{task}"),
                    format!("sv.event.acme.{task}"),
                    "sv.beat.echo.stranger".to_owned(),
                    "sv.accept.echo.stranger".to_owned(),
                    format!("sv.api.acme.{}", verb::ALL[i % verb::ALL.len()]),
                ] {
                    let inbox = connection.client().new_inbox();
                    let body = Bytes::from(body.clone());
                    connection.client().publish_with_reply(subject, inbox, body).await.unwrap();
                }
            }
            connection.client().flush().await.unwrap();
        }
        // One good task at the end of the queue: everything before it has been read.
        let last = soon("stored", client.submit("echo", &1).into_future()).await.unwrap();
        eventually("a good task after the garbage", last.wait()).await.unwrap();
    };
    // Each round is read before the next: what is measured is what stays, not what is on its way.
    // Warm: buffers, caches and the ids that garbage uses have their size.
    for _ in 0..6 {
        flood(10).await;
    }
    let before = process.resident();
    for _ in 0..12 {
        flood(10).await;
    }
    let after = process.resident();
    assert!(process.is_up());
    // Some 18,000 messages and a gigabyte later.
    assert!(after < before + before / 2, "{before} KiB before, {after} KiB after");
}
