//! Limits hold at every record of the journal, and each refusal tells its numbers wherever it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use selvedge::agent::{Agent, AgentError, Ctx};
use selvedge::client::{Client, Error, NewTask, WatchItem};
use selvedge::flow::record::{JournalMessage, Record};
use selvedge::task::{Backoff, Code, Phase, Plan, Priority, Refusal, TaskId, TenantSettings, Token};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{change, journal, journaled, replan, tenant};
use crate::harness::fabric::{Fabric, eventually, unbound};
use crate::harness::soon;

/// Holds each task until the gate has a permit for it.
fn gated(name: &str, gate: &Arc<Semaphore>) -> Agent {
    let gate = gate.clone();
    Agent::new(name, move |_: Ctx, n: u64| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.expect("the gate stays").forget();
            Ok::<_, AgentError>(n)
        }
    })
    .unwrap()
    .slots(64)
}

fn napper(name: &str, nap: Duration) -> Agent {
    Agent::new(name, move |_: Ctx, n: u64| async move {
        tokio::time::sleep(nap).await;
        Ok::<_, AgentError>(n)
    })
    .unwrap()
    .slots(64)
}

async fn submit(client: &Client, agent: &str, n: u64) -> Vec<selvedge::client::TaskHandle> {
    let tasks: Vec<NewTask> = (0..n).map(|i| NewTask::new(agent, &i).unwrap()).collect();
    client.submit_many(tasks).await.into_iter().collect::<Result<_, _>>().unwrap()
}

/// Leases at once and dispatches per time of one tenant, read off the journal.
#[derive(Default)]
struct Reading {
    live: BTreeSet<Token>,
    most_live: usize,
    dispatches: Vec<u64>,
}

impl Reading {
    fn of(messages: &[JournalMessage], tenant: &str) -> Reading {
        let mut reading = Reading::default();
        for message in messages {
            for record in &message.records {
                reading.take(record, message.now, tenant);
            }
        }
        reading
    }

    fn take(&mut self, record: &Record, now: u64, tenant: &str) {
        match record {
            Record::Dispatched { key, token, resume, .. } if key.tenant.as_str() == tenant => {
                self.live.insert(*token);
                self.most_live = self.most_live.max(self.live.len());
                if !resume {
                    self.dispatches.push(now);
                }
            }
            Record::Ended { token, .. }
            | Record::LeaseLost { token, .. }
            | Record::Withdrawn { token, .. } => {
                self.live.remove(token);
            }
            _ => {}
        }
    }

    /// Every window of every length holds at most rate · length + burst.
    fn check_rate(&self, rate: u64, burst: u64) {
        for (i, from) in self.dispatches.iter().enumerate() {
            for (j, to) in self.dispatches.iter().enumerate().skip(i) {
                let (count, ms) = ((j - i + 1) as u64, to - from);
                assert!(count * 1_000 <= rate * ms + burst * 1_000, "{count} dispatches within {ms} ms");
            }
        }
    }
}

fn refusal(error: Error) -> Refusal {
    match error {
        Error::Refused(refusal) => refusal,
        Error::Ended { refusal: Some(refusal), .. } => refusal,
        other => panic!("no refusal: {other}"),
    }
}

