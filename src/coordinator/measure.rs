//! What the owner did and knows, as metrics. Decides nothing, keeps only the names it has shown.
//!
//! Called by the owner's loop: [`count`] after every PubAck, [`Gauges::show`] every few seconds. Labels are agents,
//! codes, states and outcomes, never a tenant, a task or an instance.

use std::collections::BTreeSet;

use metrics::{counter, gauge, histogram};

use super::intake::Handle;
use crate::{
    flow::{
        engine::Engine,
        facts::{Fact, News},
    },
    task::{AgentName, Code, Millis},
    telemetry::names,
};

/// Counts one acknowledged journal message.
pub fn count(news: News) {
    counter!(names::JOURNAL_APPENDS).increment(1);
    counter!(names::JOURNAL_RECORDS).increment(news.records);
    counter!(names::JOURNAL_BYTES).increment(news.bytes);
    for fact in news.facts {
        one(fact);
    }
}

fn one(fact: Fact) {
    match fact {
        Fact::Decided(after) => histogram!(names::INTAKE_AGE).record(seconds(after)),
        Fact::Admitted(agent) => counter!(names::TASKS_ADMITTED, names::AGENT => text(&agent)).increment(1),
        Fact::Refused(Code::StaleLease) => counter!(names::REPORTS_STALE).increment(1),
        Fact::Refused(code) => counter!(names::TASKS_REFUSED, names::CODE => code.as_str()).increment(1),
        Fact::Ended(agent, state) => {
            counter!(names::TASKS_ENDED, names::AGENT => text(&agent), names::STATE => state.as_str())
                .increment(1);
        }
        Fact::Offered(agent, waited) => {
            if let Some(waited) = waited {
                histogram!(names::QUEUE_WAIT, names::AGENT => text(&agent)).record(seconds(waited));
            }
            counter!(names::OFFERS, names::AGENT => text(&agent)).increment(1);
        }
        Fact::Withdrawn(agent) => {
            counter!(names::OFFERS_WITHDRAWN, names::AGENT => text(&agent)).increment(1);
        }
        Fact::Ran(agent, outcome, ran) => {
            histogram!(names::RUN_TIME, names::AGENT => text(&agent), names::OUTCOME => outcome)
                .record(seconds(ran));
        }
        Fact::TryLost(agent, code) => {
            counter!(names::TRIES_LOST, names::AGENT => text(&agent), names::CODE => code.as_str())
                .increment(1);
        }
        Fact::Expired(agent) => counter!(names::LEASES_EXPIRED, names::AGENT => text(&agent)).increment(1),
    }
}

/// How much there is of everything, from time to time.
#[derive(Default)]
pub struct Gauges {
    /// Agents with instances when last shown: without them they go to 0, once.
    agents: BTreeSet<AgentName>,
}

impl Gauges {
    /// Shows what the engine knows.
    pub fn show(&mut self, engine: &mut Engine<Handle>, indexed: u64) {
        let (_, leases, _) = engine.live().sizes();
        let (inputs, held) = engine.backlog();
        gauge!(names::LEASES).set(leases as f64);
        gauge!(names::INPUTS_WAITING).set(inputs as f64);
        gauge!(names::REPORTS_HELD).set(held as f64);
        gauge!(names::JOURNAL_SEQUENCE).set(engine.seq() as f64);
        gauge!(names::INDEX_LAG).set(engine.seq().saturating_sub(indexed) as f64);
        gauge!(names::INDEX_DIRTY).set(engine.dirty().len() as f64);
        let state = engine.state();
        gauge!(names::TASKS_REMEMBERED).set(state.tasks().len() as f64);
        gauge!(names::TENANTS).set(state.tenants().len() as f64);
        gauge!(names::BACKLOG).set(state.backlog() as f64);
        for (agent, queue) in state.queues() {
            gauge!(names::QUEUED, names::AGENT => text(agent)).set(queue.queued() as f64);
        }
        let mut gone = std::mem::take(&mut self.agents);
        for (agent, size) in engine.live().agents() {
            show_agent(agent, size.instances, size.slots, size.free);
            gone.remove(agent);
            self.agents.insert(agent.clone());
        }
        for agent in gone {
            show_agent(&agent, 0, 0, 0);
        }
    }
}

fn show_agent(agent: &AgentName, instances: usize, slots: u64, free: u64) {
    gauge!(names::INSTANCES, names::AGENT => text(agent)).set(instances as f64);
    gauge!(names::SLOTS, names::AGENT => text(agent)).set(slots as f64);
    gauge!(names::SLOTS_FREE, names::AGENT => text(agent)).set(free as f64);
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
    use crate::task::Phase;

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
        ];
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || count(News { records: 7, bytes: 300, facts }));
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
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
