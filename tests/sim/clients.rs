//! Clients that submit, repeat, contradict, cancel and retry; and an operator who changes limits.

use std::collections::BTreeMap;

use selvedge::{
    flow::input::Input,
    task::{
        AgentName, AgentSettings, AllSettings, BodyHash, Missed, Overrides, Per, Phase, Plan, PlanName,
        Priority, ScheduleName, ScheduleSettings, Spec, TaskId, TaskKey, TenantName, TenantSettings,
    },
    wire::messages::{Cmd, CmdOp, Submit},
};

use crate::{
    audit::Place,
    behaviour::Behaviour,
    bus::Queue,
    coordinators::Role,
    rng::Rng,
    scenario::{Fault, Scenario},
    world::{EPOCH_MS, Event, Publisher, World},
};

/// One message to INTAKE, published again until it is acknowledged.
pub struct Publication {
    pub input: Input,
    pub acked: bool,
}

pub struct Clients {
    /// Trees still to be submitted.
    script: Vec<(TenantName, Behaviour)>,
    /// Tasks a run must have decided before faults may stop.
    pub wanted: usize,
    pub publications: Vec<Publication>,
    /// Body hashes that were tried, by id.
    pub attempted: BTreeMap<TaskKey, Vec<BodyHash>>,
    retried: Vec<TaskKey>,
    healed_at: Option<u64>,
    pub last_submit: u64,
    acts: u64,
    plans: BTreeMap<PlanName, (Plan, u64)>,
    base: BTreeMap<PlanName, Plan>,
    tenants: BTreeMap<TenantName, (TenantSettings, u64)>,
    schedules: BTreeMap<ScheduleName, (Option<ScheduleSettings>, u64)>,
    agents: BTreeMap<AgentName, (Option<AgentSettings>, u64)>,
    base_agents: BTreeMap<AgentName, Option<AgentSettings>>,
    all: (AllSettings, u64),
    kv_rev: u64,
    rng: Rng,
    /// For what an operator does to agents, trees and everything.
    operator: Rng,
}

fn agent(name: &str) -> AgentName {
    AgentName::new(name).unwrap()
}

