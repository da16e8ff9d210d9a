//! Calls against caps, rates, slots, askers and take-overs.

use super::*;
use crate::{
    flow::{
        input::{Input, Tell},
        permits::Permit,
        times::tests::{Owner, key},
    },
    task::{Outcome, Overrides, Payload, Spec, TaskKey, TenantSettings, Times},
    wire::{
        calls::CallRequest,
        messages::{Accept, Beat, CtlOp, End, Offer, Report, ReportOp, Submit},
    },
};

fn tenant() -> TenantName {
    key("t").tenant
}

fn agent() -> AgentName {
    "reader".parse().unwrap()
}

fn instance() -> InstanceId {
    "r-1".parse().unwrap()
}

/// An owner with an instance of so many slots that takes calls, and limits of its tenant.
fn owner(slots: u32, set: impl FnOnce(&mut Overrides)) -> Owner {
    let mut owner = Owner::new();
    limit(&mut owner, 2, set);
    beat(&mut owner, slots, &[], &[]);
    owner.told();
    owner
}

fn limit(owner: &mut Owner, kv_rev: u64, set: impl FnOnce(&mut Overrides)) {
    let mut settings = TenantSettings::under("pro".parse().unwrap());
    set(&mut settings.overrides);
    owner.push(Input::Tenant { name: tenant(), settings: Some(settings), kv_rev });
}

fn beat(owner: &mut Owner, slots: u32, tokens: &[Token], calls: &[HeldCall]) {
    let body = Beat {
        v: 1,
        slots,
        tokens: tokens.to_vec(),
        lease_ms: 15_000,
        draining: false,
        messages: false,
        calls: Some(calls.to_vec()),
        ahead: 0,
        about: None,
        call_slots: 0,
    };
    owner.push(Input::Beat { agent: agent(), instance: instance(), body });
}

fn held(token: Token) -> HeldCall {
    HeldCall { tenant: tenant(), token, depth: 0, hops: 0, borrows: None }
}

fn answers(owner: &mut Owner, taken: &[Token], busy: &[Token], over: &[Token]) {
    let over = over.iter().map(|token| CallOver { token: *token, code: None, first_ms: Some(3) }).collect();
    let body = Accept { v: 1, taken: taken.to_vec(), busy: busy.to_vec(), over };
    owner.push(Input::Accept { agent: agent(), instance: instance(), body });
}

fn ask(owner: &mut Owner, agent: &str, asker: Option<Token>) -> Result<Call, Refusal> {
    ask_as(owner, tenant(), agent, asker)
}

fn ask_as(owner: &mut Owner, tenant: TenantName, agent: &str, asker: Option<Token>) -> Result<Call, Refusal> {
    owner.told();
    let request = CallRequest { v: 1, input: Payload::default(), max_ms: None, asker };
    owner.push(Input::Call {
        tenant,
        agent: agent.parse().unwrap(),
        by_handler: asker.is_some(),
        body: Box::new(Ok(request)),
        to: ReplyTo { subject: "_INBOX.x".to_owned(), format: Format::Json },
    });
    for tell in owner.told() {
        match tell {
            Tell::Call { call, .. } => return Ok(*call),
            Tell::CallFailed { refusal, .. } => return Err(refusal),
            _ => {}
        }
    }
    panic!("neither answered nor refused");
}

fn call(owner: &mut Owner) -> Result<Call, Refusal> {
    ask(owner, "reader", None)
}

fn code(result: Result<Call, Refusal>) -> Code {
    result.map(|call| call.depth).unwrap_err().code
}

fn permit(owner: &Owner) -> Permit {
    owner.engine.state().permit(&tenant(), &agent())
}

