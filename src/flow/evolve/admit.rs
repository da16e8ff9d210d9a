//! How a task enters: admitted into its lane, its tree and its parent's children, or rejected at once.

use std::num::NonZeroU64;

use super::{Changes, KEEP_RETRIES, Misfit};
use crate::{
    flow::{
        entry::{ChildOf, Stored, Task, Tree},
        gate::seconds,
        record::{Admission, Origin},
        state::State,
        tasks::Slot,
        times::Timing,
    },
    task::{AgentName, BodyHash, Code, Phase, Priority, TaskId, TaskKey},
};

impl State {
    pub(super) fn admit(
        &mut self,
        tenant: u32,
        admission: &Admission,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let known = self.tasks.find(tenant, &admission.task);
        if known.is_some_and(|known| !self.tasks[known].tombstone) {
            return Err(Misfit::Exists(self.named(tenant, &admission.task)));
        }
        let phase = match &admission.refusal {
            None => Phase::Queued,
            Some(refusal) if refusal.code == Code::Cancelled => Phase::Cancelled,
            Some(_) => Phase::Rejected,
        };
        let (mut parent, mut hops) = (None, 0);
        if let Origin::Child { parent: id, .. } = &admission.origin {
            let slot = self.tasks.find(tenant, id);
            let slot = slot.ok_or_else(|| Misfit::NoTask(self.named(tenant, id)))?;
            hops = self.tasks[slot].more().hops;
            parent = Some(slot);
        }
        let spec = &admission.spec;
        let mut task = self.new_task(tenant, &admission.task, &spec.agent, admission.body_hash, phase);
        task.priority = spec.priority;
        task.max_tries = spec.max_tries.unwrap_or(0);
        if let Some(cost) = spec.cost.filter(|cost| *cost > 0) {
            task.more_mut().cost = cost;
        }
        if spec.labels.is_some() {
            task.more_mut().labels = spec.labels.clone();
        }
        task.order = self.next_order;
        self.next_order += 1;
        if admission.refusal.is_some() {
            task.more_mut().refusal = admission.refusal.clone();
        }
        match &admission.origin {
            Origin::Root { first_try, retry_of, hops } => {
                task.first_try = *first_try;
                if *hops > 0 {
                    task.more_mut().hops = *hops;
                }
                if let Some(dead) = retry_of {
                    task.more_mut().retry_of = Some(dead.clone());
                    self.retried(tenant, dead, &admission.task);
                }
            }
            Origin::Child { parent, step, index, root, depth } => {
                let (parent, step, root) = (parent.clone(), step.clone(), root.clone());
                let child = ChildOf { parent, step, index: *index, root, depth: *depth };
                let more = task.more_mut();
                more.child = Some(Box::new(child));
                more.hops = hops;
            }
        }
        if !phase.is_terminal() {
            task.input = Stored::of(&spec.input, self.rev);
        }
        let timing = Timing::of(admission, self.now, self.wall);
        let delayed = timing.as_ref().and_then(|(_, delayed)| *delayed);
        if let Some((timing, _)) = timing {
            task.more_mut().timing = Some(Box::new(timing));
        }
        if let Some(parent) = parent {
            let parent = &mut self.tasks[parent];
            let more = parent.more_mut();
            more.news |= phase.is_terminal();
            more.children.push(task.id.clone());
            more.live_children += u32::from(!phase.is_terminal());
        }
        let (input, is_root, backlog) = (task.input, task.is_root(), task.in_backlog());
        let slot = self.put(task, known);
        if phase.is_terminal() {
            changes.ended.push(slot);
            // A tombstone is lined up already; a refused child goes with its tree.
            if is_root && !self.tasks[slot].remembered {
                self.remember(slot);
            }
        } else {
            self.references.add(input);
            if !input.is_empty() {
                self.resident.keep_input(slot, &spec.input, 1);
            }
            if !is_root {
                self.grow_tree(slot);
            }
            self.count_backlog(tenant, false, backlog);
            self.bounds.put(slot, &self.tasks[slot]);
            if let Some(due) = delayed {
                self.wake_later(slot, due);
            } else {
                self.enqueue(slot);
            }
        }
        changes.touched.push(slot);
        Ok(())
    }

