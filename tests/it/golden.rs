//! The wire, held still: every message in both encodings, byte for byte, as `tests/golden/<name>.{msgpack,json}`.
//!
//! Other languages test against the same files. `UPDATE_GOLDEN=1` writes them anew; a changed file is
//! a changed protocol.

use std::{collections::BTreeSet, fmt::Debug, fs, path::PathBuf};

use selvedge::{
    task::{
        AgentName, BodyHash, Code, InstanceId, Labels, Object, ObjectHash, Outcome, Payload, Phase, Priority,
        Refusal, Spec, TaskId, TenantName, Times, Token, TryFailure, WaitFor, child_id,
    },
    wire::{
        about::*,
        api::*,
        calls::{Call, CallOver, CallPart, CallRequest, HeldCall, PartOp},
        codec::{self, Format},
        history::*,
        messages::*,
    },
};
use serde::{Serialize, de::DeserializeOwned};

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// Compares one message with its two files; keeps the names it has seen.
#[derive(Default)]
struct Golden {
    seen: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Golden {
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(&mut self, name: &str, message: T) {
        for (format, extension) in [(Format::MsgPack, "msgpack"), (Format::Json, "json")] {
            let file = format!("{name}.{extension}");
            let path = PathBuf::from(DIR).join(&file);
            let bytes = format.encode(&message);
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                fs::write(&path, &bytes).unwrap();
            }
            match fs::read(&path) {
                Ok(golden) if golden == bytes => {}
                Ok(_) => self.wrong.push(format!("{file} differs")),
                Err(error) => self.wrong.push(format!("{file}: {error}")),
            }
            let (found, back) = codec::decode_any::<T>(None, &bytes, 1 << 20);
            assert_eq!((found, back.as_ref()), (format, Ok(&message)), "{file}");
            self.seen.insert(file);
        }
    }
}

fn task(text: &str) -> TaskId {
    TaskId::new(text).unwrap()
}

fn agent() -> AgentName {
    AgentName::new("reader").unwrap()
}

fn instance() -> InstanceId {
    InstanceId::new("7b1f5e1c8d5a4b7e9a3c2d1e0f4a5b6c").unwrap()
}

fn tenant() -> TenantName {
    TenantName::new("acme").unwrap()
}

