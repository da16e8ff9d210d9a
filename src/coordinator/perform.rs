//! Effects become messages. Called by the owner's loop, after the PubAck, never before.

use std::collections::HashMap;

use bytes::Bytes;

use super::{intake::Handle, owner::Probe};
use crate::{
    bus::link::{BusError, Lane},
    flow::{engine::Effect, input::Tell},
    task::{AgentName, InstanceId},
    wire::{
        VERSION,
        codec::Format,
        messages::{BeatReply, Ctl, OwnerHello},
        subjects::{self, Shard},
    },
};

/// Instances whose encoding is remembered; beyond it the memory starts anew.
const MAX_FORMATS: usize = 100_000;

/// Sends what an owner has to say.
pub struct Performer {
    lane: Lane,
    shard: Shard,
    /// Instances that speak JSON are told in JSON.
    json: HashMap<(AgentName, InstanceId), ()>,
    probe: Probe,
}

impl Performer {
    /// Sends over `lane`.
    pub fn new(lane: Lane, shard: Shard, probe: Probe) -> Self {
        Self { lane, shard, json: HashMap::new(), probe }
    }

    /// An instance was heard in this encoding.
    pub fn heard_in(&mut self, agent: &AgentName, instance: &InstanceId, format: Format) {
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

    /// Performs effects in order.
    pub async fn perform(&self, epoch: u64, effects: Vec<Effect<Handle>>) -> Result<(), BusError> {
        for effect in effects {
            (self.probe)(kind(&effect));
            match effect {
                Effect::Ack(Handle::Ack(ack)) => ack.ack().await,
                Effect::Ack(Handle::Beat(..)) => {}
                Effect::Beat(Handle::Beat(reply, format), stop) => {
                    let body = format.encode(&BeatReply { v: VERSION, epoch, stop });
                    self.lane.tell(reply, body).await?;
                }
                Effect::Beat(Handle::Ack(ack), _) => ack.ack().await,
                // Taken out by `shrink`.
                Effect::Load { .. }
                | Effect::Ack(Handle::Counted(_))
                | Effect::Beat(Handle::Counted(_), _) => {}
                Effect::Tell(tell) => {
                    let (subject, body) = self.message(epoch, tell);
                    self.lane.tell(subject, body).await?;
                }
            }
        }
        Ok(())
    }

    fn message(&self, epoch: u64, tell: Tell) -> (String, Bytes) {
        match tell {
            Tell::Offer { agent, instance, offer } => {
                let body = self.format_of(&agent, &instance).encode(&*offer);
                (subjects::offer(&agent, &instance), body)
            }
            Tell::Ctl { agent, instance, op } => {
                let body = self.format_of(&agent, &instance).encode(&Ctl { v: VERSION, epoch, op });
                (subjects::ctl(&agent, &instance), body)
            }
            // Hints are for whoever listens; JSON is read by all.
            Tell::Done { key, done } => (subjects::done(&key.tenant, &key.id), Format::Json.encode(&*done)),
        }
    }
}

fn kind(effect: &Effect<Handle>) -> &'static str {
    match effect {
        Effect::Ack(_) => "ack",
        Effect::Beat(..) => "beat",
        Effect::Load { .. } => "load",
        Effect::Tell(Tell::Offer { .. }) => "offer",
        Effect::Tell(Tell::Ctl { .. }) => "ctl",
        Effect::Tell(Tell::Done { .. }) => "done",
    }
}
