//! What the probe finds, and what it says.

use std::fs;

use rbuild_sandbox::{Failure, Isolation, Sandbox, probe};
use tempfile::TempDir;

use crate::support::scratch;

#[test]
fn unimplemented_isolations_say_so() {
    let dir = scratch();
    for isolation in [Isolation::UsernsSingle, Isolation::Chroot, Isolation::Supervised] {
        let error = Sandbox::forced(isolation, dir.path()).unwrap_err().to_string();
        assert!(error.contains("not implemented yet"), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_probe_tries_every_isolation_and_leaves_nothing() {
    let dir = scratch();
    let probe = probe(dir.path());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let tried: Vec<Isolation> = probe.attempts.iter().map(|attempt| attempt.isolation).collect();
    assert_eq!(tried, Isolation::ALL);
    let works =
        probe.attempts.iter().find(|attempt| attempt.outcome.is_ok()).map(|attempt| attempt.isolation);
    assert_eq!(Sandbox::detect(dir.path()).ok().map(|sandbox| sandbox.isolation()), works);
    for attempt in &probe.attempts {
        let implemented = attempt.outcome != Err(Failure::NotImplemented);
        assert_eq!(implemented, attempt.isolation.is_implemented());
    }
}

#[test]
fn a_store_on_an_overlay_is_refused_with_the_remedy() {
    const OVERLAYFS: i64 = 0x794c_7630;
    let root_is_overlay = rustix::fs::statfs("/").is_ok_and(|stat| stat.f_type == OVERLAYFS);
    let Some(dir) = root_is_overlay.then(|| TempDir::new_in("/").ok()).flatten() else {
        eprintln!("skipped: the root filesystem is no overlay");
        return;
    };
    if !probe(scratch().path()).attempts.iter().any(|attempt| attempt.outcome.is_ok()) {
        eprintln!("skipped: no isolation works here");
        return;
    }
    let error = Sandbox::detect(dir.path()).unwrap_err().to_string();
    assert!(error.contains("RBUILD_ROOT") && error.contains("emptyDir"), "{error}");
}
