//! One task as stored: a header line, the result if it is small, then the rest of the view.
//!
//! ```text
//! <rev> <state> <agent> <root> <parent> <created_at: 11 hex digits> <ended_at, 0 while live> <result>\n<its bytes><rest>
//! ```
//!
//! `root` is `-` for a task that is its own, `parent` is `-` for one without and `=` for one whose parent is the root. `result` is `-` (none is kept here), `x` (it is in the hash of
//! large results), `o` (it is in NATS) or the number of its bytes that follow. What the key or the header says is not said
//! again: the rest is MessagePack with short names, defaults left out. The script reads the stored header
//! to know what a task was a member of; the reader filters on it without decoding the rest.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{StoreError, keys};
use crate::{
    task::{
        AgentName, BodyHash, InstanceId, Labels, Millis, Payload, Phase, Priority, Refusal, TaskId,
        TenantName, TryFailure,
    },
    wire::{api::TaskView, codec},
};

/// Version of everything the index holds. An index of another layout is wiped and written anew.
pub const LAYOUT: u32 = 4;

/// Results of at most so many bytes are kept in the record itself.
pub const MAX_INLINE: usize = 512;

/// Stands for "none" in a header; no name is like it.
const NONE: &str = "-";

/// Stands for "the root" where a parent is told.
const ROOT: &str = "=";

/// Where a task's result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultAt {
    /// Not in the index.
    Nowhere,
    /// In the record, so many bytes.
    Inline(usize),
    /// In the hash of large results.
    Apart,
    /// In NATS, the stream of results.
    Aside,
}

/// What can be known of a stored task without decoding it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header<'a> {
    /// Journal revision of its last change.
    pub rev: u64,
    /// Where it is.
    pub state: Phase,
    /// Who runs it.
    pub agent: &'a str,
    /// Root of its tree; `None`: itself.
    pub root: Option<&'a str>,
    /// The task that spawned it.
    pub parent: Option<&'a str>,
    /// Unix milliseconds.
    pub created_at: Millis,
    /// Unix milliseconds; 0 while live.
    pub ended_at: Millis,
    /// Where its result is.
    pub result: ResultAt,
}

/// Which tasks are meant; whatever is empty or absent means any.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// In one of these states.
    pub states: &'a [Phase],
    /// This agent's.
    pub agent: Option<&'a AgentName>,
    /// Of this tree.
    pub root: Option<&'a TaskId>,
    /// Spawned by this task.
    pub parent: Option<&'a TaskId>,
    /// Created at this time or later.
    pub since: Option<Millis>,
    /// Created before this time.
    pub until: Option<Millis>,
}

impl Header<'_> {
    /// Whether it is meant. `task` is the task's own id.
    pub fn fits(&self, task: &TaskId, filter: &Filter<'_>) -> bool {
        (filter.states.is_empty() || filter.states.contains(&self.state))
            && filter.agent.is_none_or(|a| a.as_str() == self.agent)
            && filter.root.is_none_or(|r| r.as_str() == self.root.unwrap_or(task.as_str()))
            && filter.parent.is_none_or(|p| self.parent == Some(p.as_str()))
            && filter.since.is_none_or(|at| self.created_at >= at)
            && filter.until.is_none_or(|at| self.created_at < at)
    }
}

/// The parent as a header tells it.
pub fn parent_of(view: &TaskView) -> &str {
    match &view.parent {
        None => NONE,
        Some(parent) if *parent == view.root => ROOT,
        Some(parent) => parent.as_str(),
    }
}

