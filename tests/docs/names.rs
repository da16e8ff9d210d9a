//! Subjects, keys, headers, metrics, codes and variables in the documents are those of the code.

use std::collections::BTreeSet;

use clap::CommandFactory;
use selvedge::cli::args::Cli;
use selvedge::config;
use selvedge::task::{Code, ObjectHash};
use selvedge::telemetry::names;
use selvedge::wire::{
    api::{Reason, verb},
    headers, subjects, topology,
};

use crate::pages::{files, pages, read, ticked};

/// Runs of `text` that begin with `start` and go on with characters of `more`.
fn runs<'a>(text: &'a str, start: &str, more: impl Fn(char) -> bool) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(start) {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/')) {
            continue;
        }
        let end = text[at..].find(|c| !more(c)).map_or(text.len(), |n| at + n);
        found.push(text[at..end].trim_end_matches(['.', ',']));
    }
    found
}

/// Every form of subject, by what `wire::subjects` builds.
fn forms() -> Vec<String> {
    let (tenant, agent) = ("x".parse().unwrap(), "x".parse().unwrap());
    let (instance, task) = ("x".parse().unwrap(), "x".parse().unwrap());
    let shard = subjects::Shard(0);
    vec![
        subjects::submit(&tenant, &agent, &task),
        subjects::submits(&tenant),
        subjects::cmd(&tenant, &task, &task),
        subjects::report(&tenant, &task),
        subjects::reports(&agent, &instance),
        subjects::journal(shard),
        subjects::event(&tenant, &task),
        subjects::topic(&tenant, &"x".parse().unwrap()),
        subjects::result(&tenant, &task),
        subjects::step_chunk(&tenant, &task, &ObjectHash::of(b"x"), 0),
        subjects::beat(&agent, &instance),
        subjects::accept(&agent, &instance),
        subjects::offer(&agent, &instance),
        subjects::ctl(&agent, &instance),
        subjects::call(&tenant, &agent),
        subjects::subcall(&tenant, &agent),
        subjects::owner(shard),
        subjects::ask(shard),
        subjects::snapshot_chunk(shard, 1, 1),
        subjects::archive(shard),
        subjects::done(&tenant, &task),
        subjects::api(&tenant, verb::GET),
    ]
}

/// Why `subject`, as a document writes it, is none of ours.
fn stranger(subject: &str, forms: &[String]) -> Option<String> {
    let tokens: Vec<&str> = subject.split('.').collect();
    // All of ours; or a template in the Python worker.
    if tokens.len() == 1
        || tokens[1].starts_with(['>', '*', '{'])
        || tokens.iter().any(|t| t.starts_with('{') && !t.ends_with('}'))
    {
        return None;
    }
    let kind = tokens[1];
    let Some(form) = forms.iter().find(|form| form.split('.').nth(1) == Some(kind)) else {
        return Some(format!("there is no sv.{kind}"));
    };
    let expected = form.split('.').count();
    let short = tokens.len() == 2 || tokens.last() == Some(&">");
    if !short && tokens.len() != expected {
        return Some(format!("sv.{kind} has {expected} parts"));
    }
    match tokens.get(3) {
        Some(verb) if kind == "api" && verb.chars().all(|c| c.is_ascii_lowercase()) => {
            (!verb::ALL.contains(verb)).then(|| format!("there is no verb {verb}"))
        }
        _ => None,
    }
}

fn assert_none(strange: Vec<String>) {
    assert!(strange.is_empty(), "{strange:#?}");
}

#[test]
fn every_subject_in_the_documents_is_one_of_the_code() {
    let forms = forms();
    let more = |c: char| c.is_ascii_alphanumeric() || ".<>*_-{,}".contains(c);
    let mut strange = Vec::new();
    for page in pages() {
        let text = read(&page);
        for subject in runs(&text, "sv.", more) {
            strange.extend(stranger(subject, &forms).map(|why| format!("{page}: {subject}: {why}")));
        }
    }
    assert_none(strange);
}

