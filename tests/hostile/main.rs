//! Hostile bytes: whatever is read from the bus, from disk or from Redis may be anything.
//!
//! ```text
//! targets   what is done with bytes, and what counts as harm; the fuzzers in `fuzz/` run the same
//! seeds     good bytes to begin with
//! mutate    good bytes made bad, by a seed
//! refusals  named cases, each with the words of its refusal
//! crashers  what was found, kept
//! ```
//!
//! Each target gets a bounded number of mutated seeds; `SELVEDGE_HOSTILE_RUNS` asks for more, `just fuzz` hunts for
//! real. A binary of its own, because it counts what is allocated.

mod counting;
mod crashers;
mod mutate;
mod refusals;
mod seeds;
mod targets;

use std::path::Path;

use mutate::{Rng, mutated};
use selvedge::{flow::record::JournalMessage, task::trigger::TriggerSettings};

fn golden() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Good bytes for a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let texts =
        |texts: &[&str]| -> Vec<Vec<u8>> { texts.iter().map(|text| text.as_bytes().to_vec()).collect() };
    match target {
        "envelope" => golden()
            .into_iter()
            .chain(texts(&[
                r#"{"source":{"topic":"docs.>"},"tenant":"acme","agent":"reader"}"#,
                r#"{"source":{"topic":"a.*"},"tenant":"acme","agent":"reader","template":{"doc":"{{message.a.b.0}}","at":["{{seq}} {{topic}}"]},
                    "filter":["message.n=7","!message.c"],"dedupe":"{{message.n}}","rate":{"rate":10,"burst":2},"max_hops":3}"#,
                r#"{"source":{"stream":{"name":"ORDERS","subject":"orders.*"}},"tenant":"acme","agent":"reader","template":"{{count}}",
                    "batch":{"count":7,"within_ms":150},"start":{"seq":9,"created":"x"},"paused":true}"#,
            ]))
            .collect(),
        "names" => texts(&[
            "sv.submit.acme.reader.t-1",
            "sv.cmd.acme.t-1.n-1",
            "sv.report.acme.t-1",
            "sv.reports.reader.i-1",
            "sv.submits.acme",
            "sv.event.acme.t-1",
            "sv.done.acme.t-1",
            "sv.beat.reader.i-1",
            "sv.api.acme.list",
            "sv.api.acme.tell",
            "sv.call.acme.reader",
            "sv.subcall.acme.reader",
            "_INBOX.abc.def",
            "$JS.ACK.JOURNAL.x",
            "0000000abcdt-1",
            "sv:{acme}:i:meta",
        ])
        .into_iter()
        .chain([b"7 completed reader - 0000000abcd 17 5\n\xa4null\x80".to_vec()])
        .chain([b"7 queued reader root 0000000abcd 0 -\n\x81\xa1d\x03".to_vec()])
        .collect(),
        "journal" => seeds::journal().to_vec(),
        "config" => vec![
            selvedge::config::template().into_bytes(),
            b"[nats]\nurls = [\"nats://u:p@h:4222\"]\n[redis]\nurl = \"redis://127.0.0.1\"\nstream_maxlen = 10\n".to_vec(),
            b"[coordinator]\nowner_ttl = \"2s\"\nmax_payload_bytes = \"256KiB\"\n".to_vec(),
        ],
        "snapshot" => vec![seeds::join(seeds::snapshot())],
        other => panic!("no corpus for {other}"),
    }
}

fn runs(usual: u64) -> u64 {
    std::env::var("SELVEDGE_HOSTILE_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn attack(target: &str, usual: u64) {
    let (_, attacked) = targets::ALL.iter().find(|(name, _)| *name == target).unwrap();
    let seeds = corpus(target);
    seeds.iter().for_each(|seed| attacked(seed));
    for seed in 0..runs(usual) {
        let bytes = mutated(&seeds, &mut Rng::new(seed));
        let harm = std::panic::catch_unwind(|| attacked(&bytes));
        if let Err(panic) = harm {
            println!("{target} {seed}, for crashers.rs: {:?}", String::from_utf8_lossy(&bytes));
            println!("{bytes:?}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_small_journal_holds_what_is_to_be_mutated() {
    let mut text = String::new();
    for bytes in seeds::journal() {
        text += &format!("{:?}\n", JournalMessage::decode(bytes).unwrap().records);
    }
    let records = ["Told {", "Stepped {", "Permits {", "Carried {", "Spawned {", "Woken {", "Refused {"];
    // A step that was refused; a signal; who said it; every way in which a payload is carried; labels and triggers behind it.
    let fields =
        ["step: None", "signal: Some(", "from: Some(", "what: Message(", "what: Step(", "borrowed: 1"];
    for wanted in records.iter().chain(&fields).chain(&["\"ticket\": \"4711\"", "hops: 2", "hops: 3"]) {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn the_triggers_to_be_mutated_are_good_ones() {
    let entries = corpus("envelope").into_iter().filter(|bytes| bytes.starts_with(b"{\"source\""));
    let good =
        entries.map(|bytes| serde_json::from_slice::<TriggerSettings>(&bytes).unwrap().compile().unwrap());
    assert_eq!(good.count(), 3);
}

#[test]
fn no_envelope_does_harm() {
    attack("envelope", 3_000);
}

#[test]
fn no_name_subject_key_or_stored_record_does_harm() {
    attack("names", 20_000);
}

#[test]
fn no_journal_message_does_harm() {
    attack("journal", 3_000);
}

#[test]
fn no_configuration_does_harm() {
    attack("config", 1_500);
}

#[test]
fn no_snapshot_does_harm() {
    attack("snapshot", 3_000);
}

/// Writes the seeds where the fuzzers look for them: `SELVEDGE_FUZZ_CORPUS=fuzz/corpus`.
#[test]
fn the_fuzzers_begin_with_the_same_seeds() {
    for (target, attacked) in targets::ALL {
        let seeds = corpus(target);
        assert!(!seeds.is_empty());
        seeds.iter().for_each(|seed| attacked(seed));
        let Some(dir) = std::env::var_os("SELVEDGE_FUZZ_CORPUS") else { continue };
        let dir = Path::new(&dir).join(target);
        std::fs::create_dir_all(&dir).unwrap();
        for (i, seed) in seeds.iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{i:03}")), seed).unwrap();
        }
    }
}
