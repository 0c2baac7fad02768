//! End to end: the `rbuild` binary against real registries, real base images and other people's tools.
//!
//! One target, one module per subject. A test that cannot run on this machine says `skipped: <reason>`; with `CI=true`
//! `tests/run.sh` turns such a line into a failure.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests find tools on the PATH and say why they skip"
)]

mod architecture;
#[path = "../crates/layers/tests/trees/archive.rs"]
#[allow(dead_code, reason = "the tests of the layers crate use more of it")]
mod archive;
mod build;
mod cache;
mod contexts;
mod copy;
mod credentials;
mod deployment;
mod doctor;
mod explain;
mod faults;
mod features;
mod filesystems;
mod findings;
mod hostile_layers;
mod images;
mod mounts;
mod node;
mod node_stores;
mod outputs;
mod parse;
mod platforms;
mod redteam;
mod registry;
mod reproducible;
mod run;
mod schedule;
mod secrets;
mod soak;
mod store;
mod support;
mod tls;
mod torture;
mod users;
mod web;
mod wrong_hits;
