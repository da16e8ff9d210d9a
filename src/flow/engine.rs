//! The owner without its I/O: inputs in, one journal message out, effects after its acknowledgement.
//!
//! ```text
//! push(input) ─▶ queue ─▶ next(): decide, evolve, …, dispatch ─▶ Append(bytes, expected)
//!                                                                   │ PubAck
//! effects (acks, offers, verdicts, hints) ◀── appended(seq) ◀───────┘
//! ```
//!
//! Rule: journal first, effects after. While an append is in flight nothing is decided and nobody is
//! answered, so what leaves here is acknowledged state only. The coordinator's loop and the simulator
//! drive the same engine. `H` is whatever the driver needs to acknowledge an input.

mod calls;
mod effects;
mod index;
mod payloads;
mod queue;
mod replay;
mod take;

use std::collections::BTreeMap;

use bytes::Bytes;

use self::{
    effects::{Batch, ended_views},
    payloads::Waiting,
    queue::{Queue, Queued},
};
pub use self::{index::Touched, payloads::Sizes, queue::Backlog, replay::JournalError};
use super::{
    calls::Calls,
    dirty::Dirty,
    dispatch,
    facts::{Fact, News},
    input::{Decision, Entropy, Input, Tell},
    live::Live,
    operate,
    record::{Hash, JOURNAL_VERSION, JournalMessage, Record},
    schedules, settle,
    snapshot::{self, SnapshotHead, Writing},
    state::{Policy, State},
    tasks::Slot,
    times,
    trigger::Fired,
};
use crate::{
    task::{Millis, Payload, Refusal, TaskKey, Token},
    wire::{api::TaskView, subjects::Shard},
};

/// A journal message is closed at this size, unless one input's records alone are larger.
const MESSAGE_BYTES: usize = 48 * 1024;
/// Room for dispatches behind the inputs of a message: a flood of inputs can't keep slots idle, and as many dispatches fit
/// in as ends can stand before them.
const DISPATCH_BYTES: usize = 48 * 1024;
/// Expiries and starts decided in one message: a mass expiry must not keep slots idle.
const DUE_AT_ONCE: usize = 128;
/// Facts of inputs that left no record, kept for the next message.
const MAX_FACTS: usize = 4_096;

/// What the driver has to do.
#[derive(Debug)]
pub enum Effect<H> {
    /// Acknowledge the input: it is decided.
    Ack(H),
    /// Answer a heartbeat: these leases are over.
    Beat(H, Vec<Token>),
    /// Tell the trigger what became of its message.
    Fired(H, Fired),
    /// Tell somebody.
    Tell(Tell),
    /// The task is over: what is kept of its steps outside of the journal may go.
    DropKept {
        /// Which.
        key: TaskKey,
    },
    /// Read the journal message of this revision and push its payloads back as [`Input::Loaded`].
    Load {
        /// Which.
        rev: u64,
    },
}

/// What comes next.
#[derive(Debug)]
pub enum Next<H> {
    /// Nothing until an input comes or time passes.
    Idle,
    /// Nothing to journal; these effects may go out now.
    Effects(Vec<Effect<H>>),
    /// Append these bytes if the journal's last sequence is `expect`; then call `appended`.
    Append {
        /// One journal message.
        bytes: Bytes,
        /// The sequence of its predecessor on the same subject; 0 if there is none.
        expect: u64,
    },
}

struct Pending<H> {
    hash: Hash,
    news: News,
    effects: Vec<Effect<H>>,
    touched: Vec<Slot>,
    results: Vec<(Slot, Payload)>,
    ended: Vec<(TaskView, Option<Payload>)>,
}

/// See the module.
pub struct Engine<H> {
    state: State,
    live: Live,
    seq: u64,
    queue: Queue<H>,
    /// Reports that came before their predecessors.
    held: BTreeMap<(Token, u32), Queued<H>>,
    waiting: Waiting<H>,
    pending: Option<Pending<H>>,
    /// Of the last acknowledged message.
    news: News,
    /// Of inputs that left no record.
    facts: Vec<Fact>,
    dirty: Dirty,
    calls: Calls,
    /// Of calls: most of what happens to them leaves no record.
    call_facts: Vec<Fact>,
    opening: Option<(String, Policy)>,
    opened: bool,
    keeps_ended: bool,
    ended: Vec<Ended>,
    writing: Option<Writing>,
}

