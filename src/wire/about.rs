//! What agents say about themselves, and who asks for it: `sv.api.<tenant>.agents`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::task::{AgentName, InstanceId, Millis, Payload, TaskId};

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Bytes of an announcement, at most.
pub const MAX_ABOUT_BYTES: usize = 32 * 1024;
/// Bytes of a description, at most.
const MAX_DESCRIPTION: usize = 1_024;
/// Bytes of a version, at most.
const MAX_VERSION: usize = 64;
/// Limits an agent may tell of, and bytes of the name of one, at most.
const MAX_LIMITS: (usize, usize) = (32, 64);

/// What an agent says about itself, with a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What it does, for people and for agents that look for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Which version of it this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// JSON Schema of its inputs: what does not fit is refused at admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Payload>,
    /// JSON Schema of its results: shown, not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Payload>,
    /// What it can take, by names of its own: shown, not enforced.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
}

impl About {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Bytes of all of it, roughly.
    pub fn bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let schema = |schema: &Option<Payload>| schema.as_ref().map_or(0, Payload::len);
        let limits = self.limits.keys().map(|name| name.len() + 9).sum::<usize>();
        text(&self.description) + text(&self.version) + schema(&self.input) + schema(&self.output) + limits
    }

    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let within = |what: &str, length: usize, most: usize| match length {
            length if length > most => Err(format!("{what} has {length} bytes, at most {most}")),
            _ => Ok(()),
        };
        within("the description", self.description.as_ref().map_or(0, String::len), MAX_DESCRIPTION)?;
        within("the version", self.version.as_ref().map_or(0, String::len), MAX_VERSION)?;
        within("what the agent says about itself", self.bytes(), MAX_ABOUT_BYTES)?;
        if self.limits.len() > MAX_LIMITS.0 {
            return Err(format!("it tells of {} limits, at most {}", self.limits.len(), MAX_LIMITS.0));
        }
        self.limits.keys().try_for_each(|name| within("the name of a limit", name.len(), MAX_LIMITS.1))
    }
}

/// `agents`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentsRequest {
    /// Only this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// With their schemas.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub schemas: bool,
}

/// The agents of which some instance lives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentsReply {
    /// By name.
    #[serde(deserialize_with = "crate::task::grown")]
    pub agents: Vec<AgentView>,
    /// There are more instances than fit into an answer: ask for one agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// When the owner said so, Unix milliseconds.
    pub at: Millis,
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// Which.
    pub agent: AgentName,
    /// What its instances say about themselves, each different one once, the latest first. Schemas only if asked for.
    #[serde(deserialize_with = "crate::task::grown", default)]
    pub about: Vec<About>,
    /// Its instances.
    #[serde(deserialize_with = "crate::task::grown")]
    pub instances: Vec<InstanceView>,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Which.
    pub instance: InstanceId,
    /// `serving`, `draining`, `quiet` (not heard of lately) or `suspected` (it did not answer an offer).
    pub state: String,
    /// Which version of the agent it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why its input schema is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_error: Option<String>,
    /// Tasks it runs at once.
    pub slots: u32,
    /// Slots a task could be offered to now.
    pub free: u32,
    /// How many of its slots take calls only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub call_slots: u32,
    /// Leases it has, of all tenants.
    pub running: u32,
    /// The asking tenant's tasks among those, up to 100.
    #[serde(deserialize_with = "crate::task::grown", default)]
    pub tasks: Vec<TaskId>,
    /// How long ago it was heard of, in milliseconds.
    pub silent_ms: Millis,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_named_with_its_numbers() {
        let long = |n: usize| Some("x".repeat(n));
        assert_eq!(About { description: long(1_024), version: long(64), ..About::default() }.check(), Ok(()));
        let error = About { description: long(1_025), ..About::default() }.check().unwrap_err();
        assert_eq!(error, "the description has 1025 bytes, at most 1024");
        assert!(About { version: long(65), ..About::default() }.check().is_err());
        let schema = Some(Payload::json(&"x".repeat(MAX_ABOUT_BYTES)).unwrap());
        assert!(About { input: schema, ..About::default() }.check().unwrap_err().contains("32768"));
        let limits = (0..33).map(|n| (n.to_string(), 1)).collect();
        assert!(About { limits, ..About::default() }.check().unwrap_err().contains("33"));
    }
}
