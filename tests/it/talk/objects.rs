//! Large results of steps: kept beside the journal as long as their task lives, given back unharmed or not at all.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, Context};
use selvedge::{
    agent::{Agent, AgentError, Ctx},
    bus::{Clock, Link},
    client::TaskHandle,
    coordinator::run::Options,
    task::{Code, Object, ObjectHash, Phase, TaskKey, TenantName},
    wire::{history::Did, subjects, topology},
};
use tokio::sync::Notify;

use super::{Tally, fabric, hasty, reaches};
use crate::harness::{
    fabric::{Fabric, eventually},
    soon, until,
};

const MIB: usize = 1 << 20;
/// Chunks of the scraper's result.
const CHUNKS: u64 = 11;

/// 5 MiB and a bit of JSON, no two parts of it the same.
fn pages() -> Vec<String> {
    (0..5 * 1_024).map(|page| format!("{page:06} {}", "x".repeat(1_024))).collect()
}

/// One large step, then a failure, a sleep and a wait; tells how many pages it was given at its end, and of which hash.
fn scraper(tally: &Tally) -> Agent {
    let tally = tally.clone();
    let scrape = move |ctx: Ctx, _: ()| {
        let tally = tally.clone();
        async move {
            let scrape = || async {
                tally.count("scrape");
                Ok(pages())
            };
            let started = Instant::now();
            let found: Vec<String> = match ctx.step("scrape", scrape).await {
                Ok(found) => found,
                Err(error) => {
                    if let Some(code) = error.code() {
                        tally.count(code.as_str());
                    }
                    return Err(error);
                }
            };
            println!("attempt {}: the result was there within {:?}", ctx.attempt(), started.elapsed());
            if ctx.tries() == 0 {
                return Err(AgentError::retryable("behind the step"));
            }
            ctx.sleep(Duration::from_millis(20)).await?;
            ctx.wait_signal("go", None).await?;
            let hash = ObjectHash::of(&serde_json::to_vec(&found).unwrap()).to_string();
            Ok::<_, AgentError>((found.len(), hash))
        }
    };
    Agent::new("scraper", scrape).unwrap().linger(Duration::ZERO)
}

fn scraped() -> (usize, String) {
    (pages().len(), ObjectHash::of(&serde_json::to_vec(&pages()).unwrap()).to_string())
}

async fn jetstream_of(fabric: &Fabric) -> Context {
    jetstream::new(async_nats::connect(fabric.stack.nats.url()).await.unwrap())
}

/// Messages and bytes of a stream.
async fn held(js: &Context, stream: &str) -> (u64, u64) {
    let state = js.get_stream(stream).await.unwrap().get_info().await.unwrap().state;
    (state.messages, state.bytes)
}

async fn is_empty(js: &Context) {
    until("nothing is kept of any step", || async { (held(js, topology::STEPS).await.0 == 0).then_some(()) })
        .await;
}

