//! The floor's index: whatever was touched since the last flush is written once, in one pipeline.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use redis::aio::MultiplexedConnection;
use tokio::sync::{mpsc, watch};

use super::{State, TENANTS, Touched};

/// Changes taken into one flush at most.
const FLUSH: usize = 16_384;
/// Rest after a flush, so that most tasks are written once: an index may lag, and a leaner floor is a harder reference.
const REST: Duration = Duration::from_millis(100);

/// What one tenant's sets get in one flush.
#[derive(Default)]
struct Sets {
    records: Vec<(String, String)>,
    fresh: Vec<String>,
    by_state: [Vec<String>; 3],
    left: [Vec<String>; 3],
}

pub(super) async fn run(
    mut redis: MultiplexedConnection,
    mut changes: mpsc::UnboundedReceiver<Touched>,
    shown: watch::Sender<u64>,
) -> Result<()> {
    // What the sets say of tasks that are not done: the only state an update has to know.
    let mut stored: HashMap<(usize, u64), State> = HashMap::new();
    let mut taken = Vec::new();
    while changes.recv_many(&mut taken, FLUSH).await > 0 {
        let mut latest: HashMap<(usize, u64), State> = HashMap::with_capacity(taken.len());
        latest.extend(taken.drain(..).map(|change| ((change.tenant, change.id), change.state)));
        let mut pipeline = redis::pipe();
        let mut sets: Vec<Sets> = (0..TENANTS).map(|_| Sets::default()).collect();
        let mut done = 0;
        for ((tenant, id), state) in latest {
            let sets = &mut sets[tenant];
            let member = format!("{id:032x}");
            match stored.get(&(tenant, id)) {
                Some(before) => sets.left[*before as usize].push(member.clone()),
                None => sets.fresh.push(member.clone()),
            }
            sets.records.push((member.clone(), record(tenant, &member, state)));
            if state == State::Done {
                stored.remove(&(tenant, id));
                done += 1;
            } else {
                stored.insert((tenant, id), state);
            }
            sets.by_state[state as usize].push(member);
        }
        for (tenant, sets) in sets.iter().enumerate() {
            if !sets.records.is_empty() {
                pipeline.hset_multiple(key(tenant, "records"), &sets.records).ignore();
            }
            add(&mut pipeline, tenant, "all", &sets.fresh);
            add(&mut pipeline, tenant, "agent", &sets.fresh);
            for state in [State::Queued, State::Running, State::Done] {
                let left = &sets.left[state as usize];
                if !left.is_empty() {
                    pipeline.cmd("ZREM").arg(key(tenant, state.name())).arg(left).ignore();
                }
                add(&mut pipeline, tenant, state.name(), &sets.by_state[state as usize]);
            }
        }
        pipeline.query_async::<()>(&mut redis).await?;
        shown.send_modify(|shown| *shown += done);
        tokio::time::sleep(REST).await;
    }
    Ok(())
}

fn add(pipeline: &mut redis::Pipeline, tenant: usize, set: &str, members: &[String]) {
    if members.is_empty() {
        return;
    }
    let command = pipeline.cmd("ZADD").arg(key(tenant, set));
    for member in members {
        command.arg(0).arg(member);
    }
    command.ignore();
}

fn key(tenant: usize, set: &str) -> String {
    format!("bench:{{t{tenant}}}:{set}")
}

/// As many bytes as a view of a task without frills.
fn record(tenant: usize, member: &str, state: State) -> String {
    let mut record = format!("1 {} noop {member} t{tenant} ", state.name());
    record.extend(std::iter::repeat_n('.', 200usize.saturating_sub(record.len())));
    record
}
