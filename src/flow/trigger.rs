//! A message that a trigger has made a task of: admitted, known already, refused, or not now.
//!
//! Unlike a submit, one that finds no room leaves nothing behind: its trigger keeps the message and asks again. The id is
//! derived from the message, so one that is delivered twice is one task.

use super::{
    announced::Announcements,
    input::Decision,
    record::{Admission, Origin, Record},
    state::State,
    times,
};
use crate::task::{Code, Millis, Refusal, Spec, TaskKey};

/// When a trigger may ask again if the journal has no room.
const NO_ROOM_MS: Millis = 1_000;

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Fired {
    /// It is a task now.
    Made,
    /// It was one before.
    Known,
    /// It can be no task.
    Refused(Refusal),
    /// There is no room for it now; nothing was decided.
    Later(Refusal),
}

/// Decides it.
pub fn decide(
    state: &State,
    announced: &Announcements,
    key: &TaskKey,
    spec: &Spec,
    hops: u32,
) -> (Decision, Fired) {
    // One that was cancelled before it came is known too.
    if state.task(key).is_some() {
        return (Decision::none(), Fired::Known);
    }
    let body_hash = spec.body_hash();
    let (spec, refusal, deadline) = times::root(state, announced, key, spec.clone(), state.wall_now());
    match refusal {
        Some(refusal) if refusal.code.is_retryable() || refusal.code == Code::UnknownTenant => {
            (Decision::none(), Fired::Later(refusal))
        }
        Some(refusal) => (Decision::garbage(refusal.code), Fired::Refused(refusal)),
        None => {
            // No submitter's clock: when it is forgotten, `TOO_OLD` moves no further.
            let origin = Origin::Root { first_try: 0, retry_of: None, hops };
            let admission =
                Admission { task: key.id.clone(), spec, body_hash, origin, deadline, refusal: None };
            let record = Record::Submitted { tenant: key.tenant.clone(), admission };
            (Decision::record(record), Fired::Made)
        }
    }
}

/// The journal is nearly full: no submits are taken.
pub fn no_room() -> Fired {
    let refusal = Refusal::new(Code::Backpressure, "the journal has no room for new tasks now");
    Fired::Later(refusal.retry_after(NO_ROOM_MS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::{
            engine::{Effect, Engine, Next},
            input::Input,
            rig::Given,
            state::Policy,
        },
        task::{Payload, Plan, PlanName, Priority, TaskId},
        wire::subjects::Shard,
    };

    fn engine(backlog: u64) -> Engine<u32> {
        let mut engine = Engine::new(Shard(0));
        let policy = Policy { default_plan: Some(PlanName::new("small").unwrap()), ..Policy::default() };
        engine.open("test", policy);
        let plan = Some(Plan { backlog, ..Plan::free() });
        engine.push(Input::Plan { name: PlanName::new("small").unwrap(), plan, kv_rev: 1 }, None);
        assert!(turn(&mut engine).is_empty());
        engine
    }

    fn turn(engine: &mut Engine<u32>) -> Vec<(u32, Fired)> {
        let effects = match engine.next(1_000, 1_000_000, &mut Given::default()).unwrap() {
            Next::Append { expect, .. } => engine.appended(expect + 1),
            Next::Effects(effects) => effects,
            Next::Idle => Vec::new(),
        };
        let fired = effects.into_iter().filter_map(|effect| match effect {
            Effect::Fired(handle, fired) => Some((handle, fired)),
            _ => None,
        });
        fired.collect()
    }

    fn fire(engine: &mut Engine<u32>, n: u32, hops: u32) {
        let spec = Spec {
            agent: "reader".parse().unwrap(),
            input: Payload::json(&n).unwrap(),
            priority: Priority::Normal,
            max_tries: None,
            times: None,
            cost: None,
            labels: None,
        };
        engine.push(Input::Triggered { key: key(n), spec: Box::new(spec), hops }, Some(n));
    }

    fn key(n: u32) -> TaskKey {
        TaskKey { tenant: "acme".parse().unwrap(), id: TaskId::new(format!("t-{n}")).unwrap() }
    }

    #[test]
    fn a_full_backlog_keeps_the_message_and_leaves_no_rejected_task() {
        let mut engine = engine(2);
        (1..=3).for_each(|n| fire(&mut engine, n, 1));
        let fired = turn(&mut engine);
        assert_eq!(fired[..2], [(1, Fired::Made), (2, Fired::Made)]);
        assert!(
            matches!(&fired[2], (3, Fired::Later(refusal)) if refusal.code == Code::BacklogFull),
            "{fired:?}"
        );
        assert!(engine.state().task(&key(3)).is_none());
        // The same message again, and the same again after it was known.
        (2..=3).for_each(|n| fire(&mut engine, n, 1));
        let fired = turn(&mut engine);
        assert_eq!(fired[0], (2, Fired::Known));
        assert!(matches!(&fired[1].1, Fired::Later(_)));
    }

    #[test]
    fn a_journal_without_room_is_waited_for() {
        let mut engine = engine(10);
        engine.push(Input::Room { used: 90, max: 100 }, None);
        fire(&mut engine, 1, 1);
        assert!(
            matches!(&turn(&mut engine)[..], [(1, Fired::Later(refusal))] if refusal.code == Code::Backpressure)
        );
        engine.push(Input::Room { used: 10, max: 100 }, None);
        fire(&mut engine, 1, 1);
        assert_eq!(turn(&mut engine), [(1, Fired::Made)]);
    }

    #[test]
    fn how_many_triggers_lie_behind_a_task_is_remembered() {
        let mut engine = engine(10);
        fire(&mut engine, 1, 3);
        turn(&mut engine);
        assert_eq!(engine.state().task(&key(1)).unwrap().more().hops, 3);
    }
}
