//! What is admitted: once, as its submitter or its parent asked, within the caps of its plan and of its tree.

use selvedge::{
    flow::record::{Admission, Origin},
    task::{Code, Phase, Plan, TaskId, TaskKey, TenantName, Token, child_id},
};

use super::{Audit, Known, Place, of, talk::Talk};
use crate::scenario::Sight;

impl Audit {
    fn admit(
        &mut self,
        key: &TaskKey,
        a: &Admission,
        parent: Option<(TaskId, TaskId, u32)>,
    ) -> Result<(), String> {
        let again = self.schedules.may_fire_again(key) || self.may_trigger_again(key);
        if again && self.tasks.get(key).is_some_and(|known| known.is_over()) {
            self.tasks.remove(key);
            self.tree_totals.remove(key);
            if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
                tenant.roots.retain(|root| *root != key.id);
            }
        }
        ensure!(!self.tasks.contains_key(key), "I3: {key} was decided before");
        let (parent, root, depth) = match parent {
            Some((parent, root, depth)) => (Some(parent), root, depth),
            None => (None, key.id.clone(), 0),
        };
        let seed = self.judged(key, a)?;
        let (clocked, until) = self.clocked(key, a)?;
        let place = match &a.refusal {
            None => until.map_or(Place::Queued, Place::Delayed),
            Some(r) if r.code == Code::Cancelled => Place::Over(Phase::Cancelled),
            Some(_) => Place::Over(Phase::Rejected),
        };
        let over = a.refusal.is_some();
        self.admissions += 1;
        let known = Known {
            hash: a.body_hash,
            seed,
            parent,
            root: root.clone(),
            depth,
            children: Vec::new(),
            admitted_children: 0,
            place,
            attempt: 0,
            tries: 0,
            agent: a.spec.agent.clone(),
            cost: a.spec.cost.unwrap_or(0),
            labels: a.spec.labels.as_deref().cloned().unwrap_or_default(),
            priority: a.spec.priority,
            order: self.admissions,
            since: self.now / 1_000,
            max_tries: a.spec.max_tries.unwrap_or(1),
            vanished: 0,
            lease: None,
            resumes: false,
            news: false,
            refusal: a.refusal.as_ref().map(|r| r.code),
            failures: 0,
            started: None,
            ended: over.then_some(self.wall),
            rev: self.rev,
            result: None,
            clocked,
            talk: Talk::default(),
        };
        if let Some(code) = known.refusal {
            let sight = match code {
                Code::DepthExceeded => Some(Sight::DepthExceeded),
                Code::ChildrenExceeded => Some(Sight::ChildrenExceeded),
                Code::TreeExceeded => Some(Sight::TreeExceeded),
                Code::BacklogFull => Some(Sight::BacklogFull),
                Code::CostExceeded => Some(Sight::CostExceeded),
                _ => None,
            };
            self.sights.extend(sight);
        } else {
            *self.tree_totals.entry(of(key, &root)).or_default() += 1;
        }
        self.tasks.insert(key.clone(), known);
        Ok(())
    }

    pub(super) fn submitted(&mut self, tenant: &TenantName, a: &Admission) -> Result<(), String> {
        let key = TaskKey { tenant: tenant.clone(), id: a.task.clone() };
        ensure!(matches!(a.origin, Origin::Root { .. }), "a submit of a child");
        self.by_a_trigger(&key, a)?;
        if a.refusal.is_none() {
            let stone = self.tombstones.contains(&key);
            ensure!(!stone || self.forgetful, "{key} was cancelled before, and admitted all the same");
            let plan = self.plan(tenant)?;
            let roots = self.tenants.get(tenant).map_or(&[][..], |t| &t.roots);
            let waiting = roots.iter().filter(|id| {
                let known = &self.tasks[&of(&key, id)];
                matches!(known.place, Place::Queued | Place::Delayed(_) | Place::Sleeping { retry: true, .. })
                    && !known.resumes
            });
            let waiting = waiting.count() as u64;
            self.affordable(&plan, a)?;
            ensure!(waiting < plan.backlog, "backlog {waiting} of {} at admission", plan.backlog);
            ensure!(
                a.spec.max_tries.is_some_and(|t| t <= plan.max_tries),
                "I5: more tries than the plan has"
            );
        }
        if let Origin::Root { retry_of: Some(_), .. } = &a.origin {
            self.sights.push(Sight::DeadResubmitted);
        }
        self.admit(&key, a, None)?;
        let entry = self.tenants.entry(tenant.clone()).or_default();
        entry.roots.push(key.id);
        self.requota();
        Ok(())
    }

    pub(super) fn spawned(
        &mut self,
        key: &TaskKey,
        token: Token,
        n: u32,
        children: &[Admission],
    ) -> Result<(), String> {
        self.report(key, token, n)?;
        self.no_cancelled_above(key)?;
        let plan = self.plan(&key.tenant)?;
        let (root, depth) = {
            let parent = self.known(key)?;
            (parent.root.clone(), parent.depth + 1)
        };
        for a in children {
            let Origin::Child { parent, step, index, root: named, depth: told } = &a.origin else {
                return Err("a spawned root".to_owned());
            };
            ensure!(*parent == key.id && *named == root && *told == depth, "I7: a child of another tree");
            ensure!(a.task == child_id(&key.id, step, *index), "a child by another id");
            if a.refusal.is_none() {
                self.affordable(&plan, a)?;
                let siblings = self.known(key)?.admitted_children;
                ensure!(depth <= plan.depth, "I7: depth {depth} of {}", plan.depth);
                ensure!(siblings < plan.children, "I7: child {} of {}", siblings + 1, plan.children);
                let total = self.tree_totals.get(&of(key, &root)).copied().unwrap_or(0);
                ensure!(total < plan.tree, "I7: task {} of {} in the tree", total + 1, plan.tree);
            }
            let child = of(key, &a.task);
            self.admit(&child, a, Some((key.id.clone(), root.clone(), depth)))?;
            let parent = self.known(key)?;
            parent.children.push(child.id.clone());
            parent.admitted_children += u32::from(a.refusal.is_none());
            parent.news |= a.refusal.is_some();
        }
        self.touch(key);
        Ok(())
    }

    /// What is admitted can run some day.
    fn affordable(&self, plan: &Plan, a: &Admission) -> Result<(), String> {
        let cost = a.spec.cost.unwrap_or(0);
        let own = self.agents.get(&a.spec.agent).and_then(|agent| agent.settings.cell_quota());
        for quota in [plan.cell_quota(), own].into_iter().flatten().filter(|quota| quota.cells > 0) {
            ensure!(cost <= quota.burst, "cost {cost} of {quota:?} was admitted");
        }
        Ok(())
    }

    pub(super) fn no_cancelled_above(&self, key: &TaskKey) -> Result<(), String> {
        let mut at = key.clone();
        while let Some(parent) = self.tasks.get(&at).and_then(|k| k.parent.clone()) {
            at = of(key, &parent);
            let place = self.tasks.get(&at).map(|k| &k.place);
            let cancelled = matches!(place, Some(Place::Over(Phase::Cancelled | Phase::Expired)));
            ensure!(!cancelled, "I7: {key} is below {at}, which is cancelled or expired");
        }
        Ok(())
    }
}
