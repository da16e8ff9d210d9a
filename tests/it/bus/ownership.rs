//! One coordinator at a time, and the next one soon.

use std::time::{Duration, Instant};

use selvedge::{
    bus::ownership::{Lease, LeaseConfig, Ownership, OwnershipHandle},
    wire::{
        subjects::Shard,
        topology::{self, OWNER_BUCKET},
    },
};
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{connect, fabric, soon};
use crate::harness::until;

struct Candidate {
    handle: OwnershipHandle,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

async fn candidate(url: &str, name: &str) -> Candidate {
    let js = connect(url).await;
    let (lease, handle) = Lease::new(&js, Shard(0), LeaseConfig::new(name)).await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(lease.run(stop.clone()));
    Candidate { handle, stop, running }
}

fn is_owner(candidate: &Candidate) -> bool {
    candidate.handle.now().is_owner(tokio::time::Instant::now())
}

/// A candidate on threads of its own: dropping the runtime is a kill -9, blocking it a SIGSTOP.
fn on_its_own(url: String) -> (Runtime, Candidate) {
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let candidate = runtime.block_on(async { candidate(&url, "doomed").await });
        (runtime, candidate)
    })
    .join()
    .unwrap()
}

#[tokio::test]
async fn a_killed_owner_is_replaced_about_one_ttl_later() {
    let (nats, _js) = fabric().await;
    let (runtime, mut doomed) = on_its_own(nats.url());
    let (first, _) = soon("the first owner", doomed.handle.acquired()).await.unwrap();
    let mut standby = candidate(&nats.url(), "standby").await;
    // Let it find the key taken and watch it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!is_owner(&standby));

    let killed = Instant::now();
    runtime.shutdown_background();
    let (second, _) = soon("the take-over", standby.handle.acquired()).await.unwrap();
    let took = killed.elapsed();
    assert!(took < Duration::from_millis(2_600), "{took:?}");
    assert!(second > first, "a later owner has a higher revision");
}

#[tokio::test]
async fn a_drained_owner_is_replaced_at_once() {
    let (nats, _js) = fabric().await;
    let mut first = candidate(&nats.url(), "first").await;
    soon("the first owner", first.handle.acquired()).await.unwrap();
    let mut second = candidate(&nats.url(), "second").await;
    tokio::time::sleep(Duration::from_millis(300)).await;

    let begun = Instant::now();
    first.stop.cancel();
    soon("the drain", first.running).await.unwrap();
    soon("the take-over", second.handle.acquired()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_owner_keeps_the_shard_as_long_as_it_renews() {
    let (nats, _js) = fabric().await;
    let mut owner = candidate(&nats.url(), "owner").await;
    let (_, ended) = soon("the owner", owner.handle.acquired()).await.unwrap();
    let standby = candidate(&nats.url(), "standby").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(is_owner(&owner) && !ended.is_cancelled());
    assert!(!is_owner(&standby));
}

#[tokio::test]
async fn a_zombie_knows_by_its_own_clock_and_takes_nothing_back() {
    let (nats, _js) = fabric().await;
    let (runtime, mut zombie) = on_its_own(nats.url());
    soon("the first owner", zombie.handle.acquired()).await.unwrap();
    let Ownership::Owner { until: deadline, ended, .. } = zombie.handle.now() else { panic!("not owner") };
    let mut standby = candidate(&nats.url(), "standby").await;

    // Its only thread is stuck for longer than the lease lives.
    let (wake, asleep) = std::sync::mpsc::channel::<()>();
    runtime.spawn(async move { tokio::task::spawn(async move { asleep.recv().ok() }).await });
    soon("the take-over", standby.handle.acquired()).await.unwrap();
    assert!(!zombie.handle.now().is_owner(tokio::time::Instant::now()), "it passed: {deadline:?}");

    wake.send(()).unwrap();
    soon("the end of the zombie's ownership", ended.cancelled()).await;
    until("it stands by", || async { matches!(zombie.handle.now(), Ownership::Standby).then_some(()) }).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(is_owner(&standby) && !is_owner(&zombie), "the zombie took nothing back");
    runtime.shutdown_background();
}

#[tokio::test]
async fn an_owner_that_steps_down_stays_away() {
    let (nats, _js) = fabric().await;
    let mut first = candidate(&nats.url(), "first").await;
    let (_, ended) = soon("the first owner", first.handle.acquired()).await.unwrap();
    let mut second = candidate(&nats.url(), "second").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    first.handle.step_down();
    soon("the end", ended.cancelled()).await;
    soon("the take-over", second.handle.acquired()).await.unwrap();
    assert!(!is_owner(&first));
}

#[tokio::test]
async fn an_owner_without_server_stops_acting_before_its_lease_can_have_run_out() {
    let (mut nats, _js) = fabric().await;
    let mut owner = candidate(&nats.url(), "owner").await;
    let (_, ended) = soon("the owner", owner.handle.acquired()).await.unwrap();
    nats.kill9();
    let killed = Instant::now();
    soon("the end", ended.cancelled()).await;
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    nats.restart().await;
    soon("owning again", owner.handle.acquired()).await.unwrap();
}

#[tokio::test]
async fn a_renewal_against_another_holder_fails_and_changes_nothing() {
    let (nats, js) = fabric().await;
    let mut owner = candidate(&nats.url(), "owner").await;
    let (_, ended) = soon("the owner", owner.handle.acquired()).await.unwrap();
    let Ownership::Owner { until, .. } = owner.handle.now() else { panic!("not owner") };
    let bucket = js.get_key_value(OWNER_BUCKET).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(selvedge::wire::headers::COORDINATOR, "1");
    let subject = topology::bucket_subject(OWNER_BUCKET, &topology::owner_key(Shard(0)));
    let usurped = js.publish_with_headers(subject, headers, "usurper".into()).await.unwrap().await.unwrap();

    soon("the end", ended.cancelled()).await;
    assert!(tokio::time::Instant::now() < until, "it noticed at its renewal, not at its deadline");
    let entry = bucket.entry(topology::owner_key(Shard(0))).await.unwrap().unwrap();
    assert_eq!((entry.revision, &entry.value[..]), (usurped.sequence, &b"usurper"[..]));
}

#[tokio::test]
async fn a_key_without_ttl_does_not_block_the_shard_for_ever() {
    let (nats, js) = fabric().await;
    let bucket = js.get_key_value(OWNER_BUCKET).await.unwrap();
    bucket.put(topology::owner_key(Shard(0)), "by hand".into()).await.unwrap();
    let mut owner = candidate(&nats.url(), "owner").await;
    soon("the owner", owner.handle.acquired()).await.unwrap();
}
