//! Stages side by side: who waits for whom, what is done once, and what a failure stops.

use crate::support::{World, can_run};

/// Runs `script` until it succeeds, or for 30 s.
fn until(script: &str) -> String {
    format!("i=0; until {script}; do i=$((i+1)); [ $i -lt 600 ] || exit 9; usleep 50000; done")
}

/// Two stages, each of which ends only when both have begun, and one that reads both.
fn meeting() -> String {
    let (sees_b, sees_a) = (until("[ -e /m/b ]"), until("[ -e /m/a ]"));
    format!(
        "FROM busybox AS a\nRUN --mount=type=cache,target=/m touch /m/a; {sees_b}; echo a > /out\n\
         FROM busybox AS b\nRUN --mount=type=cache,target=/m touch /m/b; {sees_a}; echo b > /out\n\
         FROM scratch\nCOPY --from=a /out /a\nCOPY --from=b /out /b\n"
    )
}

#[test]
fn stages_that_do_not_read_each_other_run_side_by_side() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.dockerfile(&meeting());
    let image = world.build_layout("out", &["--network", "none", "--jobs", "2"]);
    assert_eq!((image.paths(0), image.paths(1)), (vec!["a".to_owned()], vec!["b".to_owned()]));
}

#[test]
fn the_image_does_not_depend_on_how_many_steps_run_at_once() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let stages: String = (0..6)
        .map(|stage| {
            let base = if stage < 2 { "busybox".to_owned() } else { format!("s{}", stage / 2 - 1) };
            format!(
                "FROM {base} AS s{stage}\nARG SOURCE_DATE_EPOCH=1\nWORKDIR /w{stage}\nRUN echo {stage} > f && touch -d @1 f . / /w{stage}\n"
            )
        })
        .collect();
    let copies: String = (0..6).map(|stage| format!("COPY --from=s{stage} /w{stage} /w{stage}\n")).collect();
    world.dockerfile(&format!("{stages}FROM s5\nARG SOURCE_DATE_EPOCH=1\n{copies}"));
    let build = |name: &str, jobs: &str| {
        let args = ["--network", "none", "--no-cache", "--jobs", jobs, "--build-arg", "SOURCE_DATE_EPOCH=1"];
        world.build_layout(name, &args).digest
    };
    assert_eq!(build("one", "1"), build("seven", "7"));
}

#[test]
fn what_two_stages_do_alike_is_done_once() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let step = "RUN --mount=type=cache,target=/m echo . >> /m/count; usleep 300000; cp /m/count /count";
    world.dockerfile(&format!(
        "FROM busybox AS a\n{step}\nRUN echo a > /which\nFROM busybox AS b\n{step}\nRUN echo b > /which\n\
         FROM scratch\nCOPY --from=a /count /which /a/\nCOPY --from=b /count /which /b/\n"
    ));
    let image = world.build_layout("out", &["--network", "none", "--no-cache", "--jobs", "2"]);
    assert_eq!(
        (image.entry(0, "a/count").content, image.entry(1, "b/count").content),
        (".\n".into(), ".\n".into())
    );
    assert_eq!(
        (image.entry(0, "a/which").content, image.entry(1, "b/which").content),
        ("a\n".into(), "b\n".into())
    );
}

#[test]
fn a_step_that_fails_stops_the_others() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let begun = until("[ -e /m/begun ]");
    world.dockerfile(&format!(
        "FROM busybox AS a\nRUN --mount=type=cache,target=/m touch /m/begun; exec sleep 1000\n\
         FROM busybox AS b\nRUN --mount=type=cache,target=/m {begun}; echo because >&2; exit 7\n\
         FROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n"
    ));
    let busybox = world.busybox().expect("checked");
    let args =
        ["--build-context", &busybox, "-o", "type=cacheonly", "--jobs", "2", "--progress", "plain", "."];
    let run = world.rbuild(&args).exits(1);
    assert!(run.stderr.contains("#1 CANCELED\n"), "{}", run.stderr);
    // Why the build failed is the last thing that is said.
    let (_, last) = run.stderr.split_once("#1 CANCELED\n").expect("seen");
    assert!(last.contains("exit code: 7") && last.contains("because"), "{}", run.stderr);
    assert_eq!(world.scratch_left(), Vec::<std::path::PathBuf>::new());
}
