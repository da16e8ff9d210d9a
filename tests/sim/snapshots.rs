//! Shrinking the journal: snapshots, payloads carried on, read back, and what was purged never asked for.
//!
//! Snapshots are written in slices between the owner's turns, restored, and compared with the state they are of.
//!
//! A coordinator that starts anew begins with the last good one and replays the rest of the journal.

use std::collections::BTreeMap;

use bytes::Bytes;
use selvedge::{
    flow::{
        engine::Engine,
        input::Input,
        record::JournalMessage,
        snapshot::{Restore, SnapshotHead},
    },
    task::TaskKey,
    wire::{api::TaskView, subjects::Shard},
};

use crate::{
    coordinators::Handle,
    rng::Rng,
    scenario::{Fault, Sight},
    world::{Event, World},
};

/// Snapshots begun and written.
pub struct Snapshots {
    rng: Rng,
    /// Bytes of payloads every coordinator may keep.
    pub budget: usize,
    /// Journal messages up to this revision are there for no coordinator any more.
    purged: u64,
    /// The journal is said to be full.
    full: bool,
    /// Tasks as they ended.
    pub archive: BTreeMap<TaskKey, TaskView>,
    writing: Option<Writing>,
    /// The last good one.
    pub good: Option<(SnapshotHead, Vec<Bytes>)>,
}

struct Writing {
    who: usize,
    life: u32,
    head: SnapshotHead,
    parts: Vec<Bytes>,
    /// The state as it was.
    canonical: Vec<u8>,
}

impl Snapshots {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 7);
        let budget = *rng.pick(&[0, 3_000, 64 << 20]);
        Self { rng, budget, purged: 0, full: false, archive: BTreeMap::new(), writing: None, good: None }
    }
}

/// An engine as the snapshot tells it.
pub fn restore(head: &SnapshotHead, parts: &[Bytes]) -> Result<Engine<Handle>, String> {
    let mut restore = Restore::new(Shard(0), head.clone()).map_err(|e| e.to_string())?;
    for part in parts {
        restore.part(part).map_err(|e| e.to_string())?;
    }
    let engine = restore.finish().map_err(|e| e.to_string())?;
    engine.state().check_derived().map_err(|e| format!("derived data after a restore: {e}"))?;
    Ok(engine)
}

impl World {
    /// After an append: begins a snapshot, writes a part of it, or compares it when it is complete.
    pub fn snapshot(&mut self, who: usize) {
        let snapshots = &mut self.snapshots;
        let coordinator = &mut self.coordinators[who];
        let life = coordinator.life;
        let Some(engine) = coordinator.engine.as_mut() else { return };
        match &mut snapshots.writing {
            Some(writing) if writing.who == who && writing.life == life => {
                let max = snapshots.rng.between(1, 4_000) as usize;
                if snapshots.rng.per_mille(5) {
                    engine.abort_snapshot();
                    snapshots.writing = None;
                } else if let Some(part) = engine.snapshot_part(max) {
                    writing.parts.push(part);
                } else if let Some(writing) = snapshots.writing.take() {
                    match restore(&writing.head, &writing.parts) {
                        Ok(again) if again.state().canonical() == writing.canonical => {
                            let rev = writing.head.rev;
                            snapshots.good = Some((writing.head, writing.parts));
                            self.saw(Sight::Snapshot);
                            self.shrink(who, rev);
                        }
                        Ok(_) => self.fail("a restored state differs from the one the snapshot is of"),
                        Err(why) => self.fail(format!("a snapshot can't be restored: {why}")),
                    }
                }
            }
            _ => {
                if snapshots.rng.per_mille(150) {
                    let canonical = engine.state().canonical();
                    let head = engine.begin_snapshot();
                    snapshots.writing = Some(Writing { who, life, head, parts: Vec::new(), canonical });
                }
            }
        }
    }

