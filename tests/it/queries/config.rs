//! The bounds of a scan are changed in a running coordinator.

use selvedge::client::Client;
use selvedge::task::{AgentName, Phase};

use crate::harness::binary::{Started, selvedge, wait_for};
use crate::harness::{Stack, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scan_limits_change_at_a_hangup_and_a_mistake_changes_nothing() {
    let stack = Stack::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("selvedge.toml");
    let write = |cap: &str| {
        std::fs::write(&file, format!("[redis]\ntms_max_index_scan = {cap}\ntms_list_scan_buffer = 3\n"))
            .unwrap()
    };
    write("7");
    let mut command = selvedge(dir.path());
    command
        .args(["coordinator", "--json", "--admin-listen", "127.0.0.1:0", "--config", "selvedge.toml"])
        .env("NATS_URL", stack.nats.url())
        .env("REDIS_URL", stack.redis.url())
        .stderr(std::fs::File::create(dir.path().join("log")).unwrap());
    let mut coordinator = Started::of(command);
    assert!(coordinator.line().contains("coordinator"));
    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();

    let client = Client::connect(&stack.nats.url()).await.unwrap();
    for n in 0..30 {
        client.submit("nobody", &n).await.unwrap();
    }
    let (states, agent) = ([Phase::Queued, Phase::Running], AgentName::new("nobody").unwrap());
    let scanned = |limit: u32| {
        let list =
            states.iter().fold(client.list().agent(&agent).limit(limit), |list, state| list.state(*state));
        async move { list.page().await.unwrap().scanned }
    };
    until("all are indexed", || async { (client.stats().await.ok()?.total == 30).then_some(()) }).await;
    assert_eq!((scanned(1).await, scanned(20).await), (4, 7), "limit and buffer, up to the cap");

    write("12");
    coordinator.signal(libc::SIGHUP);
    wait_for("the file was read again", || log().contains("was read again").then_some(()));
    until("the new cap counts", || async { (scanned(20).await == 12).then_some(()) }).await;

    write("0");
    coordinator.signal(libc::SIGHUP);
    wait_for("the mistake is told", || log().contains("nothing was changed").then_some(()));
    assert!(log().contains("tms_max_index_scan"), "by name: {}", log());
    assert_eq!(scanned(19).await, 12);
    coordinator.signal(libc::SIGTERM);
    assert!(coordinator.end().0.success());
}
