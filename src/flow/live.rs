//! What was heard from instances: volatile, never replayed, never the ground of a promise.
//!
//! Time here is *hearing time*: it advances only while heartbeats could have been heard, so that an
//! outage, a suspended process or a take-over expires nothing.

mod instance;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

pub use self::instance::AgentSize;
use self::instance::{Agent, Instance, MOST_AHEAD};
use super::{
    announced::{Announced, Announcements},
    named::Named,
    quick::{QuickMap, QuickSet},
};
use crate::{
    task::{AgentName, InstanceId, Millis, Token},
    wire::{about::InstanceView, messages::Beat},
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
/// How often leases are looked through for those that are overdue.
const LOOK_MS: Millis = 100;

/// Instances remembered; beyond it unknown ones are not heard until silent ones are forgotten.
const MAX_INSTANCES: usize = 65_536;
/// Dead leases remembered per instance: no more slots than this are withheld from it.
const MAX_DEAD: usize = 4_096;

/// What was heard of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseHeard {
    /// By its holder, or by anything it has said since.
    pub accepted: bool,
    /// The offer has gone out.
    pub told: bool,
    /// How long ago it was heard of last, or offered.
    pub silent_ms: Millis,
    /// After how long it is lost.
    pub lease_ms: Millis,
}

#[derive(Debug)]
struct Held {
    instance: u32,
    lease_ms: Millis,
    heard: Millis,
    sent: Millis,
    first_sent: Millis,
    accepted: bool,
    /// The offer has gone out: its input was in memory.
    told: bool,
    /// From before a take-over: may have been accepted; expires, is not withdrawn.
    inherited: bool,
}

/// Why a lease is overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Not heard of for its length.
    Expired,
    /// Its offer was sent and not accepted.
    Unanswered,
    /// Its offer could not be sent: its input did not come.
    Untold,
}

/// A lease to be ended by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdue {
    /// Which.
    pub token: Token,
    /// Why.
    pub how: How,
}

/// Instances and leases as heard.
#[derive(Debug, Default)]
pub struct Live {
    hearing: Millis,
    listening: bool,
    agents: Named<AgentName, Agent>,
    instances: Vec<Option<Instance>>,
    free: Vec<u32>,
    held: QuickMap<Token, Held>,
    /// When leases are looked through next.
    look_at: Millis,
    /// Offers in the order they were sent; most are answered by the time they would be sent again.
    sent: VecDeque<(Millis, Token)>,
    /// Leases that were ended under offers which may still be on their way, and when.
    overtaken: QuickMap<Token, Millis>,
    recent: QuickSet<Token>,
    recent_order: VecDeque<Token>,
    announcements: Announcements,
}

impl Live {
    /// What the instances say about their agents.
    pub fn announcements(&self) -> &Announcements {
        &self.announcements
    }

    /// An instance says this about itself; one that is not known is not heard.
    pub fn announced(&mut self, agent: &AgentName, id: &InstanceId, announced: &Arc<Announced>) {
        let Some(number) = self.number(agent, id) else { return };
        let said = self.announcements.add(agent, announced);
        let before =
            self.instance_mut(number).and_then(|instance| std::mem::replace(&mut instance.about, said));
        if let Some(before) = before {
            self.announcements.remove(agent, &before);
        }
    }

