//! Results of steps: recorded themselves while they are small, kept as objects beside the journal when they are not.
//!
//! An object is the JSON text of the result, published in chunks before the step is reported, and fetched when the handler
//! comes to its place again, not before. An instance holds so many bytes of them at once, however many handlers it runs;
//! the others wait. What is published and never reported goes with the task.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{AgentError, Ctx, attempt::nothing_more};
use crate::{
    bus::StoreError,
    client::Error,
    task::{
        Code, MAX_CHUNK_BYTES, MAX_INLINE_STEP, MAX_OBJECT_BYTES, Object, ObjectHash, Payload, Refusal,
        check_object_bytes,
    },
    wire::{history::Did, subjects},
};

/// Bytes of objects on their way in one instance: two of the largest.
const ON_THE_WAY: u64 = 2 * MAX_OBJECT_BYTES;
/// In units of this they are counted.
const UNIT: u64 = 1024;
/// Chunks of one object that are published and not acknowledged.
const WINDOW: usize = 4;
/// How long a chunk may take to be acknowledged.
const STORED: Duration = Duration::from_secs(20);
/// How long a full stream is waited for: other tasks end, and make room.
const FULL: Duration = Duration::from_secs(5);
/// Pause between two tries of that.
const FULL_AGAIN: Duration = Duration::from_millis(250);

/// Room for the objects an instance sends and fetches.
pub(super) struct Room(Semaphore);

impl Room {
    pub(super) fn new() -> Self {
        Self(Semaphore::new((ON_THE_WAY / UNIT) as usize))
    }

    /// For an object of so many bytes, at most [`MAX_OBJECT_BYTES`]. Given back when it is dropped.
    async fn of(&self, bytes: u64) -> Result<SemaphorePermit<'_>, AgentError> {
        let units = bytes.min(MAX_OBJECT_BYTES).div_ceil(UNIT) as u32;
        // Nobody closes it.
        self.0.acquire_many(units).await.map_err(|_| nothing_more())
    }
}

/// Takes JSON text in as long as it fits, and counts on when it does not.
struct Measure {
    most: usize,
    text: Vec<u8>,
    bytes: u64,
}

impl Measure {
    fn up_to(most: usize) -> Self {
        Self { most, text: Vec::new(), bytes: 0 }
    }

    /// The text, or how many bytes it has.
    fn fits(self) -> Result<Vec<u8>, u64> {
        if self.bytes <= self.most as u64 { Ok(self.text) } else { Err(self.bytes) }
    }
}

