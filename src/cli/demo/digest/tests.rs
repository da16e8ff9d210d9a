use super::super::parse::parse;
use super::*;

fn digest(cards: &[FileCard]) -> Digest {
    let mut builder = DigestBuilder::new();
    for card in cards {
        assert!(builder.add(card));
    }
    builder.finish()
}

fn sample() -> Vec<FileCard> {
    [
        ("README.md", "# Loom\nSee `src/lease.rs` and Lease. Weaving threads of weaving.\n"),
        ("src/lease.rs", "pub struct Lease;\npub fn renew_lease() { heartbeat heartbeat }\n"),
        ("src/agent.rs", "use crate::Lease;\nfn run() { renew_lease(); Lease::x() }\nfn new() {}\n"),
        ("docs/a.md", "# A\n[up](../README.md) and mod.rs\n"),
        ("src/b/mod.rs", "fn new() {}\n"),
        ("src/c/mod.rs", "fn new() {}\n"),
    ]
    .map(|(path, text)| parse(path, text.as_bytes()))
    .into()
}

#[test]
fn the_order_of_cards_does_not_matter() {
    let mut cards = sample();
    let first = digest(&cards);
    for _ in 0..cards.len() {
        cards.rotate_left(1);
        assert_eq!(digest(&cards), first);
    }
    cards.reverse();
    assert_eq!(digest(&cards), first);
}

#[test]
fn mentions_of_paths_and_symbols_become_references() {
    let digest = digest(&sample());
    let pairs: BTreeSet<(&str, &str)> =
        digest.references.iter().map(|r| (r.from.as_str(), r.to.as_str())).collect();
    let expected =
        [("README.md", "src/lease.rs"), ("docs/a.md", "README.md"), ("src/agent.rs", "src/lease.rs")];
    assert_eq!(pairs, expected.into());
    assert_eq!(digest.reference_pairs, 3);
    let lease = digest.ranked.iter().find(|f| f.path == "src/lease.rs").expect("it is ranked");
    assert_eq!((lease.mentioned_by, lease.mentioners[0].as_str()), (2, "src/agent.rs"));
    assert_eq!(digest.ranked[0].path, "src/lease.rs");
}

#[test]
fn totals_are_the_sums_of_the_cards() {
    let cards = sample();
    let digest = digest(&cards);
    let mut sum = Counts::default();
    cards.iter().for_each(|card| sum.add(&card.counts));
    let mut kinds = Counts::default();
    digest.kinds.values().for_each(|kind| kinds.add(&kind.counts));
    assert_eq!((digest.files, &digest.totals), (6, &sum));
    assert_eq!(kinds, sum);
}

#[test]
fn a_card_that_comes_twice_counts_once() {
    let card = &sample()[0];
    let mut builder = DigestBuilder::new();
    assert!(builder.add(card));
    assert!(!builder.add(card));
    assert_eq!(builder.finish().files, 1);
}

#[test]
fn nothing_and_nearly_nothing_make_a_digest_too() {
    assert_eq!(digest(&[]).files, 0);
    let one = digest(&[parse("a", b"")]);
    assert_eq!((one.ranked.len(), one.ranked[0].score), (1, 0.0));
}

#[test]
fn five_thousand_cards_are_merged_and_the_digest_stays_small() {
    let mut builder = DigestBuilder::new();
    for n in 0..5_000 {
        let mut text = format!("pub struct Type{n}Name;\nfn new_thing() {{}}\n// mod.rs lib.rs\n");
        for k in 0..100 {
            text.push_str(&format!("Type{}Name word{} ", (n * 31 + k * 7) % 5_000, (n + k) % 5_000));
        }
        builder.add(&parse(&format!("{}/d{}/mod.rs", "long".repeat(60), n), text.as_bytes()));
    }
    let digest = builder.finish();
    assert_eq!(digest.files, 5_000);
    assert!(digest.reference_pairs > 250_000);
    assert!(serde_json::to_vec(&digest).expect("json").len() < MAX_DIGEST_BYTES);
}