/// A task that has ended, for the archive.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// Stream sequence of the journal message in which it did.
    pub seq: u64,
    /// As it will stay, without its result.
    pub view: TaskView,
    /// Of a completed one.
    pub result: Option<Payload>,
}

impl<H> Engine<H> {
    /// An engine at the start of an empty journal.
    pub fn new(shard: Shard) -> Self {
        Self {
            state: State::new(shard),
            live: Live::default(),
            seq: 0,
            queue: Queue::default(),
            held: BTreeMap::new(),
            waiting: Waiting::default(),
            pending: None,
            news: News::default(),
            facts: Vec::new(),
            dirty: Dirty::default(),
            calls: Calls::default(),
            call_facts: Vec::new(),
            opening: None,
            opened: false,
            keeps_ended: false,
            ended: Vec::new(),
            writing: None,
        }
    }

    /// An engine that goes on from a restored state.
    pub(super) fn restored(state: State, seq: u64) -> Self {
        let shard = state.shard;
        let mut engine = Self { state, seq, ..Self::new(shard) };
        engine.all_dirty_since();
        engine
    }

    /// The state; acknowledged unless [`Engine::is_busy`].
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What was heard.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// What was heard, to pass time or to start listening.
    pub fn live_mut(&mut self) -> &mut Live {
        &mut self.live
    }

    /// Stream sequence of the last acknowledged journal message.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether an append is in flight: the state is ahead of the journal, ask nothing of it.
    pub fn is_busy(&self) -> bool {
        self.pending.is_some()
    }

    /// Inputs waiting, and reports held back.
    pub fn backlog(&self) -> Backlog {
        let (asked, others) = self.queue.waiting();
        Backlog { asked, others, held: self.held.len() }
    }

    /// Starts to own the shard: the next message opens a new epoch.
    pub fn open(&mut self, coordinator: &str, policy: Policy) {
        self.calls.inherit(&self.state, &self.live);
        self.opening = Some((coordinator.to_owned(), policy));
    }

    /// Whether a change of limits is journaled and, if it pauses something, nothing of that is on its way any more. A
    /// refusal: it never will be.
    pub fn is_applied(&mut self, change: &operate::Change) -> Result<bool, Refusal> {
        let applied = operate::is_applied(&self.state, change)?;
        Ok(applied && operate::is_quiet(&self.state, &mut self.live, change))
    }

    /// Whether the task is there and not over. What is kept of its steps must stay then.
    pub fn is_live(&self, key: &TaskKey) -> bool {
        self.state.task(key).is_some_and(|task| !task.phase.is_terminal())
    }

    /// Whether this engine owns its shard: its opening message is acknowledged.
    pub fn is_open(&self) -> bool {
        self.opened
    }

    /// Queues an input. The handle comes back in an effect once it is decided and journaled.
    pub fn push(&mut self, input: Input, handle: Option<H>) {
        match input {
            Input::Room { used, max } => self.room(used, max),
            _ => self.queue.push(input, handle),
        }
    }

    /// Decides as much as fits into one journal message.
    pub fn next(
        &mut self,
        now: Millis,
        wall: Millis,
        entropy: &mut dyn Entropy,
    ) -> Result<Next<H>, JournalError> {
        if self.pending.is_some() {
            return Ok(Next::Idle);
        }
        let mut batch = Batch::new(&self.state, now, wall);
        self.state.advance(batch.at.now, batch.at.wall);
        self.calls.pass(batch.at.now);
        if let Some((coordinator, policy)) = self.opening.take() {
            batch.at.epoch += 1;
            self.apply(Decision::record(Record::Opened { coordinator, policy }), &mut batch)?;
        }
        for record in self.calls.refill(&self.state) {
            self.apply(Decision::record(record), &mut batch)?;
        }
        while !batch.is_full()
            && let Some(Queued { input, handle }) = self.queue.pop()
        {
            self.take(input, handle, &mut batch, entropy)?;
        }
        self.pass_times(&mut batch, entropy)?;
        for _ in 0..DUE_AT_ONCE {
            if batch.is_full() {
                break;
            }
            let Some(records) = schedules::due(&self.state, self.live.announcements()) else { break };
            self.apply(Decision { records, ..Decision::none() }, &mut batch)?;
        }
        let due = settle::due(&self.state, &mut self.live, entropy);
        if !due.records.is_empty() {
            self.apply(due, &mut batch)?;
            // What comes back into its queue may be over by now.
            self.pass_times(&mut batch, entropy)?;
        }
        if !self.calls.is_idle() {
            self.pass_calls(&mut batch)?;
        }
        let full = batch.bytes + DISPATCH_BYTES;
        while batch.bytes < full
            && let Some(record) = dispatch::next(&self.state, &mut self.live, entropy)
        {
            self.apply(Decision::record(record), &mut batch)?;
        }
        for token in self.live.resend(256) {
            self.offer(&token, &mut batch);
        }
        self.ask_again(&mut batch);
        Ok(self.close(batch))
    }

