//! A batch of decisions under way: records are applied one by one, and what follows from each is gathered.

use super::{Effect, Engine, JournalError, MESSAGE_BYTES, queue::Queued};
use crate::{
    flow::{
        dispatch::{self, Ready},
        evolve::{At, Changes, evolve},
        facts::{self, Fact},
        input::{Decision, Tell},
        query,
        record::Record,
        state::State,
        tasks::Slot,
    },
    task::{Millis, Payload, TaskKey, Token},
    wire::{api::TaskView, history::Mail, messages::CtlOp},
};

pub(super) struct Batch<H> {
    pub at: At,
    pub records: Vec<Record>,
    pub effects: Vec<Effect<H>>,
    pub facts: Vec<Fact>,
    pub touched: Vec<Slot>,
    pub results: Vec<(Slot, Payload)>,
    pub ended: Vec<(TaskView, Option<Payload>)>,
    pub bytes: usize,
}

impl<H> Batch<H> {
    pub fn new(state: &State, now: Millis, wall: Millis) -> Self {
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

    /// Nothing more is taken in, however much would fit.
    pub fn close(&mut self) {
        self.bytes = self.bytes.max(super::MESSAGE_BYTES);
    }

    pub fn is_full(&self) -> bool {
        self.bytes >= MESSAGE_BYTES
    }
}

/// What just ended, as it will stay.
pub(super) fn ended_views(
    state: &State,
    changes: &Changes,
) -> impl Iterator<Item = (TaskView, Option<Payload>)> {
    changes.ended.iter().filter_map(|slot| {
        let view = TaskView { result: None, ..query::view_at(state, *slot)? };
        let result =
            changes.result.as_ref().filter(|(ended, _)| ended == slot).map(|(_, result)| result.clone());
        Some((view, result))
    })
}

impl<H> Engine<H> {
    /// Evolves by a decision's records and derives their effects.
    pub(super) fn apply(&mut self, decision: Decision, batch: &mut Batch<H>) -> Result<(), JournalError> {
        for record in decision.records {
            let lease = facts::lease_before(&self.state, &record);
            let changes = evolve(&mut self.state, &record, batch.at).map_err(|misfit| {
                JournalError::Misfit { shard: self.state.shard.0, rev: batch.at.rev, misfit }
            })?;
            self.forget_gone();
            facts::of(&self.state, &record, &changes, lease, &mut batch.facts);
            self.effects(&record, changes, batch);
            batch.bytes += record.weight();
            batch.records.push(record);
        }
        batch.facts.extend(decision.garbage.map(Fact::Refused));
        batch.effects.extend(decision.answers.into_iter().map(Effect::Tell));
        Ok(())
    }

    fn effects(&mut self, record: &Record, changes: Changes, batch: &mut Batch<H>) {
        match record {
            Record::Dispatched { token, instance, lease_ms, .. } => {
                if let Some(task) = self.state.leased(token) {
                    let agent = self.state.agent_of(task);
                    self.live.granted(*token, agent, instance, *lease_ms, false);
                }
                self.offer(token, batch);
            }
            Record::Told { key, seq, message, .. } => self.told(key, *seq, message, batch),
            Record::Ended { token, .. } => {
                self.live.ended(*token, true);
                self.drop_held(*token);
                self.asker_over(token, batch);
            }
            Record::TenantSet { .. } | Record::AgentSet { .. } | Record::AllSet { .. } => {
                self.stop_calls(record, batch);
            }
            _ => {}
        }
        if self.keeps_ended {
            batch.ended.extend(ended_views(&self.state, &changes));
        }
        for revoked in changes.revoked {
            let (token, agent, instance) = (revoked.token, revoked.agent, revoked.instance);
            self.live.ended(token, false);
            if matches!(record, Record::Withdrawn { vanished: true, .. }) {
                self.live.suspect(&agent, &instance);
            }
            if matches!(record, Record::Withdrawn { vanished: false, .. }) {
                self.live.let_go(&agent, &instance, token);
            }
            self.drop_held(token);
            self.asker_over(&token, batch);
            let op = CtlOp::Stop { token, code: revoked.code };
            batch.effects.push(Effect::Tell(Tell::Ctl { agent, instance, op }));
        }
        for slot in &changes.ended {
            let Some(task) = self.state.tasks.get(*slot) else { continue };
            let result = changes.result.as_ref().filter(|(ended, _)| ended == slot).map(|(_, result)| result);
            let done = Box::new(query::end_hint(task, result));
            batch.effects.push(Effect::Tell(Tell::Done { key: self.state.key_of(task), done }));
        }
        let over = changes.kept.iter().filter_map(|slot| self.state.tasks.get(*slot));
        batch.effects.extend(over.map(|task| Effect::DropKept { key: self.state.key_of(task) }));
        batch.touched.extend(changes.touched);
        batch.results.extend(changes.result);
    }

