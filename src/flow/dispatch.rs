//! Dispatch: a task is offered only to an instance with a free slot; whatever waits, waits here.

use super::{input::Entropy, live::Live, record::Record, state::State};
use crate::{
    task::{AgentName, TaskKey},
    wire::messages::Offer,
};

/// The next dispatch, if a slot is free for an admissible task.
pub fn next(state: &State, live: &Live, entropy: &mut dyn Entropy) -> Option<Record> {
    for (agent, _) in live.agents() {
        if let Some(record) = for_agent(state, live, agent, entropy) {
            return Some(record);
        }
    }
    None
}

fn for_agent(state: &State, live: &Live, agent: &AgentName, entropy: &mut dyn Entropy) -> Option<Record> {
    let queue = state.queues().get(agent)?;
    let (tenant, (_, _, id)) = queue.next()?;
    let (instance, lease_ms) = live.freest(agent, |instance| state.leases_of(agent, instance))?;
    let key = TaskKey { tenant: tenant.clone(), id: id.clone() };
    let task = state.task(&key)?;
    Some(Record::Dispatched {
        attempt: task.attempt + 1,
        token: entropy.token(),
        instance: instance.clone(),
        lease_ms,
        resume: task.resumed,
        key,
    })
}

/// What an instance needs to run the task's current lease.
pub fn offer(state: &State, key: &TaskKey) -> Option<Offer> {
    let task = state.task(key)?;
    let lease = task.lease.as_ref()?;
    Some(Offer {
        tenant: key.tenant.clone(),
        task: key.id.clone(),
        attempt: task.attempt,
        token: lease.token,
        lease_ms: lease.lease_ms,
        tries: task.tries,
        parent: task.parent().cloned(),
        root: task.root(&key.id).clone(),
        depth: task.depth(),
        children: task.children.len() as u32,
        input: task.spec.input.clone(),
    })
}
