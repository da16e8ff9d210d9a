//! Large results of steps: a store beside the journal that handlers write and owners empty, superseded ones among them.

use std::collections::BTreeMap;

use selvedge::{
    task::{Code, InstanceId, Object, ObjectHash, Outcome, TaskKey, Token},
    wire::messages::Verdict,
};

use crate::{agents::Instance, coordinators::Role, rng::Rng, scenario::Sight, world::World};

const MIB: u64 = 1 << 20;

/// What a coordinator saw when it began to sweep.
struct Sweep {
    who: usize,
    life: u32,
    upto: u64,
    head: u64,
    keys: Vec<TaskKey>,
}

/// The stream, and who looks at it.
pub struct Objects {
    stored: BTreeMap<TaskKey, BTreeMap<ObjectHash, u64>>,
    last: u64,
    sweeps: Vec<Sweep>,
    rng: Rng,
}

impl Objects {
    pub fn new(seed: u64) -> Self {
        Self { stored: BTreeMap::new(), last: 0, sweeps: Vec::new(), rng: Rng::new(seed, 16) }
    }

    /// The first one of its name counts.
    fn store(&mut self, key: &TaskKey, hash: ObjectHash) {
        self.last += 1;
        self.stored.entry(key.clone()).or_default().entry(hash).or_insert(self.last);
    }

    /// Drops what a task has up to a sequence. Returns whether there was any.
    fn drop_of(&mut self, key: &TaskKey, upto: u64) -> bool {
        let Some(stored) = self.stored.get_mut(key) else { return false };
        let before = stored.len();
        stored.retain(|_, seq| *seq > upto);
        let dropped = stored.len() < before;
        if stored.is_empty() {
            self.stored.remove(key);
        }
        dropped
    }
}

/// Whether the verdict is on a step whose result is an object.
pub fn run_keeps(instance: &Instance, verdict: &Verdict) -> bool {
    instance.runs.get(&verdict.token).is_some_and(|run| run.keeps == Some(verdict.n))
}

impl World {
    /// A step's result as an object, if it is to be one: published before it is reported. Some tasks have nothing but
    /// the largest.
    pub fn keeps_object(&mut self, key: &TaskKey) -> Option<Object> {
        let hoards = ObjectHash::of(key.id.as_str().as_bytes()).to_string().starts_with(['0', '1', '2']);
        let rng = &mut self.objects.rng;
        let bytes = match rng.below(100) {
            0..3 => 64 * MIB + 1,
            _ if hoards => 64 * MIB,
            3..40 => *rng.pick(&[64 * 1_024 + 1, MIB, 5 * MIB, 64 * MIB]),
            _ => return None,
        };
        let hash = ObjectHash::of(&rng.next().to_be_bytes());
        self.objects.store(key, hash);
        Some(Object { hash, bytes, chunks: bytes.div_ceil(MIB / 2) as u32 })
    }

    /// A handler comes to a place where one is recorded: while its task lives it is there.
    pub fn object_given_back(&mut self, key: &TaskKey, object: &Object) {
        let lives = self.audit.tasks.get(key).is_some_and(|known| !known.is_over());
        let there = self.objects.stored.get(key).is_some_and(|stored| stored.contains_key(&object.hash));
        match (lives, there) {
            (true, false) => self.fail(format!("{key} lives, and its object {} is gone", object.hash)),
            (_, true) => self.saw(Sight::ObjectGivenBack),
            // Whoever comes here has lost its lease.
            (false, false) => {}
        }
    }

    /// A step with too large a result ends the attempt.
    pub fn object_refused(&mut self, id: &InstanceId, token: Token, code: Code) {
        let Some(run) = self.run_mut(id, &token) else { return };
        if run.blocked_on.is_none() || run.blocked_on != run.keeps {
            return;
        }
        run.blocked_on = None;
        if let Some(n) = run.keeps {
            run.answered(n);
        }
        self.saw(if code == Code::TooLarge { Sight::ObjectTooLarge } else { Sight::ObjectsExceeded });
        let message = "a step's result is too large".to_owned();
        let outcome = Outcome::Failed { message, retryable: true, retry_after_ms: None, code: Some(code) };
        self.end(id, token, outcome);
    }

    /// An owner was told by its engine that a task is over.
    pub fn drop_objects(&mut self, key: &TaskKey) {
        if !self.audit.tasks.get(key).is_some_and(|known| known.is_over()) {
            return self.fail(format!("the objects of {key} are dropped, and it is not over"));
        }
        if self.objects.drop_of(key, u64::MAX) {
            self.saw(Sight::ObjectsDropped);
        }
    }

    /// Whoever believes to be the owner looks at what there is, and drops some of it a while later.
    pub fn sweep_objects(&mut self) {
        let (done, wait): (Vec<_>, Vec<_>) = {
            let sweeps = std::mem::take(&mut self.objects.sweeps);
            let rng = &mut self.objects.rng;
            sweeps.into_iter().partition(|_| rng.per_mille(300))
        };
        self.objects.sweeps = wait;
        for sweep in done {
            self.finish_sweep(sweep);
        }
        for who in 0..self.coordinators.len() {
            let coordinator = &self.coordinators[who];
            if coordinator.role == Role::Owner && self.objects.rng.per_mille(300) {
                let keys = self.objects.stored.keys().cloned().collect();
                let (upto, head, life) = (self.objects.last, self.journal.head(), coordinator.life);
                self.objects.sweeps.push(Sweep { who, life, upto, head, keys });
            }
        }
    }

    fn finish_sweep(&mut self, sweep: Sweep) {
        let coordinator = &self.coordinators[sweep.who];
        let asked = coordinator.engine.as_ref().filter(|e| e.is_open() && !e.is_busy());
        let Some(engine) = asked.filter(|_| coordinator.life == sweep.life) else { return };
        if engine.seq() < sweep.head {
            return self.saw(Sight::SweeperBehind);
        }
        let over: Vec<TaskKey> = sweep.keys.into_iter().filter(|key| !engine.is_live(key)).collect();
        for key in over {
            if self.audit.tasks.get(&key).is_some_and(|known| !known.is_over()) {
                return self.fail(format!("the objects of {key} are swept, and it lives"));
            }
            if self.objects.drop_of(&key, sweep.upto) {
                self.saw(Sight::ObjectsSwept);
            }
        }
    }
}