#[test]
fn a_call_with_a_permit_in_hand_costs_no_append() {
    let mut owner = owner(4, |_| {});
    let before = owner.appends();
    let first = call(&mut owner).unwrap();
    assert_eq!((owner.appends(), permit(&owner).places), (before + 1, 1));
    answers(&mut owner, &[first.token], &[], &[]);
    answers(&mut owner, &[], &[], &[first.token]);
    // The starts that are charged ahead double: 1, 2, 4, 8, and more before they are needed.
    let mut appends = Vec::new();
    for _ in 0..40 {
        let call = call(&mut owner).unwrap();
        answers(&mut owner, &[call.token], &[], &[call.token]);
        appends.push(owner.appends() - before);
    }
    assert!(appends[39] < 10, "{appends:?}");
    assert_eq!((permit(&owner).places, owner.engine.calls().running().len()), (1, 0));
    owner.is_the_same_anywhere();
}

#[test]
fn a_cap_counts_tasks_and_calls_together_and_refuses_with_its_numbers() {
    let mut owner = owner(8, |o| o.in_flight = Some(3));
    owner.submit("t", Times::default());
    let calls: Vec<_> = (0..2).map(|_| call(&mut owner).unwrap()).collect();
    let refused = call(&mut owner).unwrap_err();
    assert_eq!((refused.code, refused.actual, refused.limit), (Code::InFlightFull, Some(3), Some(3)));
    assert!(refused.retry_after_ms.is_some());
    owner.submit("late", Times::default());
    assert_eq!(owner.phase("late"), crate::task::Phase::Queued);
    // What is free goes to the task that waits, not back to calls.
    answers(&mut owner, &[], &[], &[calls[0].token]);
    assert_eq!((owner.phase("late"), permit(&owner).places), (crate::task::Phase::Running, 1));
    assert_eq!(code(call(&mut owner)), Code::InFlightFull);
    owner.is_the_same_anywhere();
}

#[test]
fn tasks_leave_the_places_that_are_kept_for_calls() {
    let mut owner = owner(8, |o| (o.in_flight, o.call_reserve) = (Some(3), Some(2)));
    for id in ["a", "b", "c"] {
        owner.submit(id, Times::default());
    }
    let running = |owner: &Owner| owner.engine.state().live_leases().len();
    assert_eq!(running(&owner), 1);
    let calls: Vec<_> = (0..2).map(|_| call(&mut owner).unwrap().token).collect();
    assert_eq!(code(call(&mut owner)), Code::InFlightFull);
    answers(&mut owner, &[], &[], &calls);
    owner.pass(5_000);
    assert_eq!((running(&owner), permit(&owner)), (1, Permit::default()));
}

#[test]
fn a_rate_refuses_with_the_time_of_the_next_start() {
    let mut owner = owner(8, |o| (o.rate, o.burst) = (Some(1), Some(2)));
    let calls: Vec<_> = (0..2).map(|_| call(&mut owner).unwrap().token).collect();
    let refused = call(&mut owner).unwrap_err();
    assert_eq!((refused.code, refused.retry_after_ms), (Code::RateExceeded, Some(1_000)));
    answers(&mut owner, &[], &[], &calls);
    owner.pass(1_000);
    assert!(call(&mut owner).is_ok());
    assert_eq!(code(call(&mut owner)), Code::RateExceeded);
}

#[test]
fn nobody_and_no_slot_are_told_apart_and_a_worker_without_calls_gets_none() {
    let mut owner = owner(1, |_| {});
    assert_eq!(code(ask(&mut owner, "nobody", None)), Code::NoInstance);
    let first = call(&mut owner).unwrap();
    let refused = call(&mut owner).unwrap_err();
    assert_eq!((refused.code, refused.limit), (Code::Busy, Some(1)));
    answers(&mut owner, &[], &[], &[first.token]);
    // A heartbeat that says nothing of calls.
    owner.slots(4);
    assert_eq!(code(call(&mut owner)), Code::NoInstance);
}

