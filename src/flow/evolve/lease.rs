//! How a lease begins and ends: slot, rate, lane and instance move together, here only.

use super::{Changes, Misfit, Revoked};
use crate::{
    flow::{entry::Lease, state::State, tasks::Slot},
    task::{Code, InstanceId, Millis, Step, Token},
};

impl State {
    pub(super) fn dispatch(
        &mut self,
        slot: Slot,
        attempt: u32,
        token: Token,
        instance: &InstanceId,
        lease_ms: Millis,
        resume: bool,
    ) -> Result<(), Misfit> {
        let (now, wall) = (self.now, self.wall);
        let known = &self.tasks[slot];
        let (number, agent, place, cost) = (known.tenant, known.agent, known.place(), known.more().cost);
        self.step(slot, Step::Dispatch)?;
        let tenant = self.tenant_at(number);
        let weight = tenant.plan.weight;
        tenant.in_flight += 1;
        let mut cells = (0, 0);
        if !resume {
            tenant.rate.charge(1, now);
            if cost > 0 && tenant.cells.charge(cost, now) {
                cells.0 = cost;
            }
            if let Some(own) = self.agents.at_mut(agent).and_then(|agent| agent.settings.as_deref_mut()) {
                own.rate.charge(1, now);
                if cost > 0 && own.cells.charge(cost, now) {
                    cells.1 = cost;
                }
            }
        }
        let queue = self.agents.at_mut(agent).map(|agent| agent.queue.get_or_insert_default());
        // An agent stays for as long as a task names it.
        let queue = queue.unwrap_or_else(|| unreachable!("agent {agent} is gone"));
        let charge = queue.start(number, place, weight);
        self.leases.insert(token, slot);
        let task = &mut self.tasks[slot];
        task.set_resumed(false);
        task.set_news(false);
        let lease =
            Lease { token, instance: instance.clone(), n: 0, lease_ms, since: now, charge, resume, cells };
        let ran = task.ran_mut();
        if ran.attempt == 0 {
            ran.started = wall;
        }
        ran.attempt = attempt;
        ran.lease = Some(Box::new(lease));
        self.bounds.put(slot, task);
        self.refresh(number, Some(agent));
        Ok(())
    }

    /// Takes the lease away from the task; slot and lane are settled.
    pub(super) fn release(&mut self, slot: Slot, token: Token, ran: bool) -> Result<Box<Lease>, Misfit> {
        let now = self.now;
        if self.lease_mut(slot, token).is_none() {
            return Err(self.no_lease(slot));
        }
        // The step that follows puts in again what is left of them.
        self.bounds.take(slot, &self.tasks[slot]);
        let task = &mut self.tasks[slot];
        let (number, agent) = (task.tenant, task.agent);
        let lease = task.ran_mut().lease.take();
        let lease = lease.unwrap_or_else(|| unreachable!("looked at above"));
        self.leases.remove(&token);
        let tenant = self.tenant_at(number);
        tenant.in_flight = tenant.in_flight.saturating_sub(1);
        let weight = tenant.plan.weight;
        if let Some(queue) = self.queue_at(agent) {
            let spent = ran.then(|| now.saturating_sub(lease.since));
            queue.settle(number, lease.charge, spent, weight);
        }
        self.refresh(number, Some(agent));
        Ok(lease)
    }

    /// Releases a lease its holder did not end.
    pub(super) fn revoke(
        &mut self,
        slot: Slot,
        token: Token,
        code: Code,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let lease = self.release(slot, token, code != Code::OfferLost)?;
        let task = &mut self.tasks[slot];
        // A resume that was withdrawn or stopped is still first in line.
        task.set_resumed(lease.resume && matches!(code, Code::OfferLost | Code::Paused));
        let agent = self.agent_of(&self.tasks[slot]).clone();
        changes.revoked.push(Revoked { token, agent, instance: lease.instance, code });
        Ok(())
    }
}
