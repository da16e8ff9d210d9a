//! Reports of running attempts: spawn, step and end, in order, each applied once.
//!
//! A report counts only with the live (task, attempt, token, instance). n = last + 1 is applied,
//! n ≤ last is answered from state, a higher one is held until its predecessors have come.

use super::{
    admit,
    announced::Announcements,
    entry::{Lease, Task},
    evolve::outcome_hash,
    input::{Decision, Entropy, Input, Tell, check_version, unreadable},
    record::{Admission, Origin, Record},
    settle,
    state::State,
    step, times,
};
use crate::{
    task::{Code, MAX_CELLS, Outcome, Refusal, Spec, TaskId, TaskKey, WaitFor, check_label, child_id},
    wire::messages::{CtlOp, End, RefusedChild, Report, ReportOp, Spawn, Verdict},
};

/// Reports ahead of the next one that are kept.
pub const WINDOW: u32 = 64;

/// Children in one spawn report.
pub const MAX_SPAWN: usize = 1_000;

/// Inputs of one spawn report together, in multiples of the largest input. What one input decides goes
/// into one journal message, and a message the server can't take would stop the shard for good.
const SPAWN_INPUTS: u64 = 2;

/// What a handler may say that it failed with.
const OF_STEPS: [Code; 6] = [
    Code::StepChanged,
    Code::StepsExceeded,
    Code::StepLost,
    Code::StepsFull,
    Code::TooLarge,
    Code::Unavailable,
];

/// Children a wait may name one by one; beyond this it waits for all of them.
const MAX_AWAITED: usize = 4_096;

/// Decides what REPORTS delivers.
pub fn decide(
    state: &State,
    announced: &Announcements,
    input: &Input,
    entropy: &mut dyn Entropy,
) -> Decision {
    let Input::Report { key, body } = input else { return Decision::none() };
    let report = match body {
        Ok(report) => report,
        Err(error) => {
            // Nobody can be told: the body names the sender.
            return Decision::garbage(unreadable(error).code);
        }
    };
    if let Err(refusal) = check_version(report.v) {
        return answer(report, Some(refusal), Vec::new());
    }
    let Some(task) = state.task(key) else { return stale(key, report) };
    match task.lease() {
        Some(lease) if is_of(state, lease, task, report) => {
            live(state, announced, key, task, lease, report, entropy)
        }
        _ => ended(key, task, report),
    }
}

fn is_of(state: &State, lease: &Lease, task: &Task, report: &Report) -> bool {
    lease.token == report.token
        && lease.instance == report.instance
        && task.attempt() == report.attempt
        && *state.agent_of(task) == report.agent
}

fn answer(report: &Report, refusal: Option<Refusal>, refused: Vec<RefusedChild>) -> Decision {
    Decision::answer(verdict(report, refusal, refused))
}

fn verdict(report: &Report, refusal: Option<Refusal>, refused: Vec<RefusedChild>) -> Tell {
    Tell::Ctl {
        agent: report.agent.clone(),
        instance: report.instance.clone(),
        op: CtlOp::Verdict(Verdict { token: report.token, n: report.n, refusal, refused }),
    }
}

fn stale(key: &TaskKey, report: &Report) -> Decision {
    let message = format!("the lease of attempt {} of {key} is over; nothing was changed", report.attempt);
    refuse(key, report, Refusal::new(Code::StaleLease, message))
}

/// Refuses a report for what the state does *not* hold. Unlike an answer from what it does hold, this
/// could be wrong if somebody else owns the shard by now, and the report would be acknowledged and
/// gone. So it is journaled: an owner that was superseded fails its compare-and-set and says nothing.
fn refuse(key: &TaskKey, report: &Report, refusal: Refusal) -> Decision {
    Decision {
        records: vec![Record::Refused { key: key.clone(), refusal: refusal.clone() }],
        answers: vec![verdict(report, Some(refusal), Vec::new())],
        ..Decision::none()
    }
}

/// The lease is not live: a repeated end gets its answer, everything else is a zombie's.
fn ended(key: &TaskKey, task: &Task, report: &Report) -> Decision {
    let Some(last) = task.ran().last_end.as_ref().filter(|last| last.token == report.token) else {
        return stale(key, report);
    };
    if report.n > last.n {
        return stale(key, report);
    }
    let differs = match &report.op {
        ReportOp::End(end) if report.n == last.n => outcome_hash(&end.outcome) != last.outcome,
        ReportOp::Spawn(_) | ReportOp::Step(_) if report.n == last.n => true,
        _ => false,
    };
    let refusal = differs.then(|| {
        let message = format!("{key} was ended by this lease with another outcome; the first stands");
        Refusal::new(Code::ResultConflict, message)
    });
    answer(report, refusal, Vec::new())
}

