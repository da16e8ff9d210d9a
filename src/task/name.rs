//! Names and ids: one grammar, `[a-z0-9][a-z0-9_-]{0,62}`, five types so that they can't be mixed up.
//!
//! Every name can be a subject token, a Redis key part and a KV key without quoting. Display text
//! goes elsewhere.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is no name. Never repeats more than a short, escaped piece of the input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a {what} must not be empty")]
    Empty {
        /// Which kind of name was expected.
        what: &'static str,
    },
    /// The text is longer than 63 bytes.
    #[error("a {what} is at most 63 bytes long, this one has {len}")]
    TooLong {
        /// Which kind of name was expected.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// The name of a schedule is longer than 48 bytes.
    #[error("a schedule name is at most {MAX_SCHEDULE_NAME} bytes long, this one has {len}")]
    TooLongSchedule {
        /// Its length in bytes.
        len: usize,
    },
    /// A byte outside the grammar.
    #[error(
        "a {what} is made of a-z, 0-9, '_' and '-' and starts with a letter or digit; found {found} at byte {at}"
    )]
    Byte {
        /// Which kind of name was expected.
        what: &'static str,
        /// The offending character, escaped.
        found: String,
        /// Its byte offset.
        at: usize,
    },
}

fn check(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > 63 {
        return Err(NameError::TooLong { what, len: text.len() });
    }
    for (at, c) in text.char_indices() {
        let fits = c.is_ascii_lowercase() || c.is_ascii_digit() || (at > 0 && (c == '_' || c == '-'));
        if !fits {
            return Err(NameError::Byte { what, found: format!("{c:?}"), at });
        }
    }
    Ok(())
}

macro_rules! written {
    ($type:ident, $what:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a ", $what))
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        $type::new(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
    };
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `text` against the grammar.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                check($what, text.as_ref())?;
                Ok(Self(Arc::from(text.as_ref())))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        written!($type, $what);
    };
}

name_type!(
    /// Whose work it is; the unit of fairness, caps, rates and isolation.
    TenantName,
    "tenant name"
);
name_type!(
    /// A named kind of worker.
    AgentName,
    "agent name"
);
name_type!(
    /// One running process of an agent; fresh per process start.
    InstanceId,
    "instance id"
);
name_type!(
    /// A named set of limits.
    PlanName,
    "plan name"
);
name_type!(
    /// What turns messages into tasks.
    TriggerName,
    "trigger name"
);
/// A schedule; shorter than other names, so that the ids of its tasks can begin with it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScheduleName(Arc<str>);

/// Bytes of a schedule's name, at most.
const MAX_SCHEDULE_NAME: usize = 48;

impl ScheduleName {
    /// Checks `text` against the grammar.
    pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
        check("schedule name", text.as_ref())?;
        match text.as_ref().len() {
            len if len > MAX_SCHEDULE_NAME => Err(NameError::TooLongSchedule { len }),
            _ => Ok(Self(Arc::from(text.as_ref()))),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

written!(ScheduleName, "schedule name");

/// Text that is mostly short: up to 38 bytes (a UUID in any spelling) in place, longer on the heap.
#[derive(Clone)]
enum Text {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Arc<str>),
}

/// With its length and its tag this makes 40 bytes.
const SHORT: usize = 38;

impl Text {
    fn new(text: &str) -> Self {
        if text.len() > SHORT {
            return Self::Long(Arc::from(text));
        }
        let mut bytes = [0; SHORT];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Self::Short { len: text.len() as u8, bytes }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(text) => text.as_bytes(),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            // Made of a `str`, so it is one.
            Self::Short { len, bytes } => {
                std::str::from_utf8(&bytes[..usize::from(*len)]).unwrap_or_default()
            }
            Self::Long(text) => text,
        }
    }
}

/// One task, unique within its tenant.
#[derive(Clone)]
pub struct TaskId(Text);

impl PartialEq for TaskId {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes() == other.0.as_bytes()
    }
}

impl Eq for TaskId {}

impl PartialOrd for TaskId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TaskId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_bytes().cmp(other.0.as_bytes())
    }
}

impl std::hash::Hash for TaskId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_bytes().hash(state);
    }
}

impl TaskId {
    /// Checks `text` against the grammar.
    pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
        check("task id", text.as_ref())?;
        Ok(Self(Text::new(text.as_ref())))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

written!(TaskId, "task id");

impl InstanceId {
    /// An id no process had before.
    pub fn fresh() -> Self {
        Self(Arc::from(uuid::Uuid::new_v4().simple().to_string()))
    }
}

impl TaskId {
    /// A new id, ordered by time.
    pub fn fresh() -> Self {
        Self(Text::new(uuid::Uuid::now_v7().simple().encode_lower(&mut uuid::Uuid::encode_buffer())))
    }

    /// Only for text that is 32 lower-case hex digits by construction.
    pub(super) fn from_hex(hex: String) -> Self {
        debug_assert!(check("task id", &hex).is_ok());
        Self(Text::new(&hex))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_takes_subject_safe_names_only() {
        for good in ["a", "0", "acme", "a-b_c", "0abc", &"x".repeat(63)] {
            assert!(TenantName::new(good).is_ok(), "{good}");
        }
        let long = "x".repeat(10_000);
        for bad in ["", "-a", "_a", "A", "a.b", "*", ">", "a b", "a\n", "a\0", "ä", "аcme", "{a}", &long] {
            assert!(TenantName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_escapes_what_it_quotes() {
        let error = TaskId::new("a\u{1b}[31m").unwrap_err().to_string();
        assert!(error.contains("'\\u{1b}'") && !error.contains('\u{1b}'), "{error}");
    }

    #[test]
    fn decoding_refuses_what_the_constructor_refuses() {
        assert!(serde_json::from_str::<TaskId>("\"ok-1\"").is_ok());
        let error = serde_json::from_str::<TaskId>("\"a.b\"").unwrap_err().to_string();
        assert!(error.contains("task id"), "{error}");
    }
}
