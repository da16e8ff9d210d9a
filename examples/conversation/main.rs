//! Two agents that ask each other, in two languages: `cargo run --example conversation -- "a really very fine cloth"`, with a
//! coordinator at `NATS_URL` and `python3 examples/conversation/critic.py` running.
//!
//! The writer, here, drafts and asks the critic. The critic remarks on the draft, and asks the writer for another one. That
//! ends when nothing is left to remark on, or when the plan allows no deeper asking: then the last draft stands. Everybody
//! hands on what is said below, so that the caller sees all of it as it comes.

use selvedge::{
    agent::{Agent, AgentError, CancellationToken, Ctx},
    client::Client,
    task::Code,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    text: String,
    /// What the critic would have left out.
    without: Option<String>,
}

async fn write(ctx: Ctx, order: Order) -> Result<String, AgentError> {
    let left_out = |word: &&str| order.without.as_deref() != Some(*word);
    let draft = order.text.split_whitespace().filter(left_out).collect::<Vec<_>>().join(" ");
    ctx.emit("draft", &draft).await?;
    let mut answer = ctx.ask("critic", &draft).await?;
    while let Some(chunk) = answer.next().await {
        match chunk {
            Ok(chunk) => ctx.emit_raw(&chunk.kind, chunk.data).await?,
            Err(error) if error.code() == Some(Code::DepthExceeded) => return Ok(draft),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answer.result().await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = std::env::args().nth(1).unwrap_or_else(|| "a really very fine cloth".to_owned());
    let client = Client::from_env().await?;
    let stop = CancellationToken::new();
    // A slot for every draft on the way down.
    let writer = Agent::new("writer", write)?.slots(8).run_until(client.link().clone(), stop.clone());
    let listen = async {
        let mut answer = client.call("writer", &Order { text, without: None }).await?;
        while let Some(chunk) = answer.next().await {
            let chunk = chunk?;
            println!("{}: {}", chunk.kind, chunk.data.decode::<String>()?);
        }
        println!("agreed: {}", answer.result::<String>().await?);
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    let listen = async {
        let listened = listen.await;
        stop.cancel();
        listened
    };
    let (writer, listened) = tokio::join!(writer, listen);
    writer?;
    listened
}
