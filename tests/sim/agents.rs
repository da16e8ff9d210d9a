//! Agents: instances with slots that follow the protocol, run scripted handlers, and die, freeze,
//! drain, ignore stops and contradict themselves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use selvedge::{
    flow::input::Input,
    task::{AgentName, Code, InstanceId, Outcome, Payload, Spec, TaskId, TaskKey, Token, WaitFor, child_id},
    wire::calls::HeldCall,
    wire::messages::{Accept, Beat, BeatReply, Ctl, CtlOp, End, Offer, Report, ReportOp, Spawn, Verdict},
};

use crate::{
    behaviour::{Behaviour, Op},
    bus::Queue,
    objects::run_keeps,
    rng::Rng,
    scenario::{Fault, Seen, Sight},
    talk::Places,
    world::{Event, World},
};

/// Where an instance of an agent runs; a new process of it gets a new id.
pub struct Place {
    pub agent: AgentName,
    pub slots: u32,
    lease_ms: u64,
    now: Option<InstanceId>,
    started: u32,
}

pub struct Run {
    pub key: TaskKey,
    pub root: TaskId,
    attempt: u32,
    tries: u32,
    pub ops: VecDeque<Op>,
    pub places: Places,
    behaviour: Behaviour,
    n: u32,
    unanswered: BTreeMap<u32, Report>,
    /// Goes on when this report is answered.
    pub blocked_on: Option<u32>,
    /// The report of a step whose result is an object.
    pub keeps: Option<u32>,
    ended: bool,
}

impl Run {
    /// This report is decided.
    pub fn answered(&mut self, n: u32) {
        self.unanswered.remove(&n);
    }
}

pub struct Instance {
    pub place: usize,
    pub epoch: u64,
    paused_until: u64,
    pub draining: bool,
    next_beat: u64,
    pub runs: BTreeMap<Token, Run>,
    /// Calls it runs.
    pub calls: BTreeMap<Token, HeldCall>,
    /// Answered ends and obeyed stops.
    pub over: BTreeSet<Token>,
}

pub struct Agents {
    pub places: Vec<Place>,
    pub instances: BTreeMap<InstanceId, Instance>,
}

impl Instance {
    /// Slots that are taken.
    pub fn working(&self) -> usize {
        self.runs.values().filter(|run| !run.ended).count() + self.calls.len()
    }
}

impl Agents {
    pub fn new(rng: &mut Rng) -> Self {
        let kinds = ["planner", "planner", "reader", "reader", "reader"];
        let places = kinds.iter().map(|kind| Place {
            agent: AgentName::new(kind).unwrap(),
            slots: rng.between(1, 4) as u32,
            lease_ms: *rng.pick(&[2_000, 6_000, 15_000]),
            now: None,
            started: 0,
        });
        Self { places: places.collect(), instances: BTreeMap::new() }
    }

    pub fn places(&self) -> usize {
        self.places.len()
    }

    pub fn running(&self) -> usize {
        self.instances.values().map(|i| i.runs.len() + i.calls.len()).sum()
    }
}

impl World {
    pub fn agent_starts(&mut self, place: usize) {
        let at = &mut self.agents.places[place];
        at.started += 1;
        let id = InstanceId::new(format!("i{place}-{}", at.started)).unwrap();
        at.now = Some(id.clone());
        let instance = Instance {
            place,
            epoch: 0,
            paused_until: 0,
            draining: false,
            next_beat: self.now,
            runs: BTreeMap::new(),
            calls: BTreeMap::new(),
            over: BTreeSet::new(),
        };
        self.agents.instances.insert(id.clone(), instance);
        self.after(0, Event::AgentBeats(id.clone()));
        self.after(2_000, Event::AgentRepeats(id));
        self.after(3_000, Event::AgentTrouble(place));
    }

    /// How long the instance sleeps on, if it does; `None` if it is gone.
    pub fn asleep(&self, id: &InstanceId) -> Option<u64> {
        self.agents.instances.get(id).map(|i| i.paused_until.saturating_sub(self.now))
    }

    pub fn agent_trouble(&mut self, place: usize) {
        let Some(id) = self.agents.places[place].now.clone() else { return };
        let parents_wait = self.scenario.cap.is_some()
            && self.scenario.has(Fault::AgentCrash)
            && !self.healing
            && self.rng.per_mille(200)
            && self.audit.tasks.values().any(|k| matches!(k.place, crate::audit::Place::Awaiting(_)));
        if parents_wait {
            self.seen.count(Seen::Injected(Fault::AgentCrash));
        }
        if parents_wait || self.strikes(Fault::AgentCrash) {
            return self.agent_dies(&id);
        }
        if self.strikes(Fault::AgentPaused) {
            let pause = self.rng.between(500, 40_000);
            let now = self.now;
            if let Some(instance) = self.agents.instances.get_mut(&id) {
                instance.paused_until = now + pause;
            }
        } else if self.strikes(Fault::AgentDrains)
            && let Some(instance) = self.agents.instances.get_mut(&id)
        {
            instance.draining = true;
        }
        self.after(3_000, Event::AgentTrouble(place));
    }

