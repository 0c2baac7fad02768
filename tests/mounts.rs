//! RUN --mount: what a step sees, and what is left of it.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Image, Run, World, can_run, skipped, works};

/// A stage with owners, links and a file, as `from`.
const SOURCE: &str = "FROM busybox AS src\nRUN mkdir -p /d/e && echo f > /d/e/f && chown -R 5:6 /d && ln -s /d/e /lnk && ln -s f /d/e/l\n";

/// Builds into a layout of a new name.
fn build(world: &World, args: &[&str]) -> Image {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    world.build_layout(&format!("image-{}", NEXT.fetch_add(1, Ordering::Relaxed)), args)
}

/// Builds `SOURCE` and a stage with one RUN, which writes to /out, and returns that file.
fn run(world: &World, flags: &str, script: &str, args: &[&str]) -> String {
    world.dockerfile(&format!("{SOURCE}FROM busybox\nRUN {flags} {{ {script} ; }} > /out 2>&1\n"));
    let mut all = vec!["--network", "none"];
    all.extend(args);
    let image = build(world, &all);
    let last = image.layers() - 1;
    assert_eq!(image.paths(last), ["out"], "mount points vanish");
    image.entry(last, "out").content
}

/// Builds with the base image at hand and no output.
fn attempt(world: &World, args: &[&str]) -> Run {
    let busybox = world.busybox().expect("checked");
    let mut all = vec!["--build-context", busybox.as_str(), "--output", "type=cacheonly"];
    all.extend(args);
    all.push(".");
    world.rbuild(&all)
}

#[test]
fn binds_show_part_of_a_stage() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let flags = "--mount=type=bind,from=src,source=/lnk,target=/t --mount=from=src,source=/d/e/f,target=/tf,rw \
                 --mount=from=src,source=d/e/l,target=/deep/er/tl --mount=from=src,source=/d,target=/trw,rw";
    let script = "stat -c '%n %a %u %g %F' /t /t/f /t/l /tf /deep/er/tl /trw /trw/e; \
                  echo 1 > /trw/new; rm -r /trw/e; ls /trw; echo 2 > /tf; cat /tf; \
                  (echo x > /t/f) 2>/dev/null || echo read-only; cat /t/f";
    let expect = "/t 755 5 6 directory\n/t/f 644 5 6 regular file\n/t/l 777 0 0 symbolic link\n\
                  /tf 644 5 6 regular file\n/deep/er/tl 644 5 6 regular file\n/trw 755 5 6 directory\n\
                  /trw/e 755 5 6 directory\nnew\n2\nread-only\nf\n";
    assert_eq!(run(&world, flags, script, &[]), expect);
    // What was written is gone, also for a step that mounts the same.
    let again =
        run(&world, "--mount=from=src,source=/d,target=/trw,rw", "ls /trw; cat /trw/e/f", &["--no-cache"]);
    assert_eq!(again, "e\nf\n");
    assert_eq!(world.scratch_left(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn binds_show_images_and_empty_trees() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let flags = "--mount=from=busybox,source=/etc,target=/t --mount=from=scratch,target=/none,rw";
    let script = "cmp /t/passwd /etc/passwd && echo same; ls /none | wc -l; touch /none/x && echo written";
    assert_eq!(run(&world, flags, script, &[]), "same\n0\nwritten\n");
}

#[test]
fn binds_of_the_context_hide_owners_and_what_is_ignored() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.file(".dockerignore", "*.skip\n");
    world.file("a.skip", "no");
    let file = world.file("sub/f", "hi\n");
    rustix::fs::chown(&file, Some(rustix::fs::Uid::from_raw(1000)), Some(rustix::fs::Gid::from_raw(1000)))
        .expect("root gives files away");
    let flags = "--mount=target=/ctx --mount=source=sub,target=/c2,rw --mount=source=sub/f,target=/c3";
    let script = "ls -A /ctx; stat -c '%u %g' /ctx/sub/f; echo w > /c2/w; echo x > /c2/f; cat /c3; ls /c2; \
                  touch /ctx/x 2>/dev/null || echo read-only";
    let expect = ".dockerignore\nDockerfile\nsub\n0 0\nhi\nf\nw\nread-only\n";
    assert_eq!(run(&world, flags, script, &[]), expect);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "hi\n");

    let named = world.path("named");
    std::fs::create_dir(&named).expect("a folder");
    std::fs::write(named.join("n"), "named\n").expect("a file");
    let context = format!("other={}", named.display());
    let seen =
        run(&world, "--mount=from=other,target=/n,rw", "cat /n/n; rm /n/n", &["--build-context", &context]);
    assert_eq!(seen, "named\n");
    assert!(named.join("n").exists());
}

