//! Following a task's events live: `cargo run --example watch`, with a coordinator at `NATS_URL`.
//!
//! Events come in order, each once; what is lost is shown as a gap; the end comes last.

use selvedge::{
    agent::{Agent, AgentError, CancellationToken, Ctx},
    client::{Client, WatchItem},
};

async fn write(ctx: Ctx, words: Vec<String>) -> Result<usize, AgentError> {
    for word in &words {
        ctx.emit("token", word).await?;
    }
    Ok(words.len())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env().await?;
    let stop = CancellationToken::new();
    let agent = Agent::new("writer", write)?.run_until(client.link().clone(), stop.clone());
    let follow = async {
        let task = client.submit("writer", &["a", "self-finished", "edge"]).await?;
        let mut watch = task.watch().await?;
        while let Some(item) = watch.next().await {
            match item? {
                WatchItem::Event(event) => println!("{}: {:?}", event.kind, event.data.decode::<String>()),
                WatchItem::Gap { from, to, .. } => println!("events {from} to {to} are lost"),
                WatchItem::State(state) => println!("state: {state}"),
                WatchItem::End(ended) => println!("words: {}", ended.result::<usize>()?),
            }
        }
        stop.cancel();
        Ok::<_, selvedge::client::Error>(())
    };
    let (agent, followed) = tokio::join!(agent, follow);
    agent?;
    Ok(followed?)
}
