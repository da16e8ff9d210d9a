//! Dispatch: a task is offered only to an instance with a free slot; whatever waits, waits here.

use super::{input::Entropy, live::Live, record::Record, state::State, tasks::Slot, times};
use crate::{
    task::{AgentName, InstanceId, Payload},
    wire::messages::Offer,
};

/// The next dispatch, if a slot is free for an admissible task; what should have started or ended before expires instead.
pub fn next(state: &State, live: &mut Live, entropy: &mut dyn Entropy) -> Option<Record> {
    if state.is_shut() {
        return None;
    }
    // Agents whose instances are all busy are passed over at once.
    let mut from = 0;
    loop {
        let (agent, name) = live.agent_with_room(from)?;
        if let Some(slot) = state.next_of(name)
            && let Some((instance, lease_ms)) = live.freest(agent)
        {
            if let Some(expired) = times::overdue(state, slot) {
                return Some(expired);
            }
            let task = &state.tasks[slot];
            return Some(Record::Dispatched {
                key: state.key_of(task),
                attempt: task.attempt() + 1,
                token: entropy.token(),
                instance,
                lease_ms,
                resume: task.resumed(),
            });
        }
        from = agent + 1;
    }
}

/// What an instance is to be told, or which journal message must be read before it can be.
pub enum Ready {
    /// To whom, and what.
    Offer(AgentName, InstanceId, Box<Offer>),
    /// The input is not in memory: it stands in the message of this revision.
    Load(u64),
}

/// What an instance needs to run the task's current lease.
pub fn offer(state: &State, slot: Slot) -> Option<Ready> {
    let task = state.tasks.get(slot)?;
    let lease = task.lease()?;
    let input = match (task.input.rev(), state.resident.input(slot)) {
        (None, _) => Payload::default(),
        (Some(_), Some(input)) => input.clone(),
        (Some(rev), None) => return Some(Ready::Load(rev)),
    };
    let agent = state.agent_of(task).clone();
    let (deadline_at, time_left_ms) = times::left(state, task);
    let offer = Offer {
        tenant: state.tenant_name(task.tenant).clone(),
        task: task.id.clone(),
        attempt: task.attempt(),
        token: lease.token,
        lease_ms: lease.lease_ms,
        tries: task.tries(),
        parent: task.parent().cloned(),
        root: task.root().clone(),
        depth: task.depth(),
        children: task.more().children.len() as u32,
        recorded: task.history().map_or(0, |history| history.entries().len() as u32),
        told: task.history().map_or(0, |history| history.count_told()),
        deadline_at,
        time_left_ms,
        hops: task.more().hops,
        input,
    };
    Some(Ready::Offer(agent, lease.instance.clone(), Box::new(offer)))
}
