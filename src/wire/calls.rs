//! The messages of calls: a question to an agent that is answered at once, as a stream, or refused.
//!
//! ```text
//! caller ── CallRequest ─▶ sv.call.<tenant>.<agent> ─▶ owner ── Ctl: Call ─▶ instance
//!    ▲                                                  │ refused              │
//!    └──────────────── CallPart ◀───────────────────────┴──────────────────────┘
//! ```

use serde::{Deserialize, Serialize};

use super::VERSION;
use crate::task::{Millis, Payload, Refusal, TaskId, TenantName, Token, hex};

fn version() -> u32 {
    VERSION
}

/// An instance says that it lives after so long without a part of the answer, in milliseconds.
pub const ALIVE_EVERY_MS: Millis = 2_000;

/// `sv.call.<tenant>.<agent>`, and with `asker` `sv.subcall.<tenant>.<agent>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallRequest {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// Opaque to the coordinator.
    #[serde(default)]
    pub input: Payload,
    /// How long it may take; the plan's limit is never exceeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<Millis>,
    /// The lease, or the call, whose handler asks. Only on `sv.subcall`, and there always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asker: Option<Token>,
}

/// An owner gives a call to an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Whose.
    pub tenant: TenantName,
    /// The right to run it, and to ask for it.
    pub token: Token,
    /// How many askers there are above it; of a call from outside 0.
    #[serde(default)]
    pub depth: u32,
    /// How many triggers lie behind whoever asks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hops: u32,
    /// Whose place in flight it has; absent: one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrows: Option<TaskId>,
    /// How long it may go on from now, in milliseconds.
    pub time_left_ms: Millis,
    /// Whether the caller speaks JSON; else it is MessagePack.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub json: bool,
    /// Opaque.
    #[serde(default)]
    pub input: Payload,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A call in a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldCall {
    /// Whose.
    pub tenant: TenantName,
    /// Which.
    pub token: Token,
    /// See [`Call::depth`].
    #[serde(default)]
    pub depth: u32,
    /// See [`Call::hops`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hops: u32,
    /// See [`Call::borrows`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrows: Option<TaskId>,
}

/// A call whose handler is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallOver {
    /// Which.
    pub token: Token,
    /// Absent: it was answered; else why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<crate::task::Code>,
    /// How long after its arrival the first part of the answer left, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ms: Option<Millis>,
}

/// A part of the answer, to the caller's inbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallPart {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// 1, 2, … of chunks and the end; a sign of life has that of the part before it, and what an owner says 0.
    #[serde(default)]
    pub n: u32,
    /// What it is.
    pub op: PartOp,
}

/// The content of a part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartOp {
    /// More follows.
    Chunk {
        /// A word of the agent's choosing.
        kind: String,
        /// Opaque.
        #[serde(default)]
        data: Payload,
    },
    /// The handler has ended; nothing follows.
    End {
        /// What it returned.
        #[serde(default)]
        result: Payload,
    },
    /// There is no answer, or no more of it; nothing follows.
    Failed(Refusal),
    /// The handler runs and has said nothing for a while.
    Alive {},
}

/// By what a call, or a lease, is known to those who may not have its token.
pub fn public_id(token: &Token) -> TaskId {
    use sha2::{Digest, Sha256};
    let digest = Sha256::new().chain_update(b"call").chain_update(token.0.to_be_bytes()).finalize();
    // Hex digits are a name.
    TaskId::new(hex(&digest[..16])).unwrap_or_else(|_| unreachable!("hex digits are a name"))
}
