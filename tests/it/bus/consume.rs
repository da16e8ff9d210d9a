//! INTAKE is read without acknowledgements: what is decided is purged, and nothing else ever is.

use std::time::Duration;

use async_nats::jetstream::Context;
use selvedge::bus::{
    api,
    consume::{Delivery, PullOptions, pull},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{fabric, soon};

struct Reader {
    deliveries: mpsc::Receiver<Delivery>,
    stop: CancellationToken,
}

impl Reader {
    fn start(js: &Context) -> Reader {
        let (out, deliveries) = mpsc::channel(1_024);
        let stop = CancellationToken::new();
        let options =
            PullOptions { expires: Duration::from_secs(2), ..PullOptions::new("INTAKE", "owner-0") };
        tokio::spawn(pull(js.clone(), options, out, stop.clone()));
        Reader { deliveries, stop }
    }

    async fn take(&mut self, n: usize) -> Vec<Delivery> {
        let mut taken = Vec::new();
        while taken.len() < n {
            taken.push(soon("a delivery", self.deliveries.recv()).await.expect("it goes on"));
        }
        taken
    }
}

async fn submit(js: &Context, numbers: std::ops::RangeInclusive<u32>) {
    for n in numbers {
        js.publish(format!("sv.submit.acme.reader.t{n}"), "{}".into()).await.unwrap().await.unwrap();
    }
}

/// First and last sequence of the stream; an empty one begins behind its end.
async fn until_stored(js: &Context, (first, last): (u64, u64)) {
    let stored = async {
        loop {
            let state = api::stream_state(js, "INTAKE").await.unwrap();
            if state.first_seq == first && state.last_seq == last {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(&format!("{first} to {last} are stored, and nothing else"), stored).await;
}

fn seqs(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|d| d.stream_seq).collect()
}

#[tokio::test]
async fn what_is_decided_is_purged_and_what_is_not_comes_to_the_next_reader() {
    let (_nats, js) = fabric().await;
    submit(&js, 1..=6).await;
    let mut reader = Reader::start(&js);
    let taken = reader.take(6).await;
    assert_eq!(seqs(&taken), [1, 2, 3, 4, 5, 6]);
    for delivery in &taken {
        if delivery.stream_seq != 4 {
            delivery.ack.ack().await;
        }
    }
    // The fourth holds the fifth and sixth back, decided or not.
    until_stored(&js, (4, 6)).await;
    reader.stop.cancel();
    drop(taken);
    let mut next = Reader::start(&js);
    let again = next.take(3).await;
    assert_eq!(seqs(&again), [4, 5, 6]);
    submit(&js, 7..=7).await;
    let fresh = next.take(1).await;
    for delivery in again.iter().chain(&fresh) {
        delivery.ack.ack().await;
    }
    until_stored(&js, (8, 7)).await;
}

#[tokio::test]
async fn what_a_frozen_reader_was_given_comes_to_us_before_it_could_be_purged() {
    use futures_util::StreamExt;
    let (_nats, js) = fabric().await;
    let mut reader = Reader::start(&js);
    submit(&js, 1..=1).await;
    reader.take(1).await[0].ack.ack().await;
    // Somebody whose request still stands, and who reads nothing.
    let inbox = js.client().new_inbox();
    let mut frozen = js.client().subscribe(inbox.clone()).await.unwrap();
    let request = r#"{"batch": 2, "expires": 30000000000}"#;
    // Requests are served in turn: ours and the frozen one's.
    js.client()
        .publish_with_reply("$JS.API.CONSUMER.MSG.NEXT.INTAKE.owner-0", inbox, request.into())
        .await
        .unwrap();
    js.client().flush().await.unwrap();
    submit(&js, 2..=5).await;
    soon("one is stolen", frozen.next()).await.expect("subscribed");
    let mut seen = std::collections::BTreeSet::new();
    // The first may come again: it was decided, and perhaps not purged.
    while !(2..=5).all(|seq| seen.contains(&seq)) {
        for delivery in reader.take(1).await {
            seen.insert(delivery.stream_seq);
            delivery.ack.ack().await;
        }
    }
    until_stored(&js, (6, 5)).await;
}

#[tokio::test]
async fn a_stream_made_anew_loses_nothing_to_the_purges_of_the_old_one() {
    let (_nats, js) = fabric().await;
    submit(&js, 1..=20).await;
    let mut reader = Reader::start(&js);
    let taken = reader.take(20).await;
    let topology = selvedge::wire::topology::Topology::new(&super::small());
    js.delete_stream("INTAKE").await.unwrap();
    super::provision_topology(&js, super::Provision::Auto, &topology).await.unwrap();
    submit(&js, 1..=5).await;
    // All of the old ones are decided now; their numbers are above those of the new ones.
    for delivery in &taken {
        delivery.ack.ack().await;
    }
    let fresh = reader.take(5).await;
    assert_eq!(seqs(&fresh), [1, 2, 3, 4, 5]);
    assert_eq!(api::stream_state(&js, "INTAKE").await.unwrap().messages, 5);
}
