//! An agent in a few lines: `cargo run --example hello_agent`, with a coordinator at `NATS_URL`.

use selvedge::agent::{Agent, AgentError, Ctx};

async fn hello(_ctx: Ctx, name: String) -> Result<String, AgentError> {
    Ok(format!("Hello, {name}!"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("NATS_URL").unwrap_or("nats://127.0.0.1:4222".into());
    Ok(Agent::new("hello", hello)?.slots(8).serve(&url).await?)
}
