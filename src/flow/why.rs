//! Why a task is where it is: every rule and resource that holds it back, from state and what was heard.
//!
//! A pure look, asked of the owner between two journal messages. It goes by what dispatch goes by ([`super::gate`],
//! [`super::fair`], [`Live`]) and decides nothing. Costs the instances of one agent and logarithms of its queue.

use super::{
    history::Awaited,
    live::{AgentSize, Live},
    state::{Agent, State, Tenant},
    tasks::Slot,
};
use crate::{
    task::{AgentName, Millis, Phase, TaskKey, TenantName},
    wire::api::{Hold, Reason, TaskView, Why},
};

/// Children that are named.
const NAMED: usize = 10;
/// Lanes before a task's own that are counted.
const LANES: usize = 1_000;

/// What holds a task back; `None`: there is no such task.
pub fn why(state: &State, live: &Live, key: &TaskKey) -> Option<Why> {
    let slot = state.find(key)?;
    let task = state.tasks.get(slot).filter(|task| !task.tombstone)?;
    let agent = state.agent_of(task);
    let lane = Lane::of(state, live.size_of(agent), task.tenant, task.agent)?;
    let timing = task.timing();
    let ttl = timing.and_then(|timing| timing.ttl_at).filter(|_| task.phase == Phase::Queued);
    let ends = timing.and_then(|timing| timing.deadline).into_iter().chain(ttl.and_then(|at| lane.wall(at)));
    let mut why = Why {
        tenant: key.tenant.clone(),
        task: key.id.clone(),
        agent: agent.clone(),
        state: task.phase,
        reasons: Vec::new(),
        children: Vec::new(),
        instance: task.lease().map(|lease| lease.instance.clone()),
        since: task.lease().and_then(|lease| lane.wall(lease.since)),
        expires_at: ends.filter(|_| !task.phase.is_terminal()).min(),
        at: state.wall_now(),
    };
    why.reasons = match task.phase {
        Phase::Queued => queued(&lane, slot),
        Phase::Running => vec![running(&lane, live, slot)],
        Phase::Waiting | Phase::Retrying => {
            let awaits = &task.more().awaits;
            why.children = awaits.iter().take(NAMED).cloned().collect();
            let mut reasons = vec![parked(&lane, slot)];
            reasons.extend(lane.pauses().into_iter().chain(tree_paused(&lane, slot)));
            reasons
        }
        _ => vec![ended(task.phase, task.refusal().map(|r| format!("{}: {}", r.code, r.message)))],
    };
    Some(why)
}

/// The same of a task that only the index remembers.
pub fn of_ended(view: TaskView, wall: Millis) -> Why {
    let refusal = view.refusal.map(|refusal| format!("{}: {}", refusal.code, refusal.message));
    Why {
        tenant: view.tenant,
        task: view.task,
        agent: view.agent,
        state: view.state,
        reasons: vec![ended(view.state, refusal)],
        children: Vec::new(),
        instance: None,
        since: None,
        expires_at: None,
        at: wall,
    }
}

fn ended(phase: Phase, refusal: Option<String>) -> Hold {
    let message = match refusal {
        Some(refusal) => format!("it is {phase}: {refusal}"),
        None => format!("it is {phase}"),
    };
    hold(Reason::Ended, message)
}

fn hold(reason: Reason, message: String) -> Hold {
    Hold { reason, message, limit: None, actual: None, until: None }
}

fn at_cap(reason: Reason, whose: &str, actual: u64, limit: u64) -> Hold {
    let message = format!("{whose} at in-flight cap {actual}/{limit}");
    Hold { limit: Some(limit), actual: Some(actual), ..hold(reason, message) }
}

/// A time in words.
fn span(ms: Millis) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..600_000 => format!("{} s", ms / 1_000),
        600_000..36_000_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

