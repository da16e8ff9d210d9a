//! See `tests/hostile/targets.rs`.
#![no_main]

#[path = "../hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::targets::journal(bytes));
