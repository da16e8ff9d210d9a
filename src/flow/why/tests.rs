//! Each reason, with its numbers, where it alone holds a task back; and their order where there are several.

use super::*;
use crate::{
    flow::{
        input::Input,
        tenants::tenants,
        times::tests::{Owner, WALL, key},
    },
    task::{
        AgentSettings, AllSettings, Outcome, Overrides, Payload, Per, Spec, TenantSettings, Times, WaitFor,
        child_id,
    },
    wire::{
        api::{TenantLoad, TenantsRequest},
        messages::{Accept, Beat, Cmd, CmdOp, End, ReportOp, Spawn},
    },
};

fn why_of(owner: &Owner, id: &str) -> Why {
    why(owner.engine.state(), owner.engine.live(), &key(id)).unwrap()
}

fn reasons(owner: &Owner, id: &str) -> Vec<Reason> {
    why_of(owner, id).reasons.iter().map(|hold| hold.reason).collect()
}

fn only(owner: &Owner, id: &str) -> Hold {
    let mut reasons = why_of(owner, id).reasons;
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    reasons.remove(0)
}

fn numbers(hold: &Hold) -> (Reason, Option<u64>, Option<u64>, Option<Millis>) {
    (hold.reason, hold.actual, hold.limit, hold.until)
}

/// A tenant with limits of its own, nearly none of which bind.
fn limits(owner: &mut Owner, kv_rev: u64, set: impl FnOnce(&mut Overrides)) {
    let mut overrides = Overrides {
        in_flight: Some(1_000),
        rate: Some(100_000),
        burst: Some(100_000),
        ..Overrides::default()
    };
    set(&mut overrides);
    let settings = TenantSettings { overrides, ..TenantSettings::under("pro".parse().unwrap()) };
    let name = key("t").tenant;
    owner.push(Input::Tenant { name, settings: Some(settings), kv_rev });
}

fn agent(owner: &mut Owner, kv_rev: u64, settings: AgentSettings) {
    owner.push(Input::Agent { name: "reader".parse().unwrap(), settings: Some(settings), kv_rev });
}

fn submit(owner: &mut Owner, ids: &[&str]) {
    for id in ids {
        owner.submit(id, Times::default());
    }
}

fn command(owner: &mut Owner, id: &str, op: CmdOp) {
    let body = Ok(Cmd { v: 1, op });
    owner.push(Input::Cmd { key: key(id), nonce: "n-1".parse().unwrap(), body });
}

fn load(owner: &Owner) -> TenantLoad {
    let request = TenantsRequest { tenant: Some(key("t").tenant), limit: None };
    let mut reply = tenants(owner.engine.state(), owner.engine.live(), &request);
    reply.tenants.remove(0)
}

#[test]
fn an_agent_nobody_serves_is_named_with_when_the_task_expires() {
    let mut owner = Owner::new();
    owner.slots(0);
    owner.submit("t", Times { deadline_ms: Some(60_000), ttl_ms: Some(90_000), ..Times::default() });
    assert_eq!(numbers(&only(&owner, "t")), (Reason::NoInstance, Some(0), None, None));
    assert_eq!(only(&owner, "t").message, "nobody serves agent reader");
    assert_eq!(why_of(&owner, "t").expires_at, Some(WALL + 60_000));
    assert_eq!(load(&owner).queued_by, [("no_instance".to_owned(), 1)].into());
}

#[test]
fn an_instance_that_leaves_takes_no_work() {
    let mut owner = Owner::new();
    let body = Beat {
        v: 1,
        slots: 4,
        tokens: vec![],
        lease_ms: 3_600_000,
        draining: true,
        messages: false,
        calls: None,
        about: None,
        ahead: 0,
        call_slots: 0,
    };
    let (agent, instance) = ("reader".parse().unwrap(), "r-1".parse().unwrap());
    owner.push(Input::Beat { agent, instance, body });
    submit(&mut owner, &["t"]);
    let hold = only(&owner, "t");
    assert_eq!(hold.reason, Reason::NoInstance);
    assert!(hold.message.contains("none of 1 instances") && hold.message.contains("1 leaving"), "{hold:?}");
}

#[test]
fn busy_slots_and_the_tasks_ahead_are_counted() {
    let mut owner = Owner::new();
    limits(&mut owner, 2, |_| {});
    submit(&mut owner, &["a", "b", "c", "d", "e", "f", "t"]);
    let why = why_of(&owner, "t");
    let told: Vec<_> = why.reasons.iter().map(numbers).collect();
    assert_eq!(
        told,
        [(Reason::NoFreeSlot, Some(4), Some(4), None), (Reason::OwnTasksFirst, Some(2), None, None)]
    );
    assert_eq!(reasons(&owner, "e"), [Reason::NoFreeSlot]);
    let load = load(&owner);
    assert_eq!((load.running, load.queued, load.share, load.fair_share), (4, 3, 1_000, 1_000));
}

