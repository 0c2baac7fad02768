//! The same inputs give the same bytes.

use crate::support::{World, can_run};

#[test]
fn two_builds_from_nothing_have_one_digest() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    world.file("a", "a");
    world.dockerfile("FROM busybox\nCOPY a /a\nRUN date > /date-is-not-compared; rm /date-is-not-compared; echo made > /made; mkdir -p /x/y\nWORKDIR /w\n");
    let build = |name: &str| {
        let archive = world.path(name);
        let output = format!("type=oci,dest={},rewrite-timestamp=true", archive.display());
        let busybox = world.busybox().expect("checked");
        let mut command = world.command();
        command
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .env("RBUILD_ROOT", world.path(&format!("{name}.store")));
        command.args([
            "--no-cache",
            "--network",
            "none",
            "--build-context",
            &busybox,
            "--output",
            &output,
            ".",
        ]);
        let output = command.output().expect("rbuild starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(archive).expect("the archive")
    };
    let first = build("one.tar");
    std::thread::sleep(std::time::Duration::from_millis(1100)); // times of files differ by a second now
    world.file("a", "a");
    assert!(first == build("two.tar"), "the archives differ");
}

#[test]
fn a_build_in_which_nothing_changed_has_the_digest_it_had() {
    let world = World::new();
    world.file("a", "a");
    let check = |dockerfile: &str| {
        world.dockerfile(dockerfile);
        let first = world.build_layout("first", &[]);
        std::thread::sleep(std::time::Duration::from_millis(5)); // the clock does not stand still between builds
        let again = world.build_layout("again", &[]);
        assert_eq!(first.digest, again.digest, "{dockerfile}:\n{}\n{}", first.config, again.config);
        for name in ["first", "again"] {
            std::fs::remove_dir_all(world.path(name)).expect("the layout");
        }
        first
    };
    let image = check("FROM scratch\nENV A=b\nCOPY a /a\nLABEL c=d\nWORKDIR /w\n");
    let times: Vec<_> =
        image.config["history"].as_array().expect("a list").iter().map(|entry| &entry["created"]).collect();
    assert_eq!(times[0], times[1], "ENV has the time of the first new layer: {times:?}");
    assert_eq!(times[1], times[2], "LABEL has the time of the layer before: {times:?}");
    assert_ne!(times[1], times[3]);
    assert_eq!(&image.config["created"], times[3]);
    check("FROM scratch AS below\nENV A=b\nFROM below\nCOPY a /a\n");
    check("FROM scratch\nENV A=b\n");
    if world.busybox().is_some() {
        let image = check("FROM busybox\nENV A=b\n");
        assert_eq!(image.config["created"], "2026-01-01T00:00:00Z", "no layer is new");
        let image = check("FROM busybox AS below\nENV A=b\nFROM below\nCOPY a /b\n");
        let history = &image.config["history"];
        assert_eq!(history[1]["created"], history[2]["created"], "also when they stand in another stage");
    }
    if can_run(&world) {
        check("FROM busybox\nRUN --network=none date > /date\nCMD [\"sh\"]\n");
    }
}

#[test]
fn the_entry_of_a_layout_has_the_time_that_was_given() {
    let world = World::new();
    world.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let created = |name: &str, args: &[&str]| {
        let image = world.build_layout(name, args);
        let index = std::fs::read(image.dir.join("index.json")).expect("index.json");
        let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
        index["manifests"][0]["annotations"]["org.opencontainers.image.created"].clone()
    };
    assert_eq!(created("given", &["--build-arg", "SOURCE_DATE_EPOCH=7"]), "1970-01-01T00:00:07Z");
    let local = ["--build-arg", "SOURCE_DATE_EPOCH=context"];
    assert!(created("local", &local).is_null(), "a directory has no time");
    world.dockerfile("ARG SOURCE_DATE_EPOCH=context\nFROM scratch\nCOPY Dockerfile /\n");
    assert!(created("default", &[]).is_null(), "a directory has no time");
    world.dockerfile("ARG SOURCE_DATE_EPOCH=stage\nFROM scratch AS stage\nCOPY Dockerfile /\n");
    world.rbuild(&["."]).exits(2).says("SOURCE_DATE_EPOCH");
    world.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    assert!(created("none", &[]).is_null(), "an unchanged build gives an unchanged archive");
}
