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

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{
    dirty::Dirty,
    dispatch,
    evolve::{At, Changes, Misfit, evolve},
    facts::{self, Fact, News},
    input::{Decision, Entropy, Input, Tell},
    live::Live,
    query,
    record::{Hash, JOURNAL_VERSION, JournalMessage, Record},
    run, settle,
    snapshot::{self, SnapshotHead, Writing},
    state::{Policy, State},
    submit,
};
use crate::{
    task::{AgentName, Code, InstanceId, Millis, Payload, TaskKey, Token},
    wire::{
        api::TaskView,
        messages::{CtlOp, ReportOp},
        subjects::Shard,
    },
};

/// A journal message is closed at this size, unless one input's records alone are larger.
const MESSAGE_BYTES: usize = 48 * 1024;
/// Room for dispatches behind the inputs of a message: a flood of inputs can't keep slots idle.
const DISPATCH_BYTES: usize = 16 * 1024;
/// What a record weighs besides its payload, roughly, encoded.
const RECORD_BYTES: usize = 280;

/// A journal that can't be continued. The shard stops; an operator decides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// A message can't be read, or is from a newer version.
    #[error("JOURNAL_UNREADABLE: shard {shard}, sequence {seq}: {reason}")]
    Unreadable {
        /// Which shard.
        shard: u16,
        /// Which message.
        seq: u64,
        /// Why.
        reason: String,
    },
    /// A message does not follow its predecessor.
    #[error(
        "JOURNAL_GAP: shard {shard}, sequence {seq}: expected revision {expected} after {head}, found {found}: {what}"
    )]
    Gap {
        /// Which shard.
        shard: u16,
        /// Which message.
        seq: u64,
        /// The revision that should have come.
        expected: u64,
        /// The revision that came.
        found: u64,
        /// Hash of the last good message.
        head: String,
        /// What does not fit.
        what: &'static str,
    },
    /// The journal ends before what was seen of it.
    #[error(
        "JOURNAL_REGRESSED: shard {shard} ends at sequence {head}, but {witness} was seen; restore it, or start a new generation"
    )]
    Regressed {
        /// Which shard.
        shard: u16,
        /// Where it ends.
        head: u64,
        /// What a witness saw.
        witness: u64,
    },
    /// A record does not fit the state.
    #[error("JOURNAL_MISFIT: shard {shard}, revision {rev}: {misfit}")]
    Misfit {
        /// Which shard.
        shard: u16,
        /// In which message.
        rev: u64,
        /// What does not fit.
        misfit: Misfit,
    },
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Effect<H> {
    /// Acknowledge the input: it is decided.
    Ack(H),
    /// Answer a heartbeat: these leases are over.
    Beat(H, Vec<Token>),
    /// Tell somebody.
    Tell(Tell),
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
    touched: Vec<TaskKey>,
    results: Vec<(TaskKey, Payload)>,
    ended: Vec<(TaskView, Option<Payload>)>,
}

struct Queued<H> {
    input: Input,
    handle: Option<H>,
}

