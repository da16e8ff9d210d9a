//! How long ended tasks and idle tenants are remembered: for the dedupe horizon, bounded in number, never while needed.

use crate::{
    flow::{
        state::{Agent, State},
        tasks::Slot,
    },
    task::TenantName,
};

/// Tasks forgotten for their age and tenants that leave in one journal message, at most.
const AT_ONCE: usize = 4_096;

impl State {
    /// Nothing lives in the tree any more: its tasks are lined up for being forgotten. Not before, so
    /// that a cancel finds its way from any task to everything below it.
    pub(super) fn remember_tree(&mut self, root: Slot) {
        let mut next = vec![root];
        while let Some(slot) = next.pop() {
            let task = &self.tasks[slot];
            let children = task.more().children.iter();
            next.extend(children.filter_map(|id| self.tasks.find(task.tenant, id)));
            self.remember(slot);
        }
    }

    /// Lines a task up for being forgotten.
    pub(super) fn remember(&mut self, slot: Slot) {
        let now = self.now;
        let order = self.next_order;
        self.next_order += 1;
        let task = &mut self.tasks[slot];
        (task.remembered, task.order, task.at) = (true, order, now);
        task.compact();
        let number = task.tenant;
        self.memory.push_back((order, slot));
        self.remembered += 1;
        self.compact_memory();
        self.tenant_at(number).memory.push_back(slot);
        // What ended in this very message still has to be told.
        let old = |state: &Self, slot: Slot| state.tasks[slot].at < now;
        let max = self.policy.dedupe_max as usize;
        while let Some(oldest) = self.tenant_at(number).memory.front().copied()
            && self.tenant_at(number).memory.len() > max
            && old(self, oldest)
        {
            self.forget(oldest);
        }
        while self.remembered > self.policy.dedupe_total
            && let Some(oldest) = self.oldest()
            && old(self, oldest)
        {
            self.forget(oldest);
        }
    }

    /// Drops places in line of tasks that were forgotten because their tenant had too many, once those are the most.
    fn compact_memory(&mut self) {
        if self.memory.len() > 64 && self.memory.len() as u64 > 2 * self.remembered {
            let tasks = &self.tasks;
            self.memory.retain(|(order, slot)| is_remembered(tasks.get(*slot), *order));
        }
    }

    /// The task that was remembered first.
    fn oldest(&mut self) -> Option<Slot> {
        while let Some((order, slot)) = self.memory.front().copied() {
            if is_remembered(self.tasks.get(slot), order) {
                return Some(slot);
            }
            self.memory.pop_front();
        }
        None
    }

    /// Forgets the oldest task of its tenant.
    fn forget(&mut self, slot: Slot) {
        let number = self.tasks[slot].tenant;
        let first = self.tenant_at(number).memory.pop_front();
        debug_assert_eq!(
            first,
            Some(slot),
            "memories of tenants are parts of the shard's, in the same order"
        );
        let key = self.key_of(&self.tasks[slot]);
        self.drop_input(slot);
        self.drop_result(slot);
        let Some(task) = self.tasks.remove(slot) else { return };
        self.remembered -= 1;
        let tenant = self.tenant_at(number);
        tenant.tasks -= 1;
        if task.is_root() {
            tenant.forgotten = tenant.forgotten.max(Some(task.first_try));
        }
        if tenant.tasks == 0 {
            self.look_if_idle(number);
        }
        self.count_agent(task.agent, false);
        self.gone.push((slot, key));
    }

    /// Forgets what is older than the dedupe horizon.
    pub(super) fn forget_due(&mut self) {
        let Some(before) = self.now.checked_sub(self.policy.dedupe_horizon_ms) else { return };
        let now = self.now;
        for _ in 0..AT_ONCE {
            let Some(oldest) = self.oldest() else { break };
            let ended = self.tasks[oldest].at;
            if ended > before || ended >= now {
                break;
            }
            self.forget(oldest);
        }
        for _ in 0..AT_ONCE {
            match self.leaving.first() {
                Some((at, _)) if *at <= now => {}
                _ => break,
            }
            if let Some((_, name)) = self.leaving.pop_first() {
                self.leave(&name);
            }
        }
    }

    /// A tenant of which nothing is known but its name may leave after the dedupe horizon, once its limiter is full
    /// again: when it comes back everything is as if it had stayed.
    pub(in crate::flow) fn look_if_idle(&mut self, number: u32) {
        let now = self.now;
        let tenant = self.tenant_at(number);
        let idle = tenant.settings.is_none() && tenant.tasks == 0 && tenant.permits.is_none();
        match (idle, tenant.idle_since) {
            (true, None) => {
                tenant.idle_since = Some(now);
                let entry = self.leaves_at(number);
                self.leaving.insert(entry);
            }
            (false, Some(_)) => {
                let entry = self.leaves_at(number);
                self.leaving.remove(&entry);
                self.tenant_at(number).idle_since = None;
            }
            _ => {}
        }
    }

    fn leaves_at(&self, number: u32) -> (u64, TenantName) {
        let name = self.tenant_name(number);
        let tenant = self.tenants.at(number);
        let since = tenant.and_then(|t| t.idle_since).unwrap_or(0);
        let full = tenant.map_or(0, |t| t.rate.full_at().max(t.cells.full_at()));
        (since.saturating_add(self.policy.dedupe_horizon_ms.max(1)).max(full), name.clone())
    }

    /// Takes an idle tenant out of the line of those that leave, or puts it in where it belongs now.
    pub(super) fn line_up(&mut self, number: u32, stands: bool) {
        if self.tenants.at(number).is_some_and(|tenant| tenant.idle_since.is_some()) {
            let entry = self.leaves_at(number);
            if stands {
                self.leaving.insert(entry);
            } else {
                self.leaving.remove(&entry);
            }
        }
    }

    /// Lines all idle tenants up anew.
    pub(in crate::flow) fn line_up_leaving(&mut self) {
        self.leaving.clear();
        for number in self.tenants.numbers() {
            if self.tenants.at(number).is_some_and(|tenant| tenant.idle_since.is_some()) {
                let entry = self.leaves_at(number);
                self.leaving.insert(entry);
            }
        }
    }

    fn leave(&mut self, name: &TenantName) {
        let Some(number) = self.tenants.number(name) else { return };
        let Some(tenant) = self.tenants.remove(number) else { return };
        self.departed = self.departed.max(tenant.forgotten);
        for agent in self.agents.numbers() {
            if let Some(queue) = self.queue_at(agent) {
                queue.forget(number);
            }
        }
    }

    /// A task names the agent, or does so no more. Without tasks and settings it leaves, and what it learned with it.
    pub(in crate::flow) fn count_agent(&mut self, number: u32, more: bool) {
        let Some(agent) = self.agents.at_mut(number) else { return };
        if more {
            agent.tasks += 1;
            return;
        }
        agent.tasks -= 1;
        self.look_if_unused(number);
    }

    /// An agent that nothing needs leaves.
    pub(in crate::flow) fn look_if_unused(&mut self, number: u32) {
        let unused = |agent: &Agent| agent.tasks == 0 && agent.called == 0 && agent.settings.is_none();
        if self.agents.at(number).is_some_and(unused) {
            self.agents.remove(number);
        }
    }
}

fn is_remembered(task: Option<&crate::flow::entry::Task>, order: u64) -> bool {
    task.is_some_and(|task| task.remembered && task.order == order)
}
