//! Effects become messages. Called by the owner's loop, after the PubAck, never before.
//!
//! What one instance is told after one journal message goes out together: its offers in one message, its
//! verdicts and stops in another, more of them only when one would be too large. Acknowledgements go last: until
//! everything else has left, the inputs come again.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{intake::Handle, owner::Probe};
use crate::{
    bus::link::{BusError, Lane},
    flow::{calls::ReplyTo, engine::Effect, input::Tell},
    task::{AgentName, InstanceId, MAX_PAYLOAD_BYTES, Refusal, TaskKey},
    wire::{
        VERSION,
        calls::{CallPart, PartOp},
        codec::Format,
        messages::{BeatReply, Ctl, CtlOp, Offer, Offers, OwnerHello},
        subjects::{self, Shard},
    },
};

/// Instances whose encoding is remembered; beyond it the memory starts anew.
const MAX_FORMATS: usize = 100_000;
/// Inputs in one message of offers, in bytes; one offer may have more.
const OFFERED_BYTES: usize = MAX_PAYLOAD_BYTES;

/// Sends what an owner has to say.
pub struct Performer {
    lane: Lane,
    shard: Shard,
    /// Instances that speak JSON are told in JSON.
    json: HashMap<(AgentName, InstanceId), ()>,
    /// Tasks that are over, and what is kept of their steps may go.
    over: mpsc::Sender<TaskKey>,
    probe: Probe,
}

/// What one instance is told.
struct Post {
    agent: AgentName,
    instance: InstanceId,
    /// Message by message.
    offers: Vec<Vec<Offer>>,
    /// Of the inputs in the last of them.
    bytes: usize,
    ops: Vec<CtlOp>,
}

impl Post {
    fn offer(&mut self, offer: Offer) {
        let bytes = offer.input.len();
        match self.offers.last_mut() {
            Some(offers) if self.bytes + bytes <= OFFERED_BYTES => {
                self.bytes += bytes;
                offers.push(offer);
            }
            _ => {
                self.bytes = bytes;
                self.offers.push(vec![offer]);
            }
        }
    }
}

/// Everything that is told after one journal message, by instance.
#[derive(Default)]
struct Outbox {
    /// In the order in which instances are first spoken of.
    posts: Vec<Post>,
    at: HashMap<(AgentName, InstanceId), usize>,
    /// The instance spoken of last: mostly the next one too.
    last: usize,
}

impl Outbox {
    fn post(&mut self, agent: AgentName, instance: InstanceId) -> &mut Post {
        let same = |post: &Post| post.instance == instance && post.agent == agent;
        if !self.posts.get(self.last).is_some_and(same) {
            let next = self.posts.len();
            self.last = *self.at.entry((agent.clone(), instance.clone())).or_insert(next);
            if self.last == next {
                self.posts.push(Post { agent, instance, offers: Vec::new(), bytes: 0, ops: Vec::new() });
            }
        }
        &mut self.posts[self.last]
    }
}

/// A message that can be cut in two.
trait Halves: Serialize + Sized {
    /// Takes the second half out; `None` if there is nothing to cut.
    fn halve(&mut self) -> Option<Self>;
}

impl Halves for Offers {
    fn halve(&mut self) -> Option<Self> {
        let rest = second_half(&mut self.offers)?;
        Some(Self { v: self.v, epoch: self.epoch, offers: rest })
    }
}

impl Halves for Ctl {
    fn halve(&mut self) -> Option<Self> {
        let rest = second_half(&mut self.ops)?;
        Some(Self { v: self.v, epoch: self.epoch, ops: rest })
    }
}

fn second_half<T>(list: &mut Vec<T>) -> Option<Vec<T>> {
    (list.len() > 1).then(|| list.split_off(list.len() / 2))
}

/// Tells a caller that there is no answer. The headers are for whoever has no decoder at hand.
pub async fn refuse_call(lane: &Lane, to: ReplyTo, refusal: Refusal) -> Result<(), BusError> {
    let (status, text) = (refusal.code.status(), refusal.to_string());
    let part = CallPart { v: VERSION, n: 0, op: PartOp::Failed(refusal) };
    lane.tell_error(to.subject, status, &text, to.format.encode(&part)).await
}

impl Performer {
    /// Sends over `lane`.
    pub fn new(lane: Lane, shard: Shard, over: mpsc::Sender<TaskKey>, probe: Probe) -> Self {
        Self { lane, shard, json: HashMap::new(), over, probe }
    }

    /// An instance was heard in this encoding.
    pub fn heard_in(&mut self, agent: &AgentName, instance: &InstanceId, format: Format) {
        if format == Format::MsgPack && self.json.is_empty() {
            return;
        }
        let key = (agent.clone(), instance.clone());
        match format {
            Format::Json => {
                if self.json.len() >= MAX_FORMATS {
                    self.json.clear();
                }
                self.json.insert(key, ());
            }
            Format::MsgPack => {
                self.json.remove(&key);
            }
        }
    }