#[test]
fn every_subject_of_the_code_is_in_the_protocol_or_the_rights() {
    let text = read("docs/protocol.md") + &read("nats/permissions.md");
    let missing = forms().into_iter().map(|form| form.split('.').take(2).collect::<Vec<_>>().join("."));
    assert_none(missing.filter(|kind| !text.contains(&format!("{kind}."))).collect());
}

#[test]
fn every_redis_key_in_the_documents_is_in_the_table_of_keys() {
    let table = read("src/store/keys.rs");
    let known: Vec<&str> = ticked(&table).into_iter().filter(|word| word.starts_with("sv:")).collect();
    // The form of a key: its hash tag is the tenant's or the shard's, its last part may be a name.
    let form = |key: &str| {
        let tag = if key.contains("{shard-") { "{shard}" } else { "{tenant}" };
        let rest = key.split_once('}').map_or("", |(_, rest)| rest);
        let parts: Vec<&str> = rest.split(':').collect();
        let fixed = parts.iter().take(3).copied().collect::<Vec<_>>().join(":");
        format!("{tag}{fixed}/{}", parts.len())
    };
    let known: BTreeSet<String> = known.into_iter().map(form).collect();
    let mut strange = Vec::new();
    for page in pages() {
        let text = read(&page);
        let keys = ticked(&text).into_iter().filter(|word| word.starts_with("sv:{"));
        let event = |key: &str| key.contains("}:e:") && !key.contains("<task>");
        strange.extend(
            keys.filter(|key| !event(key) && !known.contains(&form(key))).map(|key| format!("{page}: {key}")),
        );
    }
    assert_none(strange);
}

#[test]
fn every_header_in_the_documents_is_one_of_the_code() {
    let ours = [
        headers::CONTENT_TYPE,
        headers::SERVICE_ERROR_CODE,
        headers::SERVICE_ERROR,
        headers::EXPECTED_LAST_SUBJECT_SEQUENCE,
        headers::COORDINATOR,
        headers::WITHIN_MS,
        headers::MESSAGE_ID,
        headers::HOPS,
        // Named because it is not used.
        "Nats-Msg-Id",
    ];
    let more = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut strange = Vec::new();
    for page in pages() {
        let text = read(&page);
        let found = runs(&text, "Nats-", more).into_iter().chain(runs(&text, "Selvedge-", more));
        strange.extend(found.filter(|word| !ours.contains(word)).map(|word| format!("{page}: {word}")));
    }
    assert_none(strange);
}

fn is_metric(name: &str) -> bool {
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    names::ALL.iter().any(|metric| metric.name == name || metric.name == base)
}

#[test]
fn every_metric_is_in_the_list_of_metrics() {
    let buckets = [topology::LIMITS_BUCKET, topology::OWNER_BUCKET, topology::TRIGGERS_BUCKET];
    let more = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut strange = Vec::new();
    for file in pages().into_iter().chain(files("src", ".rs")) {
        let text = read(&file);
        let found = if file.ends_with(".rs") {
            let literals = text.split('"').skip(1).step_by(2);
            literals.filter(|l| l.len() > 9 && l.starts_with("selvedge_") && l.chars().all(more)).collect()
        } else {
            runs(&text, "selvedge_", more)
        };
        let unknown = found.into_iter().filter(|name| !is_metric(name) && !buckets.contains(name));
        strange.extend(unknown.map(|name| format!("{file}: {name}")));
    }
    assert_none(strange);
}

#[test]
fn every_metric_is_recorded_somewhere() {
    let names = read("src/telemetry/names.rs");
    let constants = names.lines().filter_map(|line| line.split_once(" = \"selvedge_")).map(|(c, _)| c.trim());
    let code: String = files("src", ".rs").iter().map(|file| read(file)).collect();
    let words: BTreeSet<&str> =
        runs(&code, "names::", |c| c.is_ascii_alphabetic() || matches!(c, '_' | ':')).into_iter().collect();
    let never = constants.filter(|constant| !words.contains(format!("names::{constant}").as_str()));
    assert_none(never.map(str::to_owned).collect());
}

