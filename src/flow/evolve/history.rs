//! Messages and steps: put in, recorded at a place, and dropped with the end of the task.

use super::{Changes, Misfit};
use crate::{
    flow::{
        entry::Stored,
        history::{Awaits, Recorded},
        record::What,
        state::State,
        tasks::Slot,
    },
    task::{Millis, Payload, Phase, TaskId, WaitFor},
    wire::history::{Did, Step},
};

/// A message, but for its content.
pub(super) struct Letter<'a> {
    pub nonce: &'a TaskId,
    pub seq: u32,
    pub signal: Option<&'a str>,
    pub from: Option<&'a str>,
}

impl State {
    /// A message has come. Whoever waits for it takes it and is resumed.
    pub(super) fn told(
        &mut self,
        slot: Slot,
        letter: Letter<'_>,
        message: &Payload,
        changes: &mut Changes,
    ) -> Result<(), Misfit> {
        let (rev, wall) = (self.rev, self.wall);
        let task = &self.tasks[slot];
        let next = task.history().map_or(0, |history| history.count_told()) + 1;
        if letter.seq != next || task.phase.is_terminal() {
            return Err(Misfit::History(self.key_of(task), What::Message(letter.seq)));
        }
        let stored = Stored::of(message, rev);
        self.keep_part(slot, What::Message(letter.seq), stored, message);
        let task = &mut self.tasks[slot];
        let waits = task.phase == Phase::Waiting;
        let history = task.history_mut();
        history.put(stored, letter.nonce, letter.signal, letter.from, wall);
        task.more_mut().news = true;
        if waits && self.tasks[slot].history_mut().answer() {
            self.wake(slot, true)?;
            self.touch(slot, changes);
        }
        Ok(())
    }

    /// The handler has recorded something.
    pub(super) fn stepped(&mut self, slot: Slot, step: &Step) -> Result<(), Misfit> {
        let rev = self.rev;
        let what = What::Step(step.place);
        let task = &self.tasks[slot];
        let history = task.history();
        let fits = match &step.did {
            Did::Result(_) | Did::Kept(_) => true,
            Did::Took(seq) => {
                let signal = (!step.name.is_empty()).then_some(step.name.as_str());
                history.and_then(|history| history.next_of(signal)) == Some(*seq)
            }
            Did::TimedOut {} | Did::Slept {} => false,
        };
        if !fits || history.is_some_and(|history| history.entries().contains_key(&step.place)) {
            return Err(Misfit::History(self.key_of(task), what));
        }
        let did = match &step.did {
            Did::Result(result) => {
                let stored = Stored::of(result, rev);
                self.keep_part(slot, what, stored, result);
                Recorded::Result(stored)
            }
            Did::Took(seq) => Recorded::Took(*seq),
            Did::TimedOut {} => Recorded::TimedOut,
            Did::Slept {} => Recorded::Slept,
            Did::Kept(object) => Recorded::Kept(*object),
        };
        self.tasks[slot].history_mut().record(step.place, &step.name, did);
        Ok(())
    }

    fn keep_part(&mut self, slot: Slot, what: What, stored: Stored, payload: &Payload) {
        self.references.add(stored);
        if !stored.is_empty() {
            self.resident.keep(slot, what, payload, false);
        }
    }

    /// The handler waits for a message or a time. What is there already, or recorded already, is not waited for.
    pub(super) fn await_recorded(
        &mut self,
        slot: Slot,
        wait: &WaitFor,
        wake_at: Option<Millis>,
    ) -> Result<(), Misfit> {
        let task = &mut self.tasks[slot];
        // As for children: free of rate only if something has come since it was dispatched.
        let resumed = task.more().news;
        let history = task.history_mut();
        history.awaits = Awaits::of(wait);
        let known = history.awaits.as_ref().is_some_and(|a| history.entries().contains_key(&a.place));
        if known {
            history.awaits = None;
        }
        if known || history.answer() {
            return self.wake(slot, resumed);
        }
        if let Some(due) = wake_at {
            self.wake_later(slot, due);
        }
        Ok(())
    }

    /// A time has come: a wait for a message is over without one.
    pub(super) fn time_passed(&mut self, slot: Slot) {
        if self.tasks[slot].history().is_some_and(|history| history.awaits.is_some()) {
            self.tasks[slot].history_mut().pass();
        }
    }

    /// The task is over: nobody is told anything any more.
    pub(super) fn drop_history(&mut self, slot: Slot, changes: &mut Changes) {
        if self.tasks[slot].history().is_none() {
            return;
        }
        let Some(history) = self.tasks[slot].more_mut().history.take() else { return };
        if history.kept() > 0 {
            changes.kept.push(slot);
        }
        for (what, stored) in history.all_stored() {
            self.references.remove(stored);
            self.resident.drop(slot, what);
        }
    }
}
