//! Handlers that record steps, wait for signals and are told messages, on real servers.

mod calls;
mod kept_slots;
mod messages;
mod objects;
mod steps;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use selvedge::{
    client::{Client, TaskHandle},
    coordinator::run::Options,
    task::{Backoff, Phase, Plan},
};

use crate::harness::fabric::{Fabric, eventually, unbound};

/// How often something was done.
#[derive(Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<String, u32>>>);

impl Tally {
    pub fn count(&self, what: &str) -> u32 {
        let mut tally = self.0.lock().unwrap();
        let count = tally.entry(what.to_owned()).or_default();
        *count += 1;
        *count
    }

    pub fn of(&self, what: &str) -> u32 {
        self.0.lock().unwrap().get(what).copied().unwrap_or(0)
    }
}

/// Short pauses between tries.
pub fn hasty(options: &mut Options) {
    options.policy.backoff = Backoff { base_ms: 10, cap_ms: 50 };
}

/// A fabric in which a tenant `acme` has three tries and no other limit.
pub async fn fabric() -> (Fabric, Client) {
    let fabric = Fabric::start_with(hasty).await;
    fabric.plan_in_force("acme", Plan { max_tries: 3, ..unbound() }).await;
    let client = fabric.client("acme").await;
    (fabric, client)
}

/// Waits until the task is in this state.
pub async fn reaches(task: &TaskHandle, state: Phase) {
    eventually(&format!("the task is {state}"), async {
        // Right after the submit it may not be known yet.
        while !task.get().await.is_ok_and(|view| view.state == state) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
