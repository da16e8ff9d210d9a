//! Where hostile bytes begin: good bytes. Golden messages, a small journal that the real engine wrote, its snapshot.

use std::{collections::BTreeMap, sync::OnceLock};

use selvedge::{
    flow::{
        calls::ReplyTo,
        engine::{Effect, Engine, Next},
        input::{Entropy, Input, Tell},
        record::JournalMessage,
        state::Policy,
    },
    task::*,
    wire::{
        calls::{CallOver, CallRequest},
        codec::{self, Format},
        history::{Did, Step},
        messages::*,
        subjects::Shard,
    },
};

/// Tokens in order, and the middle of every jitter.
struct Given(u128);

impl Entropy for Given {
    fn token(&mut self) -> Token {
        self.0 += 1;
        Token(self.0)
    }

    fn jitter(&mut self) -> u64 {
        u64::MAX / 2
    }
}

/// 21 November 2026, 07:00 UTC.
const WALL: Millis = 1_795_244_400_000;

struct Owner {
    engine: Engine<()>,
    given: Given,
    now: Millis,
    journal: Vec<Vec<u8>>,
    /// The latest lease of each task, and its attempt.
    leases: BTreeMap<String, (Token, u32)>,
    /// Calls that were given to an instance.
    calls: Vec<Token>,
}

