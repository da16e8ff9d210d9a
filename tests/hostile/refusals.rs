//! Named cases: what is refused, and in which words.

use std::fmt::Debug;

use selvedge::{
    flow::{
        engine::{Engine, JournalError},
        record::JournalMessage,
        snapshot::{Restore, SnapshotError, SnapshotHead},
    },
    wire::{
        codec::{self, DecodeError, Format},
        messages::{Beat, Cmd, Offers, Report, Submit},
        subjects::Shard,
    },
};
use serde::de::DeserializeOwned;

use super::counting::peak;
use super::seeds;

fn msgpack<T: DeserializeOwned + Debug>(bytes: &[u8]) -> DecodeError {
    Format::MsgPack.decode::<T>(bytes, 1_000_000).expect_err("refused")
}

fn json<T: DeserializeOwned + Debug>(text: &str) -> DecodeError {
    Format::Json.decode::<T>(text.as_bytes(), 1_000_000).expect_err("refused")
}

/// A MessagePack map with one entry: the key, then these bytes.
fn with(key: &str, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x81, 0xa0 | key.len() as u8];
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

#[test]
fn a_bomb_is_refused_and_allocates_next_to_nothing() {
    fn defused<T: DeserializeOwned>(bytes: &[u8]) {
        let (most, decoded) = peak(|| codec::unpack::<T>(bytes));
        assert!(decoded.is_err());
        assert!(
            most < 4 * bytes.len() + 4_096,
            "{most} bytes for {} as {}",
            bytes.len(),
            std::any::type_name::<T>()
        );
    }
    let claims = [
        [0xdd, 0xff, 0xff, 0xff, 0xff],
        [0xdf, 0xff, 0xff, 0xff, 0xff],
        [0xdb, 0xff, 0xff, 0xff, 0xff],
        [0xc6, 0xff, 0xff, 0xff, 0xff],
    ];
    for claim in claims {
        defused::<Submit>(&with("input", &claim));
        defused::<Beat>(&with("tokens", &claim));
        defused::<Offers>(&with("offers", &claim));
        defused::<Report>(&with("op", &claim));
        defused::<JournalMessage>(&with("records", &claim));
        defused::<SnapshotHead>(&with("plans", &claim));
        defused::<Submit>(&claim);
        defused::<JournalMessage>(&claim);
    }
    // Within a record, deep in a message that is right up to there.
    let good = seeds::journal().iter().max_by_key(|bytes| bytes.len()).unwrap();
    for at in 0..good.len() {
        let mut bytes = good[..at].to_vec();
        bytes.extend_from_slice(&claims[0]);
        let (most, decoded) = peak(|| JournalMessage::decode(&bytes));
        assert!(decoded.is_err());
        assert!(most < 64 * bytes.len() + 16 * 1024, "{most} bytes for {at}");
    }
    let parts = &seeds::snapshot()[1..];
    for (i, part) in parts.iter().enumerate() {
        for at in 0..part.len() {
            let mut bytes = part[..at].to_vec();
            bytes.extend_from_slice(&claims[0]);
            let mut restore = restore_head(0).unwrap();
            // Later parts name tenants and agents by numbers that earlier ones give them.
            parts[..i].iter().for_each(|earlier| restore.part(earlier).unwrap());
            let (most, _) = peak(|| restore.part(&bytes));
            assert!(most < 64 * bytes.len() + 16 * 1024, "{most} bytes for part {i} at {at}");
        }
    }
}