    fn format_of(&self, agent: &AgentName, instance: &InstanceId) -> Format {
        if !self.json.is_empty() && self.json.contains_key(&(agent.clone(), instance.clone())) {
            return Format::Json;
        }
        Format::MsgPack
    }

    /// Announces the epoch: instances heartbeat at once.
    pub async fn hello(&self, epoch: u64, coordinator: &str) -> Result<(), BusError> {
        let hello = OwnerHello { v: VERSION, epoch, coordinator: coordinator.to_owned() };
        // Everybody can read JSON, and it is one small message.
        self.lane.tell(subjects::owner(self.shard), Format::Json.encode(&hello)).await
    }

    /// Performs the effects of one journal message.
    pub async fn perform(&self, epoch: u64, effects: Vec<Effect<Handle>>) -> Result<(), BusError> {
        let mut outbox = Outbox::default();
        let (mut beats, mut hints, mut acks) = (Vec::new(), Vec::new(), Vec::new());
        let mut calls = Vec::new();
        for effect in effects {
            match effect {
                Effect::Tell(Tell::Offer { agent, instance, offer }) => {
                    outbox.post(agent, instance).offer(*offer);
                }
                Effect::Tell(Tell::Ctl { agent, instance, op }) => outbox.post(agent, instance).ops.push(op),
                Effect::Tell(call @ (Tell::Call { .. } | Tell::CallFailed { .. })) => calls.push(call),
                Effect::Tell(Tell::Done { key, done }) => hints.push((key, done)),
                Effect::Beat(Handle::Beat(reply, format), stop) => beats.push((reply, format, stop)),
                Effect::Ack(Handle::Beat(..)) => {}
                Effect::Beat(Handle::Ack(ack), _) | Effect::Ack(Handle::Ack(ack)) => acks.push(ack),
                Effect::DropKept { key } => {
                    (self.probe)("kept");
                    // What there is no room for is found by the next sweep.
                    let _ = self.over.try_send(key);
                }
                Effect::Fired(Handle::Fired(trigger), fired) => {
                    // One that is gone is told when its message comes again.
                    let _ = trigger.send(fired);
                }
                // The first two: nobody asked that way. The others are taken out by `shrink`.
                Effect::Fired(..)
                | Effect::Ack(Handle::Fired(_))
                | Effect::Beat(Handle::Fired(_), _)
                | Effect::Load { .. }
                | Effect::Ack(Handle::Counted(_))
                | Effect::Beat(Handle::Counted(_), _) => {}
            }
        }
        // Somebody waits for these.
        for call in calls {
            self.call(epoch, call).await?;
        }
        for post in outbox.posts {
            self.deliver(epoch, post).await?;
        }
        for (reply, format, stop) in beats {
            (self.probe)("beat");
            self.lane.tell(reply, format.encode(&BeatReply { v: VERSION, epoch, stop })).await?;
        }
        for (key, done) in hints {
            (self.probe)("done");
            // Hints are for whoever listens; JSON is read by all.
            self.lane.tell(subjects::done(&key.tenant, &key.id), Format::Json.encode(&*done)).await?;
        }
        for ack in acks {
            (self.probe)("ack");
            ack.ack().await;
        }
        Ok(())
    }

    /// A call is told alone, to be replied to the caller: an instance answers only whom it was told to.
    async fn call(&self, epoch: u64, call: Tell) -> Result<(), BusError> {
        match call {
            Tell::Call { agent, instance, call, to } => {
                let ctl = Ctl { v: VERSION, epoch, ops: vec![CtlOp::Call(call)] };
                let body = self.format_of(&agent, &instance).encode(&ctl);
                (self.probe)("call");
                self.lane.tell_answerable(subjects::ctl(&agent, &instance), &to, body).await
            }
            Tell::CallFailed { to, refusal } => refuse_call(&self.lane, to, refusal).await,
            Tell::Offer { .. } | Tell::Ctl { .. } | Tell::Done { .. } => Ok(()),
        }
    }

    async fn deliver(&self, epoch: u64, post: Post) -> Result<(), BusError> {
        let format = self.format_of(&post.agent, &post.instance);
        let mut bodies = Vec::new();
        for offers in post.offers {
            self.encode(format, Offers { v: VERSION, epoch, offers }, &mut bodies);
        }
        for body in bodies.drain(..) {
            (self.probe)("offer");
            self.lane.tell(subjects::offer(&post.agent, &post.instance), body).await?;
        }
        if !post.ops.is_empty() {
            self.encode(format, Ctl { v: VERSION, epoch, ops: post.ops }, &mut bodies);
        }
        for body in bodies {
            (self.probe)("ctl");
            self.lane.tell(subjects::ctl(&post.agent, &post.instance), body).await?;
        }
        Ok(())
    }

    /// As few messages as the server takes, in order.
    fn encode<M: Halves>(&self, format: Format, mut message: M, bodies: &mut Vec<Bytes>) {
        let body = format.encode(&message);
        if body.len() > self.lane.max_payload()
            && let Some(rest) = message.halve()
        {
            self.encode(format, message, bodies);
            self.encode(format, rest, bodies);
        } else {
            bodies.push(body);
        }
    }
}