#[test]
fn a_cap_names_its_numbers_and_who_has_it() {
    let mut owner = Owner::new();
    limits(&mut owner, 2, |o| o.in_flight = Some(2));
    submit(&mut owner, &["a", "b", "t"]);
    let hold = only(&owner, "t");
    assert_eq!(numbers(&hold), (Reason::TenantInFlight, Some(2), Some(2), None));
    assert_eq!(hold.message, "tenant acme at in-flight cap 2/2");

    limits(&mut owner, 3, |o| o.agent_in_flight = Some(2));
    assert_eq!(numbers(&only(&owner, "t")), (Reason::TenantAgentInFlight, Some(2), Some(2), None));

    agent(&mut owner, 4, AgentSettings { in_flight: Some(2), ..AgentSettings::default() });
    limits(&mut owner, 5, |_| {});
    assert_eq!(numbers(&only(&owner, "t")), (Reason::AgentInFlight, Some(2), Some(2), None));
}

#[test]
fn pauses_come_first_whoever_made_them() {
    let mut owner = Owner::new();
    submit(&mut owner, &["t"]);
    let stopped = AgentSettings { paused: true, stopped: true, ..AgentSettings::default() };
    command(&mut owner, "t", CmdOp::Pause {});
    assert_eq!(only(&owner, "t").reason, Reason::TreePaused);
    agent(&mut owner, 2, stopped);
    owner.set_tenant(3, true, false);
    owner.push(Input::All { settings: AllSettings { paused: true, stopped: false }, kv_rev: 4 });
    let all = [Reason::AllPaused, Reason::TenantPaused, Reason::AgentPaused, Reason::TreePaused];
    assert_eq!(reasons(&owner, "t"), all);
    assert_eq!((load(&owner).paused, load(&owner).parked), (true, 1));
    owner.push(Input::All { settings: AllSettings::default(), kv_rev: 5 });
    owner.set_tenant(6, false, false);
    agent(&mut owner, 7, AgentSettings::default());
    command(&mut owner, "t", CmdOp::Resume {});
    assert_eq!(owner.phase("t"), Phase::Running);
}

#[test]
fn a_rate_says_when_it_lets_the_task_pass_with_those_before_it_in_mind() {
    let mut owner = Owner::new();
    owner.slots(100);
    limits(&mut owner, 2, |o| (o.rate, o.burst) = (Some(2), Some(1)));
    submit(&mut owner, &["a", "b", "c", "t"]);
    let first = why_of(&owner, "t").reasons.remove(0);
    assert_eq!(numbers(&first), (Reason::TenantRate, Some(0), Some(2), Some(WALL + 1_500)));
    assert_eq!(first.message, "tenant acme at its rate of 2/s (burst 1); in 1500 ms");
    assert_eq!(why_of(&owner, "b").reasons[0].until, Some(WALL + 500));
    assert_eq!(load(&owner).rate_left, 0);
    (0..14).for_each(|_| owner.pass(100));
    owner.pass(99);
    assert_eq!(owner.phase("t"), Phase::Queued);
    owner.pass(1);
    assert_eq!(owner.phase("t"), Phase::Running, "it was exact");
}

#[test]
fn a_rate_of_nothing_is_called_a_pause() {
    let mut owner = Owner::new();
    limits(&mut owner, 2, |o| o.rate = Some(0));
    submit(&mut owner, &["t"]);
    let hold = only(&owner, "t");
    assert_eq!(numbers(&hold), (Reason::TenantRate, Some(0), Some(0), None));
    assert!(hold.message.ends_with("that is a pause"), "{hold:?}");
}

#[test]
fn an_agents_rate_is_named_as_what_all_tenants_share() {
    let mut owner = Owner::new();
    limits(&mut owner, 2, |_| {});
    let settings = AgentSettings { rate: Some(60), per: Per::Minute, ..AgentSettings::default() };
    agent(&mut owner, 3, settings);
    submit(&mut owner, &["a", "t"]);
    let hold = only(&owner, "t");
    assert_eq!(numbers(&hold), (Reason::AgentRate, Some(0), Some(60), Some(WALL + 1_000)));
    assert!(hold.message.contains("60/minute"), "{hold:?}");
}

#[test]
fn cells_of_tenant_and_agent_are_told_with_what_is_needed() {
    let mut owner = Owner::new();
    limits(&mut owner, 2, |o| o.cells = Some(600));
    owner.submit_for("a", Times::default(), Some(500));
    owner.submit_for("t", Times::default(), Some(400));
    let hold = only(&owner, "t");
    // 100 are there; 300 more at 10 a second.
    assert_eq!(numbers(&hold), (Reason::TenantCells, Some(100), Some(400), Some(WALL + 30_000)));
    assert_eq!(load(&owner).cells_left, Some(100));

    let mut owner = Owner::new();
    limits(&mut owner, 2, |_| {});
    agent(&mut owner, 3, AgentSettings { cells: Some(600), ..AgentSettings::default() });
    owner.submit_for("a", Times::default(), Some(500));
    owner.submit_for("t", Times::default(), Some(400));
    let hold = only(&owner, "t");
    assert_eq!(numbers(&hold), (Reason::AgentCells, Some(100), Some(400), Some(WALL + 30_000)));
}