#[test]
fn a_key_given_twice_is_refused_not_chosen_from() {
    for (name, error) in [
        ("v", json::<Submit>(r#"{"v":1,"v":1,"input":null}"#)),
        ("input", json::<Submit>(r#"{"input":1,"input":2}"#)),
        ("slots", json::<Beat>(r#"{"v":1,"slots":1,"slots":2,"tokens":[],"lease_ms":1}"#)),
        ("v", msgpack::<Cmd>(b"\x82\xa1v\x01\xa1v\x01")),
        ("input", msgpack::<Submit>(b"\x82\xa5input\xa11\xa5input\xa12")),
    ] {
        assert!(error.to_string().contains(&format!("duplicate field `{name}`")), "{error}");
    }
}

#[test]
fn bytes_after_a_message_are_refused() {
    let mut bytes = codec::pack(&Cmd { v: 1, op: selvedge::wire::messages::CmdOp::Retry {} }).to_vec();
    bytes.push(0xc0);
    assert!(matches!(msgpack::<Cmd>(&bytes), DecodeError::Trailing { extra: 1, .. }));
    assert!(matches!(json::<Cmd>("{\"v\":1,\"op\":{\"retry\":{}}} {}"), DecodeError::Trailing { .. }));
}

#[test]
fn extension_types_are_refused() {
    for ext in [&b"\xd4\x01\x00"[..], b"\xc7\x01\x05\x00", b"\xd6\xff\x00\x00\x00\x00"] {
        for key in ["input", "v", "first_try"] {
            let error = msgpack::<Submit>(&with(key, ext));
            assert!(matches!(&error, DecodeError::Shape { .. }), "{key}: {error}");
        }
        // In a place nobody looks at it may be skipped, or refused; it has no meaning either way.
        let _ = Format::MsgPack.decode::<Submit>(&with("unknown", ext), 1_000_000);
    }
}

#[test]
fn nesting_beyond_sixteen_is_refused_before_the_stack_ends() {
    for depth in [17, 1_000, 200_000] {
        for unknown in ["unknown", "op"] {
            let mut bytes = vec![0x91; depth];
            bytes.push(0xc0);
            assert!(
                matches!(msgpack::<Report>(&with(unknown, &bytes)), DecodeError::Shape { .. }),
                "{depth}"
            );
            let text = format!("{{\"{unknown}\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
            assert!(matches!(json::<Report>(&text), DecodeError::Shape { .. }), "{depth}");
        }
    }
}

fn replayed(messages: &[Vec<u8>]) -> Engine<()> {
    let mut engine = Engine::new(Shard(0));
    for (seq, bytes) in (1..).zip(messages) {
        engine.replay(seq, bytes).unwrap();
    }
    engine
}

/// Either the message itself can't be read or does not fit, or the next one's hash of it differs.
#[test]
fn a_flipped_byte_anywhere_in_the_journal_is_noticed_at_the_next_message_at_the_latest() {
    let journal = seeds::journal();
    let (mut at_once, mut next) = (0, 0);
    for i in 0..journal.len() - 1 {
        let seq = i as u64 + 1;
        let mut before = None;
        for at in 0..journal[i].len() {
            for flip in [1 << (at % 8), 0xff] {
                let mut bytes = journal[i].clone();
                bytes[at] ^= flip;
                let mut engine = before.take().unwrap_or_else(|| replayed(&journal[..i]));
                match engine.replay(seq, &bytes) {
                    Err(
                        JournalError::Unreadable { seq: named, .. } | JournalError::Gap { seq: named, .. },
                    ) => {
                        assert_eq!(named, seq);
                        at_once += 1;
                        // Nothing was changed.
                        before = Some(engine);
                    }
                    Err(JournalError::Misfit { .. }) => at_once += 1,
                    Err(other) => panic!("message {i}, byte {at}: {other}"),
                    Ok(()) => match engine.replay(seq + 1, &journal[i + 1]) {
                        Err(JournalError::Gap { seq: named, .. }) => {
                            assert_eq!(named, seq + 1);
                            next += 1;
                        }
                        other => {
                            panic!("message {i}, byte {at} flipped by {flip:#x} goes unnoticed: {other:?}")
                        }
                    },
                }
            }
        }
    }
    assert!(at_once > next && next > 0, "{at_once} at once, {next} by the next message");
}

#[test]
fn a_journal_that_misses_repeats_or_swaps_a_message_is_named() {
    let journal = seeds::journal();
    for i in 1..journal.len() - 1 {
        let gap = |engine: &mut Engine<()>, bytes: &[u8]| {
            let error = engine.replay(i as u64 + 1, bytes).unwrap_err();
            assert!(matches!(error, JournalError::Gap { .. }), "{i}: {error}");
        };
        gap(&mut replayed(&journal[..i]), &journal[i + 1]);
        gap(&mut replayed(&journal[..i]), &journal[i - 1]);
        gap(&mut replayed(&journal[..=i]), &journal[i]);
    }
}

#[test]
fn a_journal_of_another_version_or_shard_is_named_not_guessed_at() {
    let mut message = JournalMessage::decode(&seeds::journal()[0]).unwrap();
    message.shard = Shard(7);
    let error = Engine::<()>::new(Shard(0)).replay(1, &message.encode()).unwrap_err();
    assert!(error.to_string().contains("another shard's"), "{error}");
    message.v = 99;
    let error = Engine::<()>::new(Shard(0)).replay(1, &message.encode()).unwrap_err();
    assert!(error.to_string().contains("journal format 99"), "{error}");
}

fn restore_head(shard: u16) -> Result<Restore, SnapshotError> {
    let head = codec::unpack::<SnapshotHead>(&seeds::snapshot()[0]).unwrap();
    Restore::new(Shard(shard), head)
}

fn restored(parts: &[Vec<u8>]) -> Result<Engine<()>, SnapshotError> {
    let mut restore = restore_head(0)?;
    for part in parts {
        restore.part(part)?;
    }
    restore.finish()
}

#[test]
fn a_snapshot_of_another_shard_or_version_is_refused() {
    assert!(matches!(restore_head(7), Err(SnapshotError::Shard { shard: 7, found: 0 })));
    let mut head = codec::unpack::<SnapshotHead>(&seeds::snapshot()[0]).unwrap();
    head.v = 99;
    assert!(matches!(Restore::new(Shard(0), head), Err(SnapshotError::Version { found: 99 })));
}

#[test]
fn a_snapshot_cut_anywhere_is_refused() {
    let parts = &seeds::snapshot()[1..];
    let whole = restored(parts).unwrap();
    assert_eq!(whole.state().canonical(), replayed(seeds::journal()).state().canonical());
    for n in 0..parts.len() {
        assert!(restored(&parts[..n]).is_err(), "without the last {}", parts.len() - n);
        let others: Vec<_> =
            parts.iter().enumerate().filter(|(i, _)| *i != n).map(|(_, p)| p.clone()).collect();
        assert!(restored(&others).is_err(), "without part {n}");
        let twice: Vec<_> = parts.iter().chain([&parts[n]]).cloned().collect();
        assert!(matches!(restored(&twice), Err(SnapshotError::Misfit(_))), "part {n} twice");
        for at in 0..parts[n].len() {
            let mut cut = parts.to_vec();
            cut[n].truncate(at);
            assert!(restored(&cut).is_err(), "part {n} cut at {at}");
        }
    }
}
