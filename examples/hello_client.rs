//! A client in a few lines: `cargo run --example hello_client`, with `hello_agent` running.

use selvedge::client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env().await?;
    let task = client.submit("hello", "world").await?;
    let greeting: String = task.result().await?;
    println!("{greeting}");
    Ok(())
}