/// What neither the key nor the header says. Names are short because they are stored once per task.
#[derive(Serialize, Deserialize)]
struct Rest {
    #[serde(rename = "p", default, skip_serializing_if = "is_default")]
    priority: Priority,
    #[serde(rename = "d", default, skip_serializing_if = "is_default")]
    depth: u32,
    #[serde(rename = "a", default, skip_serializing_if = "is_default")]
    attempt: u32,
    #[serde(rename = "t", default, skip_serializing_if = "is_default")]
    tries: u32,
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    instance: Option<InstanceId>,
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    not_before: Option<Millis>,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    deadline_at: Option<Millis>,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    started_at: Option<Millis>,
    /// Only where it can't be told from the header: a terminal task without a time.
    #[serde(rename = "n", default, skip_serializing_if = "is_default")]
    no_end: bool,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
    #[serde(rename = "f", default, skip_serializing_if = "Vec::is_empty")]
    failures: Vec<TryFailure>,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    retry_of: Option<TaskId>,
    #[serde(rename = "e", default, skip_serializing_if = "is_default")]
    last_event: u32,
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    body_hash: Option<BodyHash>,
    #[serde(rename = "b", default, skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// When a stored task ended, 0 while it is live. A terminal task without a time counts as ended now, or
/// retention would never see it.
pub fn ended_at(view: &TaskView, now_wall: Millis) -> Millis {
    if view.state.is_terminal() { view.ended_at.unwrap_or(now_wall).max(1) } else { 0 }
}

/// The result of a task that is to be stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ResultOf<'a> {
    /// There is none, or it was stored before.
    None,
    /// This one: in the record if it is small, in the hash of large results otherwise.
    Given(&'a Payload),
    /// It is in NATS.
    Aside,
}

/// The stored form of a view. Of `result` it holds what is small; the view's own is not looked at.
pub fn encode(view: &TaskView, result: ResultOf<'_>, now_wall: Millis, out: &mut Vec<u8>) {
    use std::io::Write;
    out.clear();
    let root = if view.root == view.task { NONE } else { view.root.as_str() };
    let ended = ended_at(view, now_wall);
    let stamp = keys::Stamp(view.created_at);
    // Writing to a Vec can't fail.
    let parent = parent_of(view);
    let _ = write!(out, "{} {} {} {root} {parent} {stamp} {ended} ", view.rev, view.state, view.agent);
    match result {
        ResultOf::None => out.extend_from_slice(b"-\n"),
        ResultOf::Aside => out.extend_from_slice(b"o\n"),
        ResultOf::Given(result) if result.len() > MAX_INLINE => out.extend_from_slice(b"x\n"),
        ResultOf::Given(result) => {
            let bytes = encode_result(result);
            let _ = writeln!(out, "{}", bytes.len());
            out.extend_from_slice(&bytes);
        }
    }
    let rest = Rest {
        priority: view.priority,
        depth: view.depth,
        attempt: view.attempt,
        tries: view.tries,
        instance: view.instance.clone(),
        not_before: view.not_before,
        deadline_at: view.deadline_at,
        started_at: view.started_at,
        no_end: ended != 0 && view.ended_at.is_none(),
        refusal: view.refusal.clone(),
        failures: view.failures.clone(),
        retry_of: view.retry_of.clone(),
        last_event: view.last_event,
        body_hash: view.body_hash,
        labels: view.labels.clone(),
    };
    codec::pack_into(&rest, out);
}

/// Splits a stored record into its header and what follows it.
pub fn split(stored: &[u8]) -> Result<(Header<'_>, &[u8]), StoreError> {
    let corrupt = || StoreError::Corrupt("a record without a readable header".to_owned());
    let end = stored.iter().position(|b| *b == b'\n').ok_or_else(corrupt)?;
    let line = std::str::from_utf8(&stored[..end]).map_err(|_| corrupt())?;
    let mut fields = line.split(' ');
    let mut field = || fields.next().ok_or_else(corrupt);
    let rev = field()?.parse().map_err(|_| corrupt())?;
    let state = Phase::parse(field()?).ok_or_else(corrupt)?;
    let agent = field()?;
    let root = Some(field()?).filter(|root| *root != NONE);
    let parent = match field()? {
        NONE => None,
        ROOT => Some(root.ok_or_else(corrupt)?),
        parent => Some(parent),
    };
    let header = Header {
        rev,
        state,
        agent,
        root,
        parent,
        created_at: Millis::from_str_radix(field()?, 16).map_err(|_| corrupt())?,
        ended_at: field()?.parse().map_err(|_| corrupt())?,
        result: match field()? {
            NONE => ResultAt::Nowhere,
            "x" => ResultAt::Apart,
            "o" => ResultAt::Aside,
            bytes => ResultAt::Inline(bytes.parse().map_err(|_| corrupt())?),
        },
    };
    if fields.next().is_some() {
        return Err(corrupt());
    }
    Ok((header, &stored[end + 1..]))
}

/// Decodes a stored record of this task, with the result if it is in there and wanted.
pub fn decode(
    tenant: &TenantName,
    task: &TaskId,
    stored: &[u8],
    with_result: bool,
) -> Result<TaskView, StoreError> {
    decode_split(tenant, task, split(stored)?, with_result)
}

/// The same of one that was split already.
pub fn decode_split(
    tenant: &TenantName,
    task: &TaskId,
    (header, body): (Header<'_>, &[u8]),
    with_result: bool,
) -> Result<TaskView, StoreError> {
    let corrupt = |what: String| StoreError::Corrupt(what);
    let (result, rest) = match header.result {
        ResultAt::Inline(bytes) => {
            let (result, rest) =
                body.split_at_checked(bytes).ok_or_else(|| corrupt("a record is cut".to_owned()))?;
            (if with_result { Some(decode_result(result)?) } else { None }, rest)
        }
        ResultAt::Nowhere | ResultAt::Apart | ResultAt::Aside => (None, body),
    };
    let rest: Rest = codec::unpack(rest).map_err(|e| corrupt(e.to_string()))?;
    let name = |e: crate::task::NameError| corrupt(e.to_string());
    Ok(TaskView {
        tenant: tenant.clone(),
        task: task.clone(),
        agent: AgentName::new(header.agent).map_err(name)?,
        state: header.state,
        rev: header.rev,
        priority: rest.priority,
        parent: header.parent.map(TaskId::new).transpose().map_err(name)?,
        root: header.root.map_or_else(|| Ok(task.clone()), TaskId::new).map_err(name)?,
        depth: rest.depth,
        attempt: rest.attempt,
        tries: rest.tries,
        instance: rest.instance,
        created_at: header.created_at,
        not_before: rest.not_before,
        deadline_at: rest.deadline_at,
        started_at: rest.started_at,
        ended_at: (header.ended_at > 0 && !rest.no_end).then_some(header.ended_at),
        refusal: rest.refusal,
        failures: rest.failures,
        retry_of: rest.retry_of,
        last_event: rest.last_event,
        body_hash: rest.body_hash,
        labels: rest.labels,
        result,
    })
}

/// The stored form of a result.
pub fn encode_result(result: &Payload) -> Bytes {
    codec::pack(result)
}

/// Decodes a stored result.
pub fn decode_result(stored: &[u8]) -> Result<Payload, StoreError> {
    codec::unpack(stored).map_err(|e| StoreError::Corrupt(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Code;

    fn view(task: &str, root: &str, state: Phase) -> TaskView {
        TaskView {
            tenant: TenantName::new("acme").unwrap(),
            task: TaskId::new(task).unwrap(),
            agent: AgentName::new("reader").unwrap(),
            state,
            rev: 7,
            priority: Priority::High,
            parent: (root != task).then(|| TaskId::new(root).unwrap()),
            root: TaskId::new(root).unwrap(),
            depth: 1,
            attempt: 3,
            tries: 2,
            instance: Some(InstanceId::new("i-1").unwrap()),
            created_at: 1_800_000_000_000,
            not_before: Some(1_800_000_000_003),
            deadline_at: Some(1_800_000_000_004),
            started_at: Some(1_800_000_000_001),
            ended_at: state.is_terminal().then_some(1_800_000_000_002),
            refusal: Some(Refusal::over(Code::TooLarge, "big", 2, 1)),
            failures: vec![TryFailure { attempt: 1, at: 5, code: Code::LeaseLost, message: "gone".into() }],
            retry_of: Some(TaskId::new("dead").unwrap()),
            last_event: 9,
            body_hash: Some(BodyHash([5; 16])),
            labels: Labels::from_iter([("team", "search")]),
            result: None,
        }
    }

    #[test]
    fn a_record_tells_the_whole_view_again() {
        let mut out = Vec::new();
        let bare = TaskView {
            ended_at: None,
            refusal: None,
            failures: vec![],
            retry_of: None,
            instance: None,
            body_hash: None,
            labels: Labels::new(),
            not_before: None,
            deadline_at: None,
            started_at: None,
            ..view("t", "t", Phase::Completed)
        };
        let deep = TaskView { parent: Some(TaskId::new("p").unwrap()), ..view("t", "r", Phase::Failed) };
        for view in [view("t", "t", Phase::Running), view("t", "r", Phase::Failed), deep, bare] {
            for size in [None, Some(0), Some(MAX_INLINE), Some(MAX_INLINE + 1)] {
                let result = size.map(|n| Payload::Bytes(vec![b'\n'; n].into()));
                encode(&view, result.as_ref().map_or(ResultOf::None, ResultOf::Given), 77, &mut out);
                let inline = result.filter(|r| r.len() <= MAX_INLINE);
                let decode = |with| decode(&view.tenant, &view.task, &out, with).unwrap();
                assert_eq!(decode(false), view);
                assert_eq!(decode(true), TaskView { result: inline, ..view.clone() });
                let (header, _) = split(&out).unwrap();
                let filter = Filter {
                    states: &[view.state],
                    agent: Some(&view.agent),
                    root: Some(&view.root),
                    parent: view.parent.as_ref(),
                    since: Some(view.created_at),
                    until: Some(view.created_at + 1),
                };
                assert!(header.fits(&view.task, &filter));
                assert!(!header.fits(&view.task, &Filter { until: Some(view.created_at), ..filter }));
            }
        }
    }

    #[test]
    fn what_is_no_record_is_named_corrupt() {
        let mut out = Vec::new();
        let view = view("t", "t", Phase::Completed);
        encode(&view, ResultOf::Given(&Payload::default()), 77, &mut out);
        for end in 0..out.len() {
            assert!(decode(&view.tenant, &view.task, &out[..end], true).is_err(), "cut at {end}");
        }
    }
}
