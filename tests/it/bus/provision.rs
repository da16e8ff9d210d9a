//! What is missing is created, what is there is never touched, what differs is named.

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use selvedge::{
    bus::{
        api::consumer_rewind,
        provision::{Provision, ProvisionError, Severity, breaking, drift, provision, watch_drift},
    },
    wire::topology::{JOURNAL, Topology},
};

use super::{connect, fabric, server::Nats, small};

#[tokio::test]
async fn auto_creates_everything_once_and_finds_no_drift() {
    let nats = Nats::start().await;
    let js = connect(&nats.url()).await;
    let topology = Topology::new(&small());
    let missing = provision(&js, Provision::Check, &topology).await.unwrap_err();
    assert_eq!(missing.exit_code(), 78);
    let first = provision(&js, Provision::Auto, &topology).await.unwrap();
    assert_eq!((first.created.len(), first.drift), (15, vec![]));
    let second = provision(&js, Provision::Check, &topology).await.unwrap();
    assert_eq!((second.created, second.drift), (vec![], vec![]));
}

#[tokio::test]
async fn coordinators_that_start_together_provision_together() {
    let nats = Nats::start().await;
    let (a, b) = (connect(&nats.url()).await, connect(&nats.url()).await);
    let topology = Topology::new(&small());
    let (a, b) =
        tokio::join!(provision(&a, Provision::Auto, &topology), provision(&b, Provision::Auto, &topology));
    assert_eq!((a.unwrap().drift, b.unwrap().drift), (vec![], vec![]));
}

#[tokio::test]
async fn a_truth_stream_that_ages_or_discards_is_refused_and_left_alone() {
    let nats = Nats::start().await;
    let js = connect(&nats.url()).await;
    let theirs = Config {
        name: JOURNAL.into(),
        subjects: vec!["sv.journal.*".into()],
        discard: DiscardPolicy::Old,
        max_age: std::time::Duration::from_secs(3600),
        max_bytes: 64 * 1024 * 1024,
        retention: RetentionPolicy::Limits,
        ..Default::default()
    };
    js.create_stream(theirs).await.unwrap();
    js.publish("sv.journal.0", "precious".into()).await.unwrap().await.unwrap();

    let Err(ProvisionError::Drifted(found)) = provision(&js, Provision::Auto, &Topology::new(&small())).await
    else {
        panic!("must be refused")
    };
    let breaks = |field: &str| {
        found.iter().any(|d| d.asset == JOURNAL && d.field == field && d.severity == Severity::BreaksPromise)
    };
    assert!(breaks("discard") && breaks("max_age") && breaks("deny_delete"), "{found:?}");
    let text = ProvisionError::Drifted(found).to_string();
    assert!(text.contains(r#"JOURNAL: discard is "old", must be "new""#), "{text}");

    let mut journal = js.get_stream(JOURNAL).await.unwrap();
    let info = journal.info().await.unwrap();
    assert_eq!((info.state.messages, info.config.discard), (1, DiscardPolicy::Old));
}

#[tokio::test]
async fn a_consumer_deleted_while_running_is_noticed() {
    let (_nats, js) = fabric().await;
    js.delete_consumer_from_stream("owner-0", "INTAKE").await.unwrap();
    let found = drift(&js, &Topology::new(&small())).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].to_string().as_str(), found[0].severity),
        ("INTAKE/owner-0: missing", Severity::Missing)
    );
}

#[tokio::test]
async fn an_edit_while_running_is_told_and_breaks_readiness() {
    let (_nats, js) = fabric().await;
    let topology = Topology::new(&small());
    let stop = tokio_util::sync::CancellationToken::new();
    let mut intake = js.get_stream("INTAKE").await.unwrap().cached_info().config.clone();
    intake.discard = DiscardPolicy::Old;
    js.update_stream(intake).await.unwrap();
    let mut told = None;
    let every = std::time::Duration::from_millis(10);
    watch_drift(&js, &topology, every, &stop, |result| {
        told = breaking(&result.unwrap());
        stop.cancel();
    })
    .await;
    assert!(told.unwrap().contains(r#"INTAKE: discard is "old""#));
}

#[tokio::test]
async fn another_size_is_reported_and_kept() {
    let (_nats, js) = fabric().await;
    let mut bigger = small();
    bigger.intake_bytes *= 2;
    let topology = Topology::new(&bigger);
    let seen = provision(&js, Provision::Auto, &topology).await.unwrap();
    assert_eq!(seen.drift.len(), 1);
    assert_eq!(seen.drift[0].to_string(), "INTAKE: max_bytes is 67108864, configured 134217728");
    assert!(provision(&js, Provision::Check, &topology).await.is_err());
    assert!(provision(&js, Provision::Never, &topology).await.is_ok());
}

#[tokio::test]
async fn a_rewound_consumer_delivers_again_what_was_not_purged() {
    use futures_util::StreamExt;
    let (_nats, js) = fabric().await;
    js.publish("sv.submit.acme.reader.t1", "{}".into()).await.unwrap().await.unwrap();
    let consumer: async_nats::jetstream::consumer::PullConsumer =
        js.get_consumer_from_stream("owner-0", "INTAKE").await.unwrap();
    let first = consumer.fetch().max_messages(1).messages().await.unwrap().next().await.unwrap().unwrap();
    let state = consumer_rewind(&js, "INTAKE", "owner-0").await.unwrap();
    assert_eq!((state.first_seq, state.last_seq, state.messages), (1, 1, 1));
    let again = consumer.fetch().max_messages(1).messages().await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(first.info().unwrap().stream_sequence, again.info().unwrap().stream_sequence);
    let mut js = js;
    js.set_timeout(std::time::Duration::from_secs(1));
    let missing = consumer_rewind(&js, "INTAKE", "nobody").await.unwrap_err();
    assert!(missing.to_string().contains("consumer not found"), "{missing}");
}
