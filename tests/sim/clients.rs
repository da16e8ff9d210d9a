//! Clients that submit, repeat, contradict, cancel and retry; and an operator who changes limits.

mod operator;

use std::collections::BTreeMap;

use selvedge::{
    flow::input::Input,
    task::{
        AgentName, AgentSettings, AllSettings, BodyHash, Phase, Plan, PlanName, Priority, ScheduleName,
        ScheduleSettings, Spec, TaskId, TaskKey, TenantName, TenantSettings,
    },
    wire::messages::{Cmd, CmdOp, Submit},
};

use self::operator::{some_settings, with_bursts};
use crate::{
    audit::Place,
    behaviour::Behaviour,
    bus::Queue,
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

    fn command(&mut self, key: &TaskKey, op: CmdOp) {
        let nonce = TaskId::new(format!("n{}", self.clients.publications.len())).unwrap();
        self.send_to_intake(Input::Cmd { key: key.clone(), nonce, body: Ok(Cmd { v: 1, op }) });
    }
}
