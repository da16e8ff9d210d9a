//! Admission: the limits a task must pass, in order, each refusal with its numbers.
//!
//! Roots: size → tenant known → not suspended → cost → schema → tenant backlog → shard backlog.
//! Children: labels → size → cost → schema → depth → children of the parent → tasks of the tree; the tree's cap bounds them,
//! so the backlog does not.

use super::{announced::Announcements, entry::Task, state::State};
use crate::task::{Code, Labels, MAX_CELLS, Payload, Plan, Refusal, Spec, TaskKey};

/// Room kept at a parent for children beyond its cap, so that their refusals can be remembered.
pub const REFUSED_CHILDREN: usize = 1_024;

/// A retry-after for full queues: long enough to matter, short enough to be useful.
const TRY_AGAIN_MS: u64 = 1_000;

/// Limits that lower a wish instead of refusing it.
fn clamp(mut spec: Spec, plan: &Plan) -> Spec {
    spec.priority = spec.priority.min(plan.max_priority);
    spec.max_tries = Some(spec.max_tries.unwrap_or(plan.max_tries).clamp(1, plan.max_tries.max(1)));
    spec
}

fn too_large(state: &State, spec: &Spec) -> Option<Refusal> {
    let (actual, limit) = (spec.input.len() as u64, state.policy.max_payload);
    (actual > limit).then(|| {
        let message =
            format!("the input has {actual} bytes, at most {limit} are taken; pass a reference instead");
        Refusal::over(Code::TooLarge, message, actual, limit)
    })
}

/// A task that costs more than its tenant's or its agent's cells at once could never run.
fn too_dear(state: &State, spec: &Spec, plan: &Plan) -> Option<Refusal> {
    let cost = spec.cost?;
    let own = state.agents().get(&spec.agent).and_then(|agent| agent.settings.as_deref());
    let bursts = [
        (plan.cell_quota(), "of the tenant's plan".to_owned()),
        (own.and_then(|own| own.cells.quota()), format!("of agent {}", spec.agent)),
    ];
    let mut over = bursts.into_iter().filter_map(|(quota, whose)| {
        // A pause refuses nothing.
        let burst = quota.filter(|quota| !quota.is_shut())?.burst;
        (cost > burst).then_some((burst, whose))
    });
    let (burst, whose) = over.next().or((cost > MAX_CELLS).then(|| (MAX_CELLS, "there is".to_owned())))?;
    let message = format!("cost {cost} > burst {burst} {whose}: it could never run; split the task");
    Some(Refusal::over(Code::CostExceeded, message, cost.into(), burst.into()))
}

fn refused(mut spec: Spec, refusal: Refusal) -> (Spec, Option<Refusal>) {
    spec.input = Payload::default();
    (spec, Some(refusal))
}

/// Admits a root task, or says why not.
pub fn root(state: &State, announced: &Announcements, key: &TaskKey, spec: Spec) -> (Spec, Option<Refusal>) {
    let tenant = &key.tenant;
    if let Some(refusal) = too_large(state, &spec) {
        return refused(spec, refusal);
    }
    let Some(plan) = state.plan_of(tenant) else {
        let message =
            format!("there is no tenant {tenant}; an operator can add it with `selvedge tenant set`");
        return refused(spec, Refusal::new(Code::UnknownTenant, message));
    };
    let (settings, waiting) = match state.tenant(tenant) {
        Some(known) => (known.settings.as_ref(), known.backlog),
        None => (None, 0),
    };
    if settings.is_some_and(|s| s.suspended) {
        let message = format!("tenant {tenant} is suspended by an operator");
        return refused(spec, Refusal::new(Code::TenantSuspended, message));
    }
    if let Some(refusal) = too_dear(state, &spec, &plan) {
        return refused(spec, refusal);
    }
    if let Some(refusal) = announced.refusal(&spec.agent, &spec.input) {
        return refused(spec, refusal);
    }
    if waiting >= plan.backlog {
        let message = format!("backlog {waiting} >= cap {} of tenant {tenant}", plan.backlog);
        let refusal = Refusal::over(Code::BacklogFull, message, waiting, plan.backlog);
        return refused(spec, refusal.retry_after(TRY_AGAIN_MS));
    }
    let (all, cap) = (state.backlog(), state.policy.backlog);
    if all >= cap {
        let message = format!("backlog {all} >= cap {cap} of the whole shard");
        return refused(spec, Refusal::over(Code::ShardFull, message, all, cap).retry_after(TRY_AGAIN_MS));
    }
    (clamp(spec, &plan), None)
}

/// Admits the child after so many of the same report, and so many admitted ones among them; or says why not.
pub fn child(
    state: &State,
    announced: &Announcements,
    parent_key: &TaskKey,
    parent: &Task,
    spec: Spec,
    (before, admitted_before): (usize, u32),
) -> (Spec, Option<Refusal>) {
    if let Some(Err(refusal)) = spec.labels.as_deref().map(Labels::check) {
        return refused(Spec { labels: None, ..spec }, refusal);
    }
    let Some(plan) = state.plan_of(&parent_key.tenant) else {
        let message = format!("there is no tenant {}", parent_key.tenant);
        return refused(spec, Refusal::new(Code::UnknownTenant, message));
    };
    if let Some(refusal) = too_large(state, &spec) {
        return refused(spec, refusal);
    }
    if let Some(refusal) = too_dear(state, &spec, &plan) {
        return refused(spec, refusal);
    }
    if let Some(refusal) = announced.refusal(&spec.agent, &spec.input) {
        return refused(spec, refusal);
    }
    let depth = parent.depth() + 1;
    if depth > plan.depth {
        let message = format!("depth {depth} > cap {}", plan.depth);
        return refused(spec, Refusal::over(Code::DepthExceeded, message, depth.into(), plan.depth.into()));
    }
    let children = (parent.more().children.len() + before + 1) as u64;
    if children > u64::from(plan.children) {
        let message = format!("child {children} > cap {} of children per task", plan.children);
        return refused(spec, Refusal::over(Code::ChildrenExceeded, message, children, plan.children.into()));
    }
    let root = TaskKey { tenant: parent_key.tenant.clone(), id: parent.root().clone() };
    let total = state.tree(&root).map_or(0, |tree| tree.total) + admitted_before + 1;
    if total > plan.tree {
        let message = format!("task {total} > cap {} of tasks per tree", plan.tree);
        return refused(spec, Refusal::over(Code::TreeExceeded, message, total.into(), plan.tree.into()));
    }
    (clamp(spec, &plan), None)
}
