//! The local verbs: images, inspect, pull, push and help.

use crate::support::World;

#[test]
fn help_and_version() {
    let world = World::new();
    let help = world.rbuild(&["--help"]).success();
    for word in ["--file", "--tag", "--output", "pull", "push", "inspect"] {
        assert!(help.stdout.contains(word), "{word} is not in the help");
    }
    let version = world.rbuild(&["--version"]).success();
    assert!(version.stdout.starts_with("rbuild "), "{}", version.stdout);
}

#[test]
fn an_empty_store_lists_nothing() {
    let world = World::new();
    let listed = world.rbuild(&["images", "--format", "json"]).success();
    assert_eq!(listed.stdout.trim(), "[]");
    world.rbuild(&["inspect", "not-there"]).exits(3);
}
