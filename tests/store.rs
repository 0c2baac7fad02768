//! The store as a whole: garbage collection, verification, and what happens when the disk is full.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use crate::support::{Mounted, Run, World, can_run, have, is_root, skipped};

/// Bytes that do not compress.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

fn build_of_noise(world: &World, length: usize, seed: u64, args: &[&str]) -> Run {
    let file = world.file("noise", noise(length, seed));
    // the same bytes make the same layer, however long a build takes
    let file = std::fs::File::options().write(true).open(file).expect("the file");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("a time");
    world.dockerfile("FROM scratch\nCOPY noise /\n");
    world.rbuild(&[&["--progress", "plain", "--output", "type=cacheonly"], args, &["."]].concat())
}

fn disk_usage(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let own = path.symlink_metadata().map_or(0, |file| file.blocks() * 512);
    let below = std::fs::read_dir(path).into_iter().flatten().flatten();
    own + below.map(|entry| disk_usage(&entry.path())).sum::<u64>()
}

#[test]
fn a_build_goes_on_beside_garbage_collection() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let busybox = world.busybox().expect("it was there");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    world.dockerfile(&format!(
        "FROM busybox\nRUN echo a > /a\nRUN --mount=type=cache,target=/cache echo b > /cache/b && nc 127.0.0.1 {port}\n\
         RUN --mount=type=cache,target=/cache cat /a /cache/b\n"
    ));
    let args = ["--progress", "plain", "--build-context", &busybox, "-t", "app", "."];
    let mut command = world.command();
    let building = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a build");
    let (connection, _) = listener.accept().expect("the step calls");
    world.rbuild(&["gc", "--max-size", "0", "--all"]).success();
    drop(connection);
    Run::of(building.wait_with_output().expect("the build ends")).success();
    world.rbuild(&["store", "verify"]).success();
    // the image has a name and stays, but what it was made with goes
    let collected = world.rbuild(&["gc", "--max-size", "0", "--format", "json"]).success().stdout;
    let collected: serde_json::Value = serde_json::from_str(&collected).expect("JSON");
    for part in ["snapshots", "cache", "mounts"] {
        assert_eq!(collected[part]["kept"]["count"], 0, "{part}");
        assert_ne!(collected[part]["removed"]["count"], 0, "{part}");
    }
    assert_eq!(collected["images"]["kept"]["count"], 1);
    world.rbuild(&["store", "verify"]).success();
    world.rbuild(&["gc", "--max-size", "0", "--all"]).success();
    assert_eq!(world.rbuild(&["images", "--format", "json"]).success().stdout.trim(), "[]");
    assert_eq!(std::fs::read_dir(world.store().join("blobs/sha256")).expect("blobs").count(), 0);
}

#[test]
fn a_killed_collection_leaves_a_sound_store() {
    let world = World::new();
    for seed in 1..12 {
        build_of_noise(&world, 1 << 20, seed, &[]).success();
    }
    let blobs = || std::fs::read_dir(world.store().join("blobs/sha256")).expect("blobs").count();
    let before = blobs();
    let mut collecting = world.command().args(["gc", "--max-size", "0"]).spawn().expect("gc");
    while blobs() == before && collecting.try_wait().expect("a child").is_none() {
        std::thread::yield_now();
    }
    // it may have ended by now, which is as good
    let _ = collecting.kill();
    collecting.wait().expect("it ends");
    world.rbuild(&["store", "verify"]).success();
    build_of_noise(&world, 1 << 20, 3, &[]).success();
    assert!(world.scratch_left().is_empty(), "{:?}", world.scratch_left());
}

#[test]
fn only_what_is_old_goes() {
    let world = World::new();
    build_of_noise(&world, 1 << 20, 1, &[]).success();
    world.rbuild(&["gc", "--keep-duration", "1h"]).success();
    assert!(disk_usage(&world.store()) > 1 << 20);
    world.rbuild(&["gc", "--keep-duration", "0"]).success();
    assert!(disk_usage(&world.store()) < 1 << 20);
    world.rbuild(&["gc"]).exits(2);
    world.rbuild(&["gc", "--max-size", "much"]).exits(2).says("is no size");
    world.rbuild(&["gc", "--keep-duration", "long"]).exits(2).says("is no duration");
}

