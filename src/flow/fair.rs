//! Who is next: per agent, weighted fair queueing on slot-time among the tenants that may run.
//!
//! Each tenant has a lane per agent. A lane's tag is its virtual time: charged with the expected
//! slot-time at dispatch, corrected to the real one at the end. The lowest tag goes first. A lane
//! that was empty enters at the virtual start of the oldest running task, so a newcomer waits for
//! about one task length whatever the others have queued, and idleness earns no credit.
//!
//! Inside a lane: resumed parents, then priority classes, then first come.
//!
//! Part of [`super::state::State`]; changed by `evolve` only. O(log ready lanes) per step. Tenants and tasks are
//! numbers here.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt::Debug,
};

use serde::{Deserialize, Serialize};

use super::{quick::QuickMap, tasks::Slot};
use crate::task::{Millis, Priority, TenantName};

/// Place in a lane: class rank, then arrival order.
pub type Place = (u8, u64);

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

const RANKS: usize = 5;

/// Virtual units per millisecond of one slot at weight 1.
const UNIT: u64 = 1024;
/// What even the shortest task costs.
const LEAST: u64 = UNIT / 4;
/// Expected slot-time of an agent nobody has run yet, in milliseconds.
const FIRST_GUESS_MS: Millis = 100;
/// Idle lanes are looked through whenever there are a multiple of so many lanes.
const SWEEP: usize = 256;

/// What a dispatch was charged; returned when the lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// Virtual start.
    pub start: u64,
    /// Virtual cost charged ahead.
    pub cost: u64,
}

/// Tasks of one class in order of arrival. Most come at the back and go from the front; one that is taken out of the
/// middle leaves a hole.
#[derive(Debug, Clone, Default)]
struct Line {
    entries: VecDeque<(u64, Option<Slot>)>,
    holes: usize,
}

impl Line {
    fn push(&mut self, order: u64, slot: Slot) -> bool {
        if self.entries.back().is_none_or(|(last, _)| *last < order) {
            self.entries.push_back((order, Some(slot)));
            return true;
        }
        match self.entries.binary_search_by_key(&order, |(order, _)| *order) {
            Ok(at) if self.entries[at].1.is_some() => return false,
            Ok(at) => {
                self.entries[at].1 = Some(slot);
                self.holes -= 1;
            }
            Err(at) => self.entries.insert(at, (order, Some(slot))),
        }
        true
    }

    fn remove(&mut self, order: u64) -> bool {
        let Ok(at) = self.entries.binary_search_by_key(&order, |(order, _)| *order) else { return false };
        if self.entries[at].1.take().is_none() {
            return false;
        }
        self.holes += 1;
        while self.entries.front().is_some_and(|(_, slot)| slot.is_none()) {
            self.entries.pop_front();
            self.holes -= 1;
        }
        if self.holes > 32 && self.holes * 2 > self.entries.len() {
            self.entries.retain(|(_, slot)| slot.is_some());
            self.holes = 0;
        }
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        } else if self.entries.capacity() > 64 && self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        true
    }
}

#[derive(Debug, Clone, Default)]
struct Lane {
    lines: [Line; RANKS],
    queued: usize,
    vtime: u64,
    running: u32,
    /// The tag under which the lane stands in `ready`, if it does.
    ready_as: Option<u64>,
}

impl Lane {
    fn first(&self) -> Option<(u8, Slot)> {
        let mut lines = self.lines.iter().enumerate();
        lines.find_map(|(rank, line)| Some((rank as u8, line.entries.front()?.1?)))
    }

    fn push(&mut self, (rank, order): Place, slot: Slot) -> bool {
        let pushed = self.lines[usize::from(rank) % RANKS].push(order, slot);
        self.queued += usize::from(pushed);
        pushed
    }

    fn remove(&mut self, (rank, order): Place) -> bool {
        let removed = self.lines[usize::from(rank) % RANKS].remove(order);
        self.queued -= usize::from(removed);
        removed
    }

