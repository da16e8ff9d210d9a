//! Research with a person at its end: `cargo run --example research -- docs lease lost > report.md`, with a coordinator
//! at `NATS_URL`.
//!
//! Finds what the documents of a directory say about some words. A planner spawns a reader for every document and waits for
//! them without a slot, asks a critic which findings are worth a chapter, has a writer make a report of those, and waits for a
//! person. The report is printed if the person says yes; what happens meanwhile goes to stderr. No model is needed: the
//! readers count. A tenant of the plan `free` may have 7 documents: `selvedge tenant set default --plan pro` allows for 63.
//!
//! ```text
//! planner ──▶ a reader per document ──▶ critic, asked ──▶ writer ──▶ a person ──▶ the report, or nothing
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::try_join_all;
use selvedge::{
    agent::{Agent, AgentError, CancellationToken, Ctx},
    client::{self, Client, WatchItem},
    task::TaskId,
};
use serde::{Deserialize, Serialize};

type Failed = Box<dyn std::error::Error>;

#[derive(Serialize, Deserialize)]
struct Question {
    dir: PathBuf,
    words: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
struct Reading {
    path: PathBuf,
    about: BTreeSet<String>,
}

/// What a reader found in one document.
#[derive(Serialize, Deserialize)]
struct Finding {
    path: PathBuf,
    title: String,
    words: usize,
    headings: usize,
    /// The most frequent long words, and how often they occur.
    terms: Vec<(String, usize)>,
    /// How many sentences have all the words of the question.
    sentences: usize,
    /// The first of them.
    quotes: Vec<String>,
}

/// What the critic says of one finding.
#[derive(Serialize, Deserialize)]
struct Verdict {
    relevant: bool,
    why: String,
}

#[derive(Serialize, Deserialize)]
struct Material {
    about: BTreeSet<String>,
    judged: Vec<(Finding, Verdict)>,
}

#[derive(Serialize, Deserialize)]
struct Approval {
    ok: bool,
}

/// Runs from its start whenever what it waited for has come, and finds what it did before: steps, children, the signal.
async fn plan(ctx: Ctx, question: Question) -> Result<Option<String>, AgentError> {
    // Recorded: the documents stay the same whatever becomes of the directory meanwhile.
    let documents = ctx.step("documents", || documents(&question.dir)).await?;
    let readings = documents.into_iter().map(|path| Reading { path, about: question.words.clone() });
    let readers = ctx.spawn("read", "research-reader", readings).await?;
    let mut findings = Vec::new();
    for reader in ctx.wait(&readers).await? {
        findings.push(reader.decode::<Finding>()?);
    }
    // An answer is not recorded by itself: without the step it would be asked for again.
    let verdicts = ctx.step("verdicts", || ask_critic(&ctx, &findings)).await?;
    let material = Material { about: question.words, judged: findings.into_iter().zip(verdicts).collect() };
    let writer = ctx.spawn("write", "research-writer", [material]).await?;
    let written = ctx.wait(&writer).await?;
    let report = written.first().ok_or_else(|| AgentError::fatal("no writer"))?;
    // An event is small: it says whose result the person is to read.
    ctx.emit("draft", &report.task).await?;
    let signal = ctx.wait_signal("approval", Duration::from_secs(24 * 3_600)).await?;
    let approved = match signal {
        Some(signal) => signal.decode::<Approval>()?.ok,
        None => false,
    };
    Ok(if approved { Some(report.decode()?) } else { None })
}

async fn documents(dir: &Path) -> Result<BTreeSet<PathBuf>, AgentError> {
    let mut entries = tokio::fs::read_dir(dir).await?;
    let mut documents = BTreeSet::new();
    while let Some(entry) = entries.next_entry().await? {
        documents.insert(entry.path());
    }
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    Ok(documents)
}

/// Hands the critic's verdicts on to whoever watches, as they come.
async fn ask_critic(ctx: &Ctx, findings: &[Finding]) -> Result<Vec<Verdict>, AgentError> {
    // It needs no more than this, and what is asked goes in one message.
    let counts: Vec<usize> = findings.iter().map(|finding| finding.sentences).collect();
    let mut answer = ctx.ask("research-critic", &counts).await.map_err(later)?;
    let mut verdicts = Vec::new();
    while let Some(chunk) = answer.next().await {
        let verdict: Verdict = chunk.map_err(later)?.data.decode().map_err(AgentError::fatal)?;
        if let Some(finding) = findings.get(verdicts.len()) {
            ctx.emit("verdict", &format!("{}: {}", finding.path.display(), verdict.why)).await?;
        }
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

/// Who is asked is there now, or it is not: then this runs again in a moment, and no try is lost.
fn later(error: client::Error) -> AgentError {
    match error.code() {
        Some(code) if code.is_retryable() => AgentError::snooze(Duration::from_secs(1)),
        _ => error.into(),
    }
}

async fn read(_ctx: Ctx, reading: Reading) -> Result<Finding, AgentError> {
    let text = tokio::fs::read_to_string(&reading.path).await?;
    let (headings, sentences) = parts(&text);
    let mut counts = BTreeMap::<String, usize>::new();
    for word in words(&text).filter(|word| word.chars().count() >= 6) {
        *counts.entry(word).or_default() += 1;
    }
    let mut terms: Vec<_> = counts.into_iter().collect();
    terms.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    terms.truncate(3);
    let has_all = |sentence: &String| reading.about.is_subset(&words(sentence).collect());
    let mut quotes: Vec<String> = sentences.into_iter().filter(has_all).collect();
    let found = quotes.len();
    quotes.truncate(3);
    Ok(Finding {
        path: reading.path,
        title: headings.first().cloned().unwrap_or_else(|| "untitled".to_owned()),
        words: text.split_whitespace().count(),
        headings: headings.len(),
        terms,
        sentences: found,
        quotes,
    })
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// Headings and sentences of a Markdown text, without its code and its tables.
fn parts(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut headings, mut prose, mut code) = (Vec::new(), String::new(), false);
    for line in text.lines().map(str::trim) {
        let fence = line.starts_with("```");
        code ^= fence;
        match line.chars().next() {
            _ if code || fence => prose.push('\n'),
            Some('#') => headings.push(line.trim_start_matches('#').trim().to_owned()),
            None | Some('|') => prose.push('\n'),
            Some(_) => prose.extend([line, " "]),
        }
    }
    let sentences = prose.lines().flat_map(|paragraph| paragraph.split(". ")).map(str::trim);
    let sentences = sentences.map(|sentence| sentence.trim_end_matches('.').to_owned());
    (headings, sentences.collect())
}

/// Answers as it judges: a verdict for each count, in order.
async fn criticise(ctx: Ctx, counts: Vec<usize>) -> Result<usize, AgentError> {
    for count in &counts {
        let why = match count {
            0 => "says nothing about it".to_owned(),
            1 => "mentions it in passing".to_owned(),
            more => format!("{more} sentences about it"),
        };
        ctx.emit("verdict", &Verdict { relevant: *count > 1, why }).await?;
    }
    Ok(counts.len())
}

async fn write(_ctx: Ctx, material: Material) -> Result<String, AgentError> {
    let about: Vec<&str> = material.about.iter().map(String::as_str).collect();
    let documents = material.judged.len();
    let (chapters, others): (Vec<_>, Vec<_>) =
        material.judged.into_iter().partition(|(_, verdict)| verdict.relevant);
    let mut report = format!("# {}\n\n{} of {documents} documents.\n", about.join(", "), chapters.len());
    for (finding, verdict) in &chapters {
        let Finding { path, title, words, headings, .. } = finding;
        let terms: Vec<_> = finding.terms.iter().map(|(term, count)| format!("{term} ({count})")).collect();
        report += &format!(
            "\n## {title}\n\n`{}`, {words} words, {headings} headings: {}. Often: {}.\n",
            path.display(),
            verdict.why,
            terms.join(", ")
        );
        report.extend(finding.quotes.iter().map(|quote| format!("\n> {quote}.\n")));
    }
    report += "\n## Left out\n\n";
    for (finding, verdict) in &others {
        let Finding { path, words, headings, .. } = finding;
        report += &format!("- `{}`, {words} words, {headings} headings: {}\n", path.display(), verdict.why);
    }
    Ok(report)
}

/// Shows the verdicts and the draft, and passes on what the person says to it. Returns what came of it.
async fn publish(client: &Client, question: &Question) -> Result<Option<String>, Failed> {
    let task = client.submit("research-planner", question).await?;
    let mut watch = task.watch().await?;
    let mut asked = false;
    while let Some(item) = watch.next().await {
        match item? {
            WatchItem::Event(event) if event.kind == "verdict" => {
                eprintln!("critic: {}", event.data.decode::<String>()?);
            }
            // It is said again by the attempt that finds the signal.
            WatchItem::Event(event) if event.kind == "draft" && !asked => {
                let draft: String = client.task(&event.data.decode::<TaskId>()?).result().await?;
                eprint!("\n{draft}\nPublish it? [y/N] ");
                let said = tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await?;
                let ok = said.transpose()?.is_some_and(|line| line.trim().eq_ignore_ascii_case("y"));
                task.signal("approval", &Approval { ok }).await?;
                asked = true;
            }
            WatchItem::End(ended) => return Ok(ended.result()?),
            _ => {}
        }
    }
    Err("the task is not followed any more".into())
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "docs".to_owned()));
    let asked: Vec<String> = args.collect();
    let asked = if asked.is_empty() { "lease lost".to_owned() } else { asked.join(" ") };
    let question = Question { dir, words: words(&asked).collect() };

    let client = Client::from_env().await?;
    let stop = CancellationToken::new();
    let agents = [
        Agent::new("research-planner", plan)?,
        Agent::new("research-reader", read)?.slots(4),
        Agent::new("research-critic", criticise)?,
        Agent::new("research-writer", write)?,
    ];
    let agents = agents.map(|agent| agent.run_until(client.link().clone(), stop.clone()));
    let research = async {
        let report = publish(&client, &question).await;
        stop.cancel();
        report
    };
    let agents = async { try_join_all(agents).await.map_err(Failed::from) };
    match tokio::try_join!(agents, research)?.1 {
        Some(report) => print!("{report}"),
        None => eprintln!("not published"),
    }
    Ok(())
}
