//! Reading the state: views of tasks as readers, parents and hints see them.

use super::{entry::Task, state::State, tasks::Slot};
use crate::{
    task::{Payload, Phase, TaskKey},
    wire::{
        api::{ChildView, ChildrenPage, TaskView},
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
