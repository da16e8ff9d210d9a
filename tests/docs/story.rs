//! A fabric without servers, told line by line: the real engine, its inputs and its effects.
//!
//! Time, tokens and jitter are given, so that the same story is the same text on every machine. The messages are
//! shown as JSON, with the subjects they travel on.

use std::fmt::Write as _;

use bytes::Bytes;
use selvedge::flow::{
    engine::{Effect, Engine, Next},
    input::{Entropy, Input, Tell},
    record::{Hash, JournalMessage},
    state::Policy,
};
use selvedge::task::{
    AgentName, InstanceId, Millis, TaskId, TaskKey, TenantName, TenantSettings, Token, hex,
};
use selvedge::wire::{
    Format,
    messages::{Accept, Beat, Cmd, Ctl, Offers, Report, Submit},
    subjects::{self, Intake, Shard},
    topology,
};

/// 21 November 2026, 07:00 UTC.
const WALL: Millis = 1_795_244_400_000;

/// Tokens that are told apart at a glance, and the middle of every jitter.
struct Given(u128);

impl Entropy for Given {
    fn token(&mut self) -> Token {
        self.0 += 1;
        Token(self.0 * 0x1111_1111_1111_1111_1111_1111_1111_1111)
    }

    fn jitter(&mut self) -> u64 {
        u64::MAX / 2
    }
}

/// See the module.
pub struct Story {
    engine: Engine<&'static str>,
    given: Given,
    now: Millis,
    seq: u64,
    told: String,
}

impl Story {
    /// An owner that has opened an empty journal. Its opening is told.
    pub fn begin() -> Story {
        let mut engine = Engine::new(Shard(0));
        engine.open("coordinator-1", Policy::default());
        engine.live_mut().listen();
        let mut story = Story { engine, given: Given(0), now: 0, seq: 0, told: String::new() };
        story.turn();
        story
    }

    /// The same, silently, with instances that were heard.
    pub fn with(instances: &[(&str, &str)]) -> Story {
        let mut story = Story::begin();
        story.told.clear();
        for (agent, instance) in instances {
            story.beat(agent, instance, &[]);
        }
        story
    }

    /// What was told so far, the tokens short.
    pub fn text(self) -> String {
        (1..=self.given.0).fold(self.told, |told, n| {
            let token = Story::token(n).to_string();
            told.replace(&token, &format!("{}…", &token[..4]))
        })
    }

    /// A token, by the number of its dispatch.
    pub fn token(n: u128) -> Token {
        Token(n * 0x1111_1111_1111_1111_1111_1111_1111_1111)
    }

    /// A sentence between the lines.
    pub fn say(&mut self, text: &str) {
        if !self.told.is_empty() {
            self.told.push('\n');
        }
        let _ = writeln!(self.told, "# {text}");
    }

    fn line(&mut self, what: &str, place: &str, body: &[u8]) {
        let _ = writeln!(self.told, "{what:<8} {place}\n         {}", String::from_utf8_lossy(body));
    }

    /// A client submits.
    pub fn submit(&mut self, tenant: &str, agent: &str, task: &str, body: &str) {
        let (tenant, agent): (TenantName, AgentName) = (name(tenant), name(agent));
        let subject = subjects::submit(&tenant, &agent, &name(task));
        self.line("INTAKE", &subject, body.as_bytes());
        let Ok(Intake::Submit(key, agent)) = subjects::parse_intake(&subject) else { panic!("{subject}") };
        let body = Format::Json.decode::<Submit>(body.as_bytes(), 1_000_000);
        self.engine
            .push(Input::Submit { key, agent, body, stored_at: WALL + self.now }, Some(topology::INTAKE));
        self.turn();
    }

    /// An operator changes a tenant.
    pub fn tenant(&mut self, tenant: &str, settings: &str) {
        let tenant: TenantName = name(tenant);
        let key = topology::bucket_subject(topology::LIMITS_BUCKET, &topology::tenant_key(&tenant));
        self.line("KV", &key, settings.as_bytes());
        let settings = Some(serde_json::from_str::<TenantSettings>(settings).expect("settings"));
        self.engine.push(Input::Tenant { name: tenant, settings, kv_rev: 1 }, None);
        self.turn();
    }

    /// Somebody commands.
    pub fn command(&mut self, tenant: &str, task: &str, nonce: &str, body: &str) {
        let subject = subjects::cmd(&name(tenant), &name(task), &name(nonce));
        self.line("INTAKE", &subject, body.as_bytes());
        let Ok(Intake::Cmd(key, nonce)) = subjects::parse_intake(&subject) else { panic!("{subject}") };
        let body = Format::Json.decode::<Cmd>(body.as_bytes(), 1_000_000);
        self.engine.push(Input::Cmd { key, nonce, body }, Some(topology::INTAKE));
        self.turn();
    }

