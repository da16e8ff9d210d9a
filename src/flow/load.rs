//! How much work there is, by agent and by tenant, and what holds it back: for metrics and for scaling.
//!
//! Reads the state, changes nothing. Costs what there are lanes, so it is looked at every few seconds and not per task.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    gate::{Gate, seconds},
    live::{AgentSize, Live},
    state::State,
};
use crate::task::{AgentName, Millis, Plan, PlanName, TenantName};

/// What keeps queued tasks from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blocked {
    /// An operator has paused what they belong to.
    Paused,
    /// Their tenant, their agent or everything is at a cap of running tasks.
    InFlight,
    /// A rate, of dispatches or of cells.
    Rate,
    /// Nothing but a free slot: more instances would help.
    Slots,
}

impl Blocked {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Paused, Self::InFlight, Self::Rate, Self::Slots];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::InFlight => "in_flight",
            Self::Rate => "rate",
            Self::Slots => "slots",
        }
    }
}

/// One agent's work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLoad {
    /// Tasks that wait for a slot.
    pub queued: u64,
    /// Those of them that nothing but a free slot keeps waiting.
    pub runnable: u64,
    /// By what holds them back, in the order of [`Blocked::ALL`].
    pub blocked: [u64; 4],
    /// Live leases.
    pub running: u64,
    /// Since when the oldest of them waits: milliseconds since its admission.
    pub oldest: Option<Millis>,
    /// How long a task holds its slot, on average over the last ones; `None`: none has run yet.
    pub service: Option<Millis>,
    /// Its instances.
    pub size: AgentSize,
}

/// One tenant's work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantLoad {
    /// Tasks that wait for a slot.
    pub queued: u64,
    /// Live leases.
    pub running: u64,
    /// See [`AgentLoad::oldest`].
    pub oldest: Option<Millis>,
}

/// What waits for nothing but a slot, of all tenants of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanLoad {
    /// Since when the oldest of them waits: milliseconds since its admission.
    pub oldest: Option<Millis>,
    /// How soon they should have started, by the plan.
    pub target: Option<Millis>,
    /// How much longer than its tenant's target one of them waits already, in milliseconds.
    pub late: Millis,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Agents that have work, or instances.
    pub agents: HashMap<AgentName, AgentLoad>,
    /// Tenants with lanes.
    pub tenants: HashMap<TenantName, TenantLoad>,
    /// All plans.
    pub plans: HashMap<PlanName, PlanLoad>,
}

/// Looks at every lane.
pub fn load(state: &State, live: &Live) -> Load {
    let target = |(name, (plan, _)): (&PlanName, &(Plan, u64))| {
        (name.clone(), PlanLoad { target: plan.target_ms, ..PlanLoad::default() })
    };
    let mut load = Load { plans: state.plans.iter().map(target).collect(), ..Load::default() };
    let now = seconds(state.clock_now());
    let shut = state.is_shut();
    for (name, agent) in state.agents().iter() {
        let Some(queue) = agent.queue.as_deref() else { continue };
        let gate = state.gate(agent);
        let paused = state.all.0.paused || agent.settings.as_ref().is_some_and(|own| own.settings.paused);
        let of = load.agents.entry(name.clone()).or_default();
        of.running = u64::from(queue.in_flight());
        of.service = queue.service();
        for (number, queued, running, since) in queue.lanes_of() {
            let Some(tenant) = state.tenants().at(number) else { continue };
            let why = match (gate, tenant.open) {
                _ if paused || tenant.is_paused() => Blocked::Paused,
                (Gate::Shut, _) => Blocked::InFlight,
                _ if shut => Blocked::InFlight,
                (_, open) if !open.slot => Blocked::InFlight,
                (Gate::Resumes(_), _) => Blocked::Rate,
                (_, open) if !open.rate || !open.cells => Blocked::Rate,
                _ => Blocked::Slots,
            };
            let age = since.map(|since| Millis::from(now.saturating_sub(since)) * 1_000);
            of.queued += queued;
            // Beyond the tenant's cap a free slot would not help.
            let room = tenant.plan.in_flight.saturating_sub(tenant.in_flight + tenant.called());
            let room = u64::from(room);
            let runnable = if why == Blocked::Slots { queued.min(room) } else { queued };
            of.blocked[why as usize] += runnable;
            of.blocked[Blocked::InFlight as usize] += queued - runnable;
            of.oldest = of.oldest.max(age);
            let plan = tenant.settings.as_ref().map(|own| &own.plan).or(state.policy.default_plan.as_ref());
            if let Some(plan) = plan.filter(|_| why == Blocked::Slots) {
                let of = load.plans.entry(plan.clone()).or_default();
                of.oldest = of.oldest.max(age);
                let late =
                    age.zip(tenant.plan.target_ms).map_or(0, |(age, target)| age.saturating_sub(target));
                of.late = of.late.max(late);
            }
            let tenant = load.tenants.entry(state.tenant_name(number).clone()).or_default();
            tenant.queued += queued;
            tenant.running += running;
            tenant.oldest = tenant.oldest.max(age);
        }
        let cap = agent.settings.as_ref().and_then(|own| own.settings.in_flight);
        let room = cap.map_or(u64::MAX, |cap| u64::from(cap.saturating_sub(agent.occupied())));
        of.runnable = of.blocked[Blocked::Slots as usize].min(room);
    }
    for (name, size) in live.agents() {
        load.agents.entry(name.clone()).or_default().size = size;
    }
    load
}

