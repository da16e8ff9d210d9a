//! Durations and sizes as people write them, with their unit.

use std::fmt;
use std::time::Duration;

use super::value::{Kind, Setting};

const DURATIONS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// Reads `250ms`, `15s`, `1h30m`, `7d`; a number without a unit is refused, except 0.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str =
        "expected a duration with its unit, such as \"250ms\", \"15s\" or \"1h30m\" (units: ms s m h d w)";
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = 0u64;
    let mut last_factor = u64::MAX;
    if rest.is_empty() {
        return Err(EXPECTED.into());
    }
    while !rest.is_empty() {
        let (number, tail) = split_number(rest);
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let factor =
            DURATIONS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or(EXPECTED)?;
        // Units fall from left to right, each at most once: "30m1h" and "1s1s" are typing errors.
        if factor >= last_factor {
            return Err(EXPECTED.into());
        }
        last_factor = factor;
        let part = number
            .parse::<u64>()
            .map_err(|_| EXPECTED)?
            .checked_mul(factor)
            .ok_or("the duration is too long")?;
        total = total.checked_add(part).ok_or("the duration is too long")?;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// Reads `4096B`, `256KiB`, `1GB`; a number without a unit is refused, except 0.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a size with its unit, such as \"256KiB\" or \"1GiB\" (units: B kB KiB MB MiB GB GiB TB TiB)";
    let text = text.trim();
    if text == "0" {
        return Ok(0);
    }
    let (number, unit) = split_number(text);
    let unit = unit.trim_start();
    let factor = SIZES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, factor)| *factor)
        .ok_or(EXPECTED)?;
    let number: u64 = number.parse().map_err(|_| EXPECTED)?;
    number.checked_mul(factor).ok_or_else(|| "the size is too large".into())
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

impl Setting for Duration {
    const KIND: Kind = Kind::Duration;
    fn parse(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl Setting for ByteSize {
    const KIND: Kind = Kind::Size;
    fn parse(text: &str) -> Result<Self, String> {
        parse_size(text).map(ByteSize)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZES.iter().rev().find(|(_, factor)| {
            self.0 >= *factor && self.0.is_multiple_of(*factor) && factor.is_power_of_two()
        });
        match unit {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        for (text, millis) in [
            ("250ms", 250),
            ("15s", 15_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("1s500ms", 1_500),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "15",
            "soon",
            "s",
            "1.5s",
            "-1s",
            "30m1h",
            "1s1s",
            "15 s",
            "99999999999999999999s",
            "9999999999999999w",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_carry_their_unit_and_print_as_they_were_meant() {
        for (text, bytes, shown) in [
            ("256KiB", 262_144, "256KiB"),
            ("1GiB", 1 << 30, "1GiB"),
            ("1kB", 1_000, "1000B"),
            ("17B", 17, "17B"),
            ("1 MiB", 1 << 20, "1MiB"),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(ByteSize(bytes).to_string(), shown);
        }
        for text in ["", "12", "big", "1.5GiB", "-1B", "99999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
