//! What a trigger has under way: asked of the owner, in the order of the stream, and settled from the front.

use std::{collections::VecDeque, future::pending};

use tokio::sync::{mpsc, oneshot};

use crate::{
    bus::consume::Ack,
    coordinator::intake::{Handle, Inbound},
    flow::{input::Input, trigger::Fired},
    task::{Refusal, Spec, TaskKey},
};

/// A task to ask the owner for.
pub(super) struct Ask {
    pub key: TaskKey,
    pub spec: Spec,
    pub hops: u32,
}

/// A message, or a batch, until it is settled.
pub(super) struct Item {
    /// Each with its place in the stream, in that order.
    pub acks: Vec<(u64, Ack)>,
    /// Where its last message was published.
    pub subject: String,
    /// How many of its messages count.
    pub messages: u64,
    fate: Fate,
    ask: Option<Ask>,
}

enum Fate {
    Asked(oneshot::Receiver<Fired>),
    Later,
    Settled(Settled),
}

/// What became of an item.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Settled {
    Made,
    Known,
    Passed,
    Dead(Refusal),
}

/// The owner's loop is gone.
#[derive(Debug)]
pub(super) struct OwnerGone;

impl Item {
    /// One to ask for.
    pub fn to_ask(acks: Vec<(u64, Ack)>, subject: String, messages: u64, ask: Ask) -> Self {
        Self { acks, subject, messages, fate: Fate::Later, ask: Some(ask) }
    }

    /// One that needs no asking.
    pub fn settled(seq: u64, ack: Ack, subject: String, settled: Settled) -> Self {
        Self { acks: vec![(seq, ack)], subject, messages: 1, fate: Fate::Settled(settled), ask: None }
    }

