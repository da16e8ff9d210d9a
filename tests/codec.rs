//! Every message survives both encodings; no bytes make a decoder panic, or allocate more than a few
//! times their length.
//!
//! A binary of its own, because it counts what is allocated.

use std::fmt::Debug;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use selvedge::task::*;
use selvedge::wire::about::About;
use selvedge::wire::api::*;
use selvedge::wire::calls::{Call, CallOver, CallPart, CallRequest, HeldCall, PartOp};
use selvedge::wire::codec::{Format, decode_any};
use selvedge::wire::history::{Did, KeptReply, KeptRequest, Mail, Step};
use selvedge::wire::messages::*;
use serde::{Serialize, de::DeserializeOwned};

#[path = "hostile/counting.rs"]
mod counting;

/// The most bytes that were allocated at once while `work` ran.
fn peak(work: impl FnOnce()) -> usize {
    counting::peak(work).0
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9][a-z0-9_-]{0,62}"
}

fn task() -> impl Strategy<Value = TaskId> {
    name().prop_map(|n| TaskId::new(n).unwrap())
}

fn agent() -> impl Strategy<Value = AgentName> {
    name().prop_map(|n| AgentName::new(n).unwrap())
}

fn instance() -> impl Strategy<Value = InstanceId> {
    name().prop_map(|n| InstanceId::new(n).unwrap())
}

fn tenant() -> impl Strategy<Value = TenantName> {
    name().prop_map(|n| TenantName::new(n).unwrap())
}

fn token() -> impl Strategy<Value = Token> {
    any::<u128>().prop_map(Token)
}

fn hash() -> impl Strategy<Value = BodyHash> {
    any::<[u8; 16]>().prop_map(BodyHash)
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,20}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Into::into),
            // Keys that begin with `$` have a meaning at the top.
            btree_map("[a-z]{1,4}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        json().prop_map(|value| Payload::json(&value).unwrap()),
        vec(any::<u8>(), 0..200).prop_map(|bytes| Payload::Bytes(Bytes::from(bytes))),
    ]
}

fn priority() -> impl Strategy<Value = Priority> {
    prop::sample::select(vec![Priority::Low, Priority::Normal, Priority::High, Priority::Critical])
}

fn phase() -> impl Strategy<Value = Phase> {
    prop::sample::select(Phase::ALL.to_vec())
}

fn code() -> impl Strategy<Value = Code> {
    prop::sample::select(Code::ALL.to_vec())
}

fn refusal() -> impl Strategy<Value = Refusal> {
    (code(), ".{0,80}", of(any::<u64>()), of(any::<u64>()), of(any::<u64>())).prop_map(
        |(code, message, limit, actual, retry_after_ms)| Refusal {
            code,
            message,
            limit,
            actual,
            retry_after_ms,
        },
    )
}

fn times() -> impl Strategy<Value = Option<Box<Times>>> {
    let ms = || of(any::<u64>());
    of((ms(), ms(), ms(), ms(), ms(), ms()).prop_map(
        |(delay_ms, run_at, ttl_ms, try_timeout_ms, deadline_ms, deadline_at)| {
            Box::new(Times { delay_ms, run_at, ttl_ms, try_timeout_ms, deadline_ms, deadline_at })
        },
    ))
}

fn labels() -> impl Strategy<Value = Option<Box<Labels>>> {
    of(proptest::collection::btree_map(any::<String>(), any::<String>(), 0..4)
        .prop_map(|labels| Box::new(Labels::from_iter(labels))))
}

fn spec() -> impl Strategy<Value = Spec> {
    let limits = (of(any::<u32>()), of(any::<u32>()));
    (agent(), payload(), priority(), limits, times(), labels()).prop_map(
        |(agent, input, priority, (max_tries, cost), times, labels)| Spec {
            labels,
            agent,
            input,
            priority,
            max_tries,
            times,
            cost,
        },
    )
}