const TOKEN: Token = Token(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
const AT: u64 = 1_767_225_600_000;

fn input() -> Payload {
    Payload::json(&serde_json::json!({"path": "README.md", "depth": 2})).unwrap()
}

fn spec() -> Spec {
    Spec {
        labels: None,
        agent: agent(),
        input: input(),
        priority: Priority::Normal,
        max_tries: None,
        times: None,
        cost: None,
    }
}

fn depth_refusal() -> Refusal {
    Refusal::over(Code::DepthExceeded, "depth 6 > cap 5", 6, 5)
}

fn report(n: u32, op: ReportOp) -> Report {
    Report { v: 1, token: TOKEN, attempt: 1, agent: agent(), instance: instance(), n, op }
}

fn end(outcome: Outcome) -> Report {
    report(3, ReportOp::End(End { last_event: 17, outcome, used: None }))
}

fn ctl(op: CtlOp) -> Ctl {
    Ctl { v: 1, epoch: 42, ops: vec![op] }
}

fn labels() -> Option<Labels> {
    Some(Labels::from_iter([("run", "7"), ("team", "search")]))
}

fn view() -> TaskView {
    TaskView {
        labels: labels().unwrap(),
        tenant: tenant(),
        task: task("t-1"),
        agent: agent(),
        state: Phase::Retrying,
        rev: 918,
        priority: Priority::High,
        parent: Some(task("t-0")),
        root: task("t-0"),
        depth: 1,
        attempt: 2,
        tries: 1,
        instance: Some(instance()),
        created_at: AT,
        not_before: Some(AT + 600_000),
        deadline_at: Some(AT + 7_200_000),
        started_at: Some(AT + 4),
        ended_at: None,
        refusal: None,
        failures: vec![TryFailure {
            attempt: 1,
            at: AT + 90,
            code: Code::LeaseLost,
            message: "not heard of for 15000 ms".into(),
        }],
        retry_of: None,
        last_event: 17,
        body_hash: Some(spec().body_hash()),
        result: None,
    }
}

fn about() -> About {
    About {
        description: Some("Reads documents".into()),
        version: Some("1.4.0".into()),
        input: Some(Payload::json(&serde_json::json!({"type": "object", "required": ["path"]})).unwrap()),
        output: Some(Payload::json(&serde_json::json!({"type": "integer"})).unwrap()),
        limits: [("tokens_per_minute".to_owned(), 90_000)].into(),
    }
}

fn messages(golden: &mut Golden) {
    golden.check(
        "submit",
        Submit {
            labels: labels().map(Box::new),
            v: 1,
            input: input(),
            priority: Priority::High,
            max_tries: Some(5),
            times: None,
            cost: Some(4_000),
            first_try: Some(AT),
            confirm: true,
            hops: 0,
        },
    );
    golden.check(
        "submit-hops",
        Submit {
            labels: None,
            v: 1,
            input: input(),
            priority: Priority::Normal,
            max_tries: None,
            times: None,
            cost: None,
            first_try: Some(AT),
            confirm: false,
            hops: 2,
        },
    );
    golden.check(
        "submit-bytes",
        Submit {
            labels: None,
            v: 1,
            input: Payload::Bytes(vec![0, 255, 16].into()),
            priority: Priority::Normal,
            max_tries: None,
            times: None,
            cost: None,
            first_try: None,
            confirm: false,
            hops: 0,
        },
    );
    let times = Times {
        delay_ms: Some(600_000),
        run_at: None,
        ttl_ms: Some(60_000),
        try_timeout_ms: Some(300_000),
        deadline_ms: None,
        deadline_at: Some(AT + 7_200_000),
    };
    golden.check(
        "submit-timed",
        Submit {
            labels: None,
            v: 1,
            input: input(),
            priority: Priority::Normal,
            max_tries: None,
            times: Some(Box::new(times)),
            cost: None,
            first_try: None,
            confirm: false,
            hops: 0,
        },
    );
    golden.check("cmd-cancel", Cmd { v: 1, op: CmdOp::Cancel { reason: "no longer needed".into() } });
    golden.check("cmd-retry", Cmd { v: 1, op: CmdOp::Retry {} });
    golden.check("cmd-pause", Cmd { v: 1, op: CmdOp::Pause {} });
    golden.check("cmd-resume", Cmd { v: 1, op: CmdOp::Resume {} });
    golden.check(
        "beat",
        Beat {
            v: 1,
            slots: 8,
            tokens: vec![TOKEN],
            lease_ms: 15_000,
            draining: false,
            messages: false,
            calls: None,
            about: None,
            ahead: 0,
            call_slots: 0,
        },
    );
    golden.check(
        "beat-draining",
        Beat {
            v: 1,
            slots: 0,
            tokens: vec![],
            lease_ms: 15_000,
            draining: true,
            messages: true,
            calls: None,
            ahead: 0,
            about: None,
            call_slots: 0,
        },
    );
    golden.check(
        "beat-ahead",
        Beat {
            v: 1,
            slots: 4,
            tokens: vec![],
            lease_ms: 15_000,
            draining: false,
            messages: true,
            calls: None,
            ahead: 2,
            about: None,
            call_slots: 0,
        },
    );
    golden.check(
        "beat-call-slots",
        Beat {
            v: 1,
            slots: 4,
            tokens: vec![],
            lease_ms: 15_000,
            draining: false,
            messages: true,
            calls: Some(vec![]),
            ahead: 0,
            about: None,
            call_slots: 1,
        },
    );
    golden.check(
        "beat-about",
        Beat {
            v: 1,
            slots: 8,
            tokens: vec![],
            lease_ms: 15_000,
            draining: false,
            messages: true,
            calls: None,
            ahead: 0,
            about: Some(Box::new(about())),
            call_slots: 0,
        },
    );
    golden.check("beat-reply", BeatReply { v: 1, epoch: 42, stop: vec![TOKEN] });
    golden.check(
        "offer",
        Offers {
            v: 1,
            epoch: 42,
            offers: vec![
                Offer {
                    tenant: tenant(),
                    task: task("t-1"),
                    attempt: 2,
                    token: TOKEN,
                    lease_ms: 15_000,
                    tries: 1,
                    parent: Some(task("t-0")),
                    root: task("t-0"),
                    depth: 1,
                    children: 70,
                    recorded: 3,
                    told: 2,
                    deadline_at: Some(AT + 7_200_000),
                    time_left_ms: Some(300_000),
                    hops: 0,
                    input: input(),
                },
                Offer {
                    tenant: tenant(),
                    task: task("t-2"),
                    attempt: 1,
                    token: Token(7),
                    lease_ms: 15_000,
                    tries: 0,
                    parent: None,
                    root: task("t-2"),
                    depth: 0,
                    children: 0,
                    recorded: 0,
                    told: 0,
                    deadline_at: None,
                    time_left_ms: None,
                    hops: 0,
                    input: Payload::Bytes(vec![0, 255].into()),
                },
            ],
        },
    );
    let held = HeldCall { tenant: tenant(), token: TOKEN, depth: 1, hops: 0, borrows: Some(task("t-1")) };
    golden.check(
        "beat-calls",
        Beat {
            v: 1,
            slots: 8,
            tokens: vec![],
            lease_ms: 15_000,
            draining: false,
            messages: true,
            calls: Some(vec![held]),
            ahead: 0,
            about: None,
            call_slots: 0,
        },
    );
    golden.check("call", CallRequest { v: 1, input: input(), max_ms: Some(20_000), asker: None });
    golden.check("call-asked", CallRequest { v: 1, input: input(), max_ms: None, asker: Some(TOKEN) });
    let given = Call {
        tenant: tenant(),
        token: TOKEN,
        depth: 1,
        hops: 0,
        borrows: Some(task("t-1")),
        time_left_ms: 60_000,
        json: true,
        input: input(),
    };
    golden.check("ctl-call", ctl(CtlOp::Call(Box::new(given))));
    let data = Payload::json("loom").unwrap();
    for (name, n, op) in [
        ("call-chunk", 1, PartOp::Chunk { kind: "token".into(), data: data.clone() }),
        ("call-alive", 1, PartOp::Alive {}),
        ("call-end", 2, PartOp::End { result: data }),
        ("call-failed", 0, PartOp::Failed(Refusal::new(Code::Busy, "all 4 slots of agent reader are busy"))),
    ] {
        golden.check(name, CallPart { v: 1, n, op });
    }
    let over = vec![
        CallOver { token: TOKEN, code: None, first_ms: Some(12) },
        CallOver { token: Token(7), code: Some(Code::CallTimeout), first_ms: None },
    ];
    golden.check("accept-over", Accept { v: 1, taken: vec![], busy: vec![], over });
    golden.check(
        "offer-hops",
        Offers {
            v: 1,
            epoch: 42,
            offers: vec![Offer {
                tenant: tenant(),
                task: task("t-3"),
                attempt: 1,
                token: TOKEN,
                lease_ms: 15_000,
                tries: 0,
                parent: None,
                root: task("t-3"),
                depth: 0,
                children: 0,
                recorded: 0,
                told: 0,
                deadline_at: None,
                time_left_ms: None,
                hops: 2,
                input: input(),
            }],
        },
    );
    golden.check("accept", Accept { v: 1, taken: vec![TOKEN], busy: vec![Token(7)], over: vec![] });
    golden.check(
        "report-spawn",
        report(1, ReportOp::Spawn(Spawn { step: "read".into(), first: 64, children: vec![spec(), spec()] })),
    );
    golden.check(
        "submits",
        Submits {
            v: 1,
            tasks: [("reader", "t-1"), ("writer", "t-2")]
                .map(|(agent, id)| TaskSubmit {
                    agent: agent.parse().unwrap(),
                    task: task(id),
                    submit: Submit {
                        labels: None,
                        v: 1,
                        input: input(),
                        priority: Priority::Normal,
                        max_tries: None,
                        times: None,
                        cost: None,
                        first_try: Some(1_800_000_000_000),
                        confirm: false,
                        hops: 0,
                    },
                })
                .into(),
        },
    );
    golden.check(
        "reports",
        Reports {
            v: 1,
            reports: [("acme", "t-1", TOKEN), ("globex", "t-2", Token(7))]
                .map(|(tenant, id, token)| TaskReport {
                    tenant: tenant.parse().unwrap(),
                    task: task(id),
                    token,
                    attempt: 2,
                    n: 3,
                    op: ReportOp::End(End { last_event: 40, outcome: Outcome::Snooze { ms: 0 }, used: None }),
                })
                .into(),
        },
    );
    golden.check("report-completed", end(Outcome::Completed { result: Payload::json(&45).unwrap() }));
    golden.check(
        "report-failed",
        end(Outcome::Failed {
            message: "rate limited".into(),
            retryable: true,
            retry_after_ms: Some(30_000),
            code: None,
        }),
    );
    golden.check("report-snooze", end(Outcome::Snooze { ms: 60_000 }));
    golden.check("report-wait-all", end(Outcome::Wait(WaitFor::AllChildren)));
    golden.check(
        "report-wait-children",
        end(Outcome::Wait(WaitFor::Children(vec![child_id(&task("t-1"), "read", 0)]))),
    );
    golden.check(
        "report-wait-signal",
        end(Outcome::Wait(WaitFor::Message {
            place: 2,
            signal: Some("approval".into()),
            within_ms: Some(86_400_000),
        })),
    );
    golden.check("report-wait-time", end(Outcome::Wait(WaitFor::Time { place: 3, ms: 60_000 })));
    golden.check(
        "report-failed-changed",
        end(Outcome::Failed {
            message: "place 3: the handler calls step `b`, and step `a` is recorded there".into(),
            retryable: true,
            retry_after_ms: None,
            code: Some(Code::StepChanged),
        }),
    );
    for (name, step) in [("report-step", result()), ("report-step-kept", scraped()), ("report-took", took())]
    {
        golden.check(name, report(3, ReportOp::Step(step)));
    }
    let tell = CmdOp::Tell {
        signal: Some("approval".into()),
        message: Payload::json(&serde_json::json!({"ok": true})).unwrap(),
        from: Some("ada".into()),
    };
    golden.check("cmd-tell", Cmd { v: 1, op: tell });
    golden.check(
        "ctl-verdict",
        ctl(CtlOp::Verdict(Verdict { token: TOKEN, n: 3, refusal: None, refused: vec![] })),
    );
    golden.check(
        "ctl-verdict-stale",
        ctl(CtlOp::Verdict(Verdict {
            token: TOKEN,
            n: 3,
            refusal: Some(Refusal::new(Code::StaleLease, "attempt 1 is over")),
            refused: vec![],
        })),
    );
    golden.check(
        "ctl-verdict-children",
        ctl(CtlOp::Verdict(Verdict {
            token: TOKEN,
            n: 1,
            refusal: None,
            refused: vec![RefusedChild {
                task: child_id(&task("t-1"), "read", 65),
                refusal: depth_refusal(),
            }],
        })),
    );
    golden.check(
        "ctl-many",
        Ctl {
            v: 1,
            epoch: 42,
            ops: vec![
                CtlOp::Verdict(Verdict { token: TOKEN, n: 1, refusal: None, refused: vec![] }),
                CtlOp::Stop { token: Token(7), code: Code::LeaseLost },
            ],
        },
    );
    golden.check("ctl-message", ctl(CtlOp::Message { token: TOKEN, mail: mail(1) }));
    golden.check("ctl-stop", ctl(CtlOp::Stop { token: TOKEN, code: Code::Cancelled }));
    golden.check("owner-hello", OwnerHello { v: 1, epoch: 42, coordinator: "c-1".into() });
    golden.check(
        "done-completed",
        Done {
            v: 1,
            rev: 918,
            state: Phase::Completed,
            refusal: None,
            result: Some(Payload::json(&45).unwrap()),
            attempt: 2,
            last_event: 17,
            body_hash: Some(BodyHash(TOKEN.0.to_be_bytes())),
            nonce: None,
        },
    );
    golden.check(
        "done-rejected",
        Done {
            v: 1,
            rev: 919,
            state: Phase::Rejected,
            refusal: Some(depth_refusal()),
            result: None,
            attempt: 0,
            last_event: 0,
            body_hash: None,
            nonce: None,
        },
    );
    golden.check(
        "done-told",
        Done {
            v: 1,
            rev: 0,
            state: Phase::Waiting,
            refusal: None,
            result: None,
            attempt: 1,
            last_event: 0,
            body_hash: Some(BodyHash(TOKEN.0.to_be_bytes())),
            nonce: Some(task("n-1")),
        },
    );
    golden.check(
        "event",
        Event {
            v: 1,
            attempt: 2,
            n: 17,
            at: AT,
            kind: "progress".into(),
            data: Payload::json(&serde_json::json!({"done": 3, "of": 7})).unwrap(),
        },
    );
    golden.check(
        "refusal",
        Refusal::over(Code::BacklogFull, "backlog 1001 > cap 1000", 1_001, 1_000).retry_after(5_000),
    );
}

fn mail(seq: u32) -> Mail {
    let (signal, from) = (Some("approval".into()), Some("ada".into()));
    Mail { seq, signal, from, at: AT, message: Payload::json(&serde_json::json!({"ok": true})).unwrap() }
}

fn result() -> Step {
    Step { place: 0, name: "charge".into(), did: Did::Result(Payload::json(&45).unwrap()) }
}

fn object() -> Object {
    Object { hash: ObjectHash::of(b"abc"), bytes: 5_242_880, chunks: 10 }
}

fn scraped() -> Step {
    Step { place: 0, name: "scrape".into(), did: Did::Kept(object()) }
}

fn took() -> Step {
    Step { place: 1, name: "approval".into(), did: Did::Took(1) }
}

fn queries(golden: &mut Golden) {
    golden.check(
        "api-signal",
        TellRequest {
            task: task("t-1"),
            name: Some("approval".into()),
            message: Payload::json(&serde_json::json!({"ok": true})).unwrap(),
            from: Some("ada".into()),
            nonce: Some(task("n-1")),
        },
    );
    golden.check("api-kept", KeptRequest { task: task("t-1"), hash: object().hash, chunk: 3 });
    golden.check("api-kept-reply", KeptReply { chunk: Payload::Bytes(b"[\"a page".as_slice().into()) });
    golden.check(
        "api-history-kept-reply",
        HistoryPage { messages: vec![], steps: vec![scraped()], next: None },
    );
    golden.check("api-history", HistoryRequest { task: task("t-1"), place: 0, after: 0 });
    let timed_out = Step { place: 2, name: "approval".into(), did: Did::TimedOut {} };
    let slept = Step { place: 3, name: String::new(), did: Did::Slept {} };
    golden.check(
        "api-history-reply",
        HistoryPage {
            messages: vec![mail(1)],
            steps: vec![result(), took(), timed_out, slept],
            next: Some((4, 1)),
        },
    );
    golden.check(
        "api-submit",
        SubmitRequest {
            labels: labels().map(Box::new),
            agent: agent(),
            task: None,
            key: Some("order-7".into()),
            input: input(),
            priority: Priority::Normal,
            max_tries: None,
            times: None,
            cost: Some(4_000),
        },
    );
    golden.check("api-pause", PauseRequest { task: task("t-1") });
    golden.check(
        "api-submit-reply",
        TaskReply { task: task("t-1"), state: Some(Phase::Queued), refusal: None },
    );
    golden.check("api-get", GetRequest { task: task("t-1"), min_rev: Some(918) });
    golden.check("api-get-reply", view());
    golden.check(
        "api-list",
        ListRequest {
            states: vec![Phase::Running, Phase::Waiting],
            agent: Some(agent()),
            limit: Some(10),
            ..ListRequest::default()
        },
    );
    golden.check(
        "api-list-reply",
        TaskPage {
            tasks: vec![view()],
            next: Some("918.t-1".into()),
            complete: true,
            scanned: 1,
            as_of: Some(1_795_244_400_000),
        },
    );
    golden.check(
        "api-list-of-parent",
        ListRequest {
            parent: Some(task("t-0")),
            since: Some(AT),
            until: Some(AT + 60_000),
            cursor: Some("918.t-1".into()),
            ..ListRequest::default()
        },
    );
    golden.check("api-many", ManyRequest { tasks: vec![task("t-1"), task("t-2"), task("t-3")] });
    golden.check(
        "api-many-reply",
        ManyReply { tasks: vec![view()], missing: vec![task("t-2")], unknown: vec![task("t-3")] },
    );
    golden.check(
        "api-count",
        CountRequest { states: vec![Phase::Failed], since: Some(AT), ..CountRequest::default() },
    );
    golden.check("api-count-reply", CountReply { count: 3, as_of: Some(AT) });
    golden.check("api-tree", TreeRequest { task: task("t-1"), limit: Some(100), cursor: None });
    golden.check(
        "api-tree-reply",
        TreePage { root: task("t-0"), tasks: vec![view()], next: Some("918.t-1".into()), as_of: Some(AT) },
    );
    golden
        .check("api-children", ChildrenRequest { task: task("t-0"), after: 64, limit: None, results: true });
    golden.check(
        "api-children-reply",
        ChildrenPage {
            children: vec![ChildView {
                task: child_id(&task("t-0"), "read", 64),
                agent: agent(),
                step: "read".into(),
                index: 64,
                state: Phase::Completed,
                refusal: None,
                result: Some(Payload::json(&45).unwrap()),
            }],
            next: Some(65),
        },
    );
    golden.check("api-events", EventsRequest { task: task("t-1"), after: Some((2, 16)), limit: Some(100) });
    golden.check("api-events-reply", EventsPage { events: vec![], more: false });
    golden.check("api-agents", AgentsRequest { agent: Some(agent()), schemas: true });
    golden.check(
        "api-agents-reply",
        AgentsReply {
            agents: vec![AgentView {
                agent: agent(),
                about: vec![about()],
                instances: vec![InstanceView {
                    instance: instance(),
                    state: "serving".into(),
                    version: Some("1.4.0".into()),
                    schema_error: None,
                    slots: 8,
                    free: 7,
                    call_slots: 0,
                    running: 1,
                    tasks: vec![task("t-1")],
                    silent_ms: 1_200,
                }],
            }],
            more: false,
            at: AT,
        },
    );
    golden.check("api-why", WhyRequest { task: task("t-1") });
    golden.check(
        "api-why-reply",
        Why {
            tenant: "acme".parse().unwrap(),
            task: task("t-1"),
            agent: agent(),
            state: Phase::Queued,
            reasons: vec![
                Hold {
                    reason: Reason::TenantRate,
                    message: "tenant acme at its rate of 20/s (burst 100); in 750 ms".into(),
                    limit: Some(20),
                    actual: Some(0),
                    until: Some(1_795_244_400_750),
                },
                Hold {
                    reason: Reason::OwnTasksFirst,
                    message: "14 ahead of it of tenant acme at agent reader (class normal)".into(),
                    limit: None,
                    actual: Some(14),
                    until: None,
                },
            ],
            children: vec![],
            instance: None,
            since: None,
            expires_at: Some(1_795_244_460_000),
            at: 1_795_244_400_000,
        },
    );
    golden.check("api-cancel", CancelRequest { task: task("t-1"), reason: "no longer needed".into() });
    golden.check("api-retry", RetryRequest { task: task("t-1"), nonce: Some(task("n-1")) });
    golden.check(
        "api-stats-reply",
        StatsReply {
            states: [("queued".to_owned(), 3), ("running".to_owned(), 2)].into(),
            total: 5,
            as_of: Some(1_795_244_400_000),
        },
    );
}

#[test]
fn every_message_is_what_the_golden_files_say() {
    let mut golden = Golden::default();
    messages(&mut golden);
    queries(&mut golden);
    for file in fs::read_dir(DIR).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if !golden.seen.contains(&name) {
            golden.wrong.push(format!("{name} belongs to no message"));
        }
    }
    assert!(golden.wrong.is_empty(), "{}; see UPDATE_GOLDEN in this file", golden.wrong.join(", "));
}

#[test]
fn a_newer_sender_is_understood_as_far_as_it_goes() {
    let beat: Beat =
        Format::Json.decode(br#"{"v":2,"slots":1,"mood":"fine","tokens":[],"lease_ms":1}"#, 1_000).unwrap();
    assert_eq!((beat.v, beat.slots), (2, 1));
    let refusal: Refusal = Format::Json.decode(br#"{"code":"NEVER_HEARD","message":"x"}"#, 1_000).unwrap();
    assert_eq!(refusal.code, Code::UnknownCode);
    let report = br#"{"token":"00000000000000000000000000000001","attempt":1,"agent":"a","instance":"i","n":1,"op":{"dance":{}}}"#;
    let error = Format::Json.decode::<Report>(report, 1_000).unwrap_err().to_string();
    // What is known is named; what was sent is not repeated.
    assert!(error.contains("`op`") && error.contains("expected one of `spawn`, `step`, `end`"), "{error}");
}
