//! What was heard from instances: volatile, never replayed, never the ground of a promise.
//!
//! Time here is *hearing time*: it advances only while heartbeats could have been heard, so that an
//! outage, a suspended process or a take-over expires nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::{
    task::{AgentName, InstanceId, Millis, Token},
    wire::messages::Beat,
};

/// The longest piece of time one tick may count: a longer gap is time in which nothing was heard.
const MAX_TICK_MS: Millis = 1_000;
/// Ended leases remembered, so that a heartbeat sent before the end was known is no zombie's.
const RECENT: usize = 65_536;
/// An inherited lease lasts at least this long: what took the owner away may have cut off the instances too, and
/// they come back with up to four seconds of jitter.
const RETURN_MS: Millis = 6_000;
/// An offer is sent again this often until it is accepted.
const RESEND_MS: Millis = 1_000;

/// Instances remembered; beyond it unknown ones are not heard until silent ones are forgotten.
const MAX_INSTANCES: usize = 65_536;
/// Dead leases remembered per instance: no more slots than this are withheld from it.
const MAX_DEAD: usize = 4_096;

/// One process of an agent.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Attempts it runs at once.
    pub slots: u32,
    /// Lease length it asks for.
    pub lease_ms: Millis,
    heard: Millis,
    draining: bool,
    /// An offer to it was not answered; no more until it is heard again.
    suspected: bool,
    /// Leases we ended that it may still be working on; each occupies a slot.
    dead: BTreeSet<Token>,
}

#[derive(Debug, Clone)]
struct Held {
    agent: AgentName,
    instance: InstanceId,
    lease_ms: Millis,
    heard: Millis,
    sent: Millis,
    first_sent: Millis,
    accepted: bool,
    /// From before a take-over: may have been accepted; expires, is not withdrawn.
    inherited: bool,
}

/// Instances and leases as heard.
#[derive(Debug, Default)]
pub struct Live {
    hearing: Millis,
    listening: bool,
    agents: BTreeMap<AgentName, BTreeMap<InstanceId, Instance>>,
    held: HashMap<Token, Held>,
    expiry: BTreeSet<(Millis, Token)>,
    unaccepted: BTreeSet<(Millis, Token)>,
    recent: HashMap<Token, ()>,
    recent_order: VecDeque<Token>,
}

impl Live {
    /// Time passes; `could_hear` says whether heartbeats could have arrived in it.
    pub fn tick(&mut self, elapsed: Millis, could_hear: bool) {
        if could_hear && self.listening {
            self.hearing += elapsed.min(MAX_TICK_MS);
        }
    }

    /// From now on leases may expire: what was reported before the take-over has been read.
    pub fn listen(&mut self) {
        self.listening = true;
    }

    /// Whether [`Live::listen`] was called.
    pub fn is_listening(&self) -> bool {
        self.listening
    }

    /// A heartbeat. Returns the tokens it lists that are over.
    pub fn beat(
        &mut self,
        agent: &AgentName,
        id: &InstanceId,
        beat: &Beat,
        is_live: impl Fn(&Token) -> bool,
    ) -> Vec<Token> {
        let listed: BTreeSet<Token> = beat.tokens.iter().copied().collect();
        let mut over = Vec::new();
        for token in &listed {
            if is_live(token) {
                self.heard(*token, agent, id);
            } else if !self.recent.contains_key(token) {
                over.push(*token);
            }
        }
        if beat.slots == 0 && listed.is_empty() {
            self.forget_instance(agent, id);
            return over;
        }
        let known = self.instance_mut(agent, id).is_some();
        if !known && self.agents.values().map(BTreeMap::len).sum::<usize>() >= MAX_INSTANCES {
            return over;
        }
        let instance =
            self.agents.entry(agent.clone()).or_default().entry(id.clone()).or_insert_with(|| Instance {
                slots: 0,
                lease_ms: beat.lease_ms,
                heard: 0,
                draining: false,
                suspected: false,
                dead: BTreeSet::new(),
            });
        instance.slots = beat.slots.min(100_000);
        instance.lease_ms = beat.lease_ms.clamp(100, 24 * 3_600_000);
        instance.draining = beat.draining;
        instance.suspected = false;
        instance.heard = self.hearing;
        instance.dead.retain(|token| listed.contains(token));
        let room = MAX_DEAD.saturating_sub(instance.dead.len());
        instance.dead.extend(over.iter().take(room).copied());
        over
    }

