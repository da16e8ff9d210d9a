//! Payloads that are in memory, and which journal messages hold the others.
//!
//! The state holds references only. Bytes are kept here as long as there is room: what was stored first runs first, so
//! when it is full new inputs are left to the journal and read back when they are about to be offered. Results that a
//! parent may ask for give way to inputs. Volatile: no decision depends on what is here, only how soon it can be told.

use std::collections::VecDeque;

use super::{entry::Stored, quick::QuickMap, record::What, tasks::Slot};
use crate::task::Payload;

/// Bytes kept unless said otherwise.
pub const BUDGET: usize = 64 * 1024 * 1024;
/// What was asked for may take this much whatever inputs take: all that one message holds has to be there at once, or
/// who asked for one of its payloads is never answered.
const FLOOR: usize = 1024 * 1024;
/// What an entry costs besides its bytes, roughly.
pub const ENTRY: usize = 96;

/// See the module.
#[derive(Debug)]
pub struct Resident {
    budget: usize,
    bytes: usize,
    /// Of which inputs.
    input_bytes: usize,
    inputs: QuickMap<u32, Payload>,
    /// Results, messages and steps.
    others: QuickMap<(u32, u64), Payload>,
    /// Those in the order they came; some are gone.
    order: VecDeque<(u32, u64)>,
}

impl Default for Resident {
    fn default() -> Self {
        Self {
            budget: BUDGET,
            bytes: 0,
            input_bytes: 0,
            inputs: QuickMap::default(),
            others: QuickMap::default(),
            order: VecDeque::new(),
        }
    }
}

fn cost(payload: &Payload) -> usize {
    payload.len() + ENTRY
}

/// Which of a task's payloads, but for its input, as a number.
fn part(slot: Slot, what: What) -> (u32, u64) {
    let part = match what {
        What::Input | What::Result => 0,
        What::Message(seq) => 1 << 32 | u64::from(seq),
        What::Step(place) => 2 << 32 | u64::from(place),
    };
    (slot.0, part)
}

impl Resident {
    fn others_bytes(&self) -> usize {
        self.bytes - self.input_bytes
    }

    /// What results, messages and steps may take together: they give way to inputs, but for a little.
    pub fn room_for_others(&self) -> usize {
        self.budget.saturating_sub(self.input_bytes).max(FLOOR)
    }

    /// Says how many bytes may be kept.
    pub fn set_budget(&mut self, bytes: usize) {
        self.budget = bytes;
    }

    /// Bytes kept, with what they cost.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Payloads kept.
    pub fn len(&self) -> usize {
        self.inputs.len() + self.others.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The input of the task in this slot, if it is here.
    pub fn input(&self, slot: Slot) -> Option<&Payload> {
        self.inputs.get(&slot.0)
    }

    /// The result of the task in this slot, if it is here.
    pub fn result(&self, slot: Slot) -> Option<&Payload> {
        self.part(slot, What::Result)
    }

    /// A result, message or step of the task in this slot, if it is here.
    pub fn part(&self, slot: Slot, what: What) -> Option<&Payload> {
        self.others.get(&part(slot, what))
    }

    /// Keeps an input if it fits into so many times the budget; 0: in any case.
    pub fn keep_input(&mut self, slot: Slot, payload: &Payload, times: usize) {
        let cost = cost(payload);
        let others_give_way = |kept: &Self| kept.bytes + cost > kept.budget && kept.others_bytes() > FLOOR;
        while others_give_way(self) && self.drop_oldest() {}
        if times == 0 || self.input_bytes + cost <= self.budget * times {
            self.drop_input(slot);
            self.bytes += cost;
            self.input_bytes += cost;
            self.inputs.insert(slot.0, payload.clone());
        }
    }

    /// Keeps a result, message or step if there is room; `must`: older ones go.
    pub fn keep(&mut self, slot: Slot, what: What, payload: &Payload, must: bool) {
        let cost = cost(payload);
        let too_much = |kept: &Self| kept.others_bytes() + cost > kept.room_for_others();
        while must && too_much(self) && self.drop_oldest() {}
        if must || self.bytes + cost <= self.budget {
            self.drop(slot, what);
            self.bytes += cost;
            let part = part(slot, what);
            self.others.insert(part, payload.clone());
            self.order.push_back(part);
            if self.order.len() > 2 * self.others.len() + 64 {
                let others = &self.others;
                self.order.retain(|part| others.contains_key(part));
            }
        }
    }

    /// The input is needed no more.
    pub fn drop_input(&mut self, slot: Slot) {
        if let Some(payload) = self.inputs.remove(&slot.0) {
            self.bytes -= cost(&payload);
            self.input_bytes -= cost(&payload);
        }
    }

    /// A result, message or step is needed no more.
    pub fn drop(&mut self, slot: Slot, what: What) {
        self.drop_part(part(slot, what));
    }

    fn drop_part(&mut self, part: (u32, u64)) -> bool {
        let payload = self.others.remove(&part);
        self.bytes -= payload.as_ref().map_or(0, cost);
        payload.is_some()
    }

    fn drop_oldest(&mut self) -> bool {
        while let Some(part) = self.order.pop_front() {
            if self.drop_part(part) {
                return true;
            }
        }
        false
    }
}

/// How many payloads each journal message holds that are still needed.
#[derive(Debug, Default)]
pub struct References {
    /// By revision, ascending. The first is not 0.
    counts: VecDeque<(u64, u32)>,
    none: usize,
}

impl References {
    /// One more.
    pub fn add(&mut self, stored: Stored) {
        let Some(rev) = stored.rev() else { return };
        match self.counts.back_mut() {
            Some((last, count)) if *last == rev => *count += 1,
            Some((last, _)) if *last > rev => match self.counts.binary_search_by_key(&rev, |(rev, _)| *rev) {
                Ok(at) => {
                    self.none -= usize::from(self.counts[at].1 == 0);
                    self.counts[at].1 += 1;
                }
                Err(at) => self.counts.insert(at, (rev, 1)),
            },
            _ => self.counts.push_back((rev, 1)),
        }
    }

