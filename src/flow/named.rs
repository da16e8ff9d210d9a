//! Things with names, numbered: the rest of the state holds numbers instead of names.
//!
//! Numbers are this process's own and given again once free. Nothing that is written down depends on them.

use std::{collections::HashMap, hash::Hash};

/// See the module.
#[derive(Debug)]
pub struct Named<K, T> {
    list: Vec<Option<(K, T)>>,
    index: HashMap<K, u32>,
    free: Vec<u32>,
}

impl<K, T> Default for Named<K, T> {
    fn default() -> Self {
        Self { list: Vec::new(), index: HashMap::new(), free: Vec::new() }
    }
}

impl<K: Clone + Eq + Hash, T> Named<K, T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The number of a name.
    pub fn number(&self, name: &K) -> Option<u32> {
        self.index.get(name).copied()
    }

    /// By its name.
    pub fn get(&self, name: &K) -> Option<&T> {
        self.at(self.number(name)?)
    }

    /// By its number.
    pub fn at(&self, number: u32) -> Option<&T> {
        self.list.get(number as usize)?.as_ref().map(|(_, thing)| thing)
    }

    /// By its number, to change it.
    pub fn at_mut(&mut self, number: u32) -> Option<&mut T> {
        self.list.get_mut(number as usize)?.as_mut().map(|(_, thing)| thing)
    }

    /// The name of a number.
    pub fn name(&self, number: u32) -> Option<&K> {
        self.list.get(number as usize)?.as_ref().map(|(name, _)| name)
    }

    /// Puts a new one in. Its name must not be there.
    pub fn insert(&mut self, name: K, thing: T) -> u32 {
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.list.push(None);
                (self.list.len() - 1) as u32
            }
        };
        self.index.insert(name.clone(), number);
        self.list[number as usize] = Some((name, thing));
        number
    }

    /// Takes one out; nothing may refer to its number any more.
    pub fn remove(&mut self, number: u32) -> Option<T> {
        let (name, thing) = self.list.get_mut(number as usize)?.take()?;
        self.index.remove(&name);
        self.free.push(number);
        Some(thing)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &T)> {
        self.list.iter().flatten().map(|(name, thing)| (name, thing))
    }

    /// Numbers are below this.
    pub fn places(&self) -> u32 {
        self.list.len() as u32
    }

    /// All numbers.
    pub fn numbers(&self) -> Vec<u32> {
        (0..self.places()).filter(|number| self.list[*number as usize].is_some()).collect()
    }
}
