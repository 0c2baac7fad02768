//! Runs the checks of `crates/dockerfile/tests/robustness.rs` on inputs that libFuzzer makes.
//!
//! `cargo +nightly fuzz run dockerfile`

#![no_main]

#[path = "../../crates/dockerfile/tests/exercise/mod.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| exercise::exercise(input));