#[test]
fn the_shipped_plans_are_the_published_ones() {
    const DAY: u64 = 86_400_000;
    let row = |p: Plan| {
        (
            [u64::from(p.in_flight), p.rate.into(), p.burst.into(), p.backlog, p.depth.into()],
            [u64::from(p.children), p.tree.into(), p.weight.into(), p.max_tries.into()],
            (p.max_priority, p.retain_tasks, p.retain_ms / DAY),
        )
    };
    assert_eq!(row(Plan::free()), ([2, 1, 5, 1_000, 3], [8, 100, 1, 3], (Priority::Normal, 1_000, 1)));
    let pro = ([20, 20, 100, 100_000, 6], [64, 5_000, 4, 5], (Priority::High, 10_000, 7));
    assert_eq!(row(Plan::pro()), pro);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_record_dispatches_above_the_in_flight_cap_or_the_rate_of_its_plan() {
    let fabric = Fabric::start().await;
    // Nobody has set `nobody`: it has the default plan, `free`.
    tenant(&fabric, "payer", Plan::pro()).await;
    fabric.agent(napper("napper", Duration::from_millis(60))).await;
    let mut tasks = submit(&fabric.client("nobody").await, "napper", 8).await;
    tasks.extend(submit(&fabric.client("payer").await, "napper", 140).await);
    eventually("all of them", async {
        for task in &tasks {
            assert_eq!(task.wait().await.unwrap().state, Phase::Completed);
        }
    })
    .await;
    let messages = journal(&fabric.stack).await;
    let free = Reading::of(&messages, "nobody");
    let pro = Reading::of(&messages, "payer");
    assert_eq!((free.most_live, free.dispatches.len()), (2, 8), "the cap is reached and never passed");
    assert_eq!((pro.most_live, pro.dispatches.len()), (20, 140), "the cap is reached and never passed");
    free.check_rate(1, 5);
    pro.check_rate(20, 100);
    let span = |reading: &Reading| reading.dispatches.last().unwrap() - reading.dispatches[0];
    // The limiter binds: what is above the burst comes one by one.
    assert!(span(&free) >= 3_000, "{} ms", span(&free));
    assert!(span(&pro) >= 1_950, "{} ms", span(&pro));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_tells_its_numbers_to_wait_watch_get_list_and_a_confirmed_submit() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", Plan { backlog: 3, ..unbound() }).await;
    let client = fabric.client("acme").await;
    for n in 0..3 {
        soon("an admission", client.submit_and_confirm("nobody", &n)).await.unwrap();
    }
    let check = |refusal: &Refusal| {
        assert_eq!((refusal.code, refusal.actual, refusal.limit), (Code::BacklogFull, Some(3), Some(3)));
        assert!(refusal.message.contains("3 >= cap 3") && refusal.retry_after_ms.is_some(), "{refusal:?}");
    };
    check(&refusal(soon("a refusal", client.submit_and_confirm("nobody", &4)).await.unwrap_err()));

    // Stored is not admitted: without confirmation the refusal is the task's state.
    let task = client.submit("nobody", &5).await.unwrap();
    let ended = soon("the end", task.wait()).await.unwrap();
    assert_eq!(ended.state, Phase::Rejected);
    check(&ended.refusal.unwrap());
    check(&refusal(soon("no result", task.result::<u64>()).await.unwrap_err()));
    let view = client.get(task.id()).await.unwrap();
    assert_eq!((view.state, view.attempt), (Phase::Rejected, 0));
    check(&view.refusal.unwrap());
    let mut watch = task.watch().await.unwrap();
    let end = soon("the watch ends", async {
        loop {
            if let WatchItem::End(end) = watch.next().await.unwrap().unwrap() {
                return end;
            }
        }
    })
    .await;
    assert_eq!(end.state, Phase::Rejected);
    check(&end.refusal.unwrap());
    let listed = crate::harness::until("both are listed", || async {
        let page = client.list().state(Phase::Rejected).page().await.unwrap();
        (page.tasks.len() == 2).then_some(page)
    })
    .await;
    listed.tasks.iter().for_each(|view| check(view.refusal.as_ref().unwrap()));

    // A raised cap is in force for the next submit.
    replan(&fabric, &fabric.limits().await, "acme", |plan| plan.backlog = 4).await;
    soon("room again", client.submit_and_confirm("nobody", &6)).await.unwrap();
}

#[derive(Clone, Serialize, Deserialize)]
struct Plant {
    fan: u32,
    levels: u32,
}

/// Grows `levels` of `fan` branches; tells all refusals met on the way.
fn planter() -> Agent {
    Agent::new("planter", |ctx: Ctx, plant: Plant| async move {
        let mut refusals: Vec<Refusal> = Vec::new();
        if plant.levels == 0 {
            return Ok::<_, AgentError>(refusals);
        }
        let below = Plant { levels: plant.levels - 1, ..plant };
        ctx.spawn("branch", "planter", (0..plant.fan).map(|_| below.clone())).await?;
        for child in ctx.wait_all().await? {
            match child.refusal.clone() {
                Some(refusal) => refusals.push(refusal),
                None => refusals.extend(child.decode::<Vec<Refusal>>()?),
            }
        }
        Ok(refusals)
    })
    .unwrap()
    .slots(16)
}

async fn grow(fabric: &Fabric, name: &str, plan: Plan, plant: Plant) -> Vec<Refusal> {
    tenant(fabric, name, plan).await;
    let task = fabric.client(name).await.submit("planter", &plant).await.unwrap();
    eventually("the tree ends", task.result()).await.unwrap()
}

fn numbers(refusals: &[Refusal]) -> Vec<(Code, u64, u64)> {
    refusals.iter().map(|r| (r.code, r.actual.unwrap(), r.limit.unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn depth_children_and_tree_are_refused_one_by_one_and_the_parents_finish() {
    let fabric = Fabric::start().await;
    fabric.agent(planter()).await;
    let deep = grow(&fabric, "deep", Plan { depth: 2, ..unbound() }, Plant { fan: 1, levels: 4 }).await;
    assert_eq!(numbers(&deep), [(Code::DepthExceeded, 3, 2)]);
    let wide = grow(&fabric, "wide", Plan { children: 2, ..unbound() }, Plant { fan: 4, levels: 1 }).await;
    assert_eq!(numbers(&wide), [(Code::ChildrenExceeded, 3, 2), (Code::ChildrenExceeded, 4, 2)]);
    let big = grow(&fabric, "big", Plan { tree: 3, ..unbound() }, Plant { fan: 4, levels: 1 }).await;
    assert_eq!(numbers(&big), [(Code::TreeExceeded, 4, 3), (Code::TreeExceeded, 4, 3)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_beyond_its_cap_adopts_its_children_on_every_attempt() {
    let fabric = Fabric::start().await;
    fabric.agent(planter()).await;
    let plan = Plan { children: 2, ..unbound() };
    let refusals = grow(&fabric, "wide", plan, Plant { fan: 1_000, levels: 1 }).await;
    assert_eq!(refusals.len(), 998);
    assert!(refusals.iter().all(|r| r.code == Code::ChildrenExceeded && r.limit == Some(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_limits_reaches_work_that_is_queued_already() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", Plan { in_flight: 0, ..unbound() }).await;
    tenant(&fabric, "other", unbound()).await;
    fabric.agent(napper("napper", Duration::ZERO)).await;
    let (acme, other) = (fabric.client("acme").await, fabric.client("other").await);
    let dispatched = async || Reading::of(&journal(&fabric.stack).await, "acme").dispatches.len();
    // What another tenant submits later runs: the dispatcher has looked at the paused one, and left it.
    let overtaken = async || {
        for n in 0..3u64 {
            soon("the other's", other.submit("napper", &n).await.unwrap().wait()).await.unwrap();
        }
    };
    let mut done = 0;
    for (pause, resume) in [(None, "in_flight"), (Some("rate"), "rate"), (Some("paused"), "paused")] {
        let bucket = fabric.limits().await;
        match pause {
            Some("rate") => replan(&fabric, &bucket, "acme", |plan| plan.rate = 0).await,
            Some(_) => change(&fabric, "acme", |s: &mut TenantSettings| s.paused = true).await,
            None => {}
        }
        let mut waiting = Vec::new();
        for n in 0..3u64 {
            waiting.push(soon("admitted all the same", acme.submit_and_confirm("napper", &n)).await.unwrap());
        }
        overtaken().await;
        assert_eq!(dispatched().await, done, "paused by {resume}");
        match resume {
            "in_flight" => replan(&fabric, &bucket, "acme", |plan| plan.in_flight = 1).await,
            "rate" => replan(&fabric, &bucket, "acme", |plan| plan.rate = 1_000).await,
            _ => change(&fabric, "acme", |s: &mut TenantSettings| s.paused = false).await,
        }
        for task in waiting {
            soon("resumed", task.wait()).await.unwrap();
        }
        done += 3;
        assert_eq!(dispatched().await, done);
    }
    assert_eq!(Reading::of(&journal(&fabric.stack).await, "acme").most_live, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lowered_cap_stops_dispatch_and_takes_nothing_away() {
    let fabric = Fabric::start().await;
    tenant(&fabric, "acme", Plan { in_flight: 4, ..unbound() }).await;
    let gate = Arc::new(Semaphore::new(0));
    fabric.agent(gated("gated", &gate)).await;
    let client = fabric.client("acme").await;
    let tasks = submit(&client, "gated", 8).await;
    let mut live = 0;
    journaled(&fabric.stack, "four run", |record| {
        live += usize::from(matches!(record, Record::Dispatched { .. }));
        live == 4
    })
    .await;
    replan(&fabric, &fabric.limits().await, "acme", |plan| plan.in_flight = 1).await;
    gate.add_permits(8);
    for task in &tasks {
        assert_eq!(soon("the end", task.wait()).await.unwrap().state, Phase::Completed);
    }
    let mut lowered = false;
    let mut reading = Reading::default();
    for message in journal(&fabric.stack).await {
        for record in &message.records {
            lowered |= matches!(record, Record::PlanSet { plan: Some(plan), .. } if plan.in_flight == 1);
            reading.take(record, message.now, "acme");
            if lowered && matches!(record, Record::Dispatched { .. }) {
                assert_eq!(reading.live.len(), 1);
            }
            assert!(!matches!(record, Record::LeaseLost { .. }), "what runs goes on");
        }
    }
    assert!(lowered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_tenant_is_refused_and_an_unknown_one_too_where_there_is_no_default_plan() {
    let fabric = Fabric::start_with(|options| options.policy.default_plan = None).await;
    tenant(&fabric, "acme", unbound()).await;
    let stranger = fabric.client("stranger").await;
    let unknown = refusal(soon("a refusal", stranger.submit_and_confirm("a", &1)).await.unwrap_err());
    assert_eq!(unknown.code, Code::UnknownTenant);
    assert!(unknown.message.contains("stranger") && unknown.message.contains("tenant set"), "{unknown}");
    let later = stranger.submit("a", &2).await.unwrap();
    let ended = soon("the end", later.wait()).await.unwrap();
    assert_eq!((ended.state, ended.refusal.unwrap().code), (Phase::Rejected, Code::UnknownTenant));

    let client = fabric.client("acme").await;
    let queued = soon("an admission", client.submit_and_confirm("napper", &1u64)).await.unwrap();
    change(&fabric, "acme", |settings| settings.suspended = true).await;
    let suspended = refusal(soon("a refusal", client.submit_and_confirm("napper", &2u64)).await.unwrap_err());
    assert_eq!(suspended.code, Code::TenantSuspended);
    change(&fabric, "acme", |settings| settings.suspended = false).await;
    fabric.agent(napper("napper", Duration::ZERO)).await;
    soon("what was queued before", queued.wait()).await.unwrap();
    soon("taken again", client.submit_and_confirm("napper", &3u64)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_above_the_plan_is_lowered_not_refused() {
    let fabric =
        Fabric::start_with(|options| options.policy.backoff = Backoff { base_ms: 5, cap_ms: 5 }).await;
    tenant(&fabric, "acme", Plan { max_priority: Priority::Normal, max_tries: 3, ..unbound() }).await;
    let failing =
        Agent::new(
            "failing",
            |_: Ctx, _: u64| async move { Err::<u64, _>(AgentError::retryable("not today")) },
        );
    fabric.agent(failing.unwrap()).await;
    let client = fabric.client("acme").await;
    let wish = client.submit("failing", &1u64).priority(Priority::Critical).max_tries(99);
    let task = soon("an admission", wish.confirmed()).await.unwrap();
    let ended = soon("dead after three", task.wait()).await.unwrap();
    assert_eq!((ended.state, ended.refusal.unwrap().code), (Phase::Failed, Code::HandlerFailed));
    let view = client.get(task.id()).await.unwrap();
    assert_eq!((view.priority, view.tries, view.failures.len()), (Priority::Normal, 3, 3));
    // The same submit again is the same task, not a conflict with its lowered self.
    let again = client.submit("failing", &1u64).id(task.id().as_str());
    let again = again.priority(Priority::Critical).max_tries(99);
    assert_eq!(soon("the same task", again.await.unwrap().wait()).await.unwrap().state, Phase::Failed);
    let once = client.submit("failing", &1u64).max_tries(1).await.unwrap();
    soon("dead after one", once.wait()).await.unwrap();
    assert_eq!(client.get(once.id()).await.unwrap().tries, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenants_flood_delays_another_by_no_more_than_what_runs() {
    const SLOTS: usize = 4;
    let fabric = Fabric::start().await;
    tenant(&fabric, "flood", unbound()).await;
    tenant(&fabric, "guest", unbound()).await;
    fabric.agent(napper("napper", Duration::from_millis(10)).slots(SLOTS as u32)).await;
    let _flood = submit(&fabric.client("flood").await, "napper", 2_000).await;
    let guest = fabric.client("guest").await;
    let mut ids = BTreeMap::<TaskId, (usize, Option<usize>)>::new();
    for n in 0..5u64 {
        let task = guest.submit("napper", &n).await.unwrap();
        soon("the guest is served", task.wait()).await.unwrap();
        ids.insert(task.id().clone(), (0, None));
    }
    let mut dispatches = 0;
    for record in journal(&fabric.stack).await.iter().flat_map(|m| &m.records) {
        match record {
            Record::Submitted { admission, .. } => {
                if let Some((admitted, _)) = ids.get_mut(&admission.task) {
                    *admitted = dispatches;
                }
            }
            Record::Dispatched { key, .. } => {
                dispatches += 1;
                if let Some((_, dispatched)) = ids.get_mut(&key.id) {
                    *dispatched = Some(dispatches);
                }
            }
            _ => {}
        }
    }
    for (id, (admitted, dispatched)) in ids {
        let before = dispatched.unwrap() - admitted - 1;
        assert!(before <= 2 * SLOTS, "{before} of the flood went before {id}");
    }
    let flooded = Reading::of(&journal(&fabric.stack).await, "flood").dispatches.len();
    assert!(flooded < 2_000, "the flood was still there");
}
