//! Everything that follows from the tasks, made anew: queues, counts, trees, timers, references.
//!
//! Touches a state that was just read back, before an engine has it.

use std::collections::HashMap;

use crate::{
    flow::{entry::Tree, gate::seconds, state::State, tasks::Slot},
    task::Phase,
};

impl State {
    /// Makes everything that follows from the tasks.
    pub(super) fn rebuild(&mut self) -> Result<(), String> {
        let mut memory = Vec::new();
        let mut stored = Vec::new();
        let mut trees: HashMap<Slot, Tree> = HashMap::new();
        self.paused_trees = self.tasks.iter().filter(|(_, task)| task.more().paused).count() as u64;
        for at in 0..self.tasks.slots() {
            let slot = Slot(at as u32);
            self.rebuild_one(slot)?;
            let task = &self.tasks[slot];
            stored.extend([Some(task.input), task.more().result].into_iter().flatten());
            stored.extend(task.history().into_iter().flat_map(|h| h.all_stored()).map(|(_, stored)| stored));
            if task.remembered {
                memory.push((task.order, slot));
            }
            if !task.is_root() && task.phase != Phase::Rejected {
                let Some(root) = self.tasks.find(task.tenant, task.root()) else {
                    if task.phase.is_terminal() {
                        continue; // the root was forgotten first
                    }
                    return Err(format!("the root of {} is not in it", self.key_of(task)));
                };
                let tree = trees.entry(root).or_default();
                tree.total += 1;
                tree.live += u32::from(!task.phase.is_terminal());
            }
        }
        for (root, mut tree) in trees {
            tree.total += 1;
            tree.live += u32::from(!self.tasks[root].phase.is_terminal());
            if tree.live > 0 {
                self.tasks[root].more_mut().tree = tree;
            }
        }
        memory.sort_unstable();
        for (order, slot) in memory {
            let tenant = self.tasks[slot].tenant;
            self.tenant_at(tenant).memory.push_back(slot);
            self.memory.push_back((order, slot));
        }
        self.remembered = self.memory.len() as u64;
        stored.sort_unstable_by_key(|stored| stored.rev());
        stored.into_iter().for_each(|stored| self.references.add(stored));
        self.clock = self.now;
        self.wall_clock = self.wall;
        self.line_up_leaving();
        for number in self.agents.numbers() {
            self.govern(number);
        }
        for number in self.tenants.numbers() {
            self.refresh_plan(number);
        }
        Ok(())
    }

    fn rebuild_one(&mut self, slot: Slot) -> Result<(), String> {
        let task = &self.tasks[slot];
        let (number, phase, agent) = (task.tenant, task.phase, task.agent);
        if task.lease().is_some() != (phase == Phase::Running) {
            return Err(format!("{} is {phase} and its lease says otherwise", self.key_of(task)));
        }
        if task.remembered && !phase.is_terminal() {
            return Err(format!("{} is {phase} and lined up for being forgotten", self.key_of(task)));
        }
        let lease = task.lease().map(|lease| (lease.token, lease.charge));
        let waits = phase == Phase::Queued && !self.is_kept_back(slot);
        self.bounds.put(slot, task);
        let (place, in_backlog, wake_at) = (task.place(), task.in_backlog(), task.wake_at());
        if task.admitted == 0 {
            // Written by a version that did not count it: its class rises from now on.
            self.tasks[slot].admitted = seconds(self.now);
        }
        let since = self.tasks[slot].admitted;
        self.count_agent(agent, true);
        let tenant = self.tenant_at(number);
        tenant.tasks += 1;
        tenant.in_flight += u32::from(lease.is_some());
        if in_backlog {
            tenant.backlog += 1;
            self.backlog += 1;
        }
        if waits && !self.tenant_at(number).agents.contains(&agent) {
            self.tenant_at(number).agents.push(agent);
        }
        if let Some(at) = wake_at {
            self.timers.insert((at, slot));
        }
        let queue = self.agents.at_mut(agent).and_then(|agent| agent.queue.as_deref_mut());
        match (queue, lease) {
            (Some(queue), Some((token, charge))) => {
                queue.run_on(number, charge);
                if self.leases.insert(token, slot).is_some() {
                    return Err(format!("the lease of {} is another's, too", self.key_of(&self.tasks[slot])));
                }
            }
            (Some(queue), None) if waits => {
                let put = queue.put_back(number, place, slot, since);
                return if put { Ok(()) } else { Err(self.contradiction(slot, "has another's place")) };
            }
            (None, Some(_)) => return Err(self.contradiction(slot, "has no queue")),
            (None, None) if waits => return Err(self.contradiction(slot, "has no queue")),
            _ => {}
        }
        Ok(())
    }

    fn contradiction(&self, slot: Slot, what: &str) -> String {
        format!("{} {what}", self.key_of(&self.tasks[slot]))
    }
}
