//! What was heard from instances: volatile, never replayed, never the ground of a promise.
//!
//! Time here is *hearing time*: it advances only while heartbeats could have been heard, so that an
//! outage, a suspended process or a take-over expires nothing.

mod instance;
mod known;
mod leases;
mod room;

use std::collections::VecDeque;

pub use self::{
    instance::AgentSize,
    leases::{How, LeaseHeard, Overdue},
};
use self::{
    instance::{Agent, Instance},
    leases::Held,
};
use super::{
    announced::Announcements,
    named::Named,
    quick::{QuickMap, QuickSet},
};
use crate::task::{AgentName, Millis, Token};

/// The longest piece of time one tick may count: a longer gap is time in which nothing was heard.
const MAX_TICK_MS: Millis = 1_000;

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

    /// Hearing time.
    pub fn hearing(&self) -> Millis {
        self.hearing
    }

    /// Sizes of the bounded maps: instances, leases, remembered tokens.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.instances.len() - self.free.len(), self.held.len(), self.recent.len())
    }
}
