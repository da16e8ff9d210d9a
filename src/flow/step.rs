//! Step reports: what a handler did at one of its places.
//!
//! A place is recorded once. A report that says something else of it, or takes a message that is not the next, is refused
//! and counts all the same, so that the reports behind it are not held up.

use super::{entry::Task, history::History, state::State};
use crate::{
    task::{Code, MAX_HISTORY, MAX_HISTORY_BYTES, Refusal, TaskKey, check_label},
    wire::history::{Did, Step},
};

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
