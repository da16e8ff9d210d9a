//! What its handlers do: their scripts, step by step, and the reports they make of it.

use selvedge::{
    flow::input::Input,
    task::{InstanceId, Outcome, Payload, Spec, TaskKey, Token, WaitFor, child_id},
    wire::messages::{End, Report, ReportOp, Spawn},
};

use super::Run;
use crate::{
    behaviour::Op,
    bus::Queue,
    scenario::{Fault, Sight},
    world::{Event, World},
};

impl World {
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
}
