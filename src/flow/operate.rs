//! What operators set: journaled once per revision of its entry, and asked for by whoever set it. A plan that is in use
//! stays; a shipped one that is removed is as it was shipped.

use serde::{Deserialize, Serialize};

use super::{
    entry::Task,
    input::{Decision, Input},
    live::Live,
    record::Record,
    state::{State, Tenant},
};
use crate::task::{AgentName, AllSettings, Code, Plan, PlanName, Refusal, TaskKey, TenantName};

/// Users of a plan that a refusal names.
const NAMED: usize = 10;

/// Decides what the bucket of limits delivers.
pub fn decide(state: &State, input: &Input) -> Decision {
    match input {
        Input::Plan { name, plan, kv_rev } => {
            if state.plans.get(name).is_some_and(|(_, known)| known >= kv_rev) {
                return Decision::none();
            }
            if plan.is_none() && !state.plans.contains_key(name) {
                return Decision::none();
            }
            // Whoever removed it looked who uses it; somebody may have begun to since.
            if plan.is_none() && plan_users(state, name).is_some() {
                return Decision::garbage(Code::PlanInUse);
            }
            Decision::record(Record::PlanSet { name: name.clone(), plan: plan.clone(), kv_rev: *kv_rev })
        }
        Input::Tenant { name, settings, kv_rev } => match state.tenant(name) {
            Some(tenant) if tenant.kv_rev >= *kv_rev => Decision::none(),
            _ => Decision::record(Record::TenantSet {
                name: name.clone(),
                settings: settings.clone(),
                kv_rev: *kv_rev,
            }),
        },
        Input::Agent { name, settings, kv_rev } => {
            let known = state.agents().get(name).and_then(|agent| agent.settings.as_deref());
            match known {
                Some(own) if own.kv_rev >= *kv_rev => Decision::none(),
                None if settings.is_none() => Decision::none(),
                _ => Decision::record(Record::AgentSet {
                    name: name.clone(),
                    settings: settings.clone(),
                    kv_rev: *kv_rev,
                }),
            }
        }
        Input::All { settings, kv_rev } => {
            let (known, rev) = state.all;
            let nothing = rev == 0 && known == *settings && *settings == AllSettings::default();
            match rev >= *kv_rev || nothing {
                true => Decision::none(),
                false => Decision::record(Record::AllSet { settings: *settings, kv_rev: *kv_rev }),
            }
        }
        _ => Decision::none(),
    }
}

/// Something an operator has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A plan, in this revision of its entry.
    Plan(PlanName, u64),
    /// A plan was removed.
    PlanRemoved(PlanName),
    /// A tenant, in this revision of its entry.
    Tenant(TenantName, u64),
    /// A tenant's settings were removed, in this revision of its entry.
    TenantRemoved(TenantName, u64),
    /// An agent, in this revision of its entry.
    Agent(AgentName, u64),
    /// An agent's settings were removed.
    AgentRemoved(AgentName),
    /// What holds for everything, in this revision of its entry.
    All(u64),
    /// The tree of a task is paused, or goes on.
    Tree(TaskKey, bool),
}

