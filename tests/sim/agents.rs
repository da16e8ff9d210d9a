//! Agents: instances with slots that follow the protocol, run scripted handlers, and die, freeze,
//! drain, ignore stops and contradict themselves.

mod hears;
mod works;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use selvedge::{
    flow::input::Input,
    task::{AgentName, InstanceId, TaskId, TaskKey, Token},
    wire::{
        calls::HeldCall,
        messages::{Beat, Report},
    },
};

use crate::{
    behaviour::{Behaviour, Op},
    rng::Rng,
    scenario::{Fault, Seen},
    talk::Places,
    world::{Event, World},
};

/// Where an instance of an agent runs; a new process of it gets a new id.
pub struct Place {
    pub agent: AgentName,
    pub slots: u32,
    lease_ms: u64,
    now: Option<InstanceId>,
    started: u32,
}

pub struct Run {
    pub key: TaskKey,
    pub root: TaskId,
    attempt: u32,
    tries: u32,
    pub ops: VecDeque<Op>,
    pub places: Places,
    behaviour: Behaviour,
    n: u32,
    unanswered: BTreeMap<u32, Report>,
    /// Goes on when this report is answered.
    pub blocked_on: Option<u32>,
    /// The report of a step whose result is an object.
    pub keeps: Option<u32>,
    ended: bool,
}

impl Run {
    /// This report is decided.
    pub fn answered(&mut self, n: u32) {
        self.unanswered.remove(&n);
    }
}

pub struct Instance {
    pub place: usize,
    pub epoch: u64,
    paused_until: u64,
    pub draining: bool,
    next_beat: u64,
    pub runs: BTreeMap<Token, Run>,
    /// Calls it runs.
    pub calls: BTreeMap<Token, HeldCall>,
    /// Answered ends and obeyed stops.
    pub over: BTreeSet<Token>,
}

pub struct Agents {
    pub places: Vec<Place>,
    pub instances: BTreeMap<InstanceId, Instance>,
}

impl Instance {
    /// Slots that are taken.
    pub fn working(&self) -> usize {
        self.runs.values().filter(|run| !run.ended).count() + self.calls.len()
    }
}

impl Agents {
    pub fn new(rng: &mut Rng) -> Self {
        let kinds = ["planner", "planner", "reader", "reader", "reader"];
        let places = kinds.iter().map(|kind| Place {
            agent: AgentName::new(kind).unwrap(),
            slots: rng.between(1, 4) as u32,
            lease_ms: *rng.pick(&[2_000, 6_000, 15_000]),
            now: None,
            started: 0,
        });
        Self { places: places.collect(), instances: BTreeMap::new() }
    }

    pub fn places(&self) -> usize {
        self.places.len()
    }

    pub fn running(&self) -> usize {
        self.instances.values().map(|i| i.runs.len() + i.calls.len()).sum()
    }
}

impl World {
    pub fn agent_starts(&mut self, place: usize) {
        let at = &mut self.agents.places[place];
        at.started += 1;
        let id = InstanceId::new(format!("i{place}-{}", at.started)).unwrap();
        at.now = Some(id.clone());
        let instance = Instance {
            place,
            epoch: 0,
            paused_until: 0,
            draining: false,
            next_beat: self.now,
            runs: BTreeMap::new(),
            calls: BTreeMap::new(),
            over: BTreeSet::new(),
        };
        self.agents.instances.insert(id.clone(), instance);
        self.after(0, Event::AgentBeats(id.clone()));
        self.after(2_000, Event::AgentRepeats(id));
        self.after(3_000, Event::AgentTrouble(place));
    }

    /// How long the instance sleeps on, if it does; `None` if it is gone.
    pub fn asleep(&self, id: &InstanceId) -> Option<u64> {
        self.agents.instances.get(id).map(|i| i.paused_until.saturating_sub(self.now))
    }

