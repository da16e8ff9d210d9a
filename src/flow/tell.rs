//! Tell: a message for a task's mailbox, from outside. A signal is a message with a name.
//!
//! Order: the task is known → not a repeat → not over → readable → room. Each sender is answered; a repeat of what was
//! taken in is answered from state, as long as the task lives.

use super::{
    input::{Decision, Tell},
    query::done_hint,
    record::Record,
    state::State,
};
use crate::{
    task::{
        Code, MAX_HISTORY, MAX_HISTORY_BYTES, MAX_MAIL, MAX_MAIL_BYTES, MAX_MAIL_MESSAGE, Payload, Phase,
        Refusal, TaskId, TaskKey, capped_from, check_label,
    },
    wire::messages::Done,
};

/// When a mailbox that is full may have room again, in milliseconds.
const AGAIN_MS: u64 = 1_000;

/// Decides a message.
pub fn tell(
    state: &State,
    key: &TaskKey,
    nonce: &TaskId,
    signal: Option<&str>,
    message: &Payload,
    from: Option<&str>,
) -> Decision {
    let Some(task) = state.task(key).filter(|task| !task.tombstone) else {
        let refusal = Refusal::new(Code::NotFound, format!("there is no task {key}"));
        return refused(key, nonce, refusal);
    };
    let answer = Done { rev: 0, nonce: Some(nonce.clone()), ..done_hint(task) };
    let answer = Tell::Done { key: key.clone(), done: Box::new(answer) };
    if task.history().is_some_and(|history| history.knows(nonce)) {
        return Decision::answer(answer);
    }
    if task.phase.is_terminal() {
        let message = format!("{key} is {}; it takes no messages any more", task.phase);
        return refused(key, nonce, Refusal::new(Code::TaskEnded, message));
    }
    if let Err(refusal) = signal.map_or(Ok(()), |name| check_label("signal", name)) {
        return refused(key, nonce, refusal);
    }
    let bytes = message.len();
    if bytes > MAX_MAIL_MESSAGE {
        let message = format!("the message has {bytes} bytes, at most {MAX_MAIL_MESSAGE} are taken");
        let refusal = Refusal::over(Code::TooLarge, message, bytes as u64, MAX_MAIL_MESSAGE as u64);
        return refused(key, nonce, refusal);
    }
    let history = task.history();
    let (open, open_bytes) = history.map_or((0, 0), |history| history.open());
    let (all, all_bytes) = history.map_or((0, 0), |history| (history.len(), history.bytes()));
    let full = if open >= MAX_MAIL {
        Some((format!("{key} has {open} messages it has not taken"), open as u64, MAX_MAIL as u64))
    } else if open_bytes + bytes > MAX_MAIL_BYTES {
        let what = format!("{key} has {open_bytes} bytes of messages it has not taken");
        Some((what, (open_bytes + bytes) as u64, MAX_MAIL_BYTES as u64))
    } else if all >= MAX_HISTORY {
        Some((format!("{key} has {all} steps and messages behind it"), all as u64, MAX_HISTORY as u64))
    } else if all_bytes + bytes as u64 > MAX_HISTORY_BYTES {
        let what = format!("{key} has {all_bytes} bytes of steps and messages behind it");
        Some((what, all_bytes + bytes as u64, MAX_HISTORY_BYTES))
    } else {
        None
    };
    if let Some((what, actual, limit)) = full {
        let refusal = Refusal::over(Code::MailboxFull, format!("{what}; at most {limit}"), actual, limit);
        return refused(key, nonce, refusal.retry_after(AGAIN_MS));
    }
    let record = Record::Told {
        key: key.clone(),
        nonce: nonce.clone(),
        seq: history.map_or(0, |history| history.count_told()) + 1,
        signal: signal.map(str::to_owned),
        from: from.filter(|from| !from.is_empty()).map(|from| capped_from(from).to_owned()),
        message: message.clone(),
    };
    Decision { records: vec![record], answers: vec![answer], ..Decision::none() }
}

/// The journal has no room for what comes from outside.
pub fn no_room(key: &TaskKey, nonce: &TaskId) -> Decision {
    let refusal = Refusal::new(Code::Backpressure, "the journal is nearly full; no messages are taken now");
    refused(key, nonce, refusal.retry_after(AGAIN_MS))
}

/// Journaled first, as all that is said of what the state does not hold.
fn refused(key: &TaskKey, nonce: &TaskId, refusal: Refusal) -> Decision {
    let done = Done {
        v: crate::wire::VERSION,
        rev: 0,
        state: Phase::Rejected,
        refusal: Some(refusal.clone()),
        result: None,
        attempt: 0,
        last_event: 0,
        body_hash: None,
        nonce: Some(nonce.clone()),
    };
    Decision {
        records: vec![Record::Refused { key: key.clone(), refusal }],
        answers: vec![Tell::Done { key: key.clone(), done: Box::new(done) }],
        ..Decision::none()
    }
}
