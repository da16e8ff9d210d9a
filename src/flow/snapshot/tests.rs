//! Snapshots that are not what was written: named, refused, nothing guessed.

use bytes::Bytes;
use serde::Serialize;

use super::*;
use crate::{
    flow::{
        engine::{Engine, Next},
        gate::seconds,
        input::Input,
        limiter::RateState,
        rig::Given,
        state::Policy,
    },
    task::{AgentName, AgentSettings, InstanceId, Labels, Millis, Payload, TaskKey, TenantSettings},
    wire::{
        messages::{Beat, Cmd, CmdOp, Submit},
        subjects::Shard,
    },
};

/// A few tenants, queued and running tasks, an agent with limits, a tree that is paused.
fn engine() -> Engine<()> {
    let mut engine: Engine<()> = Engine::new(Shard(3));
    engine.open("c", Policy::default());
    let (agent, instance): (AgentName, InstanceId) = ("reader".parse().unwrap(), "r-1".parse().unwrap());
    let body = Beat {
        v: 1,
        slots: 4,
        tokens: vec![],
        lease_ms: 15_000,
        draining: false,
        messages: false,
        calls: None,
        about: None,
        ahead: 0,
        call_slots: 0,
    };
    engine.push(Input::Beat { agent: agent.clone(), instance, body }, None);
    let own =
        AgentSettings { rate: Some(100), burst: Some(50), cells: Some(1_000), ..AgentSettings::default() };
    engine.push(Input::Agent { name: agent.clone(), settings: Some(own), kv_rev: 7 }, None);
    let idle = AgentSettings { in_flight: Some(0), paused: true, ..AgentSettings::default() };
    engine.push(Input::Agent { name: "nobody".parse().unwrap(), settings: Some(idle), kv_rev: 8 }, None);
    for n in 0..40 {
        let key = TaskKey {
            tenant: format!("t{}", n % 3).parse().unwrap(),
            id: format!("task-{n}").parse().unwrap(),
        };
        let input = Payload::json(&"x".repeat(100)).unwrap();
        let submit = Submit {
            labels: (n % 5 == 0).then(|| Box::new(Labels::from_iter([("n", n.to_string())]))),
            v: 1,
            input,
            priority: Default::default(),
            max_tries: None,
            times: None,
            cost: (n % 4 == 0).then_some(10),
            first_try: None,
            confirm: false,
            hops: 0,
        };
        engine.push(Input::Submit { key, agent: agent.clone(), body: Ok(submit), stored_at: 1_000 }, None);
    }
    let key = TaskKey { tenant: "t0".parse().unwrap(), id: "task-39".parse().unwrap() };
    let pause = Cmd { v: 1, op: CmdOp::Pause {} };
    engine.push(Input::Cmd { key, nonce: "n-1".parse().unwrap(), body: Ok(pause) }, None);
    let mut seq = 0;
    while let Next::Append { .. } = engine.next(5, 1_000, &mut Given { tokens: seq, jitter: 0 }).unwrap() {
        seq += 1;
        engine.appended(u64::try_from(seq).unwrap());
    }
    engine
}

fn written(engine: &mut Engine<()>, max: usize) -> (SnapshotHead, Vec<Bytes>) {
    let head = engine.begin_snapshot();
    let mut parts = Vec::new();
    while let Some(part) = engine.snapshot_part(max) {
        parts.push(part);
    }
    (head, parts)
}

fn restored(head: &SnapshotHead, parts: &[Bytes]) -> Result<Engine<()>, SnapshotError> {
    let mut restore = Restore::new(Shard(3), head.clone())?;
    for part in parts {
        restore.part(part)?;
    }
    restore.finish()
}

#[test]
fn a_restored_state_is_the_same_byte_for_byte() {
    let mut engine = engine();
    for max in [1, 500, 1 << 20] {
        let (head, parts) = written(&mut engine, max);
        let again = restored(&head, &parts).unwrap();
        assert_eq!(again.state().canonical(), engine.state().canonical());
        again.state().check_derived().unwrap();
        assert_eq!(again.seq(), engine.seq());
        assert_eq!(again.needed_from(), engine.needed_from());
    }
}

#[test]
fn another_shards_snapshot_and_another_version_are_refused() {
    let (head, _) = written(&mut engine(), 1 << 20);
    let other = Restore::new(Shard(0), head.clone()).unwrap_err();
    assert_eq!(other, SnapshotError::Shard { shard: 0, found: 3 });
    let newer = Restore::new(Shard(3), SnapshotHead { v: 9, ..head }).unwrap_err();
    assert_eq!(newer, SnapshotError::Version { found: 9 });
}

#[test]
fn a_snapshot_cut_short_is_refused() {
    let (head, parts) = written(&mut engine(), 500);
    assert!(parts.len() > 3);
    let error = restored(&head, &parts[..parts.len() - 1]).err().unwrap();
    assert!(matches!(error, SnapshotError::Misfit(_)), "{error}");
    let mut cut = parts.clone();
    let last = cut.pop().unwrap();
    cut.push(last.slice(..last.len() / 2));
    assert!(restored(&head, &cut).is_err());
    let twice = [parts.clone(), parts].concat();
    assert!(restored(&head, &twice).err().unwrap().to_string().contains("twice"));
}