/// How many instances an agent should have, by its queue alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// How soon what waits should have run.
    pub target: Millis,
    /// Slots of an instance, where none is there to tell.
    pub slots: u64,
    /// Never fewer.
    pub min: u64,
    /// Never more.
    pub max: u64,
}

impl Scale {
    /// As many slots as run now, and as many more as work off within the target what nothing but a slot keeps waiting;
    /// one instance more than there is if the oldest has waited longer than the target and no slot is free. Tasks held
    /// back by limits call for nobody: another instance would not run them.
    pub fn desired(&self, load: &AgentLoad) -> u64 {
        let per_instance = match (load.size.instances as u64, load.size.task_slots()) {
            (0, _) | (_, 0) => self.slots.max(1),
            (instances, slots) => slots.div_ceil(instances),
        };
        let service = load.service.unwrap_or(self.target).max(1);
        let work = load.runnable.saturating_mul(service).div_ceil(self.target.max(1)).min(load.runnable);
        let mut wanted = (load.running + work).div_ceil(per_instance);
        let late = load.oldest.is_some_and(|age| age > self.target);
        if load.runnable > 0 && late && load.size.free == 0 {
            let enough = (load.running + load.runnable).div_ceil(per_instance);
            wanted = wanted.max(load.size.instances as u64 + 1).min(enough);
        }
        wanted.clamp(self.min, self.max.max(self.min))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: Scale = Scale { target: 30_000, slots: 4, min: 0, max: 100 };

    fn load(runnable: u64, running: u64, instances: usize) -> AgentLoad {
        let slots = 4 * instances as u64;
        AgentLoad {
            queued: runnable,
            runnable,
            running,
            service: Some(3_000),
            size: AgentSize { instances, slots, free: slots.saturating_sub(running), ..AgentSize::default() },
            ..AgentLoad::default()
        }
    }

    #[test]
    fn depth_and_service_time_decide_and_limits_call_for_nobody() {
        assert_eq!(SCALE.desired(&load(0, 0, 0)), 0);
        assert_eq!(SCALE.desired(&load(1, 0, 0)), 1, "from nothing");
        assert_eq!(SCALE.desired(&load(0, 8, 3)), 2, "what runs keeps its slots");
        // 400 tasks of 3 s within 30 s: 40 slots.
        assert_eq!(SCALE.desired(&load(400, 0, 1)), 10);
        assert_eq!(SCALE.desired(&AgentLoad { service: Some(300), ..load(400, 0, 1) }), 1);
        // Of 40-minute tasks each has a slot, and no more.
        assert_eq!(SCALE.desired(&AgentLoad { service: Some(2_400_000), ..load(7, 1, 1) }), 2);
        let held = AgentLoad { runnable: 0, blocked: [0, 400, 0, 0], ..load(400, 4, 1) };
        assert_eq!(SCALE.desired(&held), 1);
        assert_eq!(SCALE.desired(&load(1_000_000, 0, 1)), 100, "the cap");
        assert_eq!(Scale { min: 2, ..SCALE }.desired(&load(0, 0, 0)), 2);
    }

    #[test]
    fn a_task_that_is_late_calls_for_one_more_though_the_average_says_no() {
        let late = AgentLoad { oldest: Some(31_000), service: Some(1), ..load(3, 4, 1) };
        assert_eq!(SCALE.desired(&late), 2);
        assert_eq!(
            SCALE.desired(&AgentLoad { oldest: Some(29_000), ..late.clone() }),
            2,
            "4 run, and one more slot"
        );
        let room = AgentLoad { size: AgentSize { free: 1, ..late.size }, ..late };
        assert_eq!(SCALE.desired(&room), 2);
    }
}
