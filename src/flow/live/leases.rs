//! The leases as heard: offered, sent again, accepted, silent for too long, over.
//!
//! Touches what is held and the offers under way; of an instance only what its leases take of it.

use super::Live;
use crate::task::{AgentName, InstanceId, Millis, Token};

/// Ended leases remembered, so that a heartbeat sent before the end was known is no zombie's.
const RECENT: usize = 65_536;
/// An inherited lease lasts at least this long: what took the owner away may have cut off the instances too, and
/// they come back with up to four seconds of jitter.
const RETURN_MS: Millis = 6_000;
/// An offer is sent again this often until it is accepted.
const RESEND_MS: Millis = 1_000;
/// How often leases are looked through for those that are overdue.
const LOOK_MS: Millis = 100;

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
pub(super) struct Held {
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

impl Live {
    /// The holder of a lease was heard.
    pub(super) fn heard(&mut self, token: Token, agent: &AgentName, id: &InstanceId) {
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

    /// What was heard of a lease.
    pub fn lease(&self, token: &Token) -> Option<LeaseHeard> {
        let held = self.held.get(token)?;
        let silent_ms = self.hearing.saturating_sub(held.heard);
        let (accepted, told) = (held.accepted, held.told || held.inherited);
        Some(LeaseHeard { accepted, told, silent_ms, lease_ms: held.lease_ms })
    }
}