fn submit() -> impl Strategy<Value = Submit> {
    let limits = (of(any::<u32>()), of(any::<u32>()));
    let rest = (labels(), of(any::<u64>()), any::<bool>());
    (any::<u32>(), payload(), priority(), limits, times(), rest).prop_map(
        |(v, input, priority, (max_tries, cost), times, (labels, first_try, confirm))| Submit {
            labels,
            v,
            input,
            priority,
            max_tries,
            times,
            cost,
            first_try,
            confirm,
            hops: 3 * u32::from(confirm),
        },
    )
}

fn cmd() -> impl Strategy<Value = Cmd> {
    let op = prop_oneof![
        ".{0,80}".prop_map(|reason| CmdOp::Cancel { reason }),
        Just(CmdOp::Retry {}),
        Just(CmdOp::Pause {}),
        Just(CmdOp::Resume {}),
        (of(".{0,20}"), payload(), of(".{0,20}")).prop_map(|(signal, message, from)| CmdOp::Tell {
            signal,
            message,
            from
        }),
    ];
    (any::<u32>(), op).prop_map(|(v, op)| Cmd { v, op })
}

fn held_call() -> impl Strategy<Value = HeldCall> {
    (tenant(), token(), any::<u32>(), of(task())).prop_map(|(tenant, token, depth, borrows)| HeldCall {
        tenant,
        token,
        depth,
        hops: depth % 3,
        borrows,
    })
}

fn call_request() -> impl Strategy<Value = CallRequest> {
    (any::<u32>(), payload(), of(any::<u64>()), of(token()))
        .prop_map(|(v, input, max_ms, asker)| CallRequest { v, input, max_ms, asker })
}

fn call() -> impl Strategy<Value = Call> {
    (held_call(), any::<u64>(), any::<bool>(), payload()).prop_map(|(held, time_left_ms, json, input)| {
        let HeldCall { tenant, token, depth, hops, borrows } = held;
        Call { tenant, token, depth, hops, borrows, time_left_ms, json, input }
    })
}

fn call_part() -> impl Strategy<Value = CallPart> {
    let op = prop_oneof![
        (".{0,20}", payload()).prop_map(|(kind, data)| PartOp::Chunk { kind, data }),
        payload().prop_map(|result| PartOp::End { result }),
        refusal().prop_map(PartOp::Failed),
        Just(PartOp::Alive {}),
    ];
    (any::<u32>(), any::<u32>(), op).prop_map(|(v, n, op)| CallPart { v, n, op })
}

fn beat() -> impl Strategy<Value = Beat> {
    let calls = of(vec(held_call(), 0..4));
    (any::<u32>(), any::<u32>(), vec(token(), 0..9), any::<u64>(), any::<[bool; 2]>(), calls).prop_map(
        |(v, slots, tokens, lease_ms, [draining, messages], calls)| Beat {
            v,
            slots,
            tokens,
            lease_ms,
            draining,
            messages,
            calls,
            ahead: 0,
            about: messages
                .then(|| Box::new(About { version: Some(format!("{slots}")), ..About::default() })),
            call_slots: slots / 2,
        },
    )
}

fn beat_reply() -> impl Strategy<Value = BeatReply> {
    (any::<u32>(), any::<u64>(), vec(token(), 0..9)).prop_map(|(v, epoch, stop)| BeatReply { v, epoch, stop })
}

fn accept() -> impl Strategy<Value = Accept> {
    let over = (token(), of(code()), of(any::<u64>())).prop_map(|(token, code, first_ms)| CallOver {
        token,
        code,
        first_ms,
    });
    (any::<u32>(), vec(token(), 0..9), vec(token(), 0..9), vec(over, 0..4))
        .prop_map(|(v, taken, busy, over)| Accept { v, taken, busy, over })
}

