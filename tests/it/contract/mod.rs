//! What is promised to those outside: limits, answers to bad input, JSON for everybody, silence about secrets.

mod hostile;
mod json;
mod limits;
mod operate;
mod process;
mod secrets;

use selvedge::bus::journal::JournalReader;
use selvedge::bus::limits::LimitsBucket;
use selvedge::flow::record::{JournalMessage, Record};
use selvedge::task::{Plan, TenantName, TenantSettings};
use selvedge::wire::subjects::Shard;

use crate::harness::Stack;
use crate::harness::fabric::Fabric;
use crate::harness::soon;

/// Everything journaled so far.
async fn journal(stack: &Stack) -> Vec<JournalMessage> {
    let connection = stack.connect("test-journal").await;
    let reader = JournalReader::new(connection.jetstream(), Shard(0)).await.unwrap();
    let mut tail = reader.read(1).await.unwrap();
    let mut messages = Vec::new();
    while let Some(entry) = tail.next().await {
        messages.push(JournalMessage::decode(&entry.unwrap().bytes).unwrap());
    }
    messages
}

/// Waits until the journal holds such a record.
async fn journaled(stack: &Stack, what: &str, mut wanted: impl FnMut(&Record) -> bool) {
    let connection = stack.connect("test-journal").await;
    let reader = JournalReader::new(connection.jetstream(), Shard(0)).await.unwrap();
    let mut tail = reader.follow(1);
    soon(what, async {
        while let Some(entry) = tail.next().await {
            let message = JournalMessage::decode(&entry.unwrap().bytes).unwrap();
            if message.records.iter().any(&mut wanted) {
                return;
            }
        }
    })
    .await;
}

/// A tenant with a plan of its own, in force.
async fn tenant(fabric: &Fabric, name: &str, plan: Plan) {
    fabric.plan(name, plan).await;
    settled(fabric, name, |_| true).await;
}

/// Waits until a tenant's settings are in force.
async fn settled(fabric: &Fabric, name: &str, are: impl Fn(&TenantSettings) -> bool) {
    let tenant: TenantName = name.parse().unwrap();
    journaled(&fabric.stack, "the tenant's settings are in force", |record| {
        matches!(record, Record::TenantSet { name, settings: Some(s), .. } if *name == tenant && are(s))
    })
    .await;
}

/// Changes a tenant's settings and waits until they are in force.
async fn change(fabric: &Fabric, name: &str, how: impl FnOnce(&mut TenantSettings)) {
    let bucket = fabric.limits().await;
    let tenant: TenantName = name.parse().unwrap();
    let (mut settings, revision) = bucket.tenant(&tenant).await.unwrap().unwrap();
    how(&mut settings);
    bucket.set_tenant(&tenant, &settings, Some(revision)).await.unwrap();
    settled(fabric, name, |s| *s == settings).await;
}

/// Changes the plan a tenant was given by [`tenant`] and waits until it is in force.
async fn replan(fabric: &Fabric, bucket: &LimitsBucket, name: &str, how: impl FnOnce(&mut Plan)) {
    let name = name.parse().unwrap();
    let (mut plan, revision) = bucket.plan(&name).await.unwrap().unwrap();
    how(&mut plan);
    let revision = bucket.set_plan(&name, &plan, Some(revision)).await.unwrap();
    journaled(&fabric.stack, "the plan is in force", |record| {
        matches!(record, Record::PlanSet { name: n, kv_rev, .. } if *n == name && *kv_rev == revision)
    })
    .await;
}
