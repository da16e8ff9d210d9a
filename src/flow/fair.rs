//! Who is next: per agent, weighted fair queueing on slot-time among the tenants that may run.
//!
//! Each tenant has a lane per agent. A lane's tag is its virtual time: charged with the expected
//! slot-time at dispatch, corrected to the real one at the end. What is expected is the length of the task in which a
//! moment of the lane's slot-time falls: what runs is mostly the long ones, however many short ones there are, and what is
//! charged too much for a short one is back soon. Until the lane has run one it is the agent's mean. The lowest tag goes first. A lane
//! that was empty enters at the virtual start of the oldest running task, so a newcomer waits for
//! about one task length whatever the others have queued, and idleness earns no credit.
//!
//! Inside a lane: resumed parents, then priority classes, then first come. A class is one higher for every
//! [`Ageing`] step since a task was admitted, up to the highest. The first of a class is its oldest, so only five are
//! looked at when a task is picked, and nothing has to be moved when time passes.
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
/// The highest class.
const TOP: u32 = 1;

/// How age raises a class: one step for so many seconds; 0: never. And what time it is, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ageing {
    /// Seconds of logical time, from 1.
    pub now: u32,
    /// Seconds per step.
    pub step: u32,
}

impl Ageing {
    /// The steps that being there since then has earned.
    pub fn steps(self, since: u32) -> u32 {
        self.now.saturating_sub(since).checked_div(self.step).unwrap_or(0)
    }

    /// The rank of a class after so long; a resumed parent's stays.
    fn aged(self, rank: usize, since: u32) -> u32 {
        let rank = rank as u32;
        if rank < TOP { rank } else { rank.saturating_sub(self.steps(since)).max(TOP) }
    }
}

/// Virtual units per millisecond of one slot at weight 1.
const UNIT: u64 = 1024;
/// What even the shortest task costs.
const LEAST: u64 = UNIT / 4;
/// Tasks that a lane's mean looks back on: enough that short and long ones in turn don't make it swing.
const LOOK_BACK: u32 = 128;
/// Expected slot-time of an agent nobody has run yet, in milliseconds.
const FIRST_GUESS_MS: Millis = 100;
/// Entries that are looked at one by one to tell the holes among them.
const COUNTED: usize = 65_536;
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

/// A task in its line.
#[derive(Debug, Clone, Copy)]
struct Entry {
    order: u64,
    /// [`HOLE`]: it was taken out.
    slot: Slot,
    /// When it was admitted, in seconds of logical time; never before what stands in front of it.
    since: u32,
}

/// No task's slot.
const HOLE: Slot = Slot(u32::MAX);

impl Entry {
    fn task(self) -> Option<Slot> {
        (self.slot != HOLE).then_some(self.slot)
    }
}

/// Tasks of one class in order of arrival. Most come at the back and go from the front; one that is taken out of the
/// middle leaves a hole.
#[derive(Debug, Clone, Default)]
struct Line {
    entries: VecDeque<Entry>,
    holes: usize,
}

impl Line {
    fn push(&mut self, entry: Entry) -> bool {
        if self.entries.back().is_none_or(|last| last.order < entry.order) {
            self.entries.push_back(entry);
            return true;
        }
        match self.entries.binary_search_by_key(&entry.order, |known| known.order) {
            Ok(at) if self.entries[at].task().is_some() => return false,
            Ok(at) => {
                self.entries[at] = entry;
                self.holes -= 1;
            }
            Err(at) => self.entries.insert(at, entry),
        }
        true
    }

