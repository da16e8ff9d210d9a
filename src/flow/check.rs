//! Two states compared, and derived data made again the slow way: for tests, the simulation and audits.

use std::collections::{BTreeSet, HashMap};

use super::{entry::Stored, kept::task_ref, quick::QuickMap, state::State, tasks::Slot, times::Bounds};
use crate::task::Phase;

impl State {
    /// The state in one canonical encoding: equal bytes, equal state.
    pub fn canonical(&self) -> Vec<u8> {
        let mut tenants: Vec<_> = self
            .tenants
            .iter()
            .map(|(name, t)| (name, &t.settings, t.kv_rev, t.rate, t.cells, t.forgotten, t.idle_since))
            .collect();
        tenants.sort_by_key(|(name, ..)| *name);
        let name = |number| self.tenants.name(number);
        let mut agents: Vec<_> = self
            .agents
            .iter()
            .map(|(agent, a)| {
                let own = a.settings.as_ref().map(|own| (&own.settings, own.kv_rev, own.rate, own.cells));
                (agent, a.tasks, own, a.queue.as_ref().map(|queue| queue.canonical(&name)))
            })
            .collect();
        agents.sort_by_key(|(name, ..)| *name);
        let mut tasks: Vec<_> = self
            .tasks
            .iter()
            .map(|(_, task)| task_ref(task, self.tenant_name(task.tenant), self.agent_of(task)))
            .collect();
        tasks.sort_by(|a, b| a.key().cmp(&b.key()));
        let head = (
            self.shard,
            self.epoch,
            self.rev,
            self.head,
            self.now,
            self.wall,
            self.next_order,
            self.departed,
            self.all,
        );
        let schedules: Vec<_> = self.schedules.iter().collect();
        let all = (head, &self.policy, &self.plans, schedules, tenants, tasks, agents, self.permits());
        // Plain data with string keys into memory: nothing in it can fail to encode.
        rmp_serde::to_vec_named(&all).unwrap_or_else(|error| unreachable!("state not encodable: {error}"))
    }

