//! The tasks of a shard: found by key, walked in slices while they change.
//!
//! A slab of entries and an index over it. A snapshot walks the slab; an entry it has not reached yet is encoded as it
//! was before it is changed for the first time. All changes go through [`Tasks::get_mut`], [`Tasks::insert`] and
//! [`Tasks::remove`], so none can be missed. Slots are this process's own numbers and are given again.

use std::{
    hash::{BuildHasher, RandomState},
    ops::{Index, IndexMut},
};

use hashbrown::HashTable;

use super::entry::Task;
use crate::task::TaskId;

/// Entries per piece of the slab: beyond the first it grows without moving what is there.
const CHUNK: usize = 4_096;

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl Slot {
    /// The slot of this number.
    pub fn numbered(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.0
    }

    fn place(self) -> (usize, usize) {
        (self.0 as usize / CHUNK, self.0 as usize % CHUNK)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tasks {
    chunks: Vec<Vec<Option<Task>>>,
    free: Vec<Slot>,
    index: HashTable<u32>,
    hasher: RandomState,
    copy: Option<Copying>,
}

/// A walk over the slab as it was.
#[derive(Debug)]
struct Copying {
    /// Slots below are written.
    next: usize,
    /// Slots there were at the beginning.
    end: usize,
    /// Slots whose old entry is kept already, or that were free: a bit each.
    done: Vec<u64>,
    /// Tasks as they were.
    kept: Vec<Task>,
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

    /// Where the task of this tenant is.
    pub fn find(&self, tenant: u32, id: &TaskId) -> Option<Slot> {
        let hash = self.hasher.hash_one((tenant, id));
        let is = |at: &u32| {
            let (chunk, at) = Slot(*at).place();
            self.chunks[chunk][at].as_ref().is_some_and(|task| task.tenant == tenant && task.id == *id)
        };
        self.index.find(hash, is).map(|at| Slot(*at))
    }

    /// The task in a slot.
    pub fn get(&self, slot: Slot) -> Option<&Task> {
        let (chunk, at) = slot.place();
        self.chunks.get(chunk)?.get(at)?.as_ref()
    }

    /// The task in a slot, to change it.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Task> {
        if self.copy.is_some() {
            self.keep(slot);
        }
        let (chunk, at) = slot.place();
        self.chunks.get_mut(chunk)?.get_mut(at)?.as_mut()
    }

    /// Puts a task in. It must not be there.
    pub fn insert(&mut self, task: Task) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| self.grow());
        if self.copy.is_some() {
            self.keep(slot);
        }
        let hash = self.hasher.hash_one((task.tenant, &task.id));
        let (chunk, at) = slot.place();
        self.chunks[chunk][at] = Some(task);
        let (chunks, hasher) = (&self.chunks, &self.hasher);
        self.index.insert_unique(hash, slot.0, |at| {
            let (chunk, at) = Slot(*at).place();
            chunks[chunk][at].as_ref().map_or(0, |task| hasher.hash_one((task.tenant, &task.id)))
        });
        slot
    }

    fn grow(&mut self) -> Slot {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // The first one grows with its tasks: a small state is small.
            let room = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push(Vec::with_capacity(room));
        }
        let full = (self.chunks.len() - 1) * CHUNK;
        // Pushed above if there was none with room.
        let chunk = self.chunks.last_mut().unwrap_or_else(|| unreachable!("there is a chunk"));
        chunk.push(None);
        Slot((full + chunk.len() - 1) as u32)
    }

    /// Takes a task out.
    pub fn remove(&mut self, slot: Slot) -> Option<Task> {
        if self.copy.is_some() {
            self.keep(slot);
        }
        let (chunk, at) = slot.place();
        let task = self.chunks.get_mut(chunk)?.get_mut(at)?.take()?;
        let hash = self.hasher.hash_one((task.tenant, &task.id));
        if let Ok(found) = self.index.find_entry(hash, |at| *at == slot.0) {
            found.remove();
        }
        self.free.push(slot);
        Some(task)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Task)> {
        let all = self.chunks.iter().flatten().enumerate();
        all.filter_map(|(at, task)| Some((Slot(at as u32), task.as_ref()?)))
    }

    /// Slots there are, free ones too.
    pub fn slots(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }

    /// Starts to write all of them as they are now.
    pub fn begin_copy(&mut self) {
        let end = self.slots();
        self.copy = Some(Copying { next: 0, end, done: vec![0; end.div_ceil(64)], kept: Vec::new() });
    }

    /// Hands `each` what was kept, and then as many as it wants, until it says no. Returns whether there is more.
    pub fn copy_part(&mut self, mut each: impl FnMut(&Task) -> bool) -> bool {
        let Some(copy) = &mut self.copy else { return false };
        let mut wants = true;
        for task in copy.kept.drain(..) {
            wants = each(&task);
        }
        while wants && copy.next < copy.end {
            let at = copy.next;
            copy.next += 1;
            if copy.done[at / 64] >> (at % 64) & 1 == 0
                && let Some(task) = &self.chunks[at / CHUNK][at % CHUNK]
            {
                wants = each(task);
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

    /// The slot is about to change: keeps what the walk has not reached yet.
    fn keep(&mut self, slot: Slot) {
        let Some(copy) = &mut self.copy else { return };
        let at = slot.0 as usize;
        if at < copy.next || at >= copy.end || copy.done[at / 64] >> (at % 64) & 1 == 1 {
            return;
        }
        copy.done[at / 64] |= 1 << (at % 64);
        if let Some(task) = &self.chunks[at / CHUNK][at % CHUNK] {
            copy.kept.push(task.clone());
        }
    }
}

/// Slots in the state's own indexes are taken: whoever takes a task out takes it out of those, too.
impl Index<Slot> for Tasks {
    type Output = Task;

    fn index(&self, slot: Slot) -> &Task {
        self.get(slot).unwrap_or_else(|| unreachable!("slot {} is empty", slot.0))
    }
}

impl IndexMut<Slot> for Tasks {
    fn index_mut(&mut self, slot: Slot) -> &mut Task {
        self.get_mut(slot).unwrap_or_else(|| unreachable!("slot {} is empty", slot.0))
    }
}
