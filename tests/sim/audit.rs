//! A second opinion: folds the journal by its own rules and objects to any record that breaks an invariant.
//!
//! Shares the record types with the product, and the wording of limits, but no line of its policy:
//! caps, rates, leases, trees and tries are counted here from scratch, at every record.

macro_rules! ensure {
    ($cond:expr, $($why:tt)*) => {
        if !$cond {
            return Err(format!($($why)*));
        }
    };
}

mod asked;
mod calls;
mod schedules;
pub mod talk;
mod times;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use selvedge::{
    flow::{
        permits::Permit,
        record::{Admission, AfterFailure, Failure, Hash, JournalMessage, Origin, Record},
        state::Policy,
    },
    task::{
        AgentName, AgentSettings, AllSettings, BodyHash, Code, InstanceId, Labels, Outcome, Payload, Phase,
        Plan, PlanName, Priority, Quota, TaskId, TaskKey, TenantName, TenantSettings, Token, WaitFor,
        child_id,
    },
};

use selvedge::wire::history::Did;

pub use self::times::Until;
use self::{
    talk::{Letter, Talk},
    times::Clocked,
};
use crate::{scenario::Sight, schemas::Said};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Queued,
    /// Queued, and not to be started yet.
    Delayed(Until),
    Running,
    Awaiting(BTreeSet<TaskId>),
    Sleeping {
        due: u64,
        retry: bool,
    },
    /// Waits for a message, perhaps not for ever.
    Told {
        place: u32,
        signal: Option<String>,
        due: Option<u64>,
    },
    /// Waits for a time that is recorded.
    Asleep {
        place: u32,
        due: u64,
    },
    Over(Phase),
}

#[derive(Debug, Clone)]
pub struct Lease {
    pub token: Token,
    pub n: u32,
    pub resume: bool,
    /// Cells that were set aside, of its tenant's and of its agent's.
    pub cells: (u32, u32),
}

/// A quota, and what was taken of it since it is in force: what is given back is taken away again.
#[derive(Debug, Default)]
struct Window {
    quota: Option<Quota>,
    taken: Vec<(u64, i64)>,
}

impl Window {
    fn set(&mut self, quota: Option<Quota>) {
        if self.quota != quota {
            self.quota = quota;
            self.taken.clear();
        }
    }

    fn settle(&mut self, now: u64, more: i64) {
        if self.quota.is_some() && more != 0 {
            self.taken.push((now, more));
        }
    }

    /// Takes `n`; every window that ends here holds no more than the quota gives. What costs more than the burst may
    /// pass when the burst is there, and is owed. Returns whether there is a quota.
    fn take(&mut self, now: u64, n: u32, what: &str) -> Result<bool, String> {
        let Some(quota) = self.quota else { return Ok(false) };
        ensure!(quota.cells > 0 && quota.burst > 0, "I9: {n} {what} of none");
        self.taken.push((now, n.into()));
        let mut sum = 0i128;
        for (from, cells) in self.taken.iter().rev() {
            sum += i128::from(*cells);
            let share = u128::from(quota.cells) * u128::from(now - from)
                + u128::from(quota.burst.max(n)) * u128::from(quota.per_ms);
            ensure!(
                sum <= 0 || sum as u128 * u128::from(quota.per_ms) <= share,
                "I9: {sum} {what} in {} ms of {quota:?}",
                now - from
            );
        }
        Ok(true)
    }
}

#[derive(Debug, Clone)]
pub struct Known {
    pub hash: BodyHash,
    /// Of its input.
    pub seed: u64,
    pub parent: Option<TaskId>,
    pub root: TaskId,
    pub depth: u32,
    pub children: Vec<TaskId>,
    pub admitted_children: u32,
    pub place: Place,
    pub attempt: u32,
    pub tries: u32,
    pub agent: AgentName,
    pub cost: u32,
    pub labels: Labels,
    priority: Priority,
    /// Place in the order of admission.
    order: u64,
    /// When it was admitted, in seconds of logical time.
    since: u64,
    pub max_tries: u32,
    pub vanished: u32,
    pub lease: Option<Lease>,
    /// Its wait is over and it has not been dispatched since.
    pub resumes: bool,
    /// A child has ended since the last dispatch.
    pub news: bool,
    pub refusal: Option<Code>,
    pub failures: usize,
    pub started: Option<u64>,
    pub ended: Option<u64>,
    pub rev: u64,
    pub result: Option<Payload>,
    pub clocked: Clocked,
    pub talk: Talk,
}

impl Known {
    pub fn phase(&self) -> Phase {
        match self.place {
            Place::Queued | Place::Delayed(_) => Phase::Queued,
            Place::Running => Phase::Running,
            Place::Sleeping { retry: true, .. } => Phase::Retrying,
            Place::Awaiting(_) | Place::Sleeping { .. } | Place::Told { .. } | Place::Asleep { .. } => {
                Phase::Waiting
            }
            Place::Over(phase) => phase,
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.place, Place::Over(_))
    }
}

