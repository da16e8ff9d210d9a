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
        Code, MAX_HISTORY, MAX_HISTORY_BYTES, MAX_MAIL, MAX_MAIL_BYTES, MAX_MAIL_MESSAGE, Payload, Refusal,
        TaskId, TaskKey, capped_from, check_label,
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

fn refused(key: &TaskKey, nonce: &TaskId, refusal: Refusal) -> Decision {
    Decision::refused(key, refusal, None, Some(nonce.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::{
            engine::{Effect, Engine},
            input::Input,
            rig::effects,
            state::Policy,
        },
        wire::{
            messages::{Cmd, CmdOp, Submit},
            subjects::Shard,
        },
    };

    fn key() -> TaskKey {
        TaskKey { tenant: "t".parse().unwrap(), id: "one".parse().unwrap() }
    }

    fn engine() -> Engine<()> {
        let mut engine = Engine::new(Shard(0));
        engine.open("c", Policy::default());
        let submit: Submit = serde_json::from_str("{}").unwrap();
        let agent = "nobody".parse().unwrap();
        engine.push(Input::Submit { key: key(), agent, body: Ok(submit), stored_at: 1_000 }, None);
        answers(&mut engine);
        engine
    }

    /// What became of the messages that were pushed.
    fn answers(engine: &mut Engine<()>) -> Vec<Option<Code>> {
        let answer = |effect| match effect {
            Effect::Tell(Tell::Done { done, .. }) if done.answers_a_message() => {
                Some(done.refusal.map(|refusal| refusal.code))
            }
            _ => None,
        };
        effects(engine).into_iter().filter_map(answer).collect()
    }

    fn told(engine: &mut Engine<()>, nonce: usize, bytes: usize) -> Option<Code> {
        let op = CmdOp::Tell { signal: None, message: Payload::Bytes(vec![7; bytes].into()), from: None };
        let nonce = format!("n{nonce}").parse().unwrap();
        engine.push(Input::Cmd { key: key(), nonce, body: Ok(Cmd { v: 1, op }) }, None);
        let answers = answers(engine);
        assert_eq!(answers.len(), 1, "each sender is answered");
        answers[0]
    }

    #[test]
    fn a_mailbox_holds_so_many_messages_and_a_repeat_takes_no_place() {
        let mut engine = engine();
        assert!((0..MAX_MAIL).all(|n| told(&mut engine, n, 10).is_none()));
        assert_eq!(told(&mut engine, MAX_MAIL, 10), Some(Code::MailboxFull));
        assert_eq!(told(&mut engine, 3, 10), None, "told before");
        let history = engine.state().task(&key()).unwrap().history().unwrap();
        assert_eq!(history.open(), (MAX_MAIL, 10 * MAX_MAIL));
    }

    #[test]
    fn a_mailbox_holds_so_many_bytes() {
        let mut engine = engine();
        let each = MAX_MAIL_MESSAGE;
        let fit = MAX_MAIL_BYTES / each;
        assert!((0..fit).all(|n| told(&mut engine, n, each).is_none()));
        assert_eq!(told(&mut engine, fit, 1), Some(Code::MailboxFull));
        assert_eq!(told(&mut engine, fit, each + 1), Some(Code::TooLarge));
    }

    #[test]
    fn while_the_journal_is_nearly_full_no_messages_are_taken() {
        let mut engine = engine();
        engine.push(Input::Room { used: 90, max: 100 }, None);
        assert_eq!(told(&mut engine, 1, 1), Some(Code::Backpressure));
        engine.push(Input::Room { used: 10, max: 100 }, None);
        assert_eq!(told(&mut engine, 1, 1), None);
    }
}
