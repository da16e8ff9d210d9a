//! Payloads that are in the journal and not in memory: asked for, waited for, carried on; and a journal without room.

use std::collections::HashMap;

use super::{Effect, Engine, JournalError, effects::Batch, queue::Queued};
use crate::{
    flow::{
        entry::Task,
        input::{Decision, Entropy, Input},
        query,
        record::{Record, What},
        tasks::Slot,
    },
    task::{Millis, Payload, Phase, TaskKey, Token},
    wire::{api::ChildrenPage, history::HistoryPage},
};

/// A message that was asked for and did not come is asked for again after this long.
const ASK_AGAIN_MS: Millis = 1_000;
/// Inputs looked at behind one that had to be asked for, and messages asked for ahead.
const LOOK_AHEAD: (usize, usize) = (512, 3);
/// Submits kept while the journal has no room; more are dropped, and come again.
const MAX_PARKED: usize = 16_384;
/// Commands that wait for a payload; more are dropped, and come again.
const MAX_COMMANDS: usize = 4_096;
/// From so many per cent of the journal's bytes on no submits are taken, and below so many again.
const FULL_AT: (u64, u64) = (80, 70);

/// What waits for the journal.
pub(super) struct Waiting<H> {
    /// Messages asked for, and when.
    asked: HashMap<u64, Millis>,
    /// Asked for by somebody else than an input.
    wanted: Vec<u64>,
    /// Commands, each with the message it waits for and since when.
    commands: Vec<(u64, Millis, Queued<H>)>,
    full: bool,
    /// Submits that wait for room, by what they name, in the order they came.
    parked: HashMap<TaskKey, (u64, Queued<H>)>,
    next: u64,
}

impl<H> Default for Waiting<H> {
    fn default() -> Self {
        Self {
            asked: HashMap::new(),
            wanted: Vec::new(),
            commands: Vec::new(),
            full: false,
            parked: HashMap::new(),
            next: 0,
        }
    }
}

impl<H> Waiting<H> {
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Keeps a submit until there is room. One that is there already is not acknowledged, and comes again.
    pub fn park(&mut self, input: Input, handle: Option<H>) {
        let Input::Submit { key, .. } = &input else { return };
        if self.parked.len() < MAX_PARKED || self.parked.contains_key(key) {
            self.next += 1;
            self.parked.insert(key.clone(), (self.next, Queued { input, handle }));
        }
    }
}

/// How much there is of everything that grows with use. Each is bounded; see the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// By the backlogs, the trees' caps and the memory of ids.
    pub tasks: usize,
    /// By those with settings, tasks, or use within the dedupe horizon.
    pub tenants: usize,
    /// By the tasks, and those with settings.
    pub agents: usize,
    /// By tenants times agents.
    pub lanes: usize,
    /// By the instances' slots.
    pub leases: usize,
    /// By the tasks.
    pub timers: usize,
    /// By `dedupe_total`.
    pub remembered: usize,
    /// Places in the line of those that are remembered: by twice as many, and 64.
    pub remembered_line: usize,
    /// By the journal's messages that were not purged.
    pub references: usize,
    /// Payloads in memory.
    pub resident: usize,
    /// By the budget, and 1 MiB.
    pub resident_bytes: usize,
    /// By the tasks, and 262,144 forgotten ones.
    pub dirty: usize,
    /// By [`super::super::dirty::MAX_RESULT_BYTES`].
    pub dirty_result_bytes: usize,
    /// By [`crate::task::MAX_SCHEDULES`].
    pub schedules: usize,
    /// By what the driver takes in.
    pub inputs: usize,
    /// By 64 per lease.
    pub held: usize,
    /// By 16,384.
    pub parked: usize,
    /// By 4,096.
    pub commands: usize,
    /// By leases and commands.
    pub asked: usize,
    /// By being taken every turn.
    pub ended: usize,
    /// By 65,536 and the leases.
    pub instances: usize,
    /// By 65,536.
    pub recent_tokens: usize,
    /// By the instances' slots.
    pub calls: usize,
    /// Blocks of places for calls: by the caps in flight, and given back when unused.
    pub call_blocks: usize,
    /// By 16,384.
    pub recent_calls: usize,
}