/// What became of a token.
#[derive(Debug, Clone)]
pub struct Granted {
    pub key: TaskKey,
    pub instance: InstanceId,
    pub attempt: u32,
    pub applied: u32,
    pub live: bool,
}

#[derive(Debug, Default)]
struct Tenant {
    settings: Option<TenantSettings>,
    in_flight: BTreeSet<Token>,
    rate: Window,
    cells: Window,
    roots: Vec<TaskId>,
}

#[derive(Debug, Default)]
struct Agent {
    settings: AgentSettings,
    in_flight: BTreeSet<Token>,
    rate: Window,
    cells: Window,
}

#[derive(Debug, Default)]
pub struct Audit {
    pub tasks: BTreeMap<TaskKey, Known>,
    pub granted: HashMap<Token, Granted>,
    /// Cancelled before they were submitted.
    pub tombstones: HashSet<TaskKey>,
    pub refused: HashSet<(TaskKey, Code)>,
    pub sights: Vec<Sight>,
    pub records: u64,
    pub rev: u64,
    pub now: u64,
    /// Unix time by a clock that nobody steps.
    pub true_wall: u64,
    /// Ids may be forgotten: a tombstone may be, too.
    pub forgetful: bool,
    epoch: u64,
    wall: u64,
    head: Hash,
    policy: Option<Policy>,
    plans: BTreeMap<PlanName, Plan>,
    tenants: BTreeMap<TenantName, Tenant>,
    agents: BTreeMap<AgentName, Agent>,
    all: AllSettings,
    /// Roots of paused trees.
    pub paused: BTreeSet<TaskKey>,
    tree_totals: HashMap<TaskKey, u32>,
    /// Live tasks that know of time, and some that are over.
    timed: BTreeSet<TaskKey>,
    pub schedules: schedules::Ledger,
    /// What is held for calls.
    pub permits: BTreeMap<(TenantName, AgentName), Permit>,
    /// Slot-time that was held for calls and is not charged, and up to when it was counted.
    uncharged: BTreeMap<(TenantName, AgentName), (u64, u64)>,
    /// What triggers may make: the body, and how many triggers lie behind it.
    pub triggered: HashMap<TaskKey, (BodyHash, u32)>,
    /// Seeds of inputs by the body they are in.
    pub seeds: HashMap<BodyHash, u64>,
    /// What was announced to whoever decided the message that is folded.
    pub said: Arc<Said>,
}

/// Before every id.
fn first_id() -> TaskId {
    TaskId::new("0").unwrap()
}

fn of(key: &TaskKey, id: &TaskId) -> TaskKey {
    TaskKey { tenant: key.tenant.clone(), id: id.clone() }
}

impl Audit {
    /// One message of the journal, as it was stored.
    pub fn fold(&mut self, bytes: &[u8]) -> Result<(), String> {
        let message = JournalMessage::decode(bytes).map_err(|e| format!("unreadable: {e}"))?;
        ensure!(message.rev == self.rev + 1, "I13: revision {} after {}", message.rev, self.rev);
        ensure!(message.prev == self.head, "I13: the hash chain breaks at revision {}", message.rev);
        ensure!(message.now >= self.now, "logical time goes back: {} after {}", message.now, self.now);
        ensure!(!message.records.is_empty(), "an empty message at revision {}", message.rev);
        let opens = matches!(message.records.first(), Some(Record::Opened { .. }));
        ensure!(
            message.epoch == self.epoch + u64::from(opens),
            "epoch {} after {}",
            message.epoch,
            self.epoch
        );
        (self.rev, self.now, self.wall, self.epoch) = (message.rev, message.now, message.wall, message.epoch);
        self.head = Hash::of(bytes);
        for record in &message.records {
            self.records += 1;
            self.record(record).map_err(|why| format!("revision {}: {why}: {record:?}", message.rev))?;
        }
        let due = message.records.iter().filter(|record| {
            matches!(record, Record::Woken { .. } | Record::Expired { .. } | Record::TimedOut { .. })
        });
        self.all_in_time(due.count())?;
        let firings = message.records.iter().filter(|record| matches!(record, Record::ScheduleFired { .. }));
        // A message that is full leaves firings to the next one; so does one in which something was carried and more is to be.
        let carried = message.records.iter().any(|record| matches!(record, Record::Carried { .. }));
        let weight: usize = message.records.iter().map(Record::weight).sum();
        if firings.count() < 100 && weight < 30 * 1_024 && !carried {
            self.schedules.none_due(self.wall)?;
        }
        Ok(())
    }

    /// Whether the task or anything below it is not over.
    pub fn lives(&self, key: &TaskKey) -> bool {
        self.tasks
            .get(key)
            .is_some_and(|k| !k.is_over() || k.children.iter().any(|id| self.lives(&of(key, id))))
    }

