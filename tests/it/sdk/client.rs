//! What a client promises its caller.

use std::time::Duration;

use selvedge::{
    client::{Client, Error, NewTask, WatchItem},
    task::{AgentName, BodyHash, Code, Payload, Phase, Priority, Spec, TaskId, keyed_id},
    wire::{
        api::{EventsPage, EventsRequest, TaskView},
        messages::{Done, Event, MAX_SUBMITS, Submit, Submits},
        subjects,
    },
};

use super::owner::{Owner, PATIENCE, agent, done, next, read, tenant};

async fn client(owner: &Owner) -> Client {
    Client::connect(&owner.server.url()).await.unwrap().tenant("acme").unwrap()
}

fn view(task: &TaskId, state: Phase) -> TaskView {
    TaskView {
        labels: Default::default(),
        tenant: tenant(),
        task: task.clone(),
        agent: agent(),
        state,
        rev: 3,
        priority: Priority::Normal,
        parent: None,
        root: task.clone(),
        depth: 0,
        attempt: 1,
        tries: 0,
        instance: None,
        created_at: 0,
        not_before: None,
        deadline_at: None,
        started_at: None,
        ended_at: None,
        refusal: None,
        failures: vec![],
        retry_of: None,
        last_event: 0,
        body_hash: None,
        result: None,
    }
}

fn event(n: u32) -> Event {
    Event { v: 1, attempt: 1, n, at: 0, kind: "log".into(), data: Payload::json(&n).unwrap() }
}

#[tokio::test]
async fn a_submit_is_stored_under_its_id_and_a_key_names_the_same_task_twice() {
    let owner = Owner::start().await;
    let mut intake = owner.nats.subscribe(subjects::SUBMIT_ALL).await.unwrap();
    let client = client(&owner).await;
    let first = client.submit("reader", &"x").key("order-7").await.unwrap();
    let second = client.submit("reader", &"x").key("order-7").priority(Priority::High).await.unwrap();
    assert_eq!(first.id(), second.id());
    assert_eq!(first.id(), &keyed_id(&tenant(), "order-7"));
    let message = next(&mut intake).await;
    assert_eq!(message.subject.as_str(), subjects::submit(&tenant(), &agent(), first.id()));
    let submit: Submit = read(&message);
    assert_eq!(submit.input.decode::<String>().unwrap(), "x");
    assert!(submit.first_try.is_some() && !submit.confirm);
}

#[tokio::test]
async fn many_submits_keep_their_order_and_a_full_intake_is_backpressure() {
    let owner = Owner::start().await;
    let client = client(&owner).await;
    let js = async_nats::jetstream::new(owner.nats.clone());
    let mut config = js.get_stream("INTAKE").await.unwrap().cached_info().config.clone();
    config.max_messages = 10;
    js.update_stream(config).await.unwrap();
    let mut stored = owner.nats.subscribe(subjects::SUBMITS_ALL).await.unwrap();
    owner.nats.flush().await.unwrap();
    let task = |i: usize| NewTask::new("reader", &i).unwrap().id(TaskId::new(format!("t{i}")).unwrap());
    let mut tasks: Vec<NewTask> = (0..2_000).map(task).collect();
    // One that is refused before it is sent leaves the others of its message alone.
    tasks[30] = NewTask::new("reader", &"x".repeat(300_000)).unwrap();
    tasks[31] = task(31).key("both");
    let results = client.submit_many(tasks).await;
    assert_eq!(results.len(), 2_000);
    assert_eq!(results[17].as_ref().unwrap().id().as_str(), "t17");
    let with = |code| results.iter().filter(|r| matches!(r, Err(e) if e.code() == Some(code))).count();
    assert_eq!((with(Code::TooLarge), with(Code::BadMessage)), (1, 1));
    let (full, good) = (with(Code::Backpressure), results.iter().filter(|r| r.is_ok()).count());
    assert_eq!(full + good, 1_998);
    // Ten messages were stored, and say what was said to be stored.
    let mut ids = Vec::new();
    for n in 0.. {
        let message = next(&mut stored).await;
        let Submits { tasks, .. } = read(&message);
        assert!(tasks.len() <= MAX_SUBMITS && !tasks.is_empty());
        ids.extend(tasks.into_iter().map(|task| task.task));
        if n == 9 {
            break;
        }
    }
    let said: Vec<_> = results.iter().flatten().map(|task| task.id().clone()).collect();
    assert!(good > 0 && full > 0 && ids.len() >= said.len());
    assert!(said.iter().all(|id| ids.contains(id)), "stored, as was said");
}

#[tokio::test]
async fn what_can_be_known_before_sending_is_refused_before_sending() {
    let owner = Owner::start().await;
    let client = client(&owner).await;
    let large = client.submit("reader", &"x".repeat(300_000)).await.unwrap_err();
    assert_eq!(large.code(), Some(Code::TooLarge), "{large}");
    assert!(matches!(client.submit("No.Name", &1).await, Err(Error::Name(_))));
    assert!(client.tenant("a.b").is_err());
}

#[tokio::test]
async fn a_frozen_server_makes_a_submit_unknown_never_failed() {
    let owner = Owner::start().await;
    let client = client(&owner).await.submit_within(Duration::from_secs(1));
    owner.server.freeze().await;
    let error = client.submit("reader", &1).id("t1").await.unwrap_err();
    owner.server.nats.resume();
    assert!(matches!(&error, Error::Unknown { task } if task.as_str() == "t1"), "{error}");
}

