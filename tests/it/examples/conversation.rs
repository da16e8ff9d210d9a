//! `examples/conversation/`: a Rust agent and a Python agent that ask each other.

use std::path::Path;

use selvedge::client::Client;

use super::{Fabric, executable};
use crate::harness::{soon, until};

const CRITIC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/conversation/critic.py");

async fn conversation(fabric: &Fabric, tenant: &str, text: &str) -> Vec<String> {
    let mut command = fabric.command(executable("conversation"));
    let run = command.arg(text).env("SELVEDGE_TENANT", tenant).output();
    let ran = soon("they agree", run).await.unwrap();
    assert!(ran.status.success(), "{}", ran.status);
    String::from_utf8(ran.stdout).unwrap().lines().map(str::to_owned).collect()
}

async fn takes_calls(client: &Client) {
    let called = || async { client.call("critic", "fine").result::<String>().await.ok() };
    assert_eq!(until("the critic takes calls", called).await, "fine");
}

#[tokio::test]
async fn a_rust_and_a_python_agent_ask_each_other_until_they_agree_or_are_too_deep() {
    let fabric = Fabric::start().await;
    fabric.pro("deep").await;
    let packages = tokio::task::spawn_blocking(crate::sdk::python::packages).await.unwrap();
    let mut python = fabric.command("python3");
    let _critic = python.arg(Path::new(CRITIC)).env("PYTHONPATH", packages).spawn().unwrap();
    takes_calls(&fabric.client().await.tenant("deep").unwrap()).await;

    // Below `pro` there is room enough to agree.
    let agreed = [
        "draft: a really very fine cloth",
        "remark: without really",
        "draft: a very fine cloth",
        "remark: without very",
        "draft: a fine cloth",
        "agreed: a fine cloth",
    ];
    assert_eq!(conversation(&fabric, "deep", "a really very fine cloth").await, agreed);
    // The writer may not ask any more: at depth 6.
    let last = conversation(&fabric, "deep", "just really very quite rather fine").await;
    assert_eq!(last[last.len() - 2..], ["draft: quite rather fine", "agreed: quite rather fine"]);
    // Below `free` it is the critic who may not: at depth 3.
    let free = conversation(&fabric, "default", "a really very fine cloth").await;
    assert_eq!(free[..4], agreed[..4]);
    assert_eq!(free[4..], ["remark: that is deep enough", "agreed: a very fine cloth"]);
    fabric.stop().await;
}