fn queued(lane: &Lane, slot: Slot) -> Vec<Hold> {
    let task = &lane.state.tasks[slot];
    let mut reasons = lane.pauses();
    reasons.extend(tree_paused(lane, slot));
    reasons.extend(task.is_held().then(|| not_before(lane, slot)));
    if lane.state.is_kept_back(slot) {
        return reasons;
    }
    let queue = lane.agent.queue.as_deref();
    let ahead =
        queue.map_or(0, |queue| queue.before(lane.number, task.place(), task.admitted, lane.state.ageing()));
    reasons.extend(lane.gates(ahead, task.resumed()));
    if ahead > 0 {
        let (tenant, agent, class) = (lane.tenant_name, lane.agent_name, task.priority.as_str());
        let message = format!("{ahead} ahead of it of tenant {tenant} at agent {agent} (class {class})");
        reasons.push(Hold { actual: Some(ahead), ..hold(Reason::OwnTasksFirst, message) });
    }
    let others = queue.map_or(0, |queue| queue.lanes_before(lane.number, LANES));
    if others > 0 {
        let more = if others == LANES { " or more" } else { "" };
        let message = format!(
            "{others}{more} tenants go first at agent {}: they have had less of it for their weight",
            lane.agent_name
        );
        reasons.push(Hold { actual: Some(others as u64), ..hold(Reason::OtherTenantsFirst, message) });
    }
    if reasons.is_empty() {
        reasons.push(hold(Reason::Next, "nothing holds it back: it is the next to be offered".to_owned()));
    }
    reasons
}

fn tree_paused(lane: &Lane, slot: Slot) -> Option<Hold> {
    let state = lane.state;
    let root = state.is_tree_paused(slot).then(|| state.tasks[slot].root())?;
    Some(hold(Reason::TreePaused, format!("its tree, that of {root}, is paused")))
}

fn not_before(lane: &Lane, slot: Slot) -> Hold {
    let task = &lane.state.tasks[slot];
    let asked = task.timing().map(|timing| timing.asked).unwrap_or_default();
    let until = asked.run_at.or_else(|| lane.wall(task.wake_at().unwrap_or(0)));
    let left = until.unwrap_or(0).saturating_sub(lane.state.wall_now());
    let what = if asked.run_at.is_some() { "the time it is to run at" } else { "the end of its delay" };
    Hold { until, ..hold(Reason::NotBefore, format!("{what} is {} away", span(left))) }
}

/// Retrying, or waiting for a time, a message or children.
fn parked(lane: &Lane, slot: Slot) -> Hold {
    let task = &lane.state.tasks[slot];
    let left = task.wake_at().map(|at| span(at.saturating_sub(lane.state.clock_now())));
    let until = task.wake_at().and_then(|at| lane.wall(at));
    let awaited = task.history().and_then(|history| history.awaits.as_ref()).map(|awaits| &awaits.what);
    if let (Phase::Waiting, Some(Awaited::Message(name))) = (task.phase, awaited) {
        let what = name.as_ref().map_or("a message".to_owned(), |name| format!("the signal {name}"));
        let most = left.map_or(String::new(), |left| format!(", for {left} more at most"));
        return Hold { until, ..hold(Reason::Message, format!("it waits for {what}{most}")) };
    }
    match (task.phase, left) {
        (Phase::Retrying, left) => {
            let (tries, max) = (task.tries(), task.max_tries);
            let left = left.unwrap_or_else(|| span(0));
            let message = format!("{tries} of {max} tries are lost; the next begins in {left}");
            let (limit, actual) = (Some(max.into()), Some(tries.into()));
            Hold { limit, actual, until, ..hold(Reason::Backoff, message) }
        }
        (_, Some(left)) => {
            Hold { until, ..hold(Reason::Snoozed, format!("its handler asked to go on in {left}")) }
        }
        (_, None) => {
            let (left, all) = (task.more().awaits.len() as u64, task.more().children.len() as u64);
            let message = format!("it waits for {left} of its {all} children");
            Hold { limit: Some(all), actual: Some(left), ..hold(Reason::Children, message) }
        }
    }
}

