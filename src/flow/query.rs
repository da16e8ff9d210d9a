//! Reading the state: views of tasks as readers, parents and hints see them.

use super::{
    record::Origin,
    state::{State, Task},
};
use crate::{
    task::{Payload, Phase, TaskKey},
    wire::{
        api::{ChildView, ChildrenPage, TaskView},
        messages::{Done, MAX_HINT_RESULT},
    },
};

/// Size at which a page of children is cut, in bytes of results.
const PAGE_BYTES: usize = 512 * 1024;

/// A task as a reader sees it, without its result; `None` for a bare tombstone.
pub fn view(key: &TaskKey, task: &Task) -> Option<TaskView> {
    if task.tombstone {
        return None;
    }
    let retry_of = match &task.origin {
        Origin::Root { retry_of, .. } => retry_of.clone(),
        Origin::Child { .. } => None,
    };
    Some(TaskView {
        tenant: key.tenant.clone(),
        task: key.id.clone(),
        agent: task.spec.agent.clone(),
        state: task.phase,
        rev: task.rev,
        priority: task.spec.priority,
        parent: task.parent().cloned(),
        root: task.root(&key.id).clone(),
        depth: task.depth(),
        attempt: task.attempt,
        tries: task.tries,
        instance: task.lease.as_ref().map(|l| l.instance.clone()),
        created_at: task.created,
        started_at: task.started,
        ended_at: task.ended,
        refusal: task.refusal.clone(),
        failures: task.failures.clone(),
        retry_of,
        last_event: task.last_event,
        body_hash: Some(task.body_hash),
        result: task.result.clone(),
    })
}

/// The hint at a task's state, without a result.
pub fn done_hint(task: &Task) -> Done {
    Done {
        v: crate::wire::VERSION,
        rev: task.rev,
        state: task.phase,
        refusal: task.refusal.clone(),
        result: None,
        attempt: task.attempt,
        last_event: task.last_event,
        body_hash: Some(task.body_hash),
    }
}

/// The hint at the end of a task, with its result if that is small.
pub fn end_hint(task: &Task, result: Option<&Payload>) -> Done {
    let small = result.filter(|r| task.phase == Phase::Completed && r.len() <= MAX_HINT_RESULT);
    Done { result: small.cloned(), ..done_hint(task) }
}

/// A page of a task's children, in the order they were spawned.
pub fn children(state: &State, key: &TaskKey, after: u32, limit: u32, results: bool) -> Option<ChildrenPage> {
    let task = state.task(key).filter(|t| !t.tombstone)?;
    let mut page = ChildrenPage { children: Vec::new(), next: None };
    let mut bytes = 0;
    for (at, id) in task.children.iter().enumerate().skip(after as usize) {
        if page.children.len() >= limit as usize || bytes > PAGE_BYTES {
            page.next = Some(at as u32);
            break;
        }
        let Some(child) = state.task(&TaskKey { tenant: key.tenant.clone(), id: id.clone() }) else {
            continue;
        };
        let Origin::Child { step, index, .. } = &child.origin else { continue };
        let result = child.result.clone().filter(|_| results);
        bytes += result.as_ref().map_or(0, Payload::len) + 200;
        page.children.push(ChildView {
            task: id.clone(),
            agent: child.spec.agent.clone(),
            step: step.clone(),
            index: *index,
            state: child.phase,
            refusal: child.refusal.clone(),
            result,
        });
    }
    Some(page)
}
