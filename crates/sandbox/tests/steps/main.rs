//! Real steps in a real root filesystem of one static busybox, in every isolation this host allows.
//!
//! What cannot run prints `skipped: <reason>`. The binary also runs inside pods; it takes busybox from beside itself
//! there, and `/scratch` for its trees.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod changed_root;
mod cost;
mod ending;
mod identity;
mod mounts;
mod output;
mod probing;
mod records;
mod single;
mod supervised;
mod support;
mod walls;
