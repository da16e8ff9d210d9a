//! Topics: names separated by dots, and filters over them.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names in a topic, at most.
pub const MAX_TOPIC_NAMES: usize = 8;

/// Text that is no topic, or no filter of topics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: {reason}")]
pub struct TopicError {
    what: &'static str,
    text: String,
    reason: &'static str,
}

fn check(what: &'static str, text: &str, wild: bool) -> Result<(), TopicError> {
    let refuse = |reason| {
        let text = text.chars().take(80).collect();
        Err(TopicError { what, text, reason })
    };
    let mut names = text.split('.').peekable();
    let mut count = 0;
    while let Some(name) = names.next() {
        count += 1;
        if count > MAX_TOPIC_NAMES {
            return refuse("it has more than 8 names");
        }
        let last = names.peek().is_none();
        match name {
            "*" if wild => continue,
            ">" if wild && last => continue,
            ">" if wild => return refuse("`>` stands at its end only"),
            _ => {}
        }
        if name.is_empty() || name.len() > 63 {
            return refuse("between its dots stand 1 to 63 characters");
        }
        let fits = |(at, c): (usize, char)| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || (at > 0 && (c == '_' || c == '-'))
        };
        if !name.char_indices().all(fits) {
            return refuse("its names are of a-z, 0-9, - and _, and begin with a letter or a digit");
        }
    }
    Ok(())
}

macro_rules! topic_type {
    ($(#[$doc:meta])* $type:ident, $what:literal, $wild:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `text` against the grammar.
            pub fn new(text: impl AsRef<str>) -> Result<Self, TopicError> {
                check($what, text.as_ref(), $wild)?;
                Ok(Self(Arc::from(text.as_ref())))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = TopicError;

            fn from_str(text: &str) -> Result<Self, TopicError> {
                Self::new(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

topic_type!(
    /// What a message is about: `docs.new`, within its tenant.
    Topic,
    "topic",
    false
);
topic_type!(
    /// Which topics: `*` stands for one name, `>` at the end for one or more.
    TopicFilter,
    "filter of topics",
    true
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_names_and_a_filter_may_have_wildcards() {
        for good in ["docs", "docs.new", "a-b.c_d.0", "a.b.c.d.e.f.g.h"] {
            assert!(Topic::new(good).is_ok() && TopicFilter::new(good).is_ok(), "{good}");
        }
        for good in ["*", ">", "docs.>", "*.new", "docs.*.x.>"] {
            assert!(Topic::new(good).is_err() && TopicFilter::new(good).is_ok(), "{good}");
        }
        let long = "x".repeat(64);
        for bad in
            ["", ".", "a.", ".a", "a..b", "A", "a b", "-a", "a.>.b", "a*", "ä", "a.b.c.d.e.f.g.h.i", &long]
        {
            assert!(Topic::new(bad).is_err() && TopicFilter::new(bad).is_err(), "{bad}");
        }
    }
}
