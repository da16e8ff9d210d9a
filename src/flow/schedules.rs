//! Schedules: held in the state, fired by time, each firing once.
//!
//! An operator's entry comes in as a `schedule_set` record, with the next firing time in it. When that has come the
//! owner writes the task's admission and `schedule_fired`, with the time after it, in one message: a replay computes no
//! time, and a firing is in the journal or it is not. The task's id follows from the schedule and the firing time, so even
//! a firing that was decided twice is one task.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    announced::Announcements,
    cron::Cron,
    record::{Admission, Origin, Record},
    state::State,
    times,
};
use crate::task::{MAX_SCHEDULES, Millis, Missed, ScheduleName, ScheduleSettings, TaskKey, firing_id};

/// A firing that is later than this is a missed one.
pub const LATE_MS: Millis = 60_000;
/// Missed firings that are made up for in a row; then the rest are skipped.
pub const MAX_BEHIND: u32 = 100;
/// Firing times remembered. Beyond them the tasks' own ids tell a repeat, as long as they are remembered.
const REMEMBERED: usize = 128;
/// A wall clock that goes back by more than this moves the next firings.
const BACK_MS: Millis = 60_000;

/// A schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// As an operator set it.
    pub settings: ScheduleSettings,
    /// Revision of the KV entry.
    pub kv_rev: u64,
    /// When it fires next, Unix milliseconds; `None`: paused, or never again.
    pub next: Option<Millis>,
    /// The wall time at which that was found.
    pub planned: Millis,
    /// The latest firing times that became tasks: a wall clock that goes back comes to them again.
    #[serde(deserialize_with = "crate::task::grown")]
    pub recent: Vec<Millis>,
    /// Missed firings made up for in a row.
    pub behind: u32,
}

/// All schedules, and when they are due.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schedules {
    all: BTreeMap<ScheduleName, Schedule>,
    // derived
    due: BTreeSet<(Millis, ScheduleName)>,
    planned: BTreeSet<(Millis, ScheduleName)>,
}

