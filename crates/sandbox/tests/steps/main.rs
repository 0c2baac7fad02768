//! Real steps in a real root filesystem of one static busybox, in every isolation this host allows.
//!
//! What cannot run prints `skipped: <reason>`. The binary also runs inside pods; it takes busybox from beside itself
//! there, and `/scratch` for its trees.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod cost;
mod ending;
mod identity;
mod mounts;
mod output;
mod probing;
mod support;
mod walls;
