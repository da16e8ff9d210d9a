//! What follows from tries that went wrong, and from time that passed.

use super::{
    input::{Decision, Entropy},
    live::Live,
    record::{AfterFailure, Failure, Record},
    state::{State, Task},
};
use crate::task::{Code, Millis, TryFailure, capped_message};

/// The longest snooze, in milliseconds: 30 days.
pub const MAX_SNOOZE_MS: Millis = 30 * 24 * 3_600_000;

/// Withdrawals in a row, each with its instance gone, after which each counts as a try.
const FREE_WITHDRAWALS: u32 = 2;

/// Decisions per look at the clock, so that a mass expiry does not make one huge message.
const AT_ONCE: usize = 128;

/// A try is lost: back off with full jitter, or dead if it was the last.
pub fn try_lost(
    state: &State,
    task: &Task,
    code: Code,
    message: &str,
    at_least: Option<Millis>,
    entropy: &mut dyn Entropy,
) -> Failure {
    let tries = task.tries + 1;
    if tries >= task.spec.max_tries.unwrap_or(1) {
        return dead(state, task, code, message);
    }
    let delay =
        state.policy.backoff.delay(tries, entropy.jitter()).max(at_least.unwrap_or(0).min(MAX_SNOOZE_MS));
    let next = AfterFailure::RetryAt(state.clock_now().saturating_add(delay));
    Failure { what: what(state, task, code, message), tries, next }
}

/// No more tries.
pub fn dead(state: &State, task: &Task, code: Code, message: &str) -> Failure {
    Failure { what: what(state, task, code, message), tries: task.tries + 1, next: AfterFailure::Dead }
}

fn what(state: &State, task: &Task, code: Code, message: &str) -> TryFailure {
    TryFailure { attempt: task.attempt, at: state.wall_now(), code, message: capped_message(message) }
}

/// Decides what time alone brings about: backoffs over, leases lost, offers nobody took.
pub fn due(state: &State, live: &mut Live, entropy: &mut dyn Entropy) -> Decision {
    let mut records = Vec::new();
    let now = state.clock_now();
    for (_, key) in state.timers.iter().take_while(|(at, _)| *at <= now).take(AT_ONCE) {
        records.push(Record::Woken { key: key.clone() });
    }
    for token in live.expired(AT_ONCE) {
        let Some((key, task)) = state.leased(&token) else { continue };
        let Some(lease) = &task.lease else { continue };
        let message = format!("no heartbeat from instance {} for {} ms", lease.instance, lease.lease_ms);
        let failure = try_lost(state, task, Code::LeaseLost, &message, None, entropy);
        records.push(Record::LeaseLost { key: key.clone(), token, failure });
    }
    for token in live.unanswered(state.policy.offer_timeout_ms, AT_ONCE) {
        let Some((key, task)) = state.leased(&token) else { continue };
        let Some(lease) = &task.lease else { continue };
        let failure = (task.vanished >= FREE_WITHDRAWALS).then(|| {
            let message = format!("instance {} vanished before it accepted", lease.instance);
            try_lost(state, task, Code::OfferLost, &message, None, entropy)
        });
        records.push(Record::Withdrawn { key: key.clone(), token, vanished: true, failure });
    }
    // A lease can be both expired and unanswered; the first record stands.
    let mut seen = std::collections::HashSet::new();
    records.retain(|record| match record {
        Record::LeaseLost { token, .. } | Record::Withdrawn { token, .. } => seen.insert(*token),
        _ => true,
    });
    Decision { records, ..Decision::default() }
}
