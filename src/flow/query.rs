//! Reading the state: views of tasks as readers, parents and hints see them.

use super::{
    entry::{Stored, Task},
    history::{Recorded, Told},
    record::What,
    resident::ENTRY,
    state::State,
    tasks::Slot,
};
use crate::{
    task::{Payload, Phase, TaskKey},
    wire::{
        api::{ChildView, ChildrenPage, TaskView},
        history::{Did, HistoryPage, Mail, Step},
        messages::{Done, MAX_HINT_RESULT},
    },
};

/// Size at which a page of children is cut, in bytes of results.
const PAGE_BYTES: usize = 512 * 1024;

/// A task as a reader sees it, with its result if that is in memory; `None` for a bare tombstone.
pub fn view(state: &State, key: &TaskKey) -> Option<TaskView> {
    view_at(state, state.find(key)?)
}

/// The same, by its slot.
pub(super) fn view_at(state: &State, slot: Slot) -> Option<TaskView> {
    let task = state.tasks.get(slot).filter(|task| !task.tombstone)?;
    let (ran, more) = (task.ran(), task.more());
    let timing = task.timing();
    let result = more.result.and_then(|stored| match stored.rev() {
        None => Some(Payload::default()),
        Some(_) => state.resident.result(slot).cloned(),
    });
    Some(TaskView {
        tenant: state.tenant_name(task.tenant).clone(),
        task: task.id.clone(),
        agent: state.agent_of(task).clone(),
        state: task.phase,
        rev: task.rev,
        priority: task.priority,
        parent: task.parent().cloned(),
        root: task.root().clone(),
        depth: task.depth(),
        attempt: ran.attempt,
        tries: ran.tries,
        instance: ran.lease.as_ref().map(|l| l.instance.clone()),
        created_at: task.created,
        not_before: timing.and_then(|timing| timing.not_before),
        deadline_at: timing.and_then(|timing| timing.deadline),
        started_at: (ran.attempt > 0).then_some(ran.started),
        ended_at: task.ended.map(|at| at.get()),
        refusal: more.refusal.clone(),
        failures: more.failures.clone(),
        retry_of: more.retry_of.clone(),
        last_event: ran.last_event,
        body_hash: Some(task.body_hash),
        labels: more.labels.as_deref().cloned().unwrap_or_default(),
        result,
    })
}

/// The hint at a task's state, without a result.
pub fn done_hint(task: &Task) -> Done {
    Done {
        v: crate::wire::VERSION,
        rev: task.rev,
        state: task.phase,
        refusal: task.refusal().cloned(),
        result: None,
        attempt: task.attempt(),
        last_event: task.ran().last_event,
        body_hash: Some(task.body_hash),
        nonce: None,
    }
}

/// The hint at the end of a task, with its result if that is small.
pub fn end_hint(task: &Task, result: Option<&Payload>) -> Done {
    let small = result.filter(|r| task.phase == Phase::Completed && r.len() <= MAX_HINT_RESULT);
    Done { result: small.cloned(), ..done_hint(task) }
}

/// A page of a task's children, in the order they were spawned, and the journal messages that hold results which
/// belong to it and are not in memory.
pub fn children(
    state: &State,
    key: &TaskKey,
    after: u32,
    limit: u32,
    results: bool,
) -> Option<(ChildrenPage, Vec<u64>)> {
    let task = state.task(key).filter(|t| !t.tombstone)?;
    let mut page = ChildrenPage { children: Vec::new(), next: None };
    let mut missing = Vec::new();
    let mut bytes = 0;
    for (at, id) in task.more().children.iter().enumerate().skip(after as usize) {
        if page.children.len() >= limit as usize || bytes > PAGE_BYTES {
            page.next = Some(at as u32);
            break;
        }
        let Some(slot) = state.tasks.find(task.tenant, id) else { continue };
        let child = &state.tasks[slot];
        let Some(of) = &child.more().child else { continue };
        let stored = child.more().result.filter(|_| results);
        bytes += stored.map_or(0, |stored| stored.len()) + 200;
        let result = match stored.map(|stored| stored.rev()) {
            None => None,
            Some(None) => Some(Payload::default()),
            Some(Some(rev)) => {
                let result = state.resident.result(slot).cloned();
                if result.is_none() && !missing.contains(&rev) {
                    missing.push(rev);
                }
                result
            }
        };
        page.children.push(ChildView {
            task: id.clone(),
            agent: state.agent_of(child).clone(),
            step: of.step.clone(),
            index: of.index,
            state: child.phase,
            refusal: child.refusal().cloned(),
            result,
        });
    }
    Some((page, missing))
}