#[test]
fn a_bind_of_what_is_missing_fails_by_name() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    for from in ["from=src,", ""] {
        world.dockerfile(&format!("{SOURCE}FROM busybox\nRUN --mount={from}source=/nope,target=/t true\n"));
        attempt(&world, &["--network", "none"]).exits(1).says("nope").says("not found").says("Dockerfile:4");
    }
}

#[test]
fn mounts_lie_in_mounts() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let flags = "--mount=from=src,source=/d,target=/t --mount=type=tmpfs,target=/t/new/tmp \
                 --mount=from=src,source=/d/e/f,target=/t/e/g --mount=type=cache,target=/t/new/tmp/x/y/cache \
                 --mount=from=src,source=/d/e/f,target=/t/new/tmp/file";
    let script = "cat /t/e/g /t/new/tmp/file /t/e/f; touch /t/new/tmp/x/y/cache/z && ls /t/new/tmp/x/y/cache";
    assert_eq!(run(&world, flags, script, &[]), "f\nf\nf\nz\n");
}

#[test]
fn caches_last() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let script = "stat -c '%a %u %g' /c; cat /c/n; echo $(($(cat /c/n) + 1)) > /c/n; cat /c/n";
    let again = |flags: &str| run(&world, flags, script, &["--no-cache"]);
    assert!(again("--mount=type=cache,target=/c").ends_with("1\n"));
    assert_eq!(again("--mount=type=cache,target=/c"), "755 0 0\n1\n2\n");
    assert_eq!(again("--mount=type=cache,id=/c,target=/c,sharing=locked"), "755 0 0\n2\n3\n");
    let private = again("--mount=type=cache,id=/c,target=/c,sharing=private");
    assert!(private.ends_with("1\n"), "a directory of its own: {private}");
    let owned = "--mount=type=cache,target=/c,uid=7,gid=8,mode=0700";
    assert!(again(owned).starts_with("700 7 8\n"));
    assert!(again(owned).ends_with("1\n2\n"));
    let read_only = run(
        &world,
        "--mount=type=cache,target=/c,ro",
        "touch /c/x 2>/dev/null || echo read-only; cat /c/n",
        &["--no-cache"],
    );
    assert_eq!(read_only, "read-only\n3\n");
}

#[test]
fn caches_start_from_a_tree() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let script = "stat -c '%a %u %g' /c /c/e/f; touch /c/new; ls /c";
    let from = "--mount=type=cache,target=/c,from=src,source=/d";
    assert_eq!(run(&world, from, script, &[]), "755 5 6\n644 5 6\ne\nnew\n");
    let empty = "--mount=type=cache,target=/c,from=src,uid=9,id=other";
    assert_eq!(run(&world, empty, "stat -c '%a %u %g' /c; ls /c", &[]), "755 9 0\n");
}

#[test]
fn a_failed_step_keeps_what_it_cached() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.dockerfile("FROM busybox\nRUN --mount=type=cache,target=/c touch /c/kept && false\n");
    attempt(&world, &["--network", "none"]).exits(1);
    assert_eq!(run(&world, "--mount=type=cache,target=/c", "ls /c", &[]), "kept\n");
}