#[test]
fn an_ask_borrows_its_askers_place_so_that_cap_one_cannot_deadlock() {
    let mut owner = owner(3, |o| o.in_flight = Some(1));
    let first = call(&mut owner).unwrap();
    assert_eq!(code(call(&mut owner)), Code::InFlightFull);
    let asked = ask(&mut owner, "reader", Some(first.token)).unwrap();
    assert_eq!((asked.depth, asked.borrows.is_some()), (1, true));
    assert_eq!(permit(&owner), Permit { places: 1, borrowed: 1, lease_ms: 15_000 });
    // A place is lent once.
    assert_eq!(code(ask(&mut owner, "reader", Some(first.token))), Code::InFlightFull);
    let foreign = ask_as(&mut owner, "globex".parse().unwrap(), "reader", Some(asked.token));
    assert_eq!(code(foreign), Code::StaleLease, "an asker asks for its own tenant");
    let deeper = ask(&mut owner, "reader", Some(asked.token)).unwrap();
    assert_eq!(deeper.depth, 2);
    assert_eq!(code(ask(&mut owner, "reader", Some(deeper.token))), Code::Busy);
    answers(&mut owner, &[], &[], &[deeper.token, asked.token]);
    assert!(ask(&mut owner, "reader", Some(first.token)).is_ok());
    owner.is_the_same_anywhere();
}

#[test]
fn a_task_asks_on_its_lease_and_what_it_asked_ends_with_it() {
    let mut owner = owner(3, |o| o.in_flight = Some(1));
    owner.submit("t", Times::default());
    let lease = *owner.engine.state().live_leases().next().unwrap();
    let asked = ask(&mut owner, "reader", Some(lease)).unwrap();
    assert_eq!(asked.depth, 1);
    owner.told();
    let outcome = Outcome::Snooze { ms: 60_000 };
    let op = ReportOp::End(End { last_event: 0, outcome, used: None });
    let body = Report { v: 1, token: lease, attempt: 1, agent: agent(), instance: instance(), n: 1, op };
    owner.push(Input::Report { key: key("t"), body: Ok(body) });
    let stopped = owner
        .told()
        .into_iter()
        .any(|tell| matches!(tell, Tell::Ctl { op: CtlOp::Stop { token, .. }, .. } if token == asked.token));
    assert!(stopped, "whoever asked is over");
    assert_eq!(code(ask(&mut owner, "reader", Some(lease))), Code::StaleLease);
}

#[test]
fn a_cycle_of_asks_ends_at_the_depth_cap() {
    let mut owner = owner(20, |o| o.depth = Some(3));
    let mut asker = call(&mut owner).unwrap();
    for depth in 1..=3 {
        asker = ask(&mut owner, "reader", Some(asker.token)).unwrap();
        assert_eq!(asker.depth, depth);
    }
    let refused = ask(&mut owner, "reader", Some(asker.token)).unwrap_err();
    assert_eq!((refused.code, refused.actual, refused.limit), (Code::DepthExceeded, Some(4), Some(3)));
}

#[test]
fn an_instance_that_vanishes_frees_its_slots_and_its_callers_are_told() {
    let mut owner = owner(2, |o| o.in_flight = Some(1));
    let first = call(&mut owner).unwrap();
    answers(&mut owner, &[first.token], &[], &[]);
    owner.told();
    for _ in 0..20 {
        owner.engine.live_mut().tick(1_000, true);
        owner.pass(1_000);
    }
    let lost = owner
        .told()
        .into_iter()
        .any(|tell| matches!(tell, Tell::CallFailed { refusal, .. } if refusal.code == Code::CallLost));
    assert!(lost);
    assert_eq!((owner.engine.calls().running().len(), permit(&owner)), (0, Permit::default()));
    beat(&mut owner, 2, &[], &[]);
    assert!(call(&mut owner).is_ok());
}

