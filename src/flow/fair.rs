//! Who is next: per agent, weighted fair queueing on slot-time among the tenants that may run.
//!
//! Each tenant has a lane per agent. A lane's tag is its virtual time: charged with the expected
//! slot-time at dispatch, corrected to the real one at the end. The lowest tag goes first. A lane
//! that was empty enters at the virtual start of the oldest running task, so a newcomer waits for
//! about one task length whatever the others have queued, and idleness earns no credit.
//!
//! Inside a lane: resumed parents, then priority classes, then first come.
//!
//! Part of [`super::state::State`]; changed by `evolve` only. O(log ready lanes) per step.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
};

use serde::{Deserialize, Serialize};

use crate::task::{Millis, Priority, TaskId, TenantName, Token};

/// Place in a lane: class rank, then arrival order.
pub type Place = (u8, u64, TaskId);

/// The rank of a parent whose wait is over: before every class.
pub const RESUMED: u8 = 0;

/// The rank of a class; lower goes first.
pub fn rank(priority: Priority) -> u8 {
    match priority {
        Priority::Critical => 1,
        Priority::High => 2,
        Priority::Normal => 3,
        Priority::Low => 4,
    }
}

/// Virtual units per millisecond of one slot at weight 1.
const UNIT: u64 = 1024;
/// What even the shortest task costs.
const LEAST: u64 = UNIT / 4;
/// Expected slot-time of an agent nobody has run yet, in milliseconds.
const FIRST_GUESS_MS: Millis = 100;

/// What a dispatch was charged; returned when the lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// Virtual start.
    pub start: u64,
    /// Virtual cost charged ahead.
    pub cost: u64,
}

#[derive(Debug, Clone, Default)]
struct Lane {
    tasks: BTreeSet<Place>,
    vtime: u64,
    running: u32,
    /// The tag under which the lane stands in `ready`, if it does.
    ready_as: Option<u64>,
}

/// A queue as a snapshot holds it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptQueue {
    #[serde(deserialize_with = "crate::task::grown")]
    lanes: Vec<(TenantName, u64)>,
    service: u64,
    last_start: u64,
}

/// One agent's lanes.
#[derive(Debug, Clone)]
pub struct AgentQueue {
    lanes: HashMap<TenantName, Lane>,
    ready: BTreeSet<(u64, TenantName)>,
    running: BTreeSet<(u64, Token)>,
    /// Moving average of slot-time, in units.
    service: u64,
    /// Virtual start of the last dispatch: where time stands when nothing runs.
    last_start: u64,
    queued: u64,
}

impl Default for AgentQueue {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            ready: BTreeSet::new(),
            running: BTreeSet::new(),
            service: FIRST_GUESS_MS * UNIT,
            last_start: 0,
            queued: 0,
        }
    }
}

fn weighed(units: u64, weight: u32) -> u64 {
    (units / u64::from(weight.max(1))).max(1)
}

impl AgentQueue {
    /// Tasks waiting, of all tenants.
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// Whether some lane may be served now.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Tasks of `tenant` waiting here.
    pub fn queued_of(&self, tenant: &TenantName) -> usize {
        self.lanes.get(tenant).map_or(0, |lane| lane.tasks.len())
    }

    fn virtual_now(&self) -> u64 {
        match (self.running.first(), self.ready.first()) {
            (Some((start, _)), _) => *start,
            (None, Some((tag, _))) => *tag,
            (None, None) => self.last_start,
        }
    }

    /// Puts a task into its tenant's lane.
    pub fn push(&mut self, tenant: &TenantName, place: Place) {
        let entry = self.virtual_now();
        let lane = self.lanes.entry(tenant.clone()).or_default();
        if lane.tasks.is_empty() && lane.running == 0 {
            lane.vtime = lane.vtime.max(entry);
        }
        if lane.tasks.insert(place) {
            self.queued += 1;
        }
    }

    /// Takes a task out without running it.
    pub fn remove(&mut self, tenant: &TenantName, place: &Place) {
        if let Some(lane) = self.lanes.get_mut(tenant)
            && lane.tasks.remove(place)
        {
            self.queued -= 1;
        }
        self.tidy(tenant);
    }

    /// Tells whether `tenant` may run now: `open` for any task, or `resumes_only`.
    pub fn set_open(&mut self, tenant: &TenantName, open: bool, resumes_only: bool) {
        let Some(lane) = self.lanes.get_mut(tenant) else { return };
        let serves = match lane.tasks.first() {
            Some((rank, ..)) => open || (resumes_only && *rank == RESUMED),
            None => false,
        };
        let want = serves.then_some(lane.vtime);
        if lane.ready_as == want {
            return;
        }
        if let Some(tag) = lane.ready_as.take() {
            self.ready.remove(&(tag, tenant.clone()));
        }
        if let Some(tag) = want {
            self.ready.insert((tag, tenant.clone()));
            lane.ready_as = want;
        }
    }

    /// The next task to run, if any lane may run.
    pub fn next(&self) -> Option<(&TenantName, &Place)> {
        let (_, tenant) = self.ready.first()?;
        let place = self.lanes.get(tenant)?.tasks.first()?;
        Some((tenant, place))
    }

    /// The task was dispatched: takes it out of the lane and charges the expected slot-time.
    pub fn start(&mut self, tenant: &TenantName, place: &Place, token: Token, weight: u32) -> Charge {
        let cost = weighed(self.service, weight);
        let lane = self.lanes.entry(tenant.clone()).or_default();
        if lane.tasks.remove(place) {
            self.queued -= 1;
        }
        let charge = Charge { start: lane.vtime, cost };
        lane.vtime = lane.vtime.saturating_add(cost);
        lane.running += 1;
        self.running.insert((charge.start, token));
        self.last_start = self.last_start.max(charge.start);
        charge
    }

