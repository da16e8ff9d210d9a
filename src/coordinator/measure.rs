//! What the owner did and knows, as metrics. Decides nothing, keeps only the names it has shown.
//!
//! Called by the owner's loop: [`Meters::count`] after every PubAck, [`Gauges::show`] every few seconds. Labels are agents,
//! codes, states and outcomes, and a bounded number of tenants; never a task or an instance.

use std::collections::{BTreeSet, HashMap};

use metrics::{Counter, Histogram, counter, gauge, histogram};
use tokio::sync::watch;

use super::intake::Handle;
use crate::{
    flow::{
        engine::Engine,
        facts::{Fact, News},
        load::{self, AgentLoad, Blocked, Load, PlanLoad, TenantLoad},
    },
    task::{AgentName, Code, Millis, Phase, PlanName, TenantName},
    telemetry::names,
};

/// Agents whose meters are kept at hand; beyond it the memory starts anew, the metrics go on.
const MAX_AGENTS: usize = 4_096;

/// Counts what journal messages did. Keeps the meters of the agents it has counted: looking one up by name and labels
/// costs more than everything else about it.
pub struct Meters {
    appends: Counter,
    records: Counter,
    bytes: Counter,
    intake_age: Histogram,
    agents: HashMap<AgentName, AgentMeters>,
}

/// One agent's, of what happens to every task.
struct AgentMeters {
    admitted: Counter,
    offers: Counter,
    queue_wait: Histogram,
    completed: Counter,
    ran: Histogram,
}

impl AgentMeters {
    fn of(agent: &AgentName) -> Self {
        Self {
            admitted: counter!(names::TASKS_ADMITTED, names::AGENT => text(agent)),
            offers: counter!(names::OFFERS, names::AGENT => text(agent)),
            queue_wait: histogram!(names::QUEUE_WAIT, names::AGENT => text(agent)),
            completed: ended(agent, Phase::Completed),
            ran: ran(agent, COMPLETED),
        }
    }
}

/// How most attempts end.
const COMPLETED: &str = "completed";

fn ended(agent: &AgentName, state: Phase) -> Counter {
    counter!(names::TASKS_ENDED, names::AGENT => text(agent), names::STATE => state.as_str())
}

fn ran(agent: &AgentName, outcome: &'static str) -> Histogram {
    histogram!(names::RUN_TIME, names::AGENT => text(agent), names::OUTCOME => outcome)
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            appends: counter!(names::JOURNAL_APPENDS),
            records: counter!(names::JOURNAL_RECORDS),
            bytes: counter!(names::JOURNAL_BYTES),
            intake_age: histogram!(names::INTAKE_AGE),
            agents: HashMap::new(),
        }
    }
}

impl Meters {
    /// Counts one acknowledged journal message.
    pub fn count(&mut self, news: News) {
        self.appends.increment(1);
        self.records.increment(news.records);
        self.bytes.increment(news.bytes);
        for fact in news.facts {
            self.one(fact);
        }
    }

    /// Counts what happened to calls.
    pub fn count_calls(&mut self, facts: Vec<Fact>) {
        facts.into_iter().for_each(|fact| self.one(fact));
    }

    fn of(&mut self, agent: &AgentName) -> &AgentMeters {
        if self.agents.len() >= MAX_AGENTS && !self.agents.contains_key(agent) {
            self.agents.clear();
        }
        self.agents.entry(agent.clone()).or_insert_with(|| AgentMeters::of(agent))
    }

    fn one(&mut self, fact: Fact) {
        match fact {
            Fact::Decided(after) => self.intake_age.record(seconds(after)),
            Fact::Admitted(agent) => self.of(&agent).admitted.increment(1),
            Fact::Refused(Code::StaleLease) => counter!(names::REPORTS_STALE).increment(1),
            Fact::Refused(code) => counter!(names::TASKS_REFUSED, names::CODE => code.as_str()).increment(1),
            Fact::Ended(agent, Phase::Completed) => self.of(&agent).completed.increment(1),
            Fact::Ended(agent, state) => ended(&agent, state).increment(1),
            Fact::Offered(agent, waited) => {
                let meters = self.of(&agent);
                if let Some(waited) = waited {
                    meters.queue_wait.record(seconds(waited));
                }
                meters.offers.increment(1);
            }
            Fact::Withdrawn(agent) => {
                counter!(names::OFFERS_WITHDRAWN, names::AGENT => text(&agent)).increment(1);
            }
            Fact::Ran(agent, COMPLETED, time) => self.of(&agent).ran.record(seconds(time)),
            Fact::Ran(agent, outcome, time) => ran(&agent, outcome).record(seconds(time)),
            Fact::TryLost(agent, code) => {
                counter!(names::TRIES_LOST, names::AGENT => text(&agent), names::CODE => code.as_str())
                    .increment(1);
            }
            Fact::Expired(agent) => {
                counter!(names::LEASES_EXPIRED, names::AGENT => text(&agent)).increment(1)
            }
            Fact::CallBegun(agent) => {
                counter!(names::CALLS_BEGUN, names::AGENT => text(&agent)).increment(1);
            }
            Fact::CallRefused(code) => {
                counter!(names::CALLS_REFUSED, names::CODE => code.as_str()).increment(1)
            }
            Fact::CallOver(agent, code, ran) => {
                let outcome = code.map_or("answered", |code| code.as_str());
                counter!(names::CALLS_ENDED, names::AGENT => text(&agent), names::OUTCOME => outcome)
                    .increment(1);
                if let Some(ran) = ran {
                    histogram!(names::CALL_TIME, names::AGENT => text(&agent)).record(seconds(ran));
                }
            }
            Fact::CallFirst(agent, after) => {
                histogram!(names::CALL_FIRST, names::AGENT => text(&agent)).record(seconds(after));
            }
            Fact::Aged(agent) => counter!(names::OFFERS_AGED, names::AGENT => text(&agent)).increment(1),
            Fact::Stopped(agent) => {
                counter!(names::ATTEMPTS_STOPPED, names::AGENT => text(&agent)).increment(1);
            }
        }
    }
}

