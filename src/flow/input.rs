//! What reaches the owner, and what `decide` answers.

use crate::{
    task::{
        AgentName, AgentSettings, AllSettings, BodyHash, Code, InstanceId, Millis, Payload, Phase, Plan,
        PlanName, Refusal, ScheduleName, ScheduleSettings, Spec, TaskId, TaskKey, TenantName, TenantSettings,
        Token,
    },
    wire::{
        VERSION,
        calls::{Call, CallRequest},
        codec::DecodeError,
        messages::{Accept, Beat, Cmd, CtlOp, Done, Offer, Report, Submit},
    },
};

use std::sync::Arc;

use super::{
    announced::Announced,
    calls::ReplyTo,
    record::{Record, What},
};

/// Something that happened outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A submit from INTAKE.
    Submit {
        /// From the subject.
        key: TaskKey,
        /// From the subject.
        agent: AgentName,
        /// The body, or why it can't be read.
        body: Result<Submit, DecodeError>,
        /// When the stream stored it, Unix milliseconds.
        stored_at: Millis,
    },
    /// A task that a trigger makes of a message.
    Triggered {
        /// Whose, and which: derived from the message.
        key: TaskKey,
        /// What it is to do.
        spec: Box<Spec>,
        /// Triggers that lie behind it, this one included.
        hops: u32,
    },
    /// A command from INTAKE.
    Cmd {
        /// From the subject.
        key: TaskKey,
        /// From the subject.
        nonce: TaskId,
        /// The body, or why it can't be read.
        body: Result<Cmd, DecodeError>,
    },
    /// A report from REPORTS.
    Report {
        /// From the subject.
        key: TaskKey,
        /// The body, or why it can't be read.
        body: Result<Report, DecodeError>,
    },
    /// A heartbeat.
    Beat {
        /// From the subject.
        agent: AgentName,
        /// From the subject.
        instance: InstanceId,
        /// The body.
        body: Beat,
    },
    /// What an instance says about itself; it came with a heartbeat, which is looked at first.
    Announced {
        /// From the subject.
        agent: AgentName,
        /// From the subject.
        instance: InstanceId,
        /// What.
        announced: Arc<Announced>,
    },
    /// An acceptance.
    Accept {
        /// From the subject.
        agent: AgentName,
        /// From the subject.
        instance: InstanceId,
        /// The body.
        body: Accept,
    },
    /// A call.
    Call {
        /// From the subject.
        tenant: TenantName,
        /// From the subject.
        agent: AgentName,
        /// From the subject: a handler asks.
        by_handler: bool,
        /// The body, or why it can't be read.
        body: Box<Result<CallRequest, DecodeError>>,
        /// Where it is answered.
        to: ReplyTo,
    },
    /// A plan changed in KV.
    Plan {
        /// Which.
        name: PlanName,
        /// Its limits; absent: removed.
        plan: Option<Plan>,
        /// Revision of the entry.
        kv_rev: u64,
    },
    /// A tenant's settings changed in KV.
    Tenant {
        /// Which.
        name: TenantName,
        /// Its settings; absent: removed.
        settings: Option<TenantSettings>,
        /// Revision of the entry.
        kv_rev: u64,
    },
    /// A schedule changed in KV.
    Schedule {
        /// Which.
        name: ScheduleName,
        /// What it does; absent: removed.
        settings: Option<Box<ScheduleSettings>>,
        /// Revision of the entry.
        kv_rev: u64,
    },
    /// An agent's settings changed in KV.
    Agent {
        /// Which.
        name: AgentName,
        /// Its settings; absent: removed.
        settings: Option<AgentSettings>,
        /// Revision of the entry.
        kv_rev: u64,
    },
    /// What an operator says about everything changed in KV.
    All {
        /// What; as by default if it was removed.
        settings: AllSettings,
        /// Revision of the entry.
        kv_rev: u64,
    },
    /// The payloads of a journal message, as [`Effect::Load`](super::engine::Effect::Load) asked for them.
    Loaded {
        /// Which message.
        rev: u64,
        /// See [`JournalMessage::payloads`](super::record::JournalMessage::payloads).
        payloads: Vec<(TaskKey, What, Payload)>,
    },
    /// The payloads of a journal message that is about to be purged: those still needed are written again.
    Carry {
        /// Which message.
        rev: u64,
        /// See [`JournalMessage::payloads`](super::record::JournalMessage::payloads).
        payloads: Vec<(TaskKey, What, Payload)>,
    },
    /// How full the journal is.
    Room {
        /// Bytes in it.
        used: u64,
        /// Bytes it may have.
        max: u64,
    },
}

