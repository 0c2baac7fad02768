//! Runs the check of a layer's way through tar and tree (`crates/layers/tests/trees/exercise.rs`) on archives that libFuzzer makes.
//!
//! `cargo +nightly fuzz run round_trip`

#![no_main]
#![allow(dead_code, reason = "one check of three")]

#[path = "../../crates/layers/tests/trees/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|archive: &[u8]| exercise::round_trip(archive));
