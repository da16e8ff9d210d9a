//! Limits and schedules from KV to the owner: `plan.<name>`, `tenant.<name>`, `agent.<name>`, `schedule.<name>` and `all`
//! as JSON.
//!
//! Follows the bucket from its beginning; the owner ignores revisions it has journaled already. An
//! entry that can't be read is logged and changes nothing.

use async_nats::jetstream;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::intake::Inbound;
use crate::bus::limits::{Limit, LimitsBucket};
use crate::flow::{cron::Cron, input::Input};

/// Follows the bucket until `stop`.
pub async fn follow(js: jetstream::Context, inputs: mpsc::Sender<Inbound>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            end = follow_once(&js, &inputs) => match end {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "limits can't be followed; trying again"),
            },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
        }
    }
}

/// `Ok`: the owner is gone.
async fn follow_once(js: &jetstream::Context, inputs: &mpsc::Sender<Inbound>) -> Result<(), String> {
    let bucket = LimitsBucket::open(js).await.map_err(|e| e.to_string())?;
    let mut changes = bucket.follow().await.map_err(|e| e.to_string())?;
    while let Some(change) = changes.next().await {
        let change = change.map_err(|e| e.to_string())?;
        let input = match change.limit {
            Ok(Limit::Plan { name, plan }) => Input::Plan { name, plan, kv_rev: change.revision },
            Ok(Limit::Tenant { name, settings }) => Input::Tenant { name, settings, kv_rev: change.revision },
            Ok(Limit::Schedule { name, settings }) => {
                let read = settings.as_ref().map(|s| Cron::read(&s.cron, &s.tz));
                if let Some(Err(error)) = read {
                    tracing::error!(schedule = %name, %error, "a schedule's cron expression can't be read; it is ignored");
                    continue;
                }
                Input::Schedule { name, settings, kv_rev: change.revision }
            }
            Ok(Limit::Agent { name, settings }) => Input::Agent { name, settings, kv_rev: change.revision },
            Ok(Limit::All { settings }) => Input::All { settings, kv_rev: change.revision },
            Err(error) => {
                tracing::error!(key = ?change.key, %error, "an entry of the limits can't be read; it is ignored");
                continue;
            }
        };
        if inputs.send(Inbound { input, handle: None, report_seq: None, format: None }).await.is_err() {
            return Ok(());
        }
    }
    Err("the watch ended".to_owned())
}
