//! Permits: places in flight that calls draw on without an append of their own.
//!
//! The owner journals a block of places, and of starts charged to the rates, before the first call that needs it. Every cap
//! counts the places of a block as it counts leases, used or not, so that it holds at every prefix of the journal and after
//! a take-over, whoever answers which call then. Which call has which place is volatile: see [`super::calls`].

use serde::{Deserialize, Serialize};

use super::{
    fair::AgentQueue,
    record::Record,
    state::{Agent, State, Tenant},
};
use crate::task::{AgentName, Millis, TenantName};

/// What is held for a tenant's calls at an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Permit {
    /// Places: in flight of the tenant, of the tenant at the agent, of the agent and of the shard.
    #[serde(default)]
    pub places: u32,
    /// Places of calls that borrow their asker's: in flight at the agent only.
    #[serde(default)]
    pub borrowed: u32,
    /// The longest lease of an instance that may run them, in milliseconds: so long they count in full after a take-over.
    #[serde(default)]
    pub lease_ms: Millis,
}

impl Permit {
    /// Nothing is held.
    pub fn is_none(&self) -> bool {
        self.places == 0 && self.borrowed == 0
    }

    /// What counts at the agent.
    pub fn at_agent(&self) -> u32 {
        self.places + self.borrowed
    }
}

/// A tenant's, by agent. Few: only agents it calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Held {
    /// All its places.
    pub places: u32,
    by_agent: Vec<(u32, Permit)>,
}

impl Held {
    pub(super) fn at(&self, agent: u32) -> Permit {
        let found = self.by_agent.iter().find(|(number, _)| *number == agent);
        found.map(|(_, permit)| *permit).unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, Permit)> {
        self.by_agent.iter().copied()
    }

    fn set(&mut self, agent: u32, permit: Permit) {
        self.by_agent.retain(|(number, _)| *number != agent);
        if !permit.is_none() {
            self.by_agent.push((agent, permit));
        }
        self.places = self.by_agent.iter().map(|(_, permit)| permit.places).sum();
    }
}

impl Tenant {
    /// Places held for its calls.
    pub fn called(&self) -> u32 {
        self.permits.as_ref().map_or(0, |held| held.places)
    }

    /// Whether a task of it may be dispatched: below the cap, and not in a place that is kept for calls.
    pub fn has_place(&self) -> bool {
        let places = self.plan.task_places();
        self.in_flight < places && self.in_flight + self.called() < self.plan.in_flight
    }

    /// What is held for its calls at an agent.
    pub(super) fn permit_at(&self, agent: u32) -> Permit {
        self.permits.as_ref().map(|held| held.at(agent)).unwrap_or_default()
    }
}

impl Agent {
    /// Live leases, and places held for calls.
    pub fn occupied(&self) -> u32 {
        self.queue.as_deref().map_or(0, AgentQueue::in_flight) + self.called
    }
}

impl State {
    /// Live leases of the shard, and places held for calls.
    pub fn occupied(&self) -> u64 {
        self.leases.len() as u64 + self.called
    }

    /// Places held for calls, borrowed ones left out.
    pub fn call_places(&self) -> u64 {
        self.called
    }

    /// What is held for a tenant's calls at an agent.
    pub fn permit(&self, tenant: &TenantName, agent: &AgentName) -> Permit {
        let numbers = self.tenants.number(tenant).zip(self.agents.number(agent));
        let held = numbers.and_then(|(tenant, agent)| Some(self.tenants.at(tenant)?.permit_at(agent)));
        held.unwrap_or_default()
    }

    /// Whether the tenant has tasks at the agent, queued or running.
    pub(super) fn has_tasks_at(&self, tenant: &TenantName, agent: &AgentName) -> bool {
        let number = self.tenants.number(tenant);
        let queue = self.agents.get(agent).and_then(|agent| agent.queue.as_deref());
        number.zip(queue).is_some_and(|(number, queue)| queue.has_work(number))
    }

    /// All that is held, by tenant and agent.
    pub fn permits(&self) -> Vec<(&TenantName, &AgentName, Permit)> {
        let mut all = Vec::new();
        if self.called == 0 && self.callers == 0 {
            return all;
        }
        for (name, tenant) in self.tenants.iter() {
            for (agent, permit) in tenant.permits.iter().flat_map(|held| held.iter()) {
                all.extend(self.agents.name(agent).map(|agent| (name, agent, permit)));
            }
        }
        all.sort_by_key(|(tenant, agent, _)| (*tenant, *agent));
        all
    }

