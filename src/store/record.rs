//! One task as stored: a header line, then the view as MessagePack.
//!
//! ```text
//! <rev> <state> <agent> <root> <created_at: 11 hex digits> <ended_at, 0 while live>\n<TaskView without result>
//! ```
//!
//! The script reads the stored header to know what a task was a member of; the reader filters on it
//! without decoding the view. A header is at most 190 bytes, so the script reads the first 256.

use bytes::Bytes;

use super::{StoreError, keys};
use crate::{
    task::{AgentName, Millis, Payload, Phase, TaskId},
    wire::{api::TaskView, codec},
};

/// What can be known of a stored task without decoding it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header<'a> {
    /// Journal revision of its last change.
    pub rev: u64,
    /// Where it is.
    pub state: Phase,
    /// Who runs it.
    pub agent: &'a str,
    /// Root of its tree.
    pub root: &'a str,
}

impl Header<'_> {
    /// Whether it is in one of `states`, this agent's, and of this tree; empty and absent mean any.
    pub fn fits(&self, states: &[Phase], agent: Option<&AgentName>, root: Option<&TaskId>) -> bool {
        (states.is_empty() || states.contains(&self.state))
            && agent.is_none_or(|a| a.as_str() == self.agent)
            && root.is_none_or(|r| r.as_str() == self.root)
    }
}

/// The stored form of a view. Its result is left out: results have keys of their own.
pub fn encode(view: &TaskView, now_wall: Millis) -> Vec<u8> {
    let ended = match view.ended_at {
        // A terminal task without a time counts as ended now, or retention would never see it.
        _ if !view.state.is_terminal() => 0,
        Some(at) => at.max(1),
        None => now_wall.max(1),
    };
    let mut out = format!(
        "{} {} {} {} {} {ended}\n",
        view.rev,
        view.state,
        view.agent,
        view.root,
        keys::stamp(view.created_at)
    )
    .into_bytes();
    let body = match &view.result {
        None => codec::pack(view),
        Some(_) => codec::pack(&TaskView { result: None, ..view.clone() }),
    };
    out.extend_from_slice(&body);
    out
}

/// Splits a stored record into its header and the encoded view.
pub fn split(stored: &[u8]) -> Result<(Header<'_>, &[u8]), StoreError> {
    let corrupt = || StoreError::Corrupt("a record without a readable header".to_owned());
    let end = stored.iter().position(|b| *b == b'\n').ok_or_else(corrupt)?;
    let line = std::str::from_utf8(&stored[..end]).map_err(|_| corrupt())?;
    let fields: Vec<&str> = line.split(' ').collect();
    let [rev, state, agent, root, _created, _ended] = fields.as_slice() else { return Err(corrupt()) };
    let header = Header {
        rev: rev.parse().map_err(|_| corrupt())?,
        state: Phase::parse(state).ok_or_else(corrupt)?,
        agent,
        root,
    };
    Ok((header, &stored[end + 1..]))
}

/// Decodes a stored record.
pub fn decode(stored: &[u8]) -> Result<TaskView, StoreError> {
    let (_, body) = split(stored)?;
    codec::unpack(body).map_err(|e| StoreError::Corrupt(e.to_string()))
}

/// The stored form of a result.
pub fn encode_result(result: &Payload) -> Bytes {
    codec::pack(result)
}

/// Decodes a stored result.
pub fn decode_result(stored: &[u8]) -> Result<Payload, StoreError> {
    codec::unpack(stored).map_err(|e| StoreError::Corrupt(e.to_string()))
}
