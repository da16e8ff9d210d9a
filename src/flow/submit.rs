//! Submit and command: what enters from outside.
//!
//! Order: readable → not a duplicate → not too old → [`super::times`] →
//! [`super::admit`]. A duplicate with the same
//! body is the same task; with another body it is refused to that submission alone.

use super::{
    announced::Announcements,
    entry::Task,
    input::{Decision, Input, Tell, check_version, unreadable},
    query::done_hint,
    record::{Admission, Origin, Record},
    state::State,
    tell::tell,
    times,
};
use crate::{
    task::{
        AgentName, BodyHash, Code, Labels, Millis, Payload, Phase, Refusal, Spec, TaskId, TaskKey,
        capped_message, clamp_first_try, retry_id,
    },
    wire::{
        codec::DecodeError,
        messages::{Cmd, CmdOp, Done, Submit},
    },
};

/// Decides what INTAKE delivers.
pub fn decide(state: &State, announced: &Announcements, input: &Input) -> Decision {
    match input {
        Input::Submit { key, agent, body, stored_at } => {
            submit(state, announced, key, agent, body, *stored_at)
        }
        Input::Cmd { key, nonce, body } => command(state, announced, key, nonce, body),
        _ => Decision::none(),
    }
}

fn submit(
    state: &State,
    announced: &Announcements,
    key: &TaskKey,
    agent: &AgentName,
    body: &Result<Submit, DecodeError>,
    stored_at: Millis,
) -> Decision {
    let readable = match body {
        Ok(submit) => check(submit).map(|()| submit),
        Err(error) => Err(unreadable(error)),
    };
    let known = state.task(key);
    let submit = match readable {
        Ok(submit) => submit,
        // An unreadable submit of a known id changes nothing about that task.
        Err(refusal) if known.is_some_and(|t| !t.tombstone) => return refuse_only(key, refusal, None),
        Err(refusal) => {
            let spec = Spec {
                labels: None,
                agent: agent.clone(),
                input: Payload::default(),
                priority: Default::default(),
                max_tries: None,
                times: None,
                cost: None,
            };
            let hash = spec.body_hash();
            return admitted(key, spec, hash, stored_at, Some(refusal), false, 0);
        }
    };
    let first_try = clamp_first_try(submit.first_try, stored_at);
    let spec = submit.clone().into_spec(agent.clone());
    match known {
        Some(task) if task.tombstone => {
            // The cancel may have come after the task was done and forgotten: it is not decided again.
            if let Some(refusal) = too_old(state, key, first_try) {
                return refuse_only(key, refusal, Some(spec.body_hash()));
            }
            let refusal = task
                .refusal()
                .cloned()
                .unwrap_or_else(|| Refusal::new(Code::Cancelled, "cancelled before it was submitted"));
            admitted(
                key,
                spec.clone(),
                spec.body_hash(),
                first_try,
                Some(refusal),
                submit.confirm,
                submit.hops,
            )
        }
        Some(task) if task.body_hash == spec.body_hash() => match submit.confirm {
            true => Decision::answer(Tell::Done { key: key.clone(), done: Box::new(done_hint(task)) }),
            false => Decision::none(),
        },
        Some(task) => refuse_only(key, conflict(state, task, &spec), Some(spec.body_hash())),
        None => {
            if let Some(refusal) = too_old(state, key, first_try) {
                return refuse_only(key, refusal, Some(spec.body_hash()));
            }
            // The hash is of what was asked for, not of what the plan makes of it.
            let hash = spec.body_hash();
            let (spec, refusal, deadline) = times::root(state, announced, key, spec, stored_at);
            let mut decision = admitted(key, spec, hash, first_try, refusal, submit.confirm, submit.hops);
            if let Some(Record::Submitted { admission, .. }) = decision.records.first_mut() {
                admission.deadline = deadline;
            }
            decision
        }
    }
}

fn check(submit: &Submit) -> Result<(), Refusal> {
    check_version(submit.v)?;
    submit.labels.as_deref().map_or(Ok(()), Labels::check)
}

fn admitted(
    key: &TaskKey,
    spec: Spec,
    body_hash: BodyHash,
    first_try: Millis,
    refusal: Option<Refusal>,
    confirm: bool,
    hops: u32,
) -> Decision {
    let mut answers = Vec::new();
    if confirm && refusal.is_none() {
        // A refusal is terminal, and every terminal state is hinted at anyway.
        let done = Done {
            v: crate::wire::VERSION,
            rev: 0,
            state: Phase::Queued,
            refusal: None,
            result: None,
            attempt: 0,
            last_event: 0,
            body_hash: Some(body_hash),
            nonce: None,
        };
        answers.push(Tell::Done { key: key.clone(), done: Box::new(done) });
    }
    let origin = Origin::Root { first_try, retry_of: None, hops };
    let admission = Admission { task: key.id.clone(), spec, body_hash, origin, deadline: None, refusal };
    Decision {
        records: vec![Record::Submitted { tenant: key.tenant.clone(), admission }],
        answers,
        ..Decision::none()
    }
}

/// Journals a refusal that leaves the task alone, and hints at it.
fn refuse_only(key: &TaskKey, refusal: Refusal, submitted: Option<BodyHash>) -> Decision {
    Decision::refused(key, refusal, submitted, None)
}

fn conflict(state: &State, task: &Task, spec: &Spec) -> Refusal {
    let message = format!(
        "this id was submitted before with another body (agent {}, hash {}); this one has agent {}, hash {}. \
         Use a new id, or repeat the same body",
        state.agent_of(task),
        task.body_hash,
        spec.agent,
        spec.body_hash()
    );
    Refusal::new(Code::IdempotencyConflict, message)
}