/// Tenants with gauges of their own.
const MAX_TENANTS: usize = 200;
/// Under this name the others are summed up; no tenant can have it.
const OTHER: &str = "_other";

/// How much there is of everything, from time to time.
pub struct Gauges {
    /// Agents with work or instances when last shown: without them they go to 0, once.
    agents: BTreeSet<AgentName>,
    /// Tenants with gauges of their own, once and for all.
    tenants: BTreeSet<TenantName>,
    /// Plans when last shown: without one its gauges go to 0, once.
    plans: BTreeSet<PlanName>,
    /// For whoever scales instances.
    loads: watch::Sender<Load>,
}

impl Gauges {
    /// Shows how much work there is to `loads` too.
    pub fn new(loads: watch::Sender<Load>) -> Self {
        Self { agents: BTreeSet::new(), tenants: BTreeSet::new(), plans: BTreeSet::new(), loads }
    }

    /// Shows what the engine knows.
    pub fn show(&mut self, engine: &mut Engine<Handle>, indexed: u64) {
        let (_, leases, _) = engine.live().sizes();
        let backlog = engine.backlog();
        gauge!(names::LEASES).set(leases as f64);
        gauge!(names::CALLS_RUNNING).set(engine.calls().running().len() as f64);
        gauge!(names::CALL_PLACES).set(engine.state().call_places() as f64);
        gauge!(names::INPUTS_WAITING).set((backlog.asked + backlog.others) as f64);
        gauge!(names::REPORTS_HELD).set(backlog.held as f64);
        gauge!(names::JOURNAL_SEQUENCE).set(engine.seq() as f64);
        gauge!(names::INDEX_LAG).set(engine.seq().saturating_sub(indexed) as f64);
        gauge!(names::INDEX_DIRTY).set(engine.dirty().len() as f64);
        for (of, size) in engine.sizes().each() {
            gauge!(names::OWNER_SIZE, names::OF => of).set(size as f64);
        }
        let state = engine.state();
        gauge!(names::TASKS_REMEMBERED).set(state.tasks().len() as f64);
        gauge!(names::TENANTS).set(state.tenants().len() as f64);
        gauge!(names::BACKLOG).set(state.backlog() as f64);
        let load = load::load(state, engine.live());
        let mut gone = std::mem::take(&mut self.agents);
        for (agent, of) in &load.agents {
            show_agent(agent, of);
            gone.remove(agent);
            self.agents.insert(agent.clone());
        }
        for agent in gone {
            show_agent(&agent, &AgentLoad::default());
        }
        self.show_plans(&load);
        self.show_tenants(&load);
        self.loads.send_replace(load);
    }

    fn show_plans(&mut self, load: &Load) {
        for plan in std::mem::replace(&mut self.plans, load.plans.keys().cloned().collect()) {
            if !load.plans.contains_key(&plan) {
                show_plan(&plan, &PlanLoad::default());
            }
        }
        for (plan, of) in &load.plans {
            show_plan(plan, of);
        }
    }

    fn show_tenants(&mut self, load: &Load) {
        let mut others = TenantLoad::default();
        for (tenant, of) in &load.tenants {
            if self.tenants.len() < MAX_TENANTS || self.tenants.contains(tenant) {
                self.tenants.insert(tenant.clone());
                continue;
            }
            others.queued += of.queued;
            others.running += of.running;
            others.oldest = others.oldest.max(of.oldest);
        }
        for tenant in &self.tenants {
            show_tenant(tenant.as_str(), load.tenants.get(tenant).unwrap_or(&TenantLoad::default()));
        }
        if self.tenants.len() >= MAX_TENANTS {
            show_tenant(OTHER, &others);
        }
    }
}

