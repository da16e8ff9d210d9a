//! Calls in the engine: admitted or refused, and what follows from their ends.
//!
//! A call that draws on what is journaled leaves no record. One that needs more has its record before it in the batch, so
//! that it is told after that was acknowledged.

use super::{Effect, Engine, JournalError, MAX_FACTS, effects::Batch};
use crate::{
    flow::{
        calls::{Asked, Calls, Ending},
        facts::Fact,
        input::{Decision, Entropy, Input, Tell, check_version, unreadable},
        record::Record,
    },
    task::{AgentName, Code, InstanceId, Refusal, TenantName, Token},
    wire::{
        calls::CallRequest,
        messages::{Accept, CtlOp},
    },
};

impl<H> Engine<H> {
    /// Calls that run.
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// What happened to calls since this was asked last, for metrics.
    pub fn take_call_facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.call_facts)
    }

    pub(super) fn called(
        &mut self,
        input: &Input,
        batch: &mut Batch<H>,
        entropy: &mut dyn Entropy,
    ) -> Result<(), JournalError> {
        let Input::Call { tenant, agent, by_handler, body, to } = input else { return Ok(()) };
        let readable = match &**body {
            Ok(request) => check(request, *by_handler).map(|()| request),
            Err(error) => Err(unreadable(error)),
        };
        let admitted = readable.and_then(|CallRequest { input, max_ms, asker, .. }| {
            let asked = Asked { tenant, agent, asker: *asker, max_ms: *max_ms, input, to };
            self.calls.admit(&self.state, &self.live, &asked).map(|admitted| (asked, admitted))
        });
        let (asked, mut admitted) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.call_fact(Fact::CallRefused(refusal.code));
                batch.effects.push(Effect::Tell(Tell::CallFailed { to: to.clone(), refusal }));
                return Ok(());
            }
        };
        if let Some(record) = admitted.record.take() {
            self.apply(Decision::record(record), batch)?;
        }
        self.call_fact(Fact::CallBegun(agent.clone()));
        let now = batch.at.now;
        let (instance, call) = self.calls.begin(entropy.token(), &asked, admitted, &mut self.live, now);
        let (agent, call, to) = (agent.clone(), Box::new(call), to.subject.clone());
        batch.effects.push(Effect::Tell(Tell::Call { agent, instance, call, to }));
        Ok(())
    }

    /// What an instance says of calls besides that it has them.
    pub(super) fn calls_answered(
        &mut self,
        agent: &AgentName,
        instance: &InstanceId,
        body: &Accept,
        batch: &mut Batch<H>,
    ) {
        if self.calls.is_idle() {
            return;
        }
        let busy = self.calls.busy(agent, instance, &body.busy, &mut self.live);
        let over = self.calls.over(agent, instance, &body.over, &mut self.live);
        self.end_calls(busy, batch);
        self.end_calls(over, batch);
    }

    /// What time does to calls.
    pub(super) fn pass_calls(&mut self, batch: &mut Batch<H>) -> Result<(), JournalError> {
        let overdue = self.calls.overdue(&mut self.live, batch.at.now, self.state.policy.offer_timeout_ms);
        self.end_calls(overdue, batch);
        for record in self.calls.give_back(&self.state, batch.at.now) {
            self.apply(Decision::record(record), batch)?;
        }
        Ok(())
    }

    /// What a record that stops leases stops of calls.
    pub(super) fn stop_calls(&mut self, record: &Record, batch: &mut Batch<H>) {
        if self.calls.running().len() == 0 {
            return;
        }
        let all = matches!(record, Record::AllSet { settings, .. } if settings.stopped);
        let tenant: Option<&TenantName> = match record {
            Record::TenantSet { name, settings: Some(settings), .. } if settings.stopped => Some(name),
            _ => None,
        };
        let agent: Option<&AgentName> = match record {
            Record::AgentSet { name, settings: Some(settings), .. } if settings.stopped => Some(name),
            _ => None,
        };
        if !all && tenant.is_none() && agent.is_none() {
            return;
        }
        let refusal = Refusal::new(Code::Paused, "what the call belongs to was stopped by an operator");
        let endings = self
            .calls
            .stop_where(|call| all || tenant == Some(&call.tenant) || agent == Some(&call.agent), &refusal);
        self.end_calls(endings, batch);
    }

    /// Whoever has asked is over.
    pub(super) fn asker_over(&mut self, token: &Token, batch: &mut Batch<H>) {
        if self.calls.lends() {
            let endings = self.calls.asker_over(token);
            self.end_calls(endings, batch);
        }
    }

    pub(super) fn end_calls(&mut self, endings: Vec<Ending>, batch: &mut Batch<H>) {
        for ending in endings {
            match ending {
                Ending::Over(call, over) => {
                    let ran = (call.since > 0).then(|| batch.at.now.saturating_sub(call.since));
                    if let Some(first) = over.first_ms {
                        self.call_fact(Fact::CallFirst(call.agent.clone(), first));
                    }
                    self.call_fact(Fact::CallOver(call.agent.clone(), over.code, ran));
                    self.asker_over(&over.token, batch);
                }
                Ending::Lost(call, refusal) => {
                    self.call_fact(Fact::CallOver(call.agent.clone(), Some(refusal.code), None));
                    self.call_failed(call.to, refusal, batch);
                }
                Ending::Stop(call, token, refusal) => {
                    let (agent, instance) = (call.agent.clone(), call.instance.clone());
                    let op = CtlOp::Stop { token, code: refusal.code };
                    batch.effects.push(Effect::Tell(Tell::Ctl { agent, instance, op }));
                    self.call_failed(call.to, refusal, batch);
                    self.asker_over(&token, batch);
                }
                Ending::StopAgain(agent, instance, token, code) => {
                    let op = CtlOp::Stop { token, code };
                    batch.effects.push(Effect::Tell(Tell::Ctl { agent, instance, op }));
                }
            }
        }
    }

    fn call_failed(
        &mut self,
        to: Option<crate::flow::calls::ReplyTo>,
        refusal: Refusal,
        batch: &mut Batch<H>,
    ) {
        batch.effects.extend(to.map(|to| Effect::Tell(Tell::CallFailed { to, refusal })));
    }

    fn call_fact(&mut self, fact: Fact) {
        if self.call_facts.len() < MAX_FACTS {
            self.call_facts.push(fact);
        }
    }
}

/// What a request on this subject has to be.
fn check(request: &CallRequest, by_handler: bool) -> Result<(), Refusal> {
    check_version(request.v)?;
    match (by_handler, request.asker) {
        (true, None) => Err(Refusal::new(Code::BadMessage, "a call by a handler names its asker")),
        (false, Some(_)) => Err(Refusal::new(
            Code::BadMessage,
            "a call from outside has no asker; handlers call on sv.subcall",
        )),
        _ => Ok(()),
    }
}