    /// Purges what neither the snapshot nor a payload needs, and carries on some that keep it from going further.
    fn shrink(&mut self, who: usize, snapshot: u64) {
        let Some(engine) = self.coordinators[who].engine.as_mut() else { return };
        let bound = engine.needed_from().map_or(snapshot, |rev| snapshot.min(rev - 1));
        let further = bound > self.snapshots.purged;
        self.snapshots.purged = self.snapshots.purged.max(bound);
        for rev in engine.needed_below(snapshot + 1, 8) {
            let (_, bytes) = &self.journal.messages[rev as usize - 1];
            let payloads = JournalMessage::decode(bytes).expect("stored by us").payloads();
            engine.push(Input::Carry { rev, payloads }, None);
        }
        if further {
            self.saw(Sight::Purged);
        }
    }

    /// After an append: tasks that ended go to the archive.
    pub fn archive(&mut self, who: usize) {
        let Some(engine) = self.coordinators[who].engine.as_mut() else { return };
        for ended in engine.take_ended() {
            let key = TaskKey { tenant: ended.view.tenant.clone(), id: ended.view.task.clone() };
            if !ended.view.state.is_terminal() {
                return self.fail(format!("{key} is archived as {}", ended.view.state));
            }
            self.snapshots.archive.insert(key, ended.view);
        }
    }

    /// An owner asks for a journal message.
    pub fn load(&mut self, who: usize, rev: u64) {
        let coordinator = &self.coordinators[who];
        let current = coordinator.engine.as_ref().is_some_and(|e| e.seq() == self.journal.head());
        if current && rev <= self.snapshots.purged {
            return self.fail(format!("revision {rev} is asked for, and purged"));
        }
        let life = coordinator.life;
        if !self.strikes(Fault::LoadLost) {
            let delay = self.snapshots.rng.between(1, 20);
            self.after(delay, Event::Loaded { who, life, rev });
        }
    }

    pub fn loaded(&mut self, who: usize, life: u32, rev: u64) {
        if rev <= self.snapshots.purged || self.coordinators[who].life != life {
            return;
        }
        let (_, bytes) = &self.journal.messages[rev as usize - 1];
        let payloads = JournalMessage::decode(bytes).expect("stored by us").payloads();
        let Some(engine) = self.coordinators[who].engine.as_mut() else { return };
        engine.push(Input::Loaded { rev, payloads }, None);
        self.saw(Sight::Loaded);
        self.wake_coordinator(who, 1);
    }

    /// The journal fills, and is emptied again.
    pub fn fill(&mut self, who: usize) {
        let full = match self.snapshots.full {
            false => self.strikes(Fault::JournalFull),
            true => !self.healing && !self.snapshots.rng.per_mille(60),
        };
        if full != self.snapshots.full {
            self.snapshots.full = full;
            let used = if full { 80 } else { 69 };
            if let Some(engine) = self.coordinators[who].engine.as_mut() {
                engine.push(Input::Room { used, max: 100 }, None);
            }
        }
    }

    /// A parent asks for its children: every result is there, sooner or later, and the right one.
    pub fn read_results(&mut self, who: usize) {
        let Some(engine) = self.coordinators[who].engine.as_mut() else { return };
        if engine.is_busy() || engine.seq() != self.journal.head() || !self.snapshots.rng.per_mille(50) {
            return;
        }
        let parents: Vec<&TaskKey> = self
            .audit
            .tasks
            .iter()
            .filter(|(_, k)| !k.is_over() && !k.children.is_empty())
            .map(|(k, _)| k)
            .collect();
        if parents.is_empty() {
            return;
        }
        let key = (*self.snapshots.rng.pick(&parents)).clone();
        let Some((page, true)) = engine.children(&key, 0, 1_000, true) else { return };
        for child in page.children {
            let known = &self.audit.tasks[&TaskKey { tenant: key.tenant.clone(), id: child.task.clone() }];
            if known.phase() != child.state || known.result != child.result {
                return self.fail(format!("{} of {key} is told with another state or result", child.task));
            }
        }
        self.saw(Sight::ResultsRead);
    }
}