fn show_agent(agent: &AgentName, load: &AgentLoad) {
    let show = |name: &'static str, value: f64| gauge!(name, names::AGENT => text(agent)).set(value);
    show(names::INSTANCES, load.size.instances as f64);
    show(names::SLOTS, load.size.slots as f64);
    show(names::SLOTS_FREE, load.size.free as f64);
    show(names::QUEUED, load.queued as f64);
    show(names::RUNNING, load.running as f64);
    show(names::QUEUE_OLDEST, seconds(load.oldest.unwrap_or(0)));
    show(names::SERVICE_TIME, seconds(load.service.unwrap_or(0)));
    for (reason, tasks) in Blocked::ALL.into_iter().zip(load.blocked) {
        let labels = [(names::AGENT, text(agent)), (names::REASON, reason.as_str().to_owned())];
        gauge!(names::BLOCKED, &labels).set(tasks as f64);
    }
}

fn show_plan(plan: &PlanName, load: &PlanLoad) {
    let show = |name: &'static str, value: Millis| {
        gauge!(name, names::PLAN => plan.to_string()).set(seconds(value));
    };
    show(names::PLAN_OLDEST, load.oldest.unwrap_or(0));
    show(names::PLAN_TARGET, load.target.unwrap_or(0));
    show(names::PLAN_LATE, load.late);
}

fn show_tenant(tenant: &str, load: &TenantLoad) {
    let show = |name: &'static str, value: f64| gauge!(name, names::TENANT => tenant.to_owned()).set(value);
    show(names::TENANT_QUEUED, load.queued as f64);
    show(names::TENANT_RUNNING, load.running as f64);
    show(names::TENANT_OLDEST, seconds(load.oldest.unwrap_or(0)));
}

fn text(agent: &AgentName) -> String {
    agent.to_string()
}

fn seconds(ms: Millis) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn tenants_beyond_the_bound_are_summed_up() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let mut load = Load::default();
        for n in 0..300 {
            let tenant = TenantName::new(format!("t{n}")).unwrap();
            load.tenants.insert(tenant, TenantLoad { queued: 2, running: 1, oldest: Some(5_000) });
        }
        metrics::with_local_recorder(&recorder, || {
            let mut gauges = Gauges::new(watch::channel(Load::default()).0);
            gauges.show_tenants(&load);
            gauges.show_tenants(&load);
        });
        let text = handle.render();
        let lines = text.lines().filter(|line| line.starts_with("selvedge_tenant_queued{"));
        assert_eq!(lines.count(), 201);
        assert!(text.contains("selvedge_tenant_queued{tenant=\"_other\"} 200"), "{text}");
        assert!(text.contains("selvedge_tenant_oldest_seconds{tenant=\"_other\"} 5"), "{text}");
    }

    #[test]
    fn a_plan_that_was_removed_is_late_no_more() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let mut load = Load::default();
        let late = PlanLoad { oldest: Some(45_000), target: Some(30_000), late: 15_000 };
        load.plans.insert(PlanName::new("pro").unwrap(), late);
        metrics::with_local_recorder(&recorder, || {
            let mut gauges = Gauges::new(watch::channel(Load::default()).0);
            gauges.show_plans(&load);
            for line in [
                "selvedge_plan_late_seconds{plan=\"pro\"} 15",
                "selvedge_plan_target_seconds{plan=\"pro\"} 30",
            ] {
                assert!(handle.render().lines().any(|found| found == line), "{line}");
            }
            gauges.show_plans(&Load::default());
        });
        assert!(handle.render().contains("selvedge_plan_late_seconds{plan=\"pro\"} 0"));
    }

    #[test]
    fn facts_are_counted_under_agents_codes_and_states_only() {
        let agent = || AgentName::new("reader").unwrap();
        let facts = vec![
            Fact::Decided(5),
            Fact::Admitted(agent()),
            Fact::Refused(Code::BacklogFull),
            Fact::Refused(Code::StaleLease),
            Fact::Offered(agent(), Some(20)),
            Fact::TryLost(agent(), Code::LeaseLost),
            Fact::Ran(agent(), "lost", 1_500),
            Fact::Ended(agent(), Phase::Failed),
            Fact::Offered(agent(), None),
            Fact::Ran(agent(), COMPLETED, 500),
            Fact::Ended(agent(), Phase::Completed),
        ];
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            Meters::default().count(News { records: 7, bytes: 300, facts })
        });
        let text = recorder.handle().render();
        for line in [
            "selvedge_journal_appends_total 1",
            "selvedge_journal_records_total 7",
            "selvedge_journal_bytes_total 300",
            "selvedge_tasks_admitted_total{agent=\"reader\"} 1",
            "selvedge_tasks_refused_total{code=\"BACKLOG_FULL\"} 1",
            "selvedge_reports_stale_total 1",
            "selvedge_tries_lost_total{agent=\"reader\",code=\"LEASE_LOST\"} 1",
            "selvedge_run_seconds_sum{agent=\"reader\",outcome=\"lost\"} 1.5",
            "selvedge_tasks_ended_total{agent=\"reader\",state=\"failed\"} 1",
            "selvedge_tasks_ended_total{agent=\"reader\",state=\"completed\"} 1",
            "selvedge_run_seconds_sum{agent=\"reader\",outcome=\"completed\"} 0.5",
            "selvedge_offers_total{agent=\"reader\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