#[test]
fn an_instance_that_declines_or_forgets_a_call_holds_no_slot_for_it() {
    let mut owner = owner(1, |_| {});
    let first = call(&mut owner).unwrap();
    answers(&mut owner, &[], &[first.token], &[]);
    let busy = |tell: &Tell| matches!(tell, Tell::CallFailed { refusal, .. } if refusal.code == Code::Busy);
    assert!(owner.told().iter().any(busy));
    beat(&mut owner, 1, &[], &[]);
    let second = call(&mut owner).unwrap();
    // One that has not come there yet is not in a heartbeat, and no less there.
    beat(&mut owner, 1, &[], &[]);
    assert_eq!(code(call(&mut owner)), Code::Busy);
    beat(&mut owner, 1, &[], &[held(second.token)]);
    beat(&mut owner, 1, &[], &[]);
    assert!(call(&mut owner).is_ok());
}

#[test]
fn after_a_take_over_inherited_places_count_in_full_for_a_lease_and_then_as_heartbeats_say() {
    let mut owner = owner(9, |o| o.in_flight = Some(2));
    let calls: Vec<_> = (0..2).map(|_| call(&mut owner).unwrap()).collect();
    answers(&mut owner, &[calls[0].token, calls[1].token], &[], &[]);
    owner.taken_over();
    beat(&mut owner, 9, &[], &[held(calls[0].token)]);
    assert_eq!(permit(&owner).places, 2);
    assert_eq!(code(call(&mut owner)), Code::InFlightFull);
    let asked = ask(&mut owner, "reader", Some(calls[0].token)).unwrap();
    assert_eq!(asked.depth, 1, "whoever was heard of may ask");
    assert_eq!(code(ask(&mut owner, "reader", Some(calls[1].token))), Code::Unknown);
    answers(&mut owner, &[], &[], &[asked.token]);
    for _ in 0..16 {
        owner.engine.live_mut().tick(1_000, true);
        beat(&mut owner, 9, &[], &[held(calls[0].token)]);
        owner.pass(1_000);
    }
    assert_eq!((permit(&owner).places, owner.engine.calls().running().len()), (1, 1));
    assert!(call(&mut owner).is_ok());
    // One that turns up too late has no place any more, and is told to stop.
    owner.told();
    beat(&mut owner, 9, &[], &[held(calls[0].token), held(calls[1].token)]);
    let late = calls[1].token;
    assert!(
        owner.told().iter().any(|tell| {
            matches!(tell, Tell::Ctl { op: CtlOp::Stop { token, .. }, .. } if *token == late)
        })
    );
    owner.is_the_same_anywhere();
}

#[test]
fn an_operator_stops_calls_as_he_stops_tasks() {
    let mut owner = owner(4, |_| {});
    let first = call(&mut owner).unwrap();
    owner.told();
    let mut settings = TenantSettings::under("pro".parse().unwrap());
    (settings.paused, settings.stopped) = (true, true);
    owner.push(Input::Tenant { name: tenant(), settings: Some(settings), kv_rev: 3 });
    let told = owner.told();
    assert!(told.iter().any(|tell| {
        matches!(tell, Tell::Ctl { op: CtlOp::Stop { token, code: Code::Paused }, .. } if *token == first.token)
    }));
    assert!(told.iter().any(|tell| matches!(tell, Tell::CallFailed { .. })));
    assert_eq!(code(call(&mut owner)), Code::Paused);
}

#[test]
fn a_tenant_that_only_called_leaves_as_any_other() {
    let mut owner = owner(4, |_| {});
    owner.push(Input::Tenant { name: tenant(), settings: None, kv_rev: 4 });
    let first = call(&mut owner).unwrap();
    answers(&mut owner, &[], &[], &[first.token]);
    owner.pass(10_000);
    assert!(owner.engine.state().agents().is_empty(), "nothing names the agent any more");
    owner.is_the_same_anywhere();
    owner.pass(25 * 3_600_000);
    owner.submit_for("t", Times::default(), None);
    owner.is_the_same_anywhere();
}

#[test]
fn what_is_asked_for_behind_triggers_is_behind_as_many() {
    let mut owner = owner(4, |_| {});
    let spec = Spec {
        agent: agent(),
        input: Payload::default(),
        priority: Default::default(),
        max_tries: None,
        times: None,
        cost: None,
        labels: None,
    };
    owner.push(Input::Triggered { key: key("t"), spec: Box::new(spec), hops: 2 });
    let lease = *owner.engine.state().live_leases().next().unwrap();
    let asked = ask(&mut owner, "reader", Some(lease)).unwrap();
    let again = ask(&mut owner, "reader", Some(asked.token)).unwrap();
    assert_eq!((asked.hops, again.hops, call(&mut owner).unwrap().hops), (2, 2, 0));
}

