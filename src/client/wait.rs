//! Waiting for a task: hints are fast and may be lost, so `get` is asked too, with a growing pause
//! and after every reconnect. The only place of the SDK that asks a second time.

use std::time::Duration;

use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::{sync::watch, time::Instant};

use super::{Client, Error, Result};
use crate::{
    bus::{BusError, Subscription},
    task::{BodyHash, Millis, Payload, Phase, Refusal, TaskId},
    wire::{api::TaskView, codec, messages::Done, subjects},
};

/// First and longest pause between two `get`s of one wait.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// When it is first looked for a task that was submitted just now: its end takes about that long, and its hint
/// mostly comes earlier and spares the question.
const FRESH_LOOK: Duration = Duration::from_millis(3);

/// Longer than any `get` takes.
const LONGEST_LOOK: Duration = Duration::from_secs(600);

/// Hints above this size are not ours.
const MAX_HINT: usize = 1024 * 1024;

/// How a task ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Which task.
    pub task: TaskId,
    /// Its state.
    pub state: Phase,
    /// Journal revision of the state.
    pub rev: u64,
    /// The result, if it completed.
    pub result: Option<Payload>,
    /// Why it was refused or went wrong.
    pub refusal: Option<Refusal>,
    /// The attempt that ended it.
    pub attempt: u32,
    /// Number of that attempt's last event.
    pub last_event: u32,
    /// What the id was submitted with.
    pub body_hash: Option<BodyHash>,
}

impl Ended {
    /// The result as a `T`; an error if the task did not complete.
    pub fn result<T: DeserializeOwned>(self) -> Result<T> {
        if self.state != Phase::Completed {
            return Err(Error::Ended { task: self.task, state: self.state, refusal: self.refusal });
        }
        let result = self.result.unwrap_or_default();
        result.decode().map_err(|e| Error::Data(format!("the result of {} does not fit: {e}", self.task)))
    }

    pub(super) fn of_view(view: TaskView) -> Self {
        Self {
            task: view.task,
            state: view.state,
            rev: view.rev,
            result: view.result,
            refusal: view.refusal,
            attempt: view.attempt,
            last_event: view.last_event,
            body_hash: view.body_hash,
        }
    }

    pub(super) fn of_hint(task: TaskId, hint: Done) -> Self {
        Self {
            task,
            state: hint.state,
            rev: hint.rev,
            result: hint.result,
            refusal: hint.refusal,
            attempt: hint.attempt,
            last_event: hint.last_event,
            body_hash: hint.body_hash,
        }
    }

    /// A completed task's hint without its result is only news: the result was too large for it.
    pub(super) fn is_whole(&self) -> bool {
        self.state != Phase::Completed || self.result.is_some()
    }
}

impl Client {
    /// Waits for the end of a task, however long that takes, through reconnects and take-overs.
    /// Put a `tokio::time::timeout` around it to give up earlier; the task goes on all the same.
    pub async fn wait(&self, task: &TaskId) -> Result<Ended> {
        self.wait_as(task, None, None).await
    }

    /// The same for who submitted the body `ours` under this id, and is told if that was refused; `stored` is when,
    /// if it was here.
    pub(super) async fn wait_as(
        &self,
        task: &TaskId,
        ours: Option<BodyHash>,
        stored: Option<Instant>,
    ) -> Result<Ended> {
        let mut hints = self.parts.link.main.subscribe(subjects::done(&self.parts.tenant, task)).await?;
        let look = stored.map_or(Duration::ZERO, |at| FRESH_LOOK.saturating_sub(at.elapsed()));
        until(self, task, ours, &mut hints, look, Phase::is_terminal).await
    }
}

/// Waits until the task is in a state that `enough` accepts, or the submit with the body `ours` is refused. A hint is
/// waited for as long as `look` before anybody is asked.
pub(super) async fn until(
    client: &Client,
    task: &TaskId,
    ours: Option<BodyHash>,
    hints: &mut Subscription,
    look: Duration,
    enough: impl Fn(Phase) -> bool,
) -> Result<Ended> {
    let mut reconnects = client.parts.link.reconnects();
    let mut pause = Pause::new();
    let mut min_rev = None;
    let mut look = Some(look).filter(|look| !look.is_zero());
    // The hint may have come before the subscription did: look soon, and don't let a slow answer hide a hint.
    loop {
        let news = if let Some(look) = look.take() {
            Some(next_news(task, ours, hints, &mut reconnects, look).await?)
        } else {
            tokio::select! {
            biased;
            news = next_news(task, ours, hints, &mut reconnects, LONGEST_LOOK) => Some(news?),
            view = client.get_from(task, min_rev) => {
                match view {
                    Ok(view) if enough(view.state) => return Ok(Ended::of_view(view)),
                    Ok(_) => {}
                    Err(error) if error.is_transient() => tracing::debug!(%task, %error, "get while waiting"),
                    Err(error) => return Err(error),
                }
                None
            }
            }
        };
        let news = match news {
            Some(news) => news,
            None => next_news(task, ours, hints, &mut reconnects, pause.next()).await?,
        };
        match news {
            News::Hint(seen) if enough(seen.state) && seen.is_whole() => return Ok(seen),
            News::Hint(seen) => {
                min_rev = Some(seen.rev);
                pause = Pause::new();
            }
            News::Reconnected => pause = Pause::new(),
            News::Pause => {}
        }
    }
}

/// What ends a pause.
pub(super) enum News {
    /// Something was said about the task.
    Hint(Ended),
    /// Hints may have been missed.
    Reconnected,
    /// Nothing happened for as long as the pause.
    Pause,
}

pub(super) async fn next_news(
    task: &TaskId,
    ours: Option<BodyHash>,
    hints: &mut Subscription,
    reconnects: &mut watch::Receiver<u64>,
    pause: Duration,
) -> Result<News> {
    let sleep = tokio::time::sleep(pause);
    tokio::pin!(sleep);
    loop {
        tokio::select! {
            hint = hints.next() => {
                let Some(message) = hint else {
                    return Err(BusError::Closed("the subscription ended".to_owned()).into());
                };
                match codec::decode_any::<Done>(None, &message.payload, MAX_HINT).1 {
                    Ok(done) if done.answers_a_message() => {}
                    // Somebody else's submit under this id was refused: no news of the task.
                    Ok(done) if done.refuses_a_submission() && (ours.is_none() || done.body_hash != ours) => {}
                    Ok(done) => return Ok(News::Hint(Ended::of_hint(task.clone(), done))),
                    Err(error) => tracing::warn!(%task, %error, "a hint is not understood"),
                }
            }
            changed = reconnects.changed() => {
                if changed.is_err() {
                    // Nobody counts reconnects any more; the pause still ends.
                    sleep.as_mut().await;
                    return Ok(News::Pause);
                }
                return Ok(News::Reconnected);
            }
            () = sleep.as_mut() => return Ok(News::Pause),
        }
    }
}

/// Pauses that double.
pub(super) struct Pause(Duration);

impl Pause {
    pub(super) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// The next pause, with a tenth of it as jitter.
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        let tenth = u64::try_from(pause.as_millis() / 10).unwrap_or(Millis::MAX);
        pause + Duration::from_millis(crate::bus::link::jitter_below(tenth + 1))
    }
}
