//! Who may be dispatched now: the gates of tenants, of agents and of everything, and when they open by themselves.
//!
//! A tenant's gate decides which of its lanes stand in their queues' ready sets: `State::refresh` brings them in line
//! whenever something of it changes, and a limiter that says "not before" puts the tenant into `rate_waits`. An agent's
//! gate, and that of everything, is looked at when a task is picked: while it is shut the whole queue sleeps, untouched.
//! Nothing polls: [`State::next_due`] names the next moment at which a gate opens.
//!
//! Called by `dispatch`, which picks, and by `evolve`, after every change. In-flight counts are the live leases and the
//! places held for calls.

use super::{
    fair::Ageing,
    state::{Agent, Governed, Open, State},
    tasks::Slot,
};
use crate::task::{AgentName, Millis};

/// What an agent's own limits let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Everything.
    Open,
    /// Parents whose wait is over, everything from this time on.
    Resumes(Millis),
    /// Nothing until an operator says so or a lease ends.
    Shut,
}

/// Logical seconds from 1, as age is counted.
pub(super) fn seconds(now: Millis) -> u32 {
    u32::try_from(now / 1_000 + 1).unwrap_or(u32::MAX)
}

impl State {
    /// How age raises a class, now.
    pub fn ageing(&self) -> Ageing {
        let step = u32::try_from(self.policy.ageing_ms / 1_000).unwrap_or(u32::MAX);
        Ageing { now: seconds(self.clock_now()), step }
    }

    /// Whether nothing at all is dispatched now.
    pub fn is_shut(&self) -> bool {
        self.all.0.paused || self.occupied() >= self.policy.in_flight
    }

    /// What an agent's own limits let pass now.
    pub fn gate(&self, agent: &Agent) -> Gate {
        let Some(own) = agent.settings.as_deref() else { return Gate::Open };
        let in_flight = agent.occupied();
        if own.settings.paused || own.settings.in_flight.is_some_and(|cap| in_flight >= cap) {
            return Gate::Shut;
        }
        let at = own.rate.free_at(1).max(self.cells_at(agent, own));
        if at > self.clock_now() { Gate::Resumes(at) } else { Gate::Open }
    }

    /// When an agent has the cells its next task needs.
    pub(super) fn cells_at(&self, agent: &Agent, own: &Governed) -> Millis {
        if own.cells.quota().is_none() {
            return 0;
        }
        let next = agent.queue.as_ref().and_then(|queue| queue.next(self.ageing()));
        next.map_or(0, |(_, slot)| own.cells.free_at(self.tasks[slot].reserves()))
    }

    /// The task to dispatch next at an agent, if one may be.
    pub(super) fn next_of(&self, name: &AgentName) -> Option<Slot> {
        let agent = self.agents.get(name)?;
        let queue = agent.queue.as_deref().filter(|queue| queue.has_ready())?;
        let next = match self.gate(agent) {
            Gate::Open => queue.next(self.ageing()),
            Gate::Resumes(_) => queue.next_resume(),
            Gate::Shut => None,
        };
        next.map(|(_, slot)| slot)
    }

