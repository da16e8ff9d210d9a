//! A parent that fans out, waits without holding a slot, and sums up: `cargo run --example fanout`.
//!
//! Agents and client in one process, with a coordinator at `NATS_URL`. Prints `45 words in 3 texts`.

use std::time::Duration;

use selvedge::{
    agent::{Agent, AgentError, CancellationToken, Ctx},
    client::Client,
};

async fn count(_ctx: Ctx, text: String) -> Result<usize, AgentError> {
    Ok(text.split_whitespace().count())
}

async fn plan(ctx: Ctx, texts: Vec<String>) -> Result<String, AgentError> {
    let children = ctx.spawn("count", "counter", &texts).await?;
    // Ends this attempt. The handler runs again, from its start, when the children have ended; it
    // then finds the same children, and their results here.
    let mut words = 0;
    for child in ctx.wait_all().await? {
        words += child.decode::<usize>()?;
    }
    Ok(format!("{words} words in {} texts", children.len()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env().await?;
    let stop = CancellationToken::new();
    let counter = Agent::new("counter", count)?.slots(4).run_until(client.link().clone(), stop.clone());
    let planner = Agent::new("planner", plan)?.run_until(client.link().clone(), stop.clone());
    let ask = async {
        let texts = ["one ".repeat(20), "two ".repeat(15), "three ".repeat(10)];
        let task = client.submit("planner", &texts).await?;
        let answer = tokio::time::timeout(Duration::from_secs(60), task.result::<String>()).await;
        stop.cancel();
        answer.map_err(|_| selvedge::client::Error::Unavailable("no answer in a minute".into()))?
    };
    let (counter, planner, answer) = tokio::join!(counter, planner, ask);
    counter?;
    planner?;
    println!("{}", answer?);
    Ok(())
}