    /// How many more calls of a tenant the caps let in at an agent: with places of their own, and with borrowed ones.
    pub(super) fn rooms(&self, tenant: &TenantName, agent: &AgentName) -> (Room, Room) {
        let known = self.tenants.get(tenant);
        let Some(plan) = known.map(|tenant| tenant.plan.clone()).or_else(|| self.plan_of(tenant)) else {
            return (Room::None, Room::None);
        };
        let number = self.tenants.number(tenant);
        let at = self.agents.get(agent);
        let here = number.zip(at.and_then(|agent| agent.queue.as_deref()));
        let leased_here = here.map_or(0, |(number, queue)| queue.running_of(number));
        let held_here = self.permit(tenant, agent).at_agent();
        let own_cap = at.and_then(|agent| agent.settings.as_deref()).and_then(|own| own.settings.in_flight);
        let here = [
            Room::of(
                format!("tenant {tenant} at agent {agent}"),
                (leased_here + held_here).into(),
                plan.agent_in_flight.map(u64::from),
            ),
            Room::of(format!("agent {agent}"), at.map_or(0, Agent::occupied).into(), own_cap.map(u64::from)),
        ];
        let occupied = known.map_or(0, |tenant| tenant.in_flight + tenant.called());
        let all = [
            Room::of(format!("tenant {tenant}"), occupied.into(), Some(plan.in_flight.into())),
            Room::of("the shard".to_owned(), self.occupied(), Some(self.policy.in_flight)),
        ];
        let least =
            |rooms: &mut dyn Iterator<Item = Room>| rooms.min_by_key(Room::left).unwrap_or(Room::None);
        (least(&mut all.into_iter().chain(here.clone())), least(&mut here.into_iter()))
    }

    /// A block has changed.
    pub(super) fn set_permit(&mut self, tenant: u32, agent: u32, permit: Permit, starts: u32, used_ms: u32) {
        self.hold(tenant, agent, permit);
        // Before anything is charged: an idle tenant stands where its limiters put it.
        self.look_if_idle(tenant);
        if starts > 0 {
            let now = self.now;
            self.tenant_at(tenant).rate.charge(starts, now);
            if let Some(own) = self.agents.at_mut(agent).and_then(|agent| agent.settings.as_deref_mut()) {
                own.rate.charge(starts, now);
            }
        }
        if used_ms > 0 {
            let weight = self.tenant_at(tenant).plan.weight;
            if let Some(queue) = self.agents.at_mut(agent).and_then(|agent| agent.queue.as_deref_mut()) {
                queue.charge(tenant, used_ms.into(), weight);
            }
        }
        self.look_if_unused(agent);
        self.refresh(tenant, None);
    }

    /// Counts a block, instead of the one before.
    pub(super) fn hold(&mut self, tenant: u32, agent: u32, permit: Permit) {
        let known = self.tenant_at(tenant);
        let mut held = known.permits.take().unwrap_or_default();
        let (before, places) = (held.at(agent), held.places);
        held.set(agent, permit);
        let now_places = held.places;
        known.permits = (!held.by_agent.is_empty()).then_some(held);
        self.callers = self.callers + u64::from(!permit.is_none()) - u64::from(!before.is_none());
        self.called = self.called + u64::from(now_places) - u64::from(places);
        if let Some(agent) = self.agents.at_mut(agent) {
            agent.called = agent.called + permit.at_agent() - before.at_agent();
        }
    }
}

/// What a cap leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Room {
    /// There is no such tenant.
    None,
    /// Nothing limits it.
    Open,
    /// Whose cap, what is there, and what may be.
    Capped(String, u64, u64),
}

impl Room {
    fn of(whose: String, actual: u64, cap: Option<u64>) -> Self {
        cap.map_or(Self::Open, |cap| Self::Capped(whose, actual, cap))
    }

    /// How many more.
    pub fn left(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Open => u64::MAX,
            Self::Capped(_, actual, cap) => cap.saturating_sub(*actual),
        }
    }
}

/// The record of a block.
pub(super) fn record(
    tenant: &TenantName,
    agent: &AgentName,
    permit: Permit,
    starts: u32,
    used_ms: u32,
) -> Record {
    Record::Permits { tenant: tenant.clone(), agent: agent.clone(), permit, starts, used_ms }
}
