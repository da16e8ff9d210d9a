//! The bridge against the other protocol's own client and host, with the packages of `examples/bridge/requirements.txt`.

use std::{path::Path, process::Stdio};

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    bridge::{expose, forward},
    bus::Link,
    task::{Backoff, Phase, Plan},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{
    fabric::{Fabric, eventually, unbound},
    python::bridge_packages,
    soon, until,
};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bridge");

async fn python(fabric: &Fabric, script: &str, args: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(Path::new(EXAMPLES).join(script))
        .args(args)
        .env("PYTHONPATH", bridge_packages().await)
        .env("NATS_URL", fabric.stack.nats.url())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// What the client prints, a line of JSON each.
async fn prompt(fabric: &Fabric, agent: &str, text: &str) -> Vec<Value> {
    let mut command = python(fabric, "prompt.py", &["acme", agent, text]).await;
    let ran = eventually("the client ends", command.output()).await.expect("python3");
    let out = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{out}{}", String::from_utf8_lossy(&ran.stderr));
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a str> {
    lines.iter().filter_map(|line| line.get(kind)?.as_str()).collect()
}

/// A fabric whose agents of `acme` are shown.
async fn exposed(plan: Plan) -> (Fabric, CancellationToken) {
    let fabric = Fabric::start().await;
    fabric.plan("acme", plan).await;
    let client = fabric.client("acme").await;
    let stop = CancellationToken::new();
    let until = stop.clone();
    tokio::spawn(async move {
        if let Err(error) = expose::run(client, expose::Which::Heard, until).await {
            panic!("the bridge failed: {error}");
        }
    });
    (fabric, stop)
}

/// Streams the words of a text, and returns how many there are.
async fn words(ctx: Ctx, text: String) -> Result<usize, AgentError> {
    for word in text.split(' ') {
        ctx.emit("progress", "another word").await?;
        ctx.emit("text", word).await?;
    }
    Ok(text.split(' ').count())
}

async fn is_called(fabric: &Fabric, agent: &str) {
    let client = fabric.client("acme").await;
    until("it takes calls", || async { client.call(agent, "x").result::<Value>().await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_client_discovers_prompts_and_is_refused_with_429() {
    let (fabric, _stop) = exposed(unbound()).await;
    let lengths = |_: Ctx, text: String| async move { Ok::<_, AgentError>(text.len()) };
    fabric.agent(Agent::new("words", words).unwrap().slots(4)).await;
    fabric.agent(Agent::new("lengths", lengths).unwrap().slots(4)).await;
    is_called(&fabric, "words").await;

    let lines = prompt(&fabric, "words", "warp and weft").await;
    assert_eq!(lines[0]["found"], "agents.prompt.selvedge.acme.words");
    assert_eq!(lines[0]["status"], "words");
    assert_eq!(lines[1]["StatusChunk"], "ack", "{lines:?}");
    assert_eq!(of(&lines, "ResponseChunk"), ["warp", "and", "weft"]);
    // Nothing streamed: the result is the answer.
    assert_eq!(of(&prompt(&fabric, "lengths", "four").await, "ResponseChunk"), ["4"]);

    // A rate that gives nothing: the client takes longer to start than any other takes to come back.
    fabric.plan("globex", Plan { rate: 0, ..unbound() }).await;
    let (other, until) = (fabric.client("globex").await, CancellationToken::new());
    let shown = vec!["words".parse().unwrap()];
    let showing = tokio::spawn(expose::run(other, expose::Which::These(shown), until.clone()));
    let mut command = python(&fabric, "prompt.py", &["globex", "words", "warp"]).await;
    let ran = eventually("the client ends", command.output()).await.expect("python3");
    let out = String::from_utf8(ran.stdout).unwrap();
    assert!(out.contains("service error 429") && out.contains("RATE_EXCEEDED"), "{out}");
    assert!(out.contains("retry after"), "{out}");
    until.cancel();
    soon("the bridge ends", showing).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_handler_is_an_error_of_the_protocol() {
    let (fabric, _stop) = exposed(unbound()).await;
    let fails = |_: Ctx, text: String| async move {
        match text.as_str() {
            "x" => Ok(0),
            _ => Err(AgentError::fatal("no loom here")),
        }
    };
    fabric.agent(Agent::new("fails", fails).unwrap().slots(4)).await;
    is_called(&fabric, "fails").await;
    let lines = prompt(&fabric, "fails", "weave").await;
    let error = of(&lines, "error");
    assert!(error[0].contains("500") && error[0].contains("no loom here"), "{lines:?}");
}

/// The other protocol's host, ready.
async fn host(fabric: &Fabric) -> Child {
    let mut child =
        python(fabric, "host.py", &["ada", "main"]).await.stdout(Stdio::piped()).spawn().expect("python3");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = eventually("the host is ready", lines.next_line()).await.unwrap();
    assert_eq!(ready.as_deref(), Some("ready"));
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fabric_worker_serves_tasks_and_calls_by_prompting_its_host() {
    let hasty = |options: &mut selvedge::coordinator::run::Options| {
        options.policy.backoff = Backoff { base_ms: 10, cap_ms: 50 };
    };
    let fabric = Fabric::start_with(hasty).await;
    fabric.plan("acme", Plan { max_tries: 3, ..unbound() }).await;
    let _host = host(&fabric).await;
    let link = Link::connect(&fabric.stack.nats_options(), "test-bridge").await.unwrap();
    let forwarded = forward::agent("shouter", "agents.prompt.shouter.ada.main", &link).unwrap();
    fabric.agent(forwarded.slots(2)).await;
    let client = fabric.client("acme").await;

    // The host refuses its first prompt as 429: another try follows.
    let task = client.submit("shouter", "warp and weft").await.unwrap();
    let answer: String = eventually("the result", task.result()).await.unwrap();
    assert_eq!(answer, "WARP AND WEFT 0");
    assert_eq!(task.get().await.unwrap().tries, 1);
    let mut call = client.call("shouter", "go").await.unwrap();
    let first = soon("a part", call.next()).await.unwrap().unwrap();
    assert_eq!((first.kind.as_str(), first.data.decode::<String>().unwrap().as_str()), ("text", "GO "));
    assert_eq!(call.result::<String>().await.unwrap(), "GO 0");

    let failed = client.submit("shouter", "fail").await.unwrap();
    let ended = eventually("its end", failed.wait()).await.unwrap();
    assert_eq!(ended.state, Phase::Failed);
    assert_eq!(failed.get().await.unwrap().tries, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_the_other_end_is_a_try_that_comes_again_later() {
    let fabric = Fabric::start().await;
    fabric.plan("acme", unbound()).await;
    let link = Link::connect(&fabric.stack.nats_options(), "test-bridge").await.unwrap();
    fabric.agent(forward::agent("shouter", "agents.prompt.shouter.ada.nobody", &link).unwrap()).await;
    let client = fabric.client("acme").await;
    let task = client.submit("shouter", "go").await.unwrap();
    let view = until("a try is lost", || async {
        task.get().await.ok().filter(|view| view.state == Phase::Retrying)
    })
    .await;
    assert!(view.failures[0].message.contains("nobody answers"), "{view:?}");
    task.cancel("enough").await.unwrap();
}
