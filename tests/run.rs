//! RUN: what a step sees, what it leaves, what becomes of it when it fails.

use crate::support::{Image, Run, World, can_run, have, is_root, skipped, tool};
use serde_json::json;

#[test]
fn the_changes_of_a_step_become_one_layer() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.dockerfile(
        "FROM busybox\nRUN mkdir /made && echo content > /made/file && chmod 2750 /made && chown 12:34 /made/file && rm /etc/group \\\n\
         && ln /made/file /made/link && ln -s file /made/soft\n",
    );
    let image = world.build_layout("out", &["--network", "none"]);
    assert_eq!(image.layers(), 2);
    assert_eq!(
        image.paths(1),
        ["etc", "etc/.wh.group", "made", "made/file", "made/link", "made/soft"],
        "nothing else, in this order"
    );
    assert_eq!(image.entry(1, "made").mode, 0o2750);
    assert_eq!(image.entry(1, "made/file").owner, (12, 34));
    assert_eq!(image.entry(1, "made/link").kind, tar::EntryType::Link);
    assert_eq!(image.entry(1, "made/soft").kind, tar::EntryType::Symlink);
}

#[test]
fn environment_user_folder_and_shell_reach_the_step() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.dockerfile(
        "FROM busybox\nARG ONE=1\nENV TWO=2\nUSER app\nWORKDIR /home/app\nSHELL [\"/bin/sh\", \"-ec\"]\n\
         RUN echo \"$ONE $TWO $HOME $(id -u) $(id -g) $(id -G) $(pwd) $(hostname) $(umask)\" > seen; echo \"$0\" >> seen\n",
    );
    let image = world.build_layout("out", &["--network", "none"]);
    let seen = image.entry(image.layers() - 1, "home/app/seen");
    assert_eq!(seen.content, "1 2 /home/app 1000 1000 1000 2000 /home/app buildkitsandbox 0022\n/bin/sh\n");
    assert_eq!(seen.owner, (1000, 1000));
}

#[test]
fn what_is_supplied_for_a_step_is_not_committed() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.dockerfile("FROM busybox\nRUN test -s /etc/hosts && test -e /etc/resolv.conf && test -e /proc/self/status && test -c /dev/null\n");
    let image = world.build_layout("out", &["--network", "none"]);
    assert_eq!(image.paths(1), Vec::<String>::new());
    assert_eq!(image.config["history"][1].get("empty_layer"), None);
}

#[test]
fn a_step_cannot_change_the_kernel_of_the_host() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.dockerfile(
        "FROM busybox\nRUN ! touch /sys/x 2>/dev/null && ! mount -t tmpfs none /tmp 2>/dev/null \\\n\
         && ! sh -c 'echo 1 > /proc/sys/kernel/panic' 2>/dev/null\n",
    );
    world.build_layout("out", &["--network", "none"]);
}

/// As in a pod that was given CAP_SYS_ADMIN and not CAP_NET_ADMIN.
#[test]
fn a_step_without_network_wants_no_capability_for_it() {
    let world = World::new();
    if !can_run(&world) || !have("setpriv") {
        return;
    }
    world.dockerfile("FROM busybox\nRUN --network=none cat /proc/net/dev > /interfaces && cat /sys/class/net/lo/operstate\n");
    let rbuild = world.command();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set", "-net_admin", "--"]).arg(rbuild.get_program()).env_clear();
    for (name, value) in rbuild.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let layout = world.path("out");
    command.current_dir(world.context()).args(["--isolation", "namespaces", "--progress", "plain"]);
    command.args(["--build-context", &world.busybox().expect("checked"), "--output"]);
    command.arg(format!("type=oci,dest={},tar=false", layout.display())).arg(".");
    Run::of(command.output().expect("setpriv starts")).success();
    let interfaces = Image::open(&layout).entry(1, "interfaces").content;
    let names: Vec<&str> = interfaces.lines().skip(2).filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names.iter().map(|name| name.trim()).collect::<Vec<_>>(), ["lo"]);
}

/// The C library does it through /proc, and takes a missing /proc for a system that cannot: tar then leaves folders as
/// it made them.
#[test]
fn modes_are_set_without_following_links() {
    let world = World::new();
    if !can_run(&world) || !have("cc") {
        return;
    }
    let program = "#define _GNU_SOURCE\n#include <fcntl.h>\n#include <sys/stat.h>\n\
        int main(int n, char **a) { return fchmodat(AT_FDCWD, a[n - 1], 02750, AT_SYMLINK_NOFOLLOW) != 0; }\n";
    let source = world.path("lchmod.c");
    std::fs::write(&source, program).expect("a source");
    let output = world.file("lchmod", "");
    tool("cc", &["-static", "-o", &output.display().to_string(), &source.display().to_string()]);
    world.dockerfile("FROM busybox\nCOPY lchmod /bin/\nRUN mkdir /made && lchmod /made\n");
    for isolation in ["namespaces", "userns", "chroot"] {
        let image = world.build_layout(isolation, &["--no-cache", "--isolation", isolation]);
        assert_eq!(image.entry(2, "made").mode, 0o2750, "{isolation}");
    }
}

