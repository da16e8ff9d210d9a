//! Firings: once each, whoever owns the shard, and what becomes of those nobody was there for.

use super::*;
use crate::{
    flow::{
        input::Input,
        times::tests::{Owner, WALL},
    },
    task::{AgentSettings, Code, Labels, Payload, Phase},
};

const MINUTE: Millis = 60_000;

fn name() -> ScheduleName {
    "tick".parse().unwrap()
}

fn settings(cron: &str, missed: Missed) -> ScheduleSettings {
    ScheduleSettings {
        cron: cron.to_owned(),
        tz: "UTC".to_owned(),
        tenant: "acme".parse().unwrap(),
        agent: "reader".parse().unwrap(),
        input: Payload::default(),
        priority: Default::default(),
        max_tries: None,
        times: None,
        cost: None,
        missed,
        paused: false,
        labels: None,
    }
}

fn set(owner: &mut Owner, settings: Option<ScheduleSettings>, kv_rev: u64) {
    owner.push(Input::Schedule { name: name(), settings: settings.map(Box::new), kv_rev });
}

/// Minutes after the start at which a task was fired.
fn fired(owner: &Owner) -> Vec<u64> {
    let tasks = owner.engine.state().tasks().iter();
    let id = |id: &str| id.strip_prefix("tick-").and_then(|seconds| seconds.parse::<u64>().ok());
    let mut at: Vec<u64> =
        tasks.filter_map(|(_, task)| Some((id(task.id.as_str())? * 1_000 - WALL) / MINUTE)).collect();
    at.sort_unstable();
    at
}

fn next(owner: &Owner) -> Option<u64> {
    Some((owner.engine.state().schedules.get(&name())?.next? - WALL) / MINUTE)
}

#[test]
fn a_firing_carries_its_cost_and_its_labels_and_one_that_could_never_run_is_a_rejected_task() {
    let mut owner = Owner::new();
    let labels = Labels::from_iter([("run", "nightly")]);
    let named = Some(Box::new(labels.clone()));
    let settings =
        ScheduleSettings { cost: Some(70), labels: named, ..settings("*/2 * * * *", Missed::Skip) };
    set(&mut owner, Some(settings.clone()), 1);
    let id = |minute: u64| format!("tick-{}", (WALL + minute * MINUTE) / 1_000);
    owner.pass(2 * MINUTE);
    let key = crate::flow::times::tests::key(&id(2));
    let more = owner.engine.state().task(&key).unwrap().more();
    assert_eq!((more.cost, more.labels.as_deref()), (70, Some(&labels)));
    let agent = AgentSettings { cells: Some(60), ..AgentSettings::default() };
    owner.push(Input::Agent { name: "reader".parse().unwrap(), settings: Some(agent), kv_rev: 2 });
    owner.pass(2 * MINUTE);
    assert_eq!((owner.phase(&id(4)), owner.code(&id(4))), (Phase::Rejected, Some(Code::CostExceeded)));
    owner.is_the_same_anywhere();
    assert!(ScheduleSettings { cost: Some(u32::MAX), ..settings.clone() }.check().is_err());
    let nameless = Some(Box::new(Labels::from_iter([("", "x")])));
    assert!(ScheduleSettings { labels: nameless, ..settings }.check().is_err());
}

#[test]
fn a_schedule_fires_once_at_each_of_its_times() {
    let mut owner = Owner::new();
    assert_eq!(WALL % MINUTE, 0);
    set(&mut owner, Some(settings("*/2 * * * *", Missed::Skip)), 1);
    for _ in 0..(4 * 60 + 1) {
        owner.pass(1_000);
    }
    assert_eq!((fired(&owner), next(&owner)), (vec![2, 4], Some(6)));
    assert_eq!(owner.engine.state().next_due_wall(), Some(WALL + 6 * MINUTE));
    // The entry comes again with every take-over.
    set(&mut owner, Some(settings("*/2 * * * *", Missed::Skip)), 1);
    owner.pass(1_000);
    assert_eq!(fired(&owner), [2, 4]);
    owner.is_the_same_anywhere();
}

