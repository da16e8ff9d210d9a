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

mod admission;
mod asked;
mod attempts;
mod calls;
mod known;
mod limits;
mod schedules;
pub mod talk;
mod times;
mod window;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use selvedge::{
    flow::{
        permits::Permit,
        record::{Hash, JournalMessage, Record},
        state::Policy,
    },
    task::{
        AgentName, AgentSettings, AllSettings, BodyHash, Code, Payload, Plan, PlanName, TaskId, TaskKey,
        TenantName, TenantSettings, Token,
    },
    wire::history::Did,
};

pub use self::known::{Granted, Known, Lease, Place};
use self::{talk::Letter, window::Window};
use crate::{scenario::Sight, schemas::Said};

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
    /// How many there were: a forgotten task may be admitted once more.
    admissions: u64,
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

    fn touch(&mut self, key: &TaskKey) {
        let rev = self.rev;
        if let Some(known) = self.tasks.get_mut(key) {
            known.rev = rev;
        }
    }
}
