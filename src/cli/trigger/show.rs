//! Triggers as they are printed.

use std::time::Duration;

use serde::Serialize;

use crate::cli::output::{fields, human_duration, table, unix_now};
use crate::cli::show::{labels, when};
use crate::task::trigger::{Source, TriggerSettings, state::TriggerState};
use crate::task::{Millis, TriggerName};

/// A trigger as `trigger` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub trigger: TriggerName,
    #[serde(flatten)]
    pub settings: TriggerSettings,
    /// Absent: no coordinator has seen it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<TriggerState>,
    pub revision: u64,
}

/// All of them.
#[derive(Serialize)]
pub(super) struct All<'a> {
    pub triggers: &'a [Shown],
}

fn source(settings: &TriggerSettings) -> String {
    match &settings.source {
        Source::Topic(filter) => format!("topic {filter}"),
        Source::Stream { name, subject: Some(subject) } => format!("stream {name}, {subject}"),
        Source::Stream { name, subject: None } => format!("stream {name}"),
    }
}

fn doing(shown: &Shown) -> String {
    match &shown.state {
        _ if shown.settings.paused => "paused".to_owned(),
        Some(TriggerState { doing, refusal: Some(refusal), .. }) => format!("{}: {refusal}", doing.as_str()),
        Some(state) => state.doing.as_str().to_owned(),
        None => "not started yet".to_owned(),
    }
}

pub(super) fn one(shown: &Shown) -> String {
    let s = &shown.settings;
    let state = shown.state.clone().unwrap_or_default();
    let times = s.times.as_deref().copied().unwrap_or_default();
    let span =
        |ms: Option<Millis>| ms.map(|ms| human_duration(Duration::from_millis(ms))).unwrap_or_default();
    let number = |n: Option<u32>| n.map(|n| n.to_string()).unwrap_or_default();
    let rate = s.rate.map(|rate| format!("{}/s, {} at once", rate.rate, rate.burst));
    let batch = s.batch.map(|batch| {
        format!("{} within {}", batch.count, human_duration(Duration::from_millis(batch.within_ms)))
    });
    let dead: Vec<String> = state
        .dead
        .iter()
        .rev()
        .map(|letter| {
            format!(
                "message {} ({}), {}: {}",
                letter.seq,
                letter.subject,
                when(letter.at, unix_now()),
                letter.refusal
            )
        })
        .collect();
    fields([
        ("trigger", shown.trigger.to_string()),
        ("source", source(s)),
        ("tenant", s.tenant.to_string()),
        ("agent", s.agent.to_string()),
        ("template", s.template.as_ref().map(|t| t.to_string()).unwrap_or_default()),
        ("filter", s.filter.join("\n")),
        ("dedupe", s.dedupe.clone().unwrap_or_default()),
        ("rate", rate.unwrap_or_default()),
        ("batch", batch.unwrap_or_default()),
        ("max hops", s.max_hops.to_string()),
        ("priority", s.priority.as_str().to_owned()),
        ("max tries", number(s.max_tries)),
        ("cost", number(s.cost)),
        ("ttl", span(times.ttl_ms)),
        ("try timeout", span(times.try_timeout_ms)),
        ("deadline", span(times.deadline_ms)),
        ("labels", labels(s.labels.as_deref())),
        ("state", doing(shown)),
        ("tasks made", state.counts.made.to_string()),
        ("messages", state.counts.messages.to_string()),
        ("known", state.counts.known.to_string()),
        ("filtered", state.counts.filtered.to_string()),
        ("missed", state.counts.missed.to_string()),
        ("pending", state.pending.to_string()),
        ("done up to", state.floor.to_string()),
        ("dead letters", state.counts.dead.to_string()),
        ("latest", dead.join("\n")),
    ])
}

pub(super) fn many(triggers: &[Shown]) -> String {
    table(
        ["TRIGGER", "SOURCE", "TENANT", "AGENT", "MADE", "PENDING", "DEAD", "STATE"],
        triggers.iter().map(|shown| {
            let state = shown.state.clone().unwrap_or_default();
            [
                shown.trigger.to_string(),
                source(&shown.settings),
                shown.settings.tenant.to_string(),
                shown.settings.agent.to_string(),
                state.counts.made.to_string(),
                state.pending.to_string(),
                state.counts.dead.to_string(),
                doing(shown),
            ]
        }),
    )
}
