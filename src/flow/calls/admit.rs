//! Who may call now: refused at once with the rule and its numbers, or given to an instance with a free slot.

use super::{
    Calls, ReplyTo,
    blocks::{MOST_PLACES, starts_there},
};
use crate::{
    flow::{
        live::Live,
        permits::{self, Permit, Room},
        record::Record,
        state::State,
    },
    task::{AgentName, Code, InstanceId, Millis, Payload, Refusal, TaskId, TenantName, Token},
    wire::calls::public_id,
};

/// When to try again after there was no slot: most tasks are not shorter.
pub(super) const BUSY_MS: Millis = 200;
/// The same after a cap, and while nobody serves.
const FULL_MS: Millis = 500;
const NOBODY_MS: Millis = 2_000;

/// A call as it came.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Whose.
    pub tenant: &'a TenantName,
    /// Who is to answer.
    pub agent: &'a AgentName,
    /// The lease or call whose handler asks.
    pub asker: Option<Token>,
    /// How long it may take, if the caller said.
    pub max_ms: Option<Millis>,
    /// Opaque.
    pub input: &'a Payload,
    /// Where it is answered.
    pub to: &'a ReplyTo,
}

/// A call that may begin.
#[derive(Debug)]
pub struct Admitted {
    /// Where.
    pub instance: InstanceId,
    /// To be journaled first: the block it draws on has to grow.
    pub record: Option<Record>,
    /// Starts charged by that.
    pub starts: u32,
    pub(super) depth: u32,
    pub(super) hops: u32,
    pub(super) borrows: Option<TaskId>,
    pub(super) max_ms: Millis,
}

/// Who asks for a call.
#[derive(Default)]
struct Asker {
    /// How deep that is.
    depth: u32,
    /// Triggers behind it.
    hops: u32,
    /// By what its place is known; `None`: it comes from outside.
    id: Option<TaskId>,
}

impl Calls {
    /// Decides about a call. Changes nothing.
    pub fn admit(&self, state: &State, live: &Live, asked: &Asked<'_>) -> Result<Admitted, Refusal> {
        let (tenant, agent) = (asked.tenant, asked.agent);
        let (actual, limit) = (asked.input.len() as u64, state.policy.max_payload);
        if actual > limit {
            let message =
                format!("the input has {actual} bytes, at most {limit} are taken; pass a reference");
            return Err(Refusal::over(Code::TooLarge, message, actual, limit));
        }
        let Some(plan) = state.plan_of(tenant) else {
            let message =
                format!("there is no tenant {tenant}; an operator can add it with `selvedge tenant set`");
            return Err(Refusal::new(Code::UnknownTenant, message));
        };
        not_paused(state, tenant, agent, plan.paused)?;
        let asker = match asked.asker {
            Some(token) => self.asker(state, tenant, &token)?,
            None => Asker::default(),
        };
        let Asker { depth, hops, id: asker } = asker;
        if depth > plan.depth {
            let message = format!(
                "depth {depth} > cap {} of tenant {tenant}: {agent} asked in a cycle, or too deep",
                plan.depth
            );
            return Err(Refusal::over(Code::DepthExceeded, message, depth.into(), plan.depth.into()));
        }
        let Some((instance, lease_ms)) = live.freest_taker(agent) else { return Err(nobody(live, agent)) };
        // A place is lent once: whoever asks several at once needs one for each of the others.
        let borrows = asker.filter(|asker| !self.lent.contains(asker));
        let mut permit = state.permit(tenant, agent);
        let block = self.blocks.get(&(tenant.clone(), agent.clone()));
        let spare = block.map_or(0, |block| block.spare(permit, borrows.is_some()));
        let mut grows = spare == 0;
        if grows {
            permit = grown(state, tenant, agent, permit, borrows.is_some())?;
        }
        let mut starts = 0;
        if block.is_none_or(|block| block.starts == 0) {
            let there = starts_there(state, tenant, agent);
            if there == 0 {
                return Err(no_start(state, tenant, agent));
            }
            starts = block.map_or(1, |block| block.next_starts()).min(there);
            grows = true;
        }
        permit.lease_ms = permit.lease_ms.max(lease_ms);
        let record = grows.then(|| permits::record(tenant, agent, permit, starts, 0));
        let max_ms = asked.max_ms.unwrap_or(Millis::MAX).clamp(1, plan.call_ms());
        Ok(Admitted { instance, record, starts, depth, hops, borrows, max_ms })
    }

