//! What becomes of one attempt when something goes wrong around it.

use std::{sync::Mutex, time::Duration};

use async_nats::jetstream;
use selvedge::{
    agent::{Agent, AgentError, Ctx},
    task::{Code, Outcome, Token},
    wire::{
        codec,
        messages::{CtlOp, Event, Offers, ReportOp},
        subjects,
    },
};
use tokio::sync::mpsc;

use super::{
    agent::{Running, echo, outcome},
    owner::{Owner, PATIENCE, agent, next, offer, read},
};

/// Says when it is dropped.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _nobody = self.0.send(());
    }
}

async fn soon<T>(what: &str, queue: &mut mpsc::UnboundedReceiver<T>) -> T {
    tokio::time::timeout(PATIENCE, queue.recv()).await.expect(what).expect(what)
}

#[tokio::test]
async fn a_handler_that_panics_when_it_is_called_costs_its_attempt_and_nothing_else() {
    let mut owner = Owner::start().await;
    let handler = |_: Ctx, input: String| {
        assert_ne!(input, "panic", "called in vain");
        async move { Ok::<_, AgentError>(input) }
    };
    let running = Running::start(&mut owner, Agent::new("reader", handler).unwrap()).await;
    owner.offer(&running.instance, &offer("t1", 1, "panic")).await;
    let report = owner.report().await;
    assert!(
        matches!(outcome(&report), Outcome::Failed { retryable: true, message, .. } if message.contains("called in vain")),
        "{report:?}"
    );
    owner.decided(&running.instance, Token(1), 1).await;
    owner.offer(&running.instance, &offer("t2", 2, "hello")).await;
    assert!(matches!(outcome(&owner.report().await), Outcome::Completed { .. }));
    owner.decided(&running.instance, Token(2), 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_handler_that_ignores_its_stop_keeps_its_slot_until_it_is_dropped_after_the_grace() {
    let mut owner = Owner::start().await;
    let (tell, mut dropped) = mpsc::unbounded_channel();
    let handler = move |_: Ctx, input: String| {
        let guard = (input == "stuck").then(|| Dropped(tell.clone()));
        async move {
            if guard.is_some() {
                std::future::pending::<()>().await;
            }
            Ok::<_, AgentError>(())
        }
    };
    let agent = Agent::new("reader", handler).unwrap().cancel_grace(Duration::from_millis(800));
    let running = Running::start(&mut owner, agent).await;
    owner.offer(&running.instance, &offer("t1", 1, "stuck")).await;
    assert_eq!(owner.accept().await.taken, [Token(1)]);
    owner.ctl(&running.instance, CtlOp::Stop { token: Token(1), code: Code::Cancelled }).await;
    owner.offer(&running.instance, &offer("t2", 2, "")).await;
    assert_eq!(owner.accept().await.busy, [Token(2)]);
    assert!(dropped.try_recv().is_err(), "it has its grace");
    soon("the drop", &mut dropped).await;
    owner.beat_where(|beat| beat.tokens.is_empty()).await;
    owner.offer(&running.instance, &offer("t2", 2, "")).await;
    assert_eq!(owner.accept().await.taken, [Token(2)]);
    // The first thing that is reported at all is the end of the second.
    assert_eq!(owner.report().await.token, Token(2));
    owner.decided(&running.instance, Token(2), 1).await;
    running.stop().await;
}

#[tokio::test]
async fn of_many_reports_the_unanswered_come_again_and_the_answered_do_not() {
    let mut owner = Owner::start().await;
    let running = Running::start(&mut owner, Agent::new("reader", echo).unwrap().slots(20)).await;
    let offers: Vec<_> = (1..=20).map(|n| offer(&format!("t{n}"), n, "hello")).collect();
    let subject = subjects::offer(&agent(), &running.instance);
    let message = codec::pack(&Offers { v: 1, epoch: 1, offers });
    owner.nats.publish(subject, message).await.unwrap();
    let mut reported: Vec<u128> = Vec::new();
    for _ in 0..20 {
        reported.push(owner.report().await.token.0);
    }
    reported.sort_unstable();
    assert_eq!(reported, (1..=20).collect::<Vec<_>>());
    for token in (1..=20).filter(|n| ![7, 13].contains(n)) {
        owner.decided(&running.instance, Token(token), 1).await;
    }
    // A round or two may have been under way before the verdicts came.
    owner.beat_where(|beat| beat.tokens.len() == 2).await;
    let mut again = Vec::new();
    while again.len() < 6 {
        again.push(owner.report().await.token.0);
    }
    let last: Vec<u128> = again.split_off(again.len() - 4);
    assert!(last.iter().all(|token| [7, 13].contains(token)) && last[0] != last[1], "{last:?}");
    for token in [7, 13] {
        owner.decided(&running.instance, Token(token), 1).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn an_event_just_before_the_end_belongs_to_it_and_one_after_it_is_refused() {
    let mut owner = Owner::start().await;
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    let end = Mutex::new(Some(end));
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |ctx: Ctx, _: String| {
        let (end, tell, later) = (end.lock().unwrap().take(), tell.clone(), ctx.clone());
        async move {
            tokio::spawn(async move {
                let _ended = end.expect("called once").await;
                let event = later.emit("late", &1).await;
                let child = later.spawn("late", "reader", [1]).await;
                tell.send((event.is_err(), child.is_err(), later.is_cancelled())).unwrap();
            });
            ctx.emit("log", &"last words").await
        }
    };
    let mut events = owner.nats.subscribe(subjects::EVENT_ALL).await.unwrap();
    let running = Running::start(&mut owner, Agent::new("reader", handler).unwrap()).await;
    owner.offer(&running.instance, &offer("t1", 1, "")).await;
    let report = owner.report().await;
    let ReportOp::End(said) = &report.op else { panic!("{report:?}") };
    assert_eq!((report.n, said.last_event), (1, 1));
    let event: Event = read(&next(&mut events).await);
    assert_eq!((event.n, event.kind.as_str()), (1, "log"));
    ended.send(()).unwrap();
    assert_eq!(soon("the late ones", &mut told).await, (true, true, false));
    owner.decided(&running.instance, Token(1), 1).await;
    owner.beat_where(|beat| beat.tokens.is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn a_slot_is_free_while_the_last_events_are_being_stored_and_a_stop_then_releases_at_once() {
    let mut owner = Owner::start().await;
    jetstream::new(owner.nats.clone()).delete_stream("EVENTS").await.unwrap();
    let (tell, mut gone) = mpsc::unbounded_channel();
    let handler = move |ctx: Ctx, input: String| {
        let guard = Dropped(tell.clone());
        async move {
            if input == "emit" {
                ctx.emit("log", &"nobody stores this").await?;
            }
            drop(guard);
            Ok::<_, AgentError>(())
        }
    };
    let running = Running::start(&mut owner, Agent::new("reader", handler).unwrap()).await;
    owner.offer(&running.instance, &offer("t1", 1, "emit")).await;
    assert_eq!(owner.accept().await.taken, [Token(1)]);
    soon("the handler's end", &mut gone).await;
    owner.offer(&running.instance, &offer("t2", 2, "")).await;
    assert_eq!(owner.accept().await.taken, [Token(2)]);
    // Its end waits for its event; the other's does not.
    assert_eq!(owner.report().await.token, Token(2));
    owner.ctl(&running.instance, CtlOp::Stop { token: Token(1), code: Code::LeaseLost }).await;
    owner.decided(&running.instance, Token(2), 1).await;
    owner.beat_where(|beat| beat.tokens.is_empty()).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_holds_up_neither_heartbeats_nor_others() {
    let mut owner = Owner::start().await;
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let handler = move |_: Ctx, input: String| {
        if input == "block" {
            held.lock().unwrap().recv_timeout(PATIENCE * 2).unwrap();
        }
        async move { Ok::<_, AgentError>(input) }
    };
    let running = Running::start(&mut owner, Agent::new("reader", handler).unwrap().slots(6)).await;
    let inputs = ["hello", "hello", "block", "hello", "hello"];
    let offers = (1..).zip(inputs).map(|(n, input)| offer(&format!("t{n}"), n, input)).collect();
    let message = codec::pack(&Offers { v: 1, epoch: 1, offers });
    owner.nats.publish(subjects::offer(&agent(), &running.instance), message).await.unwrap();
    for _ in 0..4 {
        let report = owner.report().await;
        assert_ne!(report.token, Token(3));
        owner.decided(&running.instance, report.token, 1).await;
    }
    owner.beat_where(|beat| beat.tokens == [Token(3)]).await;
    owner.beat_where(|beat| beat.tokens == [Token(3)]).await;
    let_go.send(()).unwrap();
    assert_eq!(owner.report().await.token, Token(3));
    owner.decided(&running.instance, Token(3), 1).await;
    running.stop().await;
}
