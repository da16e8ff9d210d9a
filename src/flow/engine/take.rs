//! One input decided: who decides it, and what is done with what it decides.
//!
//! Touches what was heard, reports that are held back, and the batch; the state only by `apply`.

use super::{Effect, Engine, JournalError, effects::Batch, queue::Queued};
use crate::{
    flow::{
        facts::Fact,
        input::{Decision, Entropy, Input, Tell},
        operate,
        record::Record,
        run, schedules, submit, tell, trigger,
    },
    task::{AgentName, Code, InstanceId, Token},
    wire::messages::{Cmd, CmdOp, CtlOp, ReportOp},
};

impl<H> Engine<H> {
    /// Decides one input.
    pub(super) fn take(
        &mut self,
        input: Input,
        handle: Option<H>,
        batch: &mut Batch<H>,
        entropy: &mut dyn Entropy,
    ) -> Result<(), JournalError> {
        let decision = match &input {
            Input::Submit { .. } if self.waiting.is_full() => {
                self.waiting.park(input, handle);
                return Ok(());
            }
            Input::Cmd { key, nonce, body: Ok(Cmd { op: CmdOp::Tell { .. }, .. }) }
                if self.waiting.is_full() =>
            {
                tell::no_room(key, nonce)
            }
            Input::Submit { .. } | Input::Cmd { .. } => {
                if let Input::Submit { stored_at, .. } = &input {
                    batch.facts.push(Fact::Decided(batch.at.wall.saturating_sub(*stored_at)));
                }
                let decision = submit::decide(&self.state, self.live.announcements(), &input);
                if let Some(rev) = decision.needs {
                    self.wait_for(rev, input, handle, batch);
                    return Ok(());
                }
                decision
            }
            Input::Triggered { key, spec, hops } => {
                let (decision, fired) = match self.waiting.is_full() {
                    true => (Decision::none(), trigger::no_room()),
                    false => trigger::decide(&self.state, self.live.announcements(), key, spec, *hops),
                };
                self.apply(decision, batch)?;
                batch.effects.extend(handle.map(|handle| Effect::Fired(handle, fired)));
                return Ok(());
            }
            Input::Report { body, .. } => {
                let decision = run::decide(&self.state, self.live.announcements(), &input, entropy);
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
                let stop = self.live.beat(agent, instance, body, |token| state.lease_slot(token).is_some());
                if let Some(held) = &body.calls {
                    let endings = self.calls.beat(agent, instance, held, &mut self.live);
                    self.end_calls(endings, batch);
                }
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
            Input::Announced { agent, instance, announced } => {
                self.live.announced(agent, instance, announced);
                Decision::none()
            }
            Input::Accept { agent, instance, body } => {
                self.live.accepted(agent, instance, &body.taken);
                self.live.arrived(&body.busy);
                self.calls.accepted(agent, instance, &body.taken);
                self.calls_answered(agent, instance, body, batch);
                self.busy(agent, instance, &body.busy)
            }
            Input::Call { .. } => return self.called(&input, batch, entropy),
            Input::Plan { .. } | Input::Tenant { .. } | Input::Agent { .. } | Input::All { .. } => {
                operate::decide(&self.state, &input)
            }
            Input::Schedule { name, settings, kv_rev } => Decision {
                records: schedules::set(&self.state, name, settings.as_deref(), *kv_rev)
                    .into_iter()
                    .collect(),
                ..Decision::none()
            },
            Input::Loaded { .. } => {
                self.loaded(input, batch, entropy)?;
                Decision::none()
            }
            Input::Carry { .. } => match self.carry(input, batch)? {
                None => Decision::none(),
                Some(rest) => {
                    self.queue.push_front(Queued { input: rest, handle });
                    // What is left fits into no more of this message: it goes on in the next.
                    batch.close();
                    return Ok(());
                }
            },
            Input::Room { used, max } => {
                self.room(*used, *max);
                Decision::none()
            }
        };
        self.apply(decision, batch)?;
        batch.effects.extend(handle.map(Effect::Ack));
        Ok(())
    }

    /// A report was looked at: the one that waited for it may go.
    fn unhold(&mut self, token: Token, n: u32) {
        if !self.held.is_empty()
            && let Some(next) = self.held.remove(&(token, n + 1))
        {
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
            let Some(task) = self.state.leased(token) else { continue };
            let (key, token) = (self.state.key_of(task), *token);
            decision.records.push(Record::Withdrawn { key, token, vanished: false, failure: None });
        }
        if !decision.records.is_empty() {
            self.live.suspect(agent, instance);
        }
        decision
    }
}
