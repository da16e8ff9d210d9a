//! Calls that run: which instance answers which, on which place of which block. Volatile, like [`super::live`]: whoever takes
//! over learns it from heartbeats, and until a lease has passed counts every place it inherits as taken.
//!
//! ```text
//! admit ──▶ begin ──▶ accepted ──▶ over        the slot and the place are free
//!                        └─ stop ──▶ over      told to stop, counted until the instance lets go of it, or is lost
//! ```
//!
//! Called by the engine. Who may call is decided in `admit`; what is held for calls is in [`super::permits`].

mod admit;
mod blocks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

pub use self::admit::{Admitted, Asked};
use self::blocks::Block;
use super::{
    live::Live,
    quick::{QuickMap, QuickSet},
    state::State,
};
use crate::{
    task::{AgentName, Code, InstanceId, Millis, Refusal, TaskId, TenantName, Token},
    wire::{
        calls::{Call, CallOver, HeldCall, public_id},
        codec::Format,
    },
};

/// Ended calls remembered, so that a heartbeat sent before the end was known adopts none.
const RECENT: usize = 16_384;
/// What an inherited place is counted for at least, in milliseconds.
const RETURN_MS: Millis = 6_000;
/// How often calls are looked through for those that are overdue, in milliseconds.
const LOOK_MS: Millis = 100;
/// An instance ends an overlong call itself; so much later the owner does, in milliseconds.
const LATE_MS: Millis = 2_000;

/// Where and how a caller is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    /// Its inbox.
    pub subject: String,
    /// How it speaks.
    pub format: Format,
}

/// What a running call counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A place of its own.
    Own,
    /// Its asker's, and one at the agent.
    Borrowed,
    /// None any more: it was given up, and comes to its end.
    Void,
}

/// A call an instance works on.
#[derive(Debug, Clone)]
pub struct Running {
    /// Whose.
    pub tenant: TenantName,
    /// Who answers.
    pub agent: AgentName,
    /// Which process.
    pub instance: InstanceId,
    /// Askers above it.
    pub depth: u32,
    /// Triggers behind its asker.
    pub hops: u32,
    /// Whose place it has.
    pub borrows: Option<TaskId>,
    /// What it counts against.
    pub place: Place,
    /// `None`: it began under another owner.
    pub to: Option<ReplyTo>,
    /// When it began, in logical time.
    pub since: Millis,
    ends_at: Millis,
    /// When it was given out, in hearing time.
    told: Millis,
    accepted: bool,
    stopping: bool,
}

/// Something that ended, or is to end.
#[derive(Debug)]
pub enum Ending {
    /// Its handler is gone.
    Over(Box<Running>, CallOver),
    /// Nobody answers it any more: its caller is told.
    Lost(Box<Running>, Refusal),
    /// Its instance is to stop it, and its caller is told if that has not happened.
    Stop(Box<Running>, Token, Refusal),
    /// Its instance is to stop it; whoever called was told.
    StopAgain(AgentName, InstanceId, Token, Code),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Calls {
    running: QuickMap<Token, Running>,
    by_instance: HashMap<(AgentName, InstanceId), BTreeSet<Token>>,
    blocks: BTreeMap<(TenantName, AgentName), Block>,
    /// Askers whose place is lent.
    lent: HashSet<TaskId>,
    recent: QuickSet<Token>,
    recent_order: VecDeque<Token>,
    /// When calls are looked through next, in hearing time.
    look_at: Millis,
    /// When blocks are looked through next, in logical time.
    tidy_at: Millis,
    /// What time it is, in logical time.
    now: Millis,
    /// Blocks whose starts are nearly used up.
    low: BTreeSet<(TenantName, AgentName)>,
}

impl Calls {
    /// Whether there is nothing to look after.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.blocks.is_empty()
    }

    /// Calls that run.
    pub fn running(&self) -> impl ExactSizeIterator<Item = (&Token, &Running)> {
        self.running.iter()
    }

