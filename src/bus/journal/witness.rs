//! How far the journal had come, noted outside of it: a journal that ends earlier was restored or truncated.
//!
//! The note is a lower bound, written about once a second by the owner and when its term ends. It lives in
//! the owner bucket, on the same servers: it catches a stream that was restored, cut or made anew, not
//! a whole store that went back in time.

use std::time::Duration;

use async_nats::jetstream::{Context, stream::LastRawMessageErrorKind};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::JournalError;
use crate::{
    bus::api::ApiError,
    wire::{
        subjects::Shard,
        topology::{self, OWNER_BUCKET},
    },
};

/// How often progress is noted.
const EVERY: Duration = Duration::from_secs(1);

/// The sequence noted last; 0 if none was.
pub async fn noted(js: &Context, shard: Shard) -> Result<u64, JournalError> {
    let stream = js
        .get_stream_no_info(topology::bucket_stream(OWNER_BUCKET))
        .await
        .map_err(|e| ApiError::from_source("the owner bucket", &e))?;
    match stream.get_last_raw_message_by_subject(&subject(shard)).await {
        Ok(message) => {
            let text = std::str::from_utf8(&message.payload).unwrap_or_default();
            Ok(text.parse().unwrap_or(0))
        }
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
        Err(error) => Err(ApiError::from_source("the journal's witness", &error).into()),
    }
}

/// Notes what `head` shows until `over`, and then once more.
pub async fn note(js: Context, shard: Shard, head: watch::Receiver<u64>, over: CancellationToken) {
    let mut last = 0;
    loop {
        let ends = tokio::select! {
            () = over.cancelled() => true,
            () = tokio::time::sleep(EVERY) => false,
        };
        let seq = *head.borrow();
        if seq > last {
            let stored = async { js.publish(subject(shard), seq.to_string().into()).await.ok()?.await.ok() };
            if tokio::time::timeout(EVERY, stored).await.ok().flatten().is_some() {
                last = seq;
            }
        }
        if ends {
            return;
        }
    }
}

fn subject(shard: Shard) -> String {
    topology::bucket_subject(OWNER_BUCKET, &topology::witness_key(shard))
}
