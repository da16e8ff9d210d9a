//! What an instance hears: offers, verdicts, stops, messages, and what answers its heartbeat.

use std::collections::BTreeMap;

use selvedge::{
    flow::input::Input,
    task::{AgentName, Code, InstanceId, TaskKey, Token},
    wire::messages::{Accept, BeatReply, Ctl, CtlOp, Offer, Verdict},
};

use super::Run;
use crate::{
    behaviour::Behaviour,
    objects::run_keeps,
    scenario::Fault,
    talk::Places,
    world::{Event, World},
};

impl World {
    pub fn offered(&mut self, agent: AgentName, id: InstanceId, epoch: u64, offer: Offer) {
        match self.asleep(&id) {
            None => return,
            Some(0) => {}
            Some(more) => {
                let offer = Box::new(offer);
                return self.after(more, Event::OfferTo { agent, instance: id, epoch, offer });
            }
        }
        let Some(instance) = self.agents.instances.get_mut(&id) else { return };
        if epoch < instance.epoch {
            return;
        }
        instance.epoch = epoch;
        let token = offer.token;
        let slots = self.agents.places[instance.place].slots as usize;
        let working = instance.working();
        let mut answer = Accept { v: 1, ..Accept::default() };
        if instance.runs.contains_key(&token) {
            answer.taken.push(token);
        } else if instance.over.contains(&token) {
            return;
        } else if instance.draining || working >= slots {
            answer.busy.push(token);
        } else {
            let behaviour = Behaviour::read(&offer.input);
            let run = Run {
                key: TaskKey { tenant: offer.tenant.clone(), id: offer.task.clone() },
                root: offer.root.clone(),
                places: Places::of(&offer),
                attempt: offer.attempt,
                tries: offer.tries,
                ops: behaviour.script(offer.tries, offer.attempt),
                behaviour,
                n: 0,
                unanswered: BTreeMap::new(),
                blocked_on: None,
                keeps: None,
                ended: false,
            };
            instance.runs.insert(token, run);
            answer.taken.push(token);
            self.after(1, Event::AgentWorks(id.clone(), token));
        }
        let input = Input::Accept { agent, instance: id, body: answer };
        self.core(Fault::AcceptLost, Event::ToCoordinators { input, reply: false });
    }

    pub fn told(&mut self, id: &InstanceId, ctl: Ctl) {
        match self.asleep(id) {
            None => return,
            Some(0) => {}
            Some(more) => return self.after(more, Event::CtlTo { instance: id.clone(), ctl }),
        }
        let Some(instance) = self.agents.instances.get_mut(id) else { return };
        if ctl.epoch < instance.epoch {
            return;
        }
        instance.epoch = ctl.epoch;
        for op in ctl.ops {
            match op {
                CtlOp::Verdict(verdict) => self.verdict(id, verdict),
                CtlOp::Stop { token, .. } => self.stop(id, token),
                CtlOp::Message { token, mail } => self.agent_told(id, token, mail),
                CtlOp::Call(call) => self.agent_called(id, *call),
            }
        }
    }

    pub fn beat_answered(&mut self, id: &InstanceId, reply: BeatReply) {
        match self.asleep(id) {
            None => return,
            Some(0) => {}
            Some(more) => return self.after(more, Event::BeatReplyTo { instance: id.clone(), reply }),
        }
        let Some(instance) = self.agents.instances.get_mut(id) else { return };
        if reply.epoch < instance.epoch {
            return;
        }
        instance.epoch = reply.epoch;
        for token in reply.stop {
            self.stop(id, token);
        }
    }

    fn verdict(&mut self, id: &InstanceId, verdict: Verdict) {
        let Some(instance) = self.agents.instances.get_mut(id) else { return };
        if !instance.runs.contains_key(&verdict.token) {
            return;
        }
        match verdict.refusal.as_ref().map(|r| r.code) {
            Some(Code::ReportGap) => return,
            Some(Code::StaleLease) => {
                instance.runs.remove(&verdict.token);
                instance.over.insert(verdict.token);
                return;
            }
            Some(code @ (Code::TooLarge | Code::StepsExceeded)) if run_keeps(instance, &verdict) => {
                return self.object_refused(id, verdict.token, code);
            }
            Some(code @ (Code::StepConflict | Code::StepsExceeded | Code::BadMessage)) => {
                return self.fail(format!("a step was refused as {code}"));
            }
            _ => {}
        }
        let Some(run) = self.run_mut(id, &verdict.token) else { return };
        run.unanswered.remove(&verdict.n);
        if run.ended && verdict.n >= run.n {
            let Some(instance) = self.agents.instances.get_mut(id) else { return };
            instance.runs.remove(&verdict.token);
            instance.over.insert(verdict.token);
        } else if run.blocked_on == Some(verdict.n) {
            run.blocked_on = None;
            self.after(1, Event::AgentWorks(id.clone(), verdict.token));
        }
    }

    fn stop(&mut self, id: &InstanceId, token: Token) {
        if self.agents.instances.get(id).is_some_and(|i| i.calls.contains_key(&token)) {
            return self.call_ends(id, token);
        }
        let known = self.run_mut(id, &token).is_some();
        if known
            && !self.strikes(Fault::IgnoresStop)
            && let Some(instance) = self.agents.instances.get_mut(id)
        {
            instance.runs.remove(&token);
            instance.over.insert(token);
        }
    }
}
