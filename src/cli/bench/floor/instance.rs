//! The floor's one worker: runs what it is offered and says that it ended.

use anyhow::Result;
use async_nats::Subscriber;
use bytes::{Buf, Bytes};
use futures_util::StreamExt;

use super::client;
use crate::cli::bench::clock;

/// Ends that wait for their verdict are counted, as a worker that must send them again would have to.
pub(super) async fn run(
    nats: async_nats::Client,
    mut offers: Subscriber,
    mut verdicts: Subscriber,
) -> Result<()> {
    let mut open: i64 = 0;
    loop {
        tokio::select! {
            Some(message) = offers.next() => {
                let mut offered = message.payload;
                while offered.remaining() >= 14 {
                    let (tenant, id) = (usize::from(offered.get_u16()), offered.get_u64());
                    let length = offered.get_u32() as usize;
                    let input = offered.split_to(length.min(offered.len()));
                    open += 1;
                    nats.publish(client::subject("end", tenant, id), handle(&input)).await?;
                }
            }
            Some(message) = verdicts.next() => {
                open -= (message.payload.len() / 8) as i64;
                debug_assert!(open >= 0, "a verdict about nothing");
            }
            else => return Ok(()),
        }
    }
}

/// The handler: does nothing, and says when it was called.
fn handle(_input: &Bytes) -> Bytes {
    Bytes::copy_from_slice(&clock::now().to_le_bytes())
}