    /// What a time ends or starts, one by one: the end of a tree changes what else is due.
    fn pass_times(&mut self, batch: &mut Batch<H>, entropy: &mut dyn Entropy) -> Result<(), JournalError> {
        for _ in 0..DUE_AT_ONCE {
            let Some(record) = times::due(&self.state, entropy) else { break };
            self.apply(Decision::record(record), batch)?;
        }
        Ok(())
    }

    fn close(&mut self, mut batch: Batch<H>) -> Next<H> {
        if batch.records.is_empty() {
            let room = MAX_FACTS.saturating_sub(self.facts.len());
            self.facts.extend(batch.facts.into_iter().take(room));
            return if batch.effects.is_empty() { Next::Idle } else { Next::Effects(batch.effects) };
        }
        batch.facts.append(&mut self.facts);
        let records = batch.records.len() as u64;
        let message = JournalMessage {
            v: JOURNAL_VERSION,
            shard: self.state.shard,
            rev: batch.at.rev,
            epoch: batch.at.epoch,
            prev: self.state.head,
            now: batch.at.now,
            wall: batch.at.wall,
            records: batch.records,
        };
        let bytes = message.encode();
        self.pending = Some(Pending {
            hash: Hash::of(&bytes),
            news: News { records, bytes: bytes.len() as u64, facts: batch.facts },
            effects: batch.effects,
            touched: batch.touched,
            results: batch.results,
            ended: batch.ended,
        });
        Next::Append { bytes, expect: self.seq }
    }

    /// The append was acknowledged at `seq`: what it holds is true now, and may be told.
    pub fn appended(&mut self, seq: u64) -> Vec<Effect<H>> {
        let Some(pending) = self.pending.take() else { return Vec::new() };
        self.seq = seq;
        self.state.head = pending.hash;
        self.news = pending.news;
        for slot in pending.touched {
            self.dirty.touch(seq, slot);
        }
        for (slot, result) in pending.results {
            self.dirty.result(seq, slot, result);
        }
        self.ended.extend(pending.ended.into_iter().map(|(view, result)| Ended { seq, view, result }));
        let mut effects = pending.effects;
        if !self.opened {
            self.opened = true;
            self.inherit(&mut effects);
        }
        effects
    }

    /// What the last acknowledged message did, for metrics; once.
    pub fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Starts a snapshot of the state as it is now. Call only while nothing is in flight.
    pub fn begin_snapshot(&mut self) -> SnapshotHead {
        let (head, writing) = snapshot::begin(&mut self.state, self.seq);
        self.writing = Some(writing);
        head
    }

    /// The next part of the snapshot, of about `max_bytes`; `None` when it is complete, or none was begun.
    pub fn snapshot_part(&mut self, max_bytes: usize) -> Option<Bytes> {
        let part = self.writing.as_mut()?.part(&mut self.state, max_bytes);
        if part.is_none() {
            self.writing = None;
        }
        part
    }

    /// Gives the snapshot up.
    pub fn abort_snapshot(&mut self) {
        self.writing = None;
        self.state.tasks.end_copy();
    }

    /// From now on every task that ends is kept for [`Engine::take_ended`].
    pub fn keep_ended(&mut self) {
        self.keeps_ended = true;
    }

    /// Tasks that ended in acknowledged messages since this was asked last, in that order. Also of a replay.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }
}
