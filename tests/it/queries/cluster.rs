//! A cluster of three nodes under the index and the events: tenants spread over it, a node that forgets everything.

use std::collections::HashSet;
use std::time::Duration;

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    cli::servers::{RedisServer, ports},
    client::Client,
    coordinator::run::{Connections, Options, run},
    store::{
        audit::audit,
        connect::{RedisOptions, connect},
        events::EventPolicy,
    },
    task::Phase,
    wire::{api::CountRequest, subjects::Shard},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Stack, fabric::eventually, redis, soon, until};

/// Three primaries that know each other and share all slots.
async fn cluster(dir: &std::path::Path) -> Vec<RedisServer> {
    let mut nodes = Vec::new();
    let mut buses = Vec::new();
    for n in 0..3 {
        let bus = ports::free_port().unwrap();
        nodes.push(redis(&dir.join(n.to_string()), move |config| config.cluster = Some(bus)).await);
        buses.push(bus);
    }
    let ranges = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];
    for (node, (from, to)) in nodes.iter().zip(ranges) {
        let mut c = redis::Client::open(node.url()).unwrap().get_connection().unwrap();
        let () = redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(from).arg(to).query(&mut c).unwrap();
        for (other, bus) in nodes.iter().zip(&buses) {
            let () = redis::cmd("CLUSTER")
                .arg("MEET")
                .arg("127.0.0.1")
                .arg(other.port())
                .arg(*bus)
                .query(&mut c)
                .unwrap();
        }
    }
    for node in &nodes {
        until("a node knows all others", || async {
            let mut c = redis::Client::open(node.url()).unwrap().get_connection().unwrap();
            let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut c).unwrap();
            let met = info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3");
            (met && info.contains("cluster_slots_ok:16384")).then_some(())
        })
        .await;
    }
    nodes
}

async fn double(ctx: Ctx, n: u64) -> Result<u64, AgentError> {
    ctx.emit("progress", &n).await?;
    Ok(2 * n)
}

fn size(node: &RedisServer) -> u64 {
    let mut c = redis::Client::open(node.url()).unwrap().get_connection().unwrap();
    redis::cmd("DBSIZE").query(&mut c).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_three_holds_index_and_events_and_one_that_is_emptied_is_filled_again() {
    let stack = Stack::start().await;
    let nodes = cluster(&stack.dir().join("cluster")).await;
    let options = RedisOptions::at(nodes[0].url());
    let connections = Connections::open(&stack.nats_options(), &options, "c").await.unwrap();
    let stop = CancellationToken::new();
    let (up, is_up) = tokio::sync::oneshot::channel();
    let coordinator = tokio::spawn(run(Options::new("c"), connections, Some(up), stop.clone()));
    soon("it is up", is_up).await.unwrap();
    let link = selvedge::bus::Link::connect(&stack.nats_options(), "agent").await.unwrap();
    let agent = Agent::new("double", double).unwrap().slots(8);
    tokio::spawn(agent.run_until(link, stop.clone()));

    let first = Client::connect(&stack.nats.url()).await.unwrap();
    let tenants: Vec<Client> = (0..12).map(|n| first.tenant(&format!("tenant-{n}")).unwrap()).collect();
    let mut tasks = Vec::new();
    for client in &tenants {
        for n in 0..4u64 {
            tasks.push((client.clone(), n, client.submit("double", &n).await.unwrap()));
        }
    }
    for (_, n, task) in &tasks {
        assert_eq!(eventually("a result", task.result::<u64>()).await.unwrap(), 2 * n);
    }
    let complete = || async {
        for client in &tenants {
            let page = client.list().state(Phase::Completed).page().await.ok()?;
            let count = client.count(&CountRequest::default()).await.ok()?.count;
            if (page.tasks.len(), count) != (4, 4) {
                return None;
            }
        }
        Some(())
    };
    until("every tenant's tasks are indexed", complete).await;
    for node in &nodes {
        assert!(size(node) > 0, "every node holds a part");
    }
    for (client, n, task) in &tasks {
        let page = until("its event is stored", || async {
            client.events(task.id(), None).await.ok().filter(|page| !page.events.is_empty())
        })
        .await;
        assert_eq!(page.events[0].data.decode::<u64>().unwrap(), *n);
    }
    let reader = connect(&options).await.unwrap().0;
    let found = audit(&reader, Shard(0), EventPolicy::default()).await.unwrap();
    assert_eq!((found.tenants, found.streams, found.unbounded.as_slice()), (12, 48, &[][..]));
    let keys: HashSet<u64> = nodes.iter().map(size).collect();
    assert!(found.keys >= keys.into_iter().max().unwrap());

    // One node forgets everything: the index is begun anew, on all of them.
    let mut c = redis::Client::open(nodes[1].url()).unwrap().get_connection().unwrap();
    let () = redis::cmd("FLUSHALL").query(&mut c).unwrap();
    for client in &tenants {
        client.submit("double", &9).await.unwrap();
    }
    let again = || async {
        for client in &tenants {
            if client.count(&CountRequest::default()).await.ok()?.count != 5 {
                return None;
            }
        }
        Some(())
    };
    eventually("the index is whole again", async {
        while again().await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    stop.cancel();
    soon("it drains", coordinator).await.unwrap().unwrap();
}
