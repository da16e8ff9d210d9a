//! The messages of a task's way. Unknown fields are skipped, missing optional ones defaulted.
//!
//! Tenant, agent, task and instance come from the subject, never from a body; but what an owner tells an instance, and an
//! instance reports of several tasks at once, names the tasks, each with the secret of its lease.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    VERSION,
    about::About,
    calls::{Call, CallOver, HeldCall},
    codec,
    history::{Mail, Step},
};
use crate::task::{
    AgentName, Code, InstanceId, Labels, Millis, Outcome, Payload, Phase, Priority, Refusal, Spec, TaskId,
    TaskKey, TenantName, Times, Token,
};

fn version() -> u32 {
    VERSION
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// `sv.submit.<tenant>.<agent>.<task>`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submit {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// Opaque to the coordinator.
    #[serde(default)]
    pub input: Payload,
    /// Class within the tenant.
    #[serde(default)]
    pub priority: Priority,
    /// See [`Spec::max_tries`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tries: Option<u32>,
    /// See [`Spec::times`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Box<Times>>,
    /// See [`Spec::cost`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// See [`Spec::labels`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Box<Labels>>,
    /// When this id was first tried, Unix milliseconds; the time of storage if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_try: Option<Millis>,
    /// Ask for a hint on `sv.done` at admission too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirm: bool,
    /// Triggers that lie behind the task that submits it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hops: u32,
}

impl Submit {
    /// The spec this submit asks for, given the agent from the subject.
    pub fn into_spec(self, agent: AgentName) -> Spec {
        Spec {
            agent,
            input: self.input,
            priority: self.priority,
            max_tries: self.max_tries,
            times: self.times,
            cost: self.cost,
            labels: self.labels,
        }
    }
}

/// Submits in one message, at most.
pub const MAX_SUBMITS: usize = 256;

/// `sv.submits.<tenant>`: several tasks in one message, each decided as if it had come alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submits {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// At least one, at most [`MAX_SUBMITS`].
    #[serde(deserialize_with = "crate::task::grown")]
    pub tasks: Vec<TaskSubmit>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSubmit {
    /// Whom it is for.
    pub agent: AgentName,
    /// Its id, unique within the tenant.
    pub task: TaskId,
    /// What the message of a single one says.
    pub submit: Submit,
}

/// `sv.cmd.<tenant>.<task>.<nonce>`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cmd {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// What to do.
    pub op: CmdOp,
}

/// A command to a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CmdOp {
    /// Cancel the task and everything below it.
    Cancel {
        /// For people; cut to 512 bytes.
        #[serde(default)]
        reason: String,
    },
    /// Submit the dead task again, as a new task linked to it.
    Retry {},
    /// Stop the task's whole tree: nothing of it runs until it is resumed. No try is lost.
    Pause {},
    /// Let the task's tree go on.
    Resume {},
    /// Put a message into the task's mailbox.
    Tell {
        /// Its name, of a signal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
        /// Opaque.
        #[serde(default)]
        message: Payload,
        /// Who says it, as the sender says; cut to 128 bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
}

/// `sv.beat.<agent>.<instance>`: one heartbeat for the whole instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// How many attempts it runs at once.
    pub slots: u32,
    /// The leases it holds, until each one's verdict.
    #[serde(deserialize_with = "crate::task::grown", default)]
    pub tokens: Vec<Token>,
    /// Lease length it asks for, in milliseconds; heartbeats come every third of it.
    #[serde(default = "default_lease")]
    pub lease_ms: Millis,
    /// It takes no new work.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// It understands messages on its `ctl` subject; without it, it is told none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub messages: bool,
    /// The calls it runs. Present, even if empty: it takes calls; absent: it is given none.
    #[serde(default, deserialize_with = "crate::task::grown_some", skip_serializing_if = "Option::is_none")]
    pub calls: Option<Vec<HeldCall>>,
    /// How many tasks it takes beyond its slots, because they are short: they wait there for a handler to end.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ahead: u32,
    /// What it says about itself: with its first heartbeat, to each new owner, and now and then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<Box<About>>,
    /// How many of its slots take calls only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub call_slots: u32,
}

/// Lease length if an agent says nothing, in milliseconds.
pub const DEFAULT_LEASE_MS: Millis = 15_000;

fn default_lease() -> Millis {
    DEFAULT_LEASE_MS
}

/// The answer to a heartbeat sent as a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BeatReply {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// The owner's epoch.
    pub epoch: u64,
    /// Leases that are over: stop working on them.
    #[serde(deserialize_with = "crate::task::grown", default)]
    pub stop: Vec<Token>,
}

