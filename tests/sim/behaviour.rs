//! What a scripted handler does: a pure function of its input, its tries and its attempt.

use std::collections::VecDeque;

use selvedge::task::{AgentName, Labels, Payload, Priority, Spec, Times};

use crate::rng::Rng;

/// So many of 1,000 inputs fill a journal message by themselves, or nearly.
const LARGE: u64 = 8;

/// One operation of a handler.
#[derive(Debug, Clone)]
pub enum Op {
    Work(u64),
    Spawn {
        step: &'static str,
        count: u32,
        blocking: bool,
    },
    Await {
        half: bool,
    },
    Complete,
    Fail {
        retryable: bool,
    },
    Snooze(u64),
    Crash,
    /// Recorded at a place, like all that follow.
    Step(&'static str),
    /// A message to the root of its tree.
    Tell,
    Recv {
        signal: Option<&'static str>,
        within: Option<u64>,
    },
    Sleep(u64),
}

/// The input of every simulated task: a seed, how deep its tree goes on, and how wide.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    pub seed: u64,
    pub levels: u8,
    pub fan: u8,
    /// 1: waits for all children and always succeeds in the end.
    pub plain: u8,
    /// 1: some of its tasks may not start at once, or must be over by a time.
    pub timed: u8,
    /// Its tasks declare what they cost, and tell what they used.
    pub metered: bool,
    /// Its tasks record steps, and tell each other things.
    pub talks: bool,
}

impl Behaviour {
    pub fn payload(self) -> Payload {
        let mut bytes = self.seed.to_be_bytes().to_vec();
        bytes.extend([self.levels, self.fan, self.plain, self.timed]);
        bytes.extend([u8::from(self.metered), u8::from(self.talks)]);
        let mut rng = Rng::new(self.seed, 12);
        if self.timed == 1 && rng.per_mille(LARGE) {
            bytes.resize(rng.between(16, 60) as usize * 1_024, 0);
        }
        Payload::Bytes(bytes.into())
    }

    pub fn read(input: &Payload) -> Self {
        let bytes = input.as_bytes();
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let seed = bytes.iter().take(8).fold(0, |seed, b| (seed << 8) | u64::from(*b));
        let (timed, metered, talks) = (byte(11), byte(12) == 1, byte(13) == 1);
        Self { seed, levels: byte(8), fan: byte(9), plain: byte(10), timed, metered, talks }
    }

    pub fn agent(self) -> AgentName {
        AgentName::new(if self.levels > 0 { "planner" } else { "reader" }).unwrap()
    }

    pub fn spec(self) -> Spec {
        let mut rng = Rng::new(self.seed, 8);
        let priority = *rng.pick(&[Priority::Low, Priority::Normal, Priority::Normal, Priority::High]);
        let max_tries = rng.per_mille(300).then(|| rng.between(1, 6) as u32).filter(|_| self.plain == 0);
        let times = self.times().map(Box::new);
        let (agent, input, cost) = (self.agent(), self.payload(), self.cost());
        Spec { agent, input, priority, max_tries, times, cost, labels: self.labels() }
    }

    /// Lengths only: what a child asks for may not depend on when it is spawned.
    fn times(self) -> Option<Times> {
        let mut rng = Rng::new(self.seed, 10);
        if self.timed == 0 || rng.per_mille(500) {
            return None;
        }
        let mut maybe = |chance, most| rng.per_mille(chance).then(|| rng.between(1, most));
        let times = Times {
            delay_ms: maybe(250, 8_000),
            ttl_ms: maybe(250, 6_000),
            try_timeout_ms: maybe(250, 4_000),
            deadline_ms: maybe(400, 30_000),
            ..Times::default()
        };
        Some(times).filter(|times| !times.is_empty())
    }

    /// Few tasks have any.
    fn labels(self) -> Option<Box<Labels>> {
        let mut rng = Rng::new(self.seed, 13);
        let many = rng.between(1, 8);
        rng.per_mille(150).then(|| Box::new((0..many).map(|n| (n.to_string(), "v")).collect()))
    }

    /// Most costs fit every burst, few are far too high, some tasks cost nothing.
    fn cost(self) -> Option<u32> {
        let mut rng = Rng::new(self.seed, 12);
        match rng.below(100) {
            _ if !self.metered => None,
            0..15 => None,
            15..20 => Some(0),
            20..23 => Some(rng.between(1_000, 100_000) as u32),
            _ => Some(rng.between(1, 300) as u32),
        }
    }

