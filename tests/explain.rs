//! `--explain`: for each way in which a build can differ from the last one, exactly what differs is named.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::{World, can_run};

const DOCKERFILE: &str = "\
FROM busybox AS build
COPY src /src
ARG VERSION=1
ENV MODE=fast
RUN --mount=type=bind,source=scripts,target=/scripts --mount=type=secret,id=token cat /src/a > /out
FROM busybox
COPY --from=build /out /out
";

/// Writes the context as it is before anything is changed.
fn reset(world: &World) {
    let context = world.context();
    std::fs::remove_dir_all(&context).expect("the context goes");
    std::fs::create_dir(&context).expect("a folder");
    world.file("src/a", "a\n");
    world.file("src/sub/c", "c\n");
    world.file("scripts/run", "1\n");
    world.dockerfile(DOCKERFILE);
    // a layer that is made again is the same, however long the builds take
    for name in ["src/a", "src/sub/c", "src/sub", "src"] {
        let file = std::fs::File::open(context.join(name)).expect("it was made");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("a time");
    }
}

/// What a build says of the steps that were not in the cache.
fn explained(world: &World, args: &[&str]) -> Vec<String> {
    let busybox = world.busybox().expect("checked");
    let mut all = vec!["--explain", "--progress", "plain", "--network", "none", "-t", "app"];
    all.extend(["--build-arg", "SOURCE_DATE_EPOCH=1"]);
    if !args.iter().any(|arg| arg.starts_with("busybox=")) {
        all.extend(["--build-context", busybox.as_str()]);
    }
    all.extend(args);
    all.push(".");
    let run = world.rbuild(&all).success();
    let said = run.stderr.lines().filter_map(|line| line.split_once(" not cached: "));
    said.map(|(step, reason)| format!("{step} {reason}")).collect()
}

/// Builds the unchanged context, which hits, then the one that `change` made of it.
#[track_caller]
fn check(world: &World, change: impl FnOnce(&World), args: &[&str], expect: &[&str]) {
    reset(world);
    assert_eq!(explained(world, &[]), [""; 0], "nothing has changed yet");
    change(world);
    assert_eq!(explained(world, args), expect);
}

fn edit(from: &'static str, to: &'static str) -> impl FnOnce(&World) {
    move |world| {
        assert!(DOCKERFILE.contains(from), "{from:?}");
        world.dockerfile(&DOCKERFILE.replace(from, to));
    }
}