    /// The handler that asks.
    fn asker(&self, state: &State, tenant: &TenantName, token: &Token) -> Result<Asker, Refusal> {
        let of_task = state.leased(token).filter(|task| state.tenant_name(task.tenant) == tenant);
        let of_call = self.running.get(token).filter(|call| call.tenant == *tenant && !call.stopping);
        let of_task = of_task.map(|task| (task.depth(), task.more().hops));
        if let Some((depth, hops)) = of_task.or(of_call.map(|call| (call.depth, call.hops))) {
            return Ok(Asker { depth: depth + 1, hops, id: Some(public_id(token)) });
        }
        if self.blocks.values().any(|block| block.is_inherited()) {
            let message = "the owner has just changed and has not heard of whoever asks";
            return Err(Refusal::new(Code::Unknown, message).retry_after(FULL_MS));
        }
        let message = format!("whoever asks holds no lease and no call of tenant {tenant}");
        Err(Refusal::new(Code::StaleLease, message))
    }
}

fn not_paused(state: &State, tenant: &TenantName, agent: &AgentName, plan: bool) -> Result<(), Refusal> {
    let known = state.tenant(tenant);
    if known.and_then(|tenant| tenant.settings.as_ref()).is_some_and(|settings| settings.suspended) {
        let message = format!("tenant {tenant} is suspended by an operator");
        return Err(Refusal::new(Code::TenantSuspended, message));
    }
    let own = state.agents().get(agent).and_then(|agent| agent.settings.as_deref());
    let paused = if state.all.0.paused {
        "everything".to_owned()
    } else if plan || known.is_some_and(|tenant| tenant.is_paused()) {
        format!("tenant {tenant}")
    } else if own.is_some_and(|own| own.settings.paused) {
        format!("agent {agent}")
    } else {
        return Ok(());
    };
    Err(Refusal::new(Code::Paused, format!("{paused} is paused by an operator")))
}

fn nobody(live: &Live, agent: &AgentName) -> Refusal {
    let size = live.size_of(agent);
    if size.serving() > 0 && live.has_takers(agent) {
        let message = format!("all {} slots of agent {agent} are busy", size.slots);
        return Refusal::over(Code::Busy, message, size.slots, size.slots).retry_after(BUSY_MS);
    }
    let message = match size.instances {
        0 => format!("nobody serves agent {agent}"),
        all => format!("none of {all} instances of agent {agent} takes calls now"),
    };
    Refusal::new(Code::NoInstance, message).retry_after(NOBODY_MS)
}

/// A block with more places: twice as many, as far as the caps let it.
fn grown(
    state: &State,
    tenant: &TenantName,
    agent: &AgentName,
    permit: Permit,
    borrows: bool,
) -> Result<Permit, Refusal> {
    let (own, borrowed) = state.rooms(tenant, agent);
    let room = if borrows { borrowed } else { own };
    if room.left() == 0 {
        return Err(match room {
            Room::Capped(whose, actual, cap) => {
                let message = format!("{whose} at in-flight cap {actual}/{cap}");
                Refusal::over(Code::InFlightFull, message, actual, cap).retry_after(FULL_MS)
            }
            Room::None | Room::Open => {
                Refusal::new(Code::UnknownTenant, format!("there is no tenant {tenant}"))
            }
        });
    }
    let places = if borrows { permit.borrowed } else { permit.places };
    // Where tasks wait for a place nothing is taken ahead.
    let waits = state.tenant(tenant).is_some_and(|tenant| tenant.waits());
    let wanted = if waits { 1 } else { places.clamp(1, MOST_PLACES) };
    let more = u32::try_from(room.left()).unwrap_or(u32::MAX).min(wanted);
    Ok(match borrows {
        true => Permit { borrowed: permit.borrowed + more, ..permit },
        false => Permit { places: permit.places + more, ..permit },
    })
}

/// No start is there: whose rate it is, and when the next one is.
fn no_start(state: &State, tenant: &TenantName, agent: &AgentName) -> Refusal {
    let now = state.clock_now();
    let at = state.tenant(tenant).map_or(Millis::MAX, |tenant| tenant.rate.free_at(1));
    let own = state.agents().get(agent).and_then(|agent| agent.settings.as_deref());
    let own_at = own.map_or(0, |own| own.rate.free_at(1));
    let (whose, limit) = match own.filter(|_| own_at > at) {
        Some(own) => (format!("agent {agent}"), own.settings.rate.unwrap_or(0)),
        None => (format!("tenant {tenant}"), state.plan_of(tenant).map_or(0, |plan| plan.rate)),
    };
    let refusal =
        Refusal::over(Code::RateExceeded, format!("{whose} has no start left of its rate"), 0, limit.into());
    match at.max(own_at) {
        Millis::MAX => refusal,
        at => refusal.retry_after(at.saturating_sub(now).max(1)),
    }
}