    fn remove(&mut self, order: u64) -> bool {
        let Ok(at) = self.entries.binary_search_by_key(&order, |entry| entry.order) else { return false };
        if self.entries[at].task().is_none() {
            return false;
        }
        self.entries[at].slot = HOLE;
        self.holes += 1;
        while self.entries.front().is_some_and(|entry| entry.task().is_none()) {
            self.entries.pop_front();
            self.holes -= 1;
        }
        if self.holes > 32 && self.holes * 2 > self.entries.len() {
            self.entries.retain(|entry| entry.task().is_some());
            self.holes = 0;
        }
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        } else if self.entries.capacity() > 64 && self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        true
    }

    /// How many stand before the first that is not meant.
    fn before(&self, is_meant: impl Fn(&Entry) -> bool) -> usize {
        let end = self.entries.partition_point(is_meant);
        match (self.holes, end <= COUNTED) {
            (0, _) => end,
            (_, true) => self.entries.range(..end).filter(|entry| entry.task().is_some()).count(),
            (holes, false) => end.saturating_sub(holes),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Lane {
    lines: [Line; RANKS],
    queued: usize,
    vtime: u64,
    running: u32,
    /// Mean slot-time of its tasks, in units, and of how many, up to [`LOOK_BACK`].
    service: u64,
    seen: u32,
    /// Mean of its square, in units squared by [`UNIT`].
    square: u64,
    /// The tag under which the lane stands in `ready`, if it does, and whether it stands in `resumes`, too.
    ready_as: Option<(u64, bool)>,
}

impl Lane {
    /// The oldest of each class, with its rank.
    fn fronts(&self) -> impl Iterator<Item = (usize, Entry)> {
        let lines = self.lines.iter().enumerate();
        lines.filter_map(|(rank, line)| Some((rank, *line.entries.front()?)))
    }

    fn first(&self, ageing: Ageing) -> Option<Slot> {
        let aged =
            self.fronts().map(|(rank, entry)| (ageing.aged(rank, entry.since), entry.order, entry.slot));
        aged.min().map(|(_, _, slot)| slot)
    }

    fn resumes(&self) -> bool {
        !self.lines[usize::from(RESUMED)].entries.is_empty()
    }

    fn push(&mut self, (rank, order): Place, slot: Slot, since: u32) -> bool {
        let pushed = self.lines[usize::from(rank) % RANKS].push(Entry { order, slot, since });
        self.queued += usize::from(pushed);
        pushed
    }

    fn remove(&mut self, (rank, order): Place) -> bool {
        let removed = self.lines[usize::from(rank) % RANKS].remove(order);
        self.queued -= usize::from(removed);
        removed
    }

    /// A task has run for so long.
    fn learn(&mut self, units: u64) {
        self.seen = (self.seen + 1).min(LOOK_BACK);
        let seen = u64::from(self.seen);
        let mean = |old: u64, new: u64| old.saturating_mul(seen - 1).saturating_add(new) / seen;
        self.service = mean(self.service, units).max(LEAST);
        self.square = mean(self.square, units.saturating_mul(units) / UNIT);
    }

    /// What its next task is expected to take: the mean over its slot-time, not over its tasks.
    fn expected(&self) -> u64 {
        let expected = u128::from(self.square) * u128::from(UNIT) / u128::from(self.service.max(1));
        u64::try_from(expected).unwrap_or(u64::MAX).max(self.service)
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
    /// What lanes have learned of their tasks: mean and number.
    #[serde(deserialize_with = "crate::task::grown", default)]
    learned: Vec<(u32, u64, u32)>,
    /// Means of squares of the same.
    #[serde(deserialize_with = "crate::task::grown", default)]
    squares: Vec<(u32, u64)>,
}

/// One agent's lanes.
#[derive(Debug, Clone)]
pub struct AgentQueue {
    lanes: QuickMap<u32, Lane>,
    ready: BTreeSet<(u64, u32)>,
    /// Those of `ready` with a resumed parent in front.
    resumes: BTreeSet<(u64, u32)>,
    running: Starts,
    /// Live leases.
    in_flight: u32,
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
            resumes: BTreeSet::new(),
            running: Starts::default(),
            in_flight: 0,
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

    /// Lanes with work: the tenant, its tasks waiting and running, and since when the oldest that waits is there.
    pub(super) fn lanes_of(&self) -> impl Iterator<Item = (u32, u64, u64, Option<u32>)> {
        self.lanes.iter().filter(|(_, lane)| lane.queued > 0 || lane.running > 0).map(|(tenant, lane)| {
            let oldest = lane.fronts().map(|(_, entry)| entry.since).min();
            (*tenant, lane.queued as u64, u64::from(lane.running), oldest)
        })
    }

    /// How long a task holds its slot, on average over the last ones; `None`: none has run yet.
    pub fn service(&self) -> Option<Millis> {
        let learned = self.lanes.values().any(|lane| lane.seen > 0) || self.service != FIRST_GUESS_MS * UNIT;
        learned.then_some(self.service / UNIT)
    }

    /// Whether some lane may be served now.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Live leases, of all tenants.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Live leases of `tenant` here.
    pub fn running_of(&self, tenant: u32) -> u32 {
        self.lanes.get(&tenant).map_or(0, |lane| lane.running)
    }

    /// The tasks of `tenant` of which one is next here, resumed parents left out.
    pub(super) fn fronts_of(&self, tenant: u32) -> impl Iterator<Item = Slot> {
        let fronts = self.lanes.get(&tenant).into_iter().flat_map(Lane::fronts);
        fronts.filter(|(rank, _)| *rank != usize::from(RESUMED)).map(|(_, entry)| entry.slot)
    }

    /// Tasks of `tenant` that go before one that was admitted then and stands there; if they are very many, at least so
    /// many.
    pub fn before(&self, tenant: u32, (rank, order): Place, since: u32, ageing: Ageing) -> u64 {
        let Some(lane) = self.lanes.get(&tenant) else { return 0 };
        let own = (ageing.aged(usize::from(rank), since), order);
        let before = lane.lines.iter().enumerate().map(|(rank, line)| {
            line.before(|entry| (ageing.aged(rank, entry.since), entry.order) < own) as u64
        });
        before.sum()
    }

    /// Lanes that may be served and go before that of `tenant`, which may be, too: at most `max` are counted.
    pub fn lanes_before(&self, tenant: u32, max: usize) -> usize {
        let tag = self.lanes.get(&tenant).and_then(|lane| lane.ready_as);
        tag.map_or(0, |(tag, _)| self.ready.range(..(tag, tenant)).take(max).count())
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

    /// Puts a task into its tenant's lane; it was admitted then, in seconds of logical time.
    pub fn push(&mut self, tenant: u32, place: Place, slot: Slot, since: u32) {
        let entry = self.virtual_now();
        let lane = self.lane(tenant);
        if lane.queued == 0 && lane.running == 0 {
            lane.vtime = lane.vtime.max(entry);
        }
        if lane.push(place, slot, since) {
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
        let resumes = lane.resumes() && (open || resumes_only);
        let serves = resumes || (open && lane.queued > 0);
        let want = serves.then_some((lane.vtime, resumes));
        if lane.ready_as == want {
            return;
        }
        if let Some((tag, resumes)) = lane.ready_as.take() {
            self.ready.remove(&(tag, tenant));
            if resumes {
                self.resumes.remove(&(tag, tenant));
            }
        }
        if let Some((tag, resumes)) = want {
            self.ready.insert((tag, tenant));
            if resumes {
                self.resumes.insert((tag, tenant));
            }
            lane.ready_as = want;
        }
    }

    /// The next task to run, if any lane may run.
    pub fn next(&self, ageing: Ageing) -> Option<(u32, Slot)> {
        let (_, tenant) = self.ready.first()?;
        Some((*tenant, self.lanes.get(tenant)?.first(ageing)?))
    }

    /// The next resumed parent, if any lane may run.
    pub fn next_resume(&self) -> Option<(u32, Slot)> {
        let (_, tenant) = self.resumes.first()?;
        Some((*tenant, self.lanes.get(tenant)?.first(Ageing::default())?))
    }

    /// The tasks behind the next one of a tenant, at most `max`.
    pub fn ahead(&self, tenant: u32, max: usize) -> impl Iterator<Item = Slot> {
        let lines = self.lanes.get(&tenant).into_iter().flat_map(|lane| lane.lines.iter());
        lines.flat_map(|line| line.entries.iter()).filter_map(|entry| entry.task()).take(max)
    }

    /// The task was dispatched: takes it out of the lane and charges the expected slot-time.
    pub fn start(&mut self, tenant: u32, place: Place, weight: u32) -> Charge {
        let first = self.service;
        let lane = self.lanes.entry(tenant).or_default();
        let cost = weighed(if lane.seen > 0 { lane.expected() } else { first }, weight);
        if lane.remove(place) {
            self.queued -= 1;
        }
        let charge = Charge { start: lane.vtime, cost };
        lane.vtime = lane.vtime.saturating_add(cost);
        lane.running += 1;
        self.in_flight += 1;
        self.running.add(charge.start);
        self.last_start = self.last_start.max(charge.start);
        charge
    }

    /// The lease ended after `ran`: settles the charge to the real slot-time; `None` if it never ran.
    pub fn settle(&mut self, tenant: u32, charge: Charge, ran: Option<Millis>, weight: u32) {
        self.running.remove(charge.start);
        self.in_flight = self.in_flight.saturating_sub(1);
        let units = ran.map_or(0, |ms| ms.saturating_mul(UNIT).max(LEAST));
        if ran.is_some() {
            self.service = (self.service.saturating_mul(7).saturating_add(units) / 8).max(LEAST);
        }
        if let Some(lane) = self.lanes.get_mut(&tenant) {
            let real = match ran {
                Some(_) => {
                    lane.learn(units);
                    weighed(units, weight)
                }
                None => 0,
            };
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
        for (tenant, service, seen) in kept.learned {
            let lane = queue.lanes.get_mut(&number(tenant)?)?;
            (lane.service, lane.seen) = (service, seen.min(LOOK_BACK));
        }
        for (tenant, square) in kept.squares {
            queue.lanes.get_mut(&number(tenant)?)?.square = square;
        }
        Some(queue)
    }

    /// Everything that can't be derived from the tasks.
    pub(super) fn kept(&self) -> KeptQueue {
        let lanes = self.lanes.iter().map(|(tenant, lane)| (*tenant, lane.vtime)).collect();
        let learned = self.lanes.iter().filter(|(_, lane)| lane.seen > 0);
        let learned = learned.map(|(tenant, lane)| (*tenant, lane.service, lane.seen)).collect();
        let squares = self.lanes.iter().filter(|(_, lane)| lane.seen > 0);
        let squares = squares.map(|(tenant, lane)| (*tenant, lane.square)).collect();
        KeptQueue { lanes, service: self.service, last_start: self.last_start, learned, squares }
    }

    /// Puts a task of a restored state back where it waited.
    pub(super) fn put_back(&mut self, tenant: u32, place: Place, slot: Slot, since: u32) -> bool {
        let put = self.lanes.entry(tenant).or_default().push(place, slot, since);
        self.queued += u64::from(put);
        put
    }

    /// Puts a lease of a restored state back.
    pub(super) fn run_on(&mut self, tenant: u32, charge: Charge) {
        self.lanes.entry(tenant).or_default().running += 1;
        self.in_flight += 1;
        self.running.add(charge.start);
    }

    /// All of it in one encoding; `name` says what a number stands for.
    pub fn canonical<'a>(
        &self,
        name: &dyn Fn(u32) -> Option<&'a TenantName>,
    ) -> impl Serialize + Debug + use<'a> {
        let mut lanes: Vec<_> = self
            .lanes
            .iter()
            .map(|(t, l)| (name(*t), l.vtime, l.running, l.queued, l.service, (l.seen, l.square)))
            .collect();
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
            queue.push(tenant, (3, order), Slot(order as u32), 1);
        }
        queue.set_open(tenant, true, true);
    }

    /// Runs one slot for `n` tasks of 10 ms each; returns who ran.
    fn serve(queue: &mut AgentQueue, weights: &[u32], n: usize) -> Vec<u32> {
        let mut ran = Vec::new();
        for _ in 0..n {
            let (who, slot) = queue.next(Ageing::default()).unwrap();
            let weight = weights[who as usize];
            let charge = queue.start(who, (3, u64::from(slot.0)), weight);
            queue.settle(who, charge, Some(10), weight);
            queue.set_open(who, true, true);
            ran.push(who);
        }
        ran
    }

    #[test]
    fn the_tasks_before_one_are_those_that_would_be_picked_before_it() {
        let mut queue = AgentQueue::default();
        // Classes, admission times and holes as they come.
        let places: Vec<(Place, u32)> =
            (0..200u64).map(|order| (((order * 7 % 4 + 1) as u8, order), (order / 3) as u32 + 1)).collect();
        for (place, since) in &places {
            queue.push(A, *place, Slot(place.1 as u32), *since);
        }
        for (place, _) in places.iter().filter(|(place, _)| place.1 % 5 == 2) {
            queue.remove(A, *place);
        }
        queue.set_open(A, true, true);
        let ageing = Ageing { now: 90, step: 20 };
        let mut picked = 0;
        while let Some((_, slot)) = queue.next(ageing) {
            let (place, since) = places[slot.0 as usize];
            assert_eq!(queue.before(A, place, since, ageing), 0, "{place:?} is picked");
            queue.remove(A, place);
            queue.set_open(A, true, true);
            picked += 1;
        }
        assert_eq!(picked, 160);
        // Of all that are there again, the last one picked has all others before it.
        let mut queue = AgentQueue::default();
        places.iter().for_each(|(place, since)| queue.push(A, *place, Slot(place.1 as u32), *since));
        queue.set_open(A, true, true);
        let mut before: Vec<u64> =
            places.iter().map(|(place, since)| queue.before(A, *place, *since, ageing)).collect();
        before.sort_unstable();
        assert_eq!(before, (0..200).collect::<Vec<u64>>(), "each place once");
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
    fn short_and_long_tasks_mixed_leave_the_shares_as_they_are() {
        let (slots, weights, lengths) = (20, [1, 2, 4], [1, 20, 500]);
        let mut queue = AgentQueue::default();
        (0..3).for_each(|tenant| fill(&mut queue, tenant, 0..20_000));
        let (mut now, mut begun, mut held) = (0u64, [0usize; 3], [0u64; 3]);
        let mut running: Vec<(u64, u32, u64, Charge)> = Vec::new();
        while now < 12_000 {
            while running.len() < slots {
                let (who, slot) = queue.next(Ageing::default()).unwrap();
                let at = who as usize;
                let charge = queue.start(who, (3, u64::from(slot.0)), weights[at]);
                let length = lengths[(at + begun[at]) % 3] + 1;
                begun[at] += 1;
                running.push((now + length, who, length, charge));
                queue.set_open(who, true, true);
            }
            if now >= 2_000 {
                running.iter().for_each(|(_, who, ..)| held[*who as usize] += 1);
            }
            now += 1;
            let ended = running.extract_if(.., |(end, ..)| *end <= now).collect::<Vec<_>>();
            for (_, who, length, charge) in ended {
                queue.settle(who, charge, Some(length), weights[who as usize]);
                queue.set_open(who, true, true);
            }
        }
        let all: u64 = held.iter().sum();
        for (held, weight) in held.into_iter().zip(weights) {
            let (part, fair) = (held as f64 / all as f64, f64::from(weight) / 7.0);
            assert!((part / fair - 1.0).abs() < 0.03, "weight {weight} has {part}, not {fair}");
        }
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

    /// Slots that serve lanes which always have more; each tenant's weight and task lengths. Slot-time by tenant.
    fn shares(slots: usize, tenants: &[(u32, &[Millis])], until: Millis) -> Vec<f64> {
        let mut queue = AgentQueue::default();
        let mut ends = std::collections::BinaryHeap::new();
        let (mut order, mut now) = (0u64, 0);
        let mut served = vec![0.0; tenants.len()];
        let mut runs = vec![0usize; tenants.len()];
        let push = |queue: &mut AgentQueue, tenant: usize, order: &mut u64| {
            *order += 1;
            queue.push(tenant as u32, (3, *order), Slot(*order as u32), 1);
            queue.set_open(tenant as u32, true, true);
        };
        (0..tenants.len()).for_each(|tenant| (0..slots).for_each(|_| push(&mut queue, tenant, &mut order)));
        while now < until {
            while ends.len() < slots {
                let (who, slot) = queue.next(Ageing::default()).unwrap();
                let (weight, lengths) = tenants[who as usize];
                let charge = queue.start(who, (3, u64::from(slot.0)), weight);
                push(&mut queue, who as usize, &mut order);
                let length = lengths[runs[who as usize] % lengths.len()];
                runs[who as usize] += 1;
                ends.push(std::cmp::Reverse((now + length, who, length, charge.start, charge.cost)));
            }
            let std::cmp::Reverse((at, who, length, start, cost)) = ends.pop().unwrap();
            now = at;
            queue.settle(who, Charge { start, cost }, Some(length), tenants[who as usize].0);
            queue.set_open(who, true, true);
            served[who as usize] += length as f64;
        }
        // What runs has had its slot, too.
        for std::cmp::Reverse((at, who, length, ..)) in ends {
            served[who as usize] += (length as f64 - at.saturating_sub(now) as f64).max(0.0);
        }
        served
    }

    #[test]
    fn backlogged_tenants_share_slot_time_by_weight_within_three_per_cent_whatever_their_tasks_take() {
        let even: [(u32, &[Millis]); 3] = [(1, &[20]), (2, &[20]), (4, &[20])];
        let mixed: [(u32, &[Millis]); 3] = [(1, &[1, 20, 500]), (2, &[500, 1, 20]), (4, &[20, 500, 1])];
        let apart: [(u32, &[Millis]); 3] = [(1, &[1]), (2, &[20]), (4, &[500])];
        let across: [(u32, &[Millis]); 3] = [(1, &[500]), (2, &[20]), (4, &[1])];
        for (name, tenants) in [("even", even), ("mixed", mixed), ("apart", apart), ("across", across)] {
            let served = shares(20, &tenants, 10_000);
            let all: f64 = served.iter().sum();
            for ((weight, _), served) in tenants.iter().zip(&served) {
                let (share, due) = (served / all, f64::from(*weight) / 7.0);
                assert!(
                    (share - due).abs() <= 0.03 * due.max(share),
                    "{name}: weight {weight} got {share:.4}, due {due:.4}"
                );
            }
        }
    }

    /// Low tasks under a flood of critical ones: each runs once it has waited three steps, oldest first.
    #[test]
    fn a_class_rises_one_step_for_each_time_it_has_waited() {
        let mut queue = AgentQueue::default();
        let mut order = 0;
        let mut push = |queue: &mut AgentQueue, rank: u8, since: u32| {
            order += 1;
            queue.push(A, (rank, order), Slot(order as u32), since);
            queue.set_open(A, true, true);
            (rank, order)
        };
        let low = [push(&mut queue, 4, 1), push(&mut queue, 4, 2), push(&mut queue, 4, 70)];
        let mut places = std::collections::HashMap::new();
        let mut ran = Vec::new();
        for now in 1..=400 {
            let place = push(&mut queue, 1, now);
            places.insert(place.1, place);
            let (_, slot) = queue.next(Ageing { now, step: 60 }).unwrap();
            let order = u64::from(slot.0);
            let place = low.iter().copied().find(|(_, low)| *low == order).unwrap_or_else(|| places[&order]);
            if place.0 == 4 {
                ran.push((now, order));
            }
            let charge = queue.start(A, place, 1);
            queue.settle(A, charge, Some(10), 1);
            queue.set_open(A, true, true);
        }
        assert_eq!(ran, vec![(181, 1), (182, 2), (250, 3)]);
        assert_eq!(Ageing { now: 1_000, step: 0 }.steps(1), 0, "0 is never");
    }

    #[test]
    fn resumed_parents_are_found_beside_lanes_that_may_not_run() {
        let mut queue = AgentQueue::default();
        fill(&mut queue, A, 1..3);
        fill(&mut queue, B, 3..4);
        assert_eq!(queue.next_resume(), None);
        queue.push(B, (RESUMED, 9), Slot(9), 1);
        queue.set_open(B, false, true);
        assert_eq!(queue.next_resume(), Some((B, Slot(9))));
        queue.remove(B, (RESUMED, 9));
        queue.set_open(B, true, true);
        assert_eq!(queue.next_resume(), None);
    }

    #[test]
    fn what_comes_back_goes_to_its_old_place_and_holes_are_no_tasks() {
        let mut queue = AgentQueue::default();
        fill(&mut queue, A, 10..200);
        for order in 20..150 {
            queue.remove(A, (3, order));
        }
        queue.push(A, (3, 5), Slot(5), 1);
        queue.push(A, (3, 30), Slot(30), 1);
        queue.push(A, (0, 190_000), Slot(1), 1);
        assert_eq!(queue.queued(), 63);
        let mut order = Vec::new();
        queue.set_open(A, true, true);
        while let Some((_, slot)) = queue.next(Ageing::default()) {
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