    /// Every instance, without its tasks.
    pub fn instances(&self) -> impl Iterator<Item = (&AgentName, InstanceView)> {
        self.instances.iter().flatten().filter_map(|instance| {
            let agent = self.agents.name(instance.agent)?;
            Some((agent, instance.view(self.hearing)))
        })
    }

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
            } else if !self.recent.contains(token) {
                over.push(*token);
            }
        }
        let known = self.number(agent, id);
        let calls = beat.calls.as_ref().is_some_and(|calls| !calls.is_empty());
        if beat.slots == 0 && listed.is_empty() && !calls {
            if let Some(number) = known {
                self.forget(number);
            }
            return over;
        }
        if known.is_none() && self.instances.len() - self.free.len() >= MAX_INSTANCES {
            return over;
        }
        let number = known.unwrap_or_else(|| self.meet(agent, id, beat.lease_ms));
        let hearing = self.hearing;
        if let Some(instance) = self.instance_mut(number) {
            instance.slots = beat.slots.min(100_000);
            instance.ahead = beat.ahead.min(instance.slots.max(16)).min(MOST_AHEAD);
            instance.lease_ms = beat.lease_ms.clamp(100, 24 * 3_600_000);
            instance.draining = beat.draining;
            instance.messages = beat.messages;
            instance.takes_calls = beat.calls.is_some();
            // Whoever takes none keeps none.
            instance.call_slots = if instance.takes_calls { beat.call_slots.min(instance.slots) } else { 0 };
            instance.suspected = false;
            instance.heard = hearing;
            instance.dead.retain(|token| listed.contains(token));
            let room = MAX_DEAD.saturating_sub(instance.dead.len());
            instance.dead.extend(over.iter().take(room).copied());
        }
        self.count_room(number);
        over
    }

    /// Whether an instance understands messages to tasks.
    pub fn takes_messages(&self, agent: &AgentName, id: &InstanceId) -> bool {
        self.number(agent, id).and_then(|number| self.instance(number)).is_some_and(|known| known.messages)
    }

    fn number(&self, agent: &AgentName, id: &InstanceId) -> Option<u32> {
        self.agents.get(agent)?.instances.get(id).copied()
    }

    fn instance_mut(&mut self, number: u32) -> Option<&mut Instance> {
        self.instances.get_mut(number as usize)?.as_mut()
    }

    fn instance(&self, number: u32) -> Option<&Instance> {
        self.instances.get(number as usize)?.as_ref()
    }

    /// An instance that was not known.
    fn meet(&mut self, agent: &AgentName, id: &InstanceId, lease_ms: Millis) -> u32 {
        let known = self.agents.number(agent);
        let agent = known.unwrap_or_else(|| self.agents.insert(agent.clone(), Agent::default()));
        let number = self.free.pop().unwrap_or_else(|| {
            self.instances.push(None);
            (self.instances.len() - 1) as u32
        });
        self.instances[number as usize] = Some(Instance {
            agent,
            id: id.clone(),
            slots: 0,
            ahead: 0,
            lease_ms,
            heard: self.hearing,
            draining: false,
            messages: false,
            takes_calls: false,
            call_slots: 0,
            calls: 0,
            suspected: false,
            about: None,
            dead: BTreeSet::new(),
            leased: 0,
            room: 0,
            call_room: 0,
        });
        if let Some(agent) = self.agents.at_mut(agent) {
            agent.instances.insert(id.clone(), number);
        }
        number
    }

    /// Forgets an instance, or only its slots as long as it has leases.
    fn forget(&mut self, number: u32) {
        let Some(instance) = self.instance_mut(number) else { return };
        instance.slots = 0;
        instance.call_slots = 0;
        instance.ahead = 0;
        instance.dead.clear();
        let leased = instance.leased + instance.calls > 0;
        self.count_room(number);
        if leased {
            return;
        }
        let Some(instance) = self.instances.get_mut(number as usize).and_then(Option::take) else { return };
        self.free.push(number);
        if let (Some(about), Some(agent)) = (&instance.about, self.agents.name(instance.agent)) {
            self.announcements.remove(agent, about);
        }
        if let Some(agent) = self.agents.at_mut(instance.agent) {
            agent.instances.remove(&instance.id);
            if agent.instances.is_empty() {
                self.agents.remove(instance.agent);
            }
        }
    }

    /// Brings an instance's place among its agent's in line with what it takes.
    fn count_room(&mut self, number: u32) {
        let Some(instance) = self.instances.get_mut(number as usize).and_then(Option::as_mut) else { return };
        let tasks = (instance.room, instance.rank());
        let calls = (instance.call_room, instance.call_rank());
        if tasks.0 == tasks.1 && calls.0 == calls.1 {
            return;
        }
        (instance.room, instance.call_room) = (tasks.1, calls.1);
        let Some(agent) = self.agents.at_mut(instance.agent) else { return };
        for ((old, new), room) in [(tasks, &mut agent.room), (calls, &mut agent.call_room)] {
            if old > 0 {
                room.remove(&(old, number));
            }
            if new > 0 {
                room.insert((new, number));
            }
        }
    }

    /// The holder of a lease was heard.
    fn heard(&mut self, token: Token, agent: &AgentName, id: &InstanceId) {
        if self.holds(&token, agent, id)
            && let Some(held) = self.held.get_mut(&token)
        {
            held.heard = self.hearing;
            held.accepted = true;
        }
    }

    /// An acceptance, or any other sign that these leases are worked on.
    pub fn accepted(&mut self, agent: &AgentName, id: &InstanceId, tokens: &[Token]) {
        self.arrived(tokens);
        for token in tokens {
            self.heard(*token, agent, id);
        }
    }

    /// These offers have come to their instances, whatever became of them.
    pub fn arrived(&mut self, tokens: &[Token]) {
        if !self.overtaken.is_empty() {
            self.overtaken.retain(|token, _| !tokens.contains(token));
        }
    }

    /// Whether an offer may be on its way whose lease has been ended meanwhile. After `RESEND_MS` without an answer it
    /// counts as lost.
    pub fn is_overtaking(&mut self) -> bool {
        let hearing = self.hearing;
        self.overtaken.retain(|_, since| *since + RESEND_MS > hearing);
        !self.overtaken.is_empty()
    }

    /// Offers of live leases that went out lately and were not answered yet.
    pub fn unanswered(&self) -> impl Iterator<Item = &Token> {
        let lately = self.sent.iter().filter(|(sent, _)| *sent + RESEND_MS > self.hearing);
        lately.map(|(_, token)| token).filter(|token| !self.is_answered(token))
    }

    /// Whether this instance holds the lease.
    pub fn holds(&self, token: &Token, agent: &AgentName, id: &InstanceId) -> bool {
        let instance = self.held.get(token).and_then(|held| self.instance(held.instance));
        instance.is_some_and(|i| i.id == *id && self.agents.name(i.agent) == Some(agent))
    }

    /// Whether the lease is known here.
    pub fn knows(&self, token: &Token) -> bool {
        self.held.contains_key(token)
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
        let number = self.number(agent, id).unwrap_or_else(|| self.meet(agent, id, lease_ms));
        // Whoever holds it may still be finding its way back.
        let heard = if inherited { self.hearing + RETURN_MS.saturating_sub(lease_ms) } else { self.hearing };
        let held = Held {
            instance: number,
            lease_ms,
            heard,
            sent: self.hearing,
            first_sent: self.hearing,
            accepted: false,
            told: false,
            inherited,
        };
        self.sent.push_back((held.sent, token));
        if self.held.insert(token, held).is_none()
            && let Some(instance) = self.instance_mut(number)
        {
            instance.leased += 1;
        }
        self.count_room(number);
    }

    /// The offer of a lease has gone out.
    pub fn told(&mut self, token: &Token) {
        let hearing = self.hearing;
        if let Some(held) = self.held.get_mut(token)
            && !held.told
        {
            held.told = true;
            held.first_sent = hearing;
        }
    }

    /// A lease is over. `by_itself`: ended by its own report, so its slot is free at once.
    pub fn ended(&mut self, token: Token, by_itself: bool) {
        let Some(held) = self.held.remove(&token) else { return };
        if !by_itself && !held.accepted && held.told && held.sent + RESEND_MS > self.hearing {
            self.overtaken.insert(token, self.hearing);
        }
        if by_itself {
            self.recent.insert(token);
            self.recent_order.push_back(token);
            if self.recent_order.len() > RECENT
                && let Some(old) = self.recent_order.pop_front()
            {
                self.recent.remove(&old);
            }
        }
        if let Some(instance) = self.instance_mut(held.instance) {
            instance.leased = instance.leased.saturating_sub(1);
            if !by_itself {
                instance.dead.insert(token);
            }
        }
        self.count_room(held.instance);
    }

    /// A dead lease's holder has let go of it.
    pub fn let_go(&mut self, agent: &AgentName, id: &InstanceId, token: Token) {
        // Most reports are of leases that live: nothing is looked up for them.
        if self.held.contains_key(&token) {
            return;
        }
        let Some(number) = self.number(agent, id) else { return };
        if self.instance_mut(number).is_some_and(|instance| instance.dead.remove(&token)) {
            self.count_room(number);
        }
    }

    /// The instance did not answer an offer.
    pub fn suspect(&mut self, agent: &AgentName, id: &InstanceId) {
        let Some(number) = self.number(agent, id) else { return };
        if let Some(instance) = self.instance_mut(number) {
            instance.suspected = true;
        }
        self.count_room(number);
    }

    /// Leases that time has ended, at most `max`. Said again unless they are ended.
    pub fn overdue(&mut self, offer_timeout: Millis, max: usize) -> Vec<Overdue> {
        if self.hearing < self.look_at {
            return Vec::new();
        }
        let hearing = self.hearing;
        let mut out: Vec<Overdue> = Vec::new();
        for (token, held) in &self.held {
            let untold = !held.told && !held.inherited;
            let unanswered = !held.accepted && !held.inherited && held.first_sent + offer_timeout <= hearing;
            let how = match (unanswered, untold) {
                (true, true) => How::Untold,
                _ if held.heard + held.lease_ms <= hearing => How::Expired,
                (true, false) => How::Unanswered,
                _ => continue,
            };
            out.push(Overdue { token: *token, how });
        }
        self.look_at = if out.len() > max { hearing } else { hearing + LOOK_MS };
        out.sort_by_key(|overdue| overdue.token);
        out.truncate(max);
        out
    }

    /// Offers to send again now, at most `max`.
    pub fn resend(&mut self, max: usize) -> Vec<Token> {
        let hearing = self.hearing;
        let mut due = Vec::new();
        while due.len() < max
            && let Some((sent, token)) = self.sent.front().copied()
            && (sent + RESEND_MS <= hearing || self.is_answered(&token))
        {
            self.sent.pop_front();
            let Some(held) = self.held.get_mut(&token).filter(|held| !held.accepted && held.sent == sent)
            else {
                continue;
            };
            held.sent = hearing;
            due.push(token);
        }
        self.sent.extend(due.iter().map(|token| (hearing, *token)));
        due
    }

    fn is_answered(&self, token: &Token) -> bool {
        self.held.get(token).is_none_or(|held| held.accepted)
    }

    /// The first agent from `from` on with an instance that may have a free slot.
    pub fn agent_with_room(&self, from: u32) -> Option<(u32, &AgentName)> {
        (from..self.agents.places()).find_map(|number| {
            let room = !self.agents.at(number)?.room.is_empty();
            Some((number, self.agents.name(number)?)).filter(|_| room)
        })
    }

    /// The instance of an agent with the most free slots, if one has any.
    pub fn freest(&mut self, agent: u32) -> Option<(InstanceId, Millis)> {
        loop {
            let (rank, number) = *self.agents.at(agent)?.room.last()?;
            let instance = self.instance(number)?;
            if !instance.is_quiet(self.hearing) {
                return Some((instance.id.clone(), instance.lease_ms));
            }
            // It comes back with its next heartbeat.
            self.agents.at_mut(agent)?.room.remove(&(rank, number));
            self.instance_mut(number)?.room = 0;
        }
    }

    /// Hearing time.
    pub fn hearing(&self) -> Millis {
        self.hearing
    }

    /// The instance of an agent that takes calls and has the most free slots, if one has any.
    pub fn freest_taker(&self, agent: &AgentName) -> Option<(InstanceId, Millis)> {
        let room = &self.agents.get(agent)?.call_room;
        let mut takers = room.iter().rev().filter_map(|(_, number)| self.instance(*number));
        let found = takers.find(|instance| !instance.is_quiet(self.hearing))?;
        Some((found.id.clone(), found.lease_ms))
    }

    /// Whether an instance of the agent that takes calls is there, free or not.
    pub fn has_takers(&self, agent: &AgentName) -> bool {
        let numbers = self.agents.get(agent).into_iter().flat_map(|agent| agent.instances.values());
        let mut instances = numbers.filter_map(|number| self.instance(*number));
        instances.any(|found| {
            found.takes_calls && found.slots > 0 && !found.draining && !found.is_quiet(self.hearing)
        })
    }

    /// A call takes a slot.
    pub fn begin_call(&mut self, agent: &AgentName, id: &InstanceId) {
        let number = self.number(agent, id).unwrap_or_else(|| self.meet(agent, id, 0));
        if let Some(instance) = self.instance_mut(number) {
            instance.calls += 1;
        }
        self.count_room(number);
    }

    /// A call's slot is free.
    pub fn end_call(&mut self, agent: &AgentName, id: &InstanceId) {
        let Some(number) = self.number(agent, id) else { return };
        if let Some(instance) = self.instance_mut(number) {
            instance.calls = instance.calls.saturating_sub(1);
        }
        self.count_room(number);
    }

    /// Whether nothing was heard of an instance for its lease.
    pub fn is_lost(&self, agent: &AgentName, id: &InstanceId) -> bool {
        let instance = self.number(agent, id).and_then(|number| self.instance(number));
        instance.is_none_or(|instance| instance.heard + instance.lease_ms <= self.hearing)
    }

    /// Whether an instance of the agent has a free slot.
    pub fn has_room(&self, agent: &AgentName) -> bool {
        let Some(agent) = self.agents.get(agent) else { return false };
        agent.room.iter().any(|(_, number)| self.instance(*number).is_some_and(|i| !i.is_quiet(self.hearing)))
    }

    /// What there is of each agent of which some instance was heard.
    pub fn agents(&self) -> impl Iterator<Item = (&AgentName, AgentSize)> {
        self.agents.iter().map(|(name, agent)| (name, self.size(agent)))
    }

    /// What there is of an agent.
    pub fn size_of(&self, agent: &AgentName) -> AgentSize {
        self.agents.get(agent).map_or_else(AgentSize::default, |agent| self.size(agent))
    }

    fn size(&self, agent: &Agent) -> AgentSize {
        let mut size = AgentSize { instances: agent.instances.len(), ..AgentSize::default() };
        for instance in agent.instances.values().filter_map(|number| self.instance(*number)) {
            size.slots += u64::from(instance.slots);
            size.call_slots += u64::from(instance.call_slots);
            if instance.is_quiet(self.hearing) {
                size.quiet += 1;
                continue;
            }
            size.free += u64::from(instance.free());
            size.draining += usize::from(instance.draining || instance.slots == 0);
            size.suspected += usize::from(instance.suspected && !instance.draining && instance.slots > 0);
        }
        size
    }

    /// What was heard of a lease.
    pub fn lease(&self, token: &Token) -> Option<LeaseHeard> {
        let held = self.held.get(token)?;
        let silent_ms = self.hearing.saturating_sub(held.heard);
        let (accepted, told) = (held.accepted, held.told || held.inherited);
        Some(LeaseHeard { accepted, told, silent_ms, lease_ms: held.lease_ms })
    }

    /// Forgets instances not heard of for ten of their leases.
    pub fn forget_silent(&mut self) {
        let hearing = self.hearing;
        for number in 0..self.instances.len() as u32 {
            let silent = |i: &Instance| hearing.saturating_sub(i.heard) > i.lease_ms.saturating_mul(10);
            if self.instance(number).is_some_and(silent) {
                self.forget(number);
            }
        }
    }

    /// Sizes of the bounded maps: instances, leases, remembered tokens.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.instances.len() - self.free.len(), self.held.len(), self.recent.len())
    }
}