/// `sv.offer.<agent>.<instance>`: run these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offers {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// The owner's epoch; lower than one seen: ignore.
    pub epoch: u64,
    /// At least one.
    #[serde(deserialize_with = "crate::task::grown")]
    pub offers: Vec<Offer>,
}

/// Run this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// Whose task.
    pub tenant: TenantName,
    /// Which task.
    pub task: TaskId,
    /// Fencing number, +1 per dispatch.
    pub attempt: u32,
    /// The lease.
    pub token: Token,
    /// Length of the lease in milliseconds.
    pub lease_ms: Millis,
    /// Tries lost so far.
    #[serde(default)]
    pub tries: u32,
    /// The task it was spawned by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// The root of its tree (itself for a root).
    pub root: TaskId,
    /// 0 for a root.
    #[serde(default)]
    pub depth: u32,
    /// How many children it has; fetch them with `sv.api.<tenant>.children`.
    #[serde(default)]
    pub children: u32,
    /// How many steps it has recorded; fetch them with `sv.api.<tenant>.history`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub recorded: u32,
    /// How many messages were told to it so far; fetch them there, too.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub told: u32,
    /// When the task expires, whatever it does then, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<Millis>,
    /// How long this attempt may go on from now, in milliseconds: until the deadline, or the end of the try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_left_ms: Option<Millis>,
    /// Triggers that lie behind it: what it publishes and submits says so.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hops: u32,
    /// Opaque.
    #[serde(default)]
    pub input: Payload,
}

/// `sv.accept.<agent>.<instance>`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Accept {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// Offers taken.
    #[serde(deserialize_with = "crate::task::grown", default)]
    pub taken: Vec<Token>,
    /// Offers beyond the slots, or while draining: give them to somebody else.
    #[serde(deserialize_with = "crate::task::grown", default, skip_serializing_if = "Vec::is_empty")]
    pub busy: Vec<Token>,
    /// Calls whose handlers are gone, however they ended.
    #[serde(deserialize_with = "crate::task::grown", default, skip_serializing_if = "Vec::is_empty")]
    pub over: Vec<CallOver>,
}

/// `sv.report.<tenant>.<task>`: what a running attempt tells the coordinator, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// The lease.
    pub token: Token,
    /// The attempt the lease is for.
    pub attempt: u32,
    /// Who runs it.
    pub agent: AgentName,
    /// Which process.
    pub instance: InstanceId,
    /// 1, 2, … per lease.
    pub n: u32,
    /// What happened.
    pub op: ReportOp,
}

/// Reports in one message, at most.
pub const MAX_REPORTS: usize = 256;

/// `sv.reports.<agent>.<instance>`: what several of an instance's attempts say, in one message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reports {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// At least one, at most [`MAX_REPORTS`].
    #[serde(deserialize_with = "crate::task::grown")]
    pub reports: Vec<TaskReport>,
}

impl Reports {
    /// The message of reports that are encoded already, each a [`TaskReport`] in MessagePack; at least one, at most
    /// [`MAX_REPORTS`]. The same bytes as encoding them anew.
    pub fn of_encoded(each: &[Bytes]) -> Bytes {
        let length: usize = each.iter().map(Bytes::len).sum();
        let mut out = Vec::with_capacity(length + 16);
        // A map of two: "v", a small number, and "reports", an array.
        out.extend_from_slice(b"\x82\xa1v");
        codec::pack_into(&VERSION, &mut out);
        out.extend_from_slice(b"\xa7reports");
        match each.len() {
            n if n < 16 => out.push(0x90 | n as u8),
            n => {
                out.push(0xdc);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
        }
        each.iter().for_each(|report| out.extend_from_slice(report));
        out.into()
    }
}

/// One of them. It names its task as the offer did, and counts only with that task's token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Whose task.
    pub tenant: TenantName,
    /// Which task.
    pub task: TaskId,
    /// The lease.
    pub token: Token,
    /// The attempt the lease is for.
    pub attempt: u32,
    /// 1, 2, … per lease.
    pub n: u32,
    /// What happened.
    pub op: ReportOp,
}

impl TaskReport {
    /// As if it had come alone.
    pub fn of(self, v: u32, agent: AgentName, instance: InstanceId) -> (TaskKey, Report) {
        let TaskReport { tenant, task, token, attempt, n, op } = self;
        (TaskKey { tenant, id: task }, Report { v, token, attempt, agent, instance, n, op })
    }
}

/// The content of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportOp {
    /// Children to create or adopt.
    Spawn(Spawn),
    /// What the handler did at one of its places, to be told when it runs again.
    Step(Step),
    /// The attempt is over.
    End(End),
}

