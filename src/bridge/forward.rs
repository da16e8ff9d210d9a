//! An agent of the other protocol as a fabric agent: a worker whose handler prompts it.
//!
//! That protocol has no cancel, no deadline and no lease: a try that is stopped here may go on there. So a forwarded agent
//! is to be one that may do its work twice.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;

use super::prompt::{self, Prompt, PromptError, Said};
use crate::{
    agent::{Agent, AgentError, Ctx},
    bus::{Lane, Link},
    task::{MAX_PAYLOAD_BYTES, NameError, Payload},
};

/// After so long without a word the other side is called lost; it repeats itself every 30 s.
const PATIENCE: Duration = Duration::from_secs(90);
/// When to try again if nobody said so.
const AGAIN: Duration = Duration::from_secs(5);
/// Texts above this size are emitted in pieces: an event has its limit.
const PIECE: usize = 8 * 1024;

/// A fabric agent called `name` that prompts what listens on `subject`. The answer's parts are its events, its whole text the
/// result.
pub fn agent(name: &str, subject: &str, link: &Link) -> Result<Agent, NameError> {
    let (subject, lane) = (subject.to_owned(), link.main.clone());
    Agent::raw(name, move |ctx, input| {
        let (subject, lane) = (subject.clone(), lane.clone());
        async move { forward(ctx, input, &subject, &lane).await }
    })
}

async fn forward(ctx: Ctx, input: Payload, subject: &str, lane: &Lane) -> Result<Payload, AgentError> {
    let mut asked = Prompt::of_input(&input).map_err(AgentError::fatal)?;
    // Unknown fields are passed on there: whoever traces finds the task.
    let about =
        json!({ "tenant": ctx.tenant(), "task": ctx.task(), "root": ctx.root(), "depth": ctx.depth() });
    asked.more.entry("selvedge").or_insert(about);
    let body = serde_json::to_vec(&asked)?;
    let inbox = lane.inbox();
    let mut parts = lane.subscribe(inbox.clone()).await?;
    lane.tell_answerable(subject.to_owned(), &inbox, body.into()).await?;
    let mut answer = String::new();
    loop {
        let next = tokio::select! {
            () = ctx.cancelled() => return Err(AgentError::retryable("cancelled")),
            next = tokio::time::timeout(PATIENCE, parts.next()) => next,
        };
        let message = match next {
            Ok(Some(message)) => message,
            Ok(None) => return Err(AgentError::retryable("the connection is closed")),
            Err(_) => {
                let message = format!("no word from {subject} for {} s", PATIENCE.as_secs());
                return Err(AgentError::retryable(message));
            }
        };
        if message.status.is_some() {
            return Err(AgentError::retry_after(format!("nobody answers on {subject}"), AGAIN));
        }
        match prompt::said(message.headers.as_ref(), &message.payload) {
            Said::End => return Ok(Payload::json(&answer)?),
            Said::Failed(error) => return Err(failure(error)),
            Said::Query(question) => {
                let message = format!("{subject} asks back, and nobody is there to answer: {question}");
                return Err(AgentError::fatal(message));
            }
            Said::Response(text) => {
                if answer.len() + text.len() > MAX_PAYLOAD_BYTES {
                    return Err(AgentError::fatal(format!(
                        "the answer of {subject} is too large for a result"
                    )));
                }
                for piece in pieces(&text) {
                    ctx.emit("text", piece).await?;
                }
                answer.push_str(&text);
            }
            Said::Other => {}
        }
    }
}

fn failure(error: PromptError) -> AgentError {
    let PromptError { status, message, retry_after_ms } = error;
    let message = format!("{status}: {message}");
    match status {
        429 => AgentError::retry_after(message, retry_after_ms.map_or(AGAIN, Duration::from_millis)),
        400..=499 => AgentError::fatal(message),
        _ => AgentError::retryable(message),
    }
}

/// A text in pieces that fit into an event, cut between characters.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut end = rest.len().min(PIECE);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, left) = rest.split_at(end);
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_loses_nothing() {
        let text = "é".repeat(PIECE);
        let cut: Vec<&str> = pieces(&text).collect();
        assert!(cut.len() > 1 && cut.iter().all(|piece| piece.len() <= PIECE));
        assert_eq!(cut.concat(), text);
        assert_eq!(pieces("").count(), 0);
    }
}
