//! One instance as heard, and those of an agent together.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    flow::announced::Announced,
    task::{InstanceId, Millis, Token},
    wire::about::InstanceView,
};

/// The most tasks an instance is given beyond its slots.
pub(super) const MOST_AHEAD: u32 = 1_024;

/// One process of an agent.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) agent: u32,
    pub(super) id: InstanceId,
    /// Attempts it runs at once.
    pub(super) slots: u32,
    /// Lease length it asks for.
    pub(super) lease_ms: Millis,
    pub(super) heard: Millis,
    pub(super) draining: bool,
    /// It understands messages to tasks.
    pub(super) messages: bool,
    /// It takes calls.
    pub(super) takes_calls: bool,
    /// Slots that take calls only.
    pub(super) call_slots: u32,
    /// Calls it runs.
    pub(super) calls: u32,
    /// An offer to it was not answered; no more until it is heard again.
    pub(super) suspected: bool,
    /// What it says about itself.
    pub(super) about: Option<Arc<Announced>>,
    /// Leases we ended that it may still be working on; each occupies a slot.
    pub(super) dead: BTreeSet<Token>,
    /// Live leases it has.
    pub(super) leased: u32,
    /// Tasks it takes beyond its slots.
    pub(super) ahead: u32,
    /// The rank under which it stands in its agent's `room`, if it does.
    pub(super) room: u32,
    /// The same of `call_room`.
    pub(super) call_room: u32,
}

impl Instance {
    /// Slots an offer could take, if it is there.
    pub(super) fn free(&self) -> u32 {
        self.left_for_tasks(self.slots)
    }

    /// By how much it is preferred for the next call: by its free slots.
    pub(super) fn call_rank(&self) -> u32 {
        if self.takes_calls { self.left(self.slots) } else { 0 }
    }

    /// By how much it is preferred for the next task: by its free slots; without any by what it takes ahead. 0: it takes none.
    pub(super) fn rank(&self) -> u32 {
        match self.free() {
            0 => self.left_for_tasks(self.slots + self.ahead),
            free => MOST_AHEAD + free,
        }
    }

    fn left(&self, of: u32) -> u32 {
        if self.draining || self.suspected {
            return 0;
        }
        of.saturating_sub(self.leased + self.calls + self.dead.len() as u32)
    }

    /// Calls take slots that are kept for them and others; tasks leave those that are kept alone.
    fn left_for_tasks(&self, of: u32) -> u32 {
        let kept = self.call_slots.saturating_add(self.leased + self.dead.len() as u32);
        self.left(of).min(of.saturating_sub(kept))
    }

    pub(super) fn is_quiet(&self, hearing: Millis) -> bool {
        hearing.saturating_sub(self.heard) * 3 > self.lease_ms * 2
    }

    /// As it is shown, without its tasks.
    pub(super) fn view(&self, hearing: Millis) -> InstanceView {
        let state = match () {
            () if self.is_quiet(hearing) => "quiet",
            () if self.draining || self.slots == 0 => "draining",
            () if self.suspected => "suspected",
            () => "serving",
        };
        let about = self.about.as_ref();
        InstanceView {
            instance: self.id.clone(),
            state: state.to_owned(),
            version: about.and_then(|said| said.about.version.clone()),
            schema_error: about.and_then(|said| said.error.clone()),
            slots: self.slots,
            free: self.free(),
            call_slots: self.call_slots,
            running: self.leased,
            tasks: Vec::new(),
            silent_ms: hearing.saturating_sub(self.heard),
        }
    }
}

/// An agent's instances.
#[derive(Debug, Default)]
pub(super) struct Agent {
    pub(super) instances: HashMap<InstanceId, u32>,
    /// Instances that take a task, by their rank; quiet ones are taken out when they turn up.
    pub(super) room: BTreeSet<(u32, u32)>,
    /// Instances that take a call, by their free slots.
    pub(super) call_room: BTreeSet<(u32, u32)>,
}

/// What there is of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentSize {
    /// Its instances.
    pub instances: usize,
    /// Their slots.
    pub slots: u64,
    /// Those a task could be offered to now.
    pub free: u64,
    /// Those that take calls only.
    #[serde(default)]
    pub call_slots: u64,
    /// Instances that were not heard for two thirds of their lease.
    pub quiet: usize,
    /// Instances that are leaving, or have no slots.
    pub draining: usize,
    /// Instances that did not answer an offer and were not heard since.
    pub suspected: usize,
}

impl AgentSize {
    /// Slots that take tasks.
    pub fn task_slots(&self) -> u64 {
        self.slots.saturating_sub(self.call_slots)
    }

    /// Instances that take work as soon as they have a free slot.
    pub fn serving(&self) -> usize {
        self.instances - self.quiet - self.draining - self.suspected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(slots: u32, ahead: u32, leased: u32) -> Instance {
        Instance {
            agent: 0,
            id: "i".parse().unwrap(),
            slots,
            lease_ms: 15_000,
            heard: 0,
            draining: false,
            messages: false,
            takes_calls: true,
            call_slots: 0,
            calls: 0,
            suspected: false,
            about: None,
            dead: BTreeSet::new(),
            leased,
            ahead,
            room: 0,
            call_room: 0,
        }
    }

    #[test]
    fn a_free_slot_anywhere_is_filled_before_anything_is_given_ahead() {
        let (one_free, many_ahead) = (instance(2, 0, 1), instance(100, 100, 100));
        assert!(one_free.rank() > many_ahead.rank() && many_ahead.rank() > 0);
        assert_eq!((many_ahead.free(), instance(2, 1, 2).rank(), instance(2, 1, 3).rank()), (0, 1, 0));
        let suspected = Instance { suspected: true, ..instance(2, 2, 0) };
        assert_eq!(suspected.rank(), 0);
    }

    #[test]
    fn slots_that_are_kept_for_calls_take_no_task_and_calls_take_any() {
        let keeping = |leased, calls| Instance { call_slots: 1, calls, ..instance(4, 0, leased) };
        assert_eq!((keeping(0, 0).free(), keeping(0, 0).call_rank()), (3, 4));
        assert_eq!((keeping(3, 0).free(), keeping(3, 0).call_rank()), (0, 1));
        assert_eq!(
            (keeping(1, 2).free(), keeping(1, 3).free()),
            (1, 0),
            "calls beyond those take what tasks may"
        );
        let ahead = |leased| Instance { ahead: 2, ..keeping(leased, 0) };
        assert_eq!((ahead(3).rank(), ahead(4).rank(), ahead(5).rank()), (2, 1, 0));
        let all = Instance { call_slots: 9, ..instance(4, 0, 0) };
        assert_eq!((all.free(), all.rank(), all.call_rank()), (0, 0, 4));
        assert_eq!(Instance { takes_calls: false, ..keeping(0, 0) }.call_rank(), 0);
    }
}
