//! Snapshots: written in slices between the owner's turns, restored, and compared with the state they are of.
//!
//! A coordinator that starts anew begins with the last good one and replays the rest of the journal.

use bytes::Bytes;
use selvedge::{
    flow::{
        engine::Engine,
        snapshot::{Restore, SnapshotHead},
    },
    wire::subjects::Shard,
};

use crate::{coordinators::Handle, rng::Rng, scenario::Sight, world::World};

/// Snapshots begun and written.
pub struct Snapshots {
    rng: Rng,
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
        Self { rng: Rng::new(seed, 7), writing: None, good: None }
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
                            snapshots.good = Some((writing.head, writing.parts));
                            self.saw(Sight::Snapshot);
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
}
