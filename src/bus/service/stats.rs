//! The numbers `nats micro stats` shows, per endpoint.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

use crate::task::Code;

#[derive(Default, Clone, Copy)]
struct Numbers {
    requests: u64,
    errors: u64,
    nanos: u64,
    last_error: Option<Code>,
}

/// Counted under a lock held for a few instructions, never across an await.
#[derive(Default)]
pub(super) struct Stats(Mutex<BTreeMap<&'static str, Numbers>>);

impl Stats {
    fn with<T>(&self, verb: &'static str, act: impl FnOnce(&mut Numbers) -> T) -> T {
        // Numbers are valid after any panic.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(all.entry(verb).or_default())
    }

    /// A request was answered, well or not.
    pub(super) fn answered(&self, verb: &'static str, took: Duration) {
        self.with(verb, |n| {
            n.requests += 1;
            n.nanos = n.nanos.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        });
    }

    /// A request was refused or dropped.
    pub(super) fn error(&self, verb: &'static str, code: Code) {
        self.with(verb, |n| {
            n.errors += 1;
            n.last_error = Some(code);
        });
    }

    /// In the words of the service protocol.
    pub(super) fn of(&self, verb: &'static str) -> Value {
        let n = self.with(verb, |n| *n);
        json!({
            "num_requests": n.requests,
            "num_errors": n.errors,
            "last_error": n.last_error.map(|c| format!("{}:{}", c.status(), c)).unwrap_or_default(),
            "processing_time": n.nanos,
            "average_processing_time": n.nanos.checked_div(n.requests).unwrap_or(0),
        })
    }
}
