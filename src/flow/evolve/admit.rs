//! How a task enters: admitted into its lane, its tree and its parent's children, or rejected at once.

use super::{Changes, KEEP_RETRIES, Misfit};
use crate::{
    flow::{
        record::{Admission, Origin},
        state::{State, Task},
    },
    task::{Code, Payload, Phase, TaskKey},
};

impl State {
    pub(super) fn admit(
        &mut self,
        key: TaskKey,
        admission: &Admission,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        if let Some(known) = self.tasks.get(&key)
            && !known.tombstone
        {
            return Err(Misfit::Exists(key));
        }
        let phase = match &admission.refusal {
            None => Phase::Queued,
            Some(refusal) if refusal.code == Code::Cancelled => Phase::Cancelled,
            Some(_) => Phase::Rejected,
        };
        let mut spec = admission.spec.clone();
        if phase.is_terminal() {
            spec.input = Payload::default();
        }
        let order = self.next_order;
        self.next_order += 1;
        self.tenant_mut(&key.tenant);
        if let Origin::Child { parent, .. } = &admission.origin {
            let parent = TaskKey { tenant: key.tenant.clone(), id: parent.clone() };
            let parent = self.task_mut(&parent)?;
            parent.children.push(key.id.clone());
            parent.live_children += u32::from(!phase.is_terminal());
            parent.news |= phase.is_terminal();
        }
        let task = Task {
            order,
            refusal: admission.refusal.clone(),
            ..Task::new(spec, admission.body_hash, admission.origin.clone(), phase, self.wall, self.rev)
        };
        if let Origin::Root { retry_of: Some(dead), .. } = &admission.origin {
            let dead = TaskKey { tenant: key.tenant.clone(), id: dead.clone() };
            if let Some(dead) = self.tasks.get_mut(&dead) {
                dead.retries.push_back(key.id.clone());
                if dead.retries.len() > KEEP_RETRIES {
                    dead.retries.pop_front();
                }
            }
        }
        let was_tombstone = self.tasks.contains_key(&key);
        let root = TaskKey { tenant: key.tenant.clone(), id: task.root(&key.id).clone() };
        let backlog = task.in_backlog();
        self.tasks.insert(key.clone(), task);
        if phase.is_terminal() {
            changes.ended.push(key.clone());
            // A tombstone is lined up already; a refused child goes with its tree.
            if !was_tombstone && matches!(admission.origin, Origin::Root { .. }) {
                self.remember(&key);
            }
        } else {
            let tree = self.trees.entry(root).or_default();
            tree.total += 1;
            tree.live += 1;
            self.count_backlog(&key.tenant, false, backlog);
            self.enqueue(&key);
        }
        changes.touched.push(key);
        Ok(())
    }

    /// Puts a queued task into its lane.
    pub(super) fn enqueue(&mut self, key: &TaskKey) {
        let Some(task) = self.tasks.get(key) else { return };
        let (agent, place) = (task.spec.agent.clone(), task.place(&key.id));
        self.queues.entry(agent.clone()).or_default().push(&key.tenant, place);
        self.tenant_mut(&key.tenant).agents.insert(agent);
        self.refresh(&key.tenant);
    }

    /// Takes a queued task out of its lane.
    pub(super) fn dequeue(&mut self, key: &TaskKey) {
        let Some(task) = self.tasks.get(key) else { return };
        if let Some(queue) = self.queues.get_mut(&task.spec.agent) {
            queue.remove(&key.tenant, &task.place(&key.id));
        }
        self.refresh(&key.tenant);
    }
}
