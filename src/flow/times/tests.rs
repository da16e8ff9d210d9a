//! Time against everything else: what holds, what expires, who is told, and which of two events wins.

use super::*;
use crate::{
    flow::{
        engine::{Effect, Engine, Next},
        input::{Input, Tell},
        record::{Hash, JournalMessage},
        rig::Given,
        snapshot::Restore,
        state::Policy,
    },
    task::{Outcome, TenantSettings, Token, child_id},
    wire::{
        api::TaskView,
        messages::{Beat, Cmd, CmdOp, CtlOp, End, Report, ReportOp, Spawn, Submit},
        subjects::Shard,
    },
};

pub const WALL: Millis = 1_800_000_000_000;

/// An owner, an instance with four slots, and both clocks by hand.
pub struct Owner {
    pub engine: Engine<()>,
    entropy: Given,
    pub now: Millis,
    pub wall: Millis,
    journal: Vec<bytes::Bytes>,
    told: Vec<Tell>,
}

pub fn key(id: &str) -> TaskKey {
    TaskKey { tenant: "acme".parse().unwrap(), id: id.parse().unwrap() }
}

fn asks(set: impl FnOnce(&mut Times)) -> Times {
    let mut times = Times::default();
    set(&mut times);
    times
}

impl Owner {
    pub fn new() -> Self {
        let mut engine = Engine::new(Shard(0));
        engine.open("c", Policy::default());
        let (entropy, journal, told) = (Given { tokens: 0, jitter: u64::MAX }, Vec::new(), Vec::new());
        let mut owner = Self { engine, entropy, now: 0, wall: WALL, journal, told };
        owner.engine.live_mut().listen();
        owner.set_tenant(1, false, false);
        owner.slots(4);
        owner
    }

    pub fn set_tenant(&mut self, kv_rev: u64, paused: bool, suspended: bool) {
        let (plan, overrides, stopped) = ("pro".parse().unwrap(), Default::default(), false);
        let settings = Some(TenantSettings { plan, overrides, paused, stopped, suspended });
        self.push(Input::Tenant { name: key("t").tenant, settings, kv_rev });
    }

    pub fn slots(&mut self, slots: u32) {
        let body = Beat {
            v: 1,
            slots,
            tokens: vec![],
            lease_ms: 3_600_000,
            draining: false,
            messages: false,
            calls: None,
            about: None,
            ahead: 0,
            call_slots: 0,
        };
        let (agent, instance) = ("reader".parse().unwrap(), "r-1".parse().unwrap());
        self.push(Input::Beat { agent, instance, body });
    }

    pub fn push(&mut self, input: Input) {
        self.engine.push(input, None);
        self.turn();
    }

    pub fn turn(&mut self) {
        loop {
            let effects = match self.engine.next(self.now, self.wall, &mut self.entropy).unwrap() {
                Next::Append { bytes, .. } => {
                    self.journal.push(bytes);
                    self.engine.appended(self.journal.len() as u64)
                }
                Next::Effects(effects) => effects,
                Next::Idle => break,
            };
            self.told.extend(effects.into_iter().filter_map(|effect| match effect {
                Effect::Tell(tell) => Some(tell),
                _ => None,
            }));
        }
        self.engine.state().check_derived().unwrap();
    }

    /// Both clocks go on.
    pub fn pass(&mut self, ms: Millis) {
        (self.now, self.wall) = (self.now + ms, self.wall + ms);
        self.turn();
    }

    pub fn submit(&mut self, id: &str, times: Times) {
        self.submit_for(id, times, None);
    }

    pub fn submit_for(&mut self, id: &str, times: Times, cost: Option<u32>) {
        let body = Submit {
            labels: None,
            v: 1,
            input: Payload::default(),
            priority: Default::default(),
            max_tries: Some(2),
            times: (!times.is_empty()).then(|| Box::new(times)),
            cost,
            first_try: Some(self.wall),
            confirm: false,
            hops: 0,
        };
        let agent = "reader".parse().unwrap();
        self.push(Input::Submit { key: key(id), agent, body: Ok(body), stored_at: self.wall });
    }

    fn cancel(&mut self, id: &str) {
        let body = Ok(Cmd { v: 1, op: CmdOp::Cancel { reason: "enough".to_owned() } });
        self.push(Input::Cmd { key: key(id), nonce: "n-1".parse().unwrap(), body });
    }

