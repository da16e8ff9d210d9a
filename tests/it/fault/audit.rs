//! Reads a journal and checks what must hold at every prefix of it, with code that shares nothing with `flow`'s.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use selvedge::bus::journal::{Entry, JournalReader};
use selvedge::flow::engine::Engine;
use selvedge::flow::record::{Admission, AfterFailure, Failure, JournalMessage, Record};
use selvedge::task::{Outcome, TaskId, TaskKey, Token};
use selvedge::wire::subjects::Shard;

use crate::harness::Stack;

/// A task as the records tell it.
#[derive(Debug, Default)]
struct Seen {
    attempt: u32,
    tries: u32,
    max_tries: u32,
    lease: Option<Token>,
    terminal: Option<&'static str>,
    parent: Option<TaskKey>,
}

/// A journal, read and found sound.
pub struct Audit {
    pub messages: Vec<JournalMessage>,
    tasks: HashMap<TaskKey, Seen>,
    /// The most leases live at once, per tenant.
    pub most_in_flight: BTreeMap<String, usize>,
}

impl Audit {
    /// Reads everything and checks it.
    pub async fn of(stack: &Stack) -> Audit {
        let connection = stack.connect("audit").await;
        let reader = JournalReader::new(connection.jetstream(), Shard(0)).await.expect("the stream is there");
        let mut tail = reader.read(1).await.expect("readable");
        let mut entries = Vec::new();
        while let Some(entry) = tail.next().await {
            entries.push(entry.expect("readable"));
        }
        Self::of_entries(&entries)
    }

    /// Checks a whole journal that was copied before it was purged.
    pub fn of_entries(entries: &[Entry]) -> Audit {
        let mut engine: Engine<()> = Engine::new(Shard(0));
        let mut again: Engine<()> = Engine::new(Shard(0));
        let mut audit =
            Audit { messages: Vec::new(), tasks: HashMap::new(), most_in_flight: BTreeMap::new() };
        let mut in_flight: BTreeMap<String, BTreeSet<Token>> = BTreeMap::new();
        for entry in entries {
            // Revision and chain are checked by the replay.
            engine.replay(entry.seq, &entry.bytes).expect("the journal follows on itself");
            again.replay(entry.seq, &entry.bytes).expect("twice");
            let message = JournalMessage::decode(&entry.bytes).expect("decodes");
            for record in &message.records {
                audit.see(record, &mut in_flight);
            }
            audit.messages.push(message);
        }
        engine.state().check_derived().expect("derived data follow from the tasks");
        assert_eq!(engine.state().canonical(), again.state().canonical(), "two replays give equal bytes");
        audit
    }

    fn see(&mut self, record: &Record, in_flight: &mut BTreeMap<String, BTreeSet<Token>>) {
        match record {
            Record::Submitted { tenant, admission } => {
                self.admit(TaskKey { tenant: tenant.clone(), id: admission.task.clone() }, admission, None);
            }
            Record::Spawned { key, token, children, .. } => {
                let parent = &self.tasks[key];
                assert_eq!(parent.lease, Some(*token), "{key} spawns under its live lease");
                for child in children {
                    let id = TaskKey { tenant: key.tenant.clone(), id: child.task.clone() };
                    self.admit(id, child, Some(key.clone()));
                }
            }
            Record::Dispatched { key, attempt, token, .. } => {
                let task = self.task(key);
                assert_eq!(task.lease, None, "{key} has no two leases");
                assert_eq!(*attempt, task.attempt + 1, "attempts of {key} rise by one");
                task.attempt = *attempt;
                task.lease = Some(*token);
                let tokens = in_flight.entry(key.tenant.to_string()).or_default();
                tokens.insert(*token);
                let most = self.most_in_flight.entry(key.tenant.to_string()).or_default();
                *most = (*most).max(tokens.len());
            }
            Record::Withdrawn { key, token, failure, .. } => {
                self.release(key, *token, in_flight);
                self.fail(key, failure.as_ref());
            }
            Record::Ended { key, token, outcome, failure, .. } => {
                self.release(key, *token, in_flight);
                self.fail(key, failure.as_ref());
                if failure.is_none() && matches!(outcome, Outcome::Completed { .. }) {
                    self.end(key, "completed");
                }
            }
            Record::LeaseLost { key, token, failure } | Record::TimedOut { key, token, failure } => {
                self.release(key, *token, in_flight);
                self.fail(key, Some(failure));
            }
            Record::Cancelled { key, .. } | Record::Expired { key, .. } => {
                let how = if matches!(record, Record::Expired { .. }) { "expired" } else { "cancelled" };
                // Of the tree everything that is not terminal.
                let mut next = vec![key.clone()];
                while let Some(key) = next.pop() {
                    let children = self.tasks.iter().filter(|(_, t)| t.parent.as_ref() == Some(&key));
                    next.extend(children.map(|(k, _)| k.clone()));
                    let task = self.tasks.entry(key.clone()).or_default();
                    if task.terminal.is_none() {
                        task.terminal = Some(how);
                        if let Some(token) = task.lease.take() {
                            in_flight.entry(key.tenant.to_string()).or_default().remove(&token);
                        }
                    }
                }
            }
            // Nothing that is audited here stops what runs.
            Record::AgentSet { .. } | Record::AllSet { .. } | Record::TreeSet { .. } => {}
            Record::Opened { .. }
            | Record::PlanSet { .. }
            | Record::TenantSet { .. }
            | Record::ScheduleSet { .. }
            | Record::ScheduleFired { .. }
            | Record::SchedulePlanned { .. }
            | Record::Told { .. }
            | Record::Stepped { .. }
            | Record::Woken { .. }
            | Record::Carried { .. }
            | Record::Permits { .. }
            | Record::Refused { .. } => {}
        }
    }