    fn is_idle(&self) -> bool {
        self.queued == 0 && self.running == 0 && self.ready_as.is_none()
    }
}

/// Virtual starts of what runs, lowest first: nearly always they come in this order.
#[derive(Debug, Clone, Default)]
struct Starts(VecDeque<(u64, u32)>);

impl Starts {
    fn add(&mut self, start: u64) {
        if self.0.back().is_none_or(|(last, _)| *last < start) {
            return self.0.push_back((start, 1));
        }
        match self.0.binary_search_by_key(&start, |(start, _)| *start) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (start, 1)),
        }
    }

    fn remove(&mut self, start: u64) {
        if let Ok(at) = self.0.binary_search_by_key(&start, |(start, _)| *start) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }

    fn first(&self) -> Option<u64> {
        self.0.front().map(|(start, _)| *start)
    }
}

/// A queue as a snapshot holds it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptQueue {
    #[serde(deserialize_with = "crate::task::grown")]
    lanes: Vec<(u32, u64)>,
    service: u64,
    last_start: u64,
}

/// One agent's lanes.
#[derive(Debug, Clone)]
pub struct AgentQueue {
    lanes: QuickMap<u32, Lane>,
    ready: BTreeSet<(u64, u32)>,
    running: Starts,
    /// Moving average of slot-time, in units.
    service: u64,
    /// Virtual start of the last dispatch: where time stands when nothing runs.
    last_start: u64,
    queued: u64,
}