    /// The lease ended after `ran`: settles the charge to the real slot-time; `None` if it never ran.
    pub fn settle(
        &mut self,
        tenant: &TenantName,
        token: Token,
        charge: Charge,
        ran: Option<Millis>,
        weight: u32,
    ) {
        self.running.remove(&(charge.start, token));
        let units = ran.map_or(0, |ms| ms.saturating_mul(UNIT).max(LEAST));
        if ran.is_some() {
            self.service = (self.service.saturating_mul(7).saturating_add(units) / 8).max(LEAST);
        }
        if let Some(lane) = self.lanes.get_mut(tenant) {
            let real = if ran.is_some() { weighed(units, weight) } else { 0 };
            lane.vtime = lane.vtime.saturating_sub(charge.cost).saturating_add(real);
            lane.running = lane.running.saturating_sub(1);
        }
        self.tidy(tenant);
    }

    /// Forgets an idle lane that is not ahead of the others: it would re-enter at the same tag.
    fn tidy(&mut self, tenant: &TenantName) {
        let now = self.virtual_now();
        if let Some(lane) = self.lanes.get(tenant)
            && lane.tasks.is_empty()
            && lane.running == 0
            && lane.ready_as.is_none()
            && lane.vtime <= now
        {
            self.lanes.remove(tenant);
        }
    }

    /// A queue without tasks, as [`AgentQueue::kept`] told it.
    pub(super) fn restored(kept: KeptQueue) -> Self {
        let lane = |vtime| Lane { vtime, ..Lane::default() };
        Self {
            lanes: kept.lanes.into_iter().map(|(tenant, vtime)| (tenant, lane(vtime))).collect(),
            service: kept.service,
            last_start: kept.last_start,
            ..Self::default()
        }
    }

    /// Everything that can't be derived from the tasks.
    pub(super) fn kept(&self) -> KeptQueue {
        let mut lanes: Vec<_> = self.lanes.iter().map(|(t, l)| (t.clone(), l.vtime)).collect();
        lanes.sort();
        KeptQueue { lanes, service: self.service, last_start: self.last_start }
    }

    /// Puts a task of a restored state back where it waited.
    pub(super) fn put_back(&mut self, tenant: &TenantName, place: Place) {
        if self.lanes.entry(tenant.clone()).or_default().tasks.insert(place) {
            self.queued += 1;
        }
    }

    /// Puts a lease of a restored state back.
    pub(super) fn run_on(&mut self, tenant: &TenantName, token: Token, charge: Charge) {
        self.lanes.entry(tenant.clone()).or_default().running += 1;
        self.running.insert((charge.start, token));
    }

    /// What a snapshot holds of it: everything that can't be derived from the tasks.
    pub fn canonical(&self) -> impl Serialize + Debug + use<> {
        let mut lanes: Vec<_> =
            self.lanes.iter().map(|(t, l)| (t.clone(), l.vtime, l.running, l.tasks.len())).collect();
        lanes.sort();
        (lanes, self.service, self.last_start, self.queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantName {
        TenantName::new(name).unwrap()
    }

    fn fill(queue: &mut AgentQueue, name: &str, orders: std::ops::Range<u64>) {
        for order in orders {
            queue.push(&tenant(name), (3, order, TaskId::new(format!("{name}{order}")).unwrap()));
        }
        queue.set_open(&tenant(name), true, true);
    }

    /// Runs one slot for `n` tasks of 10 ms each; returns who ran.
    fn serve(queue: &mut AgentQueue, weights: &[(&str, u32)], n: usize) -> Vec<String> {
        let mut ran = Vec::new();
        for i in 0..n {
            let (who, place) = queue.next().map(|(t, p)| (t.clone(), p.clone())).unwrap();
            let weight = weights.iter().find(|(name, _)| *name == who.as_str()).unwrap().1;
            let charge = queue.start(&who, &place, Token(i as u128), weight);
            queue.settle(&who, Token(i as u128), charge, Some(10), weight);
            queue.set_open(&who, true, true);
            ran.push(who.to_string());
        }
        ran
    }

    #[test]
    fn shares_follow_weights() {
        let mut queue = AgentQueue::default();
        fill(&mut queue, "a", 0..1_000);
        fill(&mut queue, "b", 0..1_000);
        let ran = serve(&mut queue, &[("a", 1), ("b", 3)], 400);
        let b = ran.iter().filter(|t| *t == "b").count();
        assert!((295..=305).contains(&b), "{b} of 400");
    }

    #[test]
    fn a_newcomer_goes_next_whatever_the_backlog() {
        let mut queue = AgentQueue::default();
        fill(&mut queue, "a", 0..5_000);
        serve(&mut queue, &[("a", 1)], 500);
        fill(&mut queue, "b", 0..3);
        let ran = serve(&mut queue, &[("a", 1), ("b", 1)], 2);
        assert!(ran.contains(&"b".to_owned()), "{ran:?}");
    }

    #[test]
    fn idleness_earns_no_credit() {
        let mut queue = AgentQueue::default();
        fill(&mut queue, "b", 0..1);
        serve(&mut queue, &[("b", 1)], 1);
        fill(&mut queue, "a", 0..1_000);
        serve(&mut queue, &[("a", 1)], 500);
        fill(&mut queue, "b", 1..500);
        let ran = serve(&mut queue, &[("a", 1), ("b", 1)], 100);
        let b = ran.iter().filter(|t| *t == "b").count();
        assert!((49..=52).contains(&b), "{b} of 100");
    }
}
