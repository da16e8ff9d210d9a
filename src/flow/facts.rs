//! What a batch of decisions did, in the words of metrics. Not journaled, not part of the state.
//!
//! Gathered while the engine applies records, O(1) for each task touched; given to the driver after the PubAck,
//! because before it nothing has happened. The driver counts; see `coordinator::measure`.

use super::{
    evolve::Changes,
    record::{Admission, Failure, Record},
    state::State,
};
use crate::task::{AgentName, Code, Millis, Outcome, Phase, Priority, TaskKey, Token};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A stored submit was decided after so long.
    Decided(Millis),
    /// A task was admitted.
    Admitted(AgentName),
    /// A submit, spawn, command or report was refused.
    Refused(Code),
    /// An admitted task reached a terminal state.
    Ended(AgentName, Phase),
    /// A task was given to an instance; after so long if for the first time.
    Offered(AgentName, Option<Millis>),
    /// An offer was taken back.
    Withdrawn(AgentName),
    /// An attempt held its lease for so long and ended like this.
    Ran(AgentName, &'static str, Millis),
    /// A try was lost.
    TryLost(AgentName, Code),
    /// A lease was not renewed in time.
    Expired(AgentName),
    /// A task was given to an instance in a higher class than its own, because it had waited.
    Aged(AgentName),
    /// A call was given to an instance.
    CallBegun(AgentName),
    /// A call was refused.
    CallRefused(Code),
    /// A call was over, in this way (absent: answered), after so long.
    CallOver(AgentName, Option<Code>, Option<Millis>),
    /// The first part of an answer left the instance so long after the call had come there.
    CallFirst(AgentName, Millis),
    /// An attempt was stopped because an operator paused what it belongs to.
    Stopped(AgentName),
}

/// What happened in one acknowledged journal message.
#[derive(Debug, Default)]
pub struct News {
    /// Records in it.
    pub records: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// In order.
    pub facts: Vec<Fact>,
}

/// A lease before the record that ends it is applied: whose, and since when.
pub fn lease_before(state: &State, record: &Record) -> Option<(AgentName, Millis)> {
    match record {
        Record::Ended { token, .. }
        | Record::LeaseLost { token, .. }
        | Record::TimedOut { token, .. }
        | Record::Withdrawn { token, .. } => leased(state, token),
        _ => None,
    }
}

fn leased(state: &State, token: &Token) -> Option<(AgentName, Millis)> {
    let task = state.leased(token)?;
    Some((state.agent_of(task).clone(), task.lease()?.since))
}

/// What the record did; `before` is what [`lease_before`] said.
pub fn of(
    state: &State,
    record: &Record,
    changes: &Changes,
    before: Option<(AgentName, Millis)>,
    facts: &mut Vec<Fact>,
) {
    match (record, before) {
        (Record::Submitted { admission, .. }, _) => facts.push(admitted(admission)),
        (Record::Spawned { children, .. }, _) => facts.extend(children.iter().map(admitted)),
        (Record::Refused { refusal, .. }, _) => facts.push(Fact::Refused(refusal.code)),
        (Record::Dispatched { key, attempt, resume, .. }, _) => {
            facts.extend(offered(state, key, *attempt));
            facts.extend(aged(state, key, *resume));
        }
        (Record::Ended { outcome, failure, .. }, Some((agent, since))) => {
            let how = match (outcome, failure) {
                (_, Some(_)) | (Outcome::Failed { .. }, None) => "failed",
                (Outcome::Completed { .. }, None) => "completed",
                (Outcome::Snooze { .. }, None) => "snoozed",
                (Outcome::Wait(_), None) => "waiting",
            };
            facts.extend(failure.as_ref().map(|failure| lost(&agent, failure)));
            facts.push(Fact::Ran(agent, how, state.now.saturating_sub(since)));
        }
        (Record::LeaseLost { failure, .. }, Some((agent, since))) => {
            facts.push(lost(&agent, failure));
            facts.push(Fact::Expired(agent.clone()));
            facts.push(Fact::Ran(agent, "lost", state.now.saturating_sub(since)));
        }
        (Record::TimedOut { failure, .. }, Some((agent, since))) => {
            facts.push(lost(&agent, failure));
            facts.push(Fact::Ran(agent, "timed_out", state.now.saturating_sub(since)));
        }
        (Record::Withdrawn { failure, .. }, Some((agent, _))) => {
            facts.extend(failure.as_ref().map(|failure| lost(&agent, failure)));
            facts.push(Fact::Withdrawn(agent));
        }
        _ => {}
    }
    let stopped = changes.revoked.iter().filter(|revoked| revoked.code == Code::Paused);
    facts.extend(stopped.map(|revoked| Fact::Stopped(revoked.agent.clone())));
    // A rejected task was counted as refused: its agent is whatever somebody wrote.
    let ended = changes.ended.iter().filter_map(|slot| state.tasks.get(*slot));
    facts.extend(
        ended
            .filter(|task| task.phase != Phase::Rejected && !task.tombstone)
            .map(|task| Fact::Ended(state.agent_of(task).clone(), task.phase)),
    );
}

fn admitted(admission: &Admission) -> Fact {
    match &admission.refusal {
        Some(refusal) => Fact::Refused(refusal.code),
        None => Fact::Admitted(admission.spec.agent.clone()),
    }
}

fn offered(state: &State, key: &TaskKey, attempt: u32) -> Option<Fact> {
    let task = state.task(key)?;
    let waited = (attempt == 1).then(|| state.wall.saturating_sub(task.created));
    Some(Fact::Offered(state.agent_of(task).clone(), waited))
}

fn aged(state: &State, key: &TaskKey, resume: bool) -> Option<Fact> {
    let task = state.task(key).filter(|task| !resume && task.priority < Priority::Critical)?;
    (state.ageing().steps(task.admitted) > 0).then(|| Fact::Aged(state.agent_of(task).clone()))
}

fn lost(agent: &AgentName, failure: &Failure) -> Fact {
    Fact::TryLost(agent.clone(), failure.what.code)
}