impl Sizes {
    /// Each under its name.
    pub fn each(&self) -> [(&'static str, usize); 25] {
        [
            ("tasks", self.tasks),
            ("tenants", self.tenants),
            ("agents", self.agents),
            ("lanes", self.lanes),
            ("leases", self.leases),
            ("timers", self.timers),
            ("remembered", self.remembered),
            ("remembered_line", self.remembered_line),
            ("references", self.references),
            ("resident", self.resident),
            ("resident_bytes", self.resident_bytes),
            ("dirty", self.dirty),
            ("dirty_result_bytes", self.dirty_result_bytes),
            ("schedules", self.schedules),
            ("inputs", self.inputs),
            ("held", self.held),
            ("parked", self.parked),
            ("commands", self.commands),
            ("asked", self.asked),
            ("ended", self.ended),
            ("instances", self.instances),
            ("recent_tokens", self.recent_tokens),
            ("calls", self.calls),
            ("call_blocks", self.call_blocks),
            ("recent_calls", self.recent_calls),
        ]
    }
}

impl<H> Engine<H> {
    /// How many bytes of payloads may be in memory.
    pub fn set_resident_budget(&mut self, bytes: usize) {
        self.state.resident.set_budget(bytes);
    }

    /// How much there is of everything.
    pub fn sizes(&self) -> Sizes {
        let state = &self.state;
        let (instances, _, recent_tokens) = self.live.sizes();
        let (calls, call_blocks, recent_calls) = self.calls.sizes();
        let (asked, others) = self.queue.waiting();
        Sizes {
            tasks: state.tasks.len(),
            tenants: state.tenants.len(),
            agents: state.agents.len(),
            lanes: state.queues().map(|(_, queue)| queue.lanes()).sum(),
            leases: state.leases.len(),
            timers: state.timers.len() + state.bounds.len(),
            remembered: state.remembered as usize,
            remembered_line: state.memory.len(),
            references: state.references.len(),
            resident: state.resident.len(),
            resident_bytes: state.resident.bytes(),
            dirty: self.dirty.len(),
            dirty_result_bytes: self.dirty.result_bytes(),
            schedules: state.schedules.len(),
            inputs: asked + others,
            held: self.held.len(),
            parked: self.waiting.parked.len(),
            commands: self.waiting.commands.len(),
            asked: self.waiting.asked.len(),
            ended: self.ended.len(),
            instances,
            recent_tokens,
            calls,
            call_blocks,
            recent_calls,
        }
    }

    /// The lowest journal revision that holds a payload still needed; `None`: no payload is.
    pub fn needed_from(&self) -> Option<u64> {
        self.state.references.lowest()
    }

    /// Journal revisions below `rev` that hold a payload still needed, lowest first, at most `max`.
    pub fn needed_below(&self, rev: u64, max: usize) -> Vec<u64> {
        self.state.references.iter().take_while(|needed| *needed < rev).take(max).collect()
    }

    /// Whether the journal message of this revision holds a payload still needed.
    pub fn needs(&self, rev: u64) -> bool {
        self.state.references.has(rev)
    }

    /// A page of a task's children. Results that are not in memory are asked for: the page is complete once
    /// [`Input::Loaded`] has brought them, and `false` until then.
    pub fn children(
        &mut self,
        key: &TaskKey,
        after: u32,
        limit: u32,
        results: bool,
    ) -> Option<(ChildrenPage, bool)> {
        let (page, missing) = query::children(&self.state, key, after, limit, results)?;
        let complete = missing.is_empty();
        self.waiting.wanted.extend(missing);
        Some((page, complete))
    }

    /// Whether submits wait because the journal has no room for them.
    pub fn is_short_of_room(&self) -> bool {
        self.waiting.is_full()
    }

    /// A page of what a task was told and what its handler recorded; as for [`Engine::children`].
    pub fn history(&mut self, key: &TaskKey, place: u32, after: u32) -> Option<(HistoryPage, bool)> {
        let (page, missing) = query::history(&self.state, key, place, after)?;
        let complete = missing.is_empty();
        self.waiting.wanted.extend(missing);
        Some((page, complete))
    }

