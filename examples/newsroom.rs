//! A newsroom: `cargo run --example newsroom -- docs`, with a coordinator at `NATS_URL`.
//!
//! Every document of a directory is published as a lead. A trigger makes a task for a reporter of each; reporters read, and
//! publish their stories. Another trigger gathers stories, up to five or what came within a second, into one task for the
//! editor, who publishes an edition. Nobody knows anybody: they meet in topics. Prints the editions, and is done when every
//! document is in one.
//!
//! ```text
//! leads ──▶ trigger ──▶ reporter ──▶ stories ──▶ trigger, a batch ──▶ editor ──▶ editions
//! ```

use std::{collections::BTreeSet, path::Path, time::Duration};

use futures_util::StreamExt;
use selvedge::{
    agent::{Agent, AgentError, CancellationToken, Ctx},
    bus::{
        self, NatsOptions,
        triggers::{TriggersBucket, source_stream, start_of},
    },
    client::Client,
    task::trigger::TriggerSettings,
    wire::topology::TOPICS,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

type Failed = Box<dyn std::error::Error>;

#[derive(Serialize, Deserialize)]
struct Story {
    path: String,
    headline: String,
    words: usize,
}

/// Reads one document, and files what is in it.
async fn report(ctx: Ctx, path: String) -> Result<(), AgentError> {
    let text = tokio::fs::read_to_string(&path).await?;
    let headline = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or("untitled").to_owned();
    let story = Story { path, headline, words: text.split_whitespace().count() };
    ctx.publish("newsroom.stories", &story).await
}

/// Makes an edition of some stories, the longest first.
async fn edit(ctx: Ctx, mut stories: Vec<Story>) -> Result<(), AgentError> {
    stories.sort_by_key(|story| std::cmp::Reverse(story.words));
    ctx.publish("newsroom.editions", &stories).await
}

/// Sets up a trigger of this tenant, or the same again.
async fn trigger(
    js: &bus::JetStream,
    tenant: &str,
    name: &str,
    what: serde_json::Value,
) -> Result<(), Failed> {
    let mut settings = json!({"tenant": tenant});
    settings
        .as_object_mut()
        .into_iter()
        .for_each(|all| all.extend(what.as_object().cloned().unwrap_or_default()));
    let mut settings: TriggerSettings = serde_json::from_value(settings)?;
    settings.start = start_of(source_stream(js, TOPICS).await?.as_ref(), false);
    let (bucket, name) = (TriggersBucket::open(js).await?, name.parse()?);
    let known = bucket.trigger(&name).await?.map(|(_, revision)| revision);
    bucket.set(&name, &settings, known).await?;
    Ok(())
}

/// Publishes a lead for every document of the directory; says how many there are.
async fn publish_leads(client: &Client, dir: &Path) -> Result<usize, Failed> {
    let paths: BTreeSet<_> = std::fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let documents: Vec<_> = paths.iter().filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    for path in &documents {
        client.publish("newsroom.leads", &json!({"path": path})).await?;
    }
    Ok(documents.len())
}

/// Prints editions until so many stories were in one.
async fn print(mut editions: bus::Subscription, documents: usize) -> Result<(), Failed> {
    let (mut printed, mut edition) = (BTreeSet::new(), 0);
    while printed.len() < documents {
        let message = editions.next().await.ok_or("the connection is closed")?;
        edition += 1;
        println!("edition {edition}");
        for story in serde_json::from_slice::<Vec<Story>>(&message.payload)? {
            println!("  {}: {} ({} words)", story.path, story.headline, story.words);
            printed.insert(story.path);
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "docs".to_owned());
    let client = Client::from_env().await?;
    let tenant = client.tenant_name().to_string();
    let connection = bus::connect(&NatsOptions::from_env()?.with_context()?, "newsroom").await?;
    let leads = json!({
        "source": {"topic": "newsroom.leads"}, "agent": "reporter", "template": "{{message.path}}",
    });
    trigger(connection.jetstream(), &tenant, "newsroom-leads", leads).await?;
    let stories = json!({
        "source": {"topic": "newsroom.stories"}, "agent": "editor", "batch": {"count": 5, "within_ms": 1_000},
    });
    trigger(connection.jetstream(), &tenant, "newsroom-stories", stories).await?;

    let stop = CancellationToken::new();
    let link = client.link();
    let reporters = Agent::new("reporter", report)?.slots(4).run_until(link.clone(), stop.clone());
    let editor = Agent::new("editor", edit)?.run_until(link.clone(), stop.clone());
    let editions = link.main.subscribe(format!("sv.topic.{tenant}.newsroom.editions")).await?;
    link.main.flush().await?;
    let news = async {
        let documents = publish_leads(&client, Path::new(&dir)).await?;
        let printed = tokio::time::timeout(Duration::from_secs(120), print(editions, documents)).await;
        stop.cancel();
        printed.map_err(|_| Failed::from("no editions in two minutes"))?
    };
    let (reporters, editor, news) = tokio::join!(reporters, editor, news);
    reporters?;
    editor?;
    news
}
