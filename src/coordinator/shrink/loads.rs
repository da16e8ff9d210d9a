//! Payloads on their way back from the journal: reads what the engine asks for, each message once.
//!
//! The engine asks for a revision ([`Effect::Load`](crate::flow::engine::Effect::Load)) and asks again when no answer comes; so
//! what does not fit into the channel is dropped. Messages read last are kept for a while: a task of the same message may be
//! offered next.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::mpsc;

use super::places::{PlaceError, Places};
use crate::{
    coordinator::intake::Inbound,
    flow::{input::Input, record::What},
    task::{Payload, TaskKey},
    telemetry::names,
};

/// Revisions asked for that wait.
pub const WAITING: usize = 4_096;
/// Reads at once.
const AT_ONCE: usize = 16;
/// Messages kept.
const KEPT: usize = 32;
/// Pause after a read that failed; the engine asks again by itself.
const PAUSE: Duration = Duration::from_millis(100);

type Payloads = Vec<(TaskKey, What, Payload)>;
type Read = (u64, Result<Payloads, PlaceError>);

/// Answers until the owner is gone. A revision that is not there is told on `lost`: if it is still needed the
/// journal can't be continued.
pub async fn run(
    places: Arc<Places>,
    mut asked: mpsc::Receiver<u64>,
    inputs: mpsc::Sender<Inbound>,
    lost: mpsc::Sender<PlaceError>,
) {
    let mut kept: VecDeque<(u64, Payloads)> = VecDeque::new();
    let mut under_way: HashSet<u64> = HashSet::new();
    let mut reads: FuturesUnordered<BoxFuture<'static, Read>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some((rev, read)) = reads.next(), if !reads.is_empty() => {
                under_way.remove(&rev);
                match read {
                    Ok(payloads) => {
                        metrics::counter!(names::PAYLOAD_READS).increment(1);
                        kept.push_back((rev, payloads.clone()));
                        if kept.len() > KEPT {
                            kept.pop_front();
                        }
                        if !send(&inputs, rev, payloads).await {
                            return;
                        }
                    }
                    Err(error @ PlaceError::NotThere { .. }) => {
                        // The owner says whether it is still needed. If nobody listens the term is over.
                        if lost.send(error).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!(rev, %error, "payloads can't be read back; they are asked for again"),
                }
            }
            rev = asked.recv(), if reads.len() < AT_ONCE => {
                let Some(rev) = rev else { return };
                if let Some((_, payloads)) = kept.iter().find(|(kept, _)| *kept == rev) {
                    if !send(&inputs, rev, payloads.clone()).await {
                        return;
                    }
                } else if under_way.insert(rev) {
                    let places = places.clone();
                    let read = async move {
                        let read = places.payloads(rev).await;
                        if read.is_err() {
                            tokio::time::sleep(PAUSE).await;
                        }
                        (rev, read)
                    };
                    reads.push(read.boxed());
                }
            }
        }
    }
}

async fn send(inputs: &mpsc::Sender<Inbound>, rev: u64, payloads: Payloads) -> bool {
    inputs.send(Inbound::of(Input::Loaded { rev, payloads }, None)).await.is_ok()
}