    fn agent_dies(&mut self, id: &InstanceId) {
        let Some(instance) = self.agents.instances.remove(id) else { return };
        self.agents.places[instance.place].now = None;
        let delay = self.rng.between(100, 5_000);
        self.after(delay, Event::AgentStarts(instance.place));
    }

    /// Slots that an instance at this place keeps for calls.
    fn call_slots(&self, place: usize) -> u32 {
        let keeps = place == 1 || place == 3;
        let both = self.scenario.has(Fault::Calling) && self.scenario.has(Fault::Announcing);
        u32::from(keeps && both && self.agents.places[place].slots > 1)
    }

    pub fn hello(&mut self) {
        let ids: Vec<InstanceId> = self.agents.instances.keys().cloned().collect();
        for id in ids {
            let jitter = self.rng.below(200);
            self.after(1 + jitter, Event::AgentBeats(id));
        }
    }

    pub fn agent_beats(&mut self, id: &InstanceId) {
        match self.asleep(id) {
            None => return,
            Some(0) => {}
            Some(more) => {
                // A frozen process does not catch up on missed beats: one is enough.
                let now = self.now;
                if let Some(instance) = self.agents.instances.get_mut(id)
                    && instance.next_beat <= now
                {
                    instance.next_beat = now + more;
                    self.after(more, Event::AgentBeats(id.clone()));
                }
                return;
            }
        }
        let now = self.now;
        let Some(instance) = self.agents.instances.get_mut(id) else { return };
        let place = &self.agents.places[instance.place];
        let (agent, lease_ms, at) = (place.agent.clone(), place.lease_ms, instance.place);
        let leaves = instance.draining && instance.runs.is_empty() && instance.calls.is_empty();
        let (slots, tokens) = (place.slots, instance.runs.keys().copied().collect());
        let calls = (at != 4).then(|| instance.calls.values().cloned().collect());
        let draining = instance.draining;
        let about = self.about(id);
        let call_slots = self.call_slots(at);
        let body = Beat {
            v: 1,
            slots: if leaves { 0 } else { slots },
            tokens,
            lease_ms,
            draining,
            // Some know nothing of messages.
            messages: at % 2 == 0,
            // One of them takes no calls.
            calls,
            ahead: 0,
            about,
            call_slots: if leaves { 0 } else { call_slots },
        };
        let Some(instance) = self.agents.instances.get_mut(id) else { return };
        if instance.next_beat <= now {
            instance.next_beat = now + lease_ms / 3;
            self.after(lease_ms / 3, Event::AgentBeats(id.clone()));
        }
        let reply = self.rng.per_mille(700);
        let input = Input::Beat { agent, instance: id.clone(), body };
        self.core(Fault::BeatLost, Event::ToCoordinators { input, reply });
        if leaves {
            self.agents.instances.remove(id);
            self.agents.places[at].now = None;
            self.after(1_000, Event::AgentStarts(at));
        }
    }

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

