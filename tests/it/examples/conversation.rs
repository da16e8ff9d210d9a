//! `examples/conversation/`: a Rust agent and a Python agent that ask each other.

use selvedge::client::Client;
use serde_json::json;

use super::{Fabric, executable, terminate};
use crate::harness::{soon, until};

const CRITIC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/conversation/critic.py");

/// What is said on the way, and what they agree on.
async fn conversation(client: &Client, text: &str) -> Result<Vec<String>, selvedge::client::Error> {
    let mut answer = client.call("writer", &json!({"text": text})).await?;
    let mut said = Vec::new();
    while let Some(chunk) = soon("the next word", answer.next()).await {
        let chunk = chunk?;
        said.push(format!("{}: {}", chunk.kind, chunk.data.decode::<String>().unwrap()));
    }
    said.push(format!("agreed: {}", answer.result::<String>().await?));
    Ok(said)
}

#[tokio::test]
async fn a_rust_and_a_python_agent_ask_each_other_until_they_agree_or_are_too_deep() {
    let fabric = Fabric::start().await;
    fabric.pro("acme").await;
    let packages = crate::harness::python::packages().await;
    let mut critic = fabric.command("python3");
    let _critic = critic.arg(CRITIC).env("PYTHONPATH", packages).spawn().unwrap();
    let writer = fabric.command(executable("conversation")).spawn().unwrap();
    let free = fabric.client().await;
    let pro = free.tenant("acme").unwrap();
    let first = until("both take calls", || async { conversation(&pro, "fine").await.ok() }).await;
    assert_eq!(first, ["draft: fine", "agreed: fine"]);

    // Below `pro` there is room enough to agree.
    let agreed = [
        "draft: a really very fine cloth",
        "remark: without really",
        "draft: a very fine cloth",
        "remark: without very",
        "draft: a fine cloth",
        "agreed: a fine cloth",
    ];
    assert_eq!(conversation(&pro, "a really very fine cloth").await.unwrap(), agreed);
    // At depth 6 it is the writer who may ask nobody any more.
    let said = conversation(&pro, "just really very quite rather fine").await.unwrap();
    assert_eq!(said[said.len() - 2..], ["draft: quite rather fine", "agreed: quite rather fine"]);
    // Below `free`, at depth 3, the critic.
    let said = conversation(&free, "a really very fine cloth").await.unwrap();
    assert_eq!(said[..4], agreed[..4]);
    assert_eq!(said[4..], ["remark: that is deep enough", "agreed: a very fine cloth"]);
    terminate(writer).await;
    fabric.stop().await;
}