/// Tasks that run for one round each, of two tenants, while `calls` of the first hold slots. How many each has had.
fn rounds_beside(owner: &mut Owner, calls: usize, rounds: usize) -> (usize, usize) {
    let other: TenantName = "globex".parse().unwrap();
    let settings = Some(TenantSettings::under("pro".parse().unwrap()));
    owner.push(Input::Tenant { name: other.clone(), settings, kv_rev: 9 });
    for n in 0..2 * rounds {
        for tenant in [tenant(), other.clone()] {
            submit_for(owner, TaskKey { tenant, id: format!("t{n}").parse().unwrap() });
        }
    }
    assert_eq!(owner.engine.calls().running().len(), calls);
    let mut had = (0, 0);
    let mut running: Vec<Offer> = Vec::new();
    for _ in 0..rounds {
        running.extend(owner.told().into_iter().filter_map(|tell| match tell {
            Tell::Offer { offer, .. } => Some(*offer),
            _ => None,
        }));
        owner.pass(100);
        for offer in std::mem::take(&mut running) {
            let of = if offer.tenant == other { &mut had.1 } else { &mut had.0 };
            *of += 1;
            end(owner, offer);
        }
    }
    had
}

fn submit_for(owner: &mut Owner, key: TaskKey) {
    let body = Submit {
        labels: None,
        v: 1,
        input: Payload::default(),
        priority: Default::default(),
        max_tries: None,
        times: None,
        cost: None,
        first_try: Some(owner.wall),
        confirm: false,
        hops: 0,
    };
    owner.push(Input::Submit { key, agent: agent(), body: Ok(body), stored_at: owner.wall });
}

fn end(owner: &mut Owner, offer: Offer) {
    let outcome = Outcome::Completed { result: Payload::default() };
    let op = ReportOp::End(End { last_event: 0, outcome, used: None });
    let Offer { tenant, task, token, attempt, .. } = offer;
    let body = Ok(Report { v: 1, token, attempt, agent: agent(), instance: instance(), n: 1, op });
    owner.push(Input::Report { key: TaskKey { tenant, id: task }, body });
}

#[test]
fn a_tenant_whose_calls_hold_slots_is_behind_with_its_tasks() {
    let mut without = owner(4, |_| {});
    let (caller, other) = rounds_beside(&mut without, 0, 40);
    assert!(caller.abs_diff(other) <= 4, "{caller} and {other} of equal tenants");

    let mut owner = owner(4, |_| {});
    for _ in 0..2 {
        let call = call(&mut owner).unwrap();
        answers(&mut owner, &[call.token], &[], &[]);
    }
    // Two slots of four are the half of everything: the other two are for the other.
    let (caller, other) = rounds_beside(&mut owner, 2, 40);
    assert!(caller * 4 < other && caller + other >= 78, "{caller} of the one who calls, {other}");
    owner.is_the_same_anywhere();
    // Whoever takes over goes on from there, and charges none of it again.
    owner.taken_over();
    owner.is_the_same_anywhere();
}

#[test]
fn a_tenant_that_only_calls_has_nothing_journaled_for_it() {
    let mut owner = owner(4, |_| {});
    let call = call(&mut owner).unwrap();
    answers(&mut owner, &[call.token], &[], &[]);
    let before = owner.appends();
    for _ in 0..50 {
        owner.pass(100);
    }
    assert_eq!(owner.appends(), before);
    // And owes nothing for that time when it has tasks.
    let (caller, other) = rounds_beside(&mut owner, 1, 2);
    assert_eq!((caller, other), (3, 3), "three slots, and nobody is behind yet");
}
