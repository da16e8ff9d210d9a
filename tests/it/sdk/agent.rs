//! What an instance promises its owner.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use selvedge::{
    agent::{Agent, AgentError, Ctx, RunError},
    bus::Link,
    task::{Code, InstanceId, Outcome, Payload, Phase, Refusal, Token, WaitFor, child_id},
    wire::{
        api::{ChildView, ChildrenPage},
        codec,
        messages::{CtlOp, End, Event, Offers, Report, ReportOp, Verdict},
        subjects,
    },
};
use tokio_util::sync::CancellationToken;

use super::owner::{Owner, PATIENCE, agent, offer, read};

pub struct Running {
    pub stop: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), RunError>>,
    pub instance: InstanceId,
}

impl Running {
    pub async fn start(owner: &mut Owner, agent: Agent) -> Self {
        let link = Link::open(&owner.server.url(), "agent under test").await.unwrap();
        let stop = CancellationToken::new();
        let agent = agent.lease(Duration::from_millis(1_500));
        let ended = tokio::spawn(agent.run_until(link, stop.clone()));
        let (instance, beat) = owner.beat().await;
        assert!(beat.tokens.is_empty() && !beat.draining);
        Self { stop, ended, instance }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.ended).await.expect("drains").unwrap().unwrap();
    }
}

pub async fn echo(_ctx: Ctx, input: String) -> Result<String, AgentError> {
    match input.as_str() {
        "panic" => panic!("asked to"),
        "fatal" => Err(AgentError::fatal("no")),
        "io" => Err(std::io::Error::other("disk"))?,
        _ => Ok(input),
    }
}