/// See the module.
pub struct Engine<H> {
    state: State,
    live: Live,
    seq: u64,
    queue: VecDeque<Queued<H>>,
    /// Heartbeats and acceptances, looked at first: behind a long queue they would come too late.
    vital: VecDeque<Queued<H>>,
    /// Reports that came before their predecessors.
    held: BTreeMap<(Token, u32), Queued<H>>,
    pending: Option<Pending<H>>,
    /// Of the last acknowledged message.
    news: News,
    dirty: Dirty,
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
            queue: VecDeque::new(),
            vital: VecDeque::new(),
            held: BTreeMap::new(),
            pending: None,
            news: News::default(),
            dirty: Dirty::default(),
            opening: None,
            opened: false,
            keeps_ended: false,
            ended: Vec::new(),
            writing: None,
        }
    }

    /// An engine that goes on from a restored state.
    pub(super) fn restored(state: State, seq: u64) -> Self {
        let mut dirty = Dirty::default();
        // Which of them the index has is not in a snapshot: all are dirty until it says up to where it has come. A
        // revision's sequence is at most what it would be without gaps between it and the head.
        let mut tasks: Vec<(u64, &TaskKey)> = state.tasks.iter().map(|(key, task)| (task.rev, key)).collect();
        tasks.sort();
        for (rev, key) in tasks {
            dirty.touch(seq.saturating_sub(state.rev.saturating_sub(rev)), key.clone());
        }
        dirty.drop_results();
        let shard = state.shard;
        Self { state, seq, dirty, ..Self::new(shard) }
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
    pub fn backlog(&self) -> (usize, usize) {
        (self.queue.len() + self.vital.len(), self.held.len())
    }

    /// What the index does not show yet.
    pub fn dirty_mut(&mut self) -> &mut Dirty {
        &mut self.dirty
    }

    /// Every task is dirty, for an index that has to be made anew.
    pub fn touch_all(&mut self) {
        let mut keys: Vec<TaskKey> = self.state.tasks().iter().map(|(key, _)| key.clone()).collect();
        keys.sort();
        self.dirty.restart(keys);
    }

    /// Applies a message read from the journal. What it touches is dirty until the index says otherwise.
    pub fn replay(&mut self, seq: u64, bytes: &[u8]) -> Result<(), JournalError> {
        let shard = self.state.shard.0;
        let message = JournalMessage::decode(bytes).map_err(|reason| JournalError::Unreadable {
            shard,
            seq,
            reason,
        })?;
        let gap = |what| JournalError::Gap {
            shard,
            seq,
            expected: self.state.rev + 1,
            found: message.rev,
            head: self.state.head.to_string(),
            what,
        };
        if message.shard != self.state.shard {
            return Err(gap("the message is another shard's"));
        }
        if message.rev != self.state.rev + 1 {
            return Err(gap("the revision does not follow"));
        }
        if message.prev != self.state.head {
            return Err(gap("the hash of the predecessor differs"));
        }
        if message.epoch < self.state.epoch {
            return Err(gap("the epoch goes back"));
        }
        let at = At { now: message.now, wall: message.wall, rev: message.rev, epoch: message.epoch };
        self.state.advance(message.now, message.wall);
        for record in &message.records {
            let changes = evolve(&mut self.state, record, at).map_err(|misfit| JournalError::Misfit {
                shard,
                rev: message.rev,
                misfit,
            })?;
            if self.keeps_ended {
                let ended = views(&self.state, &changes);
                self.ended.extend(ended.map(|(view, result)| Ended { seq, view, result }));
            }
            changes.touched.into_iter().for_each(|key| self.dirty.touch(seq, key));
            if let Some((key, result)) = changes.result {
                self.dirty.result(seq, key, result);
            }
        }
        self.state.head = Hash::of(bytes);
        self.seq = seq;
        Ok(())
    }

    /// Starts to own the shard: the next message opens a new epoch.
    pub fn open(&mut self, coordinator: &str, policy: Policy) {
        self.opening = Some((coordinator.to_owned(), policy));
    }

    /// Whether this engine owns its shard: its opening message is acknowledged.
    pub fn is_open(&self) -> bool {
        self.opened
    }

    /// Queues an input. The handle comes back in an effect once it is decided and journaled.
    pub fn push(&mut self, input: Input, handle: Option<H>) {
        let queue = match input {
            Input::Beat { .. } | Input::Accept { .. } => &mut self.vital,
            _ => &mut self.queue,
        };
        queue.push_back(Queued { input, handle });
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
        if let Some((coordinator, policy)) = self.opening.take() {
            batch.at.epoch += 1;
            self.apply(Decision::record(Record::Opened { coordinator, policy }), &mut batch)?;
        }
        while !batch.is_full()
            && let Some(Queued { input, handle }) = self.vital.pop_front().or_else(|| self.queue.pop_front())
        {
            self.take(input, handle, &mut batch, entropy)?;
        }
        let due = settle::due(&self.state, &mut self.live, entropy);
        self.apply(due, &mut batch)?;
        let full = batch.bytes.max(MESSAGE_BYTES - DISPATCH_BYTES) + DISPATCH_BYTES;
        while batch.bytes < full
            && let Some(record) = dispatch::next(&self.state, &self.live, entropy)
        {
            self.apply(Decision::record(record), &mut batch)?;
        }
        for token in self.live.resend(256) {
            if let Some(tell) = self.offer_of(&token) {
                batch.effects.push(Effect::Tell(tell));
            }
        }
        Ok(self.close(batch))
    }

    fn close(&mut self, batch: Batch<H>) -> Next<H> {
        if batch.records.is_empty() {
            return if batch.effects.is_empty() { Next::Idle } else { Next::Effects(batch.effects) };
        }
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
        for key in pending.touched {
            self.dirty.touch(seq, key);
        }
        for (key, result) in pending.results {
            self.dirty.result(seq, key, result);
        }
        self.ended.extend(pending.ended.into_iter().map(|(view, result)| Ended { seq, view, result }));
        let mut effects = pending.effects;
        if !self.opened {
            self.opened = true;
            effects.extend(self.inherit().into_iter().map(Effect::Tell));
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

    /// The lowest journal revision that holds a payload still needed; `None`: no payload is.
    pub fn needed_from(&self) -> Option<u64> {
        None
    }

    /// Journal revisions below `rev` that hold a payload still needed, lowest first, at most `max`.
    pub fn needed_below(&self, rev: u64, max: usize) -> Vec<u64> {
        let _ = (rev, max);
        Vec::new()
    }

    /// From now on every task that ends is kept for [`Engine::take_ended`].
    pub fn keep_ended(&mut self) {
        self.keeps_ended = true;
    }

    /// Tasks that ended in acknowledged messages since this was asked last, in that order. Also of a replay.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }

    /// Takes over the live leases: their offers are sent again, under the new epoch.
    fn inherit(&mut self) -> Vec<Tell> {
        let mut tokens: Vec<Token> = self.state.live_leases().map(|(token, _)| *token).collect();
        tokens.sort();
        for token in &tokens {
            if let Some((_, task)) = self.state.leased(token)
                && let Some(lease) = &task.lease
            {
                // Granted by this very message: known already.
                if !self.live.holds(token, &task.spec.agent, &lease.instance) {
                    let (agent, instance) = (task.spec.agent.clone(), lease.instance.clone());
                    self.live.granted(*token, &agent, &instance, lease.lease_ms, true);
                }
            }
        }
        tokens.iter().filter_map(|token| self.offer_of(token)).collect()
    }

    fn offer_of(&self, token: &Token) -> Option<Tell> {
        let (key, task) = self.state.leased(token)?;
        let lease = task.lease.as_ref()?;
        let offer = dispatch::offer(&self.state, key)?;
        Some(Tell::Offer {
            agent: task.spec.agent.clone(),
            instance: lease.instance.clone(),
            offer: Box::new(offer),
        })
    }

    /// Decides one input.
    fn take(
        &mut self,
        input: Input,
        handle: Option<H>,
        batch: &mut Batch<H>,
        entropy: &mut dyn Entropy,
    ) -> Result<(), JournalError> {
        let decision = match &input {
            Input::Submit { .. } | Input::Cmd { .. } => {
                if let Input::Submit { stored_at, .. } = &input {
                    batch.facts.push(Fact::Decided(batch.at.wall.saturating_sub(*stored_at)));
                }
                submit::decide(&self.state, &input)
            }
            Input::Report { body, .. } => {
                let decision = run::decide(&self.state, &input, entropy);
                if let Ok(report) = body {
                    if decision.hold {
                        // Who reported keeps it until the verdict: the stream need not keep it too.
                        batch.effects.extend(handle.map(Effect::Ack));
                        self.held.insert((report.token, report.n), Queued { input, handle: None });
                        return Ok(());
                    }
                    if matches!(report.op, ReportOp::End(_)) {
                        // Whatever became of it, its slot is free now.
                        self.live.let_go(&report.agent, &report.instance, report.token);
                    }
                    self.live.accepted(&report.agent, &report.instance, &[report.token]);
                    self.unhold(report.token, report.n);
                }
                decision
            }
            Input::Beat { agent, instance, body } => {
                let state = &self.state;
                let stop = self.live.beat(agent, instance, body, |token| state.leased(token).is_some());
                match handle {
                    Some(handle) => batch.effects.push(Effect::Beat(handle, stop)),
                    None => {
                        for token in stop {
                            let op = CtlOp::Stop { token, code: Code::StaleLease };
                            let (agent, instance) = (agent.clone(), instance.clone());
                            batch.effects.push(Effect::Tell(Tell::Ctl { agent, instance, op }));
                        }
                    }
                }
                return Ok(());
            }
            Input::Accept { agent, instance, body } => {
                self.live.accepted(agent, instance, &body.taken);
                self.busy(agent, instance, &body.busy)
            }
            Input::Plan { name, plan, kv_rev } => {
                let known = self.state.plans.get(name);
                match known {
                    Some((_, rev)) if rev >= kv_rev => Decision::none(),
                    _ => Decision::record(Record::PlanSet {
                        name: name.clone(),
                        plan: plan.clone(),
                        kv_rev: *kv_rev,
                    }),
                }
            }
            Input::Loaded { .. } | Input::Carry { .. } | Input::Room { .. } => Decision::none(),
            Input::Tenant { name, settings, kv_rev } => match self.state.tenant(name) {
                Some(tenant) if tenant.kv_rev >= *kv_rev => Decision::none(),
                _ => Decision::record(Record::TenantSet {
                    name: name.clone(),
                    settings: settings.clone(),
                    kv_rev: *kv_rev,
                }),
            },
        };
        self.apply(decision, batch)?;
        batch.effects.extend(handle.map(Effect::Ack));
        Ok(())
    }

    /// A report was looked at: the one that waited for it may go.
    fn unhold(&mut self, token: Token, n: u32) {
        if let Some(next) = self.held.remove(&(token, n + 1)) {
            self.queue.push_front(next);
        }
    }

    /// Offers an instance declined.
    fn busy(&mut self, agent: &AgentName, instance: &InstanceId, tokens: &[Token]) -> Decision {
        let mut decision = Decision::none();
        for token in tokens {
            // One that was accepted is at work: an older answer has come late.
            if !self.live.holds(token, agent, instance) || self.live.is_accepted(token) {
                continue;
            }
            let Some((key, _)) = self.state.leased(token) else { continue };
            let (key, token) = (key.clone(), *token);
            decision.records.push(Record::Withdrawn { key, token, vanished: false, failure: None });
        }
        if !decision.records.is_empty() {
            self.live.suspect(agent, instance);
        }
        decision
    }

    /// Evolves by a decision's records and derives their effects.
    fn apply(&mut self, decision: Decision, batch: &mut Batch<H>) -> Result<(), JournalError> {
        for record in decision.records {
            let lease = facts::lease_before(&self.state, &record);
            let changes = evolve(&mut self.state, &record, batch.at).map_err(|misfit| {
                JournalError::Misfit { shard: self.state.shard.0, rev: batch.at.rev, misfit }
            })?;
            facts::of(&self.state, &record, &changes, lease, &mut batch.facts);
            self.effects(&record, changes, batch);
            batch.bytes += weight(&record);
            batch.records.push(record);
        }
        batch.effects.extend(decision.answers.into_iter().map(Effect::Tell));
        Ok(())
    }

    fn effects(&mut self, record: &Record, changes: Changes, batch: &mut Batch<H>) {
        match record {
            Record::Dispatched { token, instance, lease_ms, key, .. } => {
                if let Some(task) = self.state.task(key) {
                    let agent = task.spec.agent.clone();
                    self.live.granted(*token, &agent, instance, *lease_ms, false);
                }
                batch.effects.extend(self.offer_of(token).map(Effect::Tell));
            }
            Record::Ended { token, .. } => {
                self.live.ended(*token, true);
                self.drop_held(*token);
            }
            _ => {}
        }
        if self.keeps_ended {
            batch.ended.extend(views(&self.state, &changes));
        }
        for (token, agent, instance, code) in changes.revoked {
            self.live.ended(token, false);
            if matches!(record, Record::Withdrawn { vanished: true, .. }) {
                self.live.suspect(&agent, &instance);
            }
            if matches!(record, Record::Withdrawn { vanished: false, .. }) {
                self.live.let_go(&agent, &instance, token);
            }
            self.drop_held(token);
            let op = CtlOp::Stop { token, code };
            batch.effects.push(Effect::Tell(Tell::Ctl { agent, instance, op }));
        }
        for key in &changes.ended {
            if let Some(task) = self.state.task(key) {
                let result = changes.result.as_ref().filter(|(k, _)| k == key).map(|(_, r)| r);
                let done = Box::new(query::end_hint(task, result));
                batch.effects.push(Effect::Tell(Tell::Done { key: key.clone(), done }));
            }
        }
        batch.touched.extend(changes.touched);
        batch.results.extend(changes.result);
    }

    /// Reports held for a lease that is over are decided now: they are stale.
    fn drop_held(&mut self, token: Token) {
        let range = (token, 0)..=(token, u32::MAX);
        let keys: Vec<_> = self.held.range(range).map(|(k, _)| *k).collect();
        for key in keys {
            if let Some(queued) = self.held.remove(&key) {
                self.queue.push_back(queued);
            }
        }
    }
}

/// What just ended, as it will stay.
fn views(state: &State, changes: &Changes) -> impl Iterator<Item = (TaskView, Option<Payload>)> {
    changes.ended.iter().filter_map(|key| {
        let view = TaskView { result: None, ..query::view(key, state.task(key)?)? };
        let result =
            changes.result.as_ref().filter(|(ended, _)| ended == key).map(|(_, result)| result.clone());
        Some((view, result))
    })
}

/// Roughly how many bytes a record takes in the journal.
fn weight(record: &Record) -> usize {
    let payload = match record {
        Record::Submitted { admission, .. } => admission.spec.input.len(),
        Record::Spawned { children, .. } => {
            children.iter().map(|c| c.spec.input.len() + RECORD_BYTES).sum::<usize>()
        }
        Record::Ended { outcome: crate::task::Outcome::Completed { result }, .. } => result.len(),
        Record::Carried { payload, .. } => payload.len(),
        _ => 0,
    };
    RECORD_BYTES + payload
}

struct Batch<H> {
    at: At,
    records: Vec<Record>,
    effects: Vec<Effect<H>>,
    facts: Vec<Fact>,
    touched: Vec<TaskKey>,
    results: Vec<(TaskKey, Payload)>,
    ended: Vec<(TaskView, Option<Payload>)>,
    bytes: usize,
}

impl<H> Batch<H> {
    fn new(state: &State, now: Millis, wall: Millis) -> Self {
        let at = At { now: now.max(state.clock_now()), wall, rev: state.rev + 1, epoch: state.epoch };
        Self {
            at,
            records: Vec::new(),
            effects: Vec::new(),
            facts: Vec::new(),
            touched: Vec::new(),
            results: Vec::new(),
            ended: Vec::new(),
            bytes: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= MESSAGE_BYTES
    }
}
