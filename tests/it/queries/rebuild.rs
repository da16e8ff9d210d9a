//! The index after every kind of loss, compared by a checker that shares no code with it.

use std::time::Duration;

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    client::Client,
    store::connect::connect,
};

use crate::cli::Cli;
use crate::harness::python::packages;
use crate::harness::{
    Stack,
    fabric::{Fabric, eventually, unbound},
    until,
};

/// The journal folded by `tests/index_check.py`, against the index.
async fn check(stack: &Stack) -> Result<u64, String> {
    let packages = packages().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/index_check.py");
    let ran = tokio::process::Command::new("python3")
        .arg(script)
        .args([stack.nats.url(), stack.redis.url()])
        .env("PYTHONPATH", packages)
        .output()
        .await
        .expect("python3");
    let (out, said) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    match ran.status.success() {
        true => Ok(serde_json::from_str::<serde_json::Value>(&out).unwrap()["tasks"].as_u64().unwrap()),
        false => Err(format!("{out}{said}")),
    }
}

/// Until the index has caught up, or what differs when patience is over.
pub async fn equal(stack: &Stack, tasks: u64) {
    let mut last = String::new();
    for _ in 0..40 {
        match check(stack).await {
            Ok(found) if found >= tasks => return,
            Ok(found) => last = format!("{found} tasks, {tasks} were submitted"),
            Err(told) => last = told,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{last}");
}

async fn plan(ctx: Ctx, n: u64) -> Result<u64, AgentError> {
    let items: Vec<u64> = (0..3).map(|i| 10 * n + i).collect();
    ctx.spawn("part", "part", items).await?;
    Ok(ctx.wait_all().await?.len() as u64)
}

async fn part(ctx: Ctx, n: u64) -> Result<String, AgentError> {
    ctx.emit("progress", &n).await?;
    match n % 5 {
        0 => Err(AgentError::fatal("five")),
        1 => Ok("x".repeat(2_000)),
        // Too large for the index.
        3 => Ok("y".repeat(20_000)),
        _ => Ok(n.to_string()),
    }
}

async fn work(client: &Client, n: u64) {
    for i in 0..n {
        let task = client.submit("planner", &i).await.unwrap();
        let _ = eventually("an end", task.wait()).await;
    }
    let doomed = client.submit("nobody", &1).await.unwrap();
    doomed.cancel("not needed").await.unwrap();
    client.submit("nobody", &2).id("twice").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_every_loss_the_index_equals_the_fold_of_the_journal_by_a_checker_of_its_own() {
    let mut fabric = Fabric::start().await;
    fabric.plan("acme", unbound()).await;
    fabric.agent(Agent::new("planner", plan).unwrap().slots(4)).await;
    fabric.agent(Agent::new("part", part).unwrap().slots(4)).await;
    let client = fabric.client("acme").await;
    work(&client, 4).await;
    equal(&fabric.stack, 18).await;
    assert_eq!(Cli::on(&fabric.stack).run(&["index", "verify"]).await.code, 0);

    // Everything forgotten, in the middle of work.
    let (connection, _) = connect(&fabric.stack.redis_options()).await.unwrap();
    let mut c = connection.clone();
    let () = redis::cmd("FLUSHALL").query_async(&mut c).await.unwrap();
    work(&client, 4).await;
    equal(&fabric.stack, 35).await;

    // Restarted, empty.
    fabric.stack.redis.kill9();
    work(&client, 2).await;
    tokio::task::block_in_place(|| fabric.stack.redis.restart()).unwrap();
    equal(&fabric.stack, 44).await;

    // Full, and made room again: until then no task waits for it.
    let limit = async |bytes: &str| {
        let mut c = connection.clone();
        let set = redis::cmd("CONFIG").arg(&["SET", "maxmemory", bytes]).query_async(&mut c).await;
        let () = set.unwrap();
    };
    until("it is there again", || async {
        redis::cmd("PING").query_async::<String>(&mut connection.clone()).await.ok()
    })
    .await;
    limit("1").await;
    work(&client, 2).await;
    limit("0").await;
    equal(&fabric.stack, 53).await;

    // One record spoilt by hand: found by both, mended by a rebuild.
    let mut c = connection.clone();
    let key = selvedge::store::keys::records(&"acme".parse().unwrap());
    let id: Vec<String> = redis::cmd("HKEYS").arg(&key).query_async(&mut c).await.unwrap();
    let record: Vec<u8> = redis::cmd("HGET").arg(&key).arg(&id[0]).query_async(&mut c).await.unwrap();
    let text = String::from_utf8_lossy(&record[..1]);
    let spoilt = [b"9".as_slice(), &record].concat();
    assert!(text.parse::<u64>().is_ok(), "a record begins with its revision");
    let () = redis::cmd("HSET").arg(&key).arg(&id[0]).arg(spoilt).query_async(&mut c).await.unwrap();
    let ran = Cli::on(&fabric.stack).run(&["index", "verify"]).await;
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert!(ran.out.contains("differs in rev"), "{}", ran.out);
    let ran = Cli::on(&fabric.stack).run(&["index", "rebuild"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(Cli::on(&fabric.stack).run(&["index", "verify"]).await.code, 0);
    equal(&fabric.stack, 53).await;
}