/// The object that is recorded at the first place.
async fn recorded(fabric: &Fabric, task: &TaskHandle) -> Object {
    let page = fabric.client("acme").await.history(task.id(), 0, 0).await.unwrap();
    match page.steps[0].did {
        Did::Kept(object) => object,
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_is_made_once_and_given_back_over_a_retry_a_sleep_and_a_crash() {
    let (mut fabric, client) = fabric().await;
    let js = jetstream_of(&fabric).await;
    let tally = Tally::default();
    fabric.agent(scraper(&tally)).await;
    let task = client.submit("scraper", &()).await.unwrap();
    reaches(&task, Phase::Waiting).await;

    let object = recorded(&fabric, &task).await;
    assert_eq!((object.hash.to_string(), u64::from(object.chunks)), (scraped().1, CHUNKS));
    let (messages, bytes) = held(&js, topology::STEPS).await;
    assert!(messages == CHUNKS && bytes > 5 * MIB as u64, "{messages} messages, {bytes} bytes");
    for stream in [topology::JOURNAL, topology::REPORTS] {
        let (_, bytes) = held(&js, stream).await;
        assert!(bytes < 64 * 1_024, "{stream} has {bytes} bytes");
    }

    fabric.coordinator.take().unwrap().crash();
    let mut options = Options::new("next");
    hasty(&mut options);
    fabric.coordinator = Some(fabric.coordinate(options).await);
    eventually("the signal is taken", async {
        while task.signal("go", &()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let result: (usize, String) = eventually("the result", task.result()).await.unwrap();
    assert_eq!((result, tally.of("scrape")), (scraped(), 1));
    is_empty(&js).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_leaves_behind_is_swept_and_what_a_live_task_has_stays() {
    let crashed = Arc::new(Notify::new());
    let told = crashed.clone();
    let mut fabric = Fabric::start_with(|options| {
        hasty(options);
        options.probe = Arc::new(move |at| {
            if at == "kept" {
                told.notify_one();
                panic!("the owner crashes between a task's end and the drop of what it kept");
            }
        });
    })
    .await;
    let client = fabric.client("acme").await;
    let js = jetstream_of(&fabric).await;
    let tally = Tally::default();
    fabric.agent(scraper(&tally)).await;
    let (over, lives) =
        (client.submit("scraper", &()).await.unwrap(), client.submit("scraper", &()).await.unwrap());
    reaches(&over, Phase::Waiting).await;
    reaches(&lives, Phase::Waiting).await;
    over.signal("go", &()).await.unwrap();
    soon("the crash", crashed.notified()).await;
    fabric.coordinator.take().unwrap().crash();
    // A task nobody has heard of, and something that names none.
    let hash = ObjectHash::of(b"orphan");
    for subject in [
        subjects::step_chunk(client.tenant_name(), &"nobody".parse().unwrap(), &hash, 0),
        "sv.step.acme.NOBODY.x.0".to_owned(),
    ] {
        js.publish(subject, "orphan".into()).await.unwrap().await.unwrap();
    }
    assert_eq!(held(&js, topology::STEPS).await.0, 2 * CHUNKS + 2);

    let mut options = Options::new("next");
    hasty(&mut options);
    fabric.coordinator = Some(fabric.coordinate(options).await);
    until("the others are gone", || async { (held(&js, topology::STEPS).await.0 == CHUNKS).then_some(()) })
        .await;
    eventually("the signal is taken", async {
        while lives.signal("go", &()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    for task in [over, lives] {
        let result: (usize, String) = eventually("a result", task.result()).await.unwrap();
        assert_eq!(result, scraped());
    }
    assert_eq!(tally.of("scrape"), 2);
    is_empty(&js).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_stream_fails_the_step_by_its_name_and_the_next_try_finds_room() {
    let fabric = Fabric::start_with(|options| {
        hasty(options);
        options.sizing.steps_bytes = 8 * MIB as i64;
    })
    .await;
    let client = fabric.client("acme").await;
    let js = jetstream_of(&fabric).await;
    // Of a task that waits for an agent: what lives is not swept.
    let full_of = client.submit("nobody", &()).await.unwrap();
    reaches(&full_of, Phase::Queued).await;
    let filler = |n| subjects::step_chunk(client.tenant_name(), full_of.id(), &ObjectHash::of(b"filler"), n);
    for n in 0..10 {
        js.publish(filler(n), vec![0; MIB / 2].into()).await.unwrap().await.unwrap();
    }
    let tally = Tally::default();
    fabric.agent(scraper(&tally)).await;
    let task = client.submit("scraper", &()).await.unwrap();
    let full = Code::StepsFull.as_str();
    until("the step has failed", || async { (tally.of(full) == 1).then_some(()) }).await;
    let all_of = TaskKey { tenant: client.tenant_name().clone(), id: full_of.id().clone() };
    let stream = js.get_stream(topology::STEPS).await.unwrap();
    stream.purge().filter(subjects::steps_of_task(&all_of)).await.unwrap();
    reaches(&task, Phase::Waiting).await;
    let view = task.get().await.unwrap();
    let failure = &view.failures[0];
    assert_eq!((failure.code, view.failures.len()), (Code::StepsFull, 1));
    let said = &failure.message;
    assert!(said.contains("`scrape`") && said.contains("steps_max_bytes"), "{said}");
    task.signal("go", &()).await.unwrap();
    let result: (usize, String) = soon("the result", task.result()).await.unwrap();
    assert_eq!((result, tally.of("scrape")), (scraped(), 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_or_broken_object_fails_by_the_steps_name_and_the_work_is_not_done_again() {
    let (fabric, client) = fabric().await;
    let js = jetstream_of(&fabric).await;
    let tally = Tally::default();
    fabric.agent(scraper(&tally).slots(2)).await;
    let (missing, broken) =
        (client.submit("scraper", &()).await.unwrap(), client.submit("scraper", &()).await.unwrap());
    let stream = js.get_stream(topology::STEPS).await.unwrap();
    for (task, chunk, instead) in [(&missing, 10, None), (&broken, 3, Some(vec![b'x'; MIB / 2]))] {
        reaches(task, Phase::Waiting).await;
        let object = recorded(&fabric, task).await;
        let subject = subjects::step_chunk(client.tenant_name(), task.id(), &object.hash, chunk);
        stream.purge().filter(subject.clone()).await.unwrap();
        if let Some(other) = instead {
            js.publish(subject, other.into()).await.unwrap().await.unwrap();
        }
        task.signal("go", &()).await.unwrap();
    }
    for (task, what) in [(missing, "lacks chunk 10"), (broken, "another hash")] {
        let ended = eventually("its end", task.wait()).await.unwrap();
        let refusal = ended.refusal.expect("why");
        assert_eq!((ended.state, refusal.code), (Phase::Failed, Code::StepLost), "{refusal}");
        let said = &refusal.message;
        assert!(said.contains("`scrape`") && said.contains(what), "{said}");
        assert_eq!(task.get().await.unwrap().tries, 3, "another try may find it");
    }
    assert_eq!(tally.of("scrape"), 2, "once each");
    is_empty(&js).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_above_the_limit_fails_by_the_steps_name_its_size_and_the_limit() {
    let (fabric, client) = fabric().await;
    let js = jetstream_of(&fabric).await;
    let hoard = |ctx: Ctx, _: ()| async move {
        let all: String = ctx.step("hoard", || async { Ok("x".repeat(64 * MIB)) }).await?;
        Ok::<_, AgentError>(all.len())
    };
    fabric.agent(Agent::new("hoarder", hoard).unwrap()).await;
    let task = client.submit("hoarder", &()).await.unwrap();
    let ended = eventually("its end", task.wait()).await.unwrap();
    let refusal = ended.refusal.expect("why");
    assert_eq!((ended.state, refusal.code), (Phase::Failed, Code::TooLarge), "{refusal}");
    let said = &refusal.message;
    assert!(said.contains("`hoard`") && said.contains("67108866") && said.contains("67108864"), "{said}");
    assert_eq!(task.get().await.unwrap().tries, 1, "no other try could help");
    assert_eq!(held(&js, topology::STEPS).await.0, 0, "nothing was sent in vain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_at_a_chunks_place_stays_there_and_takes_no_more_room_when_it_comes_again() {
    let (fabric, client) = fabric().await;
    let js = jetstream_of(&fabric).await;
    let link = Link::connect(&fabric.stack.nats_options(), "test").await.unwrap();
    let task = client.submit("nobody", &()).await.unwrap();
    reaches(&task, Phase::Queued).await;
    let hash = ObjectHash::of(b"first");
    let subject = subjects::step_chunk(client.tenant_name(), task.id(), &hash, 0);
    for body in ["first", "first", "other"] {
        link.bulk.store_once(&subject, body.into(), Duration::from_secs(5)).await.unwrap();
    }
    // Whoever does not care for what is there takes room, and no place.
    js.publish(subject, "noise".into()).await.unwrap().await.unwrap();
    assert_eq!(held(&js, topology::STEPS).await.0, 2);
    let chunk = client.kept(task.id(), hash, 0).await.unwrap();
    assert_eq!(chunk.as_bytes().as_ref(), b"first");
    let other = client.kept(task.id(), hash, 1).await.unwrap_err();
    assert_eq!(other.code(), Some(Code::StepLost));
    let elsewhere = fabric.client("globex").await.kept(task.id(), hash, 0).await.unwrap_err();
    assert_eq!(elsewhere.code(), Some(Code::StepLost), "another tenant's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_of_every_size_around_the_limits_comes_back_as_it_was() {
    let (fabric, client) = fabric().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let sizes = [64 * 1_024 - 2, 64 * 1_024 - 1, MIB / 2 - 2, MIB / 2 - 1, 2 * MIB - 2, 2 * MIB + 7];
    let steps = move |ctx: Ctx, _: ()| {
        let noted = noted.clone();
        async move {
            let mut found = Vec::new();
            for (at, size) in sizes.into_iter().enumerate() {
                let letter = char::from(b'a' + at as u8).to_string();
                let text: String = ctx.step("size", || async { Ok(letter.repeat(size)) }).await?;
                found.push((text.len(), text.chars().next(), text.chars().last()));
            }
            noted.lock().unwrap().push(found);
            ctx.wait_signal("go", None).await?;
            Ok::<_, AgentError>(())
        }
    };
    fabric.agent(Agent::new("sizes", steps).unwrap().linger(Duration::ZERO)).await;
    let task = client.submit("sizes", &()).await.unwrap();
    reaches(&task, Phase::Waiting).await;
    let page = client.history(task.id(), 0, 0).await.unwrap();
    let chunks: Vec<Option<u32>> = page
        .steps
        .iter()
        .map(|step| match step.did {
            Did::Kept(object) => Some(object.chunks),
            _ => None,
        })
        .collect();
    assert_eq!(chunks, [None, Some(1), Some(1), Some(2), Some(4), Some(5)]);
    task.signal("go", &()).await.unwrap();
    soon("its end", task.result::<()>()).await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!((seen.len(), &seen[0]), (2, &seen[1]));
    assert_eq!(seen[0].iter().map(|(size, ..)| *size).collect::<Vec<_>>(), sizes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_attempt_published_and_did_not_report_goes_with_a_cancelled_task() {
    let (fabric, client) = fabric().await;
    let js = jetstream_of(&fabric).await;
    let tally = Tally::default();
    fabric.agent(scraper(&tally)).await;
    let task = client.submit("scraper", &()).await.unwrap();
    reaches(&task, Phase::Waiting).await;
    let key = TaskKey { tenant: TenantName::new("acme").unwrap(), id: task.id().clone() };
    let hash = ObjectHash::of(b"never reported");
    let subject = subjects::step_chunk(&key.tenant, &key.id, &hash, 0);
    js.publish(subject, "never reported".into()).await.unwrap().await.unwrap();
    task.cancel("enough").await.unwrap();
    is_empty(&js).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_half_full_is_swept_before_its_time() {
    // Else it is swept every 300 s: 75 s here, longer than anything is waited for.
    let fabric = Fabric::start_with(|options| {
        options.clock = Clock::fast(4.0);
        options.sizing.steps_bytes = 8 * MIB as i64;
    })
    .await;
    let js = jetstream_of(&fabric).await;
    let orphan = |n| {
        subjects::step_chunk(
            &TenantName::new("acme").unwrap(),
            &"nobody".parse().unwrap(),
            &ObjectHash::of(b""),
            n,
        )
    };
    // The first sweep may be the one with which a term begins.
    let first_sweep = async {
        let mut stored = 0;
        while held(&js, topology::STEPS).await.0 >= stored {
            let chunk = js.publish(orphan(stored as u32), vec![0; MIB / 16].into()).await.unwrap();
            // Until it is full.
            stored += u64::from(chunk.await.is_ok());
        }
    };
    soon("the first sweep", first_sweep).await;
    js.get_stream(topology::STEPS).await.unwrap().purge().await.unwrap();
    for n in 0..8 {
        js.publish(orphan(n), vec![0; MIB / 2].into()).await.unwrap().await.unwrap();
    }
    is_empty(&js).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_no_answer_can_hold_is_refused_and_not_waited_for() {
    let (fabric, client) = fabric().await;
    let js = jetstream_of(&fabric).await;
    let task = client.submit("nobody", &()).await.unwrap();
    reaches(&task, Phase::Queued).await;
    let hash = ObjectHash::of(b"too large to be asked for");
    let subject = subjects::step_chunk(client.tenant_name(), task.id(), &hash, 0);
    js.publish(subject, vec![0; MIB - 4].into()).await.unwrap().await.unwrap();
    let refused = client.kept(task.id(), hash, 0).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::TooLarge), "{refused}");
}
