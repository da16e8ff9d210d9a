//! The operator: limits that change, schedules, pauses and stops; and everything let go again when faults are over.

use selvedge::{
    flow::input::Input,
    task::{
        AgentName, AgentSettings, AllSettings, Missed, Overrides, Per, Plan, PlanName, Priority,
        ScheduleName, ScheduleSettings, TaskKey, TenantName, TenantSettings,
    },
    wire::messages::CmdOp,
};

use super::{Clients, TENANTS, agent, tenant};
use crate::{
    behaviour::Behaviour,
    coordinators::Role,
    rng::Rng,
    scenario::Fault,
    world::{Event, World},
};

/// Limits of an agent that let all of a run's tasks through in time.
pub(super) fn some_settings(rng: &mut Rng) -> AgentSettings {
    AgentSettings {
        in_flight: rng.per_mille(500).then(|| rng.between(1, 6) as u32),
        rate: rng.per_mille(600).then(|| rng.between(120, 900) as u32),
        per: Per::Minute,
        burst: None,
        cells: rng.per_mille(600).then(|| rng.between(30_000, 120_000) as u32),
        cells_burst: None,
        paused: false,
        stopped: false,
    }
}

/// With bursts of their own.
pub(super) fn with_bursts(mut settings: AgentSettings, rng: &mut Rng) -> AgentSettings {
    settings.burst = settings.rate.map(|_| rng.between(1, 15) as u32);
    settings.cells_burst = settings.cells.map(|_| rng.between(300, 2_000) as u32);
    settings
}

impl Clients {
    /// What the limits bucket holds.
    pub fn limits(&self) -> Vec<Input> {
        let plans = self.plans.iter().map(|(name, (plan, kv_rev))| Input::Plan {
            name: name.clone(),
            plan: Some(plan.clone()),
            kv_rev: *kv_rev,
        });
        let tenants = self.tenants.iter().map(|(name, (settings, kv_rev))| Input::Tenant {
            name: name.clone(),
            settings: Some(settings.clone()),
            kv_rev: *kv_rev,
        });
        let schedules = self.schedules.iter().map(|(name, (settings, kv_rev))| Input::Schedule {
            name: name.clone(),
            settings: settings.clone().map(Box::new),
            kv_rev: *kv_rev,
        });
        let agents = self.agents.iter().map(|(name, (settings, kv_rev))| Input::Agent {
            name: name.clone(),
            settings: settings.clone(),
            kv_rev: *kv_rev,
        });
        let all = Input::All { settings: self.all.0, kv_rev: self.all.1 };
        let all = (self.all.1 > 0).then_some(all);
        plans.chain(tenants).chain(schedules).chain(agents).chain(all).collect()
    }
}

impl World {
    fn tell_limits(&mut self, input: Input) {
        for who in 0..self.coordinators.len() {
            if self.coordinators[who].role == Role::Owner
                && let Some(engine) = self.coordinators[who].engine.as_mut()
            {
                engine.push(input.clone(), None);
                self.wake_coordinator(who, 1);
            }
        }
    }

    fn set_plan(&mut self, name: &PlanName, plan: Plan) {
        self.clients.kv_rev += 1;
        let kv_rev = self.clients.kv_rev;
        self.clients.plans.insert(name.clone(), (plan.clone(), kv_rev));
        self.tell_limits(Input::Plan { name: name.clone(), plan: Some(plan), kv_rev });
    }

    fn set_tenant(&mut self, name: &TenantName, settings: TenantSettings) {
        self.clients.kv_rev += 1;
        let kv_rev = self.clients.kv_rev;
        self.clients.tenants.insert(name.clone(), (settings.clone(), kv_rev));
        self.tell_limits(Input::Tenant { name: name.clone(), settings: Some(settings), kv_rev });
    }

    fn set_schedule(&mut self, at: u64, settings: Option<ScheduleSettings>) {
        self.clients.kv_rev += 1;
        let kv_rev = self.clients.kv_rev;
        let name = ScheduleName::new(format!("s{at}")).unwrap();
        self.clients.schedules.insert(name.clone(), (settings.clone(), kv_rev));
        self.tell_limits(Input::Schedule { name, settings: settings.map(Box::new), kv_rev });
    }

    /// A schedule is set, changed, paused or removed.
    fn operator_schedules(&mut self) {
        let mut rng = self.clients.rng.clone();
        let behaviour = Behaviour {
            seed: rng.next(),
            levels: 0,
            fan: 1,
            plain: 1,
            timed: 0,
            metered: false,
            talks: false,
        };
        let settings = ScheduleSettings {
            cron: (*rng.pick(&["* * * * *", "*/5 * * * *"])).to_owned(),
            tz: (*rng.pick(&["UTC", "Asia/Tokyo"])).to_owned(),
            tenant: tenant(rng.below(TENANTS as u64) as usize),
            agent: behaviour.agent(),
            input: behaviour.payload(),
            priority: Priority::Normal,
            max_tries: None,
            times: None,
            cost: None,
            missed: *rng.pick(&[Missed::Skip, Missed::Once, Missed::All]),
            paused: rng.per_mille(100),
            labels: behaviour.spec().labels,
        };
        self.asked_for(&settings.spec());
        let at = rng.below(3);
        // A removed one has no memory of what it fired but the tasks' ids.
        let removed = rng.per_mille(100) && !self.scenario.has(Fault::Forgetful);
        let settings = (!removed).then_some(settings);
        self.clients.rng = rng;
        self.set_schedule(at, settings);
    }

