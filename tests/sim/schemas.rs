//! Schemas that instances announce: who has said what to which coordinator, told a second time, and what must come of it.
//!
//! What is announced is volatile, so a judgement is of what the deciding coordinator had heard at its turn. What was heard in
//! that very turn may count or not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use selvedge::{
    flow::{
        announced::{Announced, Takes},
        input::Input,
    },
    task::{AgentName, InstanceId, Payload},
    wire::{about::About, messages::Beat},
};

use crate::{behaviour::Behaviour, scenario::Fault, world::World};

/// Which schema a process announces; 0: it announces itself, and no schema.
pub fn version_of(instance: &InstanceId) -> u64 {
    instance.as_str().bytes().fold(0, |sum, byte| (sum * 31 + u64::from(byte)) % 997) % 5
}

/// Whether an input of this seed fits. All schemas refuse some inputs together, and each some of its own.
pub fn fits(version: u64, seed: u64) -> bool {
    let kind = seed % 8;
    kind != 0 && (version != 2 || kind != 1) && (version != 3 || kind != 2)
}

struct Schema(u64);

impl Takes for Schema {
    fn misfit(&self, input: &Payload) -> Option<String> {
        (!fits(self.0, Behaviour::read(input).seed)).then(|| format!("schema {} does not take it", self.0))
    }
}

fn compiled(version: u64) -> Arc<Announced> {
    let about = About { version: Some(version.to_string()), ..About::default() };
    let takes = (version > 0).then(|| Arc::new(Schema(version)) as Arc<dyn Takes>);
    Arc::new(Announced { about, digest: [version as u8; 16], takes, error: None })
}

/// Instances whose announcement a coordinator has heard since it owns the shard; not certain: it may have forgotten it since.
pub type Heard = BTreeMap<InstanceId, bool>;

/// What a coordinator knew when it decided: schemas by agent.
#[derive(Debug, Default)]
pub struct Said {
    certain: BTreeMap<AgentName, BTreeSet<u64>>,
    perhaps: BTreeMap<AgentName, BTreeSet<u64>>,
}

/// What must become of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    Taken,
    Refused,
    Either,
}

impl Said {
    pub fn judge(&self, agent: &AgentName, seed: u64) -> Judged {
        let of = |said: &BTreeMap<AgentName, BTreeSet<u64>>| said.get(agent).cloned().unwrap_or_default();
        let (certain, perhaps) = (of(&self.certain), of(&self.perhaps));
        let any = |schemas: &BTreeSet<u64>| schemas.iter().any(|schema| fits(*schema, seed));
        let all = |schemas: &BTreeSet<u64>| schemas.iter().all(|schema| fits(*schema, seed));
        match () {
            () if any(&certain) || (certain.is_empty() && all(&perhaps)) => Judged::Taken,
            () if !certain.is_empty() && !any(&perhaps) => Judged::Refused,
            () => Judged::Either,
        }
    }

    fn add(&mut self, agent: &AgentName, instance: &InstanceId, certain: bool) {
        let side = if certain { &mut self.certain } else { &mut self.perhaps };
        let version = version_of(instance);
        if version > 0 {
            side.entry(agent.clone()).or_default().insert(version);
        }
    }
}

impl World {
    /// What an instance says about itself, in some of its heartbeats.
    pub fn about(&mut self, instance: &InstanceId) -> Option<Box<About>> {
        if !self.scenario.has(Fault::Announcing) || self.scenario.cap.is_some() {
            return None;
        }
        let version = Some(version_of(instance).to_string());
        self.saying.per_mille(500).then(|| Box::new(About { version, ..About::default() }))
    }

    /// A heartbeat reaches a coordinator. Returns what is to be looked at behind it.
    pub fn hears(
        &mut self,
        who: usize,
        agent: &AgentName,
        id: &InstanceId,
        beat: &mut Beat,
    ) -> Option<Input> {
        let heard = &mut self.coordinators[who].heard;
        if beat.slots == 0
            && let Some(certain) = heard.get_mut(id)
        {
            *certain = false;
        }
        beat.about.take()?;
        heard.insert(id.clone(), beat.slots > 0);
        let announced = compiled(version_of(id));
        Some(Input::Announced { agent: agent.clone(), instance: id.clone(), announced })
    }

    /// Whom a coordinator knows, and what those have told it.
    pub fn known_now(&self, who: usize) -> BTreeMap<InstanceId, AgentName> {
        let engine = self.coordinators[who].engine.as_ref();
        let known = engine.into_iter().flat_map(|engine| engine.live().instances());
        known.map(|(agent, view)| (view.instance, agent.clone())).collect()
    }

    /// After a turn: what it was judged by. `before`: whom it knew at its beginning, and who of them had spoken by then.
    pub fn has_judged(&mut self, who: usize, before: &BTreeMap<InstanceId, AgentName>) {
        let after = self.known_now(who);
        let coordinator = &mut self.coordinators[who];
        let mut said = Said::default();
        for (id, agent) in before.iter().chain(after.iter().filter(|(id, _)| !before.contains_key(*id))) {
            let earlier = coordinator.heard_before.get(id).copied();
            let now = coordinator.heard.get(id).copied();
            let stays = before.contains_key(id) && after.contains_key(id);
            match (earlier, now) {
                (None, None) => {}
                _ => said.add(agent, id, stays && earlier == Some(true) && now == Some(true)),
            }
        }
        coordinator.heard.retain(|id, _| after.contains_key(id));
        coordinator.heard_before = coordinator.heard.clone();
        coordinator.said = Arc::new(said);
    }
}
