//! Nothing in Redis grows for ever: every key is looked at.

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    store::{audit::audit, connect::connect, events::EventPolicy, keys},
    task::{Phase, TaskKey},
    wire::subjects::Shard,
};
use tokio::sync::Semaphore;

use crate::cli::Cli;
use crate::harness::{fabric::Fabric, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_is_capped_or_expires_also_of_a_task_that_never_ends_and_doctor_names_one_that_is_not() {
    let fabric = Fabric::start().await;
    let client = fabric.client("default").await;
    static NEVER: Semaphore = Semaphore::const_new(0);
    let stuck = |ctx: Ctx, n: u64| async move {
        ctx.emit("progress", &n).await?;
        let _never = NEVER.acquire().await;
        Ok::<u64, AgentError>(n)
    };
    let quick = |ctx: Ctx, n: u64| async move {
        ctx.emit("progress", &n).await?;
        Ok::<u64, AgentError>(n)
    };
    fabric.agent(Agent::new("stuck", stuck).unwrap()).await;
    fabric.agent(Agent::new("quick", quick).unwrap()).await;
    let task = client.submit("stuck", &1).await.unwrap();
    client.submit("quick", &2).await.unwrap().result::<u64>().await.unwrap();
    let (connection, _) = connect(&fabric.stack.redis_options()).await.unwrap();
    let look = || audit(&connection, Shard(0), EventPolicy::default());
    let whole = || async { look().await.ok().filter(|found| (found.streams, found.tenants) == (2, 1)) };
    let found = until("both have events, and the tenant an index", whole).await;
    assert!(found.unbounded.is_empty(), "{:?}", found.unbounded);
    assert_eq!(task.get().await.unwrap().state, Phase::Running);

    let ran = Cli::on(&fabric.stack).run(&["doctor"]).await;
    assert!(ran.out.contains("redis keys") && ran.out.contains("each is capped or expires"), "{}", ran.out);

    // One of each that nothing bounds.
    let mut c = connection.clone();
    let stream = keys::events(&TaskKey { tenant: "default".parse().unwrap(), id: task.id().clone() });
    let () = redis::cmd("PERSIST").arg(&stream).query_async(&mut c).await.unwrap();
    let orphan = keys::shown(&"nobody".parse().unwrap());
    let () = redis::cmd("ZADD").arg(&orphan).arg(0).arg("x").query_async(&mut c).await.unwrap();
    let () = redis::cmd("SET").arg("sv:{default}:i:cache").arg(1).query_async(&mut c).await.unwrap();
    let mut named: Vec<String> = look().await.unwrap().unbounded.into_iter().map(|(key, _)| key).collect();
    named.sort();
    let mut expected = vec!["sv:{default}:i:cache".to_owned(), stream.clone(), orphan.clone()];
    expected.sort();
    assert_eq!(named, expected);
    let ran = Cli::on(&fabric.stack).run(&["doctor"]).await;
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert!(expected.iter().all(|key| ran.out.contains(key.as_str())), "{}", ran.out);
}
