//! What mutation or a fuzzer found, kept: bytes, and what they did before.

use super::targets;

/// Runs a target on what once harmed it.
fn harmless_now(target: &str, bytes: &[u8]) {
    let (_, attacked) = targets::ALL.iter().find(|(name, _)| *name == target).unwrap();
    attacked(bytes);
}

/// Took a megabyte: room was made for as many records as the header claimed.
#[test]
fn a_journal_message_that_claims_four_billion_records() {
    harmless_now("journal", b"\x81\xa7records\xdd\xff\xff\xff\xff");
}