    /// The handler goes on by one operation.
    pub fn agent_works(&mut self, id: &InstanceId, token: Token) {
        match self.asleep(id) {
            None => return,
            Some(0) => {}
            Some(more) => return self.after(more, Event::AgentWorks(id.clone(), token)),
        }
        let Some(instance) = self.agents.instances.get_mut(id) else { return };
        let Some(run) = instance.runs.get_mut(&token) else { return };
        if run.ended || run.blocked_on.is_some() {
            return;
        }
        let op = run.ops.pop_front().unwrap_or(Op::Complete);
        match op {
            Op::Work(ms) => self.after(ms, Event::AgentWorks(id.clone(), token)),
            Op::Crash => self.agent_dies(id),
            Op::Spawn { step, count, blocking } => {
                let (parent, behaviour) = (run.key.clone(), run.behaviour);
                let children: Vec<Spec> = (0..count).map(|i| behaviour.child(step, i)).collect();
                let adopted = (0..count).any(|i| {
                    let child = child_id(&parent.id, step, i);
                    self.audit.tasks.contains_key(&TaskKey { tenant: parent.tenant.clone(), id: child })
                });
                children.iter().for_each(|spec| self.asked_for(spec));
                if adopted {
                    self.saw(Sight::ChildAdopted);
                }
                let n = self.report(
                    id,
                    token,
                    ReportOp::Spawn(Spawn { step: step.to_owned(), first: 0, children }),
                );
                if blocking {
                    if let Some(run) = self.run_mut(id, &token) {
                        run.blocked_on = Some(n);
                    }
                } else {
                    self.after(1, Event::AgentWorks(id.clone(), token));
                }
            }
            Op::Await { half } => {
                let (key, applied) = (run.key.clone(), run.unanswered.is_empty());
                let run_attempt = run.attempt;
                let children = self.audit.tasks.get(&key).map(|k| k.children.clone()).unwrap_or_default();
                let wanted: Vec<_> = match half {
                    true => children.iter().take(children.len().div_ceil(2)).cloned().collect(),
                    false => children,
                };
                let done = wanted.iter().all(|c| {
                    let child = TaskKey { tenant: key.tenant.clone(), id: c.clone() };
                    self.audit.tasks.get(&child).is_none_or(|k| k.is_over())
                });
                if applied && done {
                    return self.after(1, Event::AgentWorks(id.clone(), token));
                }
                if !applied && run_attempt > 1 {
                    // What it adopts is known once the spawn is answered.
                    if let Some(run) = self.run_mut(id, &token) {
                        run.blocked_on = run.unanswered.keys().next_back().copied();
                        run.ops.push_front(Op::Await { half });
                    }
                    return;
                }
                let wait = if half { WaitFor::Children(wanted) } else { WaitFor::AllChildren };
                self.end(id, token, Outcome::Wait(wait));
            }
            Op::Complete => {
                let mut bytes = run.behaviour.seed.to_be_bytes().to_vec();
                bytes.extend(&run.places.gathered);
                let result = Payload::Bytes(bytes.into());
                self.end(id, token, Outcome::Completed { result });
            }
            Op::Fail { retryable } => {
                let message = format!("try {} went wrong", run.tries + 1);
                self.end(id, token, Outcome::Failed { message, retryable, retry_after_ms: None, code: None });
            }
            Op::Snooze(ms) => self.end(id, token, Outcome::Snooze { ms }),
            op => self.agent_talks(id, token, op),
        }
    }

    /// Whether who reported it still has it, to send it again; or is gone, and its lease will be lost.
    pub fn is_kept(&self, report: &Report) -> bool {
        let run = self.agents.instances.get(&report.instance).and_then(|i| i.runs.get(&report.token));
        run.is_none_or(|run| run.unanswered.contains_key(&report.n))
    }

    pub fn run_mut(&mut self, id: &InstanceId, token: &Token) -> Option<&mut Run> {
        self.agents.instances.get_mut(id)?.runs.get_mut(token)
    }

    pub fn end(&mut self, id: &InstanceId, token: Token, outcome: Outcome) {
        let used = self.run_mut(id, &token).and_then(|run| run.behaviour.used(run.attempt));
        let n = self.report(id, token, ReportOp::End(End { last_event: 0, outcome, used }));
        if self.strikes(Fault::TwoEnds)
            && let Some(mut other) = self.run_mut(id, &token).and_then(|r| r.unanswered.get(&n).cloned())
        {
            let outcome = Outcome::Failed {
                message: "or not".into(),
                retryable: true,
                retry_after_ms: None,
                code: None,
            };
            other.op = ReportOp::End(End { last_event: 0, outcome, used: None });
            self.publish_report(id, token, other);
        }
        if let Some(run) = self.run_mut(id, &token) {
            run.ended = true;
        }
    }

    /// Numbers a report, keeps it until it is answered, and publishes it.
    pub fn report(&mut self, id: &InstanceId, token: Token, op: ReportOp) -> u32 {
        let Some(instance) = self.agents.instances.get_mut(id) else { return 0 };
        let agent = self.agents.places[instance.place].agent.clone();
        let Some(run) = instance.runs.get_mut(&token) else { return 0 };
        run.n += 1;
        let n = run.n;
        let report = Report { v: 1, token, attempt: run.attempt, agent, instance: id.clone(), n, op };
        run.unanswered.insert(n, report.clone());
        self.publish_report(id, token, report);
        n
    }

    fn publish_report(&mut self, id: &InstanceId, token: Token, report: Report) {
        let Some(key) = self.run_mut(id, &token).map(|r| r.key.clone()) else { return };
        self.publish(Queue::Reports, Input::Report { key, body: Ok(report) }, None);
    }

    /// What was not answered is published again.
    pub fn agent_repeats(&mut self, id: &InstanceId) {
        match self.asleep(id) {
            None => return,
            Some(0) => {}
            Some(more) => return self.after(more, Event::AgentRepeats(id.clone())),
        }
        let Some(instance) = self.agents.instances.get(id) else { return };
        let again: Vec<(Token, Report)> = instance
            .runs
            .iter()
            .flat_map(|(token, run)| run.unanswered.values().map(|report| (*token, report.clone())))
            .collect();
        for (token, report) in again {
            self.publish_report(id, token, report);
        }
        self.after(3_000, Event::AgentRepeats(id.clone()));
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
