//! When a task may start, and by when it must be over: as a submitter asks for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Code, Millis, Refusal};

/// The longest time ahead that is taken for a delay, a limit or a point of time, in milliseconds: 366 days.
pub const MAX_AHEAD_MS: Millis = 366 * 24 * 3_600_000;

/// What a submitter may ask for. A task without any of it has no `Times` at all.
///
/// Two clocks are meant. A delay, a time to live and the limit of a try are lengths and pass in the shard's own time,
/// which nobody steps. `run_at` and the deadline are points of time by the wall clock: Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Times {
    /// Not started before this long after its admission, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<Millis>,
    /// Not started before this time, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Millis>,
    /// Expires unless it is started this long after it may be, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<Millis>,
    /// How long one try may take, in milliseconds; what takes longer is stopped and is a lost try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub try_timeout_ms: Option<Millis>,
    /// Expires this long after it was submitted, whatever it does then, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<Millis>,
    /// Expires at this time, whatever it does then, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<Millis>,
}

/// A duration in milliseconds. What is longer than can be said is said as the longest.
pub fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

impl Times {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Its fields by name, in the order in which they are hashed.
    fn fields(&self) -> [(&'static str, Option<Millis>); 6] {
        [
            ("delay_ms", self.delay_ms),
            ("run_at", self.run_at),
            ("ttl_ms", self.ttl_ms),
            ("try_timeout_ms", self.try_timeout_ms),
            ("deadline_ms", self.deadline_ms),
            ("deadline_at", self.deadline_at),
        ]
    }

    /// As it goes into the body hash: `;name=decimal` for each field that is set, in order; empty if none is.
    pub fn hashed(&self) -> String {
        self.fields()
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| format!(";{name}={value}")))
            .collect()
    }

    /// Refuses what no clock is needed to call nonsense.
    pub fn check(&self) -> Result<(), Refusal> {
        for (name, value) in self.fields() {
            if value == Some(0) {
                let message = format!("{name} is 0; give at least 1, or leave it out");
                return Err(Refusal::over(Code::BadTime, message, 0, 1));
            }
            if let Some(ms) = value.filter(|ms| name.ends_with("_ms") && *ms > MAX_AHEAD_MS) {
                let message = format!("{name} is {ms}, at most {MAX_AHEAD_MS} are taken (366 days)");
                return Err(Refusal::over(Code::BadTime, message, ms, MAX_AHEAD_MS));
            }
        }
        let both = |one, other| {
            let message = format!("give {one} or {other}, not both");
            Err(Refusal::new(Code::BadTime, message))
        };
        if self.delay_ms.is_some() && self.run_at.is_some() {
            return both("delay_ms", "run_at");
        }
        if self.deadline_ms.is_some() && self.deadline_at.is_some() {
            return both("deadline_ms", "deadline_at");
        }
        match (self.delay_ms, self.deadline_ms, self.run_at, self.deadline_at) {
            (Some(start), Some(end), ..) | (.., Some(start), Some(end)) if start >= end => {
                Err(never(start, end))
            }
            _ => Ok(()),
        }
    }

    /// The same, and what is too far from `wall`, Unix milliseconds.
    pub fn check_at(&self, wall: Millis) -> Result<(), Refusal> {
        self.check()?;
        let latest = wall.saturating_add(MAX_AHEAD_MS);
        for (name, at) in [("run_at", self.run_at), ("deadline_at", self.deadline_at)] {
            if let Some(at) = at.filter(|at| *at > latest) {
                let message = format!(
                    "{name} is {at} (Unix ms), which is more than 366 days after {wall}; are these milliseconds?"
                );
                return Err(Refusal::over(Code::BadTime, message, at, latest));
            }
        }
        Ok(())
    }

    /// The deadline it asks for, Unix milliseconds, of a task submitted at `base`.
    pub fn deadline(&self, base: Millis) -> Option<Millis> {
        self.deadline_at.or_else(|| self.deadline_ms.map(|ms| base.saturating_add(ms)))
    }
}

/// A task that would have to be over before it may start.
pub fn never(start: Millis, end: Millis) -> Refusal {
    let message = format!("it would not start before {start}, but has to be over by {end}");
    Refusal::over(Code::BadTime, message, start, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(times: Times) -> Option<Code> {
        times.check_at(1_000_000).err().map(|refusal| refusal.code)
    }

    #[test]
    fn nonsense_is_refused_and_sense_is_not() {
        let some = Times::default();
        let bad = [
            Times { delay_ms: Some(0), ..some },
            Times { ttl_ms: Some(0), ..some },
            Times { try_timeout_ms: Some(u64::MAX), ..some },
            Times { delay_ms: Some(1), run_at: Some(1), ..some },
            Times { deadline_ms: Some(1), deadline_at: Some(1), ..some },
            Times { delay_ms: Some(10), deadline_ms: Some(10), ..some },
            Times { run_at: Some(10), deadline_at: Some(9), ..some },
            Times { run_at: Some(u64::MAX), ..some },
            Times { deadline_at: Some(1_000_001 + MAX_AHEAD_MS), ..some },
        ];
        for times in bad {
            assert_eq!(code(times), Some(Code::BadTime), "{times:?}");
        }
        let good = [
            some,
            Times { delay_ms: Some(1), deadline_ms: Some(2), ..some },
            Times { run_at: Some(1), ..some },
            Times { deadline_at: Some(1_000_000 + MAX_AHEAD_MS), ..some },
        ];
        for times in good {
            assert_eq!(code(times), None, "{times:?}");
        }
    }

    #[test]
    fn every_field_is_hashed() {
        let all = Times {
            delay_ms: Some(1),
            run_at: Some(2),
            ttl_ms: Some(3),
            try_timeout_ms: Some(4),
            deadline_ms: Some(5),
            deadline_at: Some(6),
        };
        let expected = ";delay_ms=1;run_at=2;ttl_ms=3;try_timeout_ms=4;deadline_ms=5;deadline_at=6";
        assert_eq!(all.hashed(), expected);
        assert_eq!(Times::default().hashed(), "");
    }
}
