//! Builds that are interrupted or cannot go on leave nothing behind, and the next one works.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::run::processes_with;
use crate::support::{World, can_run, skipped};

/// A build that hangs in its RUN, and has got there.
fn hanging(world: &World, marker: &str) -> Child {
    world.dockerfile(&format!("FROM busybox\nRUN setsid sleep 601 & echo {marker}; sleep 600; : {marker}\n"));
    let busybox = world.busybox().expect("checked");
    let mut command = world.command();
    command.args(["-t", "app", "--progress", "plain", "--network", "none", "--build-context", &busybox, "."]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("rbuild starts");
    let stderr = BufReader::new(child.stderr.take().expect("piped"));
    // The echo's output line, not the line that shows the instruction.
    let reached = stderr.lines().map_while(Result::ok).any(|line| line.trim_end().ends_with(marker));
    assert!(reached, "the step did not start");
    child
}

fn gone(marker: &str) -> bool {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        if processes_with(marker).is_empty() && processes_with("sleep 601").is_empty() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn mounts_below(path: &std::path::Path) -> usize {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    mounts.lines().filter(|line| line.contains(&*path.to_string_lossy())).count()
}

#[test]
fn killed_or_interrupted_it_leaves_no_process_no_mount_no_image() {
    for (signal, code) in [("KILL", None), ("INT", Some(130)), ("TERM", Some(143))] {
        let world = World::new();
        if !can_run(&world) {
            return;
        }
        let marker = format!("marker-{signal}-{}", std::process::id());
        let mut child = hanging(&world, &marker);
        let pid = child.id().to_string();
        crate::support::tool("kill", &[&format!("-{signal}"), &pid]);
        let status = child.wait().expect("a child");
        if code.is_some() {
            assert_eq!(status.code(), code, "{signal}");
        }
        assert!(gone(&marker), "{signal}: processes are left: {:?}", processes_with(&marker));
        assert_eq!(mounts_below(&world.store()), 0, "{signal}");
        let listed = world.rbuild(&["images"]).success();
        assert!(!listed.stdout.contains("app"), "{signal}: {}", listed.stdout);

        world.dockerfile("FROM busybox\nRUN echo fine\n");
        world.build_layout("out", &["--network", "none"]);
        assert_eq!(world.scratch_left(), Vec::<std::path::PathBuf>::new(), "{signal}: scratch is left");
    }
}

#[test]
fn a_full_disk_is_one_clear_error() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let store = world.path("small");
    std::fs::create_dir(&store).expect("a folder");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m", "none"])
        .arg(&store)
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        return skipped("cannot mount a small tmpfs");
    }
    world.file("big", vec![7u8; 1 << 20]);
    world.dockerfile("FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=32\n");
    let busybox = world.busybox().expect("checked");
    let mut command = world.command();
    command.env("RBUILD_ROOT", &store);
    command.args(["-t", "app", "--progress", "plain", "--network", "none", "--build-context", &busybox, "."]);
    let output = command.output().expect("rbuild starts");
    let listed = world.command().env("RBUILD_ROOT", &store).arg("images").output().expect("rbuild starts");
    let unmounted = std::process::Command::new("umount").arg(&store).status().expect("umount").success();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(unmounted, "the store is still in use");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("No space left") || stderr.contains("no space left"), "{stderr}");
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("app"));
}

#[test]
fn the_context_has_no_way_out() {
    let world = World::new();
    std::fs::write(world.path("outside"), "secret").expect("a file");
    std::os::unix::fs::symlink("../outside", world.context().join("link")).expect("a link");
    std::os::unix::fs::symlink("/etc", world.context().join("etc")).expect("a link");
    for source in ["../outside", "link", "etc/passwd", "/etc/passwd"] {
        world.dockerfile(&format!("FROM scratch\nCOPY {source} /got\n"));
        let run = world.rbuild(&["--output", "type=cacheonly", "."]);
        assert_eq!(run.code, 1, "{source}: {}", run.stderr);
    }
}
