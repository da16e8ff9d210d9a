//! What is done with hostile bytes: each target takes any bytes and panics if they did harm.
//!
//! The fuzzers in `fuzz/` and the tests beside this file run the same code. Harm is a panic, more memory than
//! `FACTOR` times the bytes and a little, or a value that its own encoding does not give back.

use std::fmt::Debug;

use selvedge::{
    config,
    flow::{
        engine::Engine,
        record::JournalMessage,
        snapshot::{Restore, SnapshotHead},
    },
    store::{cursor::ListId, keys, record},
    task::{
        trigger::{TriggerSettings, scope::Scope},
        *,
    },
    wire::{
        about::*,
        api::*,
        calls::*,
        codec::{self, Format},
        history::*,
        messages::*,
        subjects::{self, Shard},
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::counting::peak;
use super::seeds;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// Every target with its name.
pub const ALL: [(&str, Target); 5] = [
    ("envelope", envelope),
    ("names", names),
    ("journal", journal),
    ("config", config),
    ("snapshot", snapshot),
];

/// Memory per byte. The densest thing that is no mistake is a list of names of one letter: two bytes each on the
/// wire, a counted pointer and its text in memory, in a list that doubles as it grows.
const FACTOR: usize = 64;

/// For error texts and the decoders themselves.
const A_LITTLE: usize = 32 * 1024;

/// The first task of a state takes a whole block of the table of tasks.
const A_BLOCK: usize = 4 * 1024 * 1024;

fn bounded<T>(what: &str, bytes: usize, work: impl FnOnce() -> T) -> T {
    let (most, done) = peak(work);
    assert!(most <= FACTOR * bytes + A_LITTLE, "{what}: {most} bytes allocated for {bytes}");
    done
}

fn bounded_state<T>(what: &str, bytes: usize, work: impl FnOnce() -> T) -> T {
    let (most, done) = peak(work);
    assert!(most <= FACTOR * bytes + A_BLOCK, "{what}: {most} bytes allocated for {bytes}");
    done
}

/// Everything that crosses the bus, in both encodings.
pub fn envelope(bytes: &[u8]) {
    fn one<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
        let what = std::any::type_name::<T>();
        for format in [Format::MsgPack, Format::Json] {
            let Ok(message) = bounded(what, bytes.len(), || format.decode::<T>(bytes, usize::MAX)) else {
                continue;
            };
            let again = codec::unpack::<T>(&codec::pack(&message));
            assert_eq!(again.as_ref(), Ok(&message), "one value, one encoding");
        }
        assert!(
            Format::MsgPack.decode::<T>(bytes, bytes.len().saturating_sub(1)).is_err(),
            "a limit is a limit"
        );
    }
    one::<Submit>(bytes);
    one::<Submits>(bytes);
    one::<Cmd>(bytes);
    one::<Beat>(bytes);
    one::<BeatReply>(bytes);
    one::<Accept>(bytes);
    one::<Offers>(bytes);
    one::<Report>(bytes);
    one::<Reports>(bytes);
    one::<Ctl>(bytes);
    one::<OwnerHello>(bytes);
    one::<Done>(bytes);
    one::<Event>(bytes);
    one::<CallRequest>(bytes);
    one::<CallPart>(bytes);
    one::<TellRequest>(bytes);
    one::<HistoryRequest>(bytes);
    one::<HistoryPage>(bytes);
    one::<KeptRequest>(bytes);
    one::<KeptReply>(bytes);
    one::<AgentsReply>(bytes);
    one::<SubmitRequest>(bytes);
    one::<TaskReply>(bytes);
    one::<GetRequest>(bytes);
    one::<TaskView>(bytes);
    one::<TaskPage>(bytes);
    one::<ListRequest>(bytes);
    one::<ChildrenRequest>(bytes);
    one::<ChildrenPage>(bytes);
    one::<EventsRequest>(bytes);
    one::<CancelRequest>(bytes);
    one::<RetryRequest>(bytes);
    one::<StatsReply>(bytes);
    one::<Plan>(bytes);
    one::<TenantSettings>(bytes);
    if let Ok(plan) = Format::Json.decode::<Plan>(bytes, usize::MAX) {
        let _ = plan.check();
    }
    trigger(bytes);
}

/// An entry of the triggers' bucket, which is JSON only: what can be compiled can be used.
fn trigger(bytes: &[u8]) {
    let decoded =
        bounded("trigger", bytes.len(), || Format::Json.decode::<TriggerSettings>(bytes, usize::MAX));
    let Ok(trigger) = decoded.map_err(|e| e.to_string()).and_then(TriggerSettings::compile) else { return };
    let scope = Scope {
        message: Format::Json.decode(br#"{"a":{"b":[1,"x"]},"n":7}"#, 100).unwrap_or_default(),
        subject: "sv.topic.acme.docs.new".to_owned(),
        topic: "docs.new".to_owned(),
        ..Scope::default()
    };
    let _ = trigger.filter.iter().all(|condition| condition.holds(&scope));
    let _ = trigger.dedupe.as_ref().map(|key| key.payload(&scope));
    if let Ok(input) = trigger.template.payload(&scope) {
        let spec = trigger.settings.spec(input);
        assert_eq!(codec::unpack::<Spec>(&codec::pack(&spec)).as_ref(), Ok(&spec));
    }
}

/// Names, subjects, keys, cursors and stored records.
pub fn names(bytes: &[u8]) {
    let tenant = TenantName::new("acme").unwrap_or_else(|_| unreachable!("a name"));
    let task = TaskId::new("t-1").unwrap_or_else(|_| unreachable!("a name"));
    // What Redis holds may be anybody's.
    let _ = bounded("record", bytes.len(), || record::decode(&tenant, &task, bytes, true));
    let _ = bounded("result", bytes.len(), || record::decode_result(bytes));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    bounded("names", text.len(), || {
        let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = (1..=63).contains(&text.len())
            && text.bytes().enumerate().all(|(at, c)| fits(c) || at > 0 && (c == b'_' || c == b'-'));
        assert_eq!(TaskId::new(text).is_ok(), good);
        assert_eq!(TenantName::new(text).is_ok(), good);
        assert_eq!(AgentName::new(text).is_ok(), good);
        assert_eq!(InstanceId::new(text).is_ok(), good);
        assert_eq!(PlanName::new(text).is_ok(), good);
    });
    bounded("subjects", text.len(), || {
        match subjects::parse_intake(text) {
            Ok(subjects::Intake::Submit(key, agent)) => {
                assert_eq!(subjects::submit(&key.tenant, &agent, &key.id), text);
            }
            Ok(subjects::Intake::Submits(tenant)) => assert_eq!(subjects::submits(&tenant), text),
            Ok(subjects::Intake::Cmd(key, nonce)) => {
                assert_eq!(subjects::cmd(&key.tenant, &key.id, &nonce), text);
            }
            Err(_) => {}
        }
        match subjects::parse_report(text) {
            Ok(subjects::Reported::Task(key)) => assert_eq!(subjects::report(&key.tenant, &key.id), text),
            Ok(subjects::Reported::Instance(agent, instance)) => {
                assert_eq!(subjects::reports(&agent, &instance), text);
            }
            Err(_) => {}
        }
        if let Ok(key) = subjects::parse_event(text) {
            assert_eq!(subjects::event(&key.tenant, &key.id), text);
        }
        if let Ok(key) = subjects::parse_done(text) {
            assert_eq!(subjects::done(&key.tenant, &key.id), text);
        }
        if let Ok((agent, instance)) = subjects::parse_instance(text) {
            let all = [subjects::beat, subjects::accept, subjects::offer, subjects::ctl];
            assert!(all.iter().any(|make| make(&agent, &instance) == text));
        }
        if let Ok((tenant, verb)) = subjects::parse_api(text) {
            assert_eq!(subjects::api(&tenant, verb), text);
        }
        if let Ok(called) = subjects::parse_call(text) {
            let make = if called.by_handler { subjects::subcall } else { subjects::call };
            assert_eq!(make(&called.tenant, &called.agent), text);
        }
        // Nobody may have an answer sent into a subject that means something.
        if subjects::may_answer(text) {
            assert!(!text.starts_with("sv.") && !text.starts_with('$'), "{text}");
        }
    });
    bounded("keys", text.len(), || {
        if let Some(task) = keys::task_of(text) {
            assert!(text.ends_with(task.as_str()) && text.len() == keys::STAMP_LEN + task.as_str().len());
        }
        if let Some(tenant) = keys::tenant_of_index_key(text) {
            assert!(text.starts_with(&keys::index_prefix(&tenant)));
        }
        if let Some(member) = ListId::of(&tenant, &ListRequest::default()).member(text) {
            assert!(keys::task_of(&member).is_some());
        }
    });
}

/// A message of the journal: read, and replayed where its revision says it belongs.
pub fn journal(bytes: &[u8]) {
    let Ok(message) = bounded("journal", bytes.len(), || JournalMessage::decode(bytes)) else { return };
    assert_eq!(JournalMessage::decode(&message.encode()).as_ref(), Ok(&message));
    let base = seeds::journal();
    let before = (message.rev.saturating_sub(1) as usize).min(base.len());
    let mut engine: Engine<()> = Engine::new(Shard(0));
    for (bytes, seq) in base[..before].iter().zip(1..) {
        engine.replay(seq, bytes).unwrap_or_else(|error| panic!("our own journal: {error}"));
    }
    let seq = before as u64 + 1;
    // As it is; mostly it does not follow.
    if bounded_state("replay", bytes.len(), || engine.replay(seq, bytes)).is_ok() {
        engine.state().canonical();
        return;
    }
    let mut engine: Engine<()> = Engine::new(Shard(0));
    for (bytes, seq) in base[..before].iter().zip(1..) {
        engine.replay(seq, bytes).unwrap_or_else(|error| panic!("our own journal: {error}"));
    }
    // As if whoever changed it had mended the chain: its records must fit the state, or be named.
    let state = engine.state();
    let mended = JournalMessage {
        shard: Shard(0),
        rev: state.rev + 1,
        epoch: message.epoch.max(state.epoch),
        prev: state.head,
        ..message
    };
    let mended = mended.encode();
    if bounded_state("replay", mended.len(), || engine.replay(seq, &mended)).is_ok() {
        engine.state().canonical();
    }
}

/// A configuration file.
pub fn config(bytes: &[u8]) {
    let file = std::env::temp_dir().join(format!(
        "selvedge-hostile-{}-{:?}.toml",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&file, bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let sources = config::Sources { file: Some(file.clone()), ..Default::default() };
    let no_context = |_: Option<&str>| Ok(None);
    match bounded("config", bytes.len() + 4_096, || config::load(&sources, &no_context)) {
        Ok(loaded) => drop(config::rows(&loaded)),
        Err(error) => assert!(!error.problems.is_empty() && !error.to_string().is_empty()),
    }
    let _ = std::fs::remove_file(file);
}

/// A snapshot as [`seeds::join`] puts it: the head, then its parts.
pub fn snapshot(bytes: &[u8]) {
    let pieces = seeds::split(bytes);
    let Some((head, parts)) = pieces.split_first() else { return };
    let Ok(head) = bounded("head", head.len(), || codec::unpack::<SnapshotHead>(head)) else { return };
    let restored = bounded_state("snapshot", bytes.len(), || {
        let mut restore = Restore::new(Shard(0), head)?;
        for part in parts {
            restore.part(part)?;
        }
        restore.finish::<()>()
    });
    if let Ok(engine) = restored {
        engine.state().canonical();
    }
}
