//! A person decides: `cargo run --example approval`, with a coordinator at `NATS_URL`.
//!
//! The writer drafts once, waits for the approval without holding a slot, and publishes. Prints what happened.

use std::time::Duration;

use selvedge::{
    agent::{Agent, AgentError, CancellationToken, Ctx},
    client::Client,
    task::Phase,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Approval {
    ok: bool,
}

async fn write(ctx: Ctx, topic: String) -> Result<String, AgentError> {
    // Recorded: whenever the handler runs again it is given the same draft.
    let draft = ctx
        .step("draft", || async {
            println!("writer: drafting");
            Ok(format!("a page about {topic}"))
        })
        .await?;
    // Ends this attempt. The handler runs again, from its start, when the signal has come or the day is over.
    let Some(signal) = ctx.wait_signal("approval", Duration::from_secs(24 * 3_600)).await? else {
        return Ok(format!("nobody looked at {draft}"));
    };
    let approval: Approval = signal.decode()?;
    let who = signal.from.unwrap_or_default();
    Ok(if approval.ok { format!("{draft}, approved by {who}") } else { format!("{who} turned {draft} down") })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env().await?;
    let stop = CancellationToken::new();
    let writer = Agent::new("writer", write)?.run_until(client.link().clone(), stop.clone());
    let person = async {
        let task = client.submit("writer", &"selvedges").await?;
        while !task.get().await.is_ok_and(|view| view.state == Phase::Waiting) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("person: approving");
        task.signal_from("ada", "approval", &Approval { ok: true }).await?;
        let answer = tokio::time::timeout(Duration::from_secs(60), task.result::<String>()).await;
        stop.cancel();
        answer.map_err(|_| selvedge::client::Error::Unavailable("no answer in a minute".into()))?
    };
    let (writer, answer) = tokio::join!(writer, person);
    writer?;
    println!("{}", answer?);
    Ok(())
}