    pub fn report(&mut self, id: &str, n: u32, op: ReportOp) {
        let task = self.engine.state().task(&key(id)).unwrap();
        let (token, attempt) = (Token(self.entropy.tokens), task.attempt());
        let (agent, instance) = ("reader".parse().unwrap(), "r-1".parse().unwrap());
        let body = Ok(Report { v: 1, token, attempt, agent, instance, n, op });
        self.push(Input::Report { key: key(id), body });
    }

    pub fn end(&mut self, id: &str, outcome: Outcome) {
        self.report(id, 1, ReportOp::End(End { last_event: 0, outcome, used: None }));
    }

    pub fn view(&self, id: &str) -> TaskView {
        self.engine.view(&key(id)).unwrap()
    }

    pub fn phase(&self, id: &str) -> Phase {
        self.view(id).state
    }

    pub fn code(&self, id: &str) -> Option<Code> {
        self.view(id).refusal.map(|refusal| refusal.code)
    }

    /// How many admissions the journal holds.
    pub fn submitted(&self) -> usize {
        let messages = self.journal.iter().map(|bytes| JournalMessage::decode(bytes).unwrap());
        let is = |record: &Record| matches!(record, Record::Submitted { .. });
        messages.map(|message| message.records.iter().filter(|record| is(record)).count()).sum()
    }

    /// What was told since this was asked last.
    pub fn told(&mut self) -> Vec<Tell> {
        std::mem::take(&mut self.told)
    }

    /// Somebody takes over: whatever was heard is forgotten.
    pub fn taken_over(&mut self) {
        let mut engine = Engine::new(Shard(0));
        for (at, bytes) in self.journal.iter().enumerate() {
            engine.replay(at as u64 + 1, bytes).unwrap();
        }
        engine.open("d", Policy::default());
        self.engine = engine;
        self.engine.live_mut().listen();
        self.turn();
    }

    /// Journal messages so far.
    pub fn appends(&self) -> usize {
        self.journal.len()
    }

    /// Codes with which instances were told to stop.
    fn stops(&mut self) -> Vec<Code> {
        let told = std::mem::take(&mut self.told).into_iter();
        told.filter_map(|tell| match tell {
            Tell::Ctl { op: CtlOp::Stop { code, .. }, .. } => Some(code),
            _ => None,
        })
        .collect()
    }

    /// A replay of the journal, and a restored snapshot, are in the same state.
    pub fn is_the_same_anywhere(&mut self) {
        let mut replayed: Engine<()> = Engine::new(Shard(0));
        for (at, bytes) in self.journal.iter().enumerate() {
            replayed.replay(at as u64 + 1, bytes).unwrap();
        }
        let head = self.engine.begin_snapshot();
        let mut restore = Restore::new(Shard(0), head).unwrap();
        while let Some(part) = self.engine.snapshot_part(1 << 20) {
            restore.part(&part).unwrap();
        }
        let restored: Engine<()> = restore.finish().unwrap();
        restored.state().check_derived().unwrap();
        let state = self.engine.state().canonical();
        assert!(replayed.state().canonical() == state && restored.state().canonical() == state);
        let (due, wall) = (self.engine.state().next_due(), self.engine.state().next_due_wall());
        assert_eq!((restored.state().next_due(), restored.state().next_due_wall()), (due, wall));
    }
}

#[test]
fn a_delayed_task_is_queued_counts_as_backlog_and_starts_when_its_delay_is_over() {
    let mut owner = Owner::new();
    owner.submit("t", asks(|t| t.delay_ms = Some(600_000)));
    assert_eq!(owner.view("t").not_before, Some(WALL + 600_000));
    assert_eq!((owner.phase("t"), owner.engine.state().backlog()), (Phase::Queued, 1));
    owner.pass(599_999);
    assert_eq!(owner.phase("t"), Phase::Queued);
    owner.is_the_same_anywhere();
    owner.pass(1);
    assert_eq!(owner.phase("t"), Phase::Running);
}