/// Steps and messages on a page, and journal messages asked for at once when some are not in memory.
const PAGE: (usize, usize) = (2_048, 64);

/// A page of what a task was told and what its handler recorded. If the first of it is not in memory: the journal messages
/// that hold it and what follows, as far as there is room for them.
pub fn history(state: &State, key: &TaskKey, place: u32, after: u32) -> Option<(HistoryPage, Vec<u64>)> {
    let slot = state.find(key).filter(|slot| !state.tasks[*slot].tombstone)?;
    let Some(history) = state.tasks[slot].history() else { return Some(Default::default()) };
    let mut page = HistoryPage::default();
    let mut bytes = 0;
    let messages = history.told().skip(after as usize);
    let steps = history.entries().range(place..);
    let payload = |what, stored: Stored| match stored.rev() {
        None => Some(Payload::default()),
        Some(_) => state.resident.part(slot, what).cloned(),
    };
    let full = |page: &HistoryPage, bytes: usize| {
        bytes > PAGE_BYTES || page.messages.len() + page.steps.len() >= PAGE.0
    };
    let mut missing = Missing { revs: Vec::new(), room: state.resident.room_for_others() / 2 };
    for (seq, told) in messages {
        let found = payload(What::Message(seq), told.message);
        if full(&page, bytes) || (found.is_none() && !page.messages.is_empty()) {
            page.next = Some((place, seq - 1));
            return Some((page, Vec::new()));
        }
        match found {
            Some(message) if missing.revs.is_empty() => {
                bytes += message.len() + 64;
                page.messages.push(mail(seq, told, message));
            }
            Some(_) => {}
            None if missing.takes(told.message) => {}
            None => return Some((page, missing.revs)),
        }
    }
    for (at, entry) in steps {
        let found = match entry.did {
            Recorded::Result(stored) => payload(What::Step(*at), stored).map(Did::Result),
            Recorded::Took(seq) => Some(Did::Took(seq)),
            Recorded::TimedOut => Some(Did::TimedOut {}),
            Recorded::Slept => Some(Did::Slept {}),
            Recorded::Kept(object) => Some(Did::Kept(object)),
        };
        let begun = page.messages.len() + page.steps.len() > 0;
        if full(&page, bytes) || (found.is_none() && begun) {
            page.next = Some((*at, history.count_told()));
            return Some((page, Vec::new()));
        }
        match (found, entry.did) {
            (Some(did), _) if missing.revs.is_empty() => {
                bytes += if let Did::Result(result) = &did { result.len() } else { 0 } + 64;
                page.steps.push(Step { place: *at, name: entry.name.to_string(), did });
            }
            (None, Recorded::Result(stored)) if missing.takes(stored) => {}
            (None, _) => break,
            (Some(_), _) => {}
        }
    }
    Some((page, missing.revs))
}

fn mail(seq: u32, told: &Told, message: Payload) -> Mail {
    let (signal, from) = (told.signal.as_deref().map(str::to_owned), told.from.as_deref().map(str::to_owned));
    Mail { seq, signal, from, at: told.at, message }
}

/// Journal messages to be read, at least one.
struct Missing {
    revs: Vec<u64>,
    room: usize,
}

impl Missing {
    /// Whether this one is read with them.
    fn takes(&mut self, stored: Stored) -> bool {
        let Some(rev) = stored.rev() else { return true };
        // More than there is room for would push out the first before it is looked for again.
        let cost = stored.len() + ENTRY;
        if !self.revs.is_empty() && (self.revs.len() >= PAGE.1 || cost > self.room) {
            return false;
        }
        self.room = self.room.saturating_sub(cost);
        if !self.revs.contains(&rev) {
            self.revs.push(rev);
        }
        true
    }
}
