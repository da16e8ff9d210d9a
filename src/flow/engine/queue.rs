//! Inputs that wait to be decided: what is urgent first, then what runs, what is called and what is asked for in turn, and of
//! the latter two a tenant at a time.
//!
//! Whoever submits thousands at once has them read within moments; decided in the order they came they would keep
//! everybody else waiting, and the slots idle. So a tenant's submits and commands stay in their order, and one of
//! each tenant that has some is decided before the next of the first one.

use std::{
    collections::{HashMap, VecDeque},
    mem,
};

use crate::{flow::input::Input, task::TenantName};

/// An input, and how it is answered.
pub(super) struct Queued<H> {
    pub input: Input,
    pub handle: Option<H>,
}

/// Empty lanes kept for the next tenants.
const SPARE: usize = 64;

/// How many inputs wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Submits and commands.
    pub asked: usize,
    /// Everything else.
    pub others: usize,
    /// Reports that came before their predecessors.
    pub held: usize,
}

impl Backlog {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// See the module.
pub(super) struct Queue<H> {
    /// Heartbeats and acceptances, which would come too late behind others; limits, which the others are judged by; payloads,
    /// which offers and commands wait for.
    urgent: VecDeque<Queued<H>>,
    /// Reports, mostly.
    running: VecDeque<Queued<H>>,
    /// Submits, those of triggers too, and commands.
    asked: Lanes<H>,
    /// Calls.
    called: Lanes<H>,
    /// Which of the three is next.
    turn: u8,
}

impl<H> Default for Queue<H> {
    fn default() -> Self {
        Self {
            urgent: VecDeque::new(),
            running: VecDeque::new(),
            asked: Lanes::default(),
            called: Lanes::default(),
            turn: 0,
        }
    }
}

impl<H> Queue<H> {
    /// Behind its like.
    pub fn push(&mut self, input: Input, handle: Option<H>) {
        let queued = Queued { input, handle };
        match &queued.input {
            Input::Submit { key, .. } | Input::Cmd { key, .. } | Input::Triggered { key, .. } => {
                let tenant = key.tenant.clone();
                self.asked.lane(tenant).push_back(queued);
                self.asked.len += 1;
            }
            Input::Call { tenant, .. } => {
                let tenant = tenant.clone();
                self.called.lane(tenant).push_back(queued);
                self.called.len += 1;
            }
            Input::Report { .. } | Input::Carry { .. } => self.running.push_back(queued),
            _ => self.urgent.push_back(queued),
        }
    }

    /// Before its like.
    pub fn push_front(&mut self, queued: Queued<H>) {
        match &queued.input {
            Input::Submit { key, .. } | Input::Cmd { key, .. } | Input::Triggered { key, .. } => {
                let tenant = key.tenant.clone();
                self.asked.lane(tenant).push_front(queued);
                self.asked.len += 1;
            }
            _ => self.running.push_front(queued),
        }
    }

    /// What is decided next.
    pub fn pop(&mut self) -> Option<Queued<H>> {
        if let Some(urgent) = self.urgent.pop_front() {
            return Some(urgent);
        }
        self.turn = (self.turn + 1) % 3;
        for line in [self.turn, self.turn + 1, self.turn + 2] {
            let next = match line % 3 {
                0 => self.called.pop(),
                1 => self.asked.pop(),
                _ => self.running.pop_front(),
            };
            if next.is_some() {
                self.turn = line % 3;
                return next;
            }
        }
        None
    }

    /// How many wait: submits and commands, everything else.
    pub fn waiting(&self) -> (usize, usize) {
        (self.asked.len, self.urgent.len() + self.running.len() + self.called.len)
    }
}

/// A line for each tenant that has something in it, and whose turn it is.
struct Lanes<H> {
    of: HashMap<TenantName, VecDeque<Queued<H>>>,
    turns: VecDeque<TenantName>,
    spare: Vec<VecDeque<Queued<H>>>,
    len: usize,
}

impl<H> Default for Lanes<H> {
    fn default() -> Self {
        Self { of: HashMap::new(), turns: VecDeque::new(), spare: Vec::new(), len: 0 }
    }
}

impl<H> Lanes<H> {
    fn lane(&mut self, tenant: TenantName) -> &mut VecDeque<Queued<H>> {
        let (turns, spare) = (&mut self.turns, &mut self.spare);
        self.of.entry(tenant).or_insert_with_key(|tenant| {
            turns.push_back(tenant.clone());
            spare.pop().unwrap_or_default()
        })
    }

    fn pop(&mut self) -> Option<Queued<H>> {
        let tenant = self.turns.pop_front()?;
        let lane = self.of.get_mut(&tenant)?;
        let next = lane.pop_front();
        if lane.is_empty() {
            let lane = mem::take(lane);
            self.of.remove(&tenant);
            // A line that was long is not kept.
            if self.spare.len() < SPARE && lane.capacity() <= SPARE {
                self.spare.push(lane);
            }
        } else {
            self.turns.push_back(tenant);
        }
        self.len -= usize::from(next.is_some());
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskKey;

    fn cmd(tenant: &str, task: &str) -> Input {
        let key = TaskKey { tenant: tenant.parse().unwrap(), id: task.parse().unwrap() };
        let body = crate::wire::codec::Format::Json.decode(b"", 1);
        Input::Cmd { key, nonce: task.parse().unwrap(), body }
    }

    fn report(task: &str) -> Input {
        let Input::Cmd { key, .. } = cmd("x", task) else { unreachable!() };
        Input::Report { key, body: crate::wire::codec::Format::Json.decode(b"", 1) }
    }

    fn names(queue: &mut Queue<()>) -> Vec<String> {
        std::iter::from_fn(|| queue.pop())
            .map(|queued| match queued.input {
                Input::Cmd { key, .. } | Input::Report { key, .. } => key.id.to_string(),
                Input::Loaded { .. } => "loaded".to_owned(),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_tenant_with_much_to_ask_keeps_nobody_waiting() {
        let mut queue = Queue::default();
        for n in 0..4 {
            queue.push(cmd("a", &format!("a{n}")), None);
        }
        queue.push(cmd("b", "b0"), None);
        queue.push(cmd("c", "c0"), None);
        queue.push(cmd("b", "b1"), None);
        assert_eq!(queue.waiting(), (7, 0));
        assert_eq!(names(&mut queue), ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]);
        assert_eq!(queue.waiting(), (0, 0));
    }

    #[test]
    fn what_runs_goes_in_turn_with_what_is_asked_and_what_is_urgent_first() {
        let mut queue = Queue::default();
        for n in 0..3 {
            queue.push(cmd("a", &format!("a{n}")), None);
            queue.push(report(&format!("r{n}")), None);
        }
        queue.push(report("r3"), None);
        queue.push(Input::Loaded { rev: 1, payloads: Vec::new() }, None);
        assert_eq!(names(&mut queue), ["loaded", "a0", "r0", "a1", "r1", "a2", "r2", "r3"]);
    }

    #[test]
    fn what_is_put_back_is_the_first_of_its_tenant() {
        let mut queue = Queue::default();
        queue.push(cmd("a", "a1"), None);
        queue.push(cmd("b", "b0"), None);
        queue.push_front(Queued { input: cmd("a", "a0"), handle: None });
        assert_eq!(names(&mut queue), ["a0", "b0", "a1"]);
    }
}