    fn set_agent(&mut self, name: &AgentName, settings: Option<AgentSettings>) {
        self.clients.kv_rev += 1;
        let kv_rev = self.clients.kv_rev;
        self.clients.agents.insert(name.clone(), (settings.clone(), kv_rev));
        self.tell_limits(Input::Agent { name: name.clone(), settings, kv_rev });
    }

    fn set_all(&mut self, settings: AllSettings) {
        self.clients.kv_rev += 1;
        let kv_rev = self.clients.kv_rev;
        self.clients.all = (settings, kv_rev);
        self.tell_limits(Input::All { settings, kv_rev });
    }

    /// Limits of agents, and stops: of a tenant, an agent, a tree, everything.
    fn operator_stops(&mut self) {
        if self.strikes(Fault::AgentLimitsChanged) {
            let rng = &mut self.clients.operator;
            let name = agent(rng.pick::<&str>(&["planner", "reader"]));
            let settings = some_settings(rng);
            let settings = with_bursts(settings, rng);
            let settings = rng.per_mille(800).then_some(settings);
            self.set_agent(&name, settings);
        }
        if self.strikes(Fault::TenantStopped) {
            let at = tenant(self.clients.operator.below(TENANTS as u64) as usize);
            if self.clients.operator.per_mille(200) {
                let name = self.clients.tenants[&at].0.plan.clone();
                let mut plan = self.clients.plans[&name].0.clone();
                plan.paused = !plan.paused;
                return self.set_plan(&name, plan);
            }
            let mut settings = self.clients.tenants[&at].0.clone();
            settings.stopped = !settings.stopped;
            settings.paused = settings.stopped;
            self.set_tenant(&at, settings);
        }
        if self.strikes(Fault::AgentStopped) {
            let name = agent(self.clients.operator.pick::<&str>(&["planner", "reader"]));
            let known = self.clients.agents.get(&name).and_then(|(settings, _)| settings.clone());
            let mut settings = known.unwrap_or_default();
            settings.paused = !settings.paused;
            settings.stopped = settings.paused && self.clients.operator.per_mille(700);
            self.set_agent(&name, Some(settings));
        }
        if self.strikes(Fault::AllStopped) {
            let paused = !self.clients.all.0.paused;
            let stopped = paused && self.clients.operator.per_mille(700);
            self.set_all(AllSettings { paused, stopped });
        }
        if self.strikes(Fault::TreeStopped) {
            let live: Vec<TaskKey> =
                self.audit.tasks.iter().filter(|(_, k)| !k.is_over()).map(|(key, _)| key.clone()).collect();
            if !live.is_empty() {
                let at = self.clients.operator.below(live.len() as u64) as usize;
                self.command(&live[at], CmdOp::Pause {});
            }
        }
        // Whoever paused a tree lets it go on some time.
        let paused = self.audit.paused.first().filter(|_| self.clients.operator.per_mille(100)).cloned();
        if let Some(root) = paused {
            self.command(&root, CmdOp::Resume {});
        }
    }

    /// A pause may come late: whatever is paused while nothing is broken any more is told to go on.
    fn resume_trees(&mut self) {
        for root in self.audit.paused.clone() {
            self.command(&root, CmdOp::Resume {});
        }
    }

    pub fn operator_acts(&mut self) {
        if self.healing {
            if self.scenario.has(Fault::TreeStopped) {
                self.resume_trees();
                self.after(5_000, Event::OperatorActs);
            }
            return;
        }
        if self.scenario.cap.is_none() && self.strikes(Fault::Scheduled) {
            self.operator_schedules();
        }
        self.operator_stops();
        self.after(1_500, Event::OperatorActs);
        let at = tenant(self.clients.rng.below(TENANTS as u64) as usize);
        if self.strikes(Fault::TenantPaused) {
            let mut settings = self.clients.tenants[&at].0.clone();
            settings.paused = !settings.paused;
            self.set_tenant(&at, settings);
        }
        if self.strikes(Fault::LimitsChanged) {
            let rng = &mut self.clients.rng;
            let cap = self.scenario.cap;
            if rng.per_mille(500) {
                let mut settings = self.clients.tenants[&at].0.clone();
                settings.overrides.in_flight = Some(cap.unwrap_or(rng.between(0, 10) as u32));
                settings.overrides.rate = Some(rng.between(0, 80) as u32);
                self.set_tenant(&at, settings);
            } else {
                let name = self.clients.tenants[&at].0.plan.clone();
                let mut plan = self.clients.plans[&name].0.clone();
                plan.in_flight = cap.unwrap_or(rng.between(0, 8) as u32);
                plan.rate = rng.between(0, 60) as u32;
                plan.burst = rng.between(1, 20) as u32;
                plan.tree = plan.tree.max(rng.between(1, 50) as u32);
                plan.max_tries = rng.between(1, 6) as u32;
                plan.weight = rng.between(1, 5) as u32;
                self.set_plan(&name, plan);
            }
        }
    }

    /// Limits as they were in the beginning, and nobody paused.
    pub fn operator_heals(&mut self) {
        for at in 0..3 {
            self.set_schedule(at, None);
        }
        for (name, plan) in self.clients.base.clone() {
            self.set_plan(&name, plan);
        }
        for at in 0..TENANTS {
            let mut settings = self.clients.tenants[&tenant(at)].0.clone();
            settings.overrides = Overrides::default();
            settings.paused = false;
            settings.stopped = false;
            self.set_tenant(&tenant(at), settings);
        }
        for name in ["planner", "reader"].map(agent) {
            let settings = self.clients.base_agents.get(&name).cloned().flatten();
            if self.clients.agents.contains_key(&name) {
                self.set_agent(&name, settings);
            }
        }
        if self.clients.all.1 > 0 {
            self.set_all(AllSettings::default());
        }
        self.resume_trees();
    }
}