    /// What an attempt says it used: more or less than it costs, or nothing at all.
    pub fn used(self, attempt: u32) -> Option<u32> {
        let mut rng = Rng::new(self.seed ^ u64::from(attempt), 11);
        let used = rng.between(0, 2 * u64::from(self.cost().unwrap_or(20).min(300))) as u32;
        (self.metered && rng.per_mille(700)).then_some(used)
    }

    fn child_behaviour(self, step: &str, index: u32) -> Self {
        let mut rng = Rng::new(self.seed, 1_000 + u64::from(step.as_bytes()[0]) * 1_000 + u64::from(index));
        let levels = if self.plain == 1 || rng.per_mille(500) { self.levels - 1 } else { 0 };
        let fan = if self.plain == 1 { self.fan } else { rng.between(1, 4) as u8 };
        Self { seed: rng.next(), levels, fan, ..self }
    }

    pub fn child(self, step: &str, index: u32) -> Spec {
        self.child_behaviour(step, index).spec()
    }

    /// Tasks in the whole tree, if nothing is refused or cancelled.
    pub fn planned(self) -> u32 {
        let spawns = self.script(0, 1).into_iter().filter_map(|op| match op {
            Op::Spawn { step, count, .. } => Some((step, count)),
            _ => None,
        });
        let below = spawns
            .map(|(step, count)| (0..count).map(|i| self.child_behaviour(step, i).planned()).sum::<u32>());
        1 + below.sum::<u32>()
    }

    /// What this attempt does. The same spawns in every attempt: later ones adopt.
    pub fn script(self, tries: u32, attempt: u32) -> VecDeque<Op> {
        let mut rng = Rng::new(self.seed, 9);
        let kind = rng.below(100);
        let work = if rng.per_mille(20) { rng.between(5_000, 25_000) } else { rng.between(1, 900) };
        let blocking = rng.per_mille(500);
        let mut ops = VecDeque::from([Op::Work(work / 4 + 1)]);
        if self.levels > 0 {
            ops.push_back(Op::Spawn { step: "a", count: self.fan.into(), blocking });
            match kind {
                _ if self.plain == 1 => ops.push_back(Op::Await { half: false }),
                0..50 => ops.push_back(Op::Await { half: false }),
                50..65 => ops.extend([Op::Await { half: true }, Op::Await { half: false }]),
                65..80 => ops.extend([
                    Op::Await { half: false },
                    Op::Spawn { step: "b", count: 2, blocking },
                    Op::Await { half: false },
                ]),
                80..90 if tries == 0 => ops.push_back(Op::Fail { retryable: true }),
                80..90 => ops.push_back(Op::Await { half: false }),
                _ => {}
            }
        } else if self.plain == 0 {
            match kind {
                0..12 if tries < 1 + kind as u32 % 3 => ops.push_back(Op::Fail { retryable: true }),
                12..16 => ops.push_back(Op::Fail { retryable: false }),
                16..24 if attempt == 1 => ops.push_back(Op::Snooze(work)),
                24..27 if tries == 0 => ops.push_back(Op::Crash),
                27 => ops.push_back(Op::Crash),
                _ => {}
            }
        }
        ops.extend([Op::Work(work), Op::Complete]);
        // Behind the first work, before whatever else it does: what comes later goes through it again.
        let said = self.said();
        for op in said.into_iter().rev() {
            ops.insert(1, op);
        }
        ops
    }

    /// What it records and waits for: the same in every attempt.
    fn said(self) -> Vec<Op> {
        let mut rng = Rng::new(self.seed, 15);
        if !self.talks || self.plain == 1 || rng.per_mille(400) {
            return Vec::new();
        }
        let (go, within) = (Some("go"), Some(rng.between(100, 9_000)));
        match rng.below(7) {
            0 => vec![Op::Step("a"), Op::Step("b"), Op::Sleep(rng.between(1, 3_000)), Op::Step("c")],
            1 => vec![Op::Step("a"), Op::Recv { signal: None, within: None }, Op::Step("b")],
            2 => vec![Op::Recv { signal: go, within }, Op::Step("a"), Op::Recv { signal: go, within }],
            3 => vec![Op::Tell, Op::Recv { signal: None, within }, Op::Recv { signal: None, within: None }],
            4 => vec![Op::Sleep(rng.between(1, 3_000)), Op::Recv { signal: go, within: None }, Op::Tell],
            5 => vec![
                Op::Step("a"),
                Op::Tell,
                Op::Recv { signal: None, within },
                Op::Recv { signal: go, within },
            ],
            _ => vec![Op::Tell, Op::Step("z"), Op::Step("y"), Op::Step("x"), Op::Step("w"), Op::Step("v")],
        }
    }
}