#[test]
fn a_stepped_wall_clock_moves_run_at_and_deadlines_and_nothing_else() {
    let mut owner = Owner::new();
    owner.submit("at", asks(|t| t.run_at = Some(WALL + 60_000)));
    owner.submit("delay", asks(|t| t.delay_ms = Some(60_000)));
    owner.submit("try", asks(|t| t.try_timeout_ms = Some(60_000)));
    owner.slots(0);
    owner.submit("ttl", asks(|t| t.ttl_ms = Some(60_000)));
    owner.submit("deadline", asks(|t| t.deadline_ms = Some(90_000)));
    owner.slots(4);
    owner.wall += 60_000;
    owner.turn();
    assert_eq!(owner.phase("at"), Phase::Running);
    assert_eq!(owner.phase("delay"), Phase::Queued);
    // Back again, further than it came from: what has started has started, what has not passed has not.
    owner.wall -= 3_600_000;
    owner.pass(1_000);
    assert_eq!(owner.phase("at"), Phase::Running);
    owner.wall += 3_600_000 + 30_000;
    owner.turn();
    assert_eq!((owner.phase("deadline"), owner.phase("try")), (Phase::Expired, Phase::Running));
}

#[test]
fn a_task_cancelled_while_delayed_never_starts() {
    for times in [asks(|t| t.delay_ms = Some(5_000)), asks(|t| t.run_at = Some(WALL + 5_000))] {
        let mut owner = Owner::new();
        owner.submit("t", times);
        owner.cancel("t");
        assert_eq!((owner.phase("t"), owner.engine.state().backlog()), (Phase::Cancelled, 0));
        owner.pass(10_000);
        assert_eq!((owner.phase("t"), owner.view("t").attempt), (Phase::Cancelled, 0));
        owner.is_the_same_anywhere();
    }
}

#[test]
fn a_time_to_live_begins_when_the_task_may_start_and_ends_when_it_has_started() {
    let mut owner = Owner::new();
    owner.slots(0);
    owner.submit("late", asks(|t| (t.delay_ms, t.ttl_ms) = (Some(5_000), Some(2_000))));
    owner.pass(5_000);
    owner.pass(1_999);
    assert_eq!(owner.phase("late"), Phase::Queued);
    owner.is_the_same_anywhere();
    owner.pass(1);
    let refusal = owner.view("late").refusal.unwrap();
    assert_eq!((owner.phase("late"), refusal.code), (Phase::Expired, Code::TtlExpired));
    assert_eq!((refusal.limit, refusal.actual), (Some(2_000), Some(2_000)));

    let mut owner = Owner::new();
    owner.submit("started", asks(|t| t.ttl_ms = Some(2_000)));
    owner.pass(10_000);
    assert_eq!(owner.phase("started"), Phase::Running);
}

#[test]
fn an_offer_that_was_taken_back_has_started_nothing() {
    let mut owner = Owner::new();
    owner.submit("t", asks(|t| t.ttl_ms = Some(2_000)));
    let token = Token(owner.entropy.tokens);
    owner.slots(0);
    let (agent, instance) = ("reader".parse().unwrap(), "r-1".parse().unwrap());
    let body = crate::wire::messages::Accept { v: 1, taken: vec![], busy: vec![token], over: vec![] };
    owner.push(Input::Accept { agent, instance, body });
    assert_eq!(owner.phase("t"), Phase::Queued);
    owner.pass(2_000);
    assert_eq!(owner.code("t"), Some(Code::TtlExpired));
}

#[test]
fn a_try_that_takes_too_long_is_stopped_and_is_a_lost_try() {
    let mut owner = Owner::new();
    owner.submit("t", asks(|t| t.try_timeout_ms = Some(1_500)));
    owner.pass(1_499);
    assert_eq!(owner.phase("t"), Phase::Running);
    owner.is_the_same_anywhere();
    owner.pass(1);
    assert_eq!((owner.phase("t"), owner.stops()), (Phase::Retrying, vec![Code::TryTimeout]));
    owner.end("t", Outcome::Completed { result: Payload::default() });
    assert_eq!(owner.phase("t"), Phase::Retrying, "what a stopped try says counts for nothing");
    owner.pass(1_000);
    assert_eq!(owner.phase("t"), Phase::Running);
    owner.pass(1_500);
    assert_eq!((owner.phase("t"), owner.code("t")), (Phase::Failed, Some(Code::TryTimeout)));
    assert_eq!(owner.view("t").failures.len(), 2);
}

