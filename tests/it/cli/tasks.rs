//! The verbs about tasks.

use selvedge::agent::{Agent, AgentError, Ctx};
use selvedge::task::Plan;
use serde_json::json;

use super::Cli;
use crate::harness::fabric::{Fabric, unbound};

/// Something that must never show in a log.
const CANARY: &str = "canary-4f1d";

async fn fabric() -> (Fabric, Cli) {
    let fabric = Fabric::start().await;
    fabric.plan("default", Plan { max_tries: 2, ..unbound() }).await;
    let cli = Cli::on(&fabric.stack);
    (fabric, cli)
}

fn doubler() -> Agent {
    let double = |ctx: Ctx, n: u64| async move {
        ctx.emit("progress", &json!({"half": n})).await?;
        Ok::<_, AgentError>(n * 2)
    };
    Agent::new("doubler", double).unwrap().slots(4)
}

/// Fails unless the input says otherwise, in words that would like to command a terminal.
fn breaker() -> Agent {
    let break_it = |_: Ctx, _: serde_json::Value| async move {
        Err::<(), _>(AgentError::fatal("broke\u{1b}[2J\u{9b}31m on\u{202e} page 3"))
    };
    Agent::new("breaker", break_it).unwrap().slots(4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submitted_task_is_waited_for_shown_and_listed() {
    let (fabric, cli) = fabric().await;
    fabric.agent(doubler()).await;
    assert_eq!(cli.ok(&["submit", "doubler", "21", "--wait"]).await, "42\n");

    let whole = cli.json(&["submit", "doubler", "4", "--wait"]).await;
    assert_eq!((&whole["state"], &whole["result"]), (&json!("completed"), &json!(8)));
    let id = whole["task"].as_str().unwrap();
    assert_eq!(cli.json(&["get", id]).await["result"], json!(8));
    assert_eq!(cli.ok(&["get", id, "--result"]).await, "8\n");
    let shown = cli.ok(&["get", id]).await;
    assert!(shown.contains("state     completed") && shown.ends_with("result\n8\n"), "{shown}");

    let list = cli.json(&["list", "--state", "completed", "--agent", "doubler"]).await;
    assert_eq!(list["tasks"].as_array().unwrap().len(), 2);
    assert_eq!(list["tasks"][0]["task"], id, "newest first");
    assert!(list["tasks"][0]["result"].is_null(), "lists hold no results");
    let first = cli.run(&["list", "-n", "1"]).await;
    assert!(first.out.starts_with("TASK") && first.out.contains(id), "{}", first.out);
    let cursor =
        first.err.trim().strip_prefix("more with --cursor ").unwrap_or_else(|| panic!("{}", first.err));
    assert!(!cli.ok(&["list", "-n", "1", "--cursor", cursor]).await.contains(id));
    assert_eq!(cli.json(&["list", "--stats"]).await["states"]["completed"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_tells_events_and_states_and_ends_with_the_task() {
    let (fabric, cli) = fabric().await;
    let watching = {
        let id = cli.ok(&["submit", "doubler", "5", "--confirm"]).await.trim().to_owned();
        let cli = Cli::on(&fabric.stack);
        tokio::spawn(async move { cli.run(&["watch", &id, "--json"]).await })
    };
    fabric.agent(doubler()).await;
    let ran = watching.await.unwrap();
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let event = lines.iter().find(|line| line["kind"] == "event").unwrap();
    assert_eq!(event["event"]["data"], json!({"half": 5}));
    let last = lines.last().unwrap();
    assert_eq!((&last["kind"], &last["result"]), (&json!("end"), &json!(10)));
    assert_eq!(
        lines.iter().filter(|line| line["state"] == "completed" && line["kind"] == "state").count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_ends_a_task_and_one_that_ended_stays_as_it_is() {
    let (fabric, cli) = fabric().await;
    let id = cli.ok(&["submit", "nobody", "--confirm"]).await.trim().to_owned();
    let reply = cli.json(&["cancel", &id, "--reason", "not needed", "--wait"]).await;
    assert_eq!(reply["state"], "cancelled");
    assert!(cli.ok(&["list", "--state", "cancelled"]).await.contains("not needed"));
    assert!(!cli.ok(&["list"]).await.contains(&id), "cancelled tasks are listed when asked for");
    let waited = cli.fails(1, &["get", &id, "--wait"]).await;
    assert_eq!(waited["code"], "CANCELLED");

    fabric.agent(doubler()).await;
    let done = cli.json(&["submit", "doubler", "1", "--wait"]).await["task"].as_str().unwrap().to_owned();
    assert!(cli.ok(&["cancel", &done]).await.contains("had ended before: it is completed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_task_is_listed_with_its_reason_and_retried_as_a_new_one() {
    let (fabric, cli) = fabric().await;
    fabric.agent(breaker()).await;
    let ran = cli.run(&["submit", "breaker", "{}", "--wait"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("HANDLER_FAILED") && ran.err.contains("page 3"), "{}", ran.err);
    let page = cli.json(&["dead", "ls"]).await;
    let id = page["tasks"][0]["task"].as_str().unwrap().to_owned();
    let (listed, shown) = (cli.ok(&["dead", "ls"]).await, cli.ok(&["dead", "show", &id]).await);
    for text in [&listed, &shown, &ran.err] {
        assert!(text.contains("broke") && text.contains("HANDLER_FAILED"), "{text}");
        let commands = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!text.contains(commands), "{text:?}");
    }
    let again = cli.json(&["dead", "retry", &id]).await;
    assert_eq!(again["retry_of"], json!(id));
    let new = again["task"].as_str().unwrap();
    let ended = cli.fails(1, &["get", new, "--wait"]).await;
    assert_eq!(ended["code"], "HANDLER_FAILED");
    assert_eq!(cli.json(&["get", new]).await["retry_of"], json!(id));
    let alive = cli.ok(&["submit", "nobody", "--confirm"]).await;
    assert_eq!(cli.fails(1, &["dead", "retry", alive.trim()]).await["code"], "NOT_DEAD");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_input_comes_from_the_argument_a_file_or_standard_input() {
    let (fabric, cli) = fabric().await;
    fabric.agent(doubler()).await;
    std::fs::write(cli.dir().join("input.json"), " 7\n").unwrap();
    assert_eq!(cli.ok(&["submit", "doubler", "--file", "input.json", "--wait"]).await, "14\n");
    assert_eq!(cli.fed("8", &["submit", "doubler", "--file", "-", "--wait"]).await.out, "16\n");
    assert_eq!(cli.fed("9", &["submit", "doubler", "-", "--wait"]).await.out, "18\n");
    let many = cli.fed("1\n2\n\n3\n", &["submit", "doubler", "--lines"]).await;
    assert_eq!((many.code, many.out.lines().count()), (0, 3), "{}", many.err);

    let first = cli.ok(&["submit", "doubler", "1", "--key", "import"]).await;
    assert_eq!(cli.ok(&["submit", "doubler", "1", "--key", "import", "--confirm"]).await, first);
    let conflict = cli.fails(1, &["submit", "doubler", "2", "--key", "import", "--wait"]).await;
    assert_eq!(conflict["code"], "IDEMPOTENCY_CONFLICT");

    assert_eq!(cli.fails(2, &["submit", "doubler", "{a:1}"]).await["code"], "BAD_INPUT");
    let bad_line = cli.fed("1\n{\n", &["submit", "doubler", "--lines", "--json"]).await;
    assert!(bad_line.code == 2 && bad_line.err.contains("line 2"), "{}", bad_line.err);
    let large = format!("\"{}\"", "x".repeat(300_000));
    let refused = cli.fed(&large, &["submit", "doubler", "-", "--json"]).await;
    assert!(refused.code == 1 && refused.err.contains("TOO_LARGE"), "{}", refused.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_waiting_in_vain_and_a_missing_task_have_their_exit_codes() {
    let (fabric, cli) = fabric().await;
    fabric.plan("small", Plan { backlog: 1, ..unbound() }).await;
    cli.ok(&["submit", "nobody", "--tenant", "small", "--confirm"]).await;
    let refused = cli.fails(75, &["submit", "nobody", "-t", "small", "--confirm"]).await;
    assert_eq!(refused["code"], "BACKLOG_FULL");
    let timeout = cli.fails(75, &["submit", "nobody", "--wait", "--max-wait", "300ms"]).await;
    assert_eq!(timeout["code"], "WAIT_TIMEOUT");
    assert!(timeout["do"].as_str().unwrap().contains("selvedge get"), "{timeout}");
    let missing = cli.fails(1, &["get", "0190f3c2a1b37d4e8f60718293a4b5c6"]).await;
    assert_eq!(missing["code"], "NOT_FOUND");
    assert_eq!(cli.run(&["get", "No*such"]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_are_never_logged() {
    let (fabric, _) = fabric().await;
    fabric.agent(doubler()).await;
    let cli = Cli::on(&fabric.stack).env("RUST_LOG", "trace,async_nats=off");
    let input = format!("\"{CANARY}\"");
    let ran = cli.run(&["submit", "breaker", &input, "--confirm"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!ran.err.is_empty() && !ran.err.contains(CANARY), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_task_shows_when_it_may_start_and_an_expired_one_why() {
    let (fabric, cli) = fabric().await;
    fabric.agent(doubler()).await;
    let id = cli.ok(&["submit", "doubler", "5", "--delay", "10m", "--confirm"]).await.trim().to_owned();
    let view = cli.json(&["get", &id]).await;
    assert_eq!(view["state"], "queued");
    assert_eq!(view["not_before"].as_u64(), view["created_at"].as_u64().map(|at| at + 600_000));
    assert!(cli.ok(&["get", &id]).await.contains("not before"), "for people, too");
    cli.ok(&["cancel", &id]).await;

    let past = cli.json(&["submit", "doubler", "5", "--run-at", "2026-01-01T00:00:00Z", "--wait"]).await;
    assert_eq!(past["result"], json!(10), "a time that has passed is now");
    let expired = cli.fails(1, &["submit", "nobody", "5", "--deadline", "300ms", "--wait"]).await;
    assert_eq!(expired["code"], "DEADLINE_EXCEEDED", "{expired}");
    let wrong =
        cli.run(&["submit", "doubler", "5", "--delay", "1m", "--run-at", "2026-01-01T00:00:00Z"]).await;
    assert_eq!(wrong.code, 2, "{}", wrong.err);
    let zero = cli.run(&["submit", "doubler", "5", "--ttl", "0"]).await;
    assert!(zero.code != 0 && zero.err.contains("BAD_TIME"), "{}", zero.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_and_a_message_reach_the_handler_and_a_task_that_is_over_takes_none() {
    let (fabric, cli) = fabric().await;
    let waits = |ctx: Ctx, _: serde_json::Value| async move {
        let note: String = ctx.recv().await?.decode()?;
        let approval = ctx.wait_signal("approval", None).await?;
        Ok::<_, AgentError>((note, approval.and_then(|signal| signal.from)))
    };
    fabric.agent(Agent::new("writer", waits).unwrap()).await;
    let id = cli.ok(&["submit", "writer", "{}", "--confirm"]).await;
    let id = id.trim();
    let told = cli.ok(&["signal", id, "approval", "{\"ok\":true}", "--from", "ada"]).await;
    assert!(told.starts_with(&format!("{id} is told")), "{told}");
    assert_eq!(cli.json(&["tell", id, "\"look at chapter 3\"", "--nonce", "n-1"]).await["task"], id);
    let result = crate::harness::fabric::eventually("the result", async {
        loop {
            let view = cli.json(&["get", id]).await;
            if view["state"] == "completed" {
                return view["result"].clone();
            }
        }
    })
    .await;
    assert_eq!(result, json!(["look at chapter 3", "ada"]));
    let error = cli.fails(1, &["signal", id, "approval"]).await;
    assert_eq!(error["code"], "TASK_ENDED");
    let error = cli.fails(2, &["tell", id, "no json"]).await;
    assert_eq!(error["code"], "BAD_INPUT");
}
