//! What follows from tries that went wrong, and from time that passed.

use super::{
    entry::Task,
    input::{Decision, Entropy},
    live::{How, Live, Overdue},
    record::{AfterFailure, Failure, Record},
    state::State,
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
    let tries = task.tries() + 1;
    if tries >= task.max_tries.max(1) {
        return dead(state, task, code, message);
    }
    let delay =
        state.policy.backoff.delay(tries, entropy.jitter()).max(at_least.unwrap_or(0).min(MAX_SNOOZE_MS));
    let next = AfterFailure::RetryAt(state.clock_now().saturating_add(delay));
    Failure { what: what(state, task, code, message), tries, next }
}

/// No more tries.
pub fn dead(state: &State, task: &Task, code: Code, message: &str) -> Failure {
    Failure { what: what(state, task, code, message), tries: task.tries() + 1, next: AfterFailure::Dead }
}

fn what(state: &State, task: &Task, code: Code, message: &str) -> TryFailure {
    TryFailure { attempt: task.attempt(), at: state.wall_now(), code, message: capped_message(message) }
}

/// Decides what time alone brings about: backoffs over, leases lost, offers nobody took.
pub fn due(state: &State, live: &mut Live, entropy: &mut dyn Entropy) -> Decision {
    let mut records = Vec::new();
    let now = state.clock_now();
    for (_, slot) in state.timers.iter().take_while(|(at, _)| *at <= now).take(AT_ONCE) {
        records.push(Record::Woken { key: state.key_of(&state.tasks[*slot]) });
    }
    let overdue = live.overdue(state.policy.offer_timeout_ms, AT_ONCE);
    for Overdue { token, how } in overdue {
        let Some(task) = state.leased(&token) else { continue };
        let Some(lease) = task.lease() else { continue };
        let key = state.key_of(task);
        records.push(match how {
            How::Expired => {
                let message =
                    format!("no heartbeat from instance {} for {} ms", lease.instance, lease.lease_ms);
                let failure = try_lost(state, task, Code::LeaseLost, &message, None, entropy);
                Record::LeaseLost { key, token, failure }
            }
            How::Unanswered => {
                let failure = (task.ran().vanished >= FREE_WITHDRAWALS).then(|| {
                    let message = format!("instance {} vanished before it accepted", lease.instance);
                    try_lost(state, task, Code::OfferLost, &message, None, entropy)
                });
                Record::Withdrawn { key, token, vanished: true, failure }
            }
            How::Untold => Record::Withdrawn { key, token, vanished: false, failure: None },
        });
    }
    Decision { records, ..Decision::default() }
}