    /// Says how full the journal is.
    pub(super) fn room(&mut self, used: u64, max: u64) {
        let percent = |of: u64| max / 100 * of;
        if max > 0 && used >= percent(FULL_AT.0) {
            self.waiting.full = true;
        } else if max == 0 || used < percent(FULL_AT.1) {
            self.waiting.full = false;
            let mut parked: Vec<_> = self.waiting.parked.drain().map(|(_, parked)| parked).collect();
            parked.sort_by_key(|(n, _)| *n);
            for (_, queued) in parked.into_iter().rev() {
                self.queue.push_front(queued);
            }
        }
    }

    /// Asks for a message, unless that was done just now.
    fn ask(&mut self, rev: u64, now: Millis, effects: &mut Vec<Effect<H>>) {
        let asked = self.waiting.asked.get(&rev);
        if asked.is_none_or(|at| at + ASK_AGAIN_MS <= now) {
            self.waiting.asked.insert(rev, now);
            effects.push(Effect::Load { rev });
        }
    }

    /// Asks for the input of a task, and for those behind it, which will be next.
    pub(super) fn load(&mut self, rev: u64, slot: Slot, now: Millis, effects: &mut Vec<Effect<H>>) {
        self.ask(rev, now, effects);
        let task = &self.state.tasks[slot];
        let Some(queue) = self.state.agents.at(task.agent).and_then(|agent| agent.queue.as_deref()) else {
            return;
        };
        let mut ahead: Vec<u64> = Vec::new();
        for slot in queue.ahead(task.tenant, LOOK_AHEAD.0) {
            if let Some(next) = self.state.tasks[slot].input.rev()
                && next != rev
                && !ahead.contains(&next)
                && self.state.resident.input(slot).is_none()
            {
                ahead.push(next);
                if ahead.len() == LOOK_AHEAD.1 {
                    break;
                }
            }
        }
        for rev in ahead {
            self.ask(rev, now, effects);
        }
    }

    /// A command waits until the message has come.
    pub(super) fn wait_for(&mut self, rev: u64, input: Input, handle: Option<H>, batch: &mut Batch<H>) {
        if self.waiting.commands.len() < MAX_COMMANDS {
            self.waiting.commands.push((rev, batch.at.now, Queued { input, handle }));
            self.ask(rev, batch.at.now, &mut batch.effects);
        }
    }

    /// Asks for what questions wait for, and looks again at commands that have waited long: what they wait for may
    /// stand elsewhere by now.
    pub(super) fn ask_again(&mut self, batch: &mut Batch<H>) {
        for rev in std::mem::take(&mut self.waiting.wanted) {
            self.ask(rev, batch.at.now, &mut batch.effects);
        }
        let long = |since: &Millis| since + ASK_AGAIN_MS <= batch.at.now;
        if self.waiting.commands.iter().any(|(_, since, _)| long(since)) {
            let (again, wait): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.waiting.commands).into_iter().partition(|(_, since, _)| long(since));
            self.waiting.commands = wait;
            again.into_iter().rev().for_each(|(_, _, queued)| self.queue.push_front(queued));
        }
        if self.waiting.asked.len() > 1_024 {
            self.waiting.asked.retain(|_, at| *at + ASK_AGAIN_MS > batch.at.now);
        }
    }

