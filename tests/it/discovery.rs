//! Agents that say what they are: listed while they live, and their inputs checked at admission.

use std::time::Duration;

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    client::Client,
    coordinator::run::Options,
    task::{Code, Payload, Phase},
    wire::about::{AgentView, AgentsRequest},
};
use serde_json::{Value, json};

use crate::harness::fabric::{Fabric, unbound};
use crate::harness::{soon, until};

fn schema() -> Value {
    json!({"type": "object", "properties": {"pages": {"type": "integer"}}, "required": ["pages"]})
}

fn reader(version: &str) -> Agent {
    let read = |ctx: Ctx, input: Value| async move {
        if input["pages"] == json!(0) {
            ctx.cancelled().await;
        }
        Ok::<_, AgentError>(input["pages"].clone())
    };
    let agent = Agent::new("reader", read).unwrap().slots(3);
    agent.version(version).description("Reads documents").limit("tokens_per_minute", 90_000)
}

/// Waits until it is listed like that.
async fn listed(client: &Client, what: &str, is: impl Fn(&AgentView) -> bool) -> AgentView {
    let request = AgentsRequest { agent: Some("reader".parse().unwrap()), schemas: true };
    until(what, async || client.agents(&request).await.ok()?.agents.into_iter().next().filter(|a| is(a)))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_are_listed_with_what_they_say_and_run_until_they_leave() {
    let mut fabric = Fabric::start().await;
    fabric.plan("acme", unbound()).await;
    let client = fabric.client("acme").await;
    let old = fabric.agent(reader("1.0").input_schema(&schema())).await;
    let output = json!({"type": "integer"});
    fabric.agent(reader("1.1").input_schema(&schema()).output_schema(&output)).await;
    let agent = listed(&client, "both instances are listed", |a| a.about.len() == 2).await;
    assert_eq!(agent.instances.len(), 2);
    let mut versions: Vec<_> = agent.instances.iter().map(|i| i.version.clone().unwrap()).collect();
    versions.sort();
    assert_eq!(versions, ["1.0", "1.1"]);
    let new = agent.about.iter().find(|about| about.version.as_deref() == Some("1.1")).unwrap();
    assert_eq!(new.description.as_deref(), Some("Reads documents"));
    assert_eq!(new.limits["tokens_per_minute"], 90_000);
    assert_eq!(new.output.as_ref().unwrap(), &Payload::json(&output).unwrap());

    // What it runs is told to whose it is, and to nobody else.
    let task =
        soon("the admission", client.submit_and_confirm("reader", &json!({"pages": 0}))).await.unwrap();
    let runs = |a: &AgentView| a.instances.iter().any(|i| i.tasks == [task.id().clone()] && i.running == 1);
    listed(&client, "the task is shown where it runs", runs).await;
    let other = fabric.client("globex").await;
    let agent =
        listed(&other, "it runs for another tenant", |a| a.instances.iter().any(|i| i.running == 1)).await;
    assert!(agent.instances.iter().all(|i| i.tasks.is_empty()));
    task.cancel("enough").await.unwrap();

    // The next owner is told as well.
    fabric.coordinator.take().unwrap().stop().await;
    fabric.coordinator = Some(fabric.coordinate(Options::new("next")).await);
    listed(&client, "the next owner knows both", |a| a.about.len() == 2).await;
    old.cancel();
    let agent =
        listed(&client, "the old one has left", |a| a.instances.len() == 1 && a.about.len() == 1).await;
    assert_eq!(agent.about[0].version.as_deref(), Some("1.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_does_not_fit_is_refused_at_admission_and_says_where() {
    let fabric = Fabric::start().await;
    fabric.plan("acme", unbound()).await;
    let client = fabric.client("acme").await;
    // Until the agent says what it takes, anything is admitted.
    let early =
        soon("an admission", client.submit_and_confirm("reader", &json!({"pages": "x"}))).await.unwrap();
    early.cancel("not meant to run").await.unwrap();
    fabric.agent(reader("1.0").input_schema(&schema())).await;
    let parent = |ctx: Ctx, _: ()| async move {
        ctx.spawn("read", "reader", [json!({"pages": 2}), json!({"pages": "hunter2"})]).await?;
        let all = ctx.wait_all().await?;
        let refused = ctx.refused();
        let text = refused.first().map(|child| child.refusal.to_string()).unwrap_or_default();
        Ok::<_, AgentError>((all.len(), text))
    };
    fabric.agent(Agent::new("parent", parent).unwrap()).await;
    listed(&client, "the schema is known", |a| a.about.len() == 1).await;

    let bad = soon("a decision", client.submit_and_confirm("reader", &json!({"pages": "hunter2"}))).await;
    let Err(error) = bad else { panic!("it is refused") };
    assert_eq!(error.code(), Some(Code::SchemaViolation), "{error}");
    assert!(error.to_string().contains("`/pages`") && !error.to_string().contains("hunter2"), "{error}");
    let packed = rmp_serde::to_vec_named(&json!({"pages": "x"})).unwrap();
    let packed = selvedge::client::NewTask::raw("reader", Payload::Bytes(packed.into())).unwrap();
    let ended = soon("a decision", client.submit_task(packed).wait()).await.unwrap();
    assert_eq!((ended.state, ended.refusal.unwrap().code), (Phase::Rejected, Code::SchemaViolation));
    let good = client.submit("reader", &json!({"pages": 7})).await.unwrap();
    assert_eq!(soon("the result", good.result::<u64>()).await.unwrap(), 7);

    let task = client.submit("parent", &()).await.unwrap();
    let (_, text): (usize, String) = soon("the parent's result", task.result()).await.unwrap();
    assert!(text.contains("SCHEMA_VIOLATION") && text.contains("`/pages`"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_can_t_be_used_is_shown_and_refuses_nothing() {
    let fabric = Fabric::start().await;
    fabric.plan("acme", unbound()).await;
    let client = fabric.client("acme").await;
    fabric
        .agent(reader("1.0").input_schema(&json!({"$ref": "https://example.com/never-fetched.json"})))
        .await;
    let agent = listed(&client, "it is listed", |a| a.about.len() == 1).await;
    assert!(agent.instances[0].schema_error.is_some(), "{agent:?}");
    let good = client.submit("reader", &json!({"pages": 7})).await.unwrap();
    assert_eq!(soon("the result", good.result::<u64>()).await.unwrap(), 7);
    // What is too large to be announced is known before anything runs.
    let huge = reader("1.0").description("x".repeat(2_000));
    let link = selvedge::bus::Link::connect(&fabric.stack.nats_options(), "huge").await.unwrap();
    let stop = selvedge::agent::CancellationToken::new();
    let error =
        tokio::time::timeout(Duration::from_secs(10), huge.run_until(link, stop)).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("2000"), "{error}");
}
