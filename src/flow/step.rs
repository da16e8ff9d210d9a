//! Step reports: what a handler did at one of its places.
//!
//! A place is recorded once. A report that says something else of it, or takes a message that is not the next, is refused
//! and counts all the same, so that the reports behind it are not held up.

use super::{entry::Task, history::History, state::State};
use crate::{
    task::{Code, MAX_HISTORY, MAX_HISTORY_BYTES, Refusal, TaskKey, check_label},
    wire::history::{Did, Step},
};

/// Why a step that was decided before is not recorded, if it is not: the verdict may have got lost, and who hears that it is
/// goes on behind it.
pub fn decided(state: &State, key: &TaskKey, task: &Task, step: &Step) -> Option<Refusal> {
    let recorded = task.history().and_then(|history| history.entries().get(&step.place));
    if recorded.is_some_and(|entry| *entry.name == *step.name && entry.did.is(&step.did)) {
        return None;
    }
    refusal(state, key, task, step).or_else(|| {
        let message = format!("step `{}`: place {} of {key} was refused before", step.name, step.place);
        Some(Refusal::new(Code::StepConflict, message))
    })
}

/// Why this can't be recorded, if it can't.
pub fn refusal(state: &State, key: &TaskKey, task: &Task, step: &Step) -> Option<Refusal> {
    let history = task.history();
    if let Some(known) = history.and_then(|history| history.entries().get(&step.place)) {
        let message = format!(
            "place {} of {key} is recorded already, as `{}`; this one is `{}`",
            step.place, known.name, step.name
        );
        return Some(Refusal::new(Code::StepConflict, message));
    }
    let (all, bytes) = history.map_or((0, 0), |history| (history.len(), history.bytes()));
    if let Did::Result(_) | Did::Kept(_) = &step.did {
        if let Err(refusal) = check_label("step", &step.name) {
            return Some(refusal);
        }
        if all >= MAX_HISTORY {
            let message =
                format!("step `{}`: {key} has {all} steps and messages, at most {MAX_HISTORY}", step.name);
            return Some(Refusal::over(Code::StepsExceeded, message, all as u64, MAX_HISTORY as u64));
        }
    }
    match &step.did {
        Did::Kept(object) => object.check(&step.name, history.map_or(0, History::kept)).err(),
        Did::Result(result) => {
            let (size, most) = (result.len() as u64, state.policy.max_payload);
            if size > most {
                let message = format!("step `{}` has a result of {size} bytes, at most {most}", step.name);
                return Some(Refusal::over(Code::TooLarge, message, size, most));
            }
            let total = bytes + size;
            (total > MAX_HISTORY_BYTES).then(|| {
                let message = format!(
                    "step `{}`: steps and messages of {key} have {total} bytes, at most {MAX_HISTORY_BYTES}",
                    step.name
                );
                Refusal::over(Code::StepsExceeded, message, total, MAX_HISTORY_BYTES)
            })
        }
        Did::Took(seq) => {
            let signal = (!step.name.is_empty()).then_some(step.name.as_str());
            let next = history.and_then(|history| history.next_of(signal));
            (next != Some(*seq)).then(|| {
                let message = format!("message {seq} is not the next for place {} of {key}", step.place);
                Refusal::new(Code::StepConflict, message)
            })
        }
        Did::TimedOut {} | Did::Slept {} => {
            Some(Refusal::new(Code::BadMessage, "only a wait that is over records that a time has passed"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::{
            engine::{Effect, Engine},
            input::{Input, Tell},
            rig::effects,
            state::Policy,
        },
        task::{InstanceId, MAX_OBJECT_BYTES, Object, ObjectHash, Outcome, Payload, Token},
        wire::{
            messages::{Beat, CtlOp, End, Report, ReportOp, Submit},
            subjects::Shard,
        },
    };

    fn key() -> TaskKey {
        TaskKey { tenant: "t".parse().unwrap(), id: "one".parse().unwrap() }
    }

    /// A task that runs.
    fn running() -> Engine<()> {
        let mut engine = Engine::new(Shard(0));
        engine.open("c", Policy::default());
        let submit: Submit = serde_json::from_str("{}").unwrap();
        let agent: crate::task::AgentName = "reader".parse().unwrap();
        engine.push(
            Input::Submit { key: key(), agent: agent.clone(), body: Ok(submit), stored_at: 1_000 },
            None,
        );
        let beat: Beat = serde_json::from_str(r#"{"v":1,"slots":1,"tokens":[],"lease_ms":15000}"#).unwrap();
        engine.push(Input::Beat { agent, instance: instance(), body: beat }, None);
        effects(&mut engine);
        engine
    }

    fn instance() -> InstanceId {
        "i1".parse().unwrap()
    }

    fn report(engine: &mut Engine<()>, n: u32, op: ReportOp) -> (Option<Code>, Vec<TaskKey>) {
        let agent = "reader".parse().unwrap();
        let report = Report { v: 1, token: Token(1), attempt: 1, agent, instance: instance(), n, op };
        engine.push(Input::Report { key: key(), body: Ok(report) }, None);
        let (mut verdicts, mut dropped) = (Vec::new(), Vec::new());
        for effect in effects(engine) {
            match effect {
                Effect::Tell(Tell::Ctl { op: CtlOp::Verdict(verdict), .. }) => {
                    verdicts.push(verdict.refusal.map(|refusal| refusal.code));
                }
                Effect::DropKept { key } => dropped.push(key),
                _ => {}
            }
        }
        assert_eq!(verdicts.len(), 1, "each report is answered");
        (verdicts[0], dropped)
    }

    fn kept(place: u32, bytes: u64) -> ReportOp {
        let did = Did::Kept(Object { hash: ObjectHash::of(&[place as u8]), bytes, chunks: 128 });
        ReportOp::Step(Step { place, name: "scrape".to_owned(), did })
    }

    #[test]
    fn a_repeated_report_of_a_step_is_answered_as_it_was_decided() {
        let mut engine = running();
        let too_large = Some(Code::TooLarge);
        let paid = || {
            ReportOp::Step(Step { place: 1, name: "pay".to_owned(), did: Did::Result(Payload::default()) })
        };
        let said: Vec<_> =
            [(1, kept(0, MAX_OBJECT_BYTES + 1)), (2, kept(0, 999)), (3, paid()), (4, kept(1, 999))]
                .into_iter()
                .map(|(n, op)| (report(&mut engine, n, op.clone()).0, report(&mut engine, n, op).0))
                .collect();
        let conflict = Some(Code::StepConflict);
        assert_eq!(said, [(too_large, too_large), (None, None), (None, None), (conflict, conflict)]);
    }

    #[test]
    fn a_task_keeps_so_many_bytes_and_they_are_dropped_once_with_its_end() {
        let mut engine = running();
        let codes: Vec<_> = (0..5).map(|n| report(&mut engine, n + 1, kept(n, MAX_OBJECT_BYTES)).0).collect();
        assert_eq!(codes, [None, None, None, None, Some(Code::StepsExceeded)]);
        assert_eq!(engine.state().task(&key()).unwrap().history().unwrap().kept(), 4 * MAX_OBJECT_BYTES);
        assert!(engine.is_live(&key()));
        let outcome = Outcome::Completed { result: Payload::default() };
        let end = || ReportOp::End(End { last_event: 0, outcome: outcome.clone(), used: None });
        assert_eq!(report(&mut engine, 6, end()), (None, vec![key()]));
        assert_eq!(report(&mut engine, 6, end()), (None, vec![]));
        assert!(!engine.is_live(&key()));
    }
}