    /// A message that was asked for: whatever waits for one of its payloads goes on.
    pub(super) fn loaded(
        &mut self,
        input: Input,
        batch: &mut Batch<H>,
        entropy: &mut dyn Entropy,
    ) -> Result<(), JournalError> {
        let Input::Loaded { rev, payloads } = input else { return Ok(()) };
        self.waiting.asked.remove(&rev);
        let mut dead = Vec::new();
        let mut offers: Vec<Token> = Vec::new();
        for (key, what, payload) in &payloads {
            let Some(slot) =
                self.state.find(key).filter(|slot| is_in(&self.state.tasks[*slot], *what, rev, payload))
            else {
                continue;
            };
            let task = &self.state.tasks[slot];
            let resident = &mut self.state.resident;
            match (what, task.phase) {
                (What::Result | What::Message(_) | What::Step(_), _) => {
                    resident.keep(slot, *what, payload, true);
                }
                (What::Input, Phase::Failed) => {
                    resident.keep_input(slot, payload, 0);
                    dead.push(slot);
                }
                (What::Input, Phase::Running) => {
                    let waits = task.lease().map(|lease| lease.token);
                    if let Some(token) = waits.filter(|token| !self.live.is_accepted(token)) {
                        resident.keep_input(slot, payload, 0);
                        offers.push(token);
                    }
                }
                // It was in the same message as one that is next, so it soon is, too.
                (What::Input, _) => resident.keep_input(slot, payload, 2),
            }
        }
        for token in offers {
            self.offer(&token, batch);
        }
        let (ready, wait): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting.commands).into_iter().partition(|(of, ..)| *of == rev);
        self.waiting.commands = wait;
        for (_, _, Queued { input, handle }) in ready {
            self.take(input, handle, batch, entropy)?;
        }
        // A dead task's input is needed for its retry, and then hardly again.
        dead.into_iter().for_each(|slot| self.state.resident.drop_input(slot));
        Ok(())
    }

    /// Writes again what is still needed of a message that is about to go. Returns what did not fit.
    pub(super) fn carry(
        &mut self,
        input: Input,
        batch: &mut Batch<H>,
    ) -> Result<Option<Input>, JournalError> {
        let Input::Carry { rev, payloads } = input else { return Ok(None) };
        let mut payloads = payloads.into_iter();
        while let Some((key, what, payload)) = payloads.next() {
            let needed = self.state.find(&key).map(|slot| &self.state.tasks[slot]);
            if !needed.is_some_and(|task| is_in(task, what, rev, &payload)) {
                continue;
            }
            let record = Record::Carried { key, what, payload };
            if batch.bytes + record.weight() > super::MESSAGE_BYTES && !batch.records.is_empty() {
                let Record::Carried { key, what, payload } = record else { return Ok(None) };
                let rest = std::iter::once((key, what, payload)).chain(payloads).collect();
                return Ok(Some(Input::Carry { rev, payloads: rest }));
            }
            self.apply(Decision::record(record), batch)?;
        }
        Ok(None)
    }
}

/// Whether the task needs this payload of this message.
fn is_in(task: &Task, what: What, rev: u64, payload: &Payload) -> bool {
    task.stored(what).is_some_and(|stored| stored.rev() == Some(rev) && stored.fits(payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::{engine::Next, record::JournalMessage, rig::Given, state::Policy},
        wire::{messages::Submit, subjects::Shard},
    };

    /// The messages the engine wants to append until it has nothing more to do.
    fn appended(engine: &mut Engine<()>) -> Vec<JournalMessage> {
        let mut messages = Vec::new();
        while let Next::Append { bytes, .. } = engine.next(5, 1_000, &mut Given::default()).unwrap() {
            messages.push(JournalMessage::decode(&bytes).unwrap());
            engine.appended(messages.last().unwrap().rev);
        }
        messages
    }

    #[test]
    fn what_does_not_fit_into_one_message_is_carried_by_the_next() {
        let mut engine: Engine<()> = Engine::new(Shard(0));
        engine.open("c", Policy::default());
        for n in 0..3 {
            let submit = Submit {
                labels: None,
                cost: None,
                v: 1,
                input: Payload::json(&"x".repeat(20_000)).unwrap(),
                priority: Default::default(),
                max_tries: None,
                times: None,
                first_try: None,
                confirm: false,
                hops: 0,
            };
            let key = TaskKey { tenant: "t".parse().unwrap(), id: format!("task-{n}").parse().unwrap() };
            let agent = "reader".parse().unwrap();
            engine.push(Input::Submit { key, agent, body: Ok(submit), stored_at: 1_000 }, None);
        }
        let first = appended(&mut engine);
        let payloads: Vec<_> = first.iter().cloned().flat_map(JournalMessage::payloads).collect();
        assert_eq!((first.len(), payloads.len()), (1, 3));
        engine.push(Input::Carry { rev: first[0].rev, payloads }, None);
        let carried: Vec<usize> = appended(&mut engine).iter().map(|m| m.records.len()).collect();
        assert_eq!(carried, [2, 1]);
        assert!(engine.needed_from() > Some(first[0].rev));
    }
}
