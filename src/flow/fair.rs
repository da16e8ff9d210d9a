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

mod lane;
mod starts;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt::Debug};

use serde::{Deserialize, Serialize};

use self::{
    lane::{LOOK_BACK, Lane},
    starts::Starts,
};
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

/// Resumed parents, and the classes.
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

    /// Whether a tenant has tasks here, waiting or running.
    pub fn has_work(&self, tenant: u32) -> bool {
        self.lanes.get(&tenant).is_some_and(|lane| lane.queued > 0 || lane.running > 0)
    }

    /// Something else of the tenant's has held slots for so long. A lane without tasks owes nothing: it enters where the
    /// others are.
    pub fn charge(&mut self, tenant: u32, ms: Millis, weight: u32) {
        let nobody = self.running.first().is_none() && self.ready.is_empty();
        let lane = self.lanes.get_mut(&tenant).filter(|lane| lane.queued > 0 || lane.running > 0);
        let Some(lane) = lane else { return };
        lane.vtime = lane.vtime.saturating_add(weighed(ms.saturating_mul(UNIT), weight));
        if nobody {
            // Time goes on with it: what was used while nobody wanted it is held against nobody.
            self.last_start = self.last_start.max(lane.vtime);
        }
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
