//! Who has room: for a task, for a call, and how much of it there is in all.
//!
//! Reads the instances; touches what calls take of them, and the place of one that has gone quiet.

use super::{
    Live,
    instance::{Agent, AgentSize},
};
use crate::task::{AgentName, InstanceId, Millis};

impl Live {
    /// The first agent from `from` on with an instance that may have a free slot.
    pub fn agent_with_room(&self, from: u32) -> Option<(u32, &AgentName)> {
        (from..self.agents.places()).find_map(|number| {
            let room = !self.agents.at(number)?.room.is_empty();
            Some((number, self.agents.name(number)?)).filter(|_| room)
        })
    }

    /// The instance of an agent with the most free slots, if one has any.
    pub fn freest(&mut self, agent: u32) -> Option<(InstanceId, Millis)> {
        loop {
            let (rank, number) = *self.agents.at(agent)?.room.last()?;
            let instance = self.instance(number)?;
            if !instance.is_quiet(self.hearing) {
                return Some((instance.id.clone(), instance.lease_ms));
            }
            // It comes back with its next heartbeat.
            self.agents.at_mut(agent)?.room.remove(&(rank, number));
            self.instance_mut(number)?.room = 0;
        }
    }

    /// The instance of an agent that takes calls and has the most free slots, if one has any.
    pub fn freest_taker(&self, agent: &AgentName) -> Option<(InstanceId, Millis)> {
        let room = &self.agents.get(agent)?.call_room;
        let mut takers = room.iter().rev().filter_map(|(_, number)| self.instance(*number));
        let found = takers.find(|instance| !instance.is_quiet(self.hearing))?;
        Some((found.id.clone(), found.lease_ms))
    }

    /// Whether an instance of the agent that takes calls is there, free or not.
    pub fn has_takers(&self, agent: &AgentName) -> bool {
        let numbers = self.agents.get(agent).into_iter().flat_map(|agent| agent.instances.values());
        let mut instances = numbers.filter_map(|number| self.instance(*number));
        instances.any(|found| {
            found.takes_calls && found.slots > 0 && !found.draining && !found.is_quiet(self.hearing)
        })
    }

    /// A call takes a slot.
    pub fn begin_call(&mut self, agent: &AgentName, id: &InstanceId) {
        let number = self.number(agent, id).unwrap_or_else(|| self.meet(agent, id, 0));
        if let Some(instance) = self.instance_mut(number) {
            instance.calls += 1;
        }
        self.count_room(number);
    }

    /// A call's slot is free.
    pub fn end_call(&mut self, agent: &AgentName, id: &InstanceId) {
        let Some(number) = self.number(agent, id) else { return };
        if let Some(instance) = self.instance_mut(number) {
            instance.calls = instance.calls.saturating_sub(1);
        }
        self.count_room(number);
    }

    /// Whether nothing was heard of an instance for its lease.
    pub fn is_lost(&self, agent: &AgentName, id: &InstanceId) -> bool {
        let instance = self.number(agent, id).and_then(|number| self.instance(number));
        instance.is_none_or(|instance| instance.heard + instance.lease_ms <= self.hearing)
    }

    /// Whether an instance of the agent has a free slot.
    pub fn has_room(&self, agent: &AgentName) -> bool {
        let Some(agent) = self.agents.get(agent) else { return false };
        agent.room.iter().any(|(_, number)| self.instance(*number).is_some_and(|i| !i.is_quiet(self.hearing)))
    }

    /// What there is of each agent of which some instance was heard.
    pub fn agents(&self) -> impl Iterator<Item = (&AgentName, AgentSize)> {
        self.agents.iter().map(|(name, agent)| (name, self.size(agent)))
    }

    /// What there is of an agent.
    pub fn size_of(&self, agent: &AgentName) -> AgentSize {
        self.agents.get(agent).map_or_else(AgentSize::default, |agent| self.size(agent))
    }

    fn size(&self, agent: &Agent) -> AgentSize {
        let mut size = AgentSize { instances: agent.instances.len(), ..AgentSize::default() };
        for instance in agent.instances.values().filter_map(|number| self.instance(*number)) {
            size.slots += u64::from(instance.slots);
            size.call_slots += u64::from(instance.call_slots);
            if instance.is_quiet(self.hearing) {
                size.quiet += 1;
                continue;
            }
            size.free += u64::from(instance.free());
            size.draining += usize::from(instance.draining || instance.slots == 0);
            size.suspected += usize::from(instance.suspected && !instance.draining && instance.slots > 0);
        }
        size
    }
}
