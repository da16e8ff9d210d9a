//! What the tests do with hostile bytes, for the fuzzers.

#[path = "../tests/hostile/counting.rs"]
pub mod counting;
#[path = "../tests/hostile/seeds.rs"]
#[allow(dead_code, reason = "not every target needs all seeds")]
pub mod seeds;
#[path = "../tests/hostile/targets.rs"]
#[allow(dead_code, reason = "each fuzzer is one of the targets")]
pub mod targets;
