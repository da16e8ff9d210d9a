//! Schedules, a second time. Their crons are so plain here that the next time is a matter of division.

use std::collections::{BTreeMap, BTreeSet};

use selvedge::task::{Missed, ScheduleName, ScheduleSettings, TaskKey, firing_id};

use super::Audit;
use crate::scenario::Sight;

/// A firing that is later than this is a missed one.
const LATE: u64 = 60_000;
/// So many firing times of a schedule are remembered by themselves.
const REMEMBERED: usize = 128;

#[derive(Debug, Clone)]
struct Known {
    settings: ScheduleSettings,
    period: u64,
    next: Option<u64>,
}

/// What was set and what has fired.
#[derive(Debug, Default)]
pub struct Ledger {
    known: BTreeMap<ScheduleName, Known>,
    /// Every firing that became a task.
    pub fired: BTreeSet<(ScheduleName, u64)>,
    /// Removed once: what they had fired before is known by their tasks' ids alone.
    removed: BTreeSet<ScheduleName>,
    /// Tasks of firings.
    pub tasks: BTreeSet<TaskKey>,
    /// The last admission, and the revision it was in.
    pub(super) last: Option<(TaskKey, u64)>,
}

fn after(period: u64, at: u64) -> u64 {
    (at / period + 1) * period
}

fn period(settings: &ScheduleSettings) -> Result<u64, String> {
    match settings.cron.as_str() {
        "* * * * *" => Ok(60_000),
        "*/5 * * * *" => Ok(300_000),
        other => Err(format!("nobody set {other}")),
    }
}

impl Ledger {
    pub(super) fn set(
        &mut self,
        name: &ScheduleName,
        settings: Option<&ScheduleSettings>,
        next: Option<u64>,
        wall: u64,
    ) -> Result<(), String> {
        let Some(settings) = settings else {
            ensure!(
                self.known.remove(name).is_some() && next.is_none(),
                "{name} was not there to be removed"
            );
            self.removed.insert(name.clone());
            return Ok(());
        };
        let period = period(settings)?;
        let known = self.known.get(name).filter(|known| !known.settings.paused);
        let goes_on = known
            .filter(|known| known.period == period && known.settings.tz == settings.tz)
            .and_then(|known| known.next);
        let expected = goes_on.unwrap_or_else(|| after(period, wall));
        let expected = (!settings.paused).then_some(expected);
        ensure!(next == expected, "{name} is set to fire at {next:?}, not {expected:?}");
        self.known.insert(name.clone(), Known { settings: settings.clone(), period, next });
        Ok(())
    }

    pub(super) fn planned(
        &mut self,
        name: &ScheduleName,
        next: Option<u64>,
        wall: u64,
    ) -> Result<(), String> {
        let known = self.known.get_mut(name).ok_or("an unknown schedule is planned")?;
        ensure!(next == Some(after(known.period, wall)), "{name} is planned for {next:?} at {wall}");
        known.next = next;
        Ok(())
    }

    /// Whether this may be a firing of a schedule that was removed and set again: of what it had fired before only ids are known,
    /// and those only as long as the tenant's memory of them reaches.
    pub(super) fn may_fire_again(&self, key: &TaskKey) -> bool {
        self.tasks.contains(key)
            && self.removed.iter().any(|name| key.id.as_str().starts_with(&format!("{name}-")))
    }

    /// How often it has fired.
    fn count(&self, name: &ScheduleName) -> usize {
        self.fired.iter().filter(|(fired, _)| fired == name).count()
    }

    /// Nothing that is due is left.
    pub fn none_due(&self, wall: u64) -> Result<(), String> {
        match self.known.iter().find(|(_, known)| known.next.is_some_and(|next| next <= wall)) {
            Some((name, known)) => Err(format!("{name} is due at {:?}, and it is {wall}", known.next)),
            None => Ok(()),
        }
    }
}

impl Audit {
    pub(super) fn schedule_fired(
        &mut self,
        name: &ScheduleName,
        at: u64,
        fired: bool,
        next: Option<u64>,
    ) -> Result<(), String> {
        let (wall, rev) = (self.wall, self.rev);
        let many = self.schedules.count(name) > REMEMBERED;
        let known = self.schedules.known.get_mut(name).ok_or("an unknown schedule fires")?;
        ensure!(
            known.next == Some(at) && at <= wall,
            "{name} fires at {at}, due {:?}, it is {wall}",
            known.next
        );
        ensure!(!known.settings.paused, "{name} fires while it is paused");
        let missed = at + LATE < wall;
        let recent = after(known.period, wall - LATE - 1);
        let repeated = self.schedules.fired.contains(&(name.clone(), at));
        let (may, then) = match known.settings.missed {
            _ if !missed => (true, after(known.period, at)),
            Missed::Skip => (false, recent),
            Missed::Once => (true, recent),
            Missed::All if next == Some(after(known.period, at)) => (true, after(known.period, at)),
            Missed::All => (false, recent),
        };
        ensure!(next == Some(then), "{name}: {next:?} comes after {at}, not {then}");
        // Of far more firings than are remembered only their tasks' ids are known, and those are of one tenant.
        let key = TaskKey { tenant: known.settings.tenant.clone(), id: firing_id(name, at) };
        let forgotten = self.schedules.removed.contains(name)
            || (repeated && !self.schedules.tasks.contains(&key) && many);
        ensure!(
            fired == (may && !repeated) || forgotten,
            "{name} at {at}: fired {fired}, missed {missed}, before {repeated}"
        );
        known.next = next;
        if !fired {
            self.sights.push(Sight::ScheduleSkipped);
            return Ok(());
        }
        ensure!(self.schedules.last == Some((key.clone(), rev)), "{name} fires without its task");
        self.schedules.fired.insert((name.clone(), at));
        self.schedules.tasks.insert(key);
        self.sights.push(if missed { Sight::ScheduleMadeUp } else { Sight::ScheduleFired });
        Ok(())
    }
}
