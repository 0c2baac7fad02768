//! `rbuild copy`: one image in every form, and back again.

use crate::support::{Registry, World};

/// The digest on standard output of a copy.
fn copy(world: &World, args: &[&str]) -> String {
    let mut all = vec!["copy", "--quiet"];
    all.extend(args);
    world.rbuild(&all).success().stdout.trim().to_owned()
}

#[test]
fn an_index_goes_through_every_form_unchanged() {
    let world = World::new();
    let Some(registry) = Registry::open(&world.path("registry")) else { return };
    world.file("a", "some content");
    world.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\nCOPY a /both\n");
    let name = registry.image("team/app:1");
    let platforms = "linux/amd64,linux/arm64";
    world.rbuild(&["-q", "-t", &name, "--platform", platforms, "."]).success();
    let place = |kind: &str, file: &str| format!("{kind}:{}", world.path(file).display());

    let layout = place("oci", "layout");
    let digest = copy(&world, &[&name, &format!("{layout}:1")]);
    assert!(digest.starts_with("sha256:"), "{digest}");
    let archive = place("oci-archive", "image.tar");
    assert_eq!(copy(&world, &[&format!("{layout}:1"), &format!("{archive}:2")]), digest);
    assert_eq!(copy(&world, &[&format!("{archive}:2"), "store:other:3"]), digest);
    let back = registry.image("team/copy:4");
    let file = world.path("digest");
    let file = file.to_str().expect("UTF-8");
    assert_eq!(copy(&world, &["store:other:3", &format!("docker://{back}"), "--digestfile", file]), digest);
    assert_eq!(std::fs::read_to_string(file).expect("the digest"), digest);
    let elsewhere = registry.image("another/place:5");
    assert_eq!(copy(&world, &["--platform", "all", &back, &elsewhere]), digest);
}

#[test]
fn one_platform_becomes_a_docker_archive_and_an_image_again() {
    let world = World::new();
    let Some(registry) = Registry::open(&world.path("registry")) else { return };
    world.file("a", "some content");
    world.dockerfile("FROM scratch\nCOPY a /a\n");
    let name = registry.image("team/app:1");
    world.rbuild(&["-q", "-t", &name, "--platform", "linux/amd64,linux/arm64", "."]).success();
    let archive = format!("docker-archive:{}", world.path("image.tar").display());
    let named = format!("{archive}:{name}");
    let one = copy(&world, &["--platform", "linux/arm64", &name, &named]);
    let layout = format!("oci:{}", world.path("layout").display());
    assert_eq!(copy(&world, &[&named, &layout]), one);
    assert_eq!(copy(&world, &[&archive, &layout]), one);
    let image = crate::support::Image::open(&world.path("layout"));
    assert_eq!(image.layers(), 1);
    assert_eq!(image.entry(0, "a").content, "some content");
}

#[test]
fn what_cannot_be_copied_is_named() {
    let world = World::new();
    let missing = world.path("missing.tar");
    let missing = missing.to_str().expect("UTF-8");
    let run = world.rbuild(&["copy", &format!("oci-archive:{missing}"), "store:a"]);
    assert_ne!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains(missing), "{}", run.stderr);
    world.rbuild(&["copy", "store:nothing:1", "store:a"]).exits(1).says("nothing:1");
    world.rbuild(&["copy", "UPPER case", "store:a"]).exits(2);
    world.rbuild(&["copy", "oci:", "store:a"]).exits(2).says("names no file");
}