#[test]
fn a_deadline_stops_what_runs_and_ends_the_tree() {
    let mut owner = Owner::new();
    owner.submit("p", asks(|t| t.deadline_ms = Some(10_000)));
    owner.slots(0);
    let child = |times: Option<Times>| Spec {
        labels: None,
        agent: "reader".parse().unwrap(),
        input: Payload::default(),
        priority: Default::default(),
        max_tries: None,
        times: times.map(Box::new),
        cost: None,
    };
    let children = vec![
        child(None),
        child(Some(asks(|t| t.deadline_ms = Some(60_000)))),
        child(Some(asks(|t| t.deadline_ms = Some(4_000)))),
        child(Some(asks(|t| t.delay_ms = Some(60_000)))),
        child(Some(asks(|t| t.delay_ms = Some(8_000)))),
    ];
    owner.pass(1_000);
    owner.report("p", 1, ReportOp::Spawn(Spawn { step: "s".to_owned(), first: 0, children }));
    let id = |n| child_id(&key("p").id, "s", n).to_string();
    let deadlines: Vec<_> = (0..5).map(|n| owner.view(&id(n)).deadline_at).collect();
    let inherited = Some(WALL + 10_000);
    assert_eq!(deadlines, [inherited, inherited, Some(WALL + 5_000), None, inherited]);
    // It could start only when its parent is over.
    assert_eq!(owner.code(&id(3)), Some(Code::BadTime));
    owner.pass(4_000);
    assert_eq!((owner.phase(&id(2)), owner.phase("p")), (Phase::Expired, Phase::Running));
    owner.is_the_same_anywhere();
    owner.stops();
    owner.pass(5_000);
    assert_eq!(owner.stops(), [Code::DeadlineExceeded]);
    for task in ["p", &id(0), &id(1), &id(4)] {
        assert_eq!((owner.phase(task), owner.code(task)), (Phase::Expired, Some(Code::DeadlineExceeded)));
    }
    let refusal = owner.view("p").refusal.unwrap();
    assert_eq!((refusal.limit, refusal.actual), (Some(WALL + 10_000), Some(WALL + 10_000)));
    owner.is_the_same_anywhere();
}

#[test]
fn of_an_end_and_a_deadline_the_first_in_the_journal_stands() {
    let done = || Outcome::Completed { result: Payload::json(&1).unwrap() };
    let mut owner = Owner::new();
    owner.submit("t", asks(|t| t.deadline_ms = Some(1_000)));
    // Both are there when the owner looks: what was reported is decided before what is due.
    (owner.now, owner.wall) = (owner.now + 1_000, owner.wall + 1_000);
    owner.end("t", done());
    assert_eq!(owner.phase("t"), Phase::Completed);

    let mut owner = Owner::new();
    owner.submit("t", asks(|t| t.deadline_ms = Some(1_000)));
    owner.pass(1_000);
    owner.end("t", done());
    assert_eq!((owner.phase("t"), owner.code("t")), (Phase::Expired, Some(Code::DeadlineExceeded)));
}

#[test]
fn what_would_go_on_after_its_deadline_expires_at_it() {
    let failed = Outcome::Failed {
        message: "no".to_owned(),
        retryable: true,
        retry_after_ms: Some(60_000),
        code: None,
    };
    for (outcome, meanwhile) in [(failed, Phase::Retrying), (Outcome::Snooze { ms: 60_000 }, Phase::Waiting)]
    {
        let mut owner = Owner::new();
        owner.submit("t", asks(|t| t.deadline_ms = Some(5_000)));
        owner.end("t", outcome);
        owner.pass(4_999);
        assert_eq!(owner.phase("t"), meanwhile);
        owner.pass(1);
        assert_eq!(owner.code("t"), Some(Code::DeadlineExceeded));
        owner.pass(60_000);
        assert_eq!((owner.phase("t"), owner.view("t").attempt), (Phase::Expired, 1));
    }
}

#[test]
fn a_tenant_that_is_paused_or_suspended_stops_no_clock() {
    for paused in [true, false] {
        let mut owner = Owner::new();
        owner.submit("delay", asks(|t| t.delay_ms = Some(1_000)));
        owner.submit("ttl", asks(|t| (t.delay_ms, t.ttl_ms) = (Some(1_000), Some(1_000))));
        owner.submit("deadline", asks(|t| (t.delay_ms, t.deadline_ms) = (Some(1_000), Some(2_000))));
        owner.set_tenant(2, paused, true);
        owner.pass(1_000);
        let phase = if paused { Phase::Queued } else { Phase::Running };
        assert_eq!(owner.phase("delay"), phase, "suspended: no submits are taken, and what was taken runs");
        owner.pass(1_000);
        if paused {
            assert_eq!(owner.code("ttl"), Some(Code::TtlExpired));
        }
        assert_eq!(owner.code("deadline"), Some(Code::DeadlineExceeded));
    }
}