#[test]
fn memory_file_systems_have_a_size() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let flags = "--mount=type=tmpfs,target=/tm,size=10m --mount=type=tmpfs,target=/dev/shm,size=20m";
    let script = "grep -E ' (/tm|/dev/shm) ' /proc/mounts | sed 's/,inode64//' | sort; stat -c '%a %u %g' /tm; echo x > /tm/x";
    let expect = "tmpfs /dev/shm tmpfs rw,nosuid,relatime,size=20480k 0 0\ntmpfs /tm tmpfs rw,nosuid,relatime,size=10240k 0 0\n1777 0 0\n";
    assert_eq!(run(&world, flags, script, &[]), expect);
}

#[test]
fn hosts_limits_and_shared_memory_are_set() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let args = [
        "--add-host",
        "foo:1.2.3.4",
        "--add-host",
        "bar=[::5]",
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
        "--shm-size",
        "1m",
        "--build-arg",
        "BUILDKIT_SANDBOX_HOSTNAME=hh",
    ];
    let script = "cat /etc/hosts; hostname; ulimit -n; ulimit -Hn; ulimit -c; grep -o 'shm .*' /proc/mounts | sed 's/,inode64//'";
    let expect = "127.0.0.1\tlocalhost hh\n::1\tlocalhost ip6-localhost ip6-loopback\n1.2.3.4\tfoo\n::5\tbar\nhh\n100\n200\n0\n\
                  shm tmpfs rw,nosuid,relatime,size=1024k 0 0\n";
    assert_eq!(run(&world, "", script, &args), expect);
    // They are part of what a step is.
    let other = run(&world, "", script, &["--ulimit", "nofile=101"]);
    assert!(other.contains("buildkitsandbox\n") && other.contains("\n101\n101\n"), "{other}");
}

#[test]
fn limits_that_cannot_be_are_refused_before_the_first_step() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let busybox = world.busybox().expect("checked");
    world.file("a", "a");
    world.dockerfile("FROM busybox\nCOPY a /\nRUN true\n");
    // More than fs.nr_open can be, so that nobody may have it.
    let args = ["--build-context", &busybox, "--progress", "plain", "--ulimit", "nofile=100:4000000000"];
    let run = world.rbuild(&[args.as_slice(), &["--output", "type=cacheonly", "."]].concat()).exits(4);
    let run = run.says("cannot raise the hard limit nofile to 4000000000: ").says(" is allowed here");
    assert!(!run.stderr.contains("COPY a"), "{}", run.stderr);
}

#[test]
fn networks_are_as_asked_for() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let interfaces = "ls /sys/class/net | wc -l";
    let here = std::fs::read_dir("/sys/class/net").expect("interfaces").count();
    let seen = |flags: &str, args: &[&str]| {
        world.dockerfile(&format!("FROM busybox\nRUN {flags} {interfaces} > /out\n"));
        build(&world, args).entry(1, "out").content.trim().parse::<usize>().expect("a number")
    };
    if here == 1 {
        skipped("this machine has no network but loopback to tell apart");
        return;
    }
    assert_eq!(seen("", &[]), here);
    assert_eq!(seen("--network=host", &[]), here);
    assert_eq!(seen("--network=none", &[]), 1);
    assert_eq!(seen("--network=default", &["--network", "none"]), 1);
    assert_eq!(seen("--network=host", &["--network", "none", "--allow", "network.host"]), here);
    attempt(&world, &["--network", "none"])
        .exits(2)
        .says("RUN --network=host in a build without network")
        .says("--allow network.host");
}

#[test]
fn confinement_is_lifted_when_allowed() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let script = "grep Seccomp: /proc/self/status; mount -t tmpfs none /tmp && echo mounted";
    world.dockerfile(&format!("FROM busybox\nRUN --security=insecure {{ {script} ; }} > /out\n"));
    attempt(&world, &[]).exits(2).says("--allow security.insecure").says("Dockerfile:2");
    let image = build(&world, &["--network", "none", "--allow", "security.insecure"]);
    assert_eq!(image.entry(1, "out").content, "Seccomp:\t0\nmounted\n");
}

