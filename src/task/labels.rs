//! Labels: what a submitter writes on a task, for people and for filters. Nothing is decided by them.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{Code, Refusal};

/// Labels of one task, at most.
pub const MAX_LABELS: usize = 8;

/// Longest key, in bytes.
pub const MAX_LABEL_KEY: usize = 63;

/// Longest value, in bytes.
pub const MAX_LABEL_VALUE: usize = 128;

/// Keys and values. As they come from the wire they are unchecked: see [`Labels::check`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// None at all.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets one; a key has one value.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), value.into());
    }

    /// In the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Their bytes, encoded.
    pub fn weight(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.len() + 4).sum()
    }

    /// Whether all of `wanted` are among them.
    pub fn hold(&self, wanted: &Self) -> bool {
        wanted.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }

    /// As they go into hashes: for each, in the order of keys, byte 1, the key, byte 2, the value.
    pub fn hashed(&self) -> Vec<u8> {
        let parts =
            self.iter().flat_map(|(key, value)| [&b"\x01"[..], key.as_bytes(), b"\x02", value.as_bytes()]);
        parts.flatten().copied().collect()
    }

    /// Refuses too many of them, and keys and values that are too long or no plain text.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.0.len() > MAX_LABELS {
            let message = format!("{} labels, at most {MAX_LABELS} are taken", self.0.len());
            return Err(Refusal::over(Code::BadMessage, message, self.0.len() as u64, MAX_LABELS as u64));
        }
        for (key, value) in self.iter() {
            if key.is_empty() || key.contains('=') {
                let message = format!("the key of a label is a text without =, not {key:.63?}");
                return Err(Refusal::new(Code::BadMessage, message));
            }
            for (what, text, most) in [("key", key, MAX_LABEL_KEY), ("value", value, MAX_LABEL_VALUE)] {
                if text.len() > most {
                    let message =
                        format!("the {what} of a label has {} bytes, at most {most} are taken", text.len());
                    return Err(Refusal::over(Code::BadMessage, message, text.len() as u64, most as u64));
                }
                if let Some((at, found)) = text.char_indices().find(|(_, c)| c.is_control()) {
                    let message = format!(
                        "the {what} of a label holds {found:?} at byte {at}: control characters are no text"
                    );
                    return Err(Refusal::new(Code::BadMessage, message));
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (key, value)) in self.iter().enumerate() {
            write!(f, "{}{key}={value}", if n > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        Self(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> Labels {
        Labels::from_iter([(key, value)])
    }

    #[test]
    fn short_plain_text_is_taken_and_nothing_else() {
        for good in [one("team", "search"), one("größe", ""), one("k", &"v".repeat(128)), Labels::new()] {
            good.check().unwrap();
        }
        for bad in [
            one("", "v"),
            one("a=b", "v"),
            one("k\n", "v"),
            one("k", "two\nlines"),
            one("k", "\u{7f}"),
            one(&"k".repeat(64), "v"),
            one("k", &"v".repeat(129)),
            (0..9).map(|n| (n.to_string(), "v")).collect(),
        ] {
            let refusal = bad.check().unwrap_err();
            assert_eq!(refusal.code, Code::BadMessage);
            assert!(!refusal.message.contains('\n'), "{}", refusal.message);
        }
    }

    #[test]
    fn all_that_are_wanted_have_to_be_there() {
        let labels = Labels::from_iter([("team", "search"), ("run", "7")]);
        for (wanted, held) in
            [(Labels::new(), true), (one("run", "7"), true), (one("run", "8"), false), (one("x", "7"), false)]
        {
            assert_eq!(labels.hold(&wanted), held, "{wanted}");
        }
        assert_eq!(labels.to_string(), "run=7, team=search");
        assert_ne!(one("ab", "c").hashed(), one("a", "bc").hashed());
    }
}
