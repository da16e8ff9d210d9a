//! Callers, handlers that ask, and instances that answer: what is counted while everything around them fails.

use selvedge::{
    flow::{
        calls::{Place, ReplyTo},
        input::Input,
        permits::Permit,
    },
    task::{AgentName, Code, InstanceId, Payload, Refusal, TenantName, Token},
    wire::{
        about::InstanceView,
        calls::{Call, CallOver, CallRequest, HeldCall},
        codec::Format,
        messages::{Accept, Ctl, CtlOp},
    },
};

use crate::{
    scenario::{Fault, Sight},
    world::{Event, World},
};

impl World {
    /// Somebody calls, or a handler asks. Until everything is healed.
    pub fn caller_acts(&mut self) {
        if self.healing {
            return;
        }
        let pause = self.calling.between(20, 600);
        self.after(pause, Event::CallerActs);
        let agent = *self.calling.pick(&["planner", "reader", "reader", "nobody"]);
        let asker = self.some_asker();
        let at = self.calling.below(3);
        let tenant =
            asker.as_ref().map_or_else(|| format!("t{at}").parse().unwrap(), |(tenant, _)| tenant.clone());
        let asker = asker.map(|(_, token)| token);
        let request = CallRequest { v: 1, input: Payload::default(), max_ms: None, asker };
        let input = Input::Call {
            tenant,
            agent: agent.parse().unwrap(),
            by_handler: asker.is_some(),
            body: Box::new(Ok(request)),
            to: ReplyTo { subject: "_INBOX.x".to_owned(), format: Format::MsgPack },
        };
        self.core(Fault::AcceptLost, Event::ToCoordinators { input, reply: false });
    }

    /// Sometimes a lease, or a call, whose handler asks.
    fn some_asker(&mut self) -> Option<(TenantName, Token)> {
        if !self.calling.per_mille(400) {
            return None;
        }
        let of = self.agents.instances.values();
        let all: Vec<(TenantName, Token)> = of
            .flat_map(|instance| {
                let runs = instance.runs.iter().map(|(token, run)| (run.key.tenant.clone(), *token));
                runs.chain(instance.calls.values().map(|call| (call.tenant.clone(), call.token)))
            })
            .collect();
        (!all.is_empty()).then(|| self.calling.pick(&all).clone())
    }

    /// An owner gives a call to an instance.
    pub fn call_given(&mut self, who: usize, instance: InstanceId, epoch: u64, call: Call) {
        if let Err(why) = self.check_places(who) {
            return self.fail(why);
        }
        self.saw(Sight::CallBegun);
        let keeps = |view: &InstanceView| {
            view.instance == instance && view.call_slots > 0 && view.running + view.call_slots >= view.slots
        };
        let kept = self.views(who).iter().any(|(_, view)| keeps(view));
        if kept {
            self.saw(Sight::CallOnKeptSlot);
        }
        if call.depth > 0 {
            self.saw(Sight::CallAsked);
        }
        let ctl = Ctl { v: 1, epoch, ops: vec![CtlOp::Call(Box::new(call))] };
        self.core(Fault::CtlLost, Event::CtlTo { instance, ctl });
    }

    /// What is given out is covered by what the journal holds, if it is this owner's journal.
    fn check_places(&self, who: usize) -> Result<(), String> {
        let Some(engine) = self.coordinators[who].engine.as_ref() else { return Ok(()) };
        if engine.seq() != self.journal.head() {
            return Ok(());
        }
        for (pair, permit) in &self.audit.permits {
            let of = |place| {
                let calls = engine.calls().running().filter(|(_, call)| call.place == place);
                calls.filter(|(_, call)| (&call.tenant, &call.agent) == (&pair.0, &pair.1)).count() as u32
            };
            let (own, borrowed) = (of(Place::Own), of(Place::Borrowed));
            if own > permit.places || borrowed > permit.borrowed {
                return Err(format!("{own} and {borrowed} calls of {pair:?} on {permit:?}"));
            }
        }
        let unheld = engine.calls().running().find(|(_, call)| {
            call.place != Place::Void
                && !self.audit.permits.contains_key(&(call.tenant.clone(), call.agent.clone()))
        });
        unheld.map_or(Ok(()), |(_, call)| Err(format!("{call:?} runs on no place")))
    }