    pub(super) fn new_task(
        &mut self,
        tenant: u32,
        id: &TaskId,
        agent: &AgentName,
        body_hash: BodyHash,
        phase: Phase,
    ) -> Task {
        let agent = self.agent_number(agent);
        Task {
            id: id.clone(),
            tenant,
            agent,
            body_hash,
            input: Stored::default(),
            priority: Priority::Normal,
            max_tries: 0,
            phase,
            order: 0,
            at: 0,
            first_try: 0,
            created: self.wall,
            ended: if phase.is_terminal() { NonZeroU64::new(self.wall) } else { None },
            rev: self.rev,
            admitted: seconds(self.now),
            tombstone: false,
            remembered: false,
            ran: None,
            more: None,
        }
    }

    /// Puts a task in, or in the place of its tombstone.
    pub(super) fn put(&mut self, mut task: Task, tombstone: Option<Slot>) -> Slot {
        let (tenant, agent) = (task.tenant, task.agent);
        self.count_agent(agent, true);
        if let Some(slot) = tombstone {
            let old = &mut self.tasks[slot];
            // It will be forgotten when the tombstone would have been.
            (task.remembered, task.order, task.at) = (true, old.order, old.at);
            let agent = std::mem::replace(old, task).agent;
            self.count_agent(agent, false);
            return slot;
        }
        let counted = self.tenant_at(tenant);
        counted.tasks += 1;
        if counted.tasks == 1 {
            self.look_if_idle(tenant);
        }
        self.tasks.insert(task)
    }

    /// A dead task is retried under another id.
    fn retried(&mut self, tenant: u32, dead: &TaskId, id: &TaskId) {
        if let Some(dead) = self.tasks.find(tenant, dead) {
            let retries = &mut self.tasks[dead].more_mut().retries;
            retries.push_back(id.clone());
            if retries.len() > KEEP_RETRIES {
                retries.pop_front();
            }
        }
    }

    /// A child was admitted: from the first one on its root counts the tree.
    fn grow_tree(&mut self, slot: Slot) {
        let task = &self.tasks[slot];
        let Some(root) = self.tasks.find(task.tenant, task.root()) else { return };
        let root = &mut self.tasks[root];
        let lives = u32::from(!root.phase.is_terminal());
        let tree = &mut root.more_mut().tree;
        if tree.total == 0 {
            *tree = Tree { total: 1, live: lives };
        }
        tree.total += 1;
        tree.live += 1;
    }

    pub(super) fn named(&self, tenant: u32, id: &TaskId) -> TaskKey {
        TaskKey { tenant: self.tenant_name(tenant).clone(), id: id.clone() }
    }

    /// Puts a queued task into its lane, unless it may not start yet or its tree is paused.
    pub(super) fn enqueue(&mut self, slot: Slot) {
        if self.is_kept_back(slot) {
            return;
        }
        let task = &self.tasks[slot];
        let (tenant, agent, place, since) = (task.tenant, task.agent, task.place(), task.admitted);
        if let Some(agent) = self.agents.at_mut(agent) {
            agent.queue.get_or_insert_default().push(tenant, place, slot, since);
        }
        self.refresh(tenant, Some(agent));
    }

    /// Takes a queued task out of its lane.
    pub(super) fn dequeue(&mut self, slot: Slot) {
        let task = &self.tasks[slot];
        let (tenant, agent, place) = (task.tenant, task.agent, task.place());
        if let Some(queue) = self.queue_at(agent) {
            queue.remove(tenant, place);
        }
        self.refresh(tenant, Some(agent));
        // It may have stood ready until now.
        if let Some(queue) = self.queue_at(agent) {
            queue.tidy(tenant);
        }
    }
}
