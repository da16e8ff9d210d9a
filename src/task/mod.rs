//! The nouns: names, ids, payloads, phases, leases, outcomes, limits and codes.
//!
//! Plain data with its own invariants. No I/O, no clock, no randomness; everything else in the
//! crate speaks in these words.

mod code;
mod history;
mod labels;
mod limits;
mod list;
mod name;
mod object;
mod outcome;
mod payload;
mod phase;
mod redact;
mod retry;
mod schedule;
mod spec;
mod times;
mod token;
pub mod trigger;

pub use code::{Code, Refusal};
pub use history::{
    MAX_FROM, MAX_HISTORY, MAX_HISTORY_BYTES, MAX_MAIL, MAX_MAIL_BYTES, MAX_MAIL_MESSAGE, capped_from,
    check_label,
};
pub use labels::{Labels, MAX_LABEL_KEY, MAX_LABEL_VALUE, MAX_LABELS};
pub use limits::{
    AgentSettings, AllSettings, CALL_MAX_MS, MAX_CELLS, Overrides, Per, Plan, Quota, TenantSettings,
};
pub use list::{grown, grown_some};
pub use name::{AgentName, InstanceId, NameError, PlanName, ScheduleName, TaskId, TenantName, TriggerName};
pub use object::{
    MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_INLINE_STEP, MAX_OBJECT_BYTES, MAX_OBJECTS_BYTES, NoHash, Object,
    ObjectHash, check_object_bytes,
};
pub use outcome::{Outcome, TryFailure, WaitFor};
pub use payload::Payload;
pub use phase::{IllegalTransition, Phase, Step};
pub use redact::{field_path, without_content};
pub use retry::Backoff;
pub use schedule::{MAX_SCHEDULE_INPUT, MAX_SCHEDULES, Missed, ScheduleSettings, firing_id};
pub use spec::{
    BodyHash, Priority, Spec, TaskKey, child_id, clamp_first_try, hex, keyed_id, retry_id, triggered_id,
};
pub use times::{MAX_AHEAD_MS, Times, millis, never};
pub use token::Token;

/// Milliseconds: a duration, a point of the shard's logical time, or Unix time, as the field says.
pub type Millis = u64;

/// Input and result size accepted by default, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// Longest error text kept with a task, in bytes; longer text is cut.
pub const MAX_MESSAGE_BYTES: usize = 512;

/// Cuts `text` to [`MAX_MESSAGE_BYTES`] at a character boundary.
pub fn capped_message(text: &str) -> String {
    if text.len() <= MAX_MESSAGE_BYTES {
        return text.to_owned();
    }
    let mut end = MAX_MESSAGE_BYTES - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
