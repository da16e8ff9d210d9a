//! The owner's side of a block: which of its places are used, which starts are left, when it grows and when it is given back.

use super::{Calls, Place};
use crate::{
    flow::{
        permits::{self, Permit},
        record::Record,
        state::State,
    },
    task::{AgentName, Millis, TenantName},
};

/// A block that nothing used for so long is given back, in milliseconds.
const IDLE_MS: Millis = 3_000;
/// How often slot-time of calls is charged to lanes with tasks, in milliseconds.
const CHARGE_MS: Millis = 500;
/// How often blocks are looked through, in milliseconds.
const TIDY_MS: Millis = 20;
/// Places that are taken at once, at most.
pub(super) const MOST_PLACES: u32 = 8;
/// Starts that are charged ahead at once, at most; and of what a rate has there, at most a quarter.
pub(super) const MOST_STARTS: u32 = 64;
/// With fewer starts left, of a block that has grown to this, more are charged before they are needed.
const FEW_STARTS: u32 = 8;

/// Places of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Side {
    used: u32,
    /// Inherited, and perhaps used.
    withheld: u32,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Block {
    own: Side,
    borrowed: Side,
    pub(super) starts: u32,
    /// Starts that were charged at once last.
    grown: u32,
    used_at: Millis,
    /// Slot-time of its calls that is not charged yet, up to when it was counted.
    slot_ms: Millis,
    counted_at: Millis,
    charged_at: Millis,
    /// Until then, in hearing time, what was inherited counts in full.
    until: Option<Millis>,
}

impl Block {
    pub(super) fn inherited(permit: Permit, until: Millis) -> Self {
        let side = |places| Side { used: 0, withheld: places };
        Self {
            own: side(permit.places),
            borrowed: side(permit.borrowed),
            until: Some(until),
            ..Self::default()
        }
    }

    /// Whether it is not known yet what of it is used.
    pub(super) fn is_inherited(&self) -> bool {
        self.until.is_some()
    }

    fn side(&mut self, place: Place) -> Option<&mut Side> {
        match place {
            Place::Own => Some(&mut self.own),
            Place::Borrowed => Some(&mut self.borrowed),
            Place::Void => None,
        }
    }

    /// Places that are there for the next call.
    pub(super) fn spare(&self, permit: Permit, borrows: bool) -> u32 {
        let (side, places) =
            if borrows { (self.borrowed, permit.borrowed) } else { (self.own, permit.places) };
        places.saturating_sub(side.used + side.withheld)
    }

    /// Starts to charge at once when none is left.
    pub(super) fn next_starts(&self) -> u32 {
        (self.grown * 2).clamp(1, MOST_STARTS)
    }

    /// A call begins, with so many starts charged for it and those that follow. Returns whether they will soon be used up.
    pub(super) fn begin(&mut self, place: Place, charged: u32, now: Millis) -> bool {
        self.count(now);
        self.charged(charged);
        self.starts = self.starts.saturating_sub(1);
        self.used_at = now;
        if let Some(side) = self.side(place) {
            side.used += 1;
        }
        self.grown >= FEW_STARTS && self.starts <= self.grown / 4
    }

    /// Counts the slot-time of its calls up to now.
    fn count(&mut self, now: Millis) {
        let calls = u64::from(self.own.used + self.borrowed.used);
        let passed = now.saturating_sub(std::mem::replace(&mut self.counted_at, now));
        self.slot_ms = self.slot_ms.saturating_add(calls.saturating_mul(passed));
    }

    /// Slot-time to be charged now. Of a tenant without tasks there nothing is: it has no lane that others stand beside.
    fn owed(&mut self, now: Millis, has_tasks: bool) -> u32 {
        self.count(now);
        if !has_tasks {
            (self.slot_ms, self.charged_at) = (0, now);
        }
        u32::try_from(self.slot_ms).unwrap_or(u32::MAX)
    }

    fn paid(&mut self, ms: u32, now: Millis) {
        self.slot_ms -= Millis::from(ms);
        self.charged_at = now;
    }

    fn charged(&mut self, starts: u32) {
        if starts > 0 {
            self.starts += starts;
            self.grown = starts;
        }
    }

    /// A call that began under another owner claims an inherited place, if one is left that nobody has claimed.
    pub(super) fn claim(&mut self, place: Place, now: Millis) -> bool {
        self.count(now);
        let Some(side) = self.side(place).filter(|side| side.withheld > 0) else { return false };
        side.withheld -= 1;
        side.used += 1;
        true
    }

    pub(super) fn end(&mut self, place: Place, now: Millis) {
        self.count(now);
        if let Some(side) = self.side(place) {
            side.used = side.used.saturating_sub(1);
        }
    }

