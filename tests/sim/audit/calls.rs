//! Calls: places that are held for them, and slot-time that is charged for them, a second time.

use selvedge::{
    flow::permits::Permit,
    task::{AgentName, TenantName},
};

use super::Audit;
use crate::{calls::at_agent, scenario::Sight};

/// Places held for calls.
#[derive(Debug, Default)]
pub(super) struct Called {
    pub(super) tenant: usize,
    pub(super) agent: usize,
    pub(super) here: usize,
    pub(super) all: usize,
}

impl Audit {
    /// Places held for calls, as they count against a tenant, an agent, both, and all.
    pub(super) fn called(&self, tenant: &TenantName, agent: &AgentName) -> Called {
        let mut called = Called::default();
        for ((of, at), permit) in &self.permits {
            called.all += permit.places as usize;
            called.tenant += if of == tenant { permit.places as usize } else { 0 };
            called.agent += if at == agent { at_agent(permit) } else { 0 };
            called.here += if of == tenant && at == agent { at_agent(permit) } else { 0 };
        }
        called
    }

    /// No more slot-time is charged for calls than was held for them, whoever owned the shard.
    pub(super) fn calls_used(
        &mut self,
        tenant: &TenantName,
        agent: &AgentName,
        used: u32,
    ) -> Result<(), String> {
        let key = (tenant.clone(), agent.clone());
        let places = self.permits.get(&key).map_or(0, |permit| u64::from(permit.places + permit.borrowed));
        let (left, at) = self.uncharged.entry(key).or_default();
        *left += places * (self.now - std::mem::replace(at, self.now));
        ensure!(u64::from(used) <= *left, "{used} ms of calls are charged, {left} ms were held");
        *left -= u64::from(used);
        self.sights.extend((used > 0).then_some(Sight::CallsCharged));
        Ok(())
    }

    /// A block of places for calls: more of them only below every cap, and starts only as the rates give them.
    pub(super) fn permitted(
        &mut self,
        tenant: &TenantName,
        agent: &AgentName,
        permit: Permit,
        starts: u32,
    ) -> Result<(), String> {
        let key = (tenant.clone(), agent.clone());
        let before = self.permits.get(&key).copied().unwrap_or_default();
        let (own, more) = (permit.places > before.places, permit.borrowed > before.borrowed);
        if !own && !more && starts == 0 {
            self.sights.push(Sight::PermitsGivenBack);
        }
        match permit.is_none() {
            true => self.permits.remove(&key),
            false => self.permits.insert(key, permit),
        };
        let plan = self.plan(tenant)?;
        let called = self.called(tenant, agent);
        let leases: usize = self.tenants.values().map(|tenant| tenant.in_flight.len()).sum();
        let (of, at) =
            (self.tenants.entry(tenant.clone()).or_default(), self.agents.entry(agent.clone()).or_default());
        if starts > 0 {
            of.rate.take(self.now, starts, "starts of a tenant")?;
            at.rate.take(self.now, starts, "starts of an agent")?;
        }
        if own {
            self.sights.push(Sight::PermitsGrown);
            let cap = self.policy.as_ref().map_or(0, |policy| policy.in_flight) as usize;
            ensure!(leases + called.all <= cap, "I6: {} in flight in all, cap {cap}", leases + called.all);
            let (all, cap) = (of.in_flight.len() + called.tenant, plan.in_flight as usize);
            ensure!(all <= cap, "I6: {all} in flight of {tenant}, cap {cap}");
            ensure!(!self.all.paused && !plan.paused && !at.settings.paused, "a call begins while paused");
        }
        if own || more {
            let here = of.in_flight.intersection(&at.in_flight).count() + called.here;
            let cap = plan.agent_in_flight.map_or(usize::MAX, |cap| cap as usize);
            ensure!(here <= cap, "I6: {here} of {tenant} at {agent}, cap {cap}");
            let there = at.in_flight.len() + called.agent;
            let cap = at.settings.in_flight.map_or(usize::MAX, |cap| cap as usize);
            ensure!(there <= cap, "I6: {there} at {agent}, cap {cap}");
        }
        Ok(())
    }
}
