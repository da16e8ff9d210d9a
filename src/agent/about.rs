//! What an agent says about itself: kept by the owner while an instance lives, shown by `selvedge agents`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Agent;
use crate::{task::Payload, wire::about::About};

impl Agent {
    /// What it does, for people and for agents that look for one: up to 1,024 bytes.
    pub fn description(self, text: impl Into<String>) -> Self {
        self.says(|about| about.description = Some(text.into()))
    }

    /// Which version of it this is: up to 64 bytes.
    pub fn version(self, version: impl Into<String>) -> Self {
        self.says(|about| about.version = Some(version.into()))
    }

    /// JSON Schema of its inputs: what does not fit is refused at admission, with its place. All that is said about the
    /// agent has 32 KiB at most. Nothing outside of the schema is looked up for it.
    pub fn input_schema<T: Serialize + ?Sized>(self, schema: &T) -> Self {
        let schema = encoded(schema);
        self.says(|about| about.input = Some(schema))
    }

    /// JSON Schema of its results: shown, not checked.
    pub fn output_schema<T: Serialize + ?Sized>(self, schema: &T) -> Self {
        let schema = encoded(schema);
        self.says(|about| about.output = Some(schema))
    }

    /// What it can take, by a name of its own: shown, not enforced.
    pub fn limit(self, name: impl Into<String>, limit: u64) -> Self {
        self.says(|about: &mut About| {
            let limits: &mut BTreeMap<String, u64> = &mut about.limits;
            limits.insert(name.into(), limit);
        })
    }

    fn says(mut self, say: impl FnOnce(&mut About)) -> Self {
        say(&mut self.settings.about);
        self
    }
}

/// What is no JSON is announced as none, and shown as that.
fn encoded<T: Serialize + ?Sized>(schema: &T) -> Payload {
    Payload::json(schema).unwrap_or_else(|error| Payload::Json(format!("no JSON: {error}").into()))
}
