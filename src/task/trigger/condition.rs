//! What a message must be like: `message.kind=report`, `!message.draft`.

use serde_json::Value;

use super::scope::{Place, Scope};

/// One condition, as `--filter` takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    place: Place,
    holds: Holds,
}

#[derive(Debug, Clone, PartialEq)]
enum Holds {
    /// There is something, and it is not `null`.
    There,
    /// There is nothing, or `null`.
    Absent,
    Equal(Value),
    Unequal(Value),
}

impl Condition {
    /// Reads `PLACE`, `!PLACE`, `PLACE=VALUE` or `PLACE!=VALUE`. A value is JSON; what is none is text.
    pub fn read(text: &str) -> Result<Self, String> {
        let read = || -> Result<Self, String> {
            if let Some(place) = text.strip_prefix('!') {
                return Ok(Self { place: Place::read(place.trim(), false)?, holds: Holds::Absent });
            }
            let Some((place, value)) = text.split_once('=') else {
                return Ok(Self { place: Place::read(text.trim(), false)?, holds: Holds::There });
            };
            let (place, differs) = match place.strip_suffix('!') {
                Some(place) => (place, true),
                None => (place, false),
            };
            let value = value.trim();
            if value.is_empty() {
                return Err("nothing stands behind `=`; \"\" is the empty text".to_owned());
            }
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            let holds = if differs { Holds::Unequal(value) } else { Holds::Equal(value) };
            Ok(Self { place: Place::read(place.trim(), false)?, holds })
        };
        read().map_err(|reason| format!("filter {text:?}: {reason}"))
    }

    /// Whether the message is like that.
    pub fn holds(&self, scope: &Scope) -> bool {
        let found = self.place.find(scope);
        let is = |value: &Value| found.as_deref() == Some(value);
        match &self.holds {
            Holds::There => found.as_deref().is_some_and(|value| !value.is_null()),
            Holds::Absent => found.as_deref().is_none_or(Value::is_null),
            Holds::Equal(value) => is(value),
            Holds::Unequal(value) => !is(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_compared_as_json_and_text_needs_no_quotes() {
        let scope = Scope {
            message: serde_json::json!({"kind": "report", "pages": 3, "tags": ["a"], "draft": null}),
            topic: "docs.new".into(),
            ..Scope::default()
        };
        let holds = |text: &str| Condition::read(text).unwrap().holds(&scope);
        for yes in [
            "message.kind=report",
            "message.kind=\"report\"",
            "message.kind != letter",
            "message.pages=3",
            "message.tags.0=a",
            "message.tags=[\"a\"]",
            "message.kind",
            "!message.draft",
            "!message.author.name",
            "message.author!=x",
            "topic=docs.new",
        ] {
            assert!(holds(yes), "{yes}");
        }
        for no in
            ["message.kind=letter", "message.pages=\"3\"", "message.draft", "!message.kind", "message.a=1"]
        {
            assert!(!holds(no), "{no}");
        }
        for bad in ["", "mesage=1", "message.kind=", "batch=1", "message..a", "subject.x"] {
            let error = Condition::read(bad).unwrap_err();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }
}
