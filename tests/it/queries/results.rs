//! Large results: in a stream of NATS, not in Redis, and read back as if they stood in the index.

use async_nats::jetstream;
use selvedge::{
    agent::{Agent, AgentError, Ctx},
    store::keys,
    wire::{subjects, topology},
};

use crate::harness::{
    fabric::{Fabric, eventually},
    until,
};

async fn repeat(_: Ctx, n: usize) -> Result<String, AgentError> {
    Ok("x".repeat(n))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_is_kept_beside_the_index_and_comes_back_with_it() {
    let fabric = Fabric::start().await;
    fabric.agent(Agent::new("repeat", repeat).unwrap().slots(4)).await;
    let client = fabric.client("acme").await;
    let (middle, large) =
        (client.submit("repeat", &4_000).await.unwrap(), client.submit("repeat", &40_000).await.unwrap());
    for (task, n) in [(&middle, 4_000), (&large, 40_000)] {
        let found: String = eventually("a result", task.result()).await.unwrap();
        assert_eq!(found.len(), n);
    }
    let js = jetstream::new(async_nats::connect(fabric.stack.nats.url()).await.unwrap());
    let stream = js.get_stream(topology::RESULTS).await.unwrap();
    let subject = subjects::result(client.tenant_name(), large.id());
    let kept = until("the indexer has put it aside", || async {
        stream.get_last_raw_message_by_subject(&subject).await.ok()
    })
    .await;
    let lives: u64 = kept.headers.get("Nats-TTL").unwrap().as_str().parse().unwrap();
    // The default plan keeps an ended task for a day.
    assert!((86_000..=86_460).contains(&lives), "{lives} s");
    assert_eq!(stream.get_info().await.unwrap().state.messages, 1, "the other one stands in Redis");

    let mut redis = redis::Client::open(fabric.stack.redis.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let results = keys::results(client.tenant_name());
    let apart: Vec<String> = redis::cmd("HKEYS").arg(&results).query_async(&mut redis).await.unwrap();
    assert_eq!(apart, [middle.id().to_string()]);
    let page = until("both are listed", || async {
        client.list().page().await.ok().filter(|page| page.tasks.len() == 2)
    })
    .await;
    assert!(page.tasks.iter().all(|view| view.result.is_none()), "never in lists");

    // Written again by a rebuild, in place of what is there.
    let () = redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    until("the index is there again", || async {
        let there: bool = redis::cmd("HEXISTS")
            .arg(keys::records(client.tenant_name()))
            .arg(large.id().as_str())
            .query_async(&mut redis.clone())
            .await
            .unwrap();
        there.then_some(())
    })
    .await;
    let found =
        until("the result is back", || async { large.get().await.ok().and_then(|view| view.result) }).await;
    assert_eq!(found.len(), 40_002);
    let state = stream.get_info().await.unwrap().state;
    assert_eq!((state.messages, state.first_sequence > kept.sequence), (1, true), "written anew, once");

    // Anybody's acknowledgement may be sent there: it is noise, and takes no result's place.
    js.publish(subject, "noise".into()).await.unwrap().await.unwrap();
    let found = large.get().await.unwrap().result.unwrap();
    assert_eq!(found.len(), 40_002);

    // Gone for want of room: said, and no task is shown as if it had none.
    stream.purge().await.unwrap();
    let error = large.get().await.unwrap_err().to_string();
    assert!(error.contains("kept no more"), "{error}");
    assert!(middle.get().await.unwrap().result.is_some());
}
