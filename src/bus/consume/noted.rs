//! Messages without acknowledgements: what is decided is noted in a ledger, and purged.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_nats::jetstream::{self, consumer::pull};
use tokio::sync::mpsc;

use super::{
    Ended, LOOK, PullOptions,
    delivery::{Delivery, How, delivery},
    ledger::{self, Ledger, Seen},
    next,
};
use crate::{bus::api, telemetry::names};

pub(super) async fn hand_over(
    js: &jetstream::Context,
    options: &PullOptions,
    messages: &mut pull::Stream,
    out: &mpsc::Sender<Delivery>,
    failures: &mut u32,
    ledger: &Arc<Ledger>,
    idle: &AtomicBool,
) -> Ended {
    let stream = options.stream.as_str();
    loop {
        let (room, message) = match next(messages, out, idle).await {
            Ok(next) => next,
            Err(ended) => return ended,
        };
        let room_of_it = options.budget.take(message.payload.len()).await;
        let noted = |seq, bytes, _| How::Noted { ledger: Arc::clone(ledger), seq, bytes, _room: room_of_it };
        let delivery = match delivery(message, noted) {
            Ok(delivery) => delivery,
            Err(reason) => return Ended::Broken(reason),
        };
        let mut seen = ledger.deliver(delivery.stream_seq);
        if let Seen::Jump(from) = seen {
            match ledger::is_there(js, stream, from, delivery.stream_seq).await {
                Ok(false) => {
                    ledger.pass(delivery.stream_seq);
                    seen = ledger.deliver(delivery.stream_seq);
                }
                Ok(true) => {
                    metrics::counter!(names::PULL_STUCK, names::STREAM => stream.to_owned()).increment(1);
                    return Ended::Broken(format!("message {from} went to somebody else"));
                }
                Err(error) => return Ended::Broken(error.to_string()),
            }
        }
        if seen != Seen::Next {
            return Ended::Broken("the consumer was rewound".to_owned());
        }
        *failures = 0;
        room.send(delivery);
    }
}

/// Ends when the consumer has delivered something that never came here, and nothing comes behind it.
pub(super) async fn find_stolen(
    js: &jetstream::Context,
    options: &PullOptions,
    ledger: &Ledger,
    idle: &AtomicBool,
) -> String {
    let mut before = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let next = ledger.next();
        let is_idle = idle.load(Ordering::Relaxed);
        let delivered = match api::delivered_up_to(js, &options.stream, &options.durable).await {
            Ok(delivered) => delivered,
            Err(error) => {
                tracing::debug!(stream = %options.stream, %error, "the consumer can't be looked at");
                before = None;
                continue;
            }
        };
        let missing = (is_idle && delivered >= next).then_some(next);
        if missing.is_some() && missing == before {
            metrics::counter!(names::PULL_STUCK, names::STREAM => options.stream.clone()).increment(1);
            return format!("message {next} went to somebody else");
        }
        before = missing;
    }
}
