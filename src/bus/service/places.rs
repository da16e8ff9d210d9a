//! Who is answered at once: so many queries in all, and of one tenant never more than [`TIMES`] as many as are free.
//!
//! That share follows from who asks: a tenant alone gets three places of four, two get three of seven each, and however
//! many one asks for, there is a place for the next tenant who comes. No tenant has to be known beforehand.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::task::TenantName;

/// How many times as many places as are free a tenant may hold.
const TIMES: usize = 3;

/// All places.
pub(super) struct Places {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    /// Of tenants that hold any.
    tenants: HashMap<TenantName, usize>,
}

/// One place, free again when it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    tenant: TenantName,
}

/// There is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All are taken.
    All {
        /// How many there are.
        most: usize,
    },
    /// This tenant has its share of them.
    Share {
        /// How many it holds.
        holds: usize,
        /// How many there are.
        most: usize,
    },
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), held: Mutex::default() }
    }

    pub(super) fn take(self: &Arc<Self>, tenant: &TenantName) -> Result<Place, Full> {
        let mut held = self.lock();
        let free = self.most.saturating_sub(held.all);
        let holds = held.tenants.get(tenant).copied().unwrap_or(0);
        if free == 0 {
            return Err(Full::All { most: self.most });
        }
        if holds >= TIMES * free {
            return Err(Full::Share { holds, most: self.most });
        }
        held.all += 1;
        held.tenants.insert(tenant.clone(), holds + 1);
        Ok(Place { places: Arc::clone(self), tenant: tenant.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Held for a few instructions; counts are good after any panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.lock();
        held.all -= 1;
        if let Some(holds) = held.tenants.get_mut(&self.tenant) {
            *holds -= 1;
            if *holds == 0 {
                held.tenants.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many as it gets.
    fn fill(places: &Arc<Places>, tenant: &str) -> Vec<Place> {
        let tenant = TenantName::new(tenant).unwrap();
        std::iter::from_fn(|| places.take(&tenant).ok()).collect()
    }

    #[test]
    fn a_tenant_alone_leaves_a_quarter_and_all_that_come_later_find_a_place() {
        let places = Arc::new(Places::new(64));
        let first = fill(&places, "flood");
        assert_eq!(first.len(), 48);
        let shares: Vec<usize> = ["b", "c", "d"]
            .into_iter()
            .map(|tenant| {
                let of = fill(&places, tenant);
                let n = of.len();
                std::mem::forget(of);
                n
            })
            .collect();
        assert_eq!(shares, [12, 3, 1], "each three times what it leaves");
        assert!(matches!(
            places.take(&TenantName::new("flood").unwrap()),
            Err(Full::All { most: 64 } | Full::Share { holds: 48, .. })
        ));
    }

    #[test]
    fn two_that_ask_for_ever_come_to_hold_alike() {
        let places = Arc::new(Places::new(64));
        let (mut a, mut b) = (fill(&places, "a"), fill(&places, "b"));
        // One of each is answered at a time, and each asks again at once.
        for _ in 0..200 {
            a.pop();
            a.extend(fill(&places, "a"));
            b.pop();
            b.extend(fill(&places, "b"));
        }
        assert!(a.len().abs_diff(b.len()) <= 2, "{} and {}", a.len(), b.len());
        assert!(a.len() + b.len() >= 52, "{} and {}", a.len(), b.len());
    }

    #[test]
    fn what_is_given_back_is_forgotten() {
        let places = Arc::new(Places::new(2));
        drop((fill(&places, "a"), fill(&places, "b")));
        assert_eq!(places.lock().all, 0);
        assert!(places.lock().tenants.is_empty());
        assert_eq!(Arc::new(Places::new(0)).most, 1);
    }
}