    pub fn plan_of(&self, tenant: &TenantName) -> Option<Plan> {
        let named = |name: &PlanName| self.plans.get(name).cloned().unwrap_or_else(Plan::free);
        match self.tenants.get(tenant).and_then(|t| t.settings.as_ref()) {
            Some(own) => Some(named(&own.plan).with(&own.overrides)),
            None => self.policy.as_ref()?.default_plan.as_ref().map(named),
        }
    }

    fn plan(&self, tenant: &TenantName) -> Result<Plan, String> {
        self.plan_of(tenant).ok_or_else(|| format!("{tenant} has no plan"))
    }

    fn known(&mut self, key: &TaskKey) -> Result<&mut Known, String> {
        self.tasks.get_mut(key).ok_or_else(|| format!("I2: {key} came from nowhere"))
    }

    fn running(&mut self, key: &TaskKey, token: Token) -> Result<&mut Known, String> {
        let known = self.known(key)?;
        ensure!(known.place == Place::Running, "I4: {key} is {:?}, not running", known.place);
        ensure!(known.lease.as_ref().is_some_and(|l| l.token == token), "I4: {key} has another lease");
        Ok(known)
    }

    fn record(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::Opened { policy, .. } => {
                self.policy = Some(policy.clone());
                for (name, plan) in Plan::shipped() {
                    self.plans.entry(PlanName::new(name).unwrap()).or_insert(plan);
                }
                self.requota();
            }
            Record::PlanSet { name, plan, .. } => {
                match plan {
                    Some(plan) => self.plans.insert(name.clone(), plan.clone()),
                    None => self.plans.remove(name),
                };
                self.requota();
            }
            Record::TenantSet { name, settings, .. } => {
                self.tenants.entry(name.clone()).or_default().settings = settings.clone();
                self.requota();
                if settings.as_ref().is_some_and(|settings| settings.stopped) {
                    self.stopped(|key, _| key.tenant == *name)?;
                }
            }
            Record::AgentSet { name, settings, .. } => {
                let settings = settings.clone().unwrap_or_default();
                let stopped = settings.stopped;
                let agent = self.agents.entry(name.clone()).or_default();
                agent.rate.set(settings.rate_quota());
                agent.cells.set(settings.cell_quota());
                agent.settings = settings;
                if stopped {
                    self.stopped(|_, known| known.agent == *name)?;
                }
            }
            Record::AllSet { settings, .. } => {
                self.all = *settings;
                if settings.stopped {
                    self.stopped(|_, _| true)?;
                }
            }
            Record::TreeSet { key, paused } => {
                let root = self.known(key)?.root.clone();
                ensure!(root == key.id, "a tree is set by {key}, which is not its root");
                ensure!(self.lives(key), "{key} is over, and paused");
                if !self.known(key)?.is_over() {
                    self.touch(key);
                }
                if *paused {
                    ensure!(self.paused.insert(key.clone()), "{key} is paused twice");
                    self.stopped(|other, known| other.tenant == key.tenant && known.root == root)?;
                    self.sights.push(Sight::TreePaused);
                } else {
                    ensure!(self.paused.remove(key), "{key} goes on and was not paused");
                }
            }
            Record::Submitted { tenant, admission } => {
                self.submitted(tenant, admission)?;
                self.schedules.last =
                    Some((TaskKey { tenant: tenant.clone(), id: admission.task.clone() }, self.rev));
            }
            Record::ScheduleSet { name, schedule, next, .. } => {
                self.schedules.set(name, schedule.as_deref(), *next, self.wall)?;
            }
            Record::ScheduleFired { name, at, fired, next, .. } => {
                self.schedule_fired(name, *at, *fired, *next)?;
            }
            Record::SchedulePlanned { name, next } => {
                self.schedules.planned(name, *next, self.wall)?;
                self.sights.push(Sight::SchedulePlanned);
            }
            Record::Spawned { key, token, n, children } => self.spawned(key, *token, *n, children)?,
            Record::Permits { tenant, agent, permit, starts, used_ms } => {
                self.calls_used(tenant, agent, *used_ms)?;
                self.permitted(tenant, agent, *permit, *starts)?;
            }
            Record::Dispatched { key, attempt, token, instance, resume, .. } => {
                self.dispatched(key, *attempt, *token, instance, *resume)?;
            }
            Record::Withdrawn { key, token, vanished, failure } => {
                let lease = self.let_go(key, *token)?;
                let known = self.known(key)?;
                match failure {
                    Some(failure) => {
                        ensure!(*vanished && known.vanished >= 2, "a withdrawal counted too early");
                        known.vanished += 1;
                        self.failed(key, failure)?;
                    }
                    None => {
                        ensure!(!vanished || known.vanished < 2, "a withdrawal that should have counted");
                        known.vanished += u32::from(*vanished);
                        known.place = Place::Queued;
                        known.resumes = lease.resume;
                    }
                }
                self.sights.push(if *vanished { Sight::OfferWithdrawn } else { Sight::OfferBusy });
                self.touch(key);
            }
            Record::Ended { key, token, n, outcome, failure, wake_at, used, .. } => {
                if let Some(used) = used {
                    self.used(key, *token, *used)?;
                }
                self.ended(key, *token, *n, outcome, failure.as_ref(), *wake_at)?;
            }
            Record::LeaseLost { key, token, failure } => {
                self.let_go(key, *token)?;
                self.known(key)?.vanished = 0;
                self.failed(key, failure)?;
                self.touch(key);
                self.sights.push(Sight::LeaseLost);
            }
            Record::Woken { key } => {
                let now = self.now;
                let known = self.known(key)?;
                if let Place::Delayed(until) = known.place {
                    self.started(key, until)?;
                    self.touch(key);
                    return Ok(());
                }
                match known.place {
                    Place::Told { place, due, .. } => {
                        let due = due.ok_or("a wait without an end is over")?;
                        return self.time_came(key, place, due, Did::TimedOut {});
                    }
                    Place::Asleep { place, due } => return self.time_came(key, place, due, Did::Slept {}),
                    _ => {}
                }
                let Place::Sleeping { due, .. } = known.place else {
                    return Err(format!("{key} was woken while {:?}", known.place));
                };
                ensure!(due <= now, "{key} was woken at {now}, due at {due}");
                known.place = Place::Queued;
                known.resumes = false;
                self.touch(key);
            }
            Record::TimedOut { key, token, failure } => self.timed_out(key, *token, failure)?,
            Record::Expired { key, refusal } => self.expired(key, refusal)?,
            Record::Cancelled { key, .. } => self.cancelled(key)?,
            Record::Told { key, nonce, seq, signal, from, message } => {
                let (signal, from, message) = (signal.clone(), from.clone(), message.clone());
                self.told(key, nonce, *seq, Letter { signal, from, message, taken: false })?;
            }
            Record::Stepped { key, token, n, step } => self.stepped(key, *token, *n, step.as_ref())?,
            Record::Carried { key, payload, what } => {
                self.carried_talk(key, *what, payload)?;
                ensure!(self.tasks.contains_key(key), "{key} is carried and came from nowhere");
                ensure!(*payload != Payload::default(), "{key}: nothing is carried");
                self.sights.push(Sight::Carried);
            }
            Record::Refused { key, refusal } => {
                match refusal.code {
                    Code::IdempotencyConflict => self.sights.push(Sight::Conflict),
                    Code::TooOld => {
                        let covered = refusal.limit.unwrap_or(0);
                        ensure!(covered <= self.true_wall, "TOO_OLD up to a time that has not come");
                        self.sights.push(Sight::TooOld);
                    }
                    Code::NotFound | Code::TaskEnded | Code::Backpressure => {
                        self.sights.push(Sight::MessageRefused);
                    }
                    _ => {}
                }
                self.refused.insert((key.clone(), refusal.code));
            }
        }
        Ok(())
    }

    fn requota(&mut self) {
        let names: Vec<TenantName> = self.tenants.keys().cloned().collect();
        for name in names {
            let plan = self.plan_of(&name);
            let tenant = self.tenants.entry(name).or_default();
            tenant.rate.set(plan.as_ref().map(Plan::rate_quota));
            tenant.cells.set(plan.as_ref().and_then(Plan::cell_quota));
        }
    }

    /// Whose attempts an operator stopped: queued again as they were.
    fn stopped(&mut self, is_meant: impl Fn(&TaskKey, &Known) -> bool) -> Result<(), String> {
        let meant = self.tasks.iter().filter(|(key, known)| known.lease.is_some() && is_meant(key, known));
        let meant: Vec<(TaskKey, Token)> =
            meant.filter_map(|(key, known)| Some((key.clone(), known.lease.as_ref()?.token))).collect();
        for (key, token) in meant {
            let lease = self.let_go(&key, token)?;
            let known = self.known(&key)?;
            known.place = Place::Queued;
            known.resumes = lease.resume;
            known.clocked.begun = true;
            self.touch(&key);
            self.sights.push(Sight::Stopped);
        }
        Ok(())
    }

    /// A tenant's tasks that wait for a slot.
    pub fn queued_of<'a>(&'a self, tenant: &'a TenantName) -> impl Iterator<Item = &'a Known> {
        let from = TaskKey { tenant: tenant.clone(), id: first_id() };
        let own = self.tasks.range(from..).take_while(move |(key, _)| key.tenant == *tenant);
        own.filter(|(_, known)| known.place == Place::Queued).map(|(_, known)| known)
    }

    /// Whether the task's tree is paused.
    pub fn is_paused(&self, key: &TaskKey, known: &Known) -> bool {
        self.paused.contains(&of(key, &known.root))
    }

    /// Where a queued task stands in its lane: resumed parents, then classes, each one higher for every step of
    /// waiting, then first come.
    fn rank(&self, known: &Known) -> (u64, u64) {
        let class = match known.priority {
            Priority::Critical => 1,
            Priority::High => 2,
            Priority::Normal => 3,
            Priority::Low => 4u64,
        };
        let step = self.policy.as_ref().map_or(0, |policy| policy.ageing_ms / 1_000);
        let waited = self.now / 1_000 - known.since;
        let class = waited.checked_div(step).map_or(class, |steps| class.saturating_sub(steps).max(1));
        (if known.resumes { 0 } else { class }, known.order)
    }

    fn touch(&mut self, key: &TaskKey) {
        let rev = self.rev;
        if let Some(known) = self.tasks.get_mut(key) {
            known.rev = rev;
        }
    }

    fn admit(
        &mut self,
        key: &TaskKey,
        a: &Admission,
        parent: Option<(TaskId, TaskId, u32)>,
    ) -> Result<(), String> {
        let again = self.schedules.may_fire_again(key) || self.may_trigger_again(key);
        if again && self.tasks.get(key).is_some_and(|known| known.is_over()) {
            self.tasks.remove(key);
            self.tree_totals.remove(key);
            if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
                tenant.roots.retain(|root| *root != key.id);
            }
        }
        ensure!(!self.tasks.contains_key(key), "I3: {key} was decided before");
        let (parent, root, depth) = match parent {
            Some((parent, root, depth)) => (Some(parent), root, depth),
            None => (None, key.id.clone(), 0),
        };
        let seed = self.judged(key, a)?;
        let (clocked, until) = self.clocked(key, a)?;
        let place = match &a.refusal {
            None => until.map_or(Place::Queued, Place::Delayed),
            Some(r) if r.code == Code::Cancelled => Place::Over(Phase::Cancelled),
            Some(_) => Place::Over(Phase::Rejected),
        };
        let over = a.refusal.is_some();
        let known = Known {
            hash: a.body_hash,
            seed,
            parent,
            root: root.clone(),
            depth,
            children: Vec::new(),
            admitted_children: 0,
            place,
            attempt: 0,
            tries: 0,
            agent: a.spec.agent.clone(),
            cost: a.spec.cost.unwrap_or(0),
            labels: a.spec.labels.as_deref().cloned().unwrap_or_default(),
            priority: a.spec.priority,
            order: self.tasks.len() as u64,
            since: self.now / 1_000,
            max_tries: a.spec.max_tries.unwrap_or(1),
            vanished: 0,
            lease: None,
            resumes: false,
            news: false,
            refusal: a.refusal.as_ref().map(|r| r.code),
            failures: 0,
            started: None,
            ended: over.then_some(self.wall),
            rev: self.rev,
            result: None,
            clocked,
            talk: Talk::default(),
        };
        if let Some(code) = known.refusal {
            let sight = match code {
                Code::DepthExceeded => Some(Sight::DepthExceeded),
                Code::ChildrenExceeded => Some(Sight::ChildrenExceeded),
                Code::TreeExceeded => Some(Sight::TreeExceeded),
                Code::BacklogFull => Some(Sight::BacklogFull),
                Code::CostExceeded => Some(Sight::CostExceeded),
                _ => None,
            };
            self.sights.extend(sight);
        } else {
            *self.tree_totals.entry(of(key, &root)).or_default() += 1;
        }
        self.tasks.insert(key.clone(), known);
        Ok(())
    }

    fn submitted(&mut self, tenant: &TenantName, a: &Admission) -> Result<(), String> {
        let key = TaskKey { tenant: tenant.clone(), id: a.task.clone() };
        ensure!(matches!(a.origin, Origin::Root { .. }), "a submit of a child");
        self.by_a_trigger(&key, a)?;
        if a.refusal.is_none() {
            let stone = self.tombstones.contains(&key);
            ensure!(!stone || self.forgetful, "{key} was cancelled before, and admitted all the same");
            let plan = self.plan(tenant)?;
            let roots = self.tenants.get(tenant).map_or(&[][..], |t| &t.roots);
            let waiting = roots.iter().filter(|id| {
                let known = &self.tasks[&of(&key, id)];
                matches!(known.place, Place::Queued | Place::Delayed(_) | Place::Sleeping { retry: true, .. })
                    && !known.resumes
            });
            let waiting = waiting.count() as u64;
            self.affordable(&plan, a)?;
            ensure!(waiting < plan.backlog, "backlog {waiting} of {} at admission", plan.backlog);
            ensure!(
                a.spec.max_tries.is_some_and(|t| t <= plan.max_tries),
                "I5: more tries than the plan has"
            );
        }
        if let Origin::Root { retry_of: Some(_), .. } = &a.origin {
            self.sights.push(Sight::DeadResubmitted);
        }
        self.admit(&key, a, None)?;
        let entry = self.tenants.entry(tenant.clone()).or_default();
        entry.roots.push(key.id);
        self.requota();
        Ok(())
    }

    fn spawned(&mut self, key: &TaskKey, token: Token, n: u32, children: &[Admission]) -> Result<(), String> {
        self.report(key, token, n)?;
        self.no_cancelled_above(key)?;
        let plan = self.plan(&key.tenant)?;
        let (root, depth) = {
            let parent = self.known(key)?;
            (parent.root.clone(), parent.depth + 1)
        };
        for a in children {
            let Origin::Child { parent, step, index, root: named, depth: told } = &a.origin else {
                return Err("a spawned root".to_owned());
            };
            ensure!(*parent == key.id && *named == root && *told == depth, "I7: a child of another tree");
            ensure!(a.task == child_id(&key.id, step, *index), "a child by another id");
            if a.refusal.is_none() {
                self.affordable(&plan, a)?;
                let siblings = self.known(key)?.admitted_children;
                ensure!(depth <= plan.depth, "I7: depth {depth} of {}", plan.depth);
                ensure!(siblings < plan.children, "I7: child {} of {}", siblings + 1, plan.children);
                let total = self.tree_totals.get(&of(key, &root)).copied().unwrap_or(0);
                ensure!(total < plan.tree, "I7: task {} of {} in the tree", total + 1, plan.tree);
            }
            let child = of(key, &a.task);
            self.admit(&child, a, Some((key.id.clone(), root.clone(), depth)))?;
            let parent = self.known(key)?;
            parent.children.push(child.id.clone());
            parent.admitted_children += u32::from(a.refusal.is_none());
            parent.news |= a.refusal.is_some();
        }
        self.touch(key);
        Ok(())
    }

    /// What is admitted can run some day.
    fn affordable(&self, plan: &Plan, a: &Admission) -> Result<(), String> {
        let cost = a.spec.cost.unwrap_or(0);
        let own = self.agents.get(&a.spec.agent).and_then(|agent| agent.settings.cell_quota());
        for quota in [plan.cell_quota(), own].into_iter().flatten().filter(|quota| quota.cells > 0) {
            ensure!(cost <= quota.burst, "cost {cost} of {quota:?} was admitted");
        }
        Ok(())
    }

    /// A report counts only with the live lease, and in order.
    fn report(&mut self, key: &TaskKey, token: Token, n: u32) -> Result<(), String> {
        let lease = self.running(key, token)?.lease.as_mut().ok_or("no lease")?;
        ensure!(n == lease.n + 1, "report {n} after {}", lease.n);
        lease.n = n;
        if let Some(granted) = self.granted.get_mut(&token) {
            granted.applied = n;
        }
        Ok(())
    }

    fn no_cancelled_above(&self, key: &TaskKey) -> Result<(), String> {
        let mut at = key.clone();
        while let Some(parent) = self.tasks.get(&at).and_then(|k| k.parent.clone()) {
            at = of(key, &parent);
            let place = self.tasks.get(&at).map(|k| &k.place);
            let cancelled = matches!(place, Some(Place::Over(Phase::Cancelled | Phase::Expired)));
            ensure!(!cancelled, "I7: {key} is below {at}, which is cancelled or expired");
        }
        Ok(())
    }

    fn dispatched(
        &mut self,
        key: &TaskKey,
        attempt: u32,
        token: Token,
        instance: &InstanceId,
        resume: bool,
    ) -> Result<(), String> {
        self.no_cancelled_above(key)?;
        self.in_time(key)?;
        let plan = self.plan(&key.tenant)?;
        let (now, wall) = (self.now, self.wall);
        self.next_in_lane(key)?;
        let aged = self.tasks.get(key).is_some_and(|known| {
            let step = self.policy.as_ref().map_or(0, |policy| policy.ageing_ms / 1_000);
            !known.resumes && step > 0 && now / 1_000 - known.since >= step
        });
        self.sights.extend(aged.then_some(Sight::Aged));
        ensure!(!self.all.paused, "everything is paused");
        ensure!(!plan.paused, "the plan of {} is paused", key.tenant);
        let known = self.known(key)?;
        let (agent, cost) = (known.agent.clone(), known.cost);
        ensure!(known.place == Place::Queued && known.lease.is_none(), "I5: {key} is {:?}", known.place);
        ensure!(attempt == known.attempt + 1, "I5: attempt {attempt} after {}", known.attempt);
        ensure!(resume == known.resumes, "resume is {resume}, should be {}", known.resumes);
        known.attempt = attempt;
        known.resumes = false;
        known.news = false;
        known.place = Place::Running;
        known.started.get_or_insert(wall);
        let called = self.called(&key.tenant, &agent);
        let all: usize = self.tenants.values().map(|tenant| tenant.in_flight.len()).sum();
        let all = all + called.all;
        let cap = self.policy.as_ref().map_or(0, |policy| policy.in_flight);
        ensure!((all as u64) < cap, "I6: {} in flight in all, cap {cap}", all + 1);
        let tenant = self.tenants.entry(key.tenant.clone()).or_default();
        let own = self.agents.entry(agent.clone()).or_default();
        ensure!(!tenant.settings.as_ref().is_some_and(|s| s.paused), "{} is paused", key.tenant);
        ensure!(!own.settings.paused, "{agent} is paused");
        let cap = plan.in_flight as usize;
        let running = tenant.in_flight.len();
        ensure!(running + called.tenant < cap, "I6: {} in flight, cap {cap}", running + called.tenant + 1);
        let kept = plan.call_reserve.unwrap_or(0).min(plan.in_flight.saturating_sub(1)) as usize;
        ensure!(running < cap - kept, "I6: {running} tasks in flight of {cap}, {kept} are kept for calls");
        let cap = own.settings.in_flight.map_or(usize::MAX, |cap| cap as usize);
        let there = own.in_flight.len() + called.agent;
        ensure!(there < cap, "I6: {} at {agent}, cap {cap}", there + 1);
        let here = tenant.in_flight.intersection(&own.in_flight).count() + called.here;
        let cap = plan.agent_in_flight.map_or(usize::MAX, |cap| cap as usize);
        ensure!(here < cap, "I6: {} of {} at {agent}, cap {cap}", here + 1, key.tenant);
        tenant.in_flight.insert(token);
        own.in_flight.insert(token);
        let mut cells = (0, 0);
        if resume {
            self.sights.push(Sight::Resumed);
        } else {
            tenant.rate.take(now, 1, "dispatches of a tenant")?;
            own.rate.take(now, 1, "dispatches of an agent")?;
            if cost > 0 {
                cells.0 = if tenant.cells.take(now, cost, "cells of a tenant")? { cost } else { 0 };
                cells.1 = if own.cells.take(now, cost, "cells of an agent")? { cost } else { 0 };
            }
        }
        self.known(key)?.lease = Some(Lease { token, n: 0, resume, cells });
        let granted =
            Granted { key: key.clone(), instance: instance.clone(), attempt, applied: 0, live: true };
        ensure!(self.granted.insert(token, granted).is_none(), "a token was used twice");
        self.touch(key);
        Ok(())
    }

    /// Nothing of the same lane goes before it.
    fn next_in_lane(&self, key: &TaskKey) -> Result<(), String> {
        let Some(it) = self.tasks.get(key) else { return Ok(()) };
        ensure!(!self.is_paused(key, it), "{key} is of a paused tree");
        let own =
            self.tasks.range(of(key, &first_id())..).take_while(|(other, _)| other.tenant == key.tenant);
        let lane = own.filter(|(other, known)| {
            known.place == Place::Queued && known.agent == it.agent && !self.is_paused(other, known)
        });
        let first = lane.min_by_key(|(_, known)| self.rank(known));
        let (first, known) = first.ok_or("an empty lane")?;
        ensure!(first == key, "{first} {:?} goes before {:?}", self.rank(known), self.rank(it));
        Ok(())
    }

    fn let_go(&mut self, key: &TaskKey, token: Token) -> Result<Lease, String> {
        let known = self.running(key, token)?;
        let agent = known.agent.clone();
        let lease = known.lease.take().ok_or("no lease")?;
        if let Some(granted) = self.granted.get_mut(&token) {
            granted.live = false;
        }
        let tenant = self.tenants.entry(key.tenant.clone()).or_default();
        ensure!(tenant.in_flight.remove(&token), "a slot was released twice");
        let own = self.agents.entry(agent).or_default();
        ensure!(own.in_flight.remove(&token), "a slot of an agent was released twice");
        Ok(lease)
    }

    fn failed(&mut self, key: &TaskKey, failure: &Failure) -> Result<(), String> {
        let now = self.now;
        let known = self.known(key)?;
        known.tries += 1;
        known.failures = (known.failures + 1).min(10);
        known.resumes = false;
        known.clocked.begun = true;
        let (tries, max) = (known.tries, known.max_tries);
        ensure!(failure.tries == tries, "I5: try {} told as {}", tries, failure.tries);
        ensure!(tries <= max, "I5: try {tries} of {max}");
        match failure.next {
            AfterFailure::RetryAt(due) => {
                ensure!(tries < max, "I5: try {tries} of {max} is followed by another");
                ensure!(due >= now, "a retry in the past");
                known.place = Place::Sleeping { due, retry: true };
                self.sights.push(Sight::Retried);
            }
            AfterFailure::Dead => {
                known.refusal = Some(failure.what.code);
                self.sights.push(Sight::Dead);
                self.over(key, Phase::Failed);
            }
        }
        Ok(())
    }

    /// What an attempt used is settled: more than was set aside is owed, less is there again.
    fn used(&mut self, key: &TaskKey, token: Token, used: u32) -> Result<(), String> {
        let now = self.now;
        let known = self.running(key, token)?;
        let (agent, cells) = (known.agent.clone(), known.lease.as_ref().map_or((0, 0), |lease| lease.cells));
        let more = |taken: u32| i64::from(used) - i64::from(taken);
        if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
            tenant.cells.settle(now, more(cells.0));
        }
        if let Some(own) = self.agents.get_mut(&agent) {
            own.cells.settle(now, more(cells.1));
        }
        self.sights.push(if used > cells.0.max(cells.1) { Sight::UsedMore } else { Sight::UsedLess });
        Ok(())
    }

    fn ended(
        &mut self,
        key: &TaskKey,
        token: Token,
        n: u32,
        outcome: &Outcome,
        failure: Option<&Failure>,
        wake_at: Option<u64>,
    ) -> Result<(), String> {
        self.report(key, token, n)?;
        self.let_go(key, token)?;
        let known = self.known(key)?;
        (known.vanished, known.clocked.begun) = (0, true);
        match (outcome, failure) {
            (_, Some(failure)) => self.failed(key, failure)?,
            (Outcome::Completed { result }, None) => {
                self.gathered(key, result)?;
                self.known(key)?.result = Some(result.clone());
                self.over(key, Phase::Completed);
            }
            (Outcome::Snooze { .. }, None) => {
                let due = wake_at.ok_or("a snooze without an end")?;
                self.known(key)?.place = Place::Sleeping { due, retry: false };
                self.sights.push(Sight::Snoozed);
            }
            (Outcome::Wait(WaitFor::Message { place, signal, within_ms }), None) => {
                ensure!(wake_at.is_some() == within_ms.is_some(), "a wait that ends otherwise than it says");
                self.waits_for_message(key, *place, signal.as_deref(), wake_at)?;
            }
            (Outcome::Wait(WaitFor::Time { place, .. }), None) => {
                self.waits_for_time(key, *place, wake_at.ok_or("a sleep without an end")?)?;
            }
            (Outcome::Wait(wait), None) => {
                let own = self.known(key)?.children.clone();
                let mut awaited: BTreeSet<TaskId> = match wait {
                    WaitFor::AllChildren => own.into_iter().collect(),
                    WaitFor::Children(ids) => ids.iter().filter(|id| own.contains(id)).cloned().collect(),
                    _ => BTreeSet::new(),
                };
                awaited.retain(|id| !self.tasks[&of(key, id)].is_over());
                let known = self.known(key)?;
                known.resumes = awaited.is_empty() && known.news;
                known.place = if awaited.is_empty() { Place::Queued } else { Place::Awaiting(awaited) };
            }
            (Outcome::Failed { .. }, None) => return Err("a failure without what follows".to_owned()),
        }
        self.touch(key);
        Ok(())
    }

    /// A task is terminal: its parent may have waited for it.
    fn over(&mut self, key: &TaskKey, phase: Phase) {
        let (rev, wall) = (self.rev, self.wall);
        let Some(known) = self.tasks.get_mut(key) else { return };
        known.place = Place::Over(phase);
        known.ended = Some(wall);
        known.rev = rev;
        let parent = known.parent.clone().map(|parent| of(key, &parent));
        let parent = parent.and_then(|parent| self.tasks.get_mut(&parent));
        if let Some(parent) = parent {
            parent.news = true;
            if let Place::Awaiting(awaited) = &mut parent.place
                && awaited.remove(&key.id)
                && awaited.is_empty()
            {
                parent.place = Place::Queued;
                parent.resumes = true;
                parent.rev = rev;
            }
        }
        // Nothing lives in the tree any more: there is nothing to pause.
        let root = self.tasks.get(key).map(|known| of(key, &known.root));
        if let Some(root) = root.filter(|root| self.paused.contains(root))
            && !self.lives(&root)
        {
            self.paused.remove(&root);
        }
    }

    fn cancelled(&mut self, key: &TaskKey) -> Result<(), String> {
        if !self.tasks.contains_key(key) {
            self.tombstones.insert(key.clone());
            self.sights.push(Sight::Tombstone);
            return Ok(());
        }
        let mut next = vec![key.clone()];
        while let Some(key) = next.pop() {
            let Some(known) = self.tasks.get(&key) else { continue };
            next.extend(known.children.iter().map(|id| of(&key, id)));
            let lease = known.lease.as_ref().map(|l| l.token);
            if known.is_over() {
                continue;
            }
            if let Some(token) = lease {
                self.let_go(&key, token)?;
                self.sights.push(Sight::CancelledRunning);
            }
            if matches!(self.known(&key)?.place, Place::Delayed(_)) {
                self.sights.push(Sight::CancelledDelayed);
            }
            let known = self.known(&key)?;
            known.resumes = false;
            known.refusal = Some(Code::Cancelled);
            self.over(&key, Phase::Cancelled);
        }
        Ok(())
    }
}