    fn forget_instance(&mut self, agent: &AgentName, id: &InstanceId) {
        if let Some(instances) = self.agents.get_mut(agent) {
            instances.remove(id);
            if instances.is_empty() {
                self.agents.remove(agent);
            }
        }
    }

    /// The holder of a lease was heard.
    fn heard(&mut self, token: Token, agent: &AgentName, id: &InstanceId) {
        if let Some(held) = self.held.get_mut(&token)
            && held.agent == *agent
            && held.instance == *id
        {
            held.heard = self.hearing;
            if !held.accepted {
                held.accepted = true;
                self.unaccepted.remove(&(held.sent, token));
            }
        }
    }

    /// An acceptance, or any other sign that these leases are worked on.
    pub fn accepted(&mut self, agent: &AgentName, id: &InstanceId, tokens: &[Token]) {
        for token in tokens {
            self.heard(*token, agent, id);
        }
    }

    /// Whether this instance holds the lease.
    pub fn holds(&self, token: &Token, agent: &AgentName, id: &InstanceId) -> bool {
        self.held.get(token).is_some_and(|h| h.agent == *agent && h.instance == *id)
    }

    /// Whether the lease was accepted, or heard of since.
    pub fn is_accepted(&self, token: &Token) -> bool {
        self.held.get(token).is_some_and(|h| h.accepted)
    }

    /// A lease was granted, or inherited at a take-over.
    pub fn granted(
        &mut self,
        token: Token,
        agent: &AgentName,
        id: &InstanceId,
        lease_ms: Millis,
        inherited: bool,
    ) {
        // Whoever holds it may still be finding its way back.
        let heard = if inherited { self.hearing + RETURN_MS.saturating_sub(lease_ms) } else { self.hearing };
        let held = Held {
            agent: agent.clone(),
            instance: id.clone(),
            lease_ms,
            heard,
            sent: self.hearing,
            first_sent: self.hearing,
            accepted: false,
            inherited,
        };
        self.expiry.insert((heard + lease_ms, token));
        self.unaccepted.insert((held.sent, token));
        self.held.insert(token, held);
    }

    /// A lease is over. `by_itself`: ended by its own report, so its slot is free at once.
    pub fn ended(&mut self, token: Token, by_itself: bool) {
        let Some(held) = self.held.remove(&token) else { return };
        self.unaccepted.remove(&(held.sent, token));
        if by_itself {
            self.recent.insert(token, ());
            self.recent_order.push_back(token);
            if self.recent_order.len() > RECENT
                && let Some(old) = self.recent_order.pop_front()
            {
                self.recent.remove(&old);
            }
        } else if let Some(instance) = self.instance_mut(&held.agent, &held.instance) {
            instance.dead.insert(token);
        }
        // The entry in `expiry` goes when its time comes.
    }

    /// A dead lease's holder has let go of it.
    pub fn let_go(&mut self, agent: &AgentName, id: &InstanceId, token: Token) {
        if let Some(instance) = self.instance_mut(agent, id) {
            instance.dead.remove(&token);
        }
    }

    /// The instance did not answer an offer.
    pub fn suspect(&mut self, agent: &AgentName, id: &InstanceId) {
        if let Some(instance) = self.instance_mut(agent, id) {
            instance.suspected = true;
        }
    }

    fn instance_mut(&mut self, agent: &AgentName, id: &InstanceId) -> Option<&mut Instance> {
        self.agents.get_mut(agent)?.get_mut(id)
    }

