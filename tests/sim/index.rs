//! A fake index: what the indexer writes from dirty views, higher revisions only.

use std::collections::BTreeMap;

use selvedge::{
    flow::engine::Touched,
    task::{Payload, TaskKey},
    wire::api::TaskView,
};

use crate::{
    coordinators::Role,
    scenario::Fault,
    world::{Event, World},
};

#[derive(Debug, Default)]
pub struct Index {
    pub views: BTreeMap<TaskKey, (TaskView, Option<Payload>)>,
    /// Journal sequence up to which everything is written.
    pub restart: u64,
    /// Changes when the store has lost everything.
    pub generation: u64,
}

impl World {
    pub fn write_index(&mut self) {
        self.after(300, Event::Index);
        if self.strikes(Fault::IndexFlushed) {
            self.index = Index { generation: self.index.generation + 1, ..Index::default() };
        }
        for who in 0..self.coordinators.len() {
            self.write_index_of(who);
        }
    }

    fn write_index_of(&mut self, who: usize) {
        let asleep = self.coordinators[who].paused_until > self.now;
        let crash = self.coordinators[who].role == Role::Owner && self.strikes(Fault::IndexCrash);
        let coordinator = &mut self.coordinators[who];
        if coordinator.role != Role::Owner || asleep {
            return;
        }
        let Some(engine) = coordinator.engine.as_mut() else { return };
        if engine.is_busy() || !engine.is_open() {
            return;
        }
        if coordinator.generation != self.index.generation {
            coordinator.generation = self.index.generation;
            engine.touch_all();
        }
        // The index may leave what is young for its next look.
        let until = engine.seq().saturating_sub(self.now % 3);
        let until = if engine.dirty().has_until(until) { until } else { u64::MAX };
        let taken = engine.take_dirty(200, usize::MAX, until);
        if crash {
            // Taken, not written: the restart point has not moved.
            self.crash(who);
            return;
        }
        for Touched { key, view, result, .. } in taken {
            let Some(view) = view else { continue };
            let entry = self.index.views.entry(key).or_insert_with(|| (view.clone(), None));
            if view.rev >= entry.0.rev {
                let kept = entry.1.take();
                *entry = (view, result.or(kept));
            }
        }
        let head = engine.seq();
        let clean = engine.dirty().clean_up_to(head);
        self.index.restart = self.index.restart.max(clean);
    }
}