/// Limits of an agent that let all of a run's tasks through in time.
fn some_settings(rng: &mut Rng) -> AgentSettings {
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
fn with_bursts(mut settings: AgentSettings, rng: &mut Rng) -> AgentSettings {
    settings.burst = settings.rate.map(|_| rng.between(1, 15) as u32);
    settings.cells_burst = settings.cells.map(|_| rng.between(300, 2_000) as u32);
    settings
}

const TENANTS: usize = 4;

fn tenant(at: usize) -> TenantName {
    TenantName::new(format!("t{at}")).unwrap()
}

impl Clients {
    pub fn new(scenario: &Scenario, rng: &mut Rng) -> Self {
        let mut plans = BTreeMap::new();
        let mut tenants = BTreeMap::new();
        for at in 0..TENANTS {
            let name = PlanName::new(format!("p{at}")).unwrap();
            let roomy = scenario.cap.is_some();
            let plan = Plan {
                in_flight: scenario.cap.unwrap_or(rng.between(1, 8) as u32),
                rate: rng.between(5, 60) as u32,
                burst: rng.between(1, 30) as u32,
                backlog: if roomy { 10_000 } else { rng.between(5, 100) },
                depth: if roomy { 8 } else { rng.between(1, 4) as u32 },
                children: if roomy { 100 } else { rng.between(2, 8) as u32 },
                tree: if roomy { 1_000 } else { rng.between(5, 60) as u32 },
                weight: rng.between(1, 4) as u32,
                max_priority: Priority::High,
                max_tries: rng.between(2, 6) as u32,
                ..Plan::pro()
            };
            let settings = TenantSettings::under(name.clone());
            plans.insert(name, (plan, at as u64 + 1));
            tenants.insert(tenant(at), (settings, (TENANTS + at) as u64 + 1));
        }
        if scenario.has(Fault::Calling) && scenario.cap.is_none() {
            let mut calling = Rng::new(scenario.seed, 16);
            for (plan, _) in plans.values_mut() {
                plan.call_reserve = (plan.in_flight > 2 && calling.per_mille(500)).then_some(1);
            }
        }
        let mut operator = Rng::new(scenario.seed, 6);
        let metered = scenario.has(Fault::Metered);
        if metered && scenario.cap.is_none() {
            for (plan, _) in plans.values_mut() {
                plan.agent_in_flight = operator.per_mille(400).then(|| operator.between(1, 3) as u32);
                plan.cells = operator.per_mille(600).then(|| operator.between(10_000, 60_000) as u32);
                plan.cells_burst = plan.cells.map(|_| operator.between(300, 1_500) as u32);
            }
        }
        let mut agents = BTreeMap::new();
        for name in ["planner", "reader"] {
            let settings = (metered && scenario.cap.is_none()).then(|| {
                let settings = some_settings(&mut operator);
                with_bursts(settings, &mut operator)
            });
            if settings.is_some() {
                agents.insert(agent(name), (settings, 2 * TENANTS as u64 + 1 + agents.len() as u64));
            }
        }
        let base_agents = agents.iter().map(|(name, (own, _))| (name.clone(), own.clone())).collect();
        let talks = scenario.has(Fault::Talking);
        let mut script = Vec::new();
        let mut planned = 0;
        while planned < scenario.tasks {
            let at = rng.below(20) as usize;
            // Nobody has set the last one: it gets the default plan.
            let who = if at == 19 && scenario.cap.is_none() { TENANTS } else { at % TENANTS };
            let behaviour = match scenario.cap {
                Some(_) => {
                    Behaviour { seed: rng.next(), levels: 4, fan: 3, plain: 1, timed: 0, metered, talks }
                }
                None => {
                    let levels = *rng.pick(&[0, 0, 0, 1, 1, 2, 3]);
                    let fan = rng.between(1, 5) as u8;
                    Behaviour { seed: rng.next(), levels, fan, plain: 0, timed: 0, metered, talks }
                }
            };
            let tasks = behaviour.planned();
            if who == TENANTS && tasks > 10 {
                continue; // one dispatch a second: keep it short
            }
            planned += tasks;
            script.push((tenant(who), behaviour));
        }
        let wanted = scenario.tasks as usize * 5 / 6;
        let base = plans.iter().map(|(name, (plan, _))| (name.clone(), plan.clone())).collect();
        Self {
            script,
            wanted,
            publications: Vec::new(),
            attempted: BTreeMap::new(),
            retried: Vec::new(),
            healed_at: None,
            last_submit: 0,
            acts: 0,
            plans,
            base,
            tenants,
            schedules: BTreeMap::new(),
            agents,
            base_agents,
            all: (AllSettings::default(), 0),
            kv_rev: 2 * TENANTS as u64 + 2,
            rng: Rng::new(scenario.seed, 5),
            operator,
        }
    }

    pub fn is_done(&self) -> bool {
        self.script.is_empty()
    }

    pub fn heal(&mut self, now: u64) {
        self.healed_at = Some(now);
    }

    /// Far away while faults go on.
    pub fn healed_at(&self) -> u64 {
        self.healed_at.unwrap_or(u64::MAX / 2)
    }

    pub fn acked(&mut self, from: Publisher) {
        self.publications[from.0].acked = true;
    }

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
    pub fn send_to_intake(&mut self, input: Input) {
        let from = Publisher(self.clients.publications.len());
        self.clients.publications.push(Publication { input: input.clone(), acked: false });
        self.publish(Queue::Intake, input, Some(from));
    }

    /// No answer: the identical message again.
    pub fn publish_again(&mut self, from: Publisher) {
        let publication = &self.clients.publications[from.0];
        if !publication.acked {
            let input = publication.input.clone();
            self.publish(Queue::Intake, input, Some(from));
        }
    }

    fn submit(&mut self, key: &TaskKey, behaviour: Behaviour, first_try: u64, confirm: bool) {
        let mut spec = behaviour.spec();
        if behaviour.timed == 1 {
            self.at_a_time(&mut spec);
        }
        self.asked_for(&spec);
        self.clients_attempt(key, spec.body_hash());
        let body = Submit {
            labels: spec.labels,
            v: 1,
            input: spec.input,
            priority: spec.priority,
            max_tries: spec.max_tries,
            times: spec.times,
            cost: spec.cost,
            first_try: Some(EPOCH_MS + first_try),
            confirm,
            hops: 0,
        };
        self.send_to_intake(Input::Submit {
            key: key.clone(),
            agent: spec.agent,
            body: Ok(body),
            stored_at: 0,
        });
    }

    /// Somebody wants this to be a task.
    pub fn asked_for(&mut self, spec: &Spec) {
        self.audit.seeds.insert(spec.body_hash(), Behaviour::read(&spec.input).seed);
    }

    /// This id may come to be a task of that body.
    pub fn clients_attempt(&mut self, key: &TaskKey, hash: BodyHash) {
        self.clients.attempted.entry(key.clone()).or_default().push(hash);
    }

    /// Some tasks have points of time instead of lengths; now and then one makes no sense.
    fn at_a_time(&mut self, spec: &mut Spec) {
        let now = EPOCH_MS + self.now;
        let rng = &mut self.clients.rng;
        let Some(times) = spec.times.as_deref_mut() else { return };
        if times.delay_ms.is_some() && rng.per_mille(400) {
            times.delay_ms = None;
            times.run_at = Some(now + rng.below(9_000));
        }
        if times.deadline_ms.is_some() && rng.per_mille(400) {
            times.deadline_ms = None;
            times.deadline_at = Some(now + rng.between(1, 40_000));
        }
        if rng.per_mille(20) {
            times.ttl_ms = Some(0);
        }
    }

    fn cancel(&mut self, key: &TaskKey) {
        let body = Cmd { v: 1, op: CmdOp::Cancel { reason: "enough".into() } };
        let nonce = TaskId::new(format!("n{}", self.clients.publications.len())).unwrap();
        self.send_to_intake(Input::Cmd { key: key.clone(), nonce, body: Ok(body) });
    }

    /// Cancels and refusals leave fewer tasks than planned: a few more trees then.
    fn top_up(&mut self) {
        let quiet = self.scenario.cap.is_none() && self.now > self.clients.last_submit + 8_000;
        let clients = &mut self.clients;
        if quiet
            && clients.script.is_empty()
            && self.audit.tasks.len() < clients.wanted
            && clients.wanted > 100
        {
            let metered = self.scenario.has(Fault::Metered);
            let talks = self.scenario.has(Fault::Talking);
            let seed = clients.rng.next();
            let behaviour = Behaviour { seed, levels: 1, fan: 3, plain: 0, timed: 0, metered, talks };
            clients.script.push((tenant(clients.rng.below(TENANTS as u64) as usize), behaviour));
        }
    }

    pub fn client_acts(&mut self) {
        self.top_up();
        if self.healing && self.clients.is_done() {
            return;
        }
        self.clients.acts += 1;
        let acts = self.clients.acts;
        if let Some((tenant, mut behaviour)) = self.clients.script.pop() {
            if self.scenario.cap.is_none() && self.strikes(Fault::Timed) {
                behaviour.timed = 1;
            }
            let id = TaskId::new(format!("r{acts}")).unwrap();
            let key = TaskKey { tenant, id };
            self.clients.last_submit = self.now;
            let confirm = self.clients.rng.per_mille(300);
            if self.strikes(Fault::CancelFirst) {
                self.cancel(&key);
            }
            let now = self.now;
            self.submit(&key, behaviour, now, confirm);
            if self.strikes(Fault::SubmitConflict) {
                let other = Behaviour { seed: behaviour.seed ^ 1, levels: 0, ..behaviour };
                self.submit(&key, other, now, confirm);
            }
        }
        let pause = self.clients.rng.between(20, 600);
        if !self.healing || !self.clients.is_done() {
            self.after(pause, Event::ClientActs);
        }
        if self.strikes(Fault::SubmitTwice) {
            let at = self.clients.rng.below(self.clients.publications.len() as u64 + 1) as usize;
            if let Some(old) = self.clients.publications.get(at) {
                let input = old.input.clone();
                self.send_to_intake(input);
            }
        }
        if self.strikes(Fault::CancelTree) {
            let some = self.clients.rng.below(self.audit.tasks.len() as u64 + 1) as usize;
            // Often one of the latest, which is likely to be at work.
            let live =
                self.audit.tasks.iter().filter(|(_, k)| !k.is_over()).map(|(key, _)| key.clone()).next();
            let any = self.audit.tasks.keys().nth(some).cloned();
            let key = if some.is_multiple_of(2) { live.or(any) } else { any };
            if let Some(key) = key {
                self.cancel(&key);
            }
        }
        if self.strikes(Fault::RetryDead) {
            let dead = self.audit.tasks.iter().find(|(key, known)| {
                known.place == Place::Over(Phase::Failed) && !self.clients.retried.contains(key)
            });
            if let Some(key) = dead.map(|(key, _)| key.clone()) {
                self.clients.retried.push(key.clone());
                let nonce = TaskId::new(format!("again{acts}")).unwrap();
                let id = selvedge::task::retry_id(&key.id, nonce.as_str());
                let again = TaskKey { tenant: key.tenant.clone(), id };
                // Its body is the dead one's as it was admitted, not as it was submitted.
                self.clients.attempted.entry(again).or_default();
                let body = Cmd { v: 1, op: CmdOp::Retry {} };
                self.send_to_intake(Input::Cmd { key, nonce, body: Ok(body) });
            }
        }
    }

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

    fn command(&mut self, key: &TaskKey, op: CmdOp) {
        let nonce = TaskId::new(format!("n{}", self.clients.publications.len())).unwrap();
        self.send_to_intake(Input::Cmd { key: key.clone(), nonce, body: Ok(Cmd { v: 1, op }) });
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