/// Random numbers, made at the edge.
pub trait Entropy {
    /// 128 bits nobody can guess.
    fn token(&mut self) -> Token;
    /// Any number, for jitter.
    fn jitter(&mut self) -> u64;
}

/// What is told to the world. Idempotent, and derivable again from the state.
#[derive(Debug, Clone, PartialEq)]
pub enum Tell {
    /// Run this.
    Offer {
        /// To which agent.
        agent: AgentName,
        /// To which instance.
        instance: InstanceId,
        /// What.
        offer: Box<Offer>,
    },
    /// A verdict or a stop.
    Ctl {
        /// To which agent.
        agent: AgentName,
        /// To which instance.
        instance: InstanceId,
        /// What.
        op: CtlOp,
    },
    /// Answer this call.
    Call {
        /// To which agent.
        agent: AgentName,
        /// To which instance.
        instance: InstanceId,
        /// What.
        call: Box<Call>,
        /// The caller's inbox.
        to: String,
    },
    /// A call has no answer, or no more of it.
    CallFailed {
        /// Whom to tell.
        to: ReplyTo,
        /// Why.
        refusal: Refusal,
    },
    /// A hint at the state of a task.
    Done {
        /// Which.
        key: TaskKey,
        /// What.
        done: Box<Done>,
    },
}

/// What `decide` makes of an input.
#[derive(Debug, Default)]
pub struct Decision {
    /// To be journaled, all in one message.
    pub records: Vec<Record>,
    /// To be told once everything decided so far is journaled; not derived from a record.
    pub answers: Vec<Tell>,
    /// It came too early: keep it, unacknowledged, until what it follows has been applied.
    pub hold: bool,
    /// It can't be decided before the payloads of this journal message are in memory: keep it until then.
    pub needs: Option<u64>,
    /// It was refused for this, and nothing else came of it.
    pub garbage: Option<Code>,
}

impl Decision {
    /// Nothing to do.
    pub fn none() -> Self {
        Self::default()
    }

    /// One record.
    pub fn record(record: Record) -> Self {
        Self { records: vec![record], ..Self::default() }
    }

    /// Something that can't be read and that nobody can be told of: counted, not journaled.
    pub fn garbage(code: Code) -> Self {
        Self { garbage: Some(code), ..Self::default() }
    }

    /// A refusal that leaves the task it names alone: journaled first, as all that is said of what the state does not hold.
    /// `submitted` and `nonce` tell whose.
    pub fn refused(
        key: &TaskKey,
        refusal: Refusal,
        submitted: Option<BodyHash>,
        nonce: Option<TaskId>,
    ) -> Self {
        let done = Done {
            v: VERSION,
            rev: 0,
            state: Phase::Rejected,
            refusal: Some(refusal.clone()),
            result: None,
            attempt: 0,
            last_event: 0,
            body_hash: submitted,
            nonce,
        };
        Self {
            records: vec![Record::Refused { key: key.clone(), refusal }],
            answers: vec![Tell::Done { key: key.clone(), done: Box::new(done) }],
            ..Self::default()
        }
    }

    /// One answer.
    pub fn answer(tell: Tell) -> Self {
        Self { answers: vec![tell], ..Self::default() }
    }
}

/// A message that can't be read, as a refusal.
pub fn unreadable(error: &DecodeError) -> Refusal {
    match error {
        DecodeError::TooLarge { actual, limit } => {
            Refusal::over(Code::TooLarge, error.to_string(), *actual as u64, *limit as u64)
        }
        _ => Refusal::new(Code::BadMessage, error.to_string()),
    }
}

/// Refuses protocol versions this crate does not speak.
pub fn check_version(v: u32) -> Result<(), Refusal> {
    if v == crate::wire::VERSION {
        return Ok(());
    }
    let message =
        format!("protocol version {v} is not spoken here; this coordinator speaks {}", crate::wire::VERSION);
    Err(Refusal::over(Code::UnsupportedVersion, message, v.into(), crate::wire::VERSION.into()))
}
