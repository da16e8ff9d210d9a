//! What is counted of queries. Handles are looked up once: a kept answer costs little more than a look-up.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Histogram};

use crate::{task::Code, telemetry::names, wire::api::verb};

/// Numbers by verb. Cheap to clone.
#[derive(Clone)]
pub struct Counts(Arc<Vec<(&'static str, Histogram, Counter)>>);

impl Default for Counts {
    fn default() -> Self {
        let of = |verb: &'static str| {
            let took = metrics::histogram!(names::QUERY_TIME, names::VERB => verb);
            (verb, took, metrics::counter!(names::QUERIES, names::VERB => verb, names::CODE => "OK"))
        };
        Self(Arc::new(verb::ALL.iter().map(|verb| of(verb)).collect()))
    }
}

impl Counts {
    /// A query was answered.
    pub fn answered(&self, verb: &'static str, took: Duration) {
        if let Some((_, time, count)) = self.of(verb) {
            time.record(took);
            count.increment(1);
        }
    }

    /// One was refused.
    pub fn refused(&self, verb: &'static str, code: Code, took: Duration) {
        if let Some((_, time, _)) = self.of(verb) {
            time.record(took);
        }
        metrics::counter!(names::QUERIES, names::VERB => verb, names::CODE => code.as_str()).increment(1);
    }

    fn of(&self, verb: &str) -> Option<&(&'static str, Histogram, Counter)> {
        self.0.iter().find(|(name, ..)| *name == verb)
    }
}