    /// One less.
    pub fn remove(&mut self, stored: Stored) {
        let Some(rev) = stored.rev() else { return };
        let Ok(at) = self.counts.binary_search_by_key(&rev, |(rev, _)| *rev) else { return };
        let count = &mut self.counts[at].1;
        *count = count.saturating_sub(1);
        if *count > 0 {
            return;
        }
        self.none += 1;
        while self.counts.front().is_some_and(|(_, count)| *count == 0) {
            self.counts.pop_front();
            self.none -= 1;
        }
        if self.none > 64 && self.none * 2 > self.counts.len() {
            self.counts.retain(|(_, count)| *count > 0);
            self.none = 0;
        }
    }

    /// Whether a revision is needed.
    pub fn has(&self, rev: u64) -> bool {
        let at = self.counts.binary_search_by_key(&rev, |(rev, _)| *rev);
        at.is_ok_and(|at| self.counts[at].1 > 0)
    }

    /// The lowest revision that is needed.
    pub fn lowest(&self) -> Option<u64> {
        self.counts.front().map(|(rev, _)| *rev)
    }

    /// Revisions that are needed, from the lowest on.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().filter(|(_, count)| *count > 0).map(|(rev, _)| *rev)
    }

    /// Entries kept.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether no payload is needed.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(n: usize) -> Payload {
        Payload::json(&"x".repeat(n)).unwrap()
    }

    #[test]
    fn inputs_fill_it_and_results_give_way() {
        let mut resident = Resident::default();
        resident.set_budget(4 << 20);
        for slot in 0..3 {
            resident.keep(Slot(slot), What::Result, &payload(1 << 20), false);
        }
        assert_eq!(resident.len(), 3);
        for slot in 0..4 {
            resident.keep_input(Slot(slot), &payload(1 << 20), 1);
        }
        assert!((0..3).all(|slot| resident.result(Slot(slot)).is_none()));
        let here = (0..4).filter(|slot| resident.input(Slot(*slot)).is_some()).count();
        assert_eq!((here, resident.bytes() <= 4 << 20), (3, true));
        resident.keep_input(Slot(9), &payload(200), 0);
        assert!(resident.input(Slot(9)).is_some());
        (0..10).for_each(|slot| resident.drop_input(Slot(slot)));
        assert_eq!((resident.bytes(), resident.is_empty()), (0, true));
    }

    #[test]
    fn what_was_read_back_stays_however_many_inputs_come() {
        let mut resident = Resident::default();
        resident.set_budget(1_000);
        for place in 0..5 {
            resident.keep(Slot(7), What::Step(place), &payload(900), true);
            resident.keep_input(Slot(place), &payload(900), 0);
        }
        assert!((0..5).all(|place| resident.part(Slot(7), What::Step(place)).is_some()));
        assert!(resident.part(Slot(7), What::Message(0)).is_none(), "each kind is told apart");
        (0..5).for_each(|place| resident.drop(Slot(7), What::Step(place)));
        (0..5).for_each(|slot| resident.drop_input(Slot(slot)));
        assert_eq!((resident.bytes(), resident.is_empty()), (0, true));
    }

    #[test]
    fn the_lowest_needed_revision_is_known() {
        let mut references = References::default();
        let at = |rev| Stored::of(&payload(5), rev);
        for rev in [1, 1, 2, 5, 9] {
            references.add(at(rev));
        }
        references.add(Stored::of(&Payload::default(), 1));
        references.remove(at(1));
        references.remove(at(2));
        assert_eq!(references.lowest(), Some(1));
        references.remove(at(1));
        assert_eq!(references.iter().collect::<Vec<_>>(), [5, 9]);
        references.add(at(7));
        assert_eq!(references.iter().collect::<Vec<_>>(), [5, 7, 9]);
        for rev in [5, 7, 9] {
            references.remove(at(rev));
        }
        assert!(references.is_empty());
    }
}