#[test]
fn a_failing_step_says_which_and_why() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.dockerfile("FROM busybox\n\nRUN echo before; echo 'cause of death' >&2; exit 7\n");
    let run = world.run_steps().exits(1);
    let run = run.says("cause of death").says("Dockerfile:3").says("7");
    assert_eq!(run.stdout, "");
    assert_eq!(world.scratch_left(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_background_process_does_not_outlive_its_step() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let marker = format!("rbuild-test-{}", std::process::id());
    world.dockerfile(&format!(
        "FROM busybox\nRUN setsid sh -c ': {marker}; sleep 600' >/dev/null 2>&1 & sleep 0.2\nRUN true\n"
    ));
    world.build_layout("out", &["--network", "none"]);
    assert_eq!(processes_with(&marker), Vec::<String>::new());
}

#[test]
fn exec_form_runs_without_a_shell_and_finds_no_missing_program() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.dockerfile("FROM busybox\nRUN [\"echo\", \"$HOME\"]\nRUN [\"no-such-program\"]\n");
    world.run_steps().exits(1).says("$HOME").says("no-such-program").says("Dockerfile:3");
}

#[test]
fn an_unchanged_step_comes_from_the_cache() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.file("input", "1");
    world.dockerfile("FROM busybox\nCOPY input /input\nRUN cat /proc/sys/kernel/random/uuid > /out\n");
    let first = world.build_layout("one", &["--network", "none"]);
    let again = world.build_layout("two", &["--network", "none"]);
    assert_eq!(first.manifest["layers"], again.manifest["layers"]);
    world.file("input", "2");
    let changed = world.build_layout("three", &["--network", "none"]);
    assert_ne!(first.entry(2, "out").content, changed.entry(2, "out").content);
    let forced = world.build_layout("four", &["--network", "none", "--no-cache"]);
    assert_ne!(changed.entry(2, "out").content, forced.entry(2, "out").content);
}

#[test]
fn arguments_are_in_the_history_and_proxies_are_not() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.dockerfile("FROM busybox\nARG A=1\nRUN echo \"$A $http_proxy\" > /out\n");
    let args =
        ["--network", "none", "--build-arg", "A=2", "--build-arg", "http_proxy=http://proxy.invalid:3128"];
    let image = world.build_layout("out", &args);
    assert_eq!(image.entry(1, "out").content, "2 http://proxy.invalid:3128\n");
    let history = &image.config["history"][2];
    assert_eq!(
        history["created_by"],
        json!("RUN |1 A=2 /bin/sh -c echo \"$A $http_proxy\" > /out # buildkit")
    );
    assert!(!image.config.to_string().contains("proxy.invalid"));
}

/// Command lines of the processes of this machine that hold `text`.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").expect("/proc");
    processes
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != own)
        .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}

#[test]
fn a_host_that_cannot_run_says_so_before_the_first_step() {
    let world = World::new();
    world.file("a", "a");
    world.dockerfile("FROM scratch\nCOPY a /\nRUN true\n");
    if !is_root("the isolation supervised is not for root") {
        return;
    }
    let args = ["--isolation", "supervised", "--progress", "plain", "--output", "type=cacheonly", "."];
    let run = world
        .rbuild(&args)
        .exits(4)
        .says("cannot run RUN steps on this host")
        .says("choose another isolation");
    assert!(!run.stderr.contains("COPY"), "{}", run.stderr);
    let args = ["--isolation", "userns-single", "--progress", "plain", "--output", "type=cacheonly", "."];
    let run = world.rbuild(&args).exits(4).says("in this store files have their own");
    assert!(!run.stderr.contains("COPY"), "{}", run.stderr);
    world.dockerfile("FROM scratch\nCOPY a /\n");
    world.rbuild(&args).success();
}

#[test]
fn a_step_that_a_signal_ends_says_which() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.dockerfile("FROM busybox\nRUN kill -9 $$\n");
    world.run_steps().exits(1).says("was killed by signal 9: exit code: 137").says("Dockerfile:2");
}

#[test]
fn steps_have_cgroups_of_their_own_below_the_one_that_is_asked_for() {
    let world = World::new();
    if !can_run(&world) || !is_root("cgroups of the machine belong to root") {
        return;
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("proc");
    let mounted = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let Some(root) = mounted.and_then(|line| line.split(' ').nth(1)) else {
        return skipped("no cgroup2 filesystem is mounted");
    };
    let name = format!("rbuild-test-{}", std::process::id());
    let parent = std::path::Path::new(root).join(&name);
    if let Err(error) = std::fs::create_dir(&parent) {
        return skipped(&format!("cannot make a cgroup: {error}"));
    }
    world.dockerfile("FROM busybox\nRUN grep ^0 /proc/self/cgroup > /o; sleep 1000 &\n");
    let build = |parent: &str| {
        let busybox = world.busybox().expect("checked");
        let args = ["--build-context", &busybox, "--no-cache", "--cgroup-parent", parent];
        world.rbuild(&[&args[..], &["-o", "type=oci,tar=false,dest=../out", "."]].concat())
    };
    // One that a builder left behind is cleared away.
    std::fs::create_dir(parent.join("rbuild-1-1")).expect("a cgroup");
    build(&name).success();
    let left =
        std::fs::read_dir(&parent).expect("there").flatten().filter(|entry| entry.path().is_dir()).count();
    std::fs::remove_dir(&parent).expect("no process is left in it");
    assert_eq!(left, 0);
    let image = Image::open(&world.path("out"));
    let seen = image.entry(image.layers() - 1, "o").content;
    assert!(seen.contains(&format!("/{name}/rbuild-")), "{seen}");
    build(&name).exits(4).says("cannot run steps in the cgroup").says("cgroup.procs");
}
