//! How long ended tasks are remembered: for the dedupe horizon, bounded in number, never while needed.

use crate::{
    flow::{record::Origin, state::State},
    task::{TaskKey, TenantName},
};

impl State {
    /// Nothing lives in the tree any more: its tasks are lined up for being forgotten. Not before, so
    /// that a cancel finds its way from any task to everything below it.
    pub(super) fn remember_tree(&mut self, root: TaskKey) {
        let mut next = vec![root];
        while let Some(key) = next.pop() {
            let Some(task) = self.tasks.get(&key) else { continue };
            next.extend(
                task.children.iter().map(|id| TaskKey { tenant: key.tenant.clone(), id: id.clone() }),
            );
            self.remember(&key);
        }
    }

    /// Lines a task up for being forgotten.
    pub(super) fn remember(&mut self, key: &TaskKey) {
        let now = self.now;
        let max = self.policy.dedupe_max as usize;
        let tenant = self.tenant_mut(&key.tenant);
        tenant.memory.push_back((now, key.id.clone()));
        // What ended in this very message still has to be told.
        while self
            .tenants
            .get(&key.tenant)
            .is_some_and(|t| t.memory.len() > max && t.memory.front().is_some_and(|(ended, _)| *ended < now))
        {
            self.forget_oldest(&key.tenant);
        }
    }

    pub(super) fn forget_oldest(&mut self, name: &TenantName) {
        let Some((_, id)) = self.tenants.get_mut(name).and_then(|t| t.memory.pop_front()) else { return };
        let key = TaskKey { tenant: name.clone(), id };
        let Some(task) = self.tasks.remove(&key) else { return };
        if let Origin::Root { first_try, .. } = task.origin
            && let Some(tenant) = self.tenants.get_mut(name)
        {
            tenant.forgotten = tenant.forgotten.max(Some(first_try));
        }
    }

    /// Forgets what is older than the dedupe horizon.
    pub(super) fn forget_due(&mut self) {
        let Some(before) = self.now.checked_sub(self.policy.dedupe_horizon_ms) else { return };
        if before < self.next_forget {
            return;
        }
        // A look at each tenant's oldest entry, at most once a minute.
        self.next_forget = before + 60_000;
        let mut names: Vec<TenantName> = self.tenants.keys().cloned().collect();
        names.sort();
        for name in names {
            while self
                .tenants
                .get(&name)
                .and_then(|t| t.memory.front())
                .is_some_and(|(ended, _)| *ended <= before)
            {
                self.forget_oldest(&name);
            }
        }
    }
}
