//! How a lease begins and ends: slot, rate, lane and instance move together, here only.

use super::{Changes, Misfit};
use crate::{
    flow::state::{Lease, State},
    task::{Code, InstanceId, Millis, Step, TaskKey, Token},
};

impl State {
    pub(super) fn dispatch(
        &mut self,
        key: &TaskKey,
        attempt: u32,
        token: Token,
        instance: &InstanceId,
        lease_ms: Millis,
        resume: bool,
    ) -> Result<(), Misfit> {
        let (now, wall) = (self.now, self.wall);
        let known = self.tasks.get(key).ok_or_else(|| Misfit::NoTask(key.clone()))?;
        let (agent, place) = (known.spec.agent.clone(), known.place(&key.id));
        self.step(key, Step::Dispatch)?;
        let tenant = self.tenant_mut(&key.tenant);
        let weight = tenant.plan.weight;
        tenant.in_flight.insert(token);
        if !resume {
            let (rate, burst) = (tenant.plan.rate, tenant.plan.burst);
            tenant.rate.charge(rate, burst, now);
            tenant.rate_at = tenant.rate.peek(rate, burst, now).err().unwrap_or(now);
        }
        let queue = self.queues.entry(agent.clone()).or_default();
        let charge = queue.start(&key.tenant, &place, token, weight);
        self.leases.insert(token, key.clone());
        self.instances.entry((agent, instance.clone())).or_default().insert(token);
        let task = self.task_mut(key)?;
        task.attempt = attempt;
        task.resumed = false;
        task.news = false;
        task.started.get_or_insert(wall);
        task.lease =
            Some(Lease { token, instance: instance.clone(), n: 0, lease_ms, since: now, charge, resume });
        self.refresh(&key.tenant);
        Ok(())
    }

    /// Takes the lease away from the task; slot and lane are settled.
    pub(super) fn release(&mut self, key: &TaskKey, token: Token, ran: bool) -> Result<Lease, Misfit> {
        let now = self.now;
        let task = self.tasks.get_mut(key).ok_or_else(|| Misfit::NoTask(key.clone()))?;
        let lease = match task.lease.take() {
            Some(lease) if lease.token == token => lease,
            other => {
                task.lease = other;
                return Err(Misfit::NoLease(key.clone()));
            }
        };
        let agent = task.spec.agent.clone();
        self.leases.remove(&token);
        let holder = (agent.clone(), lease.instance.clone());
        if let Some(tokens) = self.instances.get_mut(&holder) {
            tokens.remove(&token);
            if tokens.is_empty() {
                self.instances.remove(&holder);
            }
        }
        let tenant = self.tenant_mut(&key.tenant);
        tenant.in_flight.remove(&token);
        let weight = tenant.plan.weight;
        if let Some(queue) = self.queues.get_mut(&agent) {
            let spent = ran.then(|| now.saturating_sub(lease.since));
            queue.settle(&key.tenant, token, lease.charge, spent, weight);
        }
        self.refresh(&key.tenant);
        Ok(lease)
    }

    /// Releases a lease its holder did not end.
    pub(super) fn revoke(
        &mut self,
        key: &TaskKey,
        token: Token,
        code: Code,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let lease = self.release(key, token, code != Code::OfferLost)?;
        let task = self.task_mut(key)?;
        // A resume that was withdrawn or lost is still first in line.
        task.resumed = lease.resume && code == Code::OfferLost;
        changes.revoked.push((token, task.spec.agent.clone(), lease.instance, code));
        Ok(())
    }
}
