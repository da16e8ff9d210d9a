//! Which instances there are: met by their heartbeats, counted among their agent's, forgotten when silent.
//!
//! Touches the instances and the room of their agents. Of leases it knows only that one was heard of.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Live,
    instance::{Agent, Instance, MOST_AHEAD},
};
use crate::{
    flow::announced::Announced,
    task::{AgentName, InstanceId, Millis, Token},
    wire::{about::InstanceView, messages::Beat},
};

/// Instances remembered; beyond it unknown ones are not heard until silent ones are forgotten.
const MAX_INSTANCES: usize = 65_536;
/// Dead leases remembered per instance: no more slots than this are withheld from it.
const MAX_DEAD: usize = 4_096;

impl Live {
    /// An instance says this about itself; one that is not known is not heard.
    pub fn announced(&mut self, agent: &AgentName, id: &InstanceId, announced: &Arc<Announced>) {
        let Some(number) = self.number(agent, id) else { return };
        let said = self.announcements.add(agent, announced);
        let before =
            self.instance_mut(number).and_then(|instance| std::mem::replace(&mut instance.about, said));
        if let Some(before) = before {
            self.announcements.remove(agent, &before);
        }
    }

    /// Every instance, without its tasks.
    pub fn instances(&self) -> impl Iterator<Item = (&AgentName, InstanceView)> {
        self.instances.iter().flatten().filter_map(|instance| {
            let agent = self.agents.name(instance.agent)?;
            Some((agent, instance.view(self.hearing)))
        })
    }

    /// A heartbeat. Returns the tokens it lists that are over.
    pub fn beat(
        &mut self,
        agent: &AgentName,
        id: &InstanceId,
        beat: &Beat,
        is_live: impl Fn(&Token) -> bool,
    ) -> Vec<Token> {
        let listed: BTreeSet<Token> = beat.tokens.iter().copied().collect();
        let mut over = Vec::new();
        for token in &listed {
            if is_live(token) {
                self.heard(*token, agent, id);
            } else if !self.recent.contains(token) {
                over.push(*token);
            }
        }
        let known = self.number(agent, id);
        let calls = beat.calls.as_ref().is_some_and(|calls| !calls.is_empty());
        if beat.slots == 0 && listed.is_empty() && !calls {
            if let Some(number) = known {
                self.forget(number);
            }
            return over;
        }
        if known.is_none() && self.instances.len() - self.free.len() >= MAX_INSTANCES {
            return over;
        }
        let number = known.unwrap_or_else(|| self.meet(agent, id, beat.lease_ms));
        let hearing = self.hearing;
        if let Some(instance) = self.instance_mut(number) {
            instance.slots = beat.slots.min(100_000);
            instance.ahead = beat.ahead.min(instance.slots.max(16)).min(MOST_AHEAD);
            instance.lease_ms = beat.lease_ms.clamp(100, 24 * 3_600_000);
            instance.draining = beat.draining;
            instance.messages = beat.messages;
            instance.takes_calls = beat.calls.is_some();
            // Whoever takes none keeps none.
            instance.call_slots = if instance.takes_calls { beat.call_slots.min(instance.slots) } else { 0 };
            instance.suspected = false;
            instance.heard = hearing;
            instance.dead.retain(|token| listed.contains(token));
            let room = MAX_DEAD.saturating_sub(instance.dead.len());
            instance.dead.extend(over.iter().take(room).copied());
        }
        self.count_room(number);
        over
    }

    /// Whether an instance understands messages to tasks.
    pub fn takes_messages(&self, agent: &AgentName, id: &InstanceId) -> bool {
        self.number(agent, id).and_then(|number| self.instance(number)).is_some_and(|known| known.messages)
    }

    pub(super) fn number(&self, agent: &AgentName, id: &InstanceId) -> Option<u32> {
        self.agents.get(agent)?.instances.get(id).copied()
    }