#[test]
fn times_are_named_with_their_end() {
    let mut owner = Owner::new();
    owner.submit("delayed", Times { delay_ms: Some(5_000), ..Times::default() });
    owner.submit("dated", Times { run_at: Some(WALL + 7_000), ..Times::default() });
    for (id, until) in [("delayed", 5_000), ("dated", 7_000)] {
        let hold = only(&owner, id);
        assert_eq!(numbers(&hold), (Reason::NotBefore, None, None, Some(WALL + until)));
    }
    submit(&mut owner, &["snoozed"]);
    owner.end("snoozed", Outcome::Snooze { ms: 9_000 });
    assert_eq!(numbers(&only(&owner, "snoozed")), (Reason::Snoozed, None, None, Some(WALL + 9_000)));
    submit(&mut owner, &["tried"]);
    let failed =
        Outcome::Failed { message: "no".into(), retryable: true, retry_after_ms: Some(60_000), code: None };
    owner.end("tried", failed);
    let hold = only(&owner, "tried");
    assert_eq!((hold.reason, hold.actual, hold.limit), (Reason::Backoff, Some(1), Some(2)));
    assert!(hold.until.is_some_and(|at| at >= WALL + 60_000), "{hold:?}");
    assert_eq!(load(&owner).parked, 4);
}

#[test]
fn a_waiting_parent_names_its_children() {
    let mut owner = Owner::new();
    limits(&mut owner, 2, |o| o.in_flight = Some(1));
    submit(&mut owner, &["t"]);
    let child = Spec {
        labels: None,
        agent: "reader".parse().unwrap(),
        input: Payload::default(),
        priority: Default::default(),
        max_tries: None,
        times: None,
        cost: None,
    };
    let spawn = Spawn { step: "s".into(), first: 0, children: vec![child.clone(), child] };
    owner.report("t", 1, ReportOp::Spawn(spawn));
    let wait = End { last_event: 0, outcome: Outcome::Wait(WaitFor::AllChildren), used: None };
    owner.report("t", 2, ReportOp::End(wait));
    let why = why_of(&owner, "t");
    assert_eq!(numbers(&why.reasons[0]), (Reason::Children, Some(2), Some(2), None));
    let mut children = [child_id(&key("t").id, "s", 0), child_id(&key("t").id, "s", 1)];
    children.sort();
    assert_eq!(why.children, children);
}

#[test]
fn a_wait_for_a_signal_is_named_with_its_limit() {
    let mut owner = Owner::new();
    submit(&mut owner, &["t"]);
    let wait = WaitFor::Message { place: 0, signal: Some("approval".into()), within_ms: Some(9_000) };
    owner.end("t", Outcome::Wait(wait));
    let hold = only(&owner, "t");
    assert_eq!((hold.reason, hold.until), (Reason::Message, Some(WALL + 9_000)));
    assert_eq!(hold.message, "it waits for the signal approval, for 9000 ms more at most");
}

#[test]
fn an_offer_an_attempt_and_an_end_say_where_the_task_is() {
    let mut owner = Owner::new();
    submit(&mut owner, &["t"]);
    let why = why_of(&owner, "t");
    assert_eq!((why.reasons[0].reason, why.since), (Reason::Offered, Some(WALL)));
    let token = owner.engine.state().task(&key("t")).unwrap().lease().unwrap().token;
    let body = Accept { v: 1, taken: vec![token], busy: vec![], over: vec![] };
    let (agent, instance) = ("reader".parse().unwrap(), "r-1".parse().unwrap());
    owner.push(Input::Accept { agent, instance, body });
    owner.engine.live_mut().tick(700, true);
    let why = why_of(&owner, "t");
    assert_eq!(numbers(&why.reasons[0]), (Reason::Running, Some(700), Some(3_600_000), None));
    assert_eq!(why.instance.unwrap().as_str(), "r-1");
    owner.end(
        "t",
        Outcome::Failed { message: "no".into(), retryable: false, retry_after_ms: None, code: None },
    );
    let hold = only(&owner, "t");
    assert_eq!((hold.reason, hold.message.as_str()), (Reason::Ended, "it is failed: HANDLER_FAILED: no"));
    let of_index = of_ended(owner.view("t"), WALL);
    assert_eq!(of_index.reasons, [hold]);
    assert!(super::why(owner.engine.state(), owner.engine.live(), &key("nothing")).is_none());
}

#[test]
fn what_is_told_is_what_dispatch_goes_by() {
    // With nothing that holds it back a task is dispatched at once: `next` is never seen at rest.
    let mut owner = Owner::new();
    limits(&mut owner, 2, |o| (o.in_flight, o.cells) = (Some(3), Some(60)));
    for n in 0..20u32 {
        owner.submit_for(&format!("t-{n}"), Times::default(), Some(n % 7 * 10));
        for m in 0..=n {
            let id = format!("t-{m}");
            let reasons = reasons(&owner, &id);
            assert!(!reasons.is_empty() && !reasons.contains(&Reason::Next), "{id}: {reasons:?}");
            assert_ne!(reasons[0], Reason::OwnTasksFirst, "{id}: something holds up those before it");
        }
        if n % 5 == 4 {
            owner.pass(3_000);
        }
    }
}