fn live(
    state: &State,
    announced: &Announcements,
    key: &TaskKey,
    task: &Task,
    lease: &Lease,
    report: &Report,
    entropy: &mut dyn Entropy,
) -> Decision {
    if report.n <= lease.n {
        let refusal = match &report.op {
            ReportOp::Step(op) => step::decided(state, key, task, op),
            ReportOp::Spawn(_) | ReportOp::End(_) => None,
        };
        return answer(report, refusal, Vec::new());
    }
    if report.n > lease.n + WINDOW {
        let message =
            format!("report {} while {} is the next; at most {WINDOW} ahead", report.n, lease.n + 1);
        return refuse(key, report, Refusal::new(Code::ReportGap, message));
    }
    if report.n > lease.n + 1 {
        return Decision { hold: true, ..Decision::default() };
    }
    match &report.op {
        ReportOp::Spawn(op) => spawn(state, announced, key, task, report, op),
        ReportOp::Step(op) => {
            let refusal = step::refusal(state, key, task, op);
            let recorded = refusal.is_none().then(|| op.clone());
            let record =
                Record::Stepped { key: key.clone(), token: report.token, n: report.n, step: recorded };
            let answers = vec![verdict(report, refusal, Vec::new())];
            Decision { records: vec![record], answers, ..Decision::none() }
        }
        ReportOp::End(op) => end(state, key, task, report, op, entropy),
    }
}

fn spawn(
    state: &State,
    announced: &Announcements,
    key: &TaskKey,
    parent: &Task,
    report: &Report,
    op: &Spawn,
) -> Decision {
    let mut children = Vec::new();
    let mut refused = Vec::new();
    let mut admitted = 0;
    let mut refusal = None;
    let room = state.plan_of(&key.tenant).map_or(0, |p| p.children as usize) + admit::REFUSED_CHILDREN;
    if op.step.is_empty() || op.step.len() > 128 {
        refusal = Some(Refusal::new(Code::BadMessage, "a step name has 1 to 128 bytes"));
    } else if op.children.len() > MAX_SPAWN {
        let message = format!("{} children in one report, at most {MAX_SPAWN} are taken", op.children.len());
        refusal = Some(Refusal::over(Code::BadMessage, message, op.children.len() as u64, MAX_SPAWN as u64));
    } else if let Some(over) = inputs_over(state, op) {
        refusal = Some(over);
    } else if let Some(total) = more_than(room, state, key, parent, op) {
        // Beyond this not even the refusals are remembered.
        let message = format!("{total} children > cap {room}, refused ones included");
        refusal = Some(Refusal::over(Code::ChildrenExceeded, message, total as u64, room as u64));
    } else {
        for (offset, spec) in op.children.iter().enumerate() {
            let (index, id) = place(key, op, offset);
            let child = TaskKey { tenant: key.tenant.clone(), id: id.clone() };
            if children.iter().any(|a: &Admission| a.task == id) {
                continue;
            }
            if let Some(known) = state.task(&child) {
                // The first decision stands, refusals included.
                if let Some(refusal) = known.refusal().cloned().filter(|_| known.attempt() == 0) {
                    refused.push(RefusedChild { task: id, refusal });
                }
                continue;
            }
            let body_hash = spec.body_hash();
            let (spec, refusal, deadline): (Spec, _, _) =
                times::child(state, announced, key, parent, spec.clone(), (children.len(), admitted));
            match &refusal {
                None => admitted += 1,
                Some(refusal) => refused.push(RefusedChild { task: id.clone(), refusal: refusal.clone() }),
            }
            let origin = Origin::Child {
                parent: key.id.clone(),
                step: op.step.clone(),
                index,
                root: parent.root().clone(),
                depth: parent.depth() + 1,
            };
            children.push(Admission { task: id, spec, body_hash, origin, deadline, refusal });
        }
    }
    let record = Record::Spawned { key: key.clone(), token: report.token, n: report.n, children };
    Decision { records: vec![record], answers: vec![verdict(report, refusal, refused)], ..Decision::none() }
}