    pub(super) fn instance_mut(&mut self, number: u32) -> Option<&mut Instance> {
        self.instances.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn instance(&self, number: u32) -> Option<&Instance> {
        self.instances.get(number as usize)?.as_ref()
    }

    /// An instance that was not known.
    pub(super) fn meet(&mut self, agent: &AgentName, id: &InstanceId, lease_ms: Millis) -> u32 {
        let known = self.agents.number(agent);
        let agent = known.unwrap_or_else(|| self.agents.insert(agent.clone(), Agent::default()));
        let number = self.free.pop().unwrap_or_else(|| {
            self.instances.push(None);
            (self.instances.len() - 1) as u32
        });
        self.instances[number as usize] = Some(Instance {
            agent,
            id: id.clone(),
            slots: 0,
            ahead: 0,
            lease_ms,
            heard: self.hearing,
            draining: false,
            messages: false,
            takes_calls: false,
            call_slots: 0,
            calls: 0,
            suspected: false,
            about: None,
            dead: BTreeSet::new(),
            leased: 0,
            room: 0,
            call_room: 0,
        });
        if let Some(agent) = self.agents.at_mut(agent) {
            agent.instances.insert(id.clone(), number);
        }
        number
    }

    /// Forgets an instance, or only its slots as long as it has leases.
    fn forget(&mut self, number: u32) {
        let Some(instance) = self.instance_mut(number) else { return };
        instance.slots = 0;
        instance.call_slots = 0;
        instance.ahead = 0;
        instance.dead.clear();
        let leased = instance.leased + instance.calls > 0;
        self.count_room(number);
        if leased {
            return;
        }
        let Some(instance) = self.instances.get_mut(number as usize).and_then(Option::take) else { return };
        self.free.push(number);
        if let (Some(about), Some(agent)) = (&instance.about, self.agents.name(instance.agent)) {
            self.announcements.remove(agent, about);
        }
        if let Some(agent) = self.agents.at_mut(instance.agent) {
            agent.instances.remove(&instance.id);
            if agent.instances.is_empty() {
                self.agents.remove(instance.agent);
            }
        }
    }

    /// Brings an instance's place among its agent's in line with what it takes.
    pub(super) fn count_room(&mut self, number: u32) {
        let Some(instance) = self.instances.get_mut(number as usize).and_then(Option::as_mut) else { return };
        let tasks = (instance.room, instance.rank());
        let calls = (instance.call_room, instance.call_rank());
        if tasks.0 == tasks.1 && calls.0 == calls.1 {
            return;
        }
        (instance.room, instance.call_room) = (tasks.1, calls.1);
        let Some(agent) = self.agents.at_mut(instance.agent) else { return };
        for ((old, new), room) in [(tasks, &mut agent.room), (calls, &mut agent.call_room)] {
            if old > 0 {
                room.remove(&(old, number));
            }
            if new > 0 {
                room.insert((new, number));
            }
        }
    }

    /// A dead lease's holder has let go of it.
    pub fn let_go(&mut self, agent: &AgentName, id: &InstanceId, token: Token) {
        // Most reports are of leases that live: nothing is looked up for them.
        if self.held.contains_key(&token) {
            return;
        }
        let Some(number) = self.number(agent, id) else { return };
        if self.instance_mut(number).is_some_and(|instance| instance.dead.remove(&token)) {
            self.count_room(number);
        }
    }

    /// The instance did not answer an offer.
    pub fn suspect(&mut self, agent: &AgentName, id: &InstanceId) {
        let Some(number) = self.number(agent, id) else { return };
        if let Some(instance) = self.instance_mut(number) {
            instance.suspected = true;
        }
        self.count_room(number);
    }

    /// Forgets instances not heard of for ten of their leases.
    pub fn forget_silent(&mut self) {
        let hearing = self.hearing;
        for number in 0..self.instances.len() as u32 {
            let silent = |i: &Instance| hearing.saturating_sub(i.heard) > i.lease_ms.saturating_mul(10);
            if self.instance(number).is_some_and(silent) {
                self.forget(number);
            }
        }
    }
}
