//! Who is there and what they do, for whoever looks for an agent: a pure look at what was heard.

use std::collections::{BTreeMap, HashMap};

use super::{live::Live, state::State};
use crate::{
    task::{InstanceId, TaskId, TenantName},
    wire::about::{About, AgentView, AgentsReply, AgentsRequest},
};

/// Instances in one answer.
const MOST: usize = 1_000;
/// Tasks told of an instance.
const TASKS: usize = 100;

/// The agents of which some instance lives. Of the tasks only the asking tenant's.
pub fn agents(state: &State, live: &Live, tenant: &TenantName, request: &AgentsRequest) -> AgentsReply {
    let mut tasks: HashMap<&InstanceId, Vec<TaskId>> = HashMap::new();
    let number = state.tenants.number(tenant);
    for token in state.live_leases() {
        if let Some(task) = state.leased(token)
            && Some(task.tenant) == number
            && let Some(lease) = task.lease()
        {
            let of = tasks.entry(&lease.instance).or_default();
            if of.len() < TASKS {
                of.push(task.id.clone());
            }
        }
    }
    let mut reply = AgentsReply { at: state.wall_now(), ..AgentsReply::default() };
    let mut by_name = BTreeMap::new();
    let mut shown = 0;
    for (agent, mut view) in live.instances() {
        if request.agent.as_ref().is_some_and(|only| only != agent) {
            continue;
        }
        if shown == MOST {
            reply.more = true;
            break;
        }
        shown += 1;
        view.tasks = tasks.remove(&view.instance).unwrap_or_default();
        view.tasks.sort();
        by_name.entry(agent).or_insert_with(Vec::new).push(view);
    }
    for (agent, mut instances) in by_name {
        instances.sort_by(|a, b| a.instance.cmp(&b.instance));
        let about = live.announcements().of(agent).map(|announced| match request.schemas {
            true => announced.about.clone(),
            false => About { input: None, output: None, ..announced.about.clone() },
        });
        reply.agents.push(AgentView { agent: agent.clone(), about: about.collect(), instances });
    }
    reply
}