impl Default for AgentQueue {
    fn default() -> Self {
        Self {
            lanes: QuickMap::default(),
            ready: BTreeSet::new(),
            running: Starts::default(),
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

    /// Lanes, idle ones too.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Whether some lane may be served now.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Tasks of `tenant` waiting here.
    pub fn queued_of(&self, tenant: u32) -> usize {
        self.lanes.get(&tenant).map_or(0, |lane| lane.queued)
    }

    fn virtual_now(&self) -> u64 {
        match (self.running.first(), self.ready.first()) {
            (Some(start), _) => start,
            (None, Some((tag, _))) => *tag,
            (None, None) => self.last_start,
        }
    }

    fn lane(&mut self, tenant: u32) -> &mut Lane {
        if self.lanes.len() % SWEEP == SWEEP - 1 && !self.lanes.contains_key(&tenant) {
            let now = self.virtual_now();
            self.lanes.retain(|_, lane| !lane.is_idle() || lane.vtime > now);
        }
        self.lanes.entry(tenant).or_default()
    }

    /// Puts a task into its tenant's lane.
    pub fn push(&mut self, tenant: u32, place: Place, slot: Slot) {
        let entry = self.virtual_now();
        let lane = self.lane(tenant);
        if lane.queued == 0 && lane.running == 0 {
            lane.vtime = lane.vtime.max(entry);
        }
        if lane.push(place, slot) {
            self.queued += 1;
        }
    }

    /// Takes a task out without running it.
    pub fn remove(&mut self, tenant: u32, place: Place) {
        if let Some(lane) = self.lanes.get_mut(&tenant)
            && lane.remove(place)
        {
            self.queued -= 1;
        }
        self.tidy(tenant);
    }

    /// Tells whether `tenant` may run now: `open` for any task, or `resumes_only`.
    pub fn set_open(&mut self, tenant: u32, open: bool, resumes_only: bool) {
        let Some(lane) = self.lanes.get_mut(&tenant) else { return };
        let serves = match lane.first() {
            Some((rank, _)) => open || (resumes_only && rank == RESUMED),
            None => false,
        };
        let want = serves.then_some(lane.vtime);
        if lane.ready_as == want {
            return;
        }
        if let Some(tag) = lane.ready_as.take() {
            self.ready.remove(&(tag, tenant));
        }
        if let Some(tag) = want {
            self.ready.insert((tag, tenant));
            lane.ready_as = want;
        }
    }

    /// The next task to run, if any lane may run.
    pub fn next(&self) -> Option<(u32, Slot)> {
        let (_, tenant) = self.ready.first()?;
        let (_, slot) = self.lanes.get(tenant)?.first()?;
        Some((*tenant, slot))
    }

    /// The tasks behind the next one of a tenant, at most `max`.
    pub fn ahead(&self, tenant: u32, max: usize) -> impl Iterator<Item = Slot> {
        let lines = self.lanes.get(&tenant).into_iter().flat_map(|lane| lane.lines.iter());
        lines.flat_map(|line| line.entries.iter()).filter_map(|(_, slot)| *slot).take(max)
    }

    /// The task was dispatched: takes it out of the lane and charges the expected slot-time.
    pub fn start(&mut self, tenant: u32, place: Place, weight: u32) -> Charge {
        let cost = weighed(self.service, weight);
        let lane = self.lanes.entry(tenant).or_default();
        if lane.remove(place) {
            self.queued -= 1;
        }
        let charge = Charge { start: lane.vtime, cost };
        lane.vtime = lane.vtime.saturating_add(cost);
        lane.running += 1;
        self.running.add(charge.start);
        self.last_start = self.last_start.max(charge.start);
        charge
    }

    /// The lease ended after `ran`: settles the charge to the real slot-time; `None` if it never ran.
    pub fn settle(&mut self, tenant: u32, charge: Charge, ran: Option<Millis>, weight: u32) {
        self.running.remove(charge.start);
        let units = ran.map_or(0, |ms| ms.saturating_mul(UNIT).max(LEAST));
        if ran.is_some() {
            self.service = (self.service.saturating_mul(7).saturating_add(units) / 8).max(LEAST);
        }
        if let Some(lane) = self.lanes.get_mut(&tenant) {
            let real = if ran.is_some() { weighed(units, weight) } else { 0 };
            lane.vtime = lane.vtime.saturating_sub(charge.cost).saturating_add(real);
            lane.running = lane.running.saturating_sub(1);
        }
        self.tidy(tenant);
    }

    /// Forgets an idle lane that is not ahead of the others: it would re-enter at the same tag.
    pub(super) fn tidy(&mut self, tenant: u32) {
        let Some(lane) = self.lanes.get(&tenant) else { return };
        if lane.is_idle() && lane.vtime <= self.virtual_now() {
            self.lanes.remove(&tenant);
        }
    }

    /// The tenant has left: nothing of it waits or runs.
    pub(super) fn forget(&mut self, tenant: u32) {
        self.lanes.remove(&tenant);
    }

    /// A queue without tasks, as [`AgentQueue::kept`] told it; `number` says what a tenant's number is now.
    pub(super) fn restored(kept: KeptQueue, number: impl Fn(u32) -> Option<u32>) -> Option<Self> {
        let mut queue = Self { service: kept.service, last_start: kept.last_start, ..Self::default() };
        for (tenant, vtime) in kept.lanes {
            queue.lanes.insert(number(tenant)?, Lane { vtime, ..Lane::default() });
        }
        Some(queue)
    }

    /// Everything that can't be derived from the tasks.
    pub(super) fn kept(&self) -> KeptQueue {
        let lanes = self.lanes.iter().map(|(tenant, lane)| (*tenant, lane.vtime)).collect();
        KeptQueue { lanes, service: self.service, last_start: self.last_start }
    }

    /// Puts a task of a restored state back where it waited.
    pub(super) fn put_back(&mut self, tenant: u32, place: Place, slot: Slot) -> bool {
        let put = self.lanes.entry(tenant).or_default().push(place, slot);
        self.queued += u64::from(put);
        put
    }

    /// Puts a lease of a restored state back.
    pub(super) fn run_on(&mut self, tenant: u32, charge: Charge) {
        self.lanes.entry(tenant).or_default().running += 1;
        self.running.add(charge.start);
    }

    /// All of it in one encoding; `name` says what a number stands for.
    pub fn canonical<'a>(
        &self,
        name: &dyn Fn(u32) -> Option<&'a TenantName>,
    ) -> impl Serialize + Debug + use<'a> {
        let mut lanes: Vec<_> =
            self.lanes.iter().map(|(t, l)| (name(*t), l.vtime, l.running, l.queued)).collect();
        lanes.sort();
        (lanes, self.service, self.last_start, self.queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u32 = 0;
    const B: u32 = 1;

    fn fill(queue: &mut AgentQueue, tenant: u32, orders: std::ops::Range<u64>) {
        for order in orders {
            // In these tests a slot tells the task's order.
            queue.push(tenant, (3, order), Slot(order as u32));
        }
        queue.set_open(tenant, true, true);
    }

    /// Runs one slot for `n` tasks of 10 ms each; returns who ran.
    fn serve(queue: &mut AgentQueue, weights: &[u32], n: usize) -> Vec<u32> {
        let mut ran = Vec::new();
        for _ in 0..n {
            let (who, slot) = queue.next().unwrap();
            let weight = weights[who as usize];
            let charge = queue.start(who, (3, u64::from(slot.0)), weight);
            queue.settle(who, charge, Some(10), weight);
            queue.set_open(who, true, true);
            ran.push(who);
        }
        ran
    }

    #[test]
    fn shares_follow_weights() {
        let mut queue = AgentQueue::default();
        fill(&mut queue, A, 0..1_000);
        fill(&mut queue, B, 0..1_000);
        let ran = serve(&mut queue, &[1, 3], 400);
        let b = ran.iter().filter(|t| **t == B).count();
        assert!((295..=305).contains(&b), "{b} of 400");
    }

    #[test]
    fn a_newcomer_goes_next_whatever_the_backlog() {
        let mut queue = AgentQueue::default();
        fill(&mut queue, A, 0..5_000);
        serve(&mut queue, &[1, 1], 500);
        fill(&mut queue, B, 0..3);
        let ran = serve(&mut queue, &[1, 1], 2);
        assert!(ran.contains(&B), "{ran:?}");
    }

    #[test]
    fn idleness_earns_no_credit() {
        let mut queue = AgentQueue::default();
        fill(&mut queue, B, 0..1);
        serve(&mut queue, &[1, 1], 1);
        fill(&mut queue, A, 0..1_000);
        serve(&mut queue, &[1, 1], 500);
        fill(&mut queue, B, 1..500);
        let ran = serve(&mut queue, &[1, 1], 100);
        let b = ran.iter().filter(|t| **t == B).count();
        assert!((49..=52).contains(&b), "{b} of 100");
    }

    #[test]
    fn what_comes_back_goes_to_its_old_place_and_holes_are_no_tasks() {
        let mut queue = AgentQueue::default();
        fill(&mut queue, A, 10..200);
        for order in 20..150 {
            queue.remove(A, (3, order));
        }
        queue.push(A, (3, 5), Slot(5));
        queue.push(A, (3, 30), Slot(30));
        queue.push(A, (0, 190_000), Slot(1));
        assert_eq!(queue.queued(), 63);
        let mut order = Vec::new();
        queue.set_open(A, true, true);
        while let Some((_, slot)) = queue.next() {
            let place = if slot == Slot(1) { (0, 190_000) } else { (3, u64::from(slot.0)) };
            let charge = queue.start(A, place, 1);
            queue.settle(A, charge, None, 1);
            queue.set_open(A, true, true);
            order.push(slot.0);
        }
        let want: Vec<u32> = [1, 5].into_iter().chain(10..20).chain([30]).chain(150..200).collect();
        assert_eq!(order, want);
        assert_eq!(queue.queued(), 0);
    }
}
