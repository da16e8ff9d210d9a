//! What a task's handler is given besides its input, and what it records: how much, and by which names.

use super::{Code, Refusal};

/// Messages in a mailbox that the handler has not taken, at most.
pub const MAX_MAIL: usize = 1_000;
/// Bytes of such messages together, at most.
pub const MAX_MAIL_BYTES: usize = 1024 * 1024;
/// Bytes of one message, at most: it is told to a running handler in one piece with others.
pub const MAX_MAIL_MESSAGE: usize = 64 * 1024;
/// Messages and recorded steps of one task in its whole life, at most.
pub const MAX_HISTORY: usize = 10_000;
/// Bytes of all of them together, at most.
pub const MAX_HISTORY_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of what a sender says of itself; longer text is cut.
pub const MAX_FROM: usize = 128;
/// Bytes of the name of a step or of a signal, at most.
const MAX_LABEL: usize = 128;

/// Refuses what can't be the name of a step or of a signal: nothing, or too much.
pub fn check_label(what: &str, label: &str) -> Result<(), Refusal> {
    if (1..=MAX_LABEL).contains(&label.len()) {
        return Ok(());
    }
    let message = format!("the name of a {what} has {} bytes; it has 1 to {MAX_LABEL}", label.len());
    Err(Refusal::over(Code::BadMessage, message, label.len() as u64, MAX_LABEL as u64))
}

/// Cuts what a sender says of itself.
pub fn capped_from(from: &str) -> &str {
    let mut end = from.len().min(MAX_FROM);
    while !from.is_char_boundary(end) {
        end -= 1;
    }
    &from[..end]
}