    /// Leases not heard of for their length, at most `max`.
    pub fn expired(&mut self, max: usize) -> Vec<Token> {
        let mut out = Vec::new();
        while out.len() < max
            && let Some((due, token)) = self.expiry.first().copied()
            && due <= self.hearing
        {
            self.expiry.remove(&(due, token));
            let Some(held) = self.held.get(&token) else { continue };
            let really = held.heard + held.lease_ms;
            if really > self.hearing {
                self.expiry.insert((really, token));
            } else {
                // Asked about again unless the record of its loss removes it.
                self.expiry.insert((self.hearing + 1, token));
                out.push(token);
            }
        }
        out
    }

    /// Offers nobody accepted for `timeout`, whose instance has been heard of by this owner or not at all.
    pub fn unanswered(&self, timeout: Millis, max: usize) -> Vec<Token> {
        self.unaccepted
            .iter()
            .filter(|(_, token)| {
                self.held.get(token).is_some_and(|h| !h.inherited && h.first_sent + timeout <= self.hearing)
            })
            .map(|(_, token)| *token)
            .take(max)
            .collect()
    }

    /// Offers to send again now, at most `max`.
    pub fn resend(&mut self, max: usize) -> Vec<Token> {
        let due: Vec<(Millis, Token)> = self
            .unaccepted
            .iter()
            .take_while(|(sent, _)| sent + RESEND_MS <= self.hearing)
            .take(max)
            .copied()
            .collect();
        for (sent, token) in &due {
            self.unaccepted.remove(&(*sent, *token));
            self.unaccepted.insert((self.hearing, *token));
            if let Some(held) = self.held.get_mut(token) {
                held.sent = self.hearing;
            }
        }
        due.into_iter().map(|(_, token)| token).collect()
    }

    /// The instance of `agent` with the most free slots, if one has any. `leased` counts live leases.
    pub fn freest(
        &self,
        agent: &AgentName,
        leased: impl Fn(&InstanceId) -> usize,
    ) -> Option<(&InstanceId, Millis)> {
        let mut best: Option<(usize, &InstanceId, Millis)> = None;
        for (id, instance) in self.agents.get(agent)? {
            let free = self.free(id, instance, &leased);
            if free > best.map_or(0, |(most, ..)| most) {
                best = Some((free, id, instance.lease_ms));
            }
        }
        best.map(|(_, id, lease_ms)| (id, lease_ms))
    }

    /// Slots of `agent` a task could be offered to now.
    pub fn free_slots(&self, agent: &AgentName, leased: impl Fn(&InstanceId) -> usize) -> usize {
        let instances = self.agents.get(agent).into_iter().flatten();
        instances.map(|(id, instance)| self.free(id, instance, &leased)).sum()
    }

    fn free(&self, id: &InstanceId, instance: &Instance, leased: impl Fn(&InstanceId) -> usize) -> usize {
        let quiet = self.hearing.saturating_sub(instance.heard);
        if instance.draining || instance.suspected || quiet * 3 > instance.lease_ms * 2 {
            return 0;
        }
        (instance.slots as usize).saturating_sub(leased(id) + instance.dead.len())
    }

    /// Agents of which some instance was heard.
    pub fn agents(&self) -> impl Iterator<Item = (&AgentName, &BTreeMap<InstanceId, Instance>)> {
        self.agents.iter()
    }

    /// Forgets instances not heard of for ten of their leases.
    pub fn forget_silent(&mut self) {
        let hearing = self.hearing;
        self.agents.retain(|_, instances| {
            instances.retain(|_, i| hearing.saturating_sub(i.heard) <= i.lease_ms.saturating_mul(10));
            !instances.is_empty()
        });
    }

    /// Sizes of the bounded maps: instances, leases, remembered tokens.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.agents.values().map(BTreeMap::len).sum(), self.held.len(), self.recent.len())
    }
}
