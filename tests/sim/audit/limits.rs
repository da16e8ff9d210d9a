//! What limits are in force, and what an operator has stopped or paused.

use selvedge::task::{Plan, PlanName, TaskKey, TenantName, Token};

use super::{Audit, Known, Place, of};
use crate::scenario::Sight;

impl Audit {
    pub fn plan_of(&self, tenant: &TenantName) -> Option<Plan> {
        let named = |name: &PlanName| self.plans.get(name).cloned().unwrap_or_else(Plan::free);
        match self.tenants.get(tenant).and_then(|t| t.settings.as_ref()) {
            Some(own) => Some(named(&own.plan).with(&own.overrides)),
            None => self.policy.as_ref()?.default_plan.as_ref().map(named),
        }
    }

    pub(super) fn plan(&self, tenant: &TenantName) -> Result<Plan, String> {
        self.plan_of(tenant).ok_or_else(|| format!("{tenant} has no plan"))
    }

    pub(super) fn requota(&mut self) {
        let names: Vec<TenantName> = self.tenants.keys().cloned().collect();
        for name in names {
            let plan = self.plan_of(&name);
            let tenant = self.tenants.entry(name).or_default();
            tenant.rate.set(plan.as_ref().map(Plan::rate_quota));
            tenant.cells.set(plan.as_ref().and_then(Plan::cell_quota));
        }
    }

    /// Whose attempts an operator stopped: queued again as they were.
    pub(super) fn stopped(&mut self, is_meant: impl Fn(&TaskKey, &Known) -> bool) -> Result<(), String> {
        let meant = self.tasks.iter().filter(|(key, known)| known.lease.is_some() && is_meant(key, known));
        let meant: Vec<(TaskKey, Token)> =
            meant.filter_map(|(key, known)| Some((key.clone(), known.lease.as_ref()?.token))).collect();
        for (key, token) in meant {
            let lease = self.let_go(&key, token)?;
            let known = self.known(&key)?;
            known.place = Place::Queued;
            known.resumes = lease.resume;
            known.clocked.begun = true;
            self.touch(&key);
            self.sights.push(Sight::Stopped);
        }
        Ok(())
    }

    /// Whether the task's tree is paused.
    pub fn is_paused(&self, key: &TaskKey, known: &Known) -> bool {
        self.paused.contains(&of(key, &known.root))
    }
}