#[test]
fn what_changed_is_named_and_nothing_else() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    reset(&world);
    let first = "the step was not built here before";
    assert_eq!(explained(&world, &[]), [1, 2, 3].map(|step| format!("#{step} {first}")));
    let none = |_: &World| {};
    let copied = "#2 step COPY src /src changed";

    let content = |world: &World| drop(world.file("src/a", "b\n"));
    check(&world, content, &[], &["#1 file src/a changed", copied, "#3 file out of stage build changed"]);
    let executable = std::fs::Permissions::from_mode(0o755);
    let mode =
        |world: &World| std::fs::set_permissions(world.context().join("src/a"), executable).expect("chmod");
    check(&world, mode, &[], &["#1 file src/a has mode 0755, had 0644", copied]);
    check(&world, |world| drop(world.file("src/b", "")), &[], &["#1 file src/b is new", copied]);
    let removed = |world: &World| std::fs::remove_file(world.context().join("src/sub/c")).expect("removed");
    check(&world, removed, &[], &["#1 file src/sub/c is gone", copied]);
    let ignored = |world: &World| drop(world.file(".dockerignore", "src/sub\n"));
    let ignored_said = ["#1 file src/sub is gone", "#1 file src/sub/c is gone", copied];
    check(&world, ignored, &[], &ignored_said);
    check(&world, |world| drop(world.file("unread", "")), &[], &[]);

    check(&world, none, &["--build-arg", "VERSION=2"], &["#2 ARG VERSION changed"]);
    check(&world, edit("VERSION=1", "VERSION=3"), &[], &["#2 ARG VERSION changed"]);
    check(&world, edit("MODE=fast", "MODE=slow"), &[], &["#2 ENV MODE changed"]);
    check(&world, edit("ENV MODE=fast", "ENV MODE=fast MORE=1"), &[], &["#2 ENV MORE is new"]);
    check(&world, edit("cat /src/a", "true; cat /src/a"), &[], &["#2 command changed"]);
    check(&world, |world| drop(world.file("scripts/run", "2\n")), &[], &["#2 file scripts/run changed"]);
    check(&world, edit("id=token", "id=token,target=/t"), &[], &["#2 --mount=type=secret token changed"]);
    check(&world, edit("ENV MODE", "USER 0:0\nENV MODE"), &[], &["#2 user is new"]);
    check(
        &world,
        edit("COPY src", "COPY --chown=5:6 src"),
        &[],
        &["#1 --chown is new", "#2 step COPY --chown=5:6 src /src changed"],
    );
    check(&world, edit("/out /out", "/out /b"), &[], &["#3 destination is /b, was /out"]);
    check(&world, none, &["--add-host", "h:127.0.0.9"], &["#2 --add-host h is new"]);
    let variant = ["--platform", "linux/amd64/v2"];
    check(&world, none, &variant, &["#2 platform is linux/amd64/v2, was linux/amd64"]);

    world.dockerfile("FROM busybox\nCOPY scripts/run /marker\n");
    let another = format!("busybox=oci-layout://{}", world.build_layout("another", &[]).dir.display());
    let base = "base image busybox changed";
    check(
        &world,
        none,
        &["--build-context", &another],
        &[&format!("#1 {base}"), copied, &format!("#3 {base}")],
    );

    let filter = ["--no-cache-filter", "build"];
    check(&world, none, &filter, &["#1 --no-cache-filter was given", "#2 --no-cache-filter was given"]);
    let off = [1, 2, 3].map(|step| format!("#{step} --no-cache was given"));
    check(&world, none, &["--no-cache"], &off.each_ref().map(String::as_str));
    let store = "the store does not have its layer, or one that was made for another compression";
    let other = [1, 2, 3].map(|step| format!("#{step} {store}"));
    check(&world, none, &["--output-attrs", "compression=zstd"], &other.each_ref().map(String::as_str));
}

#[test]
fn events_tell_it_too_and_only_when_asked() {
    let world = World::new();
    world.file("a", "1");
    world.dockerfile("FROM scratch\nCOPY a /\n");
    let build = |args: &[&str]| {
        let mut all = vec!["--progress", "rawjson", "-t", "app"];
        all.extend(args);
        all.push(".");
        world.rbuild(&all).success().stderr
    };
    assert!(!build(&[]).contains("step-missed"));
    world.file("a", "2");
    let said = build(&["--explain"]);
    let missed = said.lines().find(|line| line.contains("step-missed")).expect("an event");
    let missed: serde_json::Value = serde_json::from_str(missed).expect("JSON");
    assert_eq!(missed["reasons"], serde_json::json!([{"input": "file a", "change": "changed"}]));
}

/// What is kept for the explanation holds no values that may be secret, and a damaged record costs an explanation only.
#[test]
fn records_hold_no_values_and_may_be_damaged() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.dockerfile("FROM busybox\nARG PASSWORD\nRUN echo from-the-command; true\n");
    let build = || explained(&world, &["--build-arg", "PASSWORD=from-the-argument"]);
    build();
    let records = world.store().join("cache/inputs");
    let files: Vec<_> =
        std::fs::read_dir(&records).expect("records").map(|entry| entry.expect("a record").path()).collect();
    assert_eq!(files.len(), 1);
    let text = std::fs::read_to_string(&files[0]).expect("a record");
    assert!(text.contains("ARG PASSWORD"), "{text}");
    assert!(!text.contains("from-the-command") && !text.contains("from-the-argument"), "{text}");
    std::fs::write(&files[0], "{").expect("damaged");
    assert_eq!(build(), [""; 0]);
    std::fs::write(&files[0], "[1]").expect("damaged");
    world.dockerfile("FROM busybox\nARG PASSWORD\nRUN true\n");
    assert_eq!(build(), ["#1 the step was not built here before"]);
}
