//! What a scaler asks: the owner answers, and a standby by way of it.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use selvedge::client::Client;

use crate::harness::binary::{Started, selvedge};
use crate::harness::{Stack, until};

async fn get(addr: &str, path: &str) -> String {
    let mut tcp = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn scale(addr: &str, path: &str) -> Option<Value> {
    let answer = get(addr, path).await;
    let body = answer.split("\r\n\r\n").nth(1)?;
    answer.starts_with("HTTP/1.1 200").then(|| serde_json::from_str(body).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_coordinator_tells_a_scaler_what_the_owner_knows_and_metrics_name_the_tenant() {
    let stack = Stack::start().await;
    let dir = tempfile::tempdir().unwrap();
    let start = |id: &str| {
        let mut command = selvedge(dir.path());
        command
            .args(["coordinator", "--json", "--admin-listen", "127.0.0.1:0", "--id", id])
            .env("NATS_URL", stack.nats.url())
            .env("REDIS_URL", stack.redis.url())
            .stderr(std::process::Stdio::null());
        let mut started = Started::of(command);
        let up: Value = serde_json::from_str(&started.line()).unwrap();
        (started, up["admin"].as_str().unwrap().to_owned())
    };
    let (_one, first) = start("one");
    let (_two, second) = start("two");
    let client = Client::connect(&stack.nats.url()).await.unwrap().tenant("acme").unwrap();
    for n in 0..40 {
        client.submit("reader", &n).await.unwrap();
    }
    for addr in [&first, &second] {
        let told = until("the queue is told", || async {
            scale(addr, "/api/v1/scale/reader?slots=4").await.filter(|told| told["queued"] == 40)
        })
        .await;
        // A tenant of plan `free` may run two: the others would run nowhere, however many instances there were.
        assert_eq!((&told["runnable"], &told["desired"]), (&2.into(), &1.into()), "{told}");
        assert_eq!((&told["instances"], &told["running"]), (&0.into(), &0.into()), "{told}");
    }
    let metrics = until("the owner's metrics", || async {
        let (one, two) = (get(&first, "/metrics").await, get(&second, "/metrics").await);
        [one, two].into_iter().find(|text| text.contains("selvedge_tenant_queued{tenant=\"acme\"} 40"))
    })
    .await;
    for line in [
        "selvedge_queued{agent=\"reader\"} 40",
        "selvedge_blocked{agent=\"reader\",reason=\"slots\"} 2",
        "selvedge_blocked{agent=\"reader\",reason=\"in_flight\"} 38",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(metrics.contains("selvedge_queue_oldest_seconds{agent=\"reader\"}"));
}
