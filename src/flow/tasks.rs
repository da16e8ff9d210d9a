//! The tasks of a shard: found by key, walked in slices while they change.
//!
//! A slab of entries and an index over it. A snapshot walks the slab; an entry it has not reached yet is encoded as it
//! was before it is changed for the first time. All changes go through [`Tasks::get_mut`], [`Tasks::insert`] and
//! [`Tasks::remove`], so none can be missed.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::{snapshot, state::Task};
use crate::task::TaskKey;

/// Entries per piece of the slab: it grows without moving what is there.
const CHUNK: usize = 4_096;

/// A slot of the slab.
type Slot = Option<(TaskKey, Task)>;

/// See the module.
#[derive(Debug, Default)]
pub struct Tasks {
    chunks: Vec<Vec<Slot>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: RandomState,
    copy: Option<Copy>,
}

/// A walk over the slab as it was.
#[derive(Debug)]
struct Copy {
    /// Slots below are written.
    next: usize,
    /// Slots there were at the beginning.
    end: usize,
    /// Slots from `next` on whose old entry is in `saved`, or that were free: a bit each.
    done: Vec<u64>,
    saved: Vec<u8>,
}

impl Copy {
    fn is_done(&self, at: usize) -> bool {
        self.done[at / 64] >> (at % 64) & 1 == 1
    }
}

impl Tasks {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn slot(&self, at: u32) -> &Slot {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    fn find(&self, key: &TaskKey) -> Option<u32> {
        let is = |at: &u32| self.slot(*at).as_ref().is_some_and(|(found, _)| found == key);
        self.index.find(self.hasher.hash_one(key), is).copied()
    }

    /// One of them.
    pub fn get(&self, key: &TaskKey) -> Option<&Task> {
        self.slot(self.find(key)?).as_ref().map(|(_, task)| task)
    }

    /// Whether it is there.
    pub fn contains_key(&self, key: &TaskKey) -> bool {
        self.find(key).is_some()
    }

    /// One of them, to change it.
    pub fn get_mut(&mut self, key: &TaskKey) -> Option<&mut Task> {
        let at = self.find(key)? as usize;
        self.save(at);
        self.chunks[at / CHUNK][at % CHUNK].as_mut().map(|(_, task)| task)
    }

    /// Puts a task in, in the place of one of the same key.
    pub fn insert(&mut self, key: TaskKey, task: Task) {
        if let Some(known) = self.get_mut(&key) {
            *known = task;
            return;
        }
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                    self.chunks.push(Vec::with_capacity(CHUNK));
                }
                let full = (self.chunks.len() - 1) * CHUNK;
                let chunk = self.chunks.last_mut().unwrap_or_else(|| unreachable!("pushed above"));
                chunk.push(None);
                (full + chunk.len() - 1) as u32
            }
        };
        self.save(at as usize);
        let hash = self.hasher.hash_one(&key);
        self.chunks[at as usize / CHUNK][at as usize % CHUNK] = Some((key, task));
        let (chunks, hasher) = (&self.chunks, &self.hasher);
        self.index.insert_unique(hash, at, |at| {
            let slot = &chunks[*at as usize / CHUNK][*at as usize % CHUNK];
            slot.as_ref().map_or(0, |(key, _)| hasher.hash_one(key))
        });
    }

    /// Takes a task out.
    pub fn remove(&mut self, key: &TaskKey) -> Option<Task> {
        let chunks = &self.chunks;
        let is = |at: &u32| {
            let slot = &chunks[*at as usize / CHUNK][*at as usize % CHUNK];
            slot.as_ref().is_some_and(|(found, _)| found == key)
        };
        let hash = self.hasher.hash_one(key);
        let at = self.index.find_entry(hash, is).ok()?.remove().0;
        self.save(at as usize);
        self.free.push(at);
        self.chunks[at as usize / CHUNK][at as usize % CHUNK].take().map(|(_, task)| task)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&TaskKey, &Task)> {
        self.chunks.iter().flatten().flatten().map(|(key, task)| (key, task))
    }

    /// Starts to write all of them as they are now.
    pub fn begin_copy(&mut self) {
        let end = self.chunks.iter().map(Vec::len).sum::<usize>();
        self.copy = Some(Copy { next: 0, end, done: vec![0; end.div_ceil(64)], saved: Vec::new() });
    }

    /// Writes about `max` bytes of them. Returns whether there is more.
    pub fn copy_part(&mut self, max: usize, out: &mut Vec<u8>) -> bool {
        let Some(copy) = &mut self.copy else { return false };
        out.append(&mut copy.saved);
        while out.len() < max && copy.next < copy.end {
            let at = copy.next;
            copy.next += 1;
            if !copy.is_done(at)
                && let Some((key, task)) = &self.chunks[at / CHUNK][at % CHUNK]
            {
                snapshot::write_task(key, task, out);
            }
        }
        if copy.next == copy.end {
            self.copy = None;
        }
        self.copy.is_some()
    }

    /// Gives the walk up.
    pub fn end_copy(&mut self) {
        self.copy = None;
    }

    /// The slot is about to change: keeps what a walk has not written yet.
    fn save(&mut self, at: usize) {
        let Some(copy) = &mut self.copy else { return };
        if at < copy.next || at >= copy.end || copy.is_done(at) {
            return;
        }
        copy.done[at / 64] |= 1 << (at % 64);
        if let Some((key, task)) = &self.chunks[at / CHUNK][at % CHUNK] {
            snapshot::write_task(key, task, &mut copy.saved);
        }
    }
}
