//! The state in parts. Reads the state, and touches of it only what tasks keep for a copy under way.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Serialize;

use super::{
    SNAPSHOT_VERSION, SnapshotHead, counts,
    format::{EntryRef, KeptAgent, KeptGoverned, KeptTenant},
};
use crate::flow::{kept::task_ref, state::State};

fn write(entry: &EntryRef<'_>, out: &mut Vec<u8>) {
    let wrote = match entry {
        // Settings leave out what is not set: that needs names.
        EntryRef::Tenant(_) | EntryRef::Schedule(..) | EntryRef::Agent(KeptAgent { own: Some(_), .. }) => {
            entry.serialize(&mut rmp_serde::Serializer::new(out).with_struct_map())
        }
        _ => entry.serialize(&mut rmp_serde::Serializer::new(out)),
    };
    // Plain data into memory: nothing in it can fail to encode.
    wrote.unwrap_or_else(|error| unreachable!("state not encodable: {error}"));
}

/// A snapshot under way, besides the tasks.
#[derive(Debug)]
pub(in crate::flow) struct Writing {
    /// Tenants and queues, encoded when it began: they are few.
    small: VecDeque<Vec<u8>>,
    tasks_left: bool,
}

/// Size of the pieces in which small things are kept.
const PIECE: usize = 32 * 1024;

/// Whole entries in pieces.
#[derive(Default)]
struct Pieces(VecDeque<Vec<u8>>);

impl Pieces {
    fn write(&mut self, entry: &EntryRef<'_>) {
        if self.0.back().is_none_or(|piece| piece.len() >= PIECE) {
            self.0.push_back(Vec::new());
        }
        if let Some(piece) = self.0.back_mut() {
            write(entry, piece);
        }
    }
}

/// Begins one; the engine says at which sequence it stands.
pub(in crate::flow) fn begin(state: &mut State, seq: u64) -> (SnapshotHead, Writing) {
    let mut small = Pieces::default();
    for number in state.tenants.numbers() {
        let Some((name, tenant)) = state.tenants.name(number).zip(state.tenants.at(number)) else { continue };
        small.write(&EntryRef::Tenant(KeptTenant {
            number,
            name: name.clone(),
            settings: tenant.settings.clone(),
            kv_rev: tenant.kv_rev,
            rate: tenant.rate.parts().0,
            forgotten: tenant.forgotten,
            idle_since: tenant.idle_since,
            rate_basis: tenant.rate.parts().1,
            cells: tenant.cells,
        }));
    }
    for number in state.agents.numbers() {
        let Some((name, agent)) = state.agents.name(number).zip(state.agents.at(number)) else { continue };
        let queue = agent.queue.as_ref().map(|queue| queue.kept());
        let own = agent.settings.as_ref().map(|own| KeptGoverned {
            settings: own.settings.clone(),
            kv_rev: own.kv_rev,
            rate: own.rate,
            cells: own.cells,
        });
        small.write(&EntryRef::Agent(KeptAgent { number, name: name.clone(), queue, own }));
    }
    for number in state.tenants.numbers() {
        let held = state.tenants.at(number).and_then(|tenant| tenant.permits.as_deref());
        for (agent, permit) in held.into_iter().flat_map(|held| held.iter()) {
            small.write(&EntryRef::Permit(number, agent, permit));
        }
    }
    for (name, schedule) in state.schedules.iter() {
        small.write(&EntryRef::Schedule(name, schedule));
    }
    state.tasks.begin_copy();
    let counts = counts(state);
    let head = SnapshotHead {
        v: SNAPSHOT_VERSION,
        shard: state.shard,
        seq,
        rev: state.rev,
        head: state.head,
        epoch: state.epoch,
        now: state.now,
        wall: state.wall,
        policy: state.policy.clone(),
        plans: state.plans.iter().map(|(name, (plan, rev))| (name.clone(), plan.clone(), *rev)).collect(),
        next_order: state.next_order,
        departed: state.departed,
        all: state.all,
        counts,
    };
    (head, Writing { small: small.0, tasks_left: true })
}

impl Writing {
    /// The next part; `None` when everything is written.
    pub(in crate::flow) fn part(&mut self, state: &mut State, max_bytes: usize) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.len() < max_bytes
            && let Some(mut piece) = self.small.pop_front()
        {
            out.append(&mut piece);
        }
        if self.small.is_empty() && self.tasks_left {
            self.tasks_left = state.tasks.copy_part(|task| {
                write(&EntryRef::Task(task_ref(task, task.tenant, task.agent)), &mut out);
                out.len() < max_bytes
            });
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}
