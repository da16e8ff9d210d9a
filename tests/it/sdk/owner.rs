//! The owner's part of the protocol, spoken by hand.

use std::{collections::VecDeque, time::Duration};

use async_nats::{Client, Message, Subscriber, jetstream};
use futures_util::{
    StreamExt,
    stream::{Select, select},
};
use selvedge::{
    cli::servers::NatsServer,
    task::{AgentName, Code, InstanceId, Payload, Phase, Refusal, TaskId, TenantName, Token},
    wire::{
        codec,
        messages::{
            Accept, Beat, Ctl, CtlOp, Done, Event, Offer, Offers, OwnerHello, Report, Reports, Verdict,
        },
        subjects,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use crate::harness;

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A nats-server of a test's own.
pub struct Server {
    pub nats: NatsServer,
    _dir: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { nats: harness::nats(dir.path(), |_| {}).await, _dir: dir }
    }

    pub fn url(&self) -> String {
        self.nats.url()
    }

    /// Stops the process where it is; returns when it stands still.
    pub async fn freeze(&self) {
        self.nats.pause();
        let status = format!("/proc/{}/stat", self.nats.pid());
        while std::fs::read_to_string(&status).is_ok_and(|stat| !stat.contains(") T ")) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub struct Owner {
    pub server: Server,
    pub nats: Client,
    beats: Subscriber,
    accepts: Subscriber,
    reports: Select<Subscriber, Subscriber>,
    /// Reports of the last message that were not looked at yet.
    told: VecDeque<Report>,
    queries: Subscriber,
    pub epoch: u64,
}

impl Owner {
    pub async fn start() -> Self {
        let server = Server::start().await;
        let nats = async_nats::connect(server.url()).await.unwrap();
        let js = jetstream::new(nats.clone());
        for (name, subjects) in [
            ("INTAKE", vec![subjects::SUBMIT_ALL, subjects::SUBMITS_ALL, subjects::CMD_ALL]),
            ("REPORTS", vec![subjects::REPORT_ALL, subjects::REPORTS_ALL]),
            ("EVENTS", vec![subjects::EVENT_ALL]),
        ] {
            let config = jetstream::stream::Config {
                name: name.into(),
                subjects: subjects.into_iter().map(str::to_owned).collect(),
                max_messages: 2_000,
                discard: jetstream::stream::DiscardPolicy::New,
                ..Default::default()
            };
            js.create_stream(config).await.unwrap();
        }
        Self {
            beats: nats.subscribe(subjects::BEAT_ALL).await.unwrap(),
            accepts: nats.subscribe(subjects::ACCEPT_ALL).await.unwrap(),
            reports: select(
                nats.subscribe(subjects::REPORT_ALL).await.unwrap(),
                nats.subscribe(subjects::REPORTS_ALL).await.unwrap(),
            ),
            told: VecDeque::new(),
            queries: nats.subscribe(subjects::API_ALL).await.unwrap(),
            server,
            nats,
            epoch: 1,
        }
    }

    pub async fn beat_message(&mut self) -> Message {
        next(&mut self.beats).await
    }

    pub async fn beat(&mut self) -> (InstanceId, Beat) {
        let message = self.beat_message().await;
        (subjects::parse_instance(&message.subject).unwrap().1, read(&message))
    }

    /// The next heartbeat that fits; others pass.
    pub async fn beat_where(&mut self, fits: impl Fn(&Beat) -> bool) -> Beat {
        loop {
            let (_, beat) = self.beat().await;
            if fits(&beat) {
                return beat;
            }
        }
    }

    pub async fn accept(&mut self) -> Accept {
        read(&next(&mut self.accepts).await)
    }

    pub async fn report(&mut self) -> Report {
        if self.told.is_empty() {
            let message = tokio::time::timeout(PATIENCE, self.reports.next())
                .await
                .expect("a report")
                .expect("subscribed");
            let Ok(subjects::Reported::Instance(agent, instance)) = subjects::parse_report(&message.subject)
            else {
                return read(&message);
            };
            let Reports { v, reports } = read(&message);
            self.told
                .extend(reports.into_iter().map(|report| report.of(v, agent.clone(), instance.clone()).1));
        }
        self.told.pop_front().expect("a message has reports")
    }

    /// The next question, as (verb, message).
    pub async fn query(&mut self) -> (String, Message) {
        let message = next(&mut self.queries).await;
        (subjects::parse_api(&message.subject).unwrap().1.to_owned(), message)
    }

    pub async fn answer<T: Serialize>(&self, query: &Message, answer: &T) {
        let reply = query.reply.clone().unwrap();
        self.nats.publish(reply, codec::pack(answer)).await.unwrap();
    }

    pub async fn refuse(&self, query: &Message, code: Code) {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Service-Error", code.as_str());
        headers.insert("Nats-Service-Error-Code", code.status().to_string().as_str());
        let body = codec::pack(&Refusal::new(code, "by the test"));
        self.nats.publish_with_headers(query.reply.clone().unwrap(), headers, body).await.unwrap();
    }

    pub async fn offer(&self, instance: &InstanceId, offer: &Offer) {
        let offers = Offers { v: 1, epoch: self.epoch, offers: vec![offer.clone()] };
        self.say(subjects::offer(&agent(), instance), &offers).await;
    }

    pub async fn verdict(&self, instance: &InstanceId, verdict: Verdict) {
        self.ctl(instance, CtlOp::Verdict(verdict)).await;
    }

    pub async fn decided(&self, instance: &InstanceId, token: Token, n: u32) {
        self.verdict(instance, Verdict { token, n, refusal: None, refused: vec![] }).await;
    }

    pub async fn ctl(&self, instance: &InstanceId, op: CtlOp) {
        self.say(subjects::ctl(&agent(), instance), &Ctl { v: 1, epoch: self.epoch, ops: vec![op] }).await;
    }

    pub async fn hello(&self) {
        let hello = OwnerHello { v: 1, epoch: self.epoch, coordinator: "test".into() };
        self.say(subjects::owner(subjects::Shard(0)), &hello).await;
    }

    pub async fn done(&self, task: &TaskId, done: &Done) {
        self.say(subjects::done(&tenant(), task), done).await;
    }

    pub async fn event(&self, task: &TaskId, event: &Event) {
        self.say(subjects::event(&tenant(), task), event).await;
    }

    async fn say<T: Serialize>(&self, subject: String, message: &T) {
        self.nats.publish(subject, codec::pack(message)).await.unwrap();
        self.nats.flush().await.unwrap();
    }
}

pub fn agent() -> AgentName {
    AgentName::new("reader").unwrap()
}

pub fn tenant() -> TenantName {
    TenantName::new("acme").unwrap()
}

pub fn offer(task: &str, token: u128, input: &str) -> Offer {
    let task = TaskId::new(task).unwrap();
    Offer {
        tenant: tenant(),
        root: task.clone(),
        task,
        attempt: 1,
        token: Token(token),
        lease_ms: 1_500,
        tries: 0,
        parent: None,
        depth: 0,
        children: 0,
        recorded: 0,
        told: 0,
        deadline_at: None,
        time_left_ms: None,
        hops: 0,
        input: Payload::json(input).unwrap(),
    }
}

pub fn done(state: Phase, result: Option<Payload>) -> Done {
    Done {
        v: 1,
        rev: 7,
        state,
        refusal: None,
        result,
        attempt: 1,
        last_event: 0,
        body_hash: None,
        nonce: None,
    }
}

pub async fn next(subscription: &mut Subscriber) -> Message {
    tokio::time::timeout(PATIENCE, subscription.next()).await.expect("a message in time").expect("open")
}

pub fn read<T: DeserializeOwned>(message: &Message) -> T {
    codec::decode_any(None, &message.payload, 1 << 20).1.expect("a message of ours")
}