#[test]
fn devices_that_nobody_describes_are_absent() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    if Path::new("/etc/cdi").exists() || Path::new("/var/run/cdi").exists() {
        skipped("this machine describes devices");
        return;
    }
    let device =
        |flags: &str| world.dockerfile(&format!("FROM busybox\nRUN --device=a.com/b=c{flags} true\n"));
    device("");
    attempt(&world, &[]).exits(2).says("--allow device");
    build(&world, &["--network", "none", "--allow", "device"]);
    device(",required");
    attempt(&world, &["--allow", "device"]).exits(2).says("not registered");
}

/// The same in an isolation where nothing can be mounted: what a step sees and what it leaves are equal.
#[test]
fn mounts_are_placed_where_nothing_can_be_mounted() {
    let world = World::new();
    if !can_run(&world) || !works(&world, "chroot") {
        return;
    }
    world.file("sub/f", "hi\n");
    let flags = "--mount=from=src,source=/lnk,target=/t --mount=from=src,source=/d/e/f,target=/deep/er/tf,rw \
                 --mount=source=sub,target=/c2,rw --mount=type=tmpfs,target=/tm --mount=type=tmpfs,target=/etc/x/y \
                 --mount=from=src,source=/d/e/f,target=/tm/in/f --mount=type=cache,target=/c,uid=7,mode=0700";
    let script = "stat -c '%n %a %u %g %F' /t /t/f /deep/er/tf /tm /c; echo 2 > /deep/er/tf; cat /t/f /tm/in/f; \
                  echo w > /c2/w; ls /c2; touch /etc/x/y/z /tm/z; cat /c/n; echo x >> /c/n; head -n 1 /etc/hosts";
    let expect = |cached: &str| {
        format!(
            "/t 755 5 6 directory\n/t/f 644 5 6 regular file\n/deep/er/tf 644 5 6 regular file\n\
             /tm 1777 0 0 directory\n/c 700 7 0 directory\nf\nf\nf\nw\n{cached}127.0.0.1\tlocalhost buildkitsandbox\n"
        )
    };
    let none = "cat: can't open '/c/n': No such file or directory\n";
    assert_eq!(run(&world, flags, script, &["--isolation", "chroot"]), expect(none));
    assert_eq!(run(&world, flags, script, &["--isolation", "chroot", "--no-cache"]), expect("x\n"));
    // The isolations share their caches.
    assert_eq!(run(&world, flags, script, &["--no-cache"]), expect("x\nx\n"));

    world.dockerfile(
        "FROM busybox\nRUN --mount=type=cache,target=/c,uid=7,mode=0700 echo y >> /c/n; mkdir /made; false\n",
    );
    attempt(&world, &["--network", "none", "--isolation", "chroot"]).exits(1);
    let kept = "--mount=type=cache,target=/c,uid=7,mode=0700,ro";
    let seen = run(&world, kept, "cat /c/n; touch /c/lost", &["--isolation", "chroot"]);
    assert_eq!(seen, "x\nx\nx\ny\n", "a failed step keeps what it cached");
    assert_eq!(run(&world, kept, "ls /c", &["--isolation", "chroot"]), "n\n", "what is read-only stays");
    assert_eq!(world.scratch_left(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn scripts_and_files_of_the_image_come_back_where_nothing_can_be_mounted() {
    let world = World::new();
    if !can_run(&world) || !works(&world, "chroot") {
        return;
    }
    world.dockerfile(
        "FROM busybox AS base\nRUN mkdir -p /data/own && echo kept > /data/own/f && echo image > /etc/hosts\n\
         FROM base\nRUN --mount=type=tmpfs,target=/data/own <<EOF\n#!/bin/sh\necho lost > /data/own/f\nls -A /data/own\nEOF\n\
         RUN cat /data/own/f\n",
    );
    let image = build(&world, &["--network", "none", "--isolation", "chroot", "--no-cache"]);
    assert_eq!(image.entry(1, "data/own/f").content, "kept\n");
    assert_eq!((image.paths(2), image.paths(3)), (Vec::<String>::new(), Vec::new()));
    assert!(!image.paths(1).contains(&"etc/hosts".to_owned()), "the builder's was written, not the image's");
}