    fn admit(&mut self, key: TaskKey, admission: &Admission, parent: Option<TaskKey>) {
        let known = self.tasks.get(&key).is_some_and(|t| t.terminal != Some("cancelled"));
        assert!(!known, "{key} is admitted once");
        if let Some(parent) = &parent {
            assert_eq!(self.tasks[parent].terminal, None, "{parent} is live when it gets children");
        }
        let terminal = admission.refusal.as_ref().map(|_| "rejected");
        let max_tries = admission.spec.max_tries.unwrap_or(u32::MAX);
        self.tasks.insert(key, Seen { max_tries, terminal, parent, ..Seen::default() });
    }

    fn task(&mut self, key: &TaskKey) -> &mut Seen {
        let task = self.tasks.get_mut(key).unwrap_or_else(|| panic!("{key} comes from nowhere"));
        assert_eq!(task.terminal, None, "{key}: terminal is final");
        task
    }

    fn release(&mut self, key: &TaskKey, token: Token, in_flight: &mut BTreeMap<String, BTreeSet<Token>>) {
        let task = self.task(key);
        assert_eq!(task.lease, Some(token), "only the live lease of {key} changes it");
        task.lease = None;
        in_flight.entry(key.tenant.to_string()).or_default().remove(&token);
    }

    fn fail(&mut self, key: &TaskKey, failure: Option<&Failure>) {
        let Some(failure) = failure else { return };
        let task = self.task(key);
        task.tries += 1;
        assert_eq!(task.tries, failure.tries, "tries of {key} are counted one by one");
        assert!(task.tries <= task.max_tries, "{key} is not tried more often than it may be");
        if failure.next == AfterFailure::Dead {
            self.end(key, "failed");
        }
    }

    fn end(&mut self, key: &TaskKey, how: &'static str) {
        self.task(key).terminal = Some(how);
    }

    /// How a task ended, and after how many attempts and lost tries.
    pub fn end_of(&self, tenant: &str, id: &TaskId) -> (Option<&'static str>, u32, u32) {
        let key = TaskKey { tenant: tenant.parse().expect("a name"), id: id.clone() };
        let task = self.tasks.get(&key).unwrap_or_else(|| panic!("{key} was accepted and is lost"));
        (task.terminal, task.attempt, task.tries)
    }

    /// Every task is terminal and no lease is left.
    pub fn assert_settled(&self) {
        for (key, task) in &self.tasks {
            assert!(task.terminal.is_some() && task.lease.is_none(), "{key} is not settled: {task:?}");
        }
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// How many records are of a kind.
    pub fn count(&self, is: impl Fn(&Record) -> bool) -> usize {
        self.messages.iter().flat_map(|m| &m.records).filter(|r| is(r)).count()
    }
}