/// Words in capitals that are neither ours nor variables.
const FOREIGN: &[&str] = &[
    "CONSUMER", "EXPIRE", "FLUSHALL", "HSET", "HTTP", "INFO", "JSON", "MAXLEN", "MULTI", "NATS", "NO_COLOR",
    "PATH", "PX", "SET", "SIGTERM", "STATS", "PING", "TLS", "TTL", "UTC", "XADD", "ZADD", "ZREM", "UNLINK",
    "RESET", "DEL",
];

#[test]
fn every_code_stream_and_variable_in_the_documents_is_in_the_code() {
    let variables: BTreeSet<String> = config::all().map(|option| option.env()).collect();
    let streams = [
        topology::INTAKE,
        topology::REPORTS,
        topology::JOURNAL,
        topology::SNAPSHOTS,
        topology::ARCHIVE,
        topology::RESULTS,
        topology::STEPS,
        topology::EVENTS,
    ];
    let mut code = String::new();
    for file in files("src", ".rs").into_iter().chain(files("tests", ".rs")).chain(files("nats", ".conf")) {
        code.push_str(&read(&file));
    }
    code += &(read("justfile") + &read(".ci/run"));
    let in_capitals = |word: &&str| {
        word.len() > 2
            && word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    let mut strange = Vec::new();
    for page in pages() {
        let text = read(&page);
        for word in ticked(&text).into_iter().filter(in_capitals) {
            let known = streams.contains(&word)
                || Code::ALL.iter().any(|code| code.as_str() == word)
                || variables.contains(word)
                || FOREIGN.contains(&word)
                // Codes of errors, test and build variables: they stand in the code as they are.
                || (word.contains('_') && code.contains(word));
            if !known {
                strange.push(format!("{page}: {word}"));
            }
        }
        // Also where they are not ticked.
        let more = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        for word in runs(&text, "SELVEDGE_", more).into_iter().chain(runs(&text, "REDIS_", more)) {
            if !variables.contains(word) && !code.contains(word) {
                strange.push(format!("{page}: {word}"));
            }
        }
    }
    assert_none(strange);
}

#[test]
fn every_refusal_code_is_in_the_protocol() {
    let page = read("docs/protocol.md");
    let missing =
        Code::ALL.iter().map(|code| code.as_str()).filter(|code| !page.contains(&format!("`{code}`")));
    assert_none(missing.map(str::to_owned).collect());
}

#[test]
fn every_reason_that_holds_a_task_back_is_in_the_protocol() {
    let page = read("docs/protocol.md");
    let missing =
        Reason::ALL.iter().map(|reason| reason.as_str()).filter(|text| !page.contains(&format!("`{text}`")));
    assert_none(missing.map(str::to_owned).collect());
}

#[test]
fn every_refusal_code_has_its_page() {
    let page = read("docs/codes.md");
    let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(
        headings,
        Code::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>(),
        "in the order of the code"
    );
    for code in Code::ALL {
        let from = page.find(&format!("## {code}\n")).expect("found above");
        let again = if code.is_retryable() { "yes" } else { "no" };
        let line = page[from..].lines().nth(2).unwrap_or_default();
        assert_eq!(line, format!("Status {} · again: {again}", code.status()), "{code}");
    }
}

#[test]
fn every_command_and_recipe_in_the_documents_exists() {
    let justfile = read("justfile");
    let mut strange = Vec::new();
    for page in pages() {
        let text = read(&page);
        for line in ticked(&text) {
            if let Some(words) = line.strip_prefix("selvedge ") {
                let mut command = Cli::command();
                for word in
                    words.split_whitespace().take_while(|w| w.starts_with(|c: char| c.is_ascii_lowercase()))
                {
                    if !command.has_subcommands() {
                        break;
                    }
                    match command.find_subcommand(word) {
                        Some(found) => command = found.clone(),
                        None => {
                            strange.push(format!("{page}: `{line}`: there is no {word}"));
                            break;
                        }
                    }
                }
            }
            if let Some(words) = line.strip_prefix("just ") {
                let recipe = words.split_whitespace().next().unwrap_or_default();
                if !justfile.lines().any(|l| l.split([' ', ':']).next() == Some(recipe)) {
                    strange.push(format!("{page}: `{line}`: there is no such recipe"));
                }
            }
        }
    }
    assert_none(strange);
}
