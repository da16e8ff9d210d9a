//! `nats/server.prod.conf` as it is shipped: each role can do its work and nothing else.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, RequestErrorKind, jetstream};
use futures_util::StreamExt;
use selvedge::{
    bus::{
        journal::{JournalReader, JournalWriter},
        ownership::{Lease, LeaseConfig, Ownership},
        provision::{Provision, provision},
        service::{Query, ServiceConfig, serve},
    },
    wire::{subjects::Shard, topology::Topology},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{server::Nats, small, soon};

async fn production_node() -> Nats {
    let roles = ["SYS", "COORDINATOR", "ACME", "READER", "OBSERVER", "OPERATOR"];
    let password =
        |role: &str| (format!("SELVEDGE_{role}_PASSWORD"), format!("test-{}", role.to_lowercase()));
    let name = ("SELVEDGE_NATS_NAME".to_owned(), "test-node".to_owned());
    let variables: Vec<_> = roles.iter().map(|role| password(role)).chain([name]).collect();
    Nats::production(&variables).await
}

struct User {
    name: &'static str,
    client: Client,
    errors: mpsc::UnboundedReceiver<String>,
}

impl User {
    async fn connect(nats: &Nats, name: &'static str) -> Self {
        let (tell, errors) = mpsc::unbounded_channel();
        let client = ConnectOptions::with_user_and_password(name.to_owned(), format!("test-{name}"))
            .custom_inbox_prefix(format!("_INBOX_{name}"))
            .event_callback(move |event| {
                let tell = tell.clone();
                async move {
                    if let Event::ServerError(error) = event {
                        let _ = tell.send(error.to_string());
                    }
                }
            })
            .connect(nats.url())
            .await
            .unwrap();
        Self { name, client, errors }
    }

    /// The server refuses to take this message from the user.
    async fn denied_publish(&mut self, subject: &str) {
        self.client.publish(subject.to_owned(), "{}".into()).await.unwrap();
        let said = soon("a permission error", self.errors.recv()).await.unwrap().to_lowercase();
        assert!(said.contains("publish") && said.contains(&subject.to_lowercase()), "{subject}: {said}");
    }

    async fn denied_subscribe(&mut self, subject: &str) {
        let _subscription = self.client.subscribe(subject.to_owned()).await.unwrap();
        let said = soon("a permission error", self.errors.recv()).await.unwrap().to_lowercase();
        assert!(said.contains("subscription") && said.contains(&subject.to_lowercase()), "{subject}: {said}");
    }

    /// The server has seen everything sent before: it answers a request, if only with "nobody there".
    async fn in_sync(&self) {
        let subject = match self.name {
            "coordinator" => "sv.owner.999",
            "acme" => "sv.api.acme.get",
            _ => "sv.api.nobody.get",
        };
        let answer = soon("an answer", self.client.request(subject, "{}".into())).await;
        let answered = answer.map_or_else(|e| e.kind() == RequestErrorKind::NoResponders, |_| true);
        assert!(answered, "{} cannot even ask", self.name);
    }

    async fn no_errors(&mut self) {
        self.in_sync().await;
        assert_eq!(self.errors.try_recv().ok(), None);
    }
}

#[tokio::test]
async fn the_coordinator_can_do_all_its_work_with_its_rights() {
    let nats = production_node().await;
    let mut coordinator = User::connect(&nats, "coordinator").await;
    let js = jetstream::new(coordinator.client.clone());
    provision(&js, Provision::Auto, &Topology::new(&small())).await.unwrap();

    let (lease, mut handle) = Lease::new(&js, Shard(0), LeaseConfig::new("c1")).await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(lease.run(stop.clone()));
    let (_, ended) = soon("the lease", handle.acquired()).await.unwrap();
    let writer = JournalWriter::new(&js, Shard(0)).await.unwrap();
    assert_eq!(writer.append("x".into(), 0, &ended).await.unwrap(), 1);
    let reader = JournalReader::new(&js, Shard(0)).await.unwrap();
    let entry = soon("the entry", reader.read(1).await.unwrap().next()).await.unwrap().unwrap();
    assert_eq!(entry.bytes, "x");
    js.get_key_value("selvedge_limits").await.unwrap().put("plan.free", "{}".into()).await.unwrap();
    js.get_key_value("selvedge_limits").await.unwrap().watch_all().await.unwrap();
    stop.cancel();
    running.await.unwrap();
    coordinator.no_errors().await;
}

#[tokio::test]
async fn a_client_reaches_its_own_tenant_and_nothing_else() {
    let nats = production_node().await;
    let coordinator = User::connect(&nats, "coordinator").await;
    let js = jetstream::new(coordinator.client.clone());
    provision(&js, Provision::Auto, &Topology::new(&small())).await.unwrap();
    let stop = CancellationToken::new();
    let echo = |query: Query| async move { Ok(query.body) };
    let service = serve(coordinator.client.clone(), ServiceConfig::default(), echo, stop.clone());
    let service = tokio::spawn(service);

    let mut acme = User::connect(&nats, "acme").await;
    let as_js = jetstream::new(acme.client.clone());
    let ack = as_js.publish("sv.submit.acme.reader.t1", "{}".into()).await.unwrap().await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence), ("INTAKE", 1));
    let answer = soon("an answer", async {
        loop {
            match acme.client.request("sv.api.acme.get", "{}".into()).await {
                Ok(answer) => return answer,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert_eq!(answer.payload, "{}");
    let _hints = acme.client.subscribe("sv.done.acme.*").await.unwrap();
    acme.no_errors().await;

    for subject in [
        "sv.submit.globex.reader.t1",
        "sv.cmd.globex.t1.n1",
        "sv.api.globex.get",
        "sv.report.acme.t1",
        "sv.reports.reader.i1",
        "sv.journal.0",
        "sv.snapshot.0.1.manifest",
        "sv.archive.0",
        "sv.result.acme.t1",
        "sv.step.acme.t1.0.0",
        "sv.beat.reader.i1",
        "$JS.API.STREAM.INFO.INTAKE",
        "$JS.API.STREAM.PURGE.INTAKE",
        "$JS.API.STREAM.DELETE.JOURNAL",
        "$JS.API.CONSUMER.MSG.NEXT.INTAKE.owner-0",
        "$JS.API.DIRECT.GET.JOURNAL",
        "$JS.ACK.INTAKE.owner-0.1.1.1.1.0",
        "$KV.selvedge_limits.plan.free",
        "$KV.selvedge_owner.shard.0",
    ] {
        acme.denied_publish(subject).await;
    }
    for subject in
        ["sv.done.globex.*", "sv.event.>", "_INBOX.>", "_INBOX_reader.>", "sv.offer.reader.*", "sv.>"]
    {
        acme.denied_subscribe(subject).await;
    }
    stop.cancel();
    soon("the service's end", service).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_agent_speaks_only_as_itself() {
    let nats = production_node().await;
    let coordinator = User::connect(&nats, "coordinator").await;
    let js = jetstream::new(coordinator.client.clone());
    provision(&js, Provision::Auto, &Topology::new(&small())).await.unwrap();

    let mut reader = User::connect(&nats, "reader").await;
    let mut offers = reader.client.subscribe("sv.offer.reader.i1").await.unwrap();
    reader.in_sync().await;
    coordinator.client.publish("sv.offer.reader.i1", "work".into()).await.unwrap();
    assert_eq!(soon("an offer", offers.next()).await.unwrap().payload, "work");
    let mut beats = coordinator.client.subscribe("sv.beat.*.*").await.unwrap();
    coordinator.in_sync().await;
    reader.client.publish("sv.beat.reader.i1", "alive".into()).await.unwrap();
    assert_eq!(soon("a heartbeat", beats.next()).await.unwrap().payload, "alive");
    let as_js = jetstream::new(reader.client.clone());
    let ack = as_js.publish("sv.report.acme.t1", "{}".into()).await.unwrap().await.unwrap();
    assert_eq!(ack.stream, "REPORTS");
    let ack = as_js.publish("sv.reports.reader.i1", "{}".into()).await.unwrap().await.unwrap();
    assert_eq!(ack.stream, "REPORTS");
    let ack = as_js.publish("sv.step.acme.t1.0.0", "{}".into()).await.unwrap().await.unwrap();
    assert_eq!(ack.stream, "STEPS");
    reader.no_errors().await;

    for subject in [
        "sv.beat.librarian.i1",
        "sv.accept.librarian.i1",
        "sv.reports.librarian.i1",
        "sv.offer.reader.i1",
        "sv.submit.acme.reader.t1",
        "sv.cmd.acme.t1.n1",
        "sv.journal.0",
        "sv.snapshot.0.1.manifest",
        "sv.archive.0",
        "sv.result.acme.t1",
        "sv.done.acme.t1",
        "sv.step.acme.t1",
        "sv.step.acme.t1.0.0.0",
        "$JS.API.STREAM.INFO.REPORTS",
        "$JS.API.STREAM.INFO.STEPS",
        "$JS.API.STREAM.MSG.GET.STEPS",
        "$JS.API.DIRECT.GET.STEPS.sv.step.acme.t1.0.0",
        "$JS.API.STREAM.PURGE.STEPS",
        "$JS.API.STREAM.MSG.DELETE.STEPS",
        "$KV.selvedge_owner.shard.0",
    ] {
        reader.denied_publish(subject).await;
    }
    for subject in ["sv.offer.librarian.*", "sv.ctl.*.*", "sv.report.>", "sv.step.>", "_INBOX_acme.>"] {
        reader.denied_subscribe(subject).await;
    }
}

#[tokio::test]
async fn an_agent_answers_whom_it_was_told_to_and_nobody_else() {
    let nats = production_node().await;
    let mut coordinator = User::connect(&nats, "coordinator").await;
    let mut calls = coordinator.client.subscribe("sv.call.*.*").await.unwrap();
    let _asks = coordinator.client.subscribe("sv.subcall.*.*").await.unwrap();
    coordinator.no_errors().await;
    let mut reader = User::connect(&nats, "reader").await;
    let mut told = reader.client.subscribe("sv.ctl.reader.i1").await.unwrap();
    let unheard = reader.client.new_inbox();
    let mut gone = reader.client.subscribe(unheard.clone()).await.unwrap();
    reader.client.publish("sv.subcall.acme.reader", "{}".into()).await.unwrap();
    reader.no_errors().await;

    let mut acme = User::connect(&nats, "acme").await;
    let inbox = acme.client.new_inbox();
    let mut parts = acme.client.subscribe(inbox.clone()).await.unwrap();
    acme.client.publish_with_reply("sv.call.acme.reader", inbox, "{}".into()).await.unwrap();
    let call = soon("the call", calls.next()).await.unwrap();
    let to = call.reply.unwrap();
    coordinator.client.publish_with_reply("sv.ctl.reader.i1", to, "run".into()).await.unwrap();
    let to = soon("the call", told.next()).await.unwrap().reply.unwrap();
    for part in ["one", "two", "three"] {
        reader.client.publish_with_reply(to.clone(), unheard.clone(), part.into()).await.unwrap();
        assert_eq!(soon("a part", parts.next()).await.unwrap().payload, part);
    }
    reader.no_errors().await;
    drop(parts);
    acme.no_errors().await;
    reader.client.publish_with_reply(to, unheard, "four".into()).await.unwrap();
    let word = soon("the server's word", gone.next()).await.unwrap();
    assert_eq!(word.status, Some(async_nats::StatusCode::NO_RESPONDERS));
    for subject in ["_INBOX_acme.other", "sv.call.acme.reader"] {
        reader.denied_publish(subject).await;
    }
    acme.denied_publish("sv.call.globex.reader").await;
    acme.denied_publish("sv.subcall.acme.reader").await;
}

#[tokio::test]
async fn an_observer_looks_and_changes_nothing() {
    let nats = production_node().await;
    let coordinator = User::connect(&nats, "coordinator").await;
    let js = jetstream::new(coordinator.client.clone());
    provision(&js, Provision::Auto, &Topology::new(&small())).await.unwrap();

    let mut observer = User::connect(&nats, "observer").await;
    let as_js = jetstream::new(observer.client.clone());
    assert_eq!(as_js.get_stream("JOURNAL").await.unwrap().cached_info().state.messages, 0);
    observer.no_errors().await;
    for subject in [
        "sv.submit.acme.reader.t1",
        "sv.cmd.acme.t1.n1",
        "sv.api.acme.cancel",
        "$JS.API.STREAM.MSG.GET.JOURNAL",
        "$JS.API.STREAM.UPDATE.JOURNAL",
        "$KV.selvedge_limits.plan.free",
    ] {
        observer.denied_publish(subject).await;
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let nats = production_node().await;
    let options = ConnectOptions::with_user_and_password("acme".into(), "guess".into());
    let refused = tokio::time::timeout(Duration::from_secs(10), options.connect(nats.url())).await.unwrap();
    assert!(refused.is_err());
}

#[tokio::test]
async fn the_production_node_acknowledges_after_fsync() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let nats = production_node().await;
    let mut monitor = tokio::net::TcpStream::connect(nats.monitor()).await.unwrap();
    monitor.write_all(b"GET /jsz?config=true HTTP/1.0\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    monitor.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#""sync_always": true"#), "{answer}");
}

#[tokio::test]
async fn an_acknowledgement_sent_into_the_journal_and_the_lease_is_noise() {
    let nats = production_node().await;
    let coordinator = User::connect(&nats, "coordinator").await;
    let js = jetstream::new(coordinator.client.clone());
    provision(&js, Provision::Auto, &Topology::new(&small())).await.unwrap();
    let (lease, mut handle) = Lease::new(&js, Shard(0), LeaseConfig::new("c1")).await.unwrap();
    let running = tokio::spawn(lease.run(CancellationToken::new()));
    let (revision, ended) = soon("the lease", handle.acquired()).await.unwrap();
    let writer = JournalWriter::new(&js, Shard(0)).await.unwrap();
    let reader = JournalReader::new(&js, Shard(0)).await.unwrap();
    let mut tail = reader.follow(1);
    let acme = User::connect(&nats, "acme").await;
    let inject = async |task: &str, into: &str, stream: &str| {
        let stored = || async { js.get_stream(stream).await.unwrap().cached_info().state.last_sequence };
        let before = stored().await;
        acme.client
            .publish_with_reply(format!("sv.submit.acme.reader.{task}"), into.to_owned(), "{}".into())
            .await
            .unwrap();
        soon("the injection", async { while stored().await == before {} }).await;
    };

    inject("t1", "sv.journal.0", "JOURNAL").await;
    assert_eq!(reader.head().await.unwrap(), None);
    assert_eq!(writer.append("a".into(), 0, &ended).await.unwrap(), 2);
    inject("t2", "sv.journal.0", "JOURNAL").await;
    assert_eq!(writer.append("a".into(), 0, &ended).await.unwrap(), 2, "found behind the noise");
    assert_eq!(writer.append("b".into(), 2, &ended).await.unwrap(), 4);
    for (seq, bytes) in [(2, "a"), (4, "b")] {
        let entry = soon("the entry", tail.next()).await.unwrap().unwrap();
        assert_eq!((entry.seq, &entry.bytes[..]), (seq, bytes.as_bytes()));
    }

    inject("t3", "$KV.selvedge_owner.shard.0", "KV_selvedge_owner").await;
    tokio::time::sleep(LeaseConfig::new("c1").ttl).await;
    assert!(handle.now().is_owner(tokio::time::Instant::now()) && !ended.is_cancelled());
    assert!(matches!(handle.now(), Ownership::Owner { revision: same, .. } if same == revision));
    running.abort();
}
