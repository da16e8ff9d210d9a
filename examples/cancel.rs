//! Cancelling a running task: `cargo run --example cancel`, with a coordinator at `NATS_URL`.
//!
//! The handler notices and tidies up; the task is `cancelled` whatever the handler still says.

use std::time::Duration;

use selvedge::{
    agent::{Agent, AgentError, CancellationToken, Ctx},
    client::{Client, WatchItem},
};

async fn endless(ctx: Ctx, _: ()) -> Result<(), AgentError> {
    ctx.emit("progress", "started").await?;
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(3_600)) => Ok(()),
        () = ctx.cancelled() => {
            println!("handler: cancelled, tidying up");
            Err(AgentError::fatal("cancelled"))
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env().await?;
    let stop = CancellationToken::new();
    let agent = Agent::new("endless", endless)?.run_until(client.link().clone(), stop.clone());
    let act = async {
        let task = client.submit("endless", &()).await?;
        let mut watch = task.watch().await?;
        while let Some(item) = watch.next().await {
            match item? {
                WatchItem::Event(_) => task.cancel("changed my mind").await?,
                WatchItem::End(ended) => println!("client: {}", ended.state),
                WatchItem::State(_) | WatchItem::Gap { .. } => {}
            }
        }
        stop.cancel();
        Ok::<_, selvedge::client::Error>(())
    };
    let (agent, acted) = tokio::join!(agent, act);
    agent?;
    Ok(acted?)
}