    /// An instance heartbeats, with its slots free but for `tokens`; not told.
    pub fn beat(&mut self, agent: &str, instance: &str, tokens: &[Token]) {
        let (agent, instance): (AgentName, InstanceId) = (name(agent), name(instance));
        let body = Beat {
            v: 1,
            slots: 2,
            tokens: tokens.to_vec(),
            lease_ms: 15_000,
            draining: false,
            messages: false,
            calls: None,
            ahead: 0,
            about: None,
            call_slots: 0,
        };
        self.engine.push(Input::Beat { agent, instance, body }, None);
        self.turn();
    }

    /// An instance accepts an offer.
    pub fn accept(&mut self, agent: &str, instance: &str, token: Token) {
        let (agent, instance): (AgentName, InstanceId) = (name(agent), name(instance));
        let body = Accept { v: 1, taken: vec![token], busy: Vec::new(), over: Vec::new() };
        let subject = subjects::accept(&agent, &instance);
        self.line("heard", &subject, &Format::Json.encode(&body));
        self.engine.push(Input::Accept { agent, instance, body }, None);
        self.turn();
    }

    /// A running attempt reports.
    pub fn report(&mut self, tenant: &str, task: &str, body: &str) {
        let subject = subjects::report(&name(tenant), &name(task));
        self.line("REPORTS", &subject, body.as_bytes());
        let key = TaskKey { tenant: name(tenant), id: name::<TaskId>(task) };
        let body = Format::Json.decode::<Report>(body.as_bytes(), 1_000_000);
        if let Err(error) = &body {
            panic!("{error}");
        }
        self.engine.push(Input::Report { key, body }, Some(topology::REPORTS));
        self.turn();
    }

    /// Time passes, second by second, in which heartbeats could be heard.
    pub fn pass(&mut self, mut ms: Millis) {
        while ms > 0 {
            let step = ms.min(1_000);
            self.now += step;
            self.engine.live_mut().tick(step, true);
            ms -= step;
            self.turn();
        }
    }

    /// Turns the loop until there is nothing to do. Each append is acknowledged at once.
    fn turn(&mut self) {
        loop {
            match self.engine.next(self.now, WALL + self.now, &mut self.given).expect("the journal goes on") {
                Next::Idle => return,
                Next::Effects(effects) => {
                    for effect in effects {
                        self.effect(effect);
                    }
                }
                Next::Append { bytes, expect } => {
                    assert_eq!(expect, self.seq, "an append expects its predecessor");
                    self.journal(&bytes);
                    self.seq += 1;
                    for effect in self.engine.appended(self.seq) {
                        self.effect(effect);
                    }
                }
            }
        }
    }

    fn journal(&mut self, bytes: &Bytes) {
        let message = JournalMessage::decode(bytes).expect("what was written can be read");
        let short = |hash: &Hash| hex(&hash.0[..4]);
        let _ = writeln!(
            self.told,
            "JOURNAL  {}  rev {} epoch {} now {} prev {} hash {}",
            subjects::journal(message.shard),
            message.rev,
            message.epoch,
            message.now,
            short(&message.prev),
            short(&Hash::of(bytes)),
        );
        for record in &message.records {
            let _ = writeln!(self.told, "         {}", String::from_utf8_lossy(&Format::Json.encode(record)));
        }
    }

    fn effect(&mut self, effect: Effect<&'static str>) {
        match effect {
            Effect::Ack(stream) => {
                let _ = writeln!(self.told, "ack      {stream}");
            }
            Effect::Beat(..) | Effect::Load { .. } | Effect::Fired(..) => {}
            Effect::Tell(Tell::Offer { agent, instance, offer }) => {
                let epoch = self.engine.state().epoch;
                let subject = subjects::offer(&agent, &instance);
                self.line(
                    "tell",
                    &subject,
                    &Format::Json.encode(&Offers { v: 1, epoch, offers: vec![*offer] }),
                );
            }
            Effect::Tell(Tell::Ctl { agent, instance, op }) => {
                let epoch = self.engine.state().epoch;
                let subject = subjects::ctl(&agent, &instance);
                self.line("tell", &subject, &Format::Json.encode(&Ctl { v: 1, epoch, ops: vec![op] }));
            }
            // None of the stories has a call, or a step with a large result.
            Effect::Tell(Tell::Call { .. } | Tell::CallFailed { .. }) | Effect::DropKept { .. } => {}
            Effect::Tell(Tell::Done { key, done }) => {
                let subject = subjects::done(&key.tenant, &key.id);
                self.line("tell", &subject, &Format::Json.encode(&*done));
            }
        }
    }
}

fn name<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is no name"))
}