impl io::Write for Measure {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        self.bytes += more.len() as u64;
        if self.bytes <= self.most as u64 {
            self.text.extend_from_slice(more);
        } else {
            self.text = Vec::new();
        }
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Ctx {
    /// What is to be recorded of a step, and the value itself. A large result is stored when this returns.
    pub(super) async fn result_of<T: Serialize>(&self, step: &str, value: T) -> Result<(Did, T), AgentError> {
        let no_json = |e| AgentError::fatal(format!("step `{step}`: no JSON: {e}"));
        let max_payload = self.client().link().bulk.max_payload();
        let mut measured = Measure::up_to(MAX_INLINE_STEP.min(max_payload / 4));
        serde_json::to_writer(&mut measured, &value).map_err(no_json)?;
        let bytes = match measured.fits() {
            Ok(text) => return Ok((Did::Result(Payload::Json(text.into())), value)),
            Err(bytes) => bytes,
        };
        check_object_bytes(step, bytes, self.0.state().places.kept()).map_err(of_step)?;
        let _room = self.0.instance.objects.of(bytes).await?;
        let mut text = Vec::with_capacity(bytes as usize);
        serde_json::to_writer(&mut text, &value).map_err(no_json)?;
        let object = self.keep(step, text.into(), max_payload).await?;
        Ok((Did::Kept(object), value))
    }

    /// Publishes an object, chunk by chunk; the first one alone, so that a full stream is noticed before all are sent.
    async fn keep(&self, step: &str, text: Bytes, max_payload: usize) -> Result<Object, AgentError> {
        // Text in JSON, as others may ask for it, is a third longer.
        let size = MAX_CHUNK_BYTES.min(max_payload / 2).max(1);
        let chunks = text.len().div_ceil(size) as u32;
        let object = Object { hash: hash_of(&text).await?, bytes: text.len() as u64, chunks };
        object.check(step, self.0.state().places.kept()).map_err(of_step)?;
        let store = |n: u32| {
            let from = n as usize * size;
            let chunk = text.slice(from..text.len().min(from + size));
            async move { self.store_chunk(&object, n, chunk).await.map_err(|e| not_kept(step, &object, e)) }
        };
        store(0).await?;
        stream::iter((1..chunks).map(store)).buffered(WINDOW).try_collect::<()>().await?;
        Ok(object)
    }

    async fn store_chunk(&self, object: &Object, n: u32, chunk: Bytes) -> Result<(), StoreError> {
        let subject = subjects::step_chunk(self.tenant(), self.task(), &object.hash, n);
        let until = Instant::now() + FULL;
        loop {
            match self.client().link().bulk.store_once(&subject, chunk.clone(), STORED).await {
                Err(StoreError::Full) if Instant::now() < until => tokio::time::sleep(FULL_AGAIN).await,
                done => return done,
            }
        }
    }

    /// What is recorded of a step, as it was returned.
    pub(super) async fn fetch<T: DeserializeOwned>(
        &self,
        step: &str,
        object: Object,
    ) -> Result<T, AgentError> {
        let lost = |what: String| {
            let message = format!(
                "step `{step}`: its recorded result, object {} of {} bytes, {what}",
                object.hash, object.bytes
            );
            AgentError::coded(Code::StepLost, message, true)
        };
        if let Err(refusal) = object.check(step, 0) {
            return Err(lost(format!("makes no sense: {}", refusal.message)));
        }
        let _room = self.0.instance.objects.of(object.bytes).await?;
        let mut text: Vec<u8> = Vec::with_capacity(object.bytes as usize);
        for n in 0..object.chunks {
            let ask = || async {
                match self.client().kept(self.task(), object.hash, n).await {
                    Ok(chunk) => Ok(Some(chunk)),
                    Err(Error::Refused(refusal)) if refusal.code == Code::StepLost => Ok(None),
                    Err(error) => Err(error),
                }
            };
            let chunk = self.asked("the result of a step", ask).await?;
            let chunk =
                chunk.ok_or_else(|| lost(format!("lacks chunk {n} of {} in STEPS", object.chunks)))?;
            if (text.len() + chunk.len()) as u64 > object.bytes {
                return Err(lost(format!("is longer in STEPS, from chunk {n} on")));
            }
            text.extend_from_slice(chunk.as_bytes());
        }
        let text = Bytes::from(text);
        if text.len() as u64 != object.bytes || hash_of(&text).await? != object.hash {
            return Err(lost(format!("is broken in STEPS: {} bytes with another hash", text.len())));
        }
        given_back(step, &Payload::Json(text))
    }
}

/// Beside the runtime's own threads: heartbeats must not wait for it.
async fn hash_of(text: &Bytes) -> Result<ObjectHash, AgentError> {
    let text = text.clone();
    tokio::task::spawn_blocking(move || ObjectHash::of(&text)).await.map_err(|_| nothing_more())
}

/// A recorded result as a `T`.
pub(super) fn given_back<T: DeserializeOwned>(step: &str, result: &Payload) -> Result<T, AgentError> {
    let other = |e| AgentError::changed(format!("step `{step}` was recorded with another result: {e}"));
    result.decode().map_err(other)
}

/// A refusal that another try would meet again.
fn of_step(refusal: Refusal) -> AgentError {
    AgentError::coded(refusal.code, refusal.message, false)
}

fn not_kept(step: &str, object: &Object, error: StoreError) -> AgentError {
    let bytes = object.bytes;
    let (code, message) = match error {
        StoreError::Full => (
            Code::StepsFull,
            format!(
                "step `{step}`: its result of {bytes} bytes does not fit into STEPS, which is full; it is done again when \
                 the task is tried again (coordinator.steps_max_bytes)"
            ),
        ),
        StoreError::Unknown => (
            Code::Unavailable,
            format!(
                "step `{step}`: STEPS did not acknowledge its result of {bytes} bytes within {} s; may this user publish \
                 to sv.step.*.*.*.*?",
                STORED.as_secs()
            ),
        ),
        error => {
            (Code::Unavailable, format!("step `{step}`: its result of {bytes} bytes was not stored: {error}"))
        }
    };
    AgentError::coded(code, message, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_taken_in_as_long_as_it_fits_and_counted_when_it_does_not() {
        let measured = |most| {
            let mut measure = Measure::up_to(most);
            serde_json::to_writer(&mut measure, &["a", "b"]).unwrap();
            measure.fits()
        };
        assert_eq!(measured(9), Ok(br#"["a","b"]"#.to_vec()));
        assert_eq!(measured(8), Err(9));
    }

    #[test]
    fn a_full_stream_names_the_step_its_size_and_the_option_and_another_try_makes_sense() {
        let object = Object { hash: ObjectHash::of(b""), bytes: 5 << 20, chunks: 10 };
        let error = not_kept("scrape", &object, StoreError::Full);
        assert_eq!(error.code(), Some(Code::StepsFull));
        let said = format!("{error:?}");
        assert!(said.contains("retryable: true") && said.contains("`scrape`"), "{said}");
        assert!(said.contains("5242880") && said.contains("steps_max_bytes"), "{said}");
    }
}