#[test]
fn what_was_missed_is_skipped_or_done_once_or_made_up_for() {
    for (missed, expected) in
        [(Missed::Skip, vec![1, 9, 10]), (Missed::Once, vec![1, 2, 9, 10]), (Missed::All, (1..=10).collect())]
    {
        let mut owner = Owner::new();
        set(&mut owner, Some(settings("* * * * *", missed)), 1);
        owner.pass(MINUTE);
        assert_eq!(fired(&owner), [1]);
        owner.pass(9 * MINUTE);
        assert_eq!((fired(&owner), next(&owner)), (expected, Some(11)), "{missed:?}");
        owner.is_the_same_anywhere();
    }
}

#[test]
fn more_missed_ones_than_can_be_made_up_for_are_skipped() {
    let mut owner = Owner::new();
    set(&mut owner, Some(settings("* * * * *", Missed::All)), 1);
    owner.pass(500 * MINUTE);
    let fired = fired(&owner);
    let expected: Vec<u64> = (1..=u64::from(MAX_BEHIND)).chain([499, 500]).collect();
    assert_eq!((fired, next(&owner)), (expected, Some(501)));
}

#[test]
fn a_clock_that_jumps_ahead_and_back_fires_nothing_twice_and_silences_nothing() {
    for missed in [Missed::Skip, Missed::Once, Missed::All] {
        let mut owner = Owner::new();
        set(&mut owner, Some(settings("* * * * *", missed)), 1);
        owner.pass(MINUTE);
        owner.wall += 365 * 24 * 60 * MINUTE;
        owner.turn();
        let ahead = fired(&owner);
        owner.wall -= 365 * 24 * 60 * MINUTE;
        owner.turn();
        assert_eq!(next(&owner), Some(2), "{missed:?}");
        for _ in 0..150 {
            owner.pass(MINUTE);
        }
        let after = fired(&owner);
        assert!((1..=151).all(|minute| after.contains(&minute)), "{missed:?}: {after:?}");
        assert!(ahead.iter().all(|at| after.contains(at)));
        assert_eq!(owner.submitted(), after.len(), "{missed:?}: a firing became two tasks");
        owner.is_the_same_anywhere();
    }
}

#[test]
fn a_paused_schedule_misses_nothing_and_a_removed_one_is_gone() {
    let mut owner = Owner::new();
    set(&mut owner, Some(settings("* * * * *", Missed::All)), 1);
    owner.pass(MINUTE);
    set(&mut owner, Some(ScheduleSettings { paused: true, ..settings("* * * * *", Missed::All) }), 2);
    owner.pass(10 * MINUTE);
    assert_eq!((fired(&owner), next(&owner)), (vec![1], None));
    set(&mut owner, Some(settings("* * * * *", Missed::All)), 3);
    owner.pass(MINUTE);
    assert_eq!(fired(&owner), [1, 12]);
    set(&mut owner, None, 4);
    owner.pass(10 * MINUTE);
    assert_eq!(fired(&owner), [1, 12]);
    assert!(owner.engine.state().schedules.is_empty());
    owner.is_the_same_anywhere();
}

#[test]
fn a_change_of_something_else_loses_no_firing_that_is_due() {
    let mut owner = Owner::new();
    set(&mut owner, Some(settings("*/5 * * * *", Missed::Skip)), 1);
    (owner.now, owner.wall) = (owner.now + 5 * MINUTE, owner.wall + 5 * MINUTE);
    set(&mut owner, Some(settings("*/5 * * * *", Missed::All)), 2);
    assert_eq!(fired(&owner), [5]);
}

#[test]
fn a_firing_the_tenant_has_no_room_for_is_a_rejected_task() {
    let mut owner = Owner::new();
    owner.set_tenant(2, false, true);
    set(&mut owner, Some(settings("* * * * *", Missed::Skip)), 1);
    owner.pass(MINUTE);
    let id = firing_id(&name(), WALL + MINUTE).to_string();
    assert_eq!((owner.phase(&id), owner.code(&id)), (Phase::Rejected, Some(Code::TenantSuspended)));
    assert_eq!(next(&owner), Some(2));
}
