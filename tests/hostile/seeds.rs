//! Where hostile bytes begin: good bytes. Golden messages, a small journal that the real engine wrote, its snapshot.

use std::sync::OnceLock;

use selvedge::{
    flow::{
        engine::{Engine, Next},
        input::{Entropy, Input},
        state::Policy,
    },
    task::*,
    wire::{codec, messages::*, subjects::Shard},
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
        loop {
            match self.engine.next(self.now, WALL + self.now, &mut self.given).expect("our own journal") {
                Next::Append { bytes, .. } => {
                    self.journal.push(bytes.to_vec());
                    self.engine.appended(self.journal.len() as u64);
                }
                Next::Effects(_) => {}
                Next::Idle => return,
            }
        }
    }

    fn submit(&mut self, task: &str, agent: &str) {
        let input = Payload::json(&[task]).expect("JSON");
        let body = Ok(Submit {
            labels: None,
            v: 1,
            input,
            priority: Priority::Normal,
            max_tries: None,
            times: None,
            cost: None,
            first_try: Some(WALL),
            confirm: false,
            hops: 0,
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
            messages: false,
            calls: None,
            ahead: 0,
            about: None,
        };
        let instance: InstanceId = name(&format!("{agent}-1"));
        self.push(Input::Beat { agent: name(agent), instance: instance.clone(), body });
        self.push(Input::Accept {
            agent: name(agent),
            instance,
            body: Accept { v: 1, taken: tokens, busy: vec![], over: vec![] },
        });
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

fn story() -> Owner {
    let mut engine = Engine::new(Shard(0));
    engine.open("coordinator-1", Policy::default());
    engine.live_mut().listen();
    let mut owner = Owner { engine, given: Given(0), now: 0, journal: Vec::new() };
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
    let spec = |agent: &str| Spec {
        labels: None,
        agent: name(agent),
        input: Payload::default(),
        priority: Priority::Normal,
        max_tries: None,
        times: None,
        cost: None,
    };
    let spawn = Spawn { step: "read".to_owned(), first: 0, children: vec![spec("reader"), spec("nobody")] };
    owner.report("plan-1", "planner", 3, 1, 1, ReportOp::Spawn(spawn));
    owner.report("plan-1", "planner", 3, 1, 2, end(Outcome::Wait(WaitFor::AllChildren)));
    owner.now += 60_000;
    owner.engine.live_mut().tick(1_000, true);
    owner.submit("t-3", "nobody");
    let cancel = Cmd { v: 1, op: CmdOp::Cancel { reason: "enough".to_owned() } };
    owner.push(Input::Cmd { key: key("t-3"), nonce: name("n-1"), body: Ok(cancel.clone()) });
    owner.push(Input::Cmd { key: key("never"), nonce: name("n-2"), body: Ok(cancel) });
    owner
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