pub fn outcome(report: &Report) -> &Outcome {
    match &report.op {
        ReportOp::End(End { outcome, .. }) => outcome,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lease_is_in_the_heartbeats_until_its_end_is_decided_and_the_end_is_repeated_until_then() {
    let mut owner = Owner::start().await;
    let running = Running::start(&mut owner, Agent::new("reader", echo).unwrap()).await;
    owner.offer(&running.instance, &offer("t1", 1, "hello")).await;
    assert_eq!(owner.accept().await.taken, [Token(1)]);
    let first = owner.report().await;
    let Outcome::Completed { result } = outcome(&first) else { panic!("{first:?}") };
    assert_eq!(result.decode::<String>().unwrap(), "hello");
    assert_eq!((first.n, first.token, &first.instance), (1, Token(1), &running.instance));
    // No verdict: the identical report comes again, and the lease stays in the heartbeats.
    assert_eq!(owner.report().await, first);
    assert_eq!(owner.beat_where(|b| !b.tokens.is_empty()).await.tokens, [Token(1)]);
    // An offer of a lease that has ended but is not decided is accepted and not run again.
    owner.offer(&running.instance, &offer("t1", 1, "hello")).await;
    assert_eq!(owner.accept().await.taken, [Token(1)]);
    owner.decided(&running.instance, Token(1), 1).await;
    owner.beat_where(|b| b.tokens.is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn failures_panics_and_misfits_end_an_attempt_as_what_they_are() {
    let mut owner = Owner::start().await;
    let running = Running::start(&mut owner, Agent::new("reader", echo).unwrap().slots(4)).await;
    let mut number = offer("t4", 4, "");
    number.input = Payload::json(&5).unwrap();
    for offer in [offer("t1", 1, "panic"), offer("t2", 2, "fatal"), offer("t3", 3, "io"), number] {
        owner.offer(&running.instance, &offer).await;
        owner.accept().await;
        let report = owner.report().await;
        let Outcome::Failed { retryable, message, .. } = outcome(&report) else { panic!("{report:?}") };
        let (expected, text) = match offer.token.0 {
            1 => (true, "panicked: asked to"),
            2 => (false, "no"),
            3 => (true, "disk"),
            _ => (false, "input does not fit"),
        };
        assert!(*retryable == expected && message.contains(text), "{message}");
        owner.decided(&running.instance, offer.token, 1).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn beyond_its_slots_it_says_busy_and_a_repeated_offer_runs_once() {
    let mut owner = Owner::start().await;
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let handler = move |ctx: Ctx, _: String| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            ctx.cancelled().await;
            Err::<(), _>(AgentError::retryable("cancelled"))
        }
    };
    let running = Running::start(&mut owner, Agent::new("reader", handler).unwrap()).await;
    for _ in 0..3 {
        owner.offer(&running.instance, &offer("t1", 1, "")).await;
        assert_eq!(owner.accept().await.taken, [Token(1)]);
    }
    owner.offer(&running.instance, &offer("t2", 2, "")).await;
    assert_eq!(owner.accept().await.busy, [Token(2)]);
    // A stop ends the handler; the heartbeat without the lease comes at once; nothing is reported.
    owner.ctl(&running.instance, CtlOp::Stop { token: Token(1), code: Code::Cancelled }).await;
    owner.beat_where(|b| b.tokens.is_empty()).await;
    owner.offer(&running.instance, &offer("t2", 2, "")).await;
    assert_eq!(owner.accept().await.taken, [Token(2)]);
    owner
        .verdict(
            &running.instance,
            Verdict {
                token: Token(2),
                n: 0,
                refusal: Some(Refusal::new(Code::StaleLease, "over")),
                refused: vec![],
            },
        )
        .await;
    owner.beat_where(|b| b.tokens.is_empty()).await;
    assert_eq!(runs.load(Ordering::Relaxed), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_new_owner_is_answered_at_once_and_a_deposed_one_is_ignored() {
    let mut owner = Owner::start().await;
    let agent = Agent::new("reader", echo).unwrap();
    let link = Link::open(&owner.server.url(), "agent under test").await.unwrap();
    let stop = CancellationToken::new();
    // A lease so long that no heartbeat would come by itself.
    let ended = tokio::spawn(agent.lease(Duration::from_secs(3_600)).run_until(link, stop.clone()));
    let (instance, _) = owner.beat().await;
    owner.epoch = 5;
    owner.hello().await;
    owner.beat().await;
    owner.epoch = 1;
    owner.offer(&instance, &offer("old", 1, "")).await;
    owner.epoch = 5;
    owner.offer(&instance, &offer("new", 2, "")).await;
    assert_eq!(owner.accept().await.taken, [Token(2)]);
    owner.report().await;
    // The end is undecided: the next owner gets it at once too.
    owner.epoch = 6;
    owner.hello().await;
    assert_eq!(owner.report().await.token, Token(2));
    owner.decided(&instance, Token(2), 1).await;
    stop.cancel();
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn events_are_numbered_and_the_end_names_the_last_one() {
    let mut owner = Owner::start().await;
    let handler = |ctx: Ctx, _: String| async move {
        for i in 0..200 {
            ctx.emit("progress", &i).await?;
        }
        let too_large = ctx.emit("log", &"x".repeat(20_000)).await;
        assert!(too_large.is_err());
        Ok::<_, AgentError>(())
    };
    let mut events = owner.nats.subscribe(subjects::EVENT_ALL).await.unwrap();
    let running = Running::start(&mut owner, Agent::new("reader", handler).unwrap()).await;
    owner.offer(&running.instance, &offer("t1", 1, "")).await;
    let report = owner.report().await;
    let ReportOp::End(end) = &report.op else { panic!("{report:?}") };
    assert_eq!(end.last_event, 200, "{report:?}");
    owner.decided(&running.instance, Token(1), 1).await;
    for n in 1..=200 {
        let event: Event = read(&events.next().await.unwrap());
        assert_eq!((event.n, event.data.decode::<u32>().unwrap()), (n, n - 1));
    }
    running.stop().await;
}

#[tokio::test]
async fn a_parent_ends_its_attempt_to_wait_and_finds_its_children_when_it_runs_again() {
    let mut owner = Owner::start().await;
    let handler = |ctx: Ctx, _: String| async move {
        ctx.spawn("read", "reader", 0..70u32).await?;
        let mut sum = 0;
        for child in ctx.wait_all().await? {
            sum += child.decode::<u32>()?;
        }
        Ok::<_, AgentError>(sum)
    };
    let running = Running::start(&mut owner, Agent::new("reader", handler).unwrap()).await;
    let parent = offer("t1", 1, "");
    owner.offer(&running.instance, &parent).await;
    let mut spawned = 0;
    for n in 1..=2 {
        let report = owner.report().await;
        let ReportOp::Spawn(spawn) = &report.op else { panic!("{report:?}") };
        assert_eq!((report.n, spawn.first, spawn.step.as_str()), (n, spawned, "read"));
        spawned += u32::try_from(spawn.children.len()).unwrap();
        owner.decided(&running.instance, Token(1), n).await;
    }
    assert_eq!(spawned, 70);
    let end = owner.report().await;
    assert_eq!((end.n, outcome(&end)), (3, &Outcome::Wait(WaitFor::AllChildren)));
    owner.decided(&running.instance, Token(1), 3).await;

    let again =
        selvedge::wire::messages::Offer { attempt: 2, token: Token(2), children: 70, ..parent.clone() };
    owner.offer(&running.instance, &again).await;
    for n in 1..=2 {
        assert_eq!(owner.report().await.n, n); // adopted by the owner
        owner.decided(&running.instance, Token(2), n).await;
    }
    for page in [0..50u32, 50..70] {
        let (verb, query) = owner.query().await;
        assert_eq!(verb, "children");
        let children = page.clone().map(|index| ChildView {
            task: child_id(&parent.task, "read", index),
            agent: agent(),
            step: "read".into(),
            index,
            state: Phase::Completed,
            refusal: None,
            result: Some(Payload::json(&index).unwrap()),
        });
        let answer = ChildrenPage { children: children.collect(), next: (page.end < 70).then_some(page.end) };
        owner.answer(&query, &answer).await;
    }
    let end = owner.report().await;
    let Outcome::Completed { result } = outcome(&end) else { panic!("{end:?}") };
    assert_eq!((end.n, result.decode::<u32>().unwrap()), (3, (0..70).sum()));
    owner.decided(&running.instance, Token(2), 3).await;
    running.stop().await;
}

#[tokio::test]
async fn a_spawn_refused_as_a_whole_fails_the_task_instead_of_waiting_for_ever() {
    let mut owner = Owner::start().await;
    let handler = |ctx: Ctx, _: String| async move {
        ctx.spawn("read", "reader", [1]).await?;
        ctx.wait_all().await?;
        Ok::<_, AgentError>(())
    };
    let running = Running::start(&mut owner, Agent::new("reader", handler).unwrap()).await;
    owner.offer(&running.instance, &offer("t1", 1, "")).await;
    owner.report().await;
    let refusal = Some(Refusal::new(Code::BadName, "no such step"));
    owner.verdict(&running.instance, Verdict { token: Token(1), n: 1, refusal, refused: vec![] }).await;
    let end = owner.report().await;
    assert!(
        matches!(outcome(&end), Outcome::Failed { retryable: false, message, .. } if message.contains("BAD_NAME")),
        "{end:?}"
    );
    owner.decided(&running.instance, Token(1), 2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_drain_takes_nothing_new_hands_back_what_is_not_done_and_says_good_bye() {
    let mut owner = Owner::start().await;
    let handler = |_: Ctx, _: String| async move {
        std::future::pending::<()>().await;
        Ok::<_, AgentError>(())
    };
    let agent = Agent::new("reader", handler).unwrap().slots(2).drain_timeout(Duration::from_secs(3));
    let running = Running::start(&mut owner, agent).await;
    owner.offer(&running.instance, &offer("t1", 1, "")).await;
    owner.accept().await;
    running.stop.cancel();
    owner.beat_where(|b| b.draining).await;
    owner.offer(&running.instance, &offer("t2", 2, "")).await;
    assert_eq!(owner.accept().await.busy, [Token(2)]);
    let end = owner.report().await;
    assert_eq!(outcome(&end), &Outcome::Snooze { ms: 0 });
    owner.decided(&running.instance, Token(1), 1).await;
    owner.beat_where(|b| b.slots == 0 && b.tokens.is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn a_server_restart_loses_no_report() {
    let mut owner = Owner::start().await;
    let running = Running::start(&mut owner, Agent::new("reader", echo).unwrap()).await;
    owner.offer(&running.instance, &offer("t1", 1, "hello")).await;
    owner.report().await;
    owner.server.nats.kill9();
    owner.server.nats.restart().unwrap();
    // It comes back by itself, beats, and reports again what nobody has answered.
    owner.beat_where(|b| b.tokens == [Token(1)]).await;
    assert_eq!(owner.report().await.token, Token(1));
    owner.decided(&running.instance, Token(1), 1).await;
    owner.beat_where(|b| b.tokens.is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn json_is_understood_and_unknown_messages_are_survived() {
    let mut owner = Owner::start().await;
    let running = Running::start(&mut owner, Agent::new("reader", echo).unwrap()).await;
    let subject = subjects::offer(&agent(), &running.instance);
    for junk in [&b"\xff\xff"[..], b"{", b"", b"{\"v\":1}", &[0x91; 4_000]] {
        owner.nats.publish(subject.clone(), junk.to_vec().into()).await.unwrap();
    }
    let offers = Offers { v: 1, epoch: 1, offers: vec![offer("t1", 1, "hello")] };
    let json = codec::Format::Json.encode(&offers);
    owner.nats.publish(subject, json).await.unwrap();
    assert_eq!(owner.accept().await.taken, [Token(1)]);
    assert_eq!(owner.report().await.token, Token(1));
    owner.decided(&running.instance, Token(1), 1).await;
    running.stop().await;
}