#[tokio::test]
async fn without_a_coordinator_a_query_says_so() {
    let server = super::owner::Server::start().await;
    let client = Client::connect(&server.url()).await.unwrap();
    let error = client.get(&TaskId::new("t1").unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("no coordinator answers get"), "{error}");
    let error = client.submit_within(Duration::from_secs(2)).submit("reader", &1).await.unwrap_err();
    assert!(error.to_string().contains("no stream takes submits"), "{error}");
}

#[tokio::test]
async fn a_wait_takes_the_hint_or_looks_again_without_one() {
    let mut owner = Owner::start().await;
    let client = client(&owner).await;
    let task = client.submit("reader", &1).await.unwrap();
    let waiting = tokio::spawn({
        let task = task.clone();
        async move { task.result::<u32>().await }
    });
    let (verb, query) = owner.query().await;
    assert_eq!(verb, "get");
    owner.refuse(&query, Code::NotFound).await; // stored, not decided yet
    owner.done(task.id(), &done(Phase::Completed, Some(Payload::json(&5).unwrap()))).await;
    assert_eq!(waiting.await.unwrap().unwrap(), 5);

    // A lost hint: the second look finds it.
    let waiting = tokio::spawn(async move { task.result::<u32>().await });
    let (_, query) = owner.query().await;
    let read: selvedge::wire::api::GetRequest = read(&query);
    owner.answer(&query, &view(&read.task, Phase::Running)).await;
    let (_, query) = owner.query().await;
    let ended = TaskView { result: Some(Payload::json(&6).unwrap()), ..view(&read.task, Phase::Completed) };
    owner.answer(&query, &ended).await;
    assert_eq!(waiting.await.unwrap().unwrap(), 6);
}

#[tokio::test]
async fn an_id_that_belongs_to_another_body_is_a_conflict_and_a_rejection_is_an_error() {
    let mut owner = Owner::start().await;
    let client = client(&owner).await;
    let submitting = tokio::spawn({
        let client = client.clone();
        async move { client.submit("reader", &1).id("t1").confirmed().await }
    });
    let (_, query) = owner.query().await;
    owner
        .answer(&query, &TaskView { body_hash: Some(BodyHash([9; 16])), ..view(&id("t1"), Phase::Running) })
        .await;
    let error = submitting.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(Code::IdempotencyConflict), "{error}");

    let submitting = tokio::spawn(async move { client.submit("reader", &1).id("t2").confirmed().await });
    let (_, query) = owner.query().await;
    owner.refuse(&query, Code::NotFound).await;
    let hash = Spec {
        labels: None,
        agent: AgentName::new("reader").unwrap(),
        input: Payload::json(&1).unwrap(),
        priority: Priority::Normal,
        max_tries: None,
        times: None,
        cost: None,
    }
    .body_hash();
    let refusal = selvedge::task::Refusal::over(Code::BacklogFull, "backlog 1001 > cap 1000", 1_001, 1_000);
    let hint = Done { refusal: Some(refusal), body_hash: Some(hash), ..done(Phase::Rejected, None) };
    owner.done(&id("t2"), &hint).await;
    let error = submitting.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "BACKLOG_FULL: backlog 1001 > cap 1000");
}

#[tokio::test]
async fn a_watch_shows_each_event_once_names_the_holes_and_ends_with_the_end() {
    let mut owner = Owner::start().await;
    let client = client(&owner).await;
    let task = id("t1");
    let mut watch = client.watch(&task).await.unwrap(); // before the task exists
    let watching = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(item) = watch.next().await {
            seen.push(match item.unwrap() {
                WatchItem::State(state) => state.to_string(),
                WatchItem::Event(e) => format!("{}", e.n),
                WatchItem::Gap { from, to, .. } => format!("gap {from}-{to}"),
                WatchItem::End(ended) => format!("end {}", ended.state),
            });
        }
        seen
    });
    // Event 2 comes only by the history, event 4 by nobody.
    let mut sent = false;
    while !watching.is_finished() {
        let Ok((verb, query)) = tokio::time::timeout(Duration::from_millis(500), owner.query()).await else {
            continue;
        };
        if verb == "get" {
            owner.refuse(&query, Code::NotFound).await;
        } else {
            let after = read::<EventsRequest>(&query).after.unwrap_or_default();
            let stored = [event(1), event(2), event(3)];
            let stored = stored.into_iter().filter(|e| sent && (e.attempt, e.n) > after);
            owner.answer(&query, &EventsPage { events: stored.collect(), more: false }).await;
        }
        if !sent {
            sent = true;
            for n in [1, 1, 3, 5] {
                owner.event(&task, &event(n)).await;
            }
            owner
                .done(&task, &Done { last_event: 5, ..done(Phase::Completed, Some(Payload::default())) })
                .await;
        }
    }
    let seen = tokio::time::timeout(PATIENCE, watching).await.unwrap().unwrap();
    assert_eq!(seen, ["1", "2", "3", "gap 4-4", "5", "completed", "end completed"]);
}

fn id(text: &str) -> TaskId {
    TaskId::new(text).unwrap()
}