    /// The next logical time at which something is due by itself.
    pub fn next_due(&self) -> Option<Millis> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let tenant = self.rate_waits.first().map(|(at, _)| *at);
        let agents = self.limited.iter().filter_map(|number| {
            let agent = self.agents.at(*number)?;
            match self.gate(agent) {
                Gate::Resumes(at) if agent.queue.as_ref()?.has_ready() => Some(at),
                _ => None,
            }
        });
        let bound = self.bounds.next_logical();
        timer.into_iter().chain(tenant).chain(bound).chain(agents).filter(|at| *at < Millis::MAX).min()
    }

    /// Serves what became due by time alone: tenants whose limiters have cells again. Derived data only.
    pub fn advance(&mut self, now: Millis, wall: Millis) {
        self.clock = self.clock.max(now);
        self.wall_clock = wall;
        while let Some((at, _)) = self.rate_waits.first()
            && *at <= self.clock
        {
            if let Some((_, tenant)) = self.rate_waits.pop_first() {
                self.refresh(tenant, None);
            }
        }
    }

    /// The cells that the most expensive of a tenant's next tasks sets aside. All its lanes wait until they are there, so
    /// that cheap tasks never keep an expensive one waiting for good.
    pub(super) fn cells_needed(&self, number: u32) -> u32 {
        let Some(tenant) = self.tenants.at(number).filter(|tenant| tenant.cells.quota().is_some()) else {
            return 0;
        };
        let most = tenant.agents.iter().map(|agent| self.dearest(number, *agent));
        most.max().unwrap_or(0)
    }

    /// The most that one of the tasks that are next in a lane sets aside.
    pub(super) fn dearest(&self, tenant: u32, agent: u32) -> u32 {
        let queue = self.agents.at(agent).and_then(|agent| agent.queue.as_deref());
        let fronts = queue.into_iter().flat_map(|queue| queue.fronts_of(tenant));
        fronts.map(|slot| self.tasks[slot].reserves()).max().unwrap_or(0)
    }

    /// Brings the tenant's readiness in line with its limits: on every agent it has a lane of if that has changed, else on
    /// the one whose lane has.
    pub(super) fn refresh(&mut self, number: u32, changed: Option<u32>) {
        if let Some(agent) = changed {
            self.note_lane(number, agent);
        }
        let clock = self.clock;
        let needed = self.cells_needed(number);
        let Some(tenant) = self.tenants.at_mut(number) else { return };
        let rate_at = tenant.rate.free_at(1);
        let cells_at = tenant.cells.free_at(needed);
        let open = Open {
            slot: !tenant.is_paused() && tenant.has_place(),
            rate: rate_at <= clock,
            cells: cells_at <= clock,
        };
        // With cells limited, what one lane needs decides about the others.
        let alone = tenant.open == open && tenant.cells.quota().is_none();
        tenant.open = open;
        let at = if open.rate { cells_at } else { rate_at };
        if tenant.waits() && open.slot && at > clock && at < Millis::MAX {
            self.rate_waits.insert((at, number));
        }
        match changed.filter(|_| alone) {
            Some(agent) => self.tell_lane(number, agent),
            None => {
                let lanes = self.tenants.at(number).map_or(0, |tenant| tenant.agents.len());
                for at in 0..lanes {
                    if let Some(agent) = self.tenants.at(number).and_then(|t| t.agents.get(at).copied()) {
                        self.tell_lane(number, agent);
                    }
                }
                // A lane that has just become empty stands in the list no more, and is told all the same.
                if let Some(agent) = changed {
                    self.tell_lane(number, agent);
                }
            }
        }
    }

    /// The list of agents a tenant has tasks queued at.
    fn note_lane(&mut self, number: u32, agent: u32) {
        let queued = self.agents.at(agent).and_then(|agent| agent.queue.as_deref());
        let queued = queued.is_some_and(|queue| queue.queued_of(number) > 0);
        let Some(tenant) = self.tenants.at_mut(number) else { return };
        match (queued, tenant.agents.iter().position(|known| *known == agent)) {
            (false, Some(at)) => {
                tenant.agents.swap_remove(at);
            }
            (true, None) => tenant.agents.push(agent),
            _ => {}
        }
    }

    /// Tells a lane what its tenant's limits, and its own, let pass.
    fn tell_lane(&mut self, number: u32, agent: u32) {
        let Some(tenant) = self.tenants.at(number) else { return };
        let (open, cap) = (tenant.open, tenant.plan.agent_in_flight);
        let called = tenant.permit_at(agent).at_agent();
        let cells = open.cells || self.dearest(number, agent) == 0;
        let Some(queue) = self.queue_at(agent) else { return };
        let slot = open.slot && cap.is_none_or(|cap| queue.running_of(number) + called < cap);
        queue.set_open(number, slot && open.rate && cells, slot);
    }
}
