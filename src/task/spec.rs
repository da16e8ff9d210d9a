//! What a submitter decides about a task, and how ids and body hashes are derived.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::{AgentName, Labels, Millis, Payload, TaskId, TenantName, Times, Token, TriggerName};

/// A task's full name: ids are unique within a tenant only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskKey {
    /// Whose task.
    pub tenant: TenantName,
    /// Which one.
    pub id: TaskId,
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.id)
    }
}

impl fmt::Debug for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.id)
    }
}

/// Priority classes. A plan names the highest one its tenants may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Runs when nothing else of the tenant waits.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before normal.
    High,
    /// Before everything but resumed parents.
    Critical,
}

impl Priority {
    /// The word on the wire and on screens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The inverse of [`Priority::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Low, Self::Normal, Self::High, Self::Critical].into_iter().find(|p| p.as_str() == text)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a submitter (a client, or a parent for its child) decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Which kind of worker runs it.
    pub agent: AgentName,
    /// Its input, opaque to the coordinator.
    #[serde(default)]
    pub input: Payload,
    /// Its class within the tenant.
    #[serde(default)]
    pub priority: Priority,
    /// Tries before it is dead; the plan's limit if absent, and never above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tries: Option<u32>,
    /// When it may start and by when it must be over; most tasks say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Box<Times>>,
    /// Cells (tokens, say) that an attempt is expected to use: set aside when it is dispatched, settled at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// What it is found by; most tasks have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Box<Labels>>,
}

impl Spec {
    /// Identifies what was asked for: same id and same hash is a repeat, same id and another hash a conflict.
    ///
    /// The first 16 bytes of SHA-256 over agent, 0, priority, 0, max_tries (decimal, empty if absent),
    /// times ([`Times::hashed`]), if there is a cost `c` and the cost (decimal), labels ([`Labels::hashed`]), 0, payload
    /// kind (`j` or `b`), payload bytes.
    pub fn body_hash(&self) -> BodyHash {
        let mut hash = Sha256::new();
        hash.update(self.agent.as_str());
        hash.update([0]);
        hash.update(self.priority.as_str());
        hash.update([0]);
        if let Some(tries) = self.max_tries {
            hash.update(tries.to_string());
        }
        if let Some(times) = &self.times {
            hash.update(times.hashed());
        }
        if let Some(cost) = self.cost {
            hash.update(format!("c{cost}"));
        }
        if let Some(labels) = &self.labels {
            hash.update(labels.hashed());
        }
        hash.update([0, self.input.kind()]);
        hash.update(self.input.as_bytes());
        BodyHash(first16(hash))
    }
}

/// See [`Spec::body_hash`]; 32 hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BodyHash(pub [u8; 16]);

impl fmt::Display for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl Serialize for BodyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for BodyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let token = Token::deserialize(deserializer)?; // the same grammar: 32 hex digits
        Ok(Self(token.0.to_be_bytes()))
    }
}

/// The id of a child: the same for the same (parent, step name, index), whichever attempt spawns it.
pub fn child_id(parent: &TaskId, step: &str, index: u32) -> TaskId {
    derived(&[parent.as_str(), step, &index.to_string()])
}

/// The id of a task submitted under an idempotency key of the caller's.
pub fn keyed_id(tenant: &TenantName, key: &str) -> TaskId {
    derived(&[tenant.as_str(), key])
}

/// The id of the task that retries a dead one; the nonce makes a repeated command the same retry.
pub fn retry_id(dead: &TaskId, nonce: &str) -> TaskId {
    derived(&[dead.as_str(), "retry", nonce])
}

/// The id of the task a trigger makes of a message, or of a batch; the parts say which. The same message is the same task,
/// however often it is delivered.
pub fn triggered_id(tenant: &TenantName, trigger: &TriggerName, parts: &[&str]) -> TaskId {
    derived(&[&[tenant.as_str(), "trigger", trigger.as_str()], parts].concat())
}

/// The first 32 hex digits of SHA-256 over the parts, a zero byte between them.
fn derived(parts: &[&str]) -> TaskId {
    let mut hash = Sha256::new();
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            hash.update([0]);
        }
        hash.update(part);
    }
    TaskId::from_hex(hex(&first16(hash)))
}

fn first16(hash: Sha256) -> [u8; 16] {
    let digest = hash.finalize();
    let mut out = [0; 16];
    out.copy_from_slice(&digest[..16]);
    out
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(DIGITS[(b >> 4) as usize] as char);
        out.push(DIGITS[(b & 15) as usize] as char);
    }
    out
}

/// How far an id of a submitter's clock may be trusted: a first-try time is clamped to `stored_at`.
pub fn clamp_first_try(first_try: Option<Millis>, stored_at: Millis) -> Millis {
    first_try.unwrap_or(stored_at).min(stored_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_depend_on_every_part_and_nothing_else() {
        let parent = TaskId::new("p1").unwrap();
        let id = child_id(&parent, "read", 0);
        assert_eq!(id, child_id(&parent, "read", 0));
        assert_ne!(id, child_id(&parent, "read", 1));
        assert_ne!(id, child_id(&parent, "rea", 0));
        assert_ne!(id, child_id(&TaskId::new("p2").unwrap(), "read", 0));
        assert_eq!(id.as_str().len(), 32);
    }

    #[test]
    fn a_changed_body_changes_the_hash() {
        let spec = Spec {
            labels: None,
            agent: AgentName::new("reader").unwrap(),
            input: Payload::json("x").unwrap(),
            priority: Priority::Normal,
            max_tries: None,
            times: None,
            cost: None,
        };
        let hash = spec.body_hash();
        assert_eq!(hash, spec.clone().body_hash());
        assert_ne!(hash, Spec { priority: Priority::High, ..spec.clone() }.body_hash());
        assert_ne!(hash, Spec { max_tries: Some(1), ..spec.clone() }.body_hash());
        let later = Times { delay_ms: Some(1), ..Times::default() };
        assert_ne!(hash, Spec { times: Some(Box::new(later)), ..spec.clone() }.body_hash());
        assert_eq!(hash, Spec { times: Some(Box::default()), ..spec.clone() }.body_hash());
        assert_ne!(hash, Spec { cost: Some(1), ..spec.clone() }.body_hash());
        let labels = Some(Box::new(Labels::from_iter([("team", "search")])));
        assert_ne!(hash, Spec { labels, ..spec.clone() }.body_hash());
        let tries = Spec { max_tries: Some(11), ..spec.clone() }.body_hash();
        assert_ne!(tries, Spec { max_tries: Some(1), cost: Some(1), ..spec.clone() }.body_hash());
        assert_ne!(hash, Spec { input: Payload::Bytes(spec.input.as_bytes().clone()), ..spec }.body_hash());
    }
}