fn inputs_over(state: &State, op: &Spawn) -> Option<Refusal> {
    let (actual, limit) = (
        op.children.iter().map(|spec| spec.input.len() as u64).sum::<u64>(),
        state.policy.max_payload.saturating_mul(SPAWN_INPUTS),
    );
    (actual > limit).then(|| {
        let message =
            format!("the inputs of one spawn have {actual} bytes, at most {limit} are taken; use more steps");
        Refusal::over(Code::TooLarge, message, actual, limit)
    })
}

/// A wait as it is journaled: only for what is there to wait for.
fn awaited(state: &State, key: &TaskKey, wait: &WaitFor) -> WaitFor {
    let WaitFor::Children(ids) = wait else { return wait.clone() };
    let own = ids.iter().filter(|id| {
        let child = TaskKey { tenant: key.tenant.clone(), id: (*id).clone() };
        state.task(&child).is_some_and(|c| c.parent() == Some(&key.id) && !c.phase.is_terminal())
    });
    let own: Vec<_> = own.take(MAX_AWAITED + 1).cloned().collect();
    if own.len() > MAX_AWAITED { WaitFor::AllChildren } else { WaitFor::Children(own) }
}

/// The index and the id of a report's child.
fn place(parent: &TaskKey, op: &Spawn, offset: usize) -> (u32, TaskId) {
    let index = op.first.saturating_add(offset as u32);
    (index, child_id(&parent.id, &op.step, index))
}

/// How many children the parent would have, if more than `room`. One that exists is adopted, and takes none.
fn more_than(room: usize, state: &State, key: &TaskKey, parent: &Task, op: &Spawn) -> Option<usize> {
    let most = parent.more().children.len() + op.children.len();
    if most <= room {
        return None;
    }
    let new = |offset: &usize| {
        let child = TaskKey { tenant: key.tenant.clone(), id: place(key, op, *offset).1 };
        state.task(&child).is_none()
    };
    let total = parent.more().children.len() + (0..op.children.len()).filter(new).count();
    (total > room).then_some(total)
}

fn end(
    state: &State,
    key: &TaskKey,
    task: &Task,
    report: &Report,
    op: &End,
    entropy: &mut dyn Entropy,
) -> Decision {
    let now = state.clock_now();
    let mut failure = None;
    let mut wake_at = None;
    match &op.outcome {
        Outcome::Completed { result } => {
            let (actual, limit) = (result.len() as u64, state.policy.max_payload);
            if actual > limit {
                let message = format!("the result has {actual} bytes, at most {limit} are taken");
                failure = Some(settle::dead(state, task, Code::TooLarge, &message));
            }
        }
        Outcome::Failed { message, retryable, retry_after_ms, code } => {
            let code = code.filter(|code| OF_STEPS.contains(code)).unwrap_or(Code::HandlerFailed);
            let failed = settle::try_lost(state, task, code, message, *retry_after_ms, entropy);
            failure = Some(match retryable {
                true => failed,
                false => settle::dead(state, task, code, message),
            });
        }
        Outcome::Snooze { ms } => wake_at = Some(now.saturating_add((*ms).min(settle::MAX_SNOOZE_MS))),
        Outcome::Wait(wait) => {
            if let WaitFor::Message { signal: Some(name), .. } = wait
                && let Err(refusal) = check_label("signal", name)
            {
                failure = Some(settle::dead(state, task, Code::HandlerFailed, &refusal.message));
            }
            let most = match wait {
                WaitFor::Message { within_ms, .. } => *within_ms,
                WaitFor::Time { ms, .. } => Some(*ms),
                WaitFor::AllChildren | WaitFor::Children(_) => None,
            };
            wake_at = most.map(|ms| now.saturating_add(ms.min(settle::MAX_SNOOZE_MS)));
        }
    }
    let record = Record::Ended {
        key: key.clone(),
        token: report.token,
        n: report.n,
        last_event: op.last_event,
        said: outcome_hash(&op.outcome),
        outcome: match &failure {
            // An oversize result is not journaled, nor are long messages twice.
            Some(failed) => Outcome::Failed {
                message: failed.what.message.clone(),
                retryable: false,
                retry_after_ms: None,
                code: None,
            },
            None => match &op.outcome {
                Outcome::Wait(wait) => Outcome::Wait(awaited(state, key, wait)),
                other => other.clone(),
            },
        },
        failure,
        wake_at,
        used: op.used.map(|used| used.min(MAX_CELLS)),
    };
    Decision { records: vec![record], answers: vec![verdict(report, None, Vec::new())], ..Decision::none() }
}