#[test]
fn flipped_bytes_never_panic_and_never_pass_for_another_number_of_tasks() {
    let (head, parts) = written(&mut engine(), 1 << 20);
    let all: Vec<u8> = parts.concat();
    for at in (0..all.len()).step_by(3) {
        let mut bytes = all.clone();
        bytes[at] ^= 1 << (at % 8);
        if let Ok(engine) = restored(&head, &[Bytes::from(bytes)]) {
            assert_eq!(engine.state().tasks().len(), 40);
        }
    }
}

#[test]
fn a_length_that_lies_costs_no_memory() {
    let (head, _) = written(&mut engine(), 1 << 20);
    // A map of one entry named "t" whose array claims 4 billion elements.
    let bomb = [&[0x81, 0xa1, b't', 0xdd][..], &[0xff; 4], &[0xdd, 0xff, 0xff, 0xff, 0xff]].concat();
    let error = restored(&head, &[Bytes::from(bomb)]).err().unwrap();
    assert!(matches!(error, SnapshotError::Unreadable { part: 0, at: 0, .. }), "{error}");
}

/// What a version before agents had limits, lanes learned, and tasks cost something, wrote.
#[test]
fn what_an_older_version_wrote_is_read() {
    #[derive(Serialize)]
    struct OldTenant {
        number: u32,
        name: &'static str,
        settings: Option<TenantSettings>,
        kv_rev: u64,
        rate: RateState,
        forgotten: Option<Millis>,
        idle_since: Option<Millis>,
    }
    #[derive(Serialize)]
    struct OldQueue(Vec<(u32, u64)>, u64, u64);
    #[derive(Serialize)]
    struct OldAgent(u32, &'static str, Option<OldQueue>);
    #[derive(Serialize)]
    struct OldMore(Option<()>, Option<()>, Vec<()>, u32, Vec<()>, Vec<()>, Vec<()>, Option<()>, Option<()>);
    #[derive(Serialize)]
    struct OldTask {
        tenant: u32,
        id: &'static str,
        agent: u32,
        body_hash: &'static str,
        input: (u64, u32),
        priority: &'static str,
        max_tries: u32,
        phase: &'static str,
        order: u64,
        at: Millis,
        first_try: Millis,
        created: Millis,
        ended: u64,
        rev: u64,
        resumed: bool,
        news: bool,
        tombstone: bool,
        remembered: bool,
        ran: Option<()>,
        more: Option<OldMore>,
    }
    #[expect(clippy::large_enum_variant, reason = "made and written one at a time")]
    #[derive(Serialize)]
    enum Old {
        #[serde(rename = "n")]
        Tenant(OldTenant),
        #[serde(rename = "a")]
        Agent(OldAgent),
        #[serde(rename = "t")]
        Task(Box<OldTask>),
    }
    let tenant = OldTenant {
        number: 4,
        name: "acme",
        settings: None,
        kv_rev: 0,
        rate: RateState::default(),
        forgotten: None,
        idle_since: None,
    };
    let task = OldTask {
        tenant: 4,
        id: "t-1",
        agent: 9,
        body_hash: "00112233445566778899aabbccddeeff",
        input: (0, 0),
        priority: "normal",
        max_tries: 3,
        phase: "queued",
        order: 0,
        at: 0,
        first_try: 1,
        created: 1,
        ended: 0,
        rev: 1,
        resumed: false,
        news: false,
        tombstone: false,
        remembered: false,
        ran: None,
        more: Some(OldMore(None, None, vec![], 0, vec![], vec![], vec![], None, None)),
    };
    let mut bytes = Vec::new();
    let map = Old::Tenant(tenant).serialize(&mut rmp_serde::Serializer::new(&mut bytes).with_struct_map());
    map.unwrap();
    let queue = OldQueue(vec![(4, 77)], 1_024, 5);
    for old in [Old::Agent(OldAgent(9, "reader", Some(queue))), Old::Task(Box::new(task))] {
        old.serialize(&mut rmp_serde::Serializer::new(&mut bytes)).unwrap();
    }
    let (head, _) = written(&mut engine(), 1 << 20);
    let head =
        SnapshotHead { counts: Counts { tenants: 1, agents: 1, tasks: 1, schedules: 0, permits: 0 }, ..head };
    let engine = restored(&head, &[Bytes::from(bytes)]).unwrap();
    engine.state().check_derived().unwrap();
    let key = TaskKey { tenant: "acme".parse().unwrap(), id: "t-1".parse().unwrap() };
    let task = engine.state().task(&key).unwrap();
    assert_eq!((task.more().cost, task.admitted), (0, seconds(head.now)), "it costs nothing and is new");
    let queue = engine.state().queue(&"reader".parse().unwrap()).unwrap();
    assert_eq!((queue.queued(), queue.in_flight()), (1, 0));
}