    /// Its last place in the stream.
    pub fn last(&self) -> u64 {
        self.acks.last().map_or(0, |(seq, _)| *seq)
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Window {
    items: VecDeque<Item>,
    /// Why the last one that was told to wait has to.
    why: Option<Refusal>,
}

impl Window {
    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes one in, behind the others; asks for it unless it is settled, or `hold` says that others are waited for.
    pub async fn push(
        &mut self,
        mut item: Item,
        hold: bool,
        inputs: &mpsc::Sender<Inbound>,
    ) -> Result<(), OwnerGone> {
        if !hold {
            ask(&mut item, inputs).await?;
        }
        self.items.push_back(item);
        Ok(())
    }

    /// Waits until something is known of the first that was asked for; for ever if nothing was.
    pub async fn ready(&mut self) -> Result<(), OwnerGone> {
        let Some(item) = self.items.front_mut() else { return pending().await };
        match &mut item.fate {
            Fate::Settled(_) => Ok(()),
            Fate::Later => pending().await,
            Fate::Asked(told) => {
                let fired = told.await.map_err(|_| OwnerGone)?;
                self.why = hear(item, fired);
                Ok(())
            }
        }
    }

    /// Takes out what is settled, from the front. Says why the first of the rest has to wait, if it has.
    pub fn settle(&mut self) -> (Vec<(Item, Settled)>, Option<Refusal>) {
        let (mut out, mut refusal) = (Vec::new(), self.why.take());
        for item in &mut self.items {
            if let Fate::Asked(told) = &mut item.fate {
                let Ok(fired) = told.try_recv() else { break };
                if let Some(why) = hear(item, fired) {
                    refusal.get_or_insert(why);
                }
            }
        }
        while let Some(item) = self.items.pop_front() {
            match item.fate {
                Fate::Settled(ref settled) => {
                    let settled = settled.clone();
                    out.push((item, settled));
                }
                _ => {
                    self.items.push_front(item);
                    break;
                }
            }
        }
        (out, refusal)
    }

    /// Whether the first waits for being asked for again.
    pub fn is_held(&self) -> bool {
        self.items.front().is_some_and(|item| matches!(item.fate, Fate::Later))
    }

    /// Asks again for the first that waits for it, or for all.
    pub async fn ask_again(&mut self, all: bool, inputs: &mpsc::Sender<Inbound>) -> Result<(), OwnerGone> {
        let later = self.items.iter_mut().filter(|item| matches!(item.fate, Fate::Later));
        for item in later.take(if all { usize::MAX } else { 1 }) {
            ask(item, inputs).await?;
        }
        Ok(())
    }

    /// A message that is under way has come again: from now on this acknowledges it. Gives it back if it is not here.
    pub fn replace(&mut self, seq: u64, ack: Ack) -> Option<Ack> {
        let mut acks = self.items.iter_mut().flat_map(|item| &mut item.acks);
        match acks.find(|(known, _)| *known == seq) {
            Some((_, known)) => {
                *known = ack;
                None
            }
            None => Some(ack),
        }
    }
}

async fn ask(item: &mut Item, inputs: &mpsc::Sender<Inbound>) -> Result<(), OwnerGone> {
    let Some(Ask { key, spec, hops }) = &item.ask else { return Ok(()) };
    let (tell, told) = oneshot::channel();
    let input = Input::Triggered { key: key.clone(), spec: Box::new(spec.clone()), hops: *hops };
    inputs.send(Inbound::of(input, Some(Handle::Fired(tell)))).await.map_err(|_| OwnerGone)?;
    item.fate = Fate::Asked(told);
    Ok(())
}

/// Why it has to wait, if it has.
fn hear(item: &mut Item, fired: Fired) -> Option<Refusal> {
    let (fate, refusal) = match fired {
        Fired::Made => (Fate::Settled(Settled::Made), None),
        Fired::Known => (Fate::Settled(Settled::Known), None),
        Fired::Refused(refusal) => (Fate::Settled(Settled::Dead(refusal)), None),
        Fired::Later(refusal) => (Fate::Later, Some(refusal)),
    };
    item.fate = fate;
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Code, Payload, Priority};

    fn item(seq: u64) -> Item {
        let spec = Spec {
            agent: "reader".parse().unwrap(),
            input: Payload::default(),
            priority: Priority::Normal,
            max_tries: None,
            times: None,
            cost: None,
            labels: None,
        };
        let key = TaskKey { tenant: "acme".parse().unwrap(), id: format!("t-{seq}").parse().unwrap() };
        Item::to_ask(vec![(seq, Ack::none())], "x".into(), 1, Ask { key, spec, hops: 1 })
    }

    async fn answer(inputs: &mut mpsc::Receiver<Inbound>, fired: Fired) {
        let Some(Inbound { handle: Some(Handle::Fired(tell)), .. }) = inputs.recv().await else {
            panic!("asked")
        };
        tell.send(fired).unwrap();
    }

    #[tokio::test]
    async fn what_is_settled_leaves_from_the_front_and_what_waits_holds_the_rest() {
        let (inputs, mut asked) = mpsc::channel(8);
        let mut window = Window::default();
        for seq in 1..=3 {
            window.push(item(seq), false, &inputs).await.unwrap();
        }
        window
            .push(Item::settled(4, Ack::none(), "x".into(), Settled::Passed), false, &inputs)
            .await
            .unwrap();
        let full = Refusal::new(Code::BacklogFull, "full");
        answer(&mut asked, Fired::Made).await;
        answer(&mut asked, Fired::Later(full.clone())).await;
        answer(&mut asked, Fired::Made).await;
        window.ready().await.unwrap();
        let (settled, why) = window.settle();
        assert_eq!(settled.iter().map(|(item, _)| item.last()).collect::<Vec<_>>(), [1]);
        assert_eq!((window.len(), window.is_held(), why), (3, true, Some(full.clone())));
        window.ask_again(false, &inputs).await.unwrap();
        answer(&mut asked, Fired::Later(full.clone())).await;
        window.ready().await.unwrap();
        assert_eq!((window.settle().1, window.len()), (Some(full), 3));
        window.ask_again(true, &inputs).await.unwrap();
        answer(&mut asked, Fired::Known).await;
        window.ready().await.unwrap();
        let (settled, _) = window.settle();
        let fates: Vec<_> = settled.into_iter().map(|(_, settled)| settled).collect();
        assert_eq!(fates, [Settled::Known, Settled::Made, Settled::Passed]);
        assert!(window.is_empty());
    }

    #[tokio::test]
    async fn an_owner_that_is_gone_is_noticed() {
        let (inputs, mut asked) = mpsc::channel(8);
        let mut window = Window::default();
        window.push(item(1), false, &inputs).await.unwrap();
        drop(asked.recv().await);
        assert!(window.ready().await.is_err());
        drop(asked);
        assert!(window.push(item(2), false, &inputs).await.is_err());
    }
}