fn offer() -> impl Strategy<Value = Offer> {
    let who = (tenant(), task(), token(), of(task()), task(), payload());
    let ends = (of(any::<u64>()), of(any::<u64>()));
    (who, any::<[u32; 6]>(), any::<u64>(), ends).prop_map(
        |((tenant, task, token, parent, root, input), numbers, lease_ms, ends)| {
            let [attempt, tries, depth, children, recorded, told] = numbers;
            Offer {
                tenant,
                task,
                attempt,
                token,
                lease_ms,
                tries,
                parent,
                root,
                depth,
                children,
                recorded,
                told,
                deadline_at: ends.0,
                time_left_ms: ends.1,
                hops: 0,
                input,
            }
        },
    )
}

fn offers() -> impl Strategy<Value = Offers> {
    (any::<u32>(), any::<u64>(), vec(offer(), 0..4)).prop_map(|(v, epoch, offers)| Offers {
        v,
        epoch,
        offers,
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        payload().prop_map(|result| Outcome::Completed { result }),
        (".{0,80}", any::<bool>(), of(any::<u64>()), of(code())).prop_map(
            |(message, retryable, retry_after_ms, code)| Outcome::Failed {
                message,
                retryable,
                retry_after_ms,
                code
            }
        ),
        any::<u64>().prop_map(|ms| Outcome::Snooze { ms }),
        Just(Outcome::Wait(WaitFor::AllChildren)),
        vec(task(), 0..9).prop_map(|ids| Outcome::Wait(WaitFor::Children(ids))),
        (any::<u32>(), of(".{0,20}"), of(any::<u64>())).prop_map(|(place, signal, within_ms)| {
            Outcome::Wait(WaitFor::Message { place, signal, within_ms })
        }),
        (any::<u32>(), any::<u64>()).prop_map(|(place, ms)| Outcome::Wait(WaitFor::Time { place, ms })),
    ]
}

fn object() -> impl Strategy<Value = Object> {
    (any::<[u8; 4]>(), any::<u64>(), any::<u32>()).prop_map(|(bytes_of, bytes, chunks)| Object {
        hash: ObjectHash::of(&bytes_of),
        bytes,
        chunks,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let did = prop_oneof![
        payload().prop_map(Did::Result),
        any::<u32>().prop_map(Did::Took),
        Just(Did::TimedOut {}),
        Just(Did::Slept {}),
        object().prop_map(Did::Kept),
    ];
    (any::<u32>(), ".{0,20}", did).prop_map(|(place, name, did)| Step { place, name, did })
}

fn mail() -> impl Strategy<Value = Mail> {
    (any::<u32>(), of(".{0,20}"), of(".{0,20}"), any::<u64>(), payload())
        .prop_map(|(seq, signal, from, at, message)| Mail { seq, signal, from, at, message })
}

fn report() -> impl Strategy<Value = Report> {
    let op = prop_oneof![
        step().prop_map(ReportOp::Step),
        (".{0,20}", any::<u32>(), vec(spec(), 0..5))
            .prop_map(|(step, first, children)| ReportOp::Spawn(Spawn { step, first, children })),
        (any::<u32>(), outcome(), of(any::<u32>()))
            .prop_map(|(last_event, outcome, used)| ReportOp::End(End { last_event, outcome, used })),
    ];
    (token(), any::<[u32; 3]>(), agent(), instance(), op).prop_map(
        |(token, [v, attempt, n], agent, instance, op)| Report { v, token, attempt, agent, instance, n, op },
    )
}

fn submits() -> impl Strategy<Value = Submits> {
    let one =
        (agent(), task(), submit()).prop_map(|(agent, task, submit)| TaskSubmit { agent, task, submit });
    (any::<u32>(), vec(one, 0..4)).prop_map(|(v, tasks)| Submits { v, tasks })
}

fn reports() -> impl Strategy<Value = Reports> {
    let one = (tenant(), task(), report()).prop_map(|(tenant, task, report)| {
        let Report { token, attempt, n, op, .. } = report;
        TaskReport { tenant, task, token, attempt, n, op }
    });
    (any::<u32>(), vec(one, 0..4)).prop_map(|(v, reports)| Reports { v, reports })
}

fn ctl() -> impl Strategy<Value = Ctl> {
    let refused = (task(), refusal()).prop_map(|(task, refusal)| RefusedChild { task, refusal });
    let op = prop_oneof![
        (token(), any::<u32>(), of(refusal()), vec(refused, 0..5))
            .prop_map(|(token, n, refusal, refused)| CtlOp::Verdict(Verdict { token, n, refusal, refused })),
        (token(), code()).prop_map(|(token, code)| CtlOp::Stop { token, code }),
        (token(), mail()).prop_map(|(token, mail)| CtlOp::Message { token, mail }),
        call().prop_map(|call| CtlOp::Call(Box::new(call))),
    ];
    (any::<u32>(), any::<u64>(), vec(op, 0..5)).prop_map(|(v, epoch, ops)| Ctl { v, epoch, ops })
}

fn hello() -> impl Strategy<Value = OwnerHello> {
    (any::<u32>(), any::<u64>(), ".{0,80}").prop_map(|(v, epoch, coordinator)| OwnerHello {
        v,
        epoch,
        coordinator,
    })
}

fn done() -> impl Strategy<Value = Done> {
    (any::<u64>(), phase(), of(refusal()), of(payload()), any::<[u32; 3]>(), of(hash()), of(task())).prop_map(
        |(rev, state, refusal, result, [v, attempt, last_event], body_hash, nonce)| Done {
            nonce,
            v,
            rev,
            state,
            refusal,
            result: result.filter(|r| !is_null(r)),
            attempt,
            last_event,
            body_hash,
        },
    )
}

/// An optional payload of JSON `null` is read as none.
fn is_null(payload: &Payload) -> bool {
    *payload == Payload::default()
}

fn event() -> impl Strategy<Value = Event> {
    (any::<[u32; 3]>(), any::<u64>(), ".{0,20}", payload())
        .prop_map(|([v, attempt, n], at, kind, data)| Event { v, attempt, n, at, kind, data })
}

fn view() -> impl Strategy<Value = TaskView> {
    let failure = (any::<u32>(), any::<u64>(), code(), ".{0,80}")
        .prop_map(|(attempt, at, code, message)| TryFailure { attempt, at, code, message });
    let who = (tenant(), task(), agent(), phase(), priority(), of(task()), task(), of(instance()));
    let ms = || of(any::<u64>());
    let when = (any::<[u64; 2]>(), ms(), ms(), ms(), ms(), any::<[u32; 4]>());
    let what = (of(refusal()), vec(failure, 0..4), of(task()), of(hash()), of(payload()));
    (who, when, what).prop_map(|(who, when, what)| {
        let (tenant, task, agent, state, priority, parent, root, instance) = who;
        let (
            [rev, created_at],
            not_before,
            deadline_at,
            started_at,
            ended_at,
            [depth, attempt, tries, last_event],
        ) = when;
        let (refusal, failures, retry_of, body_hash, result) = what;
        TaskView {
            labels: Labels::from_iter([("team", "search")]),
            tenant,
            task,
            agent,
            state,
            rev,
            priority,
            parent,
            root,
            depth,
            attempt,
            tries,
            instance,
            created_at,
            not_before,
            deadline_at,
            started_at,
            ended_at,
            refusal,
            failures,
            retry_of,
            last_event,
            body_hash,
            result: result.filter(|r| !is_null(r)),
        }
    })
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) {
    for format in [Format::MsgPack, Format::Json] {
        let bytes = format.encode(message);
        let (found, back) = decode_any::<T>(None, &bytes, usize::MAX);
        assert_eq!((found, back.as_ref()), (format, Ok(message)));
        let again = format.encode(message);
        assert_eq!(bytes, again, "one message, one encoding");
        // Cut short, it is an error; never another message.
        for end in [1, bytes.len() / 2, bytes.len() - 1] {
            assert!(format.decode::<T>(&bytes[..end], usize::MAX).is_err());
        }
    }
}

/// Decodes as every type there is. Neither panics nor allocates more than four times the message, plus a
/// little for the error's text and the decoders themselves.
fn harmless(bytes: &[u8]) {
    fn one<T: DeserializeOwned>(bytes: &[u8]) {
        for format in [Format::MsgPack, Format::Json] {
            let most = peak(|| drop(format.decode::<T>(bytes, usize::MAX)));
            let bound = 4 * bytes.len() + 16 * 1024;
            assert!(most <= bound, "{most} bytes for {} of {}", bytes.len(), std::any::type_name::<T>());
        }
    }
    one::<Submit>(bytes);
    one::<Cmd>(bytes);
    one::<Beat>(bytes);
    one::<BeatReply>(bytes);
    one::<Accept>(bytes);
    one::<Offers>(bytes);
    one::<Report>(bytes);
    one::<Ctl>(bytes);
    one::<OwnerHello>(bytes);
    one::<Done>(bytes);
    one::<Event>(bytes);
    one::<SubmitRequest>(bytes);
    one::<TaskReply>(bytes);
    one::<KeptRequest>(bytes);
    one::<KeptReply>(bytes);
    one::<GetRequest>(bytes);
    one::<TaskView>(bytes);
    one::<ListRequest>(bytes);
    one::<ChildrenRequest>(bytes);
    one::<EventsRequest>(bytes);
    one::<CancelRequest>(bytes);
    one::<RetryRequest>(bytes);
    one::<StatsReply>(bytes);
    one::<Plan>(bytes);
    one::<TenantSettings>(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_clients_send_survives(submit in submit(), submits in submits(), cmd in cmd(), call in call_request()) {
        survives(&call);
        survives(&submit);
        survives(&submits);
        survives(&cmd);
    }

    #[test]
    fn what_workers_send_survives(beat in beat(), accept in accept(), report in report(), reports in reports(), event in event(), part in call_part()) {
        survives(&part);
        survives(&reports);
        survives(&beat);
        survives(&accept);
        survives(&report);
        survives(&event);
    }

    #[test]
    fn what_owners_send_survives(
        reply in beat_reply(), offers in offers(), ctl in ctl(), hello in hello(), done in done(),
    ) {
        survives(&reply);
        survives(&offers);
        survives(&ctl);
        survives(&hello);
        survives(&done);
    }

    #[test]
    fn what_is_asked_and_answered_survives(
        view in view(), task in task(), agent in agent(), input in payload(), priority in priority(),
        numbers in any::<[u32; 2]>(), text in ".{0,40}", states in vec(phase(), 0..4), refusal in of(refusal()),
        more in any::<bool>(), event in event(), min_rev in of(any::<u64>()),
    ) {
        let [limit, offset] = numbers;
        let some_task = more.then(|| task.clone());
        survives(&view);
        survives(&TaskPage {
            tasks: vec![view.clone(), view.clone()], next: more.then(|| text.clone()), complete: more, scanned: limit,
            as_of: more.then(|| u64::from(offset)),
        });
        survives(&SubmitRequest { labels: None,
            agent: agent.clone(), task: some_task.clone(), key: more.then(|| text.clone()), input, priority,
            max_tries: more.then_some(limit), times: None, cost: None,
        });
        survives(&TaskReply { task: task.clone(), state: states.first().copied(), refusal: refusal.clone() });
        survives(&GetRequest { task: task.clone(), min_rev });
        survives(&KeptRequest { task: task.clone(), hash: ObjectHash::of(text.as_bytes()), chunk: limit });
        survives(&KeptReply { chunk: Payload::Bytes(text.clone().into_bytes().into()) });
        survives(&ListRequest { labels: Labels::from_iter([(text.clone(), text.clone())]),
            states: states.clone(), agent: more.then(|| agent.clone()), root: some_task.clone(),
            parent: some_task.clone(), since: more.then_some(7), until: min_rev,
            limit: more.then_some(limit), offset: Some(offset), cursor: more.then(|| text.clone()),
        });
        survives(&ChildrenRequest { task: task.clone(), after: offset, limit: Some(limit), results: more });
        let child = ChildView {
            task: task.clone(), agent, step: text.clone(), index: limit, state: view.state, refusal,
            result: view.result.clone(),
        };
        survives(&ChildrenPage { children: vec![child], next: more.then_some(offset) });
        survives(&EventsRequest { task: task.clone(), after: more.then_some((limit, offset)), limit: Some(limit) });
        survives(&EventsPage { events: vec![event], more });
        survives(&CancelRequest { task: task.clone(), reason: text.clone() });
        survives(&RetryRequest { task, nonce: some_task });
        survives(&ManyRequest { tasks: vec![view.task.clone(); 2] });
        survives(&ManyReply { tasks: vec![view.clone()], missing: vec![view.task.clone()], unknown: vec![] });
        survives(&CountRequest { states: states.clone(), since: min_rev, until: Some(7), ..CountRequest::default() });
        survives(&CountReply { count: u64::from(limit), as_of: min_rev });
        survives(&TreeRequest { task: view.task.clone(), limit: Some(limit), cursor: more.then(|| text.clone()) });
        survives(&TreePage { root: view.root.clone(), tasks: vec![view.clone()], next: None, as_of: min_rev });
        survives(&StatsReply { states: [(text, u64::from(limit))].into(), total: u64::from(offset), as_of: more.then_some(7) });
    }

    #[test]
    fn any_bytes_are_harmless(bytes in vec(any::<u8>(), 0..4_096)) {
        harmless(&bytes);
    }

    /// Bytes near to a message go deeper into the decoders than noise does.
    #[test]
    fn a_message_with_changed_bytes_is_harmless(
        report in report(), view in view(), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        insert in vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(),
    ) {
        for format in [Format::MsgPack, Format::Json] {
            for bytes in [format.encode(&report), format.encode(&view)] {
                let mut bytes = bytes.to_vec();
                for (index, byte) in &changes {
                    let index = index.index(bytes.len());
                    bytes[index] = *byte;
                }
                let index = at.index(bytes.len());
                bytes.splice(index..index, insert.iter().copied());
                harmless(&bytes);
            }
        }
    }
}

#[test]
fn what_claims_to_be_huge_is_harmless() {
    let head = |key: &[u8], rest: &[u8]| {
        let mut bytes = vec![0x81, 0xa0 | key.len() as u8];
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(rest);
        bytes
    };
    for key in [&b"tokens"[..], b"taken", b"stop", b"input", b"children", b"op", b"states", b"tasks", b"v"] {
        for marker in [0xdd, 0xdf, 0xdb, 0xc6, 0xc9] {
            harmless(&head(key, &[marker, 0xff, 0xff, 0xff, 0xff]));
            harmless(&head(key, &[marker, 0x00, 0x10, 0x00, 0x00]));
        }
    }
    for size in [1_024, 65_536] {
        harmless(&vec![0x91; size]);
        harmless(&vec![0x81; size]);
        harmless(&vec![0xc1; size]);
        harmless(&vec![b'['; size]);
        harmless(&b"{\"v\":".iter().copied().cycle().take(size).collect::<Vec<u8>>());
        harmless(&b"{\"op\":{\"spawn\":".iter().copied().cycle().take(size).collect::<Vec<u8>>());
        let deep = format!("{{\"v\":1,\"input\":{}{}}}", "[".repeat(size / 2), "]".repeat(size / 2));
        harmless(deep.as_bytes());
    }
}

#[test]
fn many_small_elements_cost_little_more_than_their_bytes() {
    // The densest lists a message may hold: names of one letter, and specs of the shortest kind.
    let names: Vec<String> = (0..10_000).map(|n| char::from(b'a' + (n % 26) as u8).to_string()).collect();
    let wait = serde_json::json!({"op": {"end": {"outcome": {"wait": {"children": names}}}}});
    let peak = peak(|| drop(Format::Json.decode::<Report>(wait.to_string().as_bytes(), usize::MAX)));
    assert!(peak < 40 * wait.to_string().len(), "{peak}");
}
