//! What the probe finds, and what it says.

use std::fs;

use rbuild_sandbox::{Failure, Isolation, RootfsForm, Sandbox, probe};
use tempfile::TempDir;

use crate::support::scratch;

#[test]
fn root_is_no_user_without_privileges() {
    let dir = scratch();
    if rustix::process::geteuid().is_root() {
        let error = Sandbox::forced(Isolation::Supervised, dir.path()).unwrap_err().to_string();
        assert!(error.contains("cannot do without privileges as root"), "{error}");
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
    let works = works.filter(|isolation| Isolation::CHOSEN.contains(isolation));
    assert_eq!(Sandbox::detect(dir.path()).ok().map(|sandbox| sandbox.isolation()), works);
    for attempt in &probe.attempts {
        let implemented = attempt.outcome != Err(Failure::NotImplemented);
        assert_eq!(implemented, attempt.isolation.is_implemented());
    }
}

/// There the kernel refuses an overlay's upper directory.
#[test]
fn a_store_on_an_overlay_is_given_plain_directories() {
    let Some(store) = Overlay::mount() else {
        eprintln!("skipped: no overlay can be mounted here");
        return;
    };
    let elsewhere = probe(scratch().path());
    let on_overlay = probe(&store.merged());
    for (here, there) in elsewhere.attempts.iter().zip(&on_overlay.attempts) {
        assert_eq!(here.outcome.is_ok(), there.outcome.is_ok(), "{there:?}");
    }
    match Sandbox::detect(&store.merged()) {
        Ok(sandbox) => assert_eq!(sandbox.rootfs_form(), RootfsForm::Directory),
        Err(error) => eprintln!("skipped: {error}"),
    }
}

/// An overlay like the root of a container; it is gone with the value.
struct Overlay(TempDir);

impl Overlay {
    fn mount() -> Option<Self> {
        let overlay = Self(scratch());
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(overlay.0.path().join(name)).unwrap();
        }
        let path = overlay.0.path().display();
        let options = format!("lowerdir={path}/lower,upperdir={path}/upper,workdir={path}/work");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options])
            .arg(overlay.merged())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(overlay)
    }

    fn merged(&self) -> std::path::PathBuf {
        self.0.path().join("merged")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.merged()).output();
    }
}
