//! Runs the check of the tar reader (`crates/layers/tests/trees/exercise.rs`) on archives that libFuzzer makes.
//!
//! `cargo +nightly fuzz run tar`

#![no_main]
#![allow(dead_code, reason = "one check of three")]

#[path = "../../crates/layers/tests/trees/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|archive: &[u8]| exercise::read(archive));