fn name<N: std::str::FromStr<Err = NameError>>(text: &str) -> N {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn key(task: &str) -> TaskKey {
    TaskKey { tenant: name("acme"), id: name(task) }
}

impl Owner {
    fn push(&mut self, input: Input) {
        self.engine.push(input, None);
        self.run();
    }

    fn run(&mut self) {
        loop {
            let effects = match self
                .engine
                .next(self.now, WALL + self.now, &mut self.given)
                .expect("our own journal")
            {
                Next::Append { bytes, .. } => {
                    self.journal.push(bytes.to_vec());
                    self.engine.appended(self.journal.len() as u64)
                }
                Next::Effects(effects) => effects,
                Next::Idle => return,
            };
            for effect in effects {
                match effect {
                    Effect::Tell(Tell::Offer { offer, .. }) => {
                        self.leases.insert(offer.task.to_string(), (offer.token, offer.attempt));
                    }
                    Effect::Tell(Tell::Call { call, .. }) => self.calls.push(call.token),
                    _ => {}
                }
            }
        }
    }

    fn pass(&mut self, ms: Millis) {
        self.now += ms;
        self.engine.live_mut().tick(100, true);
        self.run();
    }

    fn submit(&mut self, task: &str, agent: &str) {
        self.submit_with(task, agent, Labels::new(), 0);
    }

    fn submit_with(&mut self, task: &str, agent: &str, labels: Labels, hops: u32) {
        let input = Payload::json(&[task]).expect("JSON");
        let body = Ok(Submit {
            labels: (!labels.is_empty()).then(|| Box::new(labels)),
            v: 1,
            input,
            priority: Priority::Normal,
            max_tries: None,
            times: None,
            cost: None,
            first_try: Some(WALL),
            confirm: false,
            hops,
        });
        self.push(Input::Submit { key: key(task), agent: name(agent), body, stored_at: WALL });
    }

    fn beat(&mut self, agent: &str, tokens: Vec<Token>) {
        let body = Beat {
            v: 1,
            slots: 4,
            tokens: tokens.clone(),
            lease_ms: 15_000,
            draining: false,
            messages: true,
            calls: Some(vec![]),
            ahead: 0,
            about: None,
            call_slots: 0,
        };
        let instance: InstanceId = name(&format!("{agent}-1"));
        self.push(Input::Beat { agent: name(agent), instance: instance.clone(), body });
        self.push(Input::Accept {
            agent: name(agent),
            instance,
            body: Accept { v: 1, taken: tokens, busy: vec![], over: vec![] },
        });
    }

    fn command(&mut self, task: &str, nonce: &str, op: CmdOp) {
        self.push(Input::Cmd { key: key(task), nonce: name(nonce), body: Ok(Cmd { v: 1, op }) });
    }

    fn tell(&mut self, task: &str, nonce: &str, signal: Option<&str>) {
        let (signal, message) = (signal.map(str::to_owned), Payload::json(nonce).expect("JSON"));
        self.command(task, nonce, CmdOp::Tell { signal, message, from: Some("ada".to_owned()) });
    }

    /// What the attempt that runs says, from its first report on.
    fn reports(&mut self, task: &str, agent: &str, ops: impl IntoIterator<Item = ReportOp>) {
        let (token, attempt) = self.leases[task];
        for (op, n) in ops.into_iter().zip(1..) {
            self.report(task, agent, token.0, attempt, n, op);
        }
    }

    fn call(&mut self, agent: &str, asker: Option<Token>) {
        let body = CallRequest { v: 1, input: Payload::default(), max_ms: Some(5_000), asker };
        self.push(Input::Call {
            tenant: name("acme"),
            agent: name(agent),
            by_handler: asker.is_some(),
            body: Box::new(Ok(body)),
            to: ReplyTo { subject: "_INBOX.abc".to_owned(), format: Format::MsgPack },
        });
    }

    /// As if everything up to now were about to be purged.
    fn carry(&mut self) {
        let messages: Vec<_> = self.journal.iter().map(|bytes| JournalMessage::decode(bytes)).collect();
        for message in messages {
            let message = message.expect("our own journal");
            self.push(Input::Carry { rev: message.rev, payloads: message.payloads() });
        }
    }

    fn report(&mut self, task: &str, agent: &str, token: u128, attempt: u32, n: u32, op: ReportOp) {
        let report = Report {
            v: 1,
            token: Token(token),
            attempt,
            agent: name(agent),
            instance: name(&format!("{agent}-1")),
            n,
            op,
        };
        self.push(Input::Report { key: key(task), body: Ok(report) });
    }
}

fn end(outcome: Outcome) -> ReportOp {
    ReportOp::End(End { last_event: 0, outcome, used: None })
}

fn spec(agent: &str) -> Spec {
    Spec {
        labels: Some(Box::new(Labels::from_iter([("team", "search")]))),
        agent: name(agent),
        input: Payload::default(),
        priority: Priority::Normal,
        max_tries: None,
        times: None,
        cost: None,
    }
}

fn step(place: u32, name: &str, did: Did) -> ReportOp {
    ReportOp::Step(Step { place, name: name.to_owned(), did })
}

fn waits_for_message(place: u32, signal: &str, within_ms: Option<Millis>) -> ReportOp {
    end(Outcome::Wait(WaitFor::Message { place, signal: Some(signal.to_owned()), within_ms }))
}

fn story() -> Owner {
    let mut engine = Engine::new(Shard(0));
    engine.open("coordinator-1", Policy::default());
    engine.live_mut().listen();
    let mut owner = Owner {
        engine,
        given: Given(0),
        now: 0,
        journal: Vec::new(),
        leases: BTreeMap::new(),
        calls: Vec::new(),
    };
    owner.push(Input::Plan { name: name("gold"), plan: Some(Plan::pro()), kv_rev: 1 });
    let settings = serde_json::from_str::<TenantSettings>(r#"{"plan":"gold"}"#).expect("settings");
    owner.push(Input::Tenant { name: name("acme"), settings: Some(settings), kv_rev: 2 });
    owner.submit("t-1", "reader");
    owner.submit("t-2", "reader");
    owner.submit("plan-1", "planner");
    owner.beat("reader", vec![]);
    owner.beat("reader", vec![Token(1), Token(2)]);
    owner.report(
        "t-1",
        "reader",
        1,
        1,
        1,
        end(Outcome::Completed { result: Payload::Bytes(vec![7; 40].into()) }),
    );
    let failed =
        Outcome::Failed { message: "no".to_owned(), retryable: true, retry_after_ms: None, code: None };
    owner.report("t-2", "reader", 2, 1, 1, end(failed));
    owner.beat("planner", vec![]);
    owner.beat("planner", vec![Token(3)]);
    let spawn = Spawn { step: "read".to_owned(), first: 0, children: vec![spec("reader"), spec("nobody")] };
    owner.report("plan-1", "planner", 3, 1, 1, ReportOp::Spawn(spawn));
    owner.report("plan-1", "planner", 3, 1, 2, end(Outcome::Wait(WaitFor::AllChildren)));
    owner.now += 60_000;
    owner.engine.live_mut().tick(1_000, true);
    owner.submit("t-3", "nobody");
    let cancel = || CmdOp::Cancel { reason: "enough".to_owned() };
    owner.command("t-3", "n-1", cancel());
    owner.command("never", "n-2", cancel());
    talk(&mut owner);
    calls(&mut owner);
    owner.carry();
    owner
}

/// A handler that records steps and is told things, before it runs, while it runs and while it waits.
fn talk(owner: &mut Owner) {
    let (task, agent) = ("talk-1", "talker");
    owner.submit_with(task, agent, Labels::from_iter([("team", "search"), ("ticket", "4711")]), 2);
    owner.push(Input::Triggered { key: key("made-1"), spec: Box::new(spec("nobody")), hops: 3 });
    owner.tell(task, "n-3", None);
    owner.tell(task, "n-4", Some("go"));
    owner.tell("never-2", "n-5", None);
    owner.beat(agent, vec![]);
    let paid = || Did::Result(Payload::json("paid").expect("JSON"));
    let scraped = Object { hash: ObjectHash::of(b"pages"), bytes: 5 << 20, chunks: 10 };
    // The third names a place that is recorded already, and is refused; what the last one waits for is there.
    owner.reports(
        task,
        agent,
        [
            step(0, "charge", paid()),
            step(1, "", Did::Took(1)),
            step(0, "refund", paid()),
            step(2, "scrape", Did::Kept(scraped)),
            waits_for_message(3, "go", None),
        ],
    );
    owner.reports(task, agent, [waits_for_message(4, "stop", Some(1_000))]);
    owner.pass(2_000);
    owner.reports(task, agent, [end(Outcome::Wait(WaitFor::Time { place: 5, ms: 1_000 }))]);
    owner.pass(2_000);
    owner.reports(task, agent, [waits_for_message(6, "more", None)]);
    owner.tell(task, "n-6", Some("more"));
    owner.tell(task, "n-7", None);
}

/// Calls from outside and by that handler: one has ended, the others hold their places.
fn calls(owner: &mut Owner) {
    let (asker, _) = owner.leases["talk-1"];
    owner.call("talker", None);
    owner.call("talker", None);
    owner.call("talker", Some(asker));
    let over = vec![CallOver { token: owner.calls[0], code: None, first_ms: Some(3) }];
    let body = Accept { v: 1, taken: owner.calls[1..].to_vec(), busy: vec![], over };
    owner.push(Input::Accept { agent: name("talker"), instance: name("talker-1"), body });
}

/// The messages of a small journal with something of everything in it.
pub fn journal() -> &'static [Vec<u8>] {
    static JOURNAL: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    JOURNAL.get_or_init(|| story().journal)
}

/// The snapshot of the state at its end: the head, then parts.
pub fn snapshot() -> &'static [Vec<u8>] {
    static SNAPSHOT: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SNAPSHOT.get_or_init(|| {
        let mut engine = story().engine;
        let head = engine.begin_snapshot();
        let mut pieces = vec![codec::pack(&head).to_vec()];
        while let Some(part) = engine.snapshot_part(500) {
            pieces.push(part.to_vec());
        }
        pieces
    })
}

/// Pieces behind each other, each after its length in two bytes.
pub fn join(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&(piece.len() as u16).to_be_bytes());
        out.extend_from_slice(piece);
    }
    out
}

/// The other way round; the last piece may be cut.
pub fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((len, rest)) = bytes.split_at_checked(2) {
        let len = (usize::from(len[0]) << 8 | usize::from(len[1])).min(rest.len());
        let (piece, rest) = rest.split_at(len);
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
