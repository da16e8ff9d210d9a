//! Short tasks are offered ahead of a free slot: they wait there unaccepted, and an acceptance still says that the handler starts.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use selvedge::{
    agent::{Agent, AgentError, Ctx},
    task::{Code, Token},
    wire::{
        codec,
        messages::{CtlOp, Offers},
        subjects,
    },
};
use tokio::sync::Semaphore;

use super::{
    agent::Running,
    owner::{Owner, agent, offer},
};

/// Inputs whose handler was called.
type Began = Arc<Mutex<BTreeSet<String>>>;

struct Desk {
    owner: Owner,
    running: Running,
    began: Began,
    hold: Arc<Semaphore>,
    token: u128,
}

impl Desk {
    /// An instance of one slot. Its handler holds the slot for `hold` until it is let go, is brief for `brief`, and
    /// returns at once otherwise.
    async fn start() -> Self {
        let mut owner = Owner::start().await;
        let (began, hold) = (Began::default(), Arc::new(Semaphore::new(0)));
        let (seen, gate) = (began.clone(), hold.clone());
        let handler = move |_: Ctx, input: String| {
            let (seen, gate) = (seen.clone(), gate.clone());
            async move {
                seen.lock().unwrap().insert(input.clone());
                if input.starts_with("hold") {
                    gate.acquire().await.unwrap().forget();
                } else if input.starts_with("brief") {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                Ok::<_, AgentError>(())
            }
        };
        let running = Running::start(&mut owner, Agent::new("reader", handler).unwrap().slots(1)).await;
        Self { owner, running, began, hold, token: 0 }
    }

    async fn offer(&mut self, inputs: &[&str]) -> Vec<Token> {
        let tokens: Vec<u128> = (1..=inputs.len() as u128).map(|n| self.token + n).collect();
        self.token += inputs.len() as u128;
        let offers = tokens.iter().zip(inputs).map(|(n, input)| offer(&format!("t{n}"), *n, input)).collect();
        let message = codec::pack(&Offers { v: 1, epoch: 1, offers });
        let subject = subjects::offer(&agent(), &self.running.instance);
        self.owner.nats.publish(subject, message).await.unwrap();
        tokens.into_iter().map(Token).collect()
    }

    async fn ends(&mut self, token: Token) {
        assert_eq!(self.owner.report().await.token, token);
        self.owner.decided(&self.running.instance, token, 1).await;
    }

    /// Short ones, until it asks for tasks ahead.
    async fn until_ahead(&mut self) {
        for _ in 0..70 {
            let token = self.offer(&["short"]).await[0];
            assert_eq!(self.owner.accept().await.taken, [token]);
            self.ends(token).await;
        }
        self.owner.beat_where(|beat| beat.ahead > 0).await;
    }

    fn has_begun(&self, input: &str) -> bool {
        self.began.lock().unwrap().contains(input)
    }
}

#[tokio::test]
async fn what_waits_for_a_slot_in_vain_is_declined_without_having_been_accepted() {
    let mut desk = Desk::start().await;
    desk.until_ahead().await;
    let [first, second] = desk.offer(&["hold", "second"]).await[..] else { unreachable!() };
    let accept = desk.owner.accept().await;
    assert_eq!((accept.taken, accept.busy), (vec![first], vec![]));
    let accept = desk.owner.accept().await;
    assert_eq!((accept.taken, accept.busy), (vec![], vec![second]));
    desk.owner.beat_where(|beat| beat.ahead == 0 && beat.tokens == [first]).await;
    desk.hold.add_permits(1);
    desk.ends(first).await;
    assert!(!desk.has_begun("second"));
    desk.running.stop().await;
}

#[tokio::test]
async fn what_waits_is_accepted_when_a_handler_ends() {
    let mut desk = Desk::start().await;
    loop {
        desk.until_ahead().await;
        let [first, second] = desk.offer(&["brief", "second"]).await[..] else { unreachable!() };
        assert_eq!(desk.owner.accept().await.taken, [first]);
        let accept = desk.owner.accept().await;
        desk.ends(first).await;
        // On a machine that is busy elsewhere brief is not brief.
        if accept.busy != [second] {
            assert_eq!(accept.taken, [second]);
            desk.ends(second).await;
            break;
        }
    }
    desk.running.stop().await;
}

#[tokio::test]
async fn what_is_stopped_while_it_waits_never_begins() {
    let mut desk = Desk::start().await;
    desk.until_ahead().await;
    let [first, second] = desk.offer(&["hold", "second"]).await[..] else { unreachable!() };
    assert_eq!(desk.owner.accept().await.taken, [first]);
    let op = CtlOp::Stop { token: second, code: Code::Paused };
    desk.owner.ctl(&desk.running.instance, op).await;
    assert_eq!(desk.owner.accept().await.busy, [second]);
    desk.hold.add_permits(1);
    desk.ends(first).await;
    let third = desk.offer(&["third"]).await[0];
    assert_eq!(desk.owner.accept().await.taken, [third]);
    desk.ends(third).await;
    assert!(desk.has_begun("third") && !desk.has_begun("second"));
    desk.running.stop().await;
}
