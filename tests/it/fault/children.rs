//! Trees: parents that wait while their agents die, bombs, cycles, cancels.

use std::time::Duration;

use selvedge::flow::record::Record;
use selvedge::task::{Code, Phase, Plan};
use selvedge::wire::messages::Spawn;

use super::audit::Audit;
use super::by_hand::ByHand;
use super::process::{self, policy};
use super::work::{self, AGENT, Gate, Work};
use crate::harness::fabric::{Fabric, eventually, unbound};
use crate::harness::{soon, until};

async fn fabric(tenant_plan: Plan) -> Fabric {
    let fabric = Fabric::start_with(|options| options.policy = policy()).await;
    fabric.plan("acme", tenant_plan).await;
    until("the plan is in force", async || {
        let audit = Audit::of(&fabric.stack).await;
        (audit.count(|r| matches!(r, Record::TenantSet { .. })) > 0).then_some(())
    })
    .await;
    fabric
}

fn narrow() -> Plan {
    Plan { in_flight: 1, depth: 4, children: 3, tree: 121, max_tries: 5, ..unbound() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_of_depth_four_finishes_at_in_flight_one_though_every_agent_is_killed_while_parents_wait() {
    let fabric = fabric(narrow()).await;
    let mut gate = Gate::new(&fabric, "leaf").await;
    let lease = Duration::from_millis(800);
    let mut agents = vec![process::agent(&fabric.stack, 2, lease), process::agent(&fabric.stack, 2, lease)];
    let client = fabric.client("acme").await;
    let root = client.submit(AGENT, &Work::Tree(4, Some("leaf".into()))).await.unwrap();
    // The first leaf runs: its four ancestors wait, and no process remembers them.
    gate.next().await;
    for agent in agents.drain(..) {
        agent.kill();
    }
    agents.push(process::agent(&fabric.stack, 2, lease));
    let leaves = async {
        loop {
            gate.next().await;
            gate.open().await;
        }
    };
    let total = tokio::select! {
        total = eventually("the whole tree", root.result::<u64>()) => total.unwrap(),
        () = leaves => unreachable!(),
    };
    assert_eq!(total, 1 + 3 + 9 + 27 + 81);
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    assert_eq!(audit.len(), 121);
    assert_eq!(audit.most_in_flight["acme"], 1);
    let lost = audit.count(|r| matches!(r, Record::LeaseLost { .. }));
    assert_eq!(lost, 1, "only the leaf that ran was lost; who waits holds no lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fan_out_bomb_is_stopped_by_caps_with_typed_refusals_and_others_go_on() {
    let fabric = fabric(Plan { depth: 2, children: 8, tree: 40, in_flight: 4, ..unbound() }).await;
    fabric.agent(work::agent(8, Duration::from_secs(5))).await;
    let client = fabric.client("acme").await;
    let bomb = client.submit(AGENT, &Work::Bomb).max_tries(1).await.unwrap();
    let other = fabric.client("other").await;
    let task = other.submit(AGENT, &Work::Echo(3)).await.unwrap();
    assert_eq!(soon("another tenant's task", task.result::<u64>()).await.unwrap(), 3);
    soon("the bomb is over", bomb.wait()).await.unwrap();
    until("its tree is over", async || {
        let audit = Audit::of(&fabric.stack).await;
        let open = audit.count(|r| matches!(r, Record::Submitted { .. }));
        (open == 2).then_some(())
    })
    .await;
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    let mut codes = std::collections::BTreeMap::new();
    let mut admitted = 1;
    for record in audit.messages.iter().flat_map(|m| &m.records) {
        let Record::Spawned { children, .. } = record else { continue };
        for child in children {
            match &child.refusal {
                Some(refusal) => {
                    assert!(refusal.actual > refusal.limit, "{refusal:?}");
                    *codes.entry(refusal.code).or_insert(0) += 1;
                }
                None => admitted += 1,
            }
        }
    }
    assert!(admitted <= 40, "{admitted} of 40");
    assert!(codes.contains_key(&Code::ChildrenExceeded), "{codes:?}");
    assert!(codes.contains_key(&Code::DepthExceeded) || codes.contains_key(&Code::TreeExceeded), "{codes:?}");
    assert_eq!(audit.most_in_flight["acme"].max(4), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_own_descendants_are_waited_for_so_no_cycle_can_be_made() {
    let fabric = fabric(narrow()).await;
    fabric.agent(work::agent(2, Duration::from_secs(5))).await;
    let client = fabric.client("acme").await;
    // Each waits for the other, and for itself.
    let both = ["a".parse().unwrap(), "b".parse().unwrap()];
    let a = client.submit(AGENT, &Work::WaitFor(both.to_vec())).id("a").await.unwrap();
    let b = client.submit(AGENT, &Work::WaitFor(both.to_vec())).id("b").await.unwrap();
    assert_eq!(soon("a goes on", a.result::<u64>()).await.unwrap(), 2);
    assert_eq!(soon("b goes on", b.result::<u64>()).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_tree_admits_no_child_and_tells_what_runs() {
    let fabric = fabric(Plan { in_flight: 10, ..narrow() }).await;
    let client = fabric.client("acme").await;
    let mut worker = ByHand::new(&fabric, 4, 60_000).await;
    let root = client.submit(AGENT, &Work::Echo(1)).await.unwrap();
    let offer = worker.offered().await;
    worker.accept(&[offer.token], &[]).await;
    let children = |n: usize| {
        let child = serde_json::json!({"agent": AGENT, "input": 1});
        vec![serde_json::from_value(child).unwrap(); n]
    };
    worker.spawn(&offer, 1, Spawn { step: "s".into(), first: 0, children: children(2) }).await;
    let child = worker.next_offer().await;
    worker.accept(&[child.token], &[]).await;
    root.cancel("enough").await.unwrap();
    let codes = [worker.stopped(offer.token).await, worker.stopped(child.token).await];
    assert_eq!(codes, [Code::Cancelled; 2]);
    // Both try to go on, too late.
    worker.spawn(&offer, 2, Spawn { step: "t".into(), first: 0, children: children(1) }).await;
    assert_eq!(worker.verdict(offer.token, 2).await.refusal.unwrap().code, Code::StaleLease);
    worker.complete(&child, 1, 1).await;
    assert_eq!(worker.verdict(child.token, 1).await.refusal.unwrap().code, Code::StaleLease);
    assert_eq!(soon("its end", root.wait()).await.unwrap().state, Phase::Cancelled);
    let audit = Audit::of(&fabric.stack).await;
    audit.assert_settled();
    assert_eq!(audit.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spawn_too_large_for_one_journal_message_is_refused_and_harms_nobody() {
    let fabric = fabric(Plan { children: 5_000, tree: 5_000, ..unbound() }).await;
    let client = fabric.client("acme").await;
    let mut worker = ByHand::new(&fabric, 1, 60_000).await;
    let task = client.submit(AGENT, &Work::Echo(1)).await.unwrap();
    let offer = worker.offered().await;
    worker.accept(&[offer.token], &[]).await;
    let child = serde_json::json!({"agent": AGENT, "input": "x".repeat(640)});
    let children = vec![serde_json::from_value(child).unwrap(); 1_000];
    worker.spawn(&offer, 1, Spawn { step: "s".repeat(128), first: 0, children }).await;
    let verdict = worker.verdict(offer.token, 1).await;
    assert_eq!(verdict.refusal.unwrap().code, Code::TooLarge);
    worker.complete(&offer, 2, 5).await;
    assert_eq!(soon("its end", task.result::<u64>()).await.unwrap(), 5);
}