    /// Instances as a coordinator has heard them.
    fn views(&self, who: usize) -> Vec<(AgentName, InstanceView)> {
        let engine = self.coordinators[who].engine.as_ref();
        let known = engine.into_iter().flat_map(|engine| engine.live().instances());
        known.map(|(agent, view)| (agent.clone(), view)).collect()
    }

    /// No task is in a slot that is kept for calls.
    pub fn look_at_kept_slots(&mut self, who: usize) {
        let taken = |view: &InstanceView| view.slots > 0 && view.running + view.call_slots > view.slots;
        if let Some((agent, view)) = self.views(who).into_iter().find(|(_, view)| taken(view)) {
            self.fail(format!("a task of {agent} is in a slot for calls: {view:?}"));
        }
    }

    pub fn call_refused(&mut self, refusal: &Refusal) {
        let sight = match refusal.code {
            Code::InFlightFull => Sight::CallCapped,
            Code::CallLost => Sight::CallLost,
            _ => Sight::CallRefused,
        };
        self.saw(sight);
    }

    /// A call has come to an instance.
    pub fn agent_called(&mut self, id: &InstanceId, call: Call) {
        let Some(instance) = self.agents.instances.get_mut(id) else { return };
        let place = &self.agents.places[instance.place];
        let (agent, slots) = (place.agent.clone(), place.slots as usize);
        let mut answer = Accept { v: 1, ..Accept::default() };
        if instance.calls.contains_key(&call.token) || instance.over.contains(&call.token) {
            return;
        } else if instance.draining || instance.working() >= slots {
            answer.busy.push(call.token);
            instance.over.insert(call.token);
        } else {
            let Call { tenant, token, depth, hops, borrows, .. } = call;
            answer.taken.push(token);
            instance.calls.insert(token, HeldCall { tenant, token, depth, hops, borrows });
            let most = if self.strikes(Fault::CallerGone) { 300 } else { 20_000 };
            let takes = self.calling.between(1, most);
            self.after(takes, Event::CallEnds(id.clone(), token));
        }
        self.answer(id, agent, answer);
    }

    fn answer(&mut self, id: &InstanceId, agent: AgentName, body: Accept) {
        let input = Input::Accept { agent, instance: id.clone(), body };
        self.core(Fault::AcceptLost, Event::ToCoordinators { input, reply: false });
    }

    /// Its handler is done, or was told to stop.
    pub fn call_ends(&mut self, id: &InstanceId, token: Token) {
        match self.asleep(id) {
            None => return,
            Some(0) => {}
            Some(more) => return self.after(more, Event::CallEnds(id.clone(), token)),
        }
        let Some(instance) = self.agents.instances.get_mut(id) else { return };
        if instance.calls.remove(&token).is_none() {
            return;
        }
        instance.over.insert(token);
        let agent = self.agents.places[instance.place].agent.clone();
        self.saw(Sight::CallEnded);
        let over = vec![CallOver { token, code: None, first_ms: Some(1) }];
        self.answer(id, agent, Accept { v: 1, over, ..Accept::default() });
    }

    /// What a take-over found.
    pub fn look_at_calls(&mut self, who: usize) {
        let Some(engine) = self.coordinators[who].engine.as_ref() else { return };
        if engine.calls().running().any(|(_, call)| call.to.is_none() && call.place != Place::Void) {
            self.saw(Sight::CallAdopted);
        }
    }

    /// Nothing is held for calls, and none runs.
    pub fn no_calls(&self, who: usize) -> bool {
        let engine = self.coordinators[who].engine.as_ref();
        engine
            .is_some_and(|engine| engine.state().permits().is_empty() && engine.calls().running().len() == 0)
    }
}

/// Places at the agent, of these.
pub fn at_agent(permit: &Permit) -> usize {
    (permit.places + permit.borrowed) as usize
}