#[test]
fn a_limit_makes_room_or_fails() {
    let world = World::new();
    build_of_noise(&world, 5 << 20, 1, &[]).success();
    build_of_noise(&world, 5 << 20, 2, &["--disk-limit", "8m"]).success();
    assert!(disk_usage(&world.store()) <= 8 << 20, "{}", disk_usage(&world.store()));
    build_of_noise(&world, 5 << 20, 3, &["--disk-limit", "3m"]).exits(1).says("its limit is 3145728");
    assert!(world.scratch_left().is_empty());
    build_of_noise(&world, 5 << 20, 3, &[]).success();
}

#[test]
fn damage_is_found_and_healed() {
    let world = World::new();
    build_of_noise(&world, 1 << 20, 1, &[]).success();
    let verified = world.rbuild(&["store", "verify"]).success();
    assert!(verified.stdout.ends_with(": 0 damaged\n"), "{}", verified.stdout);
    let largest = std::fs::read_dir(world.store().join("blobs/sha256")).expect("blobs");
    let largest = largest.flatten().max_by_key(|blob| blob.metadata().map_or(0, |file| file.len()));
    let largest = largest.expect("a blob").path();
    let mut bytes = std::fs::read(&largest).expect("a blob");
    bytes[4000] ^= 1;
    std::fs::write(&largest, bytes).expect("a blob");
    let found = world.rbuild(&["store", "verify", "--remove"]).exits(1);
    assert!(found.stdout.contains(&largest.display().to_string()), "{}", found.stdout);
    world.rbuild(&["store", "verify"]).success();
    build_of_noise(&world, 1 << 20, 1, &[]).success();
    assert!(largest.exists());
}

#[test]
fn a_full_disk_fails_cleanly() {
    let world = World::new();
    if !is_root("mounting a small file system needs root") || !have("nsenter") {
        return;
    }
    let store = world.store();
    std::fs::create_dir(&store).expect("a folder");
    let Some(small) = Mounted::new(&format!("mount -t tmpfs -o size=12m tmpfs {}", store.display())) else {
        return skipped("nothing can be mounted here");
    };
    let rbuild = |args: &[&str]| {
        let mut command = small.command(0, env!("CARGO_BIN_EXE_rbuild"));
        command.env("HOME", world.path("home")).env("RBUILD_ROOT", &store).args(args);
        Run::of(command.output().expect("rbuild starts"))
    };
    let context = world.context().display().to_string();
    let build = |dockerfile: &str, length: usize| {
        world.file("noise", noise(length, 1));
        world.dockerfile(dockerfile);
        let busybox = world.busybox().unwrap_or_else(|| "busybox=scratch".to_owned());
        rbuild(&[
            "--progress",
            "plain",
            "--network",
            "none",
            "--output",
            "type=cacheonly",
            "--build-context",
            &busybox,
            &context,
        ])
    };
    let nothing_left = || {
        let left = std::fs::read_dir(small.path(&store).join("tmp")).expect("tmp");
        assert_eq!(left.count(), 0);
    };
    build("FROM scratch\nCOPY noise /\n", 40 << 20).exits(1).says("hint: free space");
    nothing_left();
    build("FROM scratch\nCOPY noise /\n", 1 << 20).success();
    rbuild(&["store", "verify"]).success();
    if !can_run(&world) {
        return;
    }
    // a step of its own fills the disk
    build("FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=40\n", 1)
        .exits(1)
        .says("No space left on device");
    nothing_left();
    build("FROM scratch\nCOPY noise /\n", 1 << 20).success();
}

#[test]
fn steps_see_what_a_pull_would_give_them() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let busybox = world.busybox().expect("it was there");
    let first = "FROM busybox\nRUN touch /f && mkdir /d\n";
    let second = format!("{first}RUN stat -c %Y /f /d > /out\n");
    let build = |name: &str, store: &str| {
        let dest = world.path(name);
        let output = format!("type=oci,dest={},rewrite-timestamp=true", dest.display());
        let mut command = world.command();
        command.env("SOURCE_DATE_EPOCH", "1000").env("RBUILD_ROOT", world.path(store));
        let args = ["--network", "none", "--build-context", &busybox, "--output", &output, "."];
        Run::of(command.args(args).output().expect("rbuild starts")).success();
        let mut bytes = Vec::new();
        std::fs::File::open(dest).expect("the archive").read_to_end(&mut bytes).expect("the archive");
        bytes
    };
    world.dockerfile(first);
    build("unused.tar", "one");
    std::fs::remove_dir_all(world.path("one/snapshots")).expect("the snapshots");
    world.dockerfile(&second);
    assert!(build("one.tar", "one") == build("two.tar", "two"), "the images differ");
}
