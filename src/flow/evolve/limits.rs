//! What operators say: limits in force from now on, and what is paused. What is stopped gives its leases back.
//!
//! A stop ends leases like a withdrawal: no try is lost, the task is queued again in its old place, a resumed parent is
//! still first in line. What was charged for the dispatch stays charged.

use super::{Changes, Misfit};
use crate::{
    flow::{
        entry::{Lease, Task},
        state::{Governed, State},
        tasks::Slot,
    },
    task::{AgentName, AgentSettings, Code, Phase, Plan, Step, TenantName, TenantSettings, Token},
};

impl State {
    pub(super) fn set_tenant(
        &mut self,
        name: &TenantName,
        settings: Option<&TenantSettings>,
        kv_rev: u64,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let number = self.tenant_number(name);
        let tenant = self.tenant_at(number);
        tenant.settings = settings.cloned();
        tenant.kv_rev = kv_rev;
        self.refresh_plan(number);
        self.look_if_idle(number);
        if settings.is_some_and(|settings| settings.stopped) {
            self.stop_where(|task| task.tenant == number, changes)?;
        }
        Ok(())
    }

    pub(super) fn set_agent(
        &mut self,
        name: &AgentName,
        settings: Option<&AgentSettings>,
        kv_rev: u64,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let Some(settings) = settings else {
            if let Some(number) = self.agents.number(name) {
                self.ungovern(number);
            }
            return Ok(());
        };
        let number = self.agent_number(name);
        let agent = self.agents.at_mut(number).unwrap_or_else(|| unreachable!("it was put in"));
        let own = agent.settings.get_or_insert_default();
        (own.settings, own.kv_rev) = (settings.clone(), kv_rev);
        self.govern(number);
        if settings.stopped {
            self.stop_where(|task| task.agent == number, changes)?;
        }
        Ok(())
    }

    /// Brings an agent's limiters in line with its settings.
    pub(in crate::flow) fn govern(&mut self, number: u32) {
        let now = self.now;
        let Some(own) = self.agents.at_mut(number).and_then(|agent| agent.settings.as_deref_mut()) else {
            return;
        };
        let Governed { settings, rate, cells, .. } = own;
        rate.set_quota(settings.rate_quota(), now);
        cells.set_quota(settings.cell_quota(), now);
        match rate.quota().or(cells.quota()) {
            Some(_) => self.limited.insert(number),
            None => self.limited.remove(&number),
        };
    }

    fn ungovern(&mut self, number: u32) {
        self.limited.remove(&number);
        let Some(agent) = self.agents.at_mut(number) else { return };
        agent.settings = None;
        self.look_if_unused(number);
    }

    pub(super) fn refresh_plans(&mut self) {
        for number in self.tenants.numbers() {
            self.refresh_plan(number);
        }
    }

    /// Brings a tenant's plan, limiters and lanes in line with what is set.
    pub(in crate::flow) fn refresh_plan(&mut self, number: u32) {
        let plan = self.plan_of(self.tenant_name(number)).unwrap_or_else(Plan::free);
        let now = self.now;
        // When an idle tenant leaves depends on its limiters.
        self.line_up(number, false);
        let tenant = self.tenant_at(number);
        tenant.rate.set_quota(Some(plan.rate_quota()), now);
        tenant.cells.set_quota(plan.cell_quota(), now);
        tenant.plan = plan;
        self.line_up(number, true);
        self.refresh(number, None);
    }

    /// Ends the leases of all tasks that are meant, and queues them again.
    pub(super) fn stop_where(
        &mut self,
        is_meant: impl Fn(&Task) -> bool,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let meant = self.leases.iter().filter(|(_, slot)| is_meant(&self.tasks[**slot]));
        let mut meant: Vec<(Token, Slot)> = meant.map(|(token, slot)| (*token, *slot)).collect();
        // In an order that is the same everywhere.
        meant.sort_unstable_by_key(|(token, _)| *token);
        for (token, slot) in meant {
            self.stop(slot, token, changes)?;
        }
        Ok(())
    }

    fn stop(&mut self, slot: Slot, token: Token, changes: &mut Changes) -> Result<(), Misfit> {
        self.revoke(slot, token, Code::Paused, changes)?;
        // It may have begun: no time to live ends it any more.
        if let Some(timing) = self.tasks[slot].timing_mut() {
            timing.ttl_at = None;
        }
        self.step(slot, Step::Withdraw)?;
        self.enqueue(slot);
        self.touch(slot, changes);
        Ok(())
    }

    /// Pauses a tree, or lets it go on: its queued tasks leave their lanes, or come back.
    pub(super) fn set_tree(&mut self, root: Slot, paused: bool, changes: &mut Changes) -> Result<(), Misfit> {
        if self.tasks[root].more().paused == paused {
            return Ok(());
        }
        let mut tree = vec![root];
        let mut at = 0;
        while let Some(slot) = tree.get(at).copied() {
            at += 1;
            let task = &self.tasks[slot];
            tree.extend(task.more().children.iter().filter_map(|id| self.tasks.find(task.tenant, id)));
        }
        if paused {
            for slot in tree.iter().copied() {
                if self.tasks[slot].phase == Phase::Queued {
                    self.dequeue(slot);
                }
            }
        }
        self.mark_tree(root, paused);
        for slot in tree {
            let lease = self.tasks[slot].lease().map(|lease: &Lease| lease.token);
            match (paused, lease) {
                (true, Some(token)) => self.stop(slot, token, changes)?,
                (false, None) if self.tasks[slot].phase == Phase::Queued => self.enqueue(slot),
                _ => {}
            }
        }
        // What has ended looks as it did at its end.
        if !self.tasks[root].phase.is_terminal() {
            self.touch(root, changes);
        }
        Ok(())
    }

    fn mark_tree(&mut self, root: Slot, paused: bool) {
        self.tasks[root].more_mut().paused = paused;
        if paused {
            self.paused_trees += 1;
        } else {
            self.paused_trees -= 1;
        }
    }

    /// Nothing lives in the tree any more: there is nothing to pause.
    pub(super) fn end_pause(&mut self, root: Slot) {
        if self.tasks[root].more().paused {
            self.mark_tree(root, false);
        }
    }

    /// Whether a queued task stays out of its lane: it may not start yet, or its tree is paused.
    pub(in crate::flow) fn is_kept_back(&self, slot: Slot) -> bool {
        self.tasks[slot].is_held() || self.is_tree_paused(slot)
    }

    pub(in crate::flow) fn is_tree_paused(&self, slot: Slot) -> bool {
        // Nearly always there is none.
        self.paused_trees > 0 && self.root_of(slot).is_some_and(|root| self.tasks[root].more().paused)
    }

    pub(super) fn root_of(&self, slot: Slot) -> Option<Slot> {
        let task = &self.tasks[slot];
        if task.is_root() { Some(slot) } else { self.tasks.find(task.tenant, task.root()) }
    }

    /// An attempt says what it used: more than was set aside is owed, less is given back.
    pub(super) fn settle_cells(&mut self, slot: Slot, used: u32) {
        let now = self.now;
        let task = &self.tasks[slot];
        let (tenant, agent) = (task.tenant, task.agent);
        let Some((of_tenant, of_agent)) = task.lease().map(|lease| lease.cells) else { return };
        self.tenant_at(tenant).cells.settle(of_tenant, used, now);
        if let Some(own) = self.agents.at_mut(agent).and_then(|agent| agent.settings.as_deref_mut()) {
            own.cells.settle(of_agent, used, now);
        }
    }
}
