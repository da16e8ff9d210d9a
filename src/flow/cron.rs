//! Cron expressions in a time zone: read, refused with the field that is wrong, and asked for the next time.
//!
//! ```text
//! ┌ minute 0-59
//! │ ┌ hour 0-23
//! │ │ ┌ day of the month 1-31
//! │ │ │ ┌ month 1-12 or jan-dec
//! │ │ │ │ ┌ day of the week 0-7 or sun-sat, 0 and 7 are Sunday
//! 0 9 * * 1-5
//! ```
//!
//! Each field is `*`, a value, a range, a list of them, any of these with a step. If both days are restricted either one
//! will do, as everywhere. `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly` are short for the usual.
//!
//! **When the clocks change.** A schedule for certain hours fires once on every day that it names: a time that the
//! clocks skip fires when they have skipped it, a time that comes twice fires the first time. A schedule for every hour
//! follows the hours as they really pass: nothing in the gap, and both times in the overlap.
//!
//! Zone data is built in, so that every coordinator of the same version knows the same. Nothing is computed
//! again in a replay all the same: the next firing time is in the journal.

use std::{fmt, sync::LazyLock};

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Time},
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

use crate::task::Millis;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Days looked ahead for the next time: in eight years there is a 29 February, whatever the century.
const DAYS_AHEAD: usize = 8 * 366 + 2;

/// A cron expression, read.
#[derive(Debug, Clone)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days are restricted: either will do.
    either_day: bool,
    zone: TimeZone,
}

/// Why a text is no cron expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronError {
    text: String,
    /// Where in it, and how many characters.
    at: (usize, usize),
    why: String,
}

impl std::error::Error for CronError {}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, len) = self.at;
        let before = self.text.get(..at).unwrap_or_default().chars().count();
        write!(f, "{}\n{}{} {}", self.text, " ".repeat(before), "^".repeat(len.max(1)), self.why)
    }
}

struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    words: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, words: &[] },
    Field { name: "hour", least: 0, most: 23, words: &[] },
    Field { name: "day of the month", least: 1, most: 31, words: &[] },
    Field {
        name: "month",
        least: 1,
        most: 12,
        words: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Field {
        name: "day of the week",
        least: 0,
        most: 7,
        words: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

const ALL_HOURS: u64 = (1 << 24) - 1;

/// The longest expression that is read.
const MAX_LENGTH: usize = 256;

impl Cron {
    /// Reads an expression; `zone` is an IANA name.
    pub fn read(text: &str, zone: &str) -> Result<Self, CronError> {
        let shown: String = text.chars().take(MAX_LENGTH).flat_map(printable).collect();
        let wrong = |at, why: String| CronError { text: shown.clone(), at, why };
        if text.len() > MAX_LENGTH || shown != text {
            let why = format!("a cron expression has at most {MAX_LENGTH} plain characters");
            return Err(wrong((0, 1), why));
        }
        let expanded = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            _ => text,
        };
        let mut parts = Vec::new();
        let mut at = 0;
        for part in expanded.split(' ') {
            if !part.is_empty() {
                parts.push((at, part));
            }
            at += part.len() + 1;
        }
        if let [.., (at, _), _] | [(at, _)] = parts[..]
            && parts.len() < 5
        {
            let missing = FIELDS[parts.len()].name;
            let why = format!("{} of 5 fields; the {missing} is missing", parts.len());
            return Err(wrong((at.max(expanded.len()), 1), why));
        }
        if parts.is_empty() {
            return Err(wrong((0, 1), "empty; five fields are needed, such as 0 9 * * 1-5".to_owned()));
        }
        if let Some((at, part)) = parts.get(5) {
            return Err(wrong((*at, part.len()), "a sixth field; there are five, and no seconds".to_owned()));
        }
        let mut masks = [0; 5];
        for ((mask, field), (at, part)) in masks.iter_mut().zip(&FIELDS).zip(&parts) {
            *mask = field
                .read(part)
                .map_err(|(from, len, why)| wrong((at + from, len), format!("{}: {why}", field.name)))?;
        }
        let [minutes, hours, days, months, mut weekdays] = masks;
        // Both are Sunday.
        weekdays = (weekdays | weekdays >> 7) & 0x7f;
        let either_day = !parts[2].1.starts_with('*') && !parts[4].1.starts_with('*');
        let zone = ZONES.get(zone).map_err(|_| {
            let zone: String = zone.chars().take(64).flat_map(char::escape_debug).collect();
            let why = "no time zone of this name; one is called like Europe/Amsterdam or UTC".to_owned();
            CronError { at: (0, zone.chars().count()), text: zone, why }
        })?;
        let cron = Self { minutes, hours, days, months, weekdays, either_day, zone };
        match cron.after(0) {
            Some(_) => Ok(cron),
            None => {
                let (from, to) = (parts[2].0, parts[3].0 + parts[3].1.len());
                Err(wrong(
                    (from, to - from),
                    "no month it names has such a day: it would never fire".to_owned(),
                ))
            }
        }
    }

    /// The first time after `after`; both Unix milliseconds. `None`: there is none, or none that can be told.
    pub fn after(&self, after: Millis) -> Option<Millis> {
        let after = Timestamp::from_millisecond(i64::try_from(after).ok()?).ok()?;
        // The day before, because a day's last times may come after the next one has begun elsewhere.
        let mut date = self.zone.to_datetime(after).date().yesterday().ok()?;
        for _ in 0..DAYS_AHEAD {
            if self.names(date)
                && let Some(at) = self.first_on(date, after)
            {
                return Millis::try_from(at.as_millisecond()).ok();
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    fn names(&self, date: Date) -> bool {
        let day = self.days >> date.day() & 1 == 1;
        let weekday = self.weekdays >> date.weekday().to_sunday_zero_offset() & 1 == 1;
        let fits = if self.either_day { day || weekday } else { day && weekday };
        fits && self.months >> date.month() & 1 == 1
    }

    /// The first of this day's times after `after`.
    fn first_on(&self, date: Date, after: Timestamp) -> Option<Timestamp> {
        let mut first: Option<Timestamp> = None;
        for hour in (0..24).filter(|hour| self.hours >> hour & 1 == 1) {
            for minute in (0..60).filter(|minute| self.minutes >> minute & 1 == 1) {
                let Ok(time) = Time::new(hour, minute, 0, 0) else { continue };
                for at in self.instants(date, time).into_iter().flatten().filter(|at| *at > after) {
                    first = Some(first.map_or(at, |known| known.min(at)));
                }
            }
            // What the clocks turn back is never more than a few hours.
            if let Some(first) = first
                && let Some(Ok(next)) = Time::new(hour, 59, 0, 0).ok().map(|time| {
                    let sure = self.zone.to_ambiguous_timestamp(date.to_datetime(time)).earlier();
                    sure.and_then(|sure| sure.checked_sub(3.hours()))
                })
                && next > first
            {
                break;
            }
        }
        first
    }

    /// When the clocks show this: once, but for the nights in which they change.
    fn instants(&self, date: Date, time: Time) -> [Option<Timestamp>; 2] {
        let shown = date.to_datetime(time);
        let ambiguous = self.zone.to_ambiguous_timestamp(shown);
        let every_hour = self.hours == ALL_HOURS;
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => [ambiguous.compatible().ok(), None],
            AmbiguousOffset::Gap { .. } if every_hour => [None, None],
            AmbiguousOffset::Gap { after, .. } => {
                // What it would be by the clocks after the change is before it: the change comes next.
                let before = after.to_timestamp(shown).ok();
                [before.and_then(|at| self.zone.following(at).next()).map(|change| change.timestamp()), None]
            }
            AmbiguousOffset::Fold { .. } => {
                [ambiguous.earlier().ok(), ambiguous.later().ok().filter(|_| every_hour)]
            }
        }
    }
}

/// A character that may be shown as it is, or a stand-in.
fn printable(c: char) -> Option<char> {
    Some(if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
}

impl Field {
    /// The values as bits, or where in the text it is wrong.
    fn read(&self, text: &str) -> Result<u64, (usize, usize, String)> {
        let mut mask = 0;
        let mut at = 0;
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                None => (item, None),
                Some((range, step)) => {
                    let from = at + range.len() + 1;
                    let number = step.parse::<u32>().ok().filter(|step| (1..=self.most).contains(step));
                    let step = number.ok_or_else(|| {
                        let why = format!("a step is a number from 1 to {}", self.most);
                        (from, step.len(), why)
                    })?;
                    (range, Some(step))
                }
            };
            let (low, high) = match range.split_once('-') {
                _ if range == "*" => (self.least, self.most),
                None => {
                    let value = self.value(range, at)?;
                    (value, if step.is_some() { self.most } else { value })
                }
                Some((low, high)) => (self.value(low, at)?, self.value(high, at + low.len() + 1)?),
            };
            if low > high {
                let why = format!(
                    "{low} is after {high}; write it as two ranges, {low}-{} and {}-{high}",
                    self.most, self.least
                );
                return Err((at, range.len(), why));
            }
            for value in (low..=high).step_by(step.unwrap_or(1) as usize) {
                mask |= 1 << value;
            }
            at += item.len() + 1;
        }
        Ok(mask)
    }

    fn value(&self, text: &str, at: usize) -> Result<u32, (usize, usize, String)> {
        let lower = text.to_ascii_lowercase();
        if let Some(word) = self.words.iter().position(|word| *word == lower) {
            return Ok(word as u32 + self.least);
        }
        let words = match self.words {
            [] => String::new(),
            words => format!(" or {}-{}", words[0], words[words.len() - 1]),
        };
        let expected = format!("{}-{}{words}", self.least, self.most);
        if text.is_empty() {
            return Err((at, 1, format!("a value is missing; expected {expected}")));
        }
        match text.parse::<u32>() {
            Ok(value) if (self.least..=self.most).contains(&value) => Ok(value),
            Ok(value) if value < self.least => {
                Err((at, text.len(), format!("{value} is below {}", self.least)))
            }
            Ok(value) => Err((at, text.len(), format!("{value} is above {}", self.most))),
            Err(_) => Err((at, text.len(), format!("expected {expected}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> Millis {
        text.parse::<Timestamp>().unwrap().as_millisecond().try_into().unwrap()
    }

    /// The next times after a moment, in UTC.
    fn next(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let cron = Cron::read(cron, zone).unwrap();
        let mut at = ms(after);
        let mut times = Vec::new();
        for _ in 0..count {
            at = cron.after(at).unwrap();
            times.push(Timestamp::from_millisecond(at as i64).unwrap().to_string());
        }
        times
    }

    #[test]
    fn the_next_time_is_the_first_one_after_now_in_its_zone() {
        let weekdays = next("0 9 * * 1-5", "Europe/Amsterdam", "2026-11-27T08:00:00Z", 2);
        assert_eq!(weekdays, ["2026-11-30T08:00:00Z", "2026-12-01T08:00:00Z"]);
        let quarter = next("*/15 * * * *", "UTC", "2026-11-27T08:01:00Z", 2);
        assert_eq!(quarter, ["2026-11-27T08:15:00Z", "2026-11-27T08:30:00Z"]);
        assert_eq!(next("0 0 29 feb *", "UTC", "2096-03-01T00:00:00Z", 1), ["2104-02-29T00:00:00Z"]);
        assert_eq!(
            next("30 4 1,15 * sun", "UTC", "2026-11-16T00:00:00Z", 2),
            ["2026-11-22T04:30:00Z", "2026-11-29T04:30:00Z"]
        );
        assert_eq!(next("@weekly", "UTC", "2026-11-27T00:00:00Z", 1), ["2026-11-29T00:00:00Z"]);
        assert_eq!(next("0 0 * * 7", "UTC", "2026-11-27T00:00:00Z", 1), ["2026-11-29T00:00:00Z"]);
    }

    #[test]
    fn a_time_the_clocks_skip_fires_when_they_have_skipped_it() {
        // 2026-03-29: 02:00 becomes 03:00, which is 01:00 UTC.
        let times = next("30 2 * * *", "Europe/Amsterdam", "2026-03-28T00:00:00Z", 3);
        assert_eq!(times, ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        // Two skipped times and the one at the change are one.
        let times = next("15,45 2,3 29 3 *", "Europe/Amsterdam", "2026-03-28T23:00:00Z", 3);
        assert_eq!(times, ["2026-03-29T01:00:00Z", "2026-03-29T01:15:00Z", "2026-03-29T01:45:00Z"]);
    }

    #[test]
    fn a_time_that_comes_twice_fires_the_first_time() {
        // 2026-10-25: 03:00 becomes 02:00, which is 01:00 UTC.
        let times = next("30 2 * * *", "Europe/Amsterdam", "2026-10-24T12:00:00Z", 2);
        assert_eq!(times, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn a_schedule_for_every_hour_follows_the_hours_as_they_pass() {
        let gap = next("*/30 * * * *", "Europe/Amsterdam", "2026-03-29T00:15:00Z", 3);
        assert_eq!(gap, ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]);
        let overlap = next("*/30 * * * *", "Europe/Amsterdam", "2026-10-24T23:45:00Z", 6);
        let expected = ["00:00", "00:30", "01:00", "01:30", "02:00", "02:30"];
        assert_eq!(overlap, expected.map(|time| format!("2026-10-25T{time}:00Z")));
    }

    #[test]
    fn nonsense_is_refused_with_a_caret_under_the_field() {
        let wrong = |text: &str| Cron::read(text, "UTC").unwrap_err().to_string();
        assert_eq!(wrong("0 25 * * *"), "0 25 * * *\n  ^^ hour: 25 is above 23");
        assert_eq!(wrong("*/0 * * * *"), "*/0 * * * *\n  ^ minute: a step is a number from 1 to 59");
        assert_eq!(wrong("0 9 0 * *"), "0 9 0 * *\n    ^ day of the month: 0 is below 1");
        assert_eq!(
            wrong("0 9 * * mon-fri,x"),
            "0 9 * * mon-fri,x\n                ^ day of the week: expected 0-7 or sun-sat"
        );
        assert_eq!(wrong("0 9 * *"), "0 9 * *\n       ^ 4 of 5 fields; the day of the week is missing");
        assert_eq!(
            wrong("0 0 9 * * *"),
            "0 0 9 * * *\n          ^ a sixth field; there are five, and no seconds"
        );
        assert_eq!(
            wrong("0 9 31 2,4 *"),
            "0 9 31 2,4 *\n    ^^^^^^ no month it names has such a day: it would never fire"
        );
        assert!(wrong("0 22-2 * * *").contains("hour: 22 is after 2"));
        assert!(wrong("").contains("five fields"));
        assert!(wrong(&"1".repeat(10_000)).len() < 600);
        assert!(!wrong("0 9 \u{1b}[31m * *").contains('\u{1b}'));
        let zone = Cron::read("0 9 * * *", "Europe/Atlantis").unwrap_err().to_string();
        assert!(zone.starts_with("Europe/Atlantis\n^^^^^^^^^^^^^^^ no time zone"), "{zone}");
    }

    #[test]
    fn the_next_time_is_never_the_same_and_never_before() {
        for cron in ["* * * * *", "30 2 * * *", "0 */5 * * *", "59 23 31 * *"] {
            for zone in ["UTC", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu"] {
                let cron = Cron::read(cron, zone).unwrap();
                let mut at = ms("2026-01-01T00:00:00Z");
                for _ in 0..400 {
                    let next = cron.after(at).unwrap();
                    assert!(next > at && next.is_multiple_of(60_000));
                    at = next;
                }
            }
        }
    }
}
