//! Two agents that ask each other, in two languages. With a coordinator at `NATS_URL`:
//!
//! ```text
//! cargo run --example conversation
//! python3 examples/conversation/critic.py
//! selvedge call writer '{"text": "a really very fine cloth"}'
//! ```
//!
//! The writer, this one, drafts and asks the critic. The critic remarks on the draft and asks the writer for another one. That
//! ends when nothing is left to remark on, or when the plan allows no deeper asking: then the last draft stands. Both hand on
//! what is said below, so that the caller sees all of it as it comes.

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    task::Code,
};
use serde::Deserialize;

#[derive(Deserialize)]
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
    // A slot for every draft on the way down.
    Ok(Agent::new("writer", write)?.slots(8).serve_from_env().await?)
}