    /// Recomputes the derived data the slow way and names what differs.
    pub fn check_derived(&self) -> Result<(), String> {
        let mut leases = QuickMap::default();
        let mut timers = BTreeSet::new();
        let mut bounds = Bounds::default();
        let mut stored: Vec<Stored> = Vec::new();
        // Per tenant: leases, backlog, tasks, remembered ones.
        let mut tenants: HashMap<u32, (u32, u64, u64, usize)> = HashMap::new();
        // Per agent: tasks, queued ones, leases.
        let mut agents: HashMap<u32, (u64, u64, u32)> = HashMap::new();
        let mut paused = 0;
        let mut live_children: HashMap<Slot, u32> = HashMap::new();
        let mut trees: HashMap<Slot, (u32, u32)> = HashMap::new();
        for (slot, task) in self.tasks.iter() {
            let (key, more) = (self.key_of(task), task.more());
            if task.lease().is_some() != (task.phase == Phase::Running) {
                return Err(format!("{key} is {} with lease {:?}", task.phase, task.lease()));
            }
            if self.find(&key) != Some(slot) {
                return Err(format!("{key} is not found where it is"));
            }
            let tenant = tenants.entry(task.tenant).or_default();
            let agent = agents.entry(task.agent).or_default();
            tenant.2 += 1;
            agent.0 += 1;
            if let Some(lease) = task.lease() {
                leases.insert(lease.token, slot);
                tenant.0 += 1;
            }
            tenant.1 += u64::from(task.in_backlog());
            tenant.3 += usize::from(task.remembered);
            bounds.put(slot, task);
            agent.1 += u64::from(task.phase == Phase::Queued && !self.is_kept_back(slot));
            agent.2 += u32::from(task.lease().is_some());
            paused += u64::from(more.paused);
            if let Some(at) = task.wake_at() {
                timers.insert((at, slot));
            }
            stored.extend([Some(task.input), task.more().result].into_iter().flatten());
            stored.extend(task.history().into_iter().flat_map(|h| h.all_stored()).map(|(_, stored)| stored));
            let root = self.tasks.find(task.tenant, task.root());
            if !task.is_root()
                && task.phase != Phase::Rejected
                && let Some(root) = root
            {
                let tree = trees.entry(root).or_default();
                tree.0 += 1;
                tree.1 += u32::from(!task.phase.is_terminal());
            }
            if !task.phase.is_terminal()
                && let Some(parent) = task.parent()
                && let Some(parent) = self.tasks.find(task.tenant, parent)
            {
                *live_children.entry(parent).or_default() += 1;
            }
        }
        if leases != self.leases {
            return Err("the lease index differs from the tasks".to_owned());
        }
        if paused != self.paused_trees {
            return Err(format!("{} trees are counted as paused, there are {paused}", self.paused_trees));
        }
        if timers != self.timers {
            return Err("the timers differ from the tasks".to_owned());
        }
        if !self.schedules.is_sound() {
            return Err("when schedules are due differs from the schedules".to_owned());
        }
        if bounds != self.bounds {
            return Err("the bounds in time differ from the tasks".to_owned());
        }
        for number in self.tenants.numbers() {
            let Some((name, tenant)) = self.tenants.name(number).zip(self.tenants.at(number)) else {
                continue;
            };
            let found = (tenant.in_flight, tenant.backlog, tenant.tasks, tenant.memory.len());
            let counted = tenants.remove(&number).unwrap_or_default();
            if found != counted {
                return Err(format!("{name} counts {found:?}, the tasks say {counted:?}"));
            }
            let unused = tenant.settings.is_none() && tenant.tasks == 0 && tenant.permits.is_none();
            if tenant.idle_since.is_some() != unused {
                return Err(format!("{name} is idle since {:?}", tenant.idle_since));
            }
        }
        let held = self.permits();
        let places: u64 = held.iter().map(|(.., permit)| u64::from(permit.places)).sum();
        if (self.called, self.callers) != (places, held.len() as u64) {
            return Err(format!("{} places for calls are counted, the blocks hold {places}", self.called));
        }
        for (name, agent) in self.agents.iter() {
            let at = held.iter().filter(|(_, at, _)| *at == name).map(|(.., permit)| permit.at_agent());
            if agent.called != at.sum::<u32>() {
                return Err(format!("{name} counts {} places for calls", agent.called));
            }
        }
        let backlog: u64 = self.tenants.iter().map(|(_, tenant)| tenant.backlog).sum();
        let remembered: usize = self.tenants.iter().map(|(_, tenant)| tenant.memory.len()).sum();
        if (self.backlog, self.remembered) != (backlog, remembered as u64) {
            return Err("the shard's backlog or memory differs from its tenants'".to_owned());
        }
        for number in self.agents.numbers() {
            let Some((name, agent)) = self.agents.name(number).zip(self.agents.at(number)) else { continue };
            let queue = agent.queue.as_deref();
            let found = (
                agent.tasks,
                queue.map_or(0, |queue| queue.queued()),
                queue.map_or(0, |queue| queue.in_flight()),
            );
            let counted = agents.remove(&number).unwrap_or_default();
            if found != counted {
                return Err(format!("{name} counts {found:?}, the tasks say {counted:?}"));
            }
        }
        for (slot, task) in self.tasks.iter() {
            let (key, more) = (self.key_of(task), task.more());
            let live = live_children.get(&slot).copied().unwrap_or(0);
            if more.live_children != live {
                return Err(format!("{key} counts {} live children, there are {live}", more.live_children));
            }
            let mut tree = trees.get(&slot).copied().unwrap_or_default();
            if tree != (0, 0) {
                tree = (tree.0 + 1, tree.1 + u32::from(!task.phase.is_terminal()));
            }
            let tree = if tree.1 == 0 { (0, 0) } else { tree };
            if (more.tree.total, more.tree.live) != tree {
                return Err(format!("{key} counts a tree of {:?}, there is {tree:?}", more.tree));
            }
        }
        let mut needed: Vec<u64> = stored.iter().filter_map(|stored| stored.rev()).collect();
        needed.sort_unstable();
        needed.dedup();
        if needed != self.references.iter().collect::<Vec<_>>() {
            return Err("the references into the journal differ from the tasks".to_owned());
        }
        Ok(())
    }
}
