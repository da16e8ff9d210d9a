//! What an owner and an instance tell each other: heartbeats, offers, acceptances, and what is to be heard or stopped.

use serde::{Deserialize, Serialize};

use super::{is_zero, version};
use crate::{
    task::{Code, Millis, Payload, Refusal, TaskId, TenantName, Token},
    wire::{
        about::About,
        calls::{Call, CallOver, HeldCall},
        history::Mail,
    },
};

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
