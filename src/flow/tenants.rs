//! What the tenants have and may have, for operators: a pure look at the state, in one pass over the tenants.

use std::{cmp::Reverse, collections::BTreeMap, collections::HashMap};

use super::{
    live::{AgentSize, Live},
    state::{State, Tenant},
    why::Lane,
};
use crate::{
    task::TenantName,
    wire::api::{Reason, TenantLoad, TenantsReply, TenantsRequest},
};

/// Tenants in one answer.
const MOST: usize = 1_000;
/// The same, if nobody said.
const USUAL: usize = 50;

/// The tenants with the most work, or the one that was asked for.
pub fn tenants(state: &State, live: &Live, request: &TenantsRequest) -> TenantsReply {
    let limit = request.limit.map_or(USUAL, |limit| (limit as usize).clamp(1, MOST));
    let mut busy: Vec<(Reverse<u64>, &TenantName, u32)> = Vec::new();
    let mut weights = 0u64;
    for (name, tenant) in state.tenants.iter() {
        let work = tenant.tasks - tenant.memory.len() as u64 + u64::from(tenant.called());
        let Some(number) = state.tenants.number(name).filter(|_| work > 0) else { continue };
        busy.push((Reverse(work), name, number));
        if contends(tenant) {
            weights += u64::from(tenant.plan.weight);
        }
    }
    let mut reply = TenantsReply {
        tenants: Vec::new(),
        busy: busy.len() as u64,
        running: state.occupied(),
        in_flight: state.policy.in_flight,
        backlog: state.backlog(),
        at: state.wall_now(),
    };
    let mut sizes = HashMap::new();
    if let Some(name) = &request.tenant {
        let number = state.tenants.number(name);
        reply.tenants.extend(number.and_then(|number| load(state, live, number, weights, &mut sizes)));
        return reply;
    }
    if busy.len() > limit {
        busy.select_nth_unstable(limit);
        busy.truncate(limit);
    }
    busy.sort_unstable();
    let shown = busy.into_iter().filter_map(|(.., number)| load(state, live, number, weights, &mut sizes));
    reply.tenants = shown.collect();
    reply
}

/// Whether it takes a share: something of it runs, or waits in a lane.
fn contends(tenant: &Tenant) -> bool {
    tenant.in_flight + tenant.called() > 0 || tenant.waits()
}

fn load(
    state: &State,
    live: &Live,
    number: u32,
    weights: u64,
    sizes: &mut HashMap<u32, AgentSize>,
) -> Option<TenantLoad> {
    let (tenant, name) = (state.tenants.at(number)?, state.tenants.name(number)?);
    let mut queued_by: BTreeMap<String, u64> = BTreeMap::new();
    for agent in tenant.agents.iter().copied() {
        let size = sizes.entry(agent).or_insert_with(|| {
            state.agents.name(agent).map_or_else(AgentSize::default, |name| live.size_of(name))
        });
        let Some(lane) = Lane::of(state, *size, number, agent) else { continue };
        let first = lane.pauses().into_iter().chain(lane.gates(0, false)).next();
        let reason = first.map_or(Reason::Next, |hold| hold.reason);
        let queue = state.agents.at(agent).and_then(|agent| agent.queue.as_deref());
        let queued = queue.map_or(0, |queue| queue.queued_of(number)) as u64;
        *queued_by.entry(reason.as_str().to_owned()).or_default() += queued;
    }
    let queued = queued_by.values().sum();
    let (now, plan) = (state.clock_now(), &tenant.plan);
    let live_or_open = tenant.tasks - tenant.memory.len() as u64;
    let thousandths = |part: u64, all: u64| (part * 1_000).checked_div(all).unwrap_or(0) as u32;
    let fair = if contends(tenant) { u64::from(plan.weight) } else { 0 };
    Some(TenantLoad {
        tenant: name.clone(),
        plan: tenant.settings.as_ref().map(|settings| settings.plan.clone()),
        paused: tenant.is_paused(),
        running: tenant.in_flight,
        calls: tenant.called(),
        in_flight: plan.in_flight,
        queued,
        queued_by,
        parked: live_or_open.saturating_sub(queued + u64::from(tenant.in_flight)),
        backlog: tenant.backlog,
        backlog_limit: plan.backlog,
        weight: plan.weight,
        share: thousandths(tenant.in_flight.into(), state.leases.len() as u64),
        fair_share: thousandths(fair, weights),
        rate_left: tenant.rate.left(now).unwrap_or(0),
        rate: plan.rate,
        cells_left: tenant.cells.left(now),
        cells: plan.cells,
    })
}
