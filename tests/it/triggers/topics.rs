//! What a message becomes: by topic, template, filter and id.

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    task::{Code, Phase},
};
use serde_json::{Value, json};

use super::setup::{Setup, publish};
use crate::harness::{soon, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_handler_publishes_becomes_a_task_of_each_trigger_that_wants_it() {
    let Setup { fabric, desk, seen, client } = Setup::reading().await;
    let publisher = |ctx: Ctx, paths: Vec<String>| async move {
        for path in paths {
            ctx.publish("docs.new", &json!({"path": path, "draft": path.starts_with("draft")})).await?;
        }
        Ok::<_, AgentError>(ctx.hops())
    };
    fabric.agent(Agent::new("publisher", publisher).unwrap()).await;
    let template = json!({"read": "{{message.path}}", "of": "{{topic}}", "by": "all"});
    desk.set("all", json!({"topic": "docs.>"}), json!({"template": template})).await;
    let template = json!({"read": "{{message.path}}", "by": "final"});
    let only = json!({"template": template, "filter": ["message.draft=false"]});
    let finals = desk.set("final", json!({"topic": "docs.*"}), only).await;
    desk.set("others", json!({"topic": "letters.>"}), json!({})).await;

    let task = client.submit("publisher", &["a.md", "draft.md"]).await.unwrap();
    assert_eq!(soon("the publisher's end", task.result::<u32>()).await.unwrap(), 0);
    // Another tenant's topic of the same name is another topic.
    fabric.client("globex").await.publish("docs.new", &json!({"path": "secret.md"})).await.unwrap();

    let mut inputs = seen.count(3).await;
    inputs.sort_by_key(Value::to_string);
    let all = |path: &str| json!({"read": path, "of": "docs.new", "by": "all"});
    let mut expected = vec![all("a.md"), all("draft.md"), json!({"read": "a.md", "by": "final"})];
    expected.sort_by_key(Value::to_string);
    assert_eq!(inputs, expected);
    let state =
        desk.state(&finals, "the counts of the second", |s| s.counts.filtered > 0 && s.pending == 0).await;
    assert_eq!((state.counts.made, state.counts.filtered, state.counts.dead), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_message_is_one_task_by_its_id_or_by_what_the_trigger_says() {
    let Setup { fabric: _fabric, desk, seen, client } = Setup::reading().await;
    let by_id = desk.set("by-id", json!({"topic": "orders"}), json!({})).await;
    let by_key = json!({"dedupe": "{{message.order}}", "template": "{{seq}}"});
    let by_key = desk.set("by-key", json!({"topic": "bills"}), by_key).await;
    for n in 0..3 {
        client.publish("orders", &json!({"n": n})).id("order 17").await.unwrap();
        client.publish("bills", &json!({"order": "17", "n": n})).await.unwrap();
    }
    client.publish("orders", &json!({"n": 9})).await.unwrap();
    desk.state(&by_id, "all orders are decided", |s| s.counts.made == 2 && s.counts.known == 2).await;
    desk.state(&by_key, "all bills are decided", |s| s.counts.made == 1 && s.counts.known == 2).await;
    let mut inputs = seen.count(3).await;
    inputs.sort_by_key(Value::to_string);
    assert_eq!(
        inputs[1..],
        [json!({"n": 0}), json!({"n": 9})],
        "the first of the same is the one that counts"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_fits_no_template_is_a_dead_letter_and_the_next_goes_on() {
    let Setup { fabric: _fabric, desk, seen, client } = Setup::reading().await;
    let template = json!({"doc": {"path": "{{message.path}}"}});
    let made = json!({"template": template, "labels": {"from": "docs"}});
    let name = desk.set("strict", json!({"topic": "docs"}), made).await;
    client.publish("docs", &json!({"file": "a.md"})).await.unwrap();
    client.publish("docs", &"no object").await.unwrap();
    client.publish("docs", &json!({"path": "a.md"})).await.unwrap();
    assert_eq!(seen.count(1).await, [json!({"doc": {"path": "a.md"}})]);
    let state = desk.state(&name, "both dead letters are noted", |s| s.counts.dead == 2).await;
    let letter = &state.dead[0];
    assert_eq!((letter.seq, letter.refusal.code), (1, Code::TemplateFailed));
    assert_eq!(letter.refusal.message, "at `doc.path`: the message has no `message.path`");
    let labelled = until("its task is found by its label", async || {
        let page = client.list().label("from", "docs").page().await.ok()?.tasks;
        (!page.is_empty()).then_some(page)
    });
    assert_eq!(labelled.await.len(), 1);
    // It stays where it is.
    let kept = desk.js.get_stream("TOPICS").await.unwrap().get_raw_message(1).await.unwrap();
    assert_eq!(kept.payload, r#"{"file":"a.md"}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_triggers_itself_ends_at_its_cap_and_says_so() {
    let Setup { fabric, desk, seen, client } = Setup::idle().await;
    let told = seen.clone();
    // By a child: it inherits how many triggers lie behind its parent.
    let parent = |ctx: Ctx, n: u64| async move {
        ctx.spawn("echo", "echo", [n]).await?;
        ctx.wait_all().await?;
        Ok::<_, AgentError>(())
    };
    let echo = move |ctx: Ctx, n: u64| {
        let told = told.clone();
        async move {
            told.note(json!(ctx.hops()));
            ctx.publish("loop", &(n + 1)).await?;
            Ok::<_, AgentError>(())
        }
    };
    fabric.agent(Agent::new("reader", parent).unwrap().slots(4)).await;
    fabric.agent(Agent::new("echo", echo).unwrap().slots(4)).await;
    let name = desk.set("loop", json!({"topic": "loop"}), json!({"max_hops": 3})).await;
    client.publish("loop", &0).await.unwrap();
    let state = desk.state(&name, "the loop is refused", |s| s.counts.dead == 1).await;
    assert_eq!((state.counts.made, state.dead[0].refusal.code), (3, Code::HopsExceeded));
    assert_eq!((state.dead[0].refusal.actual, state.dead[0].refusal.limit), (Some(4), Some(3)));
    assert_eq!(seen.all(), [1, 2, 3].map(|n| json!(n)));
    let all = until("three trees have ended", async || {
        let page = client.list().page().await.ok()?.tasks;
        page.iter().all(|task| task.state.is_terminal()).then_some(page)
    });
    assert!(all.await.iter().all(|task| task.state == Phase::Completed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_trigger_keeps_its_place_a_changed_one_goes_on_and_a_removed_one_leaves_nothing() {
    let Setup { fabric: _fabric, desk, seen, client } = Setup::reading().await;
    let name = desk.set("one", json!({"topic": "a.x"}), json!({"template": "{{message.n}}"})).await;
    publish(&client, "a.x", 0..1).await;
    seen.count(1).await;
    let (mut settings, revision) = desk.bucket.trigger(&name).await.unwrap().unwrap();
    settings.paused = true;
    let revision = desk.bucket.set(&name, &settings, Some(revision)).await.unwrap();
    desk.state(&name, "it is paused", |s| s.doing == selvedge::task::trigger::state::Doing::Paused).await;
    publish(&client, "a.x", 1..4).await;
    desk.state(&name, "it sees what waits", |s| s.pending == 3).await;
    assert_eq!(seen.all().len(), 1);
    // With another filter it goes on from where it is.
    settings.paused = false;
    settings.source = serde_json::from_value(json!({"topic": "a.>"})).unwrap();
    desk.bucket.set(&name, &settings, Some(revision)).await.unwrap();
    let mut numbers: Vec<u64> = seen.count(4).await.iter().map(|n| n.as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3]);
    publish(&client, "a.y", 4..5).await;
    seen.count(5).await;

    desk.bucket.remove(&name).await.unwrap();
    until("its consumer and its state are gone", async || {
        let consumer = desk.js.get_stream("TOPICS").await.ok()?.consumer_info("trigger-one").await;
        (consumer.is_err() && desk.bucket.state(&name).await.ok()?.is_none()).then_some(())
    })
    .await;
    publish(&client, "a.x", 5..6).await;
    assert_eq!(seen.all().len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_the_users_own_is_read_and_one_that_is_not_there_is_shown_and_waited_for() {
    use async_nats::jetstream::stream::{Config, RetentionPolicy};
    let Setup { fabric: _fabric, desk, seen, .. } = Setup::reading().await;
    let source = json!({"stream": {"name": "ORDERS", "subject": "orders.*.new"}});
    let template = json!({"template": ["{{subject}}", "{{message}}"]});
    let name = desk.set("orders", source, template).await;
    let state = desk.state(&name, "it is shown as broken", |s| s.refusal.is_some()).await;
    let refusal = state.refusal.unwrap();
    assert!(refusal.code == Code::NotFound && refusal.message.contains("ORDERS"), "{refusal}");
    for (retention, text) in [(RetentionPolicy::Limits, "plain text"), (RetentionPolicy::WorkQueue, "queued")]
    {
        let config = Config {
            name: "ORDERS".into(),
            subjects: vec!["orders.>".into()],
            retention,
            ..Config::default()
        };
        desk.js.create_stream(config).await.unwrap();
        for subject in ["orders.7.old", "orders.7.new"] {
            desk.js.publish(subject, text.into()).await.unwrap().await.unwrap();
        }
        until("the order's task has run", async || {
            seen.all().contains(&json!(["orders.7.new", text])).then_some(())
        })
        .await;
        // Another stream of the same name begins at its beginning.
        desk.js.delete_stream("ORDERS").await.unwrap();
    }
    assert_eq!(seen.all().len(), 2);
}
