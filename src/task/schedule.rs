//! A schedule as an operator sets it: which task to submit, and when.

use serde::{Deserialize, Serialize};

use super::{
    AgentName, Labels, MAX_CELLS, Millis, Payload, Priority, ScheduleName, Spec, TaskId, TenantName, Times,
};

/// Bytes of a schedule's input, at most: it is kept in memory.
pub const MAX_SCHEDULE_INPUT: usize = 16 * 1024;

/// Schedules in one shard, at most.
pub const MAX_SCHEDULES: usize = 10_000;

/// What becomes of firing times at which nobody was there to fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// Nothing: it goes on with the next one.
    #[default]
    Skip,
    /// One task for all of them, with the first one's time.
    Once,
    /// A task for each, oldest first, up to a hundred; the rest are skipped.
    All,
}

impl Missed {
    /// The word on the wire and on screens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }

    /// The inverse of [`Missed::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Skip, Self::Once, Self::All].into_iter().find(|missed| missed.as_str() == text)
    }
}

/// What a schedule does. The entry `schedule.<name>` of the limits bucket, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleSettings {
    /// Five fields: minute, hour, day of the month, month, day of the week.
    pub cron: String,
    /// The zone in which they are read, an IANA name.
    #[serde(default = "utc")]
    pub tz: String,
    /// Whose tasks it submits.
    pub tenant: TenantName,
    /// Who is to run them.
    pub agent: AgentName,
    /// Their input.
    #[serde(default)]
    pub input: Payload,
    /// Their class.
    #[serde(default)]
    pub priority: Priority,
    /// Tries before one is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tries: Option<u32>,
    /// Their times, counted from the firing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Box<Times>>,
    /// Cells that an attempt of one is expected to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// What becomes of missed firings.
    #[serde(default)]
    pub missed: Missed,
    /// It does not fire; what it would have fired meanwhile is not missed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Labels written on each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Box<Labels>>,
}

fn utc() -> String {
    "UTC".to_owned()
}

impl ScheduleSettings {
    /// The task of a firing.
    pub fn spec(&self) -> Spec {
        Spec {
            labels: self.labels.clone(),
            agent: self.agent.clone(),
            input: self.input.clone(),
            priority: self.priority,
            max_tries: self.max_tries,
            times: self.times.clone(),
            cost: self.cost,
        }
    }

    /// What is wrong with it besides its cron expression and its zone.
    pub fn check(&self) -> Result<(), String> {
        if self.input.len() > MAX_SCHEDULE_INPUT {
            let bytes = self.input.len();
            return Err(format!("the input has {bytes} bytes, a schedule's at most {MAX_SCHEDULE_INPUT}"));
        }
        if let Some(cost) = self.cost.filter(|cost| *cost > MAX_CELLS) {
            return Err(format!("the cost is {cost} cells, at most {MAX_CELLS}"));
        }
        self.labels.as_deref().map_or(Ok(()), Labels::check).map_err(|refusal| refusal.message)?;
        let Some(times) = &self.times else { return Ok(()) };
        if times.run_at.is_some() || times.deadline_at.is_some() {
            return Err("a schedule's tasks have no fixed times: use delay_ms and deadline_ms".to_owned());
        }
        times.check().map_err(|refusal| refusal.message)
    }
}

/// The id of the task that a schedule fires at a time, Unix milliseconds: `<name>-<Unix seconds>`. The same firing is
/// the same task, whoever fires it.
pub fn firing_id(schedule: &ScheduleName, at: Millis) -> TaskId {
    // Made of a name with room for the number.
    TaskId::new(format!("{schedule}-{}", at / 1_000)).unwrap_or_else(|_| unreachable!("{schedule} is a name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_leaves_room_for_the_firing_time() {
        let name = ScheduleName::new("x".repeat(48)).unwrap();
        assert_eq!(firing_id(&name, 253_402_300_799_999).as_str().len(), 48 + 13);
        assert!(ScheduleName::new("x".repeat(49)).is_err());
    }
}