    /// A message for a handler that runs. Should it get lost, the handler waits for it, and the wait is over at once.
    fn told(&self, key: &TaskKey, seq: u32, message: &Payload, batch: &mut Batch<H>) {
        let Some(task) = self.state.task(key) else { return };
        let (Some(lease), Some(told)) = (task.lease(), task.history().and_then(|h| h.message(seq))) else {
            return;
        };
        if !self.live.takes_messages(self.state.agent_of(task), &lease.instance) {
            return;
        }
        let mail = Mail {
            seq,
            signal: told.signal.as_deref().map(str::to_owned),
            from: told.from.as_deref().map(str::to_owned),
            at: told.at,
            message: message.clone(),
        };
        let (agent, instance) = (self.state.agent_of(task).clone(), lease.instance.clone());
        let op = CtlOp::Message { token: lease.token, mail };
        batch.effects.push(Effect::Tell(Tell::Ctl { agent, instance, op }));
    }

    /// Offers a lease's task, or asks for its input first.
    pub(super) fn offer(&mut self, token: &Token, batch: &mut Batch<H>) {
        let now = batch.at.now;
        self.offer_now(token, now, &mut batch.effects);
    }

    pub(super) fn offer_now(&mut self, token: &Token, now: Millis, effects: &mut Vec<Effect<H>>) {
        let Some(slot) = self.state.lease_slot(token) else { return };
        match dispatch::offer(&self.state, slot) {
            Some(Ready::Offer(agent, instance, offer)) => {
                self.live.told(token);
                effects.push(Effect::Tell(Tell::Offer { agent, instance, offer }));
            }
            Some(Ready::Load(rev)) => self.load(rev, slot, now, effects),
            None => {}
        }
    }

    /// Takes over the live leases: their offers are sent again, under the new epoch.
    pub(super) fn inherit(&mut self, effects: &mut Vec<Effect<H>>) {
        let mut tokens: Vec<Token> = self.state.live_leases().copied().collect();
        tokens.sort();
        let now = self.state.clock_now();
        for token in &tokens {
            if let Some(task) = self.state.leased(token)
                && let Some(lease) = task.lease()
                // Granted by this very message: known already.
                && !self.live.knows(token)
            {
                let agent = self.state.agent_of(task);
                self.live.granted(*token, agent, &lease.instance, lease.lease_ms, true);
            }
            self.offer_now(token, now, effects);
        }
    }

    /// Reports held for a lease that is over are decided now: they are stale.
    fn drop_held(&mut self, token: Token) {
        if self.held.is_empty() {
            return;
        }
        let range = (token, 0)..=(token, u32::MAX);
        let keys: Vec<_> = self.held.range(range).map(|(k, _)| *k).collect();
        for key in keys {
            if let Some(Queued { input, handle }) = self.held.remove(&key) {
                self.queue.push(input, handle);
            }
        }
    }
}
