//! An agent in a few lines: `cargo run --example hello_agent`, with a coordinator at `NATS_URL`.

use selvedge::agent::{Agent, AgentError, Ctx};

async fn hello(_ctx: Ctx, name: String) -> Result<String, AgentError> {
    Ok(format!("Hello, {name}!"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    Ok(Agent::new("hello", hello)?.slots(8).serve_from_env().await?)
}
