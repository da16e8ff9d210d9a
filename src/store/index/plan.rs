//! A call's touched tasks as the script's arguments.
//!
//! Most writes are one of two: a task that the index does not have, or one that it shows in the phase in which it was handed
//! out last. For those the commands are made here, as ranges of the arguments, and the script only checks
//! that what is stored is as supposed: looking at every record there costs more than writing it. Everything else, and a
//! call whose check fails, goes the script's careful way. So a supposition that is wrong costs time and nothing else.

use std::cmp::Ordering;

use redis::Cmd;

use super::{super::record, IndexWrite, Touched, keys};
use crate::task::{Millis, Payload, Phase, TenantName};

/// What is supposed of the stored form of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stored {
    /// There is none.
    New,
    /// It is in this phase, a live one and not that of the write, and has no result.
    In(Phase),
    /// Nothing.
    Unknown,
}

struct Entry<'a> {
    write: &'a IndexWrite,
    stored: Stored,
    /// Empty for a task that is its own root.
    root: &'a str,
    /// As records tell it.
    parent: &'a str,
    /// 0 while it is live.
    ended: Millis,
    large: Option<&'a Payload>,
}

impl<'a> Entry<'a> {
    fn new(write: &'a IndexWrite, now_wall: Millis) -> Self {
        let view = &write.view;
        let plain = view.state != Phase::Cancelled
            && (write.result_of() == record::ResultOf::None || view.state == Phase::Completed);
        let stored = match write.before {
            _ if !plain => Stored::Unknown,
            None => Stored::New,
            // It can't be told by its set whether this was written already.
            Some(phase) if phase == view.state => Stored::Unknown,
            // Retention may have dropped it.
            Some(phase) if phase.is_terminal() => Stored::Unknown,
            Some(phase) => Stored::In(phase),
        };
        Self {
            write,
            stored,
            root: if view.root == view.task { "" } else { view.root.as_str() },
            parent: record::parent_of(view),
            ended: record::ended_at(view, now_wall),
            large: write.result.as_ref().filter(|result| result.len() > record::MAX_INLINE),
        }
    }

    fn state(&self) -> Phase {
        self.write.view.state
    }

    fn agent(&self) -> &str {
        self.write.view.agent.as_str()
    }

    /// The phase that it leaves.
    fn leaves(&self) -> Option<Phase> {
        match self.stored {
            Stored::In(phase) => Some(phase),
            Stored::New | Stored::Unknown => None,
        }
    }

    /// Tasks that share sets stand side by side, those without a plan last.
    fn order(&self, other: &Self) -> Ordering {
        let class = |entry: &Self| match entry.stored {
            Stored::New => 0,
            Stored::In(_) => 1,
            Stored::Unknown => 2,
        };
        let key = |entry: &Self| (class(entry), entry.stored, entry.state());
        key(self)
            .cmp(&key(other))
            .then_with(|| self.agent().cmp(other.agent()))
            .then_with(|| self.root.cmp(other.root))
            .then_with(|| self.parent.cmp(other.parent))
    }

    fn is_grouped_with(&self, other: &Self) -> bool {
        self.order(other).is_eq()
    }
}

/// A command of which the members are a range of the data.
struct Ranged {
    command: &'static str,
    key: String,
    from: usize,
    /// The last one.
    to: usize,
}

/// Runs of entries that are alike, as positions, with what they have in common.
fn runs<'a, 'b, K: PartialEq>(
    entries: &'b [Entry<'a>],
    key: impl Fn(&'b Entry<'a>) -> Option<K>,
) -> Vec<(K, usize, usize)> {
    let mut runs: Vec<(K, usize, usize)> = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let Some(key) = key(entry) else { continue };
        match runs.last_mut() {
            Some((last, _, end)) if *last == key && *end == i => *end = i + 1,
            _ => runs.push((key, i, i + 1)),
        }
    }
    runs
}

/// Where in the data what begins: pairs of score and member, of id and record, of end and id, ids of new tasks, members of
/// those that are stored, pairs of id and large result.
struct Layout {
    records: usize,
    ends: usize,
    new: usize,
    stored: usize,
    large: usize,
}