fn too_old(state: &State, key: &TaskKey, first_try: Millis) -> Option<Refusal> {
    // A tenant that has left the state took its memory along; the shard keeps the bound.
    let forgotten = match state.tenant(&key.tenant) {
        Some(tenant) => tenant.forgotten?,
        None => state.departed?,
    };
    if first_try > forgotten {
        return None;
    }
    let message = format!(
        "first tried at {first_try}, but duplicates are remembered only after {forgotten} (Unix ms): \
         whether this id ran before can't be told. Submit it under a new id if it shall run"
    );
    Some(Refusal::over(Code::TooOld, message, first_try, forgotten))
}

fn command(
    state: &State,
    announced: &Announcements,
    key: &TaskKey,
    nonce: &TaskId,
    body: &Result<Cmd, DecodeError>,
) -> Decision {
    let readable = match body {
        Ok(cmd) => check_version(cmd.v).map(|()| cmd),
        Err(error) => Err(unreadable(error)),
    };
    let op = match readable {
        Ok(cmd) => &cmd.op,
        // It changes nothing and tells nobody: not worth a place in the journal.
        Err(refusal) => return Decision::garbage(refusal.code),
    };
    match op {
        CmdOp::Cancel { reason } => cancel(state, key, reason),
        CmdOp::Retry {} => retry(state, announced, key, nonce),
        CmdOp::Pause {} => pause(state, key, true),
        CmdOp::Resume {} => pause(state, key, false),
        CmdOp::Tell { signal, message, from } => {
            tell(state, key, nonce, signal.as_deref(), message, from.as_deref())
        }
    }
}

/// Pauses the whole tree of a task, or lets it go on.
fn pause(state: &State, key: &TaskKey, paused: bool) -> Decision {
    let Some(task) = state.task(key).filter(|task| !task.tombstone) else {
        let refusal = Refusal::new(Code::NotFound, format!("there is no task {key}"));
        return Decision::record(Record::Refused { key: key.clone(), refusal });
    };
    let root = TaskKey { tenant: key.tenant.clone(), id: task.root().clone() };
    let known = state.task(&root).is_some_and(|root| root.more().paused);
    if known == paused || state.tree(&root).is_none() {
        // It is so already, or nothing of it lives.
        return Decision::none();
    }
    Decision::record(Record::TreeSet { key: root, paused })
}

fn cancel(state: &State, key: &TaskKey, reason: &str) -> Decision {
    let Some(task) = state.task(key) else {
        // Tombstones are remembered like tasks; a tenant nobody knows gets none.
        if state.plan_of(&key.tenant).is_none() {
            let refusal = Refusal::new(Code::UnknownTenant, format!("there is no tenant {}", key.tenant));
            return Decision::record(Record::Refused { key: key.clone(), refusal });
        }
        return Decision::record(Record::Cancelled { key: key.clone(), reason: capped_message(reason) });
    };
    if task.tombstone {
        // Its id may have been another's that was forgotten: nothing true can be told of it.
        return Decision::none();
    }
    let tree = TaskKey { tenant: key.tenant.clone(), id: task.root().clone() };
    if task.phase.is_terminal() && state.tree(&tree).is_none() {
        // Nothing lives below it. Both callers of a race get the true outcome.
        return Decision::answer(Tell::Done { key: key.clone(), done: Box::new(done_hint(task)) });
    }
    Decision::record(Record::Cancelled { key: key.clone(), reason: capped_message(reason) })
}

fn retry(state: &State, announced: &Announcements, key: &TaskKey, nonce: &TaskId) -> Decision {
    let refuse = |refusal| Decision::record(Record::Refused { key: key.clone(), refusal });
    let slot = state.find(key);
    let Some((slot, dead)) = slot.map(|slot| (slot, &state.tasks[slot])).filter(|(_, t)| !t.tombstone) else {
        return refuse(Refusal::new(Code::NotFound, format!("there is no task {key}")));
    };
    if dead.phase != Phase::Failed {
        let message = format!("{key} is {}; only a failed task can be retried", dead.phase);
        return refuse(Refusal::new(Code::NotDead, message));
    }
    let id = TaskKey { tenant: key.tenant.clone(), id: retry_id(&key.id, nonce.as_str()) };
    // Asked of both: the retry may be forgotten before the dead task is, and must not run again.
    if state.task(&id).is_some() || dead.more().retries.contains(&id.id) {
        return Decision::none();
    }
    let input = match (dead.input.rev(), state.resident().input(slot)) {
        (None, _) => Payload::default(),
        (Some(_), Some(input)) => input.clone(),
        (Some(rev), None) => return Decision { needs: Some(rev), ..Decision::none() },
    };
    let max_tries = (dead.max_tries > 0).then_some(dead.max_tries);
    let asked = Spec {
        agent: state.agent_of(dead).clone(),
        input,
        priority: dead.priority,
        max_tries,
        times: times::again(dead),
        cost: Some(dead.more().cost).filter(|cost| *cost > 0),
        labels: dead.more().labels.clone(),
    };
    let body_hash = asked.body_hash();
    let (spec, refusal, deadline) = times::root(state, announced, &id, asked, state.wall_now());
    // No submitter's clock: when it is forgotten, `TOO_OLD` moves no further.
    let origin = Origin::Root { first_try: 0, retry_of: Some(key.id.clone()), hops: dead.more().hops };
    let admission = Admission { task: id.id, spec, body_hash, origin, deadline, refusal };
    Decision::record(Record::Submitted { tenant: key.tenant.clone(), admission })
}
