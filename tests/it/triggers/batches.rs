//! Fan-in: several messages for one task.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::setup::{Setup, publish};

fn numbers(inputs: &[Value]) -> Vec<Vec<u64>> {
    let of = |batch: &Value| batch.as_array().unwrap().iter().map(|m| m["n"].as_u64().unwrap()).collect();
    inputs.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_full_by_count_or_over_by_time() {
    let Setup { fabric, desk, seen, client } = Setup::idle().await;
    fabric.agent(seen.agent("reader").slots(1)).await;
    let batch = json!({"batch": {"count": 10, "within_ms": 60_000}});
    desk.set("by-count", json!({"topic": "many"}), batch).await;
    for n in 0..25 {
        publish(&client, "many", n..n + 1).await;
    }
    let batches = numbers(&seen.count(2).await);
    assert_eq!(batches, [(0..10).collect::<Vec<_>>(), (10..20).collect()], "five wait");

    let before = Instant::now();
    let batch = json!({"batch": {"count": 100, "within_ms": 700}, "template": {"n": "{{count}}", "all": "{{batch}}"}});
    let by_time = desk.set("by-time", json!({"topic": "few"}), batch).await;
    publish(&client, "few", 0..3).await;
    let inputs = seen.count(3).await;
    assert!(before.elapsed() >= Duration::from_millis(700));
    assert_eq!((&inputs[2]["n"], inputs[2]["all"].as_array().unwrap().len()), (&json!(3), 3));
    let state = desk.state(&by_time, "its counts are noted", |s| s.counts.made == 1 && s.cut.is_none()).await;
    assert_eq!((state.counts.messages, state.batched), (3, 28), "the last message of all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_filter_does_not_want_is_in_no_batch_and_a_repeat_is_in_it_once() {
    let Setup { fabric: _fabric, desk, seen, client } = Setup::reading().await;
    let batch = json!({"batch": {"count": 3, "within_ms": 60_000}, "filter": ["message.n!=1"]});
    let name = desk.set("some", json!({"topic": "many"}), batch).await;
    for n in [0, 1, 2, 2, 1, 3] {
        client.publish("many", &json!({"n": n})).id(format!("m-{n}")).await.unwrap();
    }
    assert_eq!(numbers(&seen.count(1).await), [[0, 2, 3]]);
    let state = desk.state(&name, "its counts are noted", |s| s.counts.made == 1).await;
    assert_eq!((state.counts.filtered, state.counts.known, state.counts.messages), (2, 1, 3));
}