/// Appends the touched tasks, from the script's argument 11 on.
pub(super) fn write_tasks(cmd: &mut Cmd, tenant: &TenantName, touched: &[Touched<'_>], now_wall: Millis) {
    let mut entries = Vec::with_capacity(touched.len());
    let mut forgotten = Vec::new();
    for touched in touched {
        match touched {
            Touched::Write(write) => entries.push(Entry::new(write, now_wall)),
            Touched::Gone(task) => forgotten.push(task.as_str()),
        }
    }
    entries.sort_by(Entry::order);
    cmd.arg(entries.iter().map(|entry| entry.ended).filter(|at| *at > 0).min().unwrap_or(0));
    cmd.arg(forgotten.len()).arg(forgotten);

    let count = |fits: fn(&Entry<'_>) -> bool| entries.iter().filter(|entry| fits(entry)).count();
    let planned = count(|entry| entry.stored != Stored::Unknown);
    let new = count(|entry| entry.stored == Stored::New);
    let (plan, _) = entries.split_at(planned);
    let ends = |entries: &[Entry<'_>]| entries.iter().filter(|entry| entry.ended > 0).count();
    let large = |entries: &[Entry<'_>]| entries.iter().filter(|entry| entry.large.is_some()).count();

    let records = 2 * entries.len();
    let new_at = 2 * records + 2 * ends(&entries);
    let layout =
        Layout { records, ends: 2 * records, new: new_at, stored: new_at + new, large: new_at + planned };
    let groups: Vec<&[Entry<'_>]> = entries.chunk_by(Entry::is_grouped_with).collect();
    let groups_of = |fits: fn(&Entry<'_>) -> bool| groups.iter().filter(|group| fits(&group[0])).count();
    let planned_groups = groups_of(|entry| entry.stored != Stored::Unknown);
    cmd.arg(groups.len()).arg(planned_groups).arg(groups_of(|entry| entry.stored == Stored::New));
    cmd.arg(entries.len()).arg(planned).arg(ends(plan)).arg(large(&entries)).arg(layout.large);
    for group in &groups {
        let Entry { root, parent, .. } = group[0];
        cmd.arg(group[0].state().as_str()).arg(group[0].agent()).arg(root).arg(parent).arg(group.len());
    }
    let (checks, commands) = commands(tenant, plan, new, (ends(plan), large(plan)), &layout);
    for ranged in [checks, commands] {
        cmd.arg(ranged.len());
        for Ranged { command, key, from, to } in ranged {
            cmd.arg(command).arg(key).arg(from).arg(to);
        }
    }
    data(cmd, &entries, plan, now_wall);
}

/// What has to be as supposed, and what is to be done then.
fn commands(
    tenant: &TenantName,
    plan: &[Entry<'_>],
    new: usize,
    (ends, large): (usize, usize),
    at: &Layout,
) -> (Vec<Ranged>, Vec<Ranged>) {
    let ranged = |command, key, from, n: usize| Ranged { command, key, from, to: from + n - 1 };
    let (mut checks, mut commands) = (Vec::new(), Vec::new());
    if plan.is_empty() {
        return (checks, commands);
    }
    let (fresh, known) = plan.split_at(new);
    if new > 0 {
        checks.push(ranged("HMGET", keys::records(tenant), at.new, new));
        commands.push(ranged("ZADD", keys::shown(tenant), 0, 2 * new));
    }
    for (phase, from, to) in runs(known, Entry::leaves) {
        checks.push(ranged("ZMSCORE", keys::state(tenant, phase), at.stored + from, to - from));
        commands.push(ranged("ZREM", keys::state(tenant, phase), at.stored + from, to - from));
    }
    for (_, from, to) in runs(fresh, |entry| Some(entry.agent())) {
        let agent = keys::agent(tenant, &fresh[from].write.view.agent);
        commands.push(ranged("ZADD", agent, 2 * from, 2 * (to - from)));
    }
    for (_, from, to) in runs(fresh, |entry| Some(entry.root).filter(|root| !root.is_empty())) {
        let tree = keys::tree(tenant, &fresh[from].write.view.root);
        commands.push(ranged("ZADD", tree, 2 * from, 2 * (to - from)));
    }
    for (parent, from, to) in runs(fresh, |entry| entry.write.view.parent.as_ref()) {
        commands.push(ranged("ZADD", keys::parent(tenant, parent), 2 * from, 2 * (to - from)));
    }
    for (phase, from, to) in runs(plan, |entry| Some(entry.state())) {
        commands.push(ranged("ZADD", keys::state(tenant, phase), 2 * from, 2 * (to - from)));
    }
    if ends > 0 {
        commands.push(ranged("ZADD", keys::done(tenant), at.ends, 2 * ends));
    }
    commands.push(ranged("HSET", keys::records(tenant), at.records, 2 * plan.len()));
    if large > 0 {
        commands.push(ranged("HSET", keys::results(tenant), at.large, 2 * large));
    }
    (checks, commands)
}

fn data(cmd: &mut Cmd, entries: &[Entry<'_>], plan: &[Entry<'_>], now_wall: Millis) {
    let members: Vec<String> = entries
        .iter()
        .map(|entry| keys::member(entry.write.view.created_at, &entry.write.view.task))
        .collect();
    for member in &members {
        cmd.arg(&b"0"[..]).arg(member);
    }
    let mut record = Vec::new();
    for Entry { write, .. } in entries {
        record::encode(&write.view, write.result_of(), now_wall, &mut record);
        cmd.arg(write.view.task.as_str()).arg(&record[..]);
    }
    for entry in entries.iter().filter(|entry| entry.ended > 0) {
        cmd.arg(entry.ended).arg(entry.write.view.task.as_str());
    }
    for (entry, member) in plan.iter().zip(&members) {
        // New ones first, as they are sorted.
        match entry.stored {
            Stored::New => cmd.arg(entry.write.view.task.as_str()),
            Stored::In(_) | Stored::Unknown => cmd.arg(member),
        };
    }
    for entry in entries {
        if let Some(result) = entry.large {
            cmd.arg(entry.write.view.task.as_str()).arg(&record::encode_result(result)[..]);
        }
    }
}