    /// Whoever used inherited places has said so by now.
    pub(super) fn look(&mut self, hearing: Millis) {
        if self.until.is_some_and(|until| until <= hearing) {
            self.until = None;
            (self.own.withheld, self.borrowed.withheld) = (0, 0);
        }
    }

    /// What is still used of it.
    fn needed(&self, permit: Permit) -> Permit {
        let needed = |side: Side, places: u32| places.min(side.used + side.withheld);
        let (places, borrowed) = (needed(self.own, permit.places), needed(self.borrowed, permit.borrowed));
        let left = Permit { places, borrowed, lease_ms: permit.lease_ms };
        if left.is_none() { Permit::default() } else { left }
    }
}

impl Calls {
    /// Blocks whose starts are nearly used up, with more of them: charged before a call has to wait for it.
    pub fn refill(&mut self, state: &State) -> Vec<Record> {
        if self.low.is_empty() {
            return Vec::new();
        }
        let mut records = Vec::new();
        for (tenant, agent) in std::mem::take(&mut self.low) {
            let Some(block) = self.blocks.get_mut(&(tenant.clone(), agent.clone())) else { continue };
            let permit = state.permit(&tenant, &agent);
            let starts = starts_there(state, &tenant, &agent).min(block.next_starts());
            if starts > 0 && !permit.is_none() && block.starts <= block.grown / 4 {
                block.charged(starts);
                records.push(permits::record(&tenant, &agent, permit, starts, 0));
            }
        }
        records
    }

    /// Blocks that are given back: unused for a while, or in the way of tasks. And slot-time that is charged beside them.
    pub fn give_back(&mut self, state: &State, now: Millis) -> Vec<Record> {
        if self.tidy_at > now {
            return Vec::new();
        }
        self.tidy_at = now + TIDY_MS;
        let shard_waits = state.keeps_tasks_waiting();
        let mut records = Vec::new();
        self.blocks.retain(|(tenant, agent), block| {
            let permit = state.permit(tenant, agent);
            let left = block.needed(permit);
            let owed = block.owed(now, state.has_tasks_at(tenant, agent));
            if left == permit {
                if owed > 0 && block.charged_at.saturating_add(CHARGE_MS) <= now {
                    records.push(permits::record(tenant, agent, permit, 0, owed));
                    block.paid(owed, now);
                }
                return !permit.is_none();
            }
            let idle = block.used_at.saturating_add(IDLE_MS) <= now;
            if idle || shard_waits || state.is_held_up(tenant, agent) {
                records.push(permits::record(tenant, agent, left, 0, owed));
                block.paid(owed, now);
                // It grows anew.
                block.grown = 0;
                return !left.is_none();
            }
            true
        });
        records
    }
}

/// Starts that may be charged ahead: a quarter of what the rates have, or the last one.
pub(super) fn starts_there(state: &State, tenant: &TenantName, agent: &AgentName) -> u32 {
    let now = state.clock_now();
    let of_tenant = match state.tenant(tenant) {
        Some(tenant) => tenant.rate.left(now),
        None => state.plan_of(tenant).map(|plan| if plan.rate > 0 { plan.burst } else { 0 }),
    };
    let own = state.agents().get(agent).and_then(|agent| agent.settings.as_deref());
    let of_agent = own.and_then(|own| own.rate.left(now));
    let part = |left: Option<u32>| left.map_or(MOST_STARTS, |left| (left / 4).max(left.min(1)));
    part(of_tenant).min(part(of_agent)).min(MOST_STARTS)
}

impl State {
    /// Whether the shard's cap keeps tasks waiting, while places for calls count against it.
    fn keeps_tasks_waiting(&self) -> bool {
        self.called > 0
            && self.occupied() >= self.policy.in_flight
            && self.queues().any(|(_, queue)| queue.queued() > 0)
    }

    /// Whether places for calls of a tenant at an agent keep tasks waiting.
    fn is_held_up(&self, tenant: &TenantName, agent: &AgentName) -> bool {
        let Some((number, tenant)) = self.tenants.number(tenant).zip(self.tenants.get(tenant)) else {
            return false;
        };
        if tenant.waits() && tenant.in_flight < tenant.plan.task_places() && !tenant.has_place() {
            return true;
        }
        let Some(agent_number) = self.agents.number(agent) else { return false };
        let Some((at, queue)) = self.agents.at(agent_number).and_then(|at| Some((at, at.queue.as_deref()?)))
        else {
            return false;
        };
        let own = at.settings.as_deref().and_then(|own| own.settings.in_flight);
        let here = queue.running_of(number) + tenant.permit_at(agent_number).at_agent();
        let lane = tenant.plan.agent_in_flight.is_some_and(|cap| here >= cap);
        (own.is_some_and(|cap| at.occupied() >= cap) && queue.queued() > 0)
            || (lane && queue.queued_of(number) > 0)
    }
}
