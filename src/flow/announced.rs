//! What instances say about their agents, and whether an input fits what they say: volatile, never replayed.
//!
//! What is decided by it, a refusal with its text, is what the journal holds; so a replay never validates. The schemas are
//! compiled outside ([`Takes`]). An input must fit one of the schemas that live instances of its agent have announced; an
//! agent without one costs a look into an empty map.

use std::{collections::HashMap, fmt, sync::Arc};

use crate::{
    task::{AgentName, Code, Payload, Refusal, capped_message},
    wire::about::About,
};

/// Different announcements of one agent, at most; further ones are not kept.
const MAX_OF_AGENT: usize = 16;
/// Bytes of all announcements together, at most.
const MAX_BYTES: usize = 32 << 20;

/// A compiled schema.
pub trait Takes: Send + Sync {
    /// Why an input does not fit, and where in it; without repeating it.
    fn misfit(&self, input: &Payload) -> Option<String>;
}

/// What an instance has announced.
#[derive(Clone)]
pub struct Announced {
    /// As it said it.
    pub about: About,
    /// Tells it from another.
    pub digest: [u8; 16],
    /// Its input schema, compiled.
    pub takes: Option<Arc<dyn Takes>>,
    /// Why there is none though it announced one.
    pub error: Option<String>,
}

impl PartialEq for Announced {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announced").field("about", &self.about).field("error", &self.error).finish()
    }
}

/// One of an agent's, and how many instances say it.
#[derive(Debug)]
struct Entry {
    announced: Arc<Announced>,
    instances: u32,
}

/// All that is announced now.
#[derive(Debug, Default)]
pub struct Announcements {
    /// Each agent's, the latest last.
    agents: HashMap<AgentName, Vec<Entry>>,
    /// Agents with a schema among those.
    with_schema: usize,
    bytes: usize,
}

fn has_schema(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.announced.takes.is_some())
}

impl Announcements {
    /// One more instance says this; `None`: there is no room for it.
    pub(super) fn add(&mut self, agent: &AgentName, announced: &Arc<Announced>) -> Option<Arc<Announced>> {
        let bytes = announced.about.bytes();
        let entries = self.agents.entry(agent.clone()).or_default();
        let had = has_schema(entries);
        if let Some(known) = entries.iter_mut().find(|entry| entry.announced.digest == announced.digest) {
            known.instances += 1;
            return Some(known.announced.clone());
        }
        if entries.len() >= MAX_OF_AGENT || self.bytes + bytes > MAX_BYTES {
            if entries.is_empty() {
                self.agents.remove(agent);
            }
            return None;
        }
        self.bytes += bytes;
        entries.push(Entry { announced: announced.clone(), instances: 1 });
        self.with_schema += usize::from(!had && has_schema(entries));
        Some(announced.clone())
    }

    /// One instance fewer says this.
    pub(super) fn remove(&mut self, agent: &AgentName, announced: &Announced) {
        let Some(entries) = self.agents.get_mut(agent) else { return };
        let Some(at) = entries.iter().position(|entry| entry.announced.digest == announced.digest) else {
            return;
        };
        entries[at].instances -= 1;
        if entries[at].instances > 0 {
            return;
        }
        let had = has_schema(entries);
        let gone = entries.remove(at);
        self.bytes -= gone.announced.about.bytes();
        self.with_schema -= usize::from(had && !has_schema(entries));
        if entries.is_empty() {
            self.agents.remove(agent);
        }
    }

    /// What an agent's instances say, the latest first.
    pub fn of(&self, agent: &AgentName) -> impl Iterator<Item = &Announced> {
        self.agents.get(agent).into_iter().flatten().rev().map(|entry| &*entry.announced)
    }

    /// Why an input fits none of its agent's schemas; what the latest says about it.
    pub fn refusal(&self, agent: &AgentName, input: &Payload) -> Option<Refusal> {
        if self.with_schema == 0 {
            return None;
        }
        let mut latest = None;
        for takes in self.of(agent).filter_map(|announced| announced.takes.as_ref()) {
            let misfit = takes.misfit(input)?;
            latest.get_or_insert(misfit);
        }
        let message = format!("the input is not what agent {agent} takes: {}", latest?);
        Some(Refusal::new(Code::SchemaViolation, capped_message(&message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Only(&'static str);

    impl Takes for Only {
        fn misfit(&self, input: &Payload) -> Option<String> {
            (input.as_bytes() != self.0.as_bytes()).then(|| format!("at ``: it is not {}", self.0))
        }
    }

    fn announced(version: &str, only: Option<&'static str>) -> Arc<Announced> {
        let takes = only.map(|only| Arc::new(Only(only)) as Arc<dyn Takes>);
        let about = About { version: Some(version.to_owned()), ..About::default() };
        let mut digest = [0; 16];
        digest[..version.len()].copy_from_slice(version.as_bytes());
        Arc::new(Announced { about, digest, takes, error: None })
    }

    fn takes(all: &Announcements, input: &'static str) -> bool {
        all.refusal(&"reader".parse().unwrap(), &Payload::Json(input.into())).is_none()
    }

    #[test]
    fn an_input_must_fit_a_schema_of_some_live_instance() {
        let agent: AgentName = "reader".parse().unwrap();
        let mut all = Announcements::default();
        assert!(takes(&all, "0"));
        let (old, new, silent) = (announced("1", Some("1")), announced("2", Some("2")), announced("3", None));
        all.add(&agent, &old).unwrap();
        all.add(&agent, &silent).unwrap();
        assert!(takes(&all, "1") && !takes(&all, "2"));
        all.add(&agent, &new).unwrap();
        all.add(&agent, &new).unwrap();
        assert!(takes(&all, "1") && takes(&all, "2") && !takes(&all, "3"));
        let refusal = all.refusal(&agent, &Payload::Json("3".into())).unwrap();
        assert_eq!(refusal.code, Code::SchemaViolation);
        assert!(refusal.message.contains("it is not 2"), "the latest speaks: {refusal}");
        assert!(all.refusal(&"other".parse().unwrap(), &Payload::Json("3".into())).is_none());
        all.remove(&agent, &old);
        all.remove(&agent, &new);
        assert!(!takes(&all, "1") && takes(&all, "2"));
        all.remove(&agent, &new);
        assert!(takes(&all, "3"));
        all.remove(&agent, &silent);
        assert_eq!((all.bytes, all.with_schema, all.agents.len()), (0, 0, 0));
    }

    #[test]
    fn different_announcements_are_bounded() {
        let agent: AgentName = "reader".parse().unwrap();
        let mut all = Announcements::default();
        let many: Vec<_> = (0..20).map(|n| announced(&n.to_string(), None)).collect();
        assert_eq!(many.iter().filter(|one| all.add(&agent, one).is_some()).count(), MAX_OF_AGENT);
    }
}