    pub fn agent_trouble(&mut self, place: usize) {
        let Some(id) = self.agents.places[place].now.clone() else { return };
        let parents_wait = self.scenario.cap.is_some()
            && self.scenario.has(Fault::AgentCrash)
            && !self.healing
            && self.rng.per_mille(200)
            && self.audit.tasks.values().any(|k| matches!(k.place, crate::audit::Place::Awaiting(_)));
        if parents_wait {
            self.seen.count(Seen::Injected(Fault::AgentCrash));
        }
        if parents_wait || self.strikes(Fault::AgentCrash) {
            return self.agent_dies(&id);
        }
        if self.strikes(Fault::AgentPaused) {
            let pause = self.rng.between(500, 40_000);
            let now = self.now;
            if let Some(instance) = self.agents.instances.get_mut(&id) {
                instance.paused_until = now + pause;
            }
        } else if self.strikes(Fault::AgentDrains)
            && let Some(instance) = self.agents.instances.get_mut(&id)
        {
            instance.draining = true;
        }
        self.after(3_000, Event::AgentTrouble(place));
    }

    fn agent_dies(&mut self, id: &InstanceId) {
        let Some(instance) = self.agents.instances.remove(id) else { return };
        self.agents.places[instance.place].now = None;
        let delay = self.rng.between(100, 5_000);
        self.after(delay, Event::AgentStarts(instance.place));
    }

    /// Slots that an instance at this place keeps for calls.
    fn call_slots(&self, place: usize) -> u32 {
        let keeps = place == 1 || place == 3;
        let both = self.scenario.has(Fault::Calling) && self.scenario.has(Fault::Announcing);
        u32::from(keeps && both && self.agents.places[place].slots > 1)
    }

    pub fn hello(&mut self) {
        let ids: Vec<InstanceId> = self.agents.instances.keys().cloned().collect();
        for id in ids {
            let jitter = self.rng.below(200);
            self.after(1 + jitter, Event::AgentBeats(id));
        }
    }

    pub fn agent_beats(&mut self, id: &InstanceId) {
        match self.asleep(id) {
            None => return,
            Some(0) => {}
            Some(more) => {
                // A frozen process does not catch up on missed beats: one is enough.
                let now = self.now;
                if let Some(instance) = self.agents.instances.get_mut(id)
                    && instance.next_beat <= now
                {
                    instance.next_beat = now + more;
                    self.after(more, Event::AgentBeats(id.clone()));
                }
                return;
            }
        }
        let now = self.now;
        let Some(instance) = self.agents.instances.get_mut(id) else { return };
        let place = &self.agents.places[instance.place];
        let (agent, lease_ms, at) = (place.agent.clone(), place.lease_ms, instance.place);
        let leaves = instance.draining && instance.runs.is_empty() && instance.calls.is_empty();
        let (slots, tokens) = (place.slots, instance.runs.keys().copied().collect());
        let calls = (at != 4).then(|| instance.calls.values().cloned().collect());
        let draining = instance.draining;
        let about = self.about(id);
        let call_slots = self.call_slots(at);
        let body = Beat {
            v: 1,
            slots: if leaves { 0 } else { slots },
            tokens,
            lease_ms,
            draining,
            // Some know nothing of messages.
            messages: at % 2 == 0,
            // One of them takes no calls.
            calls,
            ahead: 0,
            about,
            call_slots: if leaves { 0 } else { call_slots },
        };
        let Some(instance) = self.agents.instances.get_mut(id) else { return };
        if instance.next_beat <= now {
            instance.next_beat = now + lease_ms / 3;
            self.after(lease_ms / 3, Event::AgentBeats(id.clone()));
        }
        let reply = self.rng.per_mille(700);
        let input = Input::Beat { agent, instance: id.clone(), body };
        self.core(Fault::BeatLost, Event::ToCoordinators { input, reply });
        if leaves {
            self.agents.instances.remove(id);
            self.agents.places[at].now = None;
            self.after(1_000, Event::AgentStarts(at));
        }
    }
}