fn running(lane: &Lane, live: &Live, slot: Slot) -> Hold {
    let task = &lane.state.tasks[slot];
    let Some((lease, heard)) = task.lease().and_then(|lease| Some((lease, live.lease(&lease.token)?))) else {
        return hold(Reason::Running, format!("attempt {} runs", task.attempt()));
    };
    let silent = span(heard.silent_ms);
    if !heard.accepted {
        let message = match heard.told {
            true => format!(
                "it was offered to {} {silent} ago, which has not accepted it yet; it is withdrawn after {}",
                lease.instance,
                span(lane.state.policy.offer_timeout_ms)
            ),
            false => format!("it is to be offered to {}: its input is being read back", lease.instance),
        };
        let limit = Some(lane.state.policy.offer_timeout_ms);
        return Hold { limit, actual: Some(heard.silent_ms), ..hold(Reason::Offered, message) };
    }
    let ran = span(lane.state.clock_now().saturating_sub(lease.since));
    let message = format!(
        "attempt {} runs on {} since {ran}; heard of {silent} ago, lost after {} without",
        task.attempt(),
        lease.instance,
        span(heard.lease_ms)
    );
    let (limit, actual) = (Some(heard.lease_ms), Some(heard.silent_ms));
    let tried = task.timing().and_then(|timing| timing.asked.try_timeout_ms);
    let until = tried.and_then(|ms| lane.wall(lease.since.saturating_add(ms)));
    Hold { limit, actual, until, ..hold(Reason::Running, message) }
}

/// A tenant's tasks at an agent, and everything that may hold them back.
pub(super) struct Lane<'a> {
    state: &'a State,
    size: AgentSize,
    number: u32,
    agent_number: u32,
    tenant: &'a Tenant,
    agent: &'a Agent,
    tenant_name: &'a TenantName,
    agent_name: &'a AgentName,
}

impl<'a> Lane<'a> {
    pub(super) fn of(state: &'a State, size: AgentSize, number: u32, agent_number: u32) -> Option<Self> {
        Some(Self {
            state,
            size,
            number,
            agent_number,
            tenant: state.tenants.at(number)?,
            agent: state.agents.at(agent_number)?,
            tenant_name: state.tenants.name(number)?,
            agent_name: state.agents.name(agent_number)?,
        })
    }

    /// A logical time as a wall time; `None`: it never comes.
    fn wall(&self, at: Millis) -> Option<Millis> {
        let (now, wall) = (self.state.clock_now(), self.state.wall_now());
        (at < Millis::MAX).then(|| wall.saturating_add(at).saturating_sub(now))
    }

    /// What operators have paused.
    pub(super) fn pauses(&self) -> Vec<Hold> {
        let mut reasons = Vec::new();
        if self.state.all.0.paused {
            reasons.push(hold(Reason::AllPaused, "everything is paused".to_owned()));
        }
        if self.tenant.is_paused() {
            let by_plan = self.tenant.plan.paused;
            let what = if by_plan { "the plan of tenant" } else { "tenant" };
            reasons.push(hold(Reason::TenantPaused, format!("{what} {} is paused", self.tenant_name)));
        }
        if self.agent.settings.as_deref().is_some_and(|own| own.settings.paused) {
            reasons.push(hold(Reason::AgentPaused, format!("agent {} is paused", self.agent_name)));
        }
        reasons
    }

    /// What holds back a task with so many of its tenant's before it: caps, rates, cells, slots.
    pub(super) fn gates(&self, ahead: u64, resumed: bool) -> Vec<Hold> {
        let mut reasons = self.caps();
        if !resumed {
            reasons.extend(self.tenant_limits(ahead));
            reasons.extend(self.agent_limits());
        }
        reasons.extend(self.slots());
        reasons
    }

    fn caps(&self) -> Vec<Hold> {
        let (state, tenant, agent) = (self.state, self.tenant_name, self.agent_name);
        let queue = self.agent.queue.as_deref();
        let here = queue.map_or(0, |queue| queue.running_of(self.number));
        let here = (here + self.tenant.permit_at(self.agent_number).at_agent()).into();
        let own = self.agent.settings.as_deref().and_then(|own| own.settings.in_flight);
        let caps = [
            (
                Reason::TenantInFlight,
                format!("tenant {tenant}"),
                (self.tenant.in_flight + self.tenant.called()).into(),
                Some(self.tenant.plan.in_flight.into()),
            ),
            (
                Reason::TenantAgentInFlight,
                format!("tenant {tenant} at agent {agent}"),
                here,
                self.tenant.plan.agent_in_flight.map(u64::from),
            ),
            (
                Reason::AgentInFlight,
                format!("agent {agent}"),
                self.agent.occupied().into(),
                own.map(u64::from),
            ),
            (Reason::ShardInFlight, "the shard".to_owned(), state.occupied(), Some(state.policy.in_flight)),
        ];
        let reached = caps.into_iter().filter_map(|(reason, whose, actual, cap)| {
            let cap = cap.filter(|cap| actual >= *cap)?;
            Some(at_cap(reason, &whose, actual, cap))
        });
        reached.collect()
    }

