//! Cancelling takes the tree, top down; a cancel that overtakes its submit leaves a tombstone.

use super::{Changes, Misfit};
use crate::{
    flow::{
        record::Origin,
        state::{State, Task},
    },
    task::{AgentName, Code, Payload, Phase, Priority, Refusal, Spec, Step, TaskKey},
};

impl State {
    /// Cancels the task and everything below it, top down.
    pub(super) fn cancel(
        &mut self,
        top: &TaskKey,
        reason: &str,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        if !self.tasks.contains_key(top) {
            self.tombstone(top, reason);
            return Ok(());
        }
        let mut next = vec![top.clone()];
        while let Some(key) = next.pop() {
            let Some(task) = self.tasks.get(&key) else { continue };
            next.extend(
                task.children.iter().map(|id| TaskKey { tenant: key.tenant.clone(), id: id.clone() }),
            );
            match task.phase {
                Phase::Queued => self.dequeue(&key),
                Phase::Running => {
                    let token = task.lease.as_ref().map(|l| l.token);
                    if let Some(token) = token {
                        self.revoke(&key, token, Code::Cancelled, changes)?;
                    }
                }
                Phase::Waiting | Phase::Retrying => {}
                _ => continue,
            }
            let task = self.step(&key, Step::Cancel)?;
            task.resumed = false;
            task.refusal = Some(Refusal::new(Code::Cancelled, reason));
            self.end(&key, changes);
            self.touch(&key, changes);
        }
        Ok(())
    }

    /// Remembers a cancel whose submit has not come yet.
    pub(super) fn tombstone(&mut self, key: &TaskKey, reason: &str) {
        let spec = Spec {
            // A placeholder nobody sees: a tombstone is shown to no reader.
            agent: AgentName::new("none").unwrap_or_else(|_| unreachable!("a name by the grammar")),
            input: Payload::default(),
            priority: Priority::Normal,
            max_tries: None,
        };
        // The owner's clock may be stepped: it must not move `TOO_OLD` when this is forgotten.
        let origin = Origin::Root { first_try: 0, retry_of: None };
        let hash = spec.body_hash();
        let task = Task {
            refusal: Some(Refusal::new(Code::Cancelled, reason)),
            tombstone: true,
            ..Task::new(spec, hash, origin, Phase::Cancelled, self.wall, self.rev)
        };
        self.tenant_mut(&key.tenant);
        self.tasks.insert(key.clone(), task);
        self.remember(key);
    }
}
