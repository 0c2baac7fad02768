//! Many builds in one store, some of them killed: `tests/soak.sh` with small numbers.

use std::process::{Command, Stdio};

use crate::support::{Run, World, can_run, have};

/// Larger numbers come with the script's own environment variables.
#[test]
fn killed_builds_leave_nothing_and_harm_none() {
    let world = World::new();
    if !can_run(&world) || !have("bash") {
        return;
    }
    let rbuild = world.command();
    let mut command = Command::new("bash");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/soak.sh")).arg(rbuild.get_program());
    command.args(["--build-context", &world.busybox().expect("checked"), "--network", "none"]);
    for (name, few) in [("SOAK_ROW", "3"), ("SOAK_ONCE", "4"), ("SOAK_KILLED", "4")] {
        command.env(name, std::env::var(name).unwrap_or_else(|_| few.to_owned()));
    }
    command
        .env("SOAK_TREE", world.context())
        .env("RBUILD_ROOT", world.store())
        .env("HOME", world.path("home"));
    let output = command.stdin(Stdio::null()).output().expect("bash starts");
    let run = Run::of(output).success();
    assert!(run.stdout.starts_with("ok: "), "{}{}", run.stdout, run.stderr);
}