    /// Entries of the bounded maps: calls, blocks, remembered ends.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.running.len(), self.blocks.len(), self.recent.len())
    }

    /// Whether somebody's place may be lent.
    pub fn lends(&self) -> bool {
        !self.lent.is_empty()
    }

    /// It is that time.
    pub fn pass(&mut self, now: Millis) {
        self.now = now;
    }

    /// Takes over what the journal holds for calls: nobody knows yet which of it is used.
    pub fn inherit(&mut self, state: &State, live: &Live) {
        for (tenant, agent, permit) in state.permits() {
            let until = live.hearing() + permit.lease_ms.max(RETURN_MS);
            self.blocks.insert((tenant.clone(), agent.clone()), Block::inherited(permit, until));
        }
    }

    /// An admitted call begins.
    pub fn begin(
        &mut self,
        token: Token,
        asked: &Asked<'_>,
        admitted: Admitted,
        live: &mut Live,
        now: Millis,
    ) -> (InstanceId, Call) {
        let Admitted { instance, depth, hops, borrows, max_ms, starts, .. } = admitted;
        let place = if borrows.is_some() { Place::Borrowed } else { Place::Own };
        let key = (asked.tenant.clone(), asked.agent.clone());
        let block = self.blocks.entry(key.clone()).or_default();
        if block.begin(place, starts, now) {
            self.low.insert(key);
        }
        self.lent.extend(borrows.clone());
        let running = Running {
            tenant: asked.tenant.clone(),
            agent: asked.agent.clone(),
            instance: instance.clone(),
            depth,
            hops,
            borrows: borrows.clone(),
            place,
            to: Some(asked.to.clone()),
            since: now,
            ends_at: now.saturating_add(max_ms),
            told: live.hearing(),
            accepted: false,
            stopping: false,
        };
        self.insert(token, running, live);
        let call = Call {
            tenant: asked.tenant.clone(),
            token,
            depth,
            hops,
            borrows,
            time_left_ms: max_ms,
            json: asked.to.format == Format::Json,
            input: asked.input.clone(),
        };
        (instance, call)
    }

    fn insert(&mut self, token: Token, running: Running, live: &mut Live) {
        live.begin_call(&running.agent, &running.instance);
        let at = (running.agent.clone(), running.instance.clone());
        self.by_instance.entry(at).or_default().insert(token);
        self.running.insert(token, running);
    }

    /// An instance works on these.
    pub fn accepted(&mut self, agent: &AgentName, instance: &InstanceId, tokens: &[Token]) {
        if self.running.is_empty() {
            return;
        }
        for token in tokens {
            if let Some(call) = self.running.get_mut(token).filter(|call| call.is_at(agent, instance)) {
                call.accepted = true;
            }
        }
    }

    /// An instance has no slot for these.
    pub fn busy(
        &mut self,
        agent: &AgentName,
        instance: &InstanceId,
        tokens: &[Token],
        live: &mut Live,
    ) -> Vec<Ending> {
        let mut out = Vec::new();
        for token in tokens {
            if !self.running.get(token).is_some_and(|call| call.is_at(agent, instance) && !call.accepted) {
                continue;
            }
            if let Some(call) = self.end(token, live) {
                let message = format!("instance {instance} of agent {agent} has no free slot");
                out.push(Ending::Lost(call, Refusal::new(Code::Busy, message).retry_after(admit::BUSY_MS)));
            }
        }
        if !out.is_empty() {
            live.suspect(agent, instance);
        }
        out
    }

    /// The handlers of these are gone.
    pub fn over(
        &mut self,
        agent: &AgentName,
        instance: &InstanceId,
        over: &[CallOver],
        live: &mut Live,
    ) -> Vec<Ending> {
        let mut out = Vec::new();
        for over in over {
            if !self.running.get(&over.token).is_some_and(|call| call.is_at(agent, instance)) {
                continue;
            }
            self.remember(over.token);
            out.extend(self.end(&over.token, live).map(|call| Ending::Over(call, over.clone())));
        }
        out
    }

    /// A heartbeat: calls that are not in it are over, and those nobody knows began under another owner.
    pub fn beat(
        &mut self,
        agent: &AgentName,
        instance: &InstanceId,
        held: &[HeldCall],
        live: &mut Live,
    ) -> Vec<Ending> {
        let mut out = Vec::new();
        let at = (agent.clone(), instance.clone());
        if held.is_empty() && !self.by_instance.contains_key(&at) {
            return out;
        }
        let listed: BTreeSet<Token> = held.iter().map(|call| call.token).collect();
        for call in held {
            match self.running.get_mut(&call.token) {
                Some(known) if known.is_at(agent, instance) => {
                    known.accepted = true;
                    if known.stopping {
                        let (agent, instance) = at.clone();
                        out.push(Ending::StopAgain(agent, instance, call.token, Code::CallLost));
                    }
                }
                Some(_) => {}
                None if self.recent.contains(&call.token) => {}
                None => out.extend(self.adopt(&at, call, live)),
            }
        }
        let gone = self.by_instance.get(&at).into_iter().flatten();
        let gone: Vec<Token> = gone
            .filter(|token| !listed.contains(token))
            .filter(|token| self.running.get(token).is_some_and(|call| call.accepted))
            .copied()
            .collect();
        for token in gone {
            self.remember(token);
            let over = CallOver { token, code: None, first_ms: None };
            out.extend(self.end(&token, live).map(|call| Ending::Over(call, over)));
        }
        out
    }

    /// A call that began under another owner. One that was given up here is to stop.
    fn adopt(
        &mut self,
        (agent, instance): &(AgentName, InstanceId),
        call: &HeldCall,
        live: &mut Live,
    ) -> Option<Ending> {
        let place = if call.borrows.is_some() { Place::Borrowed } else { Place::Own };
        let block = self.blocks.get_mut(&(call.tenant.clone(), agent.clone()));
        let inherited = block.as_ref().is_some_and(|block| block.is_inherited());
        let claimed = block.is_some_and(|block| block.claim(place, self.now));
        if inherited && !claimed {
            // Heartbeats may be late: one that is over may have its place until the next of them.
            return None;
        }
        if claimed {
            self.lent.extend(call.borrows.clone());
        }
        let running = Running {
            tenant: call.tenant.clone(),
            agent: agent.clone(),
            instance: instance.clone(),
            depth: call.depth,
            hops: call.hops,
            borrows: call.borrows.clone(),
            place: if claimed { place } else { Place::Void },
            to: None,
            since: 0,
            // Its instance counts the time.
            ends_at: Millis::MAX,
            told: live.hearing(),
            accepted: true,
            stopping: !claimed,
        };
        self.insert(call.token, running, live);
        let stop = || Ending::StopAgain(agent.clone(), instance.clone(), call.token, Code::CallLost);
        (!claimed).then(stop)
    }

    /// Takes a call out; its slot and its place are free.
    fn end(&mut self, token: &Token, live: &mut Live) -> Option<Box<Running>> {
        let call = self.running.remove(token)?;
        let at = (call.agent.clone(), call.instance.clone());
        if let Some(tokens) = self.by_instance.get_mut(&at) {
            tokens.remove(token);
            if tokens.is_empty() {
                self.by_instance.remove(&at);
            }
        }
        live.end_call(&call.agent, &call.instance);
        if let Some(asker) = call.borrows.as_ref().filter(|_| call.place == Place::Borrowed) {
            self.lent.remove(asker);
        }
        if let Some(block) = self.blocks.get_mut(&(call.tenant.clone(), call.agent.clone())) {
            block.end(call.place, self.now);
        }
        // Somebody may wait for its place.
        self.tidy_at = 0;
        Some(Box::new(call))
    }

    fn remember(&mut self, token: Token) {
        if self.recent.insert(token) {
            self.recent_order.push_back(token);
        }
        if self.recent_order.len() > RECENT
            && let Some(old) = self.recent_order.pop_front()
        {
            self.recent.remove(&old);
        }
    }

    /// What time has ended.
    pub fn overdue(&mut self, live: &mut Live, now: Millis, offer_timeout: Millis) -> Vec<Ending> {
        let hearing = live.hearing();
        let mut out = Vec::new();
        if self.look_at <= hearing {
            self.look_at = hearing + LOOK_MS;
            let mut lost: Vec<(Token, Refusal)> = Vec::new();
            for (token, call) in &self.running {
                let (agent, instance) = (&call.agent, &call.instance);
                let refuse = |what: &str| {
                    Refusal::new(Code::CallLost, format!("instance {instance} of agent {agent} {what}"))
                };
                if live.is_lost(agent, instance) {
                    lost.push((
                        *token,
                        refuse("was not heard of for its lease: the call may have been done"),
                    ));
                } else if !call.accepted && call.told + offer_timeout <= hearing {
                    lost.push((*token, refuse("did not take the call").retry_after(admit::BUSY_MS)));
                }
            }
            lost.sort_by_key(|(token, _)| *token);
            for (token, refusal) in lost {
                out.extend(self.end(&token, live).map(|call| Ending::Lost(call, refusal)));
            }
            for block in self.blocks.values_mut() {
                block.look(hearing);
            }
        }
        let late: Vec<Token> = self
            .running
            .iter()
            .filter(|(_, call)| !call.stopping && call.ends_at.saturating_add(LATE_MS) <= now)
            .map(|(token, _)| *token)
            .collect();
        out.extend(self.stop(late, &timed_out()));
        out
    }

    /// Stops the calls that are meant, as an operator said.
    pub fn stop_where(&mut self, is_meant: impl Fn(&Running) -> bool, refusal: &Refusal) -> Vec<Ending> {
        let meant = self.running.iter().filter(|(_, call)| !call.stopping && is_meant(call));
        let meant = meant.map(|(token, _)| *token).collect();
        self.stop(meant, refusal)
    }

    /// A lease or a call is over: what it asked for is, too.
    pub fn asker_over(&mut self, token: &Token) -> Vec<Ending> {
        if self.lent.is_empty() {
            return Vec::new();
        }
        let asker = public_id(token);
        if !self.lent.contains(&asker) {
            return Vec::new();
        }
        let message = "whoever asked is over";
        self.stop_where(|call| call.borrows.as_ref() == Some(&asker), &Refusal::new(Code::Cancelled, message))
    }

    fn stop(&mut self, mut tokens: Vec<Token>, refusal: &Refusal) -> Vec<Ending> {
        tokens.sort_unstable();
        let mut out = Vec::new();
        for token in tokens {
            if let Some(call) = self.running.get_mut(&token) {
                call.stopping = true;
                out.push(Ending::Stop(Box::new(call.clone()), token, refusal.clone()));
                // Told once.
                call.to = None;
            }
        }
        out
    }
}

impl Running {
    fn is_at(&self, agent: &AgentName, instance: &InstanceId) -> bool {
        self.instance == *instance && self.agent == *agent
    }
}

/// A call took too long.
pub fn timed_out() -> Refusal {
    Refusal::new(Code::CallTimeout, "the call took longer than it may; submit a task for work of this length")
}