#[test]
fn other_times_are_another_body_and_the_same_are_the_same_task() {
    let mut owner = Owner::new();
    owner.submit("t", asks(|t| t.delay_ms = Some(1_000)));
    let hash = owner.view("t").body_hash;
    owner.submit("t", asks(|t| t.delay_ms = Some(1_000)));
    owner.told.clear();
    owner.submit("t", asks(|t| t.delay_ms = Some(2_000)));
    let refused = owner.told.iter().any(|tell| {
        matches!(tell, Tell::Done { done, .. } if done.refusal.as_ref().is_some_and(|r| r.code == Code::IdempotencyConflict))
    });
    assert!(refused && owner.view("t").body_hash == hash);
}

#[test]
fn times_that_make_no_sense_or_come_too_late_are_refused() {
    let mut owner = Owner::new();
    let cases = [
        (asks(|t| t.ttl_ms = Some(0)), Code::BadTime),
        (asks(|t| t.delay_ms = Some(u64::MAX)), Code::BadTime),
        (asks(|t| t.run_at = Some(u64::MAX)), Code::BadTime),
        (asks(|t| (t.run_at, t.deadline_ms) = (Some(WALL + 10), Some(10))), Code::BadTime),
        (asks(|t| t.deadline_at = Some(WALL)), Code::DeadlineExceeded),
    ];
    for (n, (times, code)) in cases.into_iter().enumerate() {
        let id = format!("t-{n}");
        owner.submit(&id, times);
        assert_eq!((owner.phase(&id), owner.code(&id)), (Phase::Rejected, Some(code)), "{times:?}");
    }
    owner.is_the_same_anywhere();
}

#[test]
fn a_retried_task_has_as_long_as_the_first_had_and_is_not_delayed_again() {
    let mut owner = Owner::new();
    owner.submit("t", asks(|t| (t.delay_ms, t.deadline_ms) = (Some(1_000), Some(10_000))));
    owner.pass(1_000);
    let failed =
        Outcome::Failed { message: "no".to_owned(), retryable: false, retry_after_ms: None, code: None };
    owner.end("t", failed);
    owner.pass(20_000);
    let body = Ok(Cmd { v: 1, op: CmdOp::Retry {} });
    owner.push(Input::Cmd { key: key("t"), nonce: "n-1".parse().unwrap(), body });
    let again = crate::task::retry_id(&key("t").id, "n-1").to_string();
    assert_eq!(owner.phase(&again), Phase::Running);
    assert_eq!(owner.view(&again).deadline_at, Some(owner.wall + 10_000));
}

#[test]
fn a_mass_expiry_keeps_no_slot_idle_and_dispatches_nothing_that_is_over() {
    let mut owner = Owner::new();
    owner.slots(0);
    for n in 0..400 {
        owner.submit(&format!("old-{n}"), asks(|t| t.deadline_ms = Some(1_000)));
    }
    owner.submit("new", asks(|t| t.deadline_ms = Some(60_000)));
    (owner.now, owner.wall) = (owner.now + 1_000, owner.wall + 1_000);
    let before = owner.journal.len();
    owner.slots(4);
    let first = JournalMessage::decode(&owner.journal[before]).unwrap();
    let dispatched: Vec<_> = first
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Dispatched { key, .. } => Some(key.id.to_string()),
            _ => None,
        })
        .collect();
    assert!(dispatched.iter().all(|id| id == "new"), "{dispatched:?}");
    assert_eq!((owner.phase("old-399"), owner.phase("new")), (Phase::Expired, Phase::Running));
    assert_ne!(Hash::of(&owner.journal[before]), Hash::default());
}

#[test]
fn an_offer_tells_how_long_there_is() {
    let mut owner = Owner::new();
    owner.submit("t", asks(|t| (t.deadline_ms, t.try_timeout_ms) = (Some(10_000), Some(4_000))));
    let offers = |owner: &mut Owner| -> Vec<_> {
        let told = std::mem::take(&mut owner.told).into_iter();
        told.filter_map(|tell| match tell {
            Tell::Offer { offer, .. } => Some((offer.deadline_at, offer.time_left_ms)),
            _ => None,
        })
        .collect()
    };
    assert_eq!(offers(&mut owner), [(Some(WALL + 10_000), Some(4_000))]);
}