/// Children of one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spawn {
    /// Names the place in the handler; with the index it decides the child's id.
    pub step: String,
    /// Index of the first child.
    #[serde(default)]
    pub first: u32,
    /// In order of index.
    #[serde(deserialize_with = "crate::task::grown")]
    pub children: Vec<Spec>,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Number of the attempt's last event, 0 if none: watchers know when they have seen all.
    #[serde(default)]
    pub last_event: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Cells the attempt used; absent: as many as were set aside for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u32>,
}

/// `sv.ctl.<agent>.<instance>`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ctl {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// The owner's epoch; lower than one seen: ignore.
    pub epoch: u64,
    /// What to hear, in order; at least one.
    #[serde(deserialize_with = "crate::task::grown")]
    pub ops: Vec<CtlOp>,
}

/// What an owner tells an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CtlOp {
    /// The answer to a report.
    Verdict(Verdict),
    /// The lease is over: stop, report nothing more.
    Stop {
        /// Which lease.
        token: Token,
        /// `CALL_LOST`, `CALL_TIMEOUT`, `CANCELLED`, `DEADLINE_EXCEEDED`, `LEASE_LOST`, `OFFER_LOST`, `PAUSED`, `STALE_LEASE` or `TRY_TIMEOUT`.
        code: Code,
    },
    /// A message to the task that runs under this lease: only for instances that say that they understand it.
    Message {
        /// Which lease.
        token: Token,
        /// What was told.
        mail: Mail,
    },
    /// Answer this call, to the subject this message is to be replied to: only for instances that say that they take calls,
    /// and alone in its message.
    Call(Box<Call>),
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which lease.
    pub token: Token,
    /// Reports up to here are decided.
    pub n: u32,
    /// Absent if applied, now or before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// For a spawn: the children that were refused, with their ids.
    #[serde(deserialize_with = "crate::task::grown", default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedChild>,
}

/// A child that stays rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedChild {
    /// Its id.
    pub task: TaskId,
    /// Why.
    pub refusal: Refusal,
}

/// `sv.owner.<shard>`: heartbeat now, to me.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnerHello {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// The new epoch.
    pub epoch: u64,
    /// Who, for people.
    pub coordinator: String,
}

/// Results up to this size ride on the hint, in bytes.
pub const MAX_HINT_RESULT: usize = 64 * 1024;

/// `sv.done.<tenant>.<task>`: a hint, at most once; ask `get` to be sure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// Journal revision this state is from.
    pub rev: u64,
    /// The state.
    pub state: Phase,
    /// Why, if it went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// The result, if completed and at most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Payload>,
    /// The attempt that ended it.
    #[serde(default)]
    pub attempt: u32,
    /// Number of its last event.
    #[serde(default)]
    pub last_event: u32,
    /// What the id was submitted with: another hash means your submit was a conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<crate::task::BodyHash>,
    /// Present: what became of the message to the task with this nonce, and no news of the task itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<TaskId>,
}

impl Done {
    /// Says what became of a message, and nothing of the task.
    pub fn answers_a_message(&self) -> bool {
        self.nonce.is_some()
    }

    /// Refuses the one submission that has this body hash, and says nothing of the task with this id.
    pub fn refuses_a_submission(&self) -> bool {
        self.rev == 0 && self.state == Phase::Rejected
    }
}

/// Largest encoded event, in bytes.
pub const MAX_EVENT_BYTES: usize = 16 * 1024;

/// `sv.event.<tenant>.<task>`: progress, a token delta, a log line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// The attempt that emits.
    pub attempt: u32,
    /// 1, 2, … per attempt.
    pub n: u32,
    /// Unix milliseconds, by the instance's clock.
    pub at: Millis,
    /// A word of the agent's choosing: `progress`, `token`, `log`.
    pub kind: String,
    /// Opaque.
    #[serde(default)]
    pub data: Payload,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_put_together_encoded_are_the_message_of_these_reports() {
        for n in [1, 15, 16, MAX_REPORTS] {
            let one = |n: usize| TaskReport {
                tenant: "acme".parse().unwrap(),
                task: format!("t-{n}").parse().unwrap(),
                token: Token(n as u128),
                attempt: 1,
                n: n as u32,
                op: ReportOp::End(End {
                    last_event: 0,
                    outcome: Outcome::Snooze { ms: n as u64 },
                    used: None,
                }),
            };
            let reports: Vec<_> = (0..n).map(one).collect();
            let encoded: Vec<_> = reports.iter().map(codec::pack).collect();
            assert_eq!(Reports::of_encoded(&encoded), codec::pack(&Reports { v: VERSION, reports }));
        }
    }
}
