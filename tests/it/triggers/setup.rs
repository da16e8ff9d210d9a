//! What tests of triggers begin with: servers, a tenant, somebody to set triggers, and somebody to note what becomes of them.

use std::sync::{Arc, Mutex};

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    bus::{
        JetStream,
        triggers::{TriggersBucket, source_stream, start_of},
    },
    client::Client,
    task::{
        Plan, TriggerName,
        trigger::{Source, TriggerSettings, state::TriggerState},
    },
    wire::topology::TOPICS,
};
use serde_json::{Value, json};

use crate::harness::{
    Stack,
    fabric::{Fabric, unbound},
    until,
};

/// What the tasks of an agent were given, in the order they came.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<Value>>>);

impl Seen {
    /// An agent that notes its inputs.
    pub fn agent(&self, name: &str) -> Agent {
        let seen = self.clone();
        Agent::new(name, move |_: Ctx, input: Value| {
            let seen = seen.clone();
            async move {
                seen.0.lock().unwrap().push(input);
                Ok::<_, AgentError>(())
            }
        })
        .unwrap()
        .slots(16)
    }

    pub fn note(&self, value: Value) {
        self.0.lock().unwrap().push(value);
    }

    pub fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until there are so many; says which.
    pub async fn count(&self, count: usize) -> Vec<Value> {
        until(&format!("{count} tasks have run"), async || (self.all().len() >= count).then(|| self.all()))
            .await
    }
}

/// Sets and looks at triggers.
pub struct Desk {
    pub bucket: TriggersBucket,
    pub js: JetStream,
}

impl Desk {
    pub async fn new(stack: &Stack) -> Desk {
        let js = stack.connect("test-triggers").await.jetstream().clone();
        Desk { bucket: TriggersBucket::open(&js).await.expect("the bucket is provisioned"), js }
    }

    /// Sets one for tenant `acme` and agent `reader`, with more fields.
    pub async fn set(&self, name: &str, source: Value, more: Value) -> TriggerName {
        let mut settings = json!({"source": source, "tenant": "acme", "agent": "reader"});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut settings: TriggerSettings = serde_json::from_value(settings).unwrap();
        let stream = match &settings.source {
            Source::Topic(_) => TOPICS.to_owned(),
            Source::Stream { name, .. } => name.clone(),
        };
        settings.start = start_of(source_stream(&self.js, &stream).await.unwrap().as_ref(), false);
        let name: TriggerName = name.parse().unwrap();
        let known = self.bucket.trigger(&name).await.unwrap().map(|(_, revision)| revision);
        self.bucket.set(&name, &settings, known).await.unwrap();
        name
    }

    /// Waits until its state is like that.
    pub async fn state(
        &self,
        name: &TriggerName,
        what: &str,
        is: impl Fn(&TriggerState) -> bool,
    ) -> TriggerState {
        until(what, async || self.bucket.state(name).await.unwrap().map(|(state, _)| state).filter(|s| is(s)))
            .await
    }
}

/// Publishes numbers as `{"n": …}`, several at once.
pub async fn publish(client: &Client, topic: &str, numbers: std::ops::Range<u64>) {
    use futures_util::{StreamExt, TryStreamExt, stream};
    let each = stream::iter(numbers).map(|n| async move { client.publish(topic, &json!({"n": n})).await });
    each.buffer_unordered(64).try_collect::<Vec<()>>().await.expect("stored");
}

/// See the module.
pub struct Setup {
    pub fabric: Fabric,
    pub desk: Desk,
    pub seen: Seen,
    /// Of the tenant `acme`.
    pub client: Client,
}

impl Setup {
    /// On these servers, with the tenant under this plan; nobody runs its tasks.
    pub async fn on(fabric: Fabric, plan: Plan) -> Setup {
        fabric.plan("acme", plan).await;
        let (desk, client) = (Desk::new(&fabric.stack).await, fabric.client("acme").await);
        Setup { fabric, desk, seen: Seen::default(), client }
    }

    /// No limits, and nobody who runs tasks.
    pub async fn idle() -> Setup {
        Setup::on(Fabric::start().await, unbound()).await
    }

    /// No limits, and an agent `reader` that notes what it is given.
    pub async fn reading() -> Setup {
        let setup = Setup::idle().await;
        setup.fabric.agent(setup.seen.agent("reader")).await;
        setup
    }
}