/// Whether a change is in the state, that is, journaled: from then on no decision goes by what was before. A refusal:
/// it never will be.
pub fn is_applied(state: &State, change: &Change) -> Result<bool, Refusal> {
    let agent = |name| state.agents().get(name).and_then(|agent| agent.settings.as_deref());
    Ok(match change {
        Change::Plan(name, rev) => state.plans.get(name).is_some_and(|(_, known)| known >= rev),
        Change::PlanRemoved(name) if is_shipped(name) => true,
        Change::PlanRemoved(name) => match plan_users(state, name) {
            Some(users) if state.plans.contains_key(name) => {
                return Err(Refusal::new(Code::PlanInUse, format!("plan {name} is in use: {users}")));
            }
            _ => !state.plans.contains_key(name),
        },
        Change::Tenant(name, rev) => state.tenant(name).is_some_and(|tenant| tenant.kv_rev >= *rev),
        // One that nobody set and that has no tasks may have left.
        Change::TenantRemoved(name, rev) => state.tenant(name).is_none_or(|tenant| tenant.kv_rev >= *rev),
        Change::Agent(name, rev) => agent(name).is_some_and(|own| own.kv_rev >= *rev),
        Change::AgentRemoved(name) => agent(name).is_none(),
        Change::All(rev) => state.all.1 >= *rev,
        Change::Tree(key, paused) => {
            let Some(task) = state.task(key).filter(|task| !task.tombstone) else {
                return Err(Refusal::new(
                    Code::NotFound,
                    format!("tenant {} has no task {}", key.tenant, key.id),
                ));
            };
            let root = TaskKey { tenant: key.tenant.clone(), id: task.root().clone() };
            let known = state.task(&root).is_some_and(|root| root.more().paused);
            // Of a tree that is over nothing runs, and nothing is to be resumed.
            known == *paused || state.tree(&root).is_none()
        }
    })
}

/// Whether nothing of what a change has paused is on its way any more: an offer that was sent before it has come to its
/// instance, and what the instance says of it here. Whoever is told so sees nothing start afterwards.
pub fn is_quiet(state: &State, live: &mut Live, change: &Change) -> bool {
    let paused = |tenant: u32| state.tenants.at(tenant).is_some_and(Tenant::is_paused);
    let is_meant = |task: &Task| match change {
        Change::All(_) => state.all.0.paused,
        Change::Tenant(name, _) => state.tenants.number(name) == Some(task.tenant) && paused(task.tenant),
        Change::Plan(..) => paused(task.tenant),
        Change::Agent(name, _) => {
            let own = state.agents.at(task.agent).and_then(|agent| agent.settings.as_deref());
            state.agents.number(name) == Some(task.agent) && own.is_some_and(|own| own.settings.paused)
        }
        // What ran of a tree is stopped with it, as is everything that is removed left alone.
        _ => false,
    };
    let pauses = match change {
        Change::All(_) => state.all.0.paused,
        Change::Tenant(name, _) => state.tenants.number(name).is_some_and(paused),
        Change::Plan(name, _) => state.plans.get(name).is_some_and(|(plan, _)| plan.paused),
        Change::Agent(name, _) => {
            let own = state.agents.get(name).and_then(|agent| agent.settings.as_deref());
            own.is_some_and(|own| own.settings.paused)
        }
        Change::Tree(_, paused) => *paused,
        Change::PlanRemoved(_) | Change::TenantRemoved(..) | Change::AgentRemoved(_) => false,
    };
    !pauses
        || !(live.is_overtaking() || live.unanswered().any(|token| state.leased(token).is_some_and(is_meant)))
}

/// Whether every installation has the plan, whatever is set.
pub fn is_shipped(plan: &PlanName) -> bool {
    Plan::shipped().iter().any(|(name, _)| *name == plan.as_str())
}

/// Tenants that an operator put under the plan.
fn users<'a>(state: &'a State, plan: &'a PlanName) -> impl Iterator<Item = &'a TenantName> {
    let under = state.tenants().iter();
    under.filter_map(|(name, tenant)| tenant.settings.as_ref().filter(|s| s.plan == *plan).map(|_| name))
}

/// Why a plan can't be removed now: who uses it, in words.
pub fn plan_users(state: &State, plan: &PlanName) -> Option<String> {
    if is_shipped(plan) {
        return None;
    }
    if state.policy.default_plan.as_ref() == Some(plan) {
        return Some("it is the default plan".to_owned());
    }
    let mut users: Vec<&TenantName> = users(state, plan).collect();
    users.sort();
    let more = users.len().saturating_sub(NAMED);
    let named: Vec<&str> = users.iter().take(NAMED).map(|name| name.as_str()).collect();
    match (named.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(format!("tenants under it: {}", named.join(", "))),
        (false, more) => Some(format!("tenants under it: {} and {more} more", named.join(", "))),
    }
}

#[cfg(test)]
mod tests;