    fn tenant_limits(&self, ahead: u64) -> Vec<Hold> {
        let (now, tenant, name) = (self.state.clock_now(), self.tenant, self.tenant_name);
        let mut reasons = Vec::new();
        if tenant.rate.free_at(1) > now {
            let plan = &tenant.plan;
            let at = self.wall(tenant.rate.nth_at(ahead.saturating_add(1), now));
            let message = format!("tenant {name} at its rate of {}/s (burst {})", plan.rate, plan.burst);
            reasons.push(self.until(Reason::TenantRate, message, plan.rate.into(), 0, at));
        }
        let needed = self.state.cells_needed(self.number);
        // A lane whose next tasks cost nothing is not held up by others that do.
        let costs = self.state.dearest(self.number, self.agent_number) > 0;
        let at = tenant.cells.free_at(needed);
        if costs && at > now {
            let left = tenant.cells.left(now).unwrap_or(0);
            let message = format!("tenant {name} has {left} of the {needed} cells that its next tasks cost");
            reasons.push(self.until(Reason::TenantCells, message, needed.into(), left.into(), self.wall(at)));
        }
        reasons
    }

    fn agent_limits(&self) -> Vec<Hold> {
        let Some(own) = self.agent.settings.as_deref() else { return Vec::new() };
        let (now, name) = (self.state.clock_now(), self.agent_name);
        let mut reasons = Vec::new();
        let at = own.rate.free_at(1);
        if at > now {
            let (rate, per) = (own.settings.rate.unwrap_or(0), own.settings.per.as_str());
            let message = format!("agent {name} at its rate of {rate}/{per}, which all tenants share");
            reasons.push(self.until(Reason::AgentRate, message, rate.into(), 0, self.wall(at)));
        }
        let at = self.state.cells_at(self.agent, own);
        if at > now {
            let left = own.cells.left(now).unwrap_or(0);
            let next = self.agent.queue.as_deref().and_then(|queue| queue.next(self.state.ageing()));
            let needed = next.map_or(0, |(_, slot)| self.state.tasks[slot].reserves());
            let message = format!("agent {name} has {left} of the {needed} cells that its next task costs");
            let reason = Reason::AgentCells;
            reasons.push(self.until(reason, message, needed.into(), left.into(), self.wall(at)));
        }
        reasons
    }

    /// A limit that time lifts, unless it is a pause.
    fn until(&self, reason: Reason, message: String, limit: u64, actual: u64, until: Option<Millis>) -> Hold {
        let message = match until {
            Some(at) => format!("{message}; in {}", span(at.saturating_sub(self.state.wall_now()))),
            None => format!("{message}: that is a pause"),
        };
        Hold { limit: Some(limit), actual: Some(actual), until, ..hold(reason, message) }
    }

    fn slots(&self) -> Option<Hold> {
        let (size, name) = (self.size, self.agent_name);
        if size.serving() == 0 {
            let message = match size.instances {
                0 => format!("nobody serves agent {name}"),
                all => format!(
                    "none of {all} instances of agent {name} takes work: {} silent, {} leaving, {} without an answer to \
                     an offer",
                    size.quiet, size.draining, size.suspected
                ),
            };
            return Some(Hold { actual: Some(0), ..hold(Reason::NoInstance, message) });
        }
        if size.free > 0 {
            return None;
        }
        let (slots, instances) = (size.task_slots(), size.instances);
        let kept = match size.call_slots {
            0 => String::new(),
            kept => format!("; {kept} more take calls only"),
        };
        let message = format!("all {slots} slots of {instances} instances of agent {name} are busy{kept}");
        Some(Hold { limit: Some(slots), actual: Some(slots), ..hold(Reason::NoFreeSlot, message) })
    }
}

#[cfg(test)]
mod tests;