impl Schedules {
    /// All of them, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ScheduleName, &Schedule)> {
        self.all.iter()
    }

    /// One of them.
    pub fn get(&self, name: &ScheduleName) -> Option<&Schedule> {
        self.all.get(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// When the next one fires, Unix milliseconds.
    pub fn next(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Puts one in the place of what was there.
    pub(super) fn put(&mut self, name: ScheduleName, schedule: Schedule) {
        self.remove(&name);
        if let Some(at) = schedule.next {
            self.due.insert((at, name.clone()));
            self.planned.insert((schedule.planned, name.clone()));
        }
        self.all.insert(name, schedule);
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, name: &ScheduleName) -> Option<Schedule> {
        let old = self.all.remove(name)?;
        if let Some(at) = old.next {
            self.due.remove(&(at, name.clone()));
            self.planned.remove(&(old.planned, name.clone()));
        }
        Some(old)
    }

    /// Whether what is derived is what follows from the rest.
    pub(super) fn is_sound(&self) -> bool {
        let mut again = Self::default();
        self.all.iter().for_each(|(name, schedule)| again.put(name.clone(), schedule.clone()));
        again == *self
    }
}

fn next_after(settings: &ScheduleSettings, after: Millis) -> Option<Millis> {
    // Checked when it was set; one that a newer version's rules refuse does not fire.
    Cron::read(&settings.cron, &settings.tz).ok()?.after(after)
}

/// An entry was set or removed; `None`: nothing new.
pub fn set(
    state: &State,
    name: &ScheduleName,
    settings: Option<&ScheduleSettings>,
    kv_rev: u64,
) -> Option<Record> {
    let known = state.schedules.get(name);
    if known.is_some_and(|known| known.kv_rev >= kv_rev) || (known.is_none() && settings.is_none()) {
        return None;
    }
    if known.is_none() && state.schedules.len() >= MAX_SCHEDULES {
        return None;
    }
    let next = settings.filter(|settings| !settings.paused).and_then(|settings| {
        let same = known.filter(|known| {
            let old = &known.settings;
            !old.paused && old.cron == settings.cron && old.tz == settings.tz
        });
        // A firing that is due already is not lost to a change of something else.
        match same.and_then(|known| known.next) {
            Some(next) => Some(next),
            None => next_after(settings, state.wall_now()),
        }
    });
    Some(Record::ScheduleSet { name: name.clone(), schedule: settings.cloned().map(Box::new), kv_rev, next })
}

/// What the next schedule that is due leads to, all in one message.
pub fn due(state: &State, announced: &Announcements) -> Option<Vec<Record>> {
    let wall = state.wall_now();
    if let Some((at, name)) = state.schedules.due.first().filter(|(at, _)| *at <= wall) {
        return Some(fire(state, announced, name, state.schedules.get(name)?, *at));
    }
    // A clock that was far ahead left plans that are too late now.
    let (planned, name) = state.schedules.planned.last()?;
    if *planned <= wall.saturating_add(BACK_MS) {
        return None;
    }
    let schedule = state.schedules.get(name)?;
    let next = next_after(&schedule.settings, wall);
    Some(vec![Record::SchedulePlanned { name: name.clone(), next }])
}

fn fire(
    state: &State,
    announced: &Announcements,
    name: &ScheduleName,
    schedule: &Schedule,
    at: Millis,
) -> Vec<Record> {
    let wall = state.wall_now();
    let settings = &schedule.settings;
    let recent = wall.saturating_sub(LATE_MS);
    let (fired, behind, after) = match settings.missed {
        _ if at >= recent => (true, 0, at),
        Missed::Skip => (false, 0, recent.saturating_sub(1)),
        Missed::Once => (true, 0, recent.saturating_sub(1)),
        Missed::All if schedule.behind < MAX_BEHIND => (true, schedule.behind + 1, at),
        Missed::All => (false, 0, recent.saturating_sub(1)),
    };
    let next = next_after(settings, after.max(at));
    let mut records = Vec::new();
    let key = TaskKey { tenant: settings.tenant.clone(), id: firing_id(name, at) };
    let fired = fired && !schedule.recent.contains(&at) && state.task(&key).is_none();
    if fired {
        let spec = settings.spec();
        let body_hash = spec.body_hash();
        let (spec, refusal, deadline) = times::root(state, announced, &key, spec, wall);
        // No submitter's clock: when it is forgotten, `TOO_OLD` moves no further.
        let origin = Origin::Root { first_try: 0, retry_of: None, hops: 0 };
        let admission = Admission { task: key.id, spec, body_hash, origin, deadline, refusal };
        records.push(Record::Submitted { tenant: key.tenant, admission });
    }
    records.push(Record::ScheduleFired { name: name.clone(), at, fired, behind, next });
    records
}

impl State {
    /// Applies what was decided about a schedule.
    pub(super) fn evolve_schedule(&mut self, record: &Record) {
        let wall = self.wall;
        match record {
            Record::ScheduleSet { name, schedule: None, .. } => {
                self.schedules.remove(name);
            }
            Record::ScheduleSet { name, schedule: Some(settings), kv_rev, next } => {
                let recent = self.schedules.get(name).map(|known| known.recent.clone()).unwrap_or_default();
                let (settings, next) = (settings.as_ref().clone(), *next);
                let schedule = Schedule { settings, kv_rev: *kv_rev, next, planned: wall, recent, behind: 0 };
                self.schedules.put(name.clone(), schedule);
            }
            Record::ScheduleFired { name, at, fired, behind, next } => {
                if let Some(mut schedule) = self.schedules.remove(name) {
                    if *fired {
                        // The latest are kept, not those that came last: a clock that was set back makes up for older ones first.
                        schedule.recent.push(*at);
                        schedule.recent.sort_unstable();
                        if schedule.recent.len() > REMEMBERED {
                            schedule.recent.remove(0);
                        }
                    }
                    (schedule.next, schedule.planned, schedule.behind) = (*next, wall, *behind);
                    self.schedules.put(name.clone(), schedule);
                }
            }
            Record::SchedulePlanned { name, next } => {
                if let Some(mut schedule) = self.schedules.remove(name) {
                    (schedule.next, schedule.planned) = (*next, wall);
                    self.schedules.put(name.clone(), schedule);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
