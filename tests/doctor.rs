//! `rbuild doctor`: what it finds here, and what it never says.

use crate::support::{World, is_root};

#[test]
fn the_checkup_names_what_is_used() {
    let world = World::new();
    let run = world.rbuild(&["doctor", "--format", "json"]).success();
    let checkup: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    let store = world.store().display().to_string();
    assert_eq!(checkup["store"]["path"], store.as_str());
    assert!(checkup["store"]["free"].as_u64().is_some_and(|free| free > 0), "{checkup}");
    assert!(checkup["store"]["filesystem"].is_string(), "{checkup}");
    let attempts = checkup["run"]["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), rbuild_sandbox::Isolation::ALL.len());
    // What a build uses is the first that works; where none does, there is a remedy.
    let first = attempts.iter().find(|tried| tried["failure"].is_null());
    match first {
        Some(first) => assert_eq!(checkup["run"]["chosen"]["isolation"], first["isolation"]),
        None => assert!(checkup["run"]["remedy"].is_string(), "{checkup}"),
    }
    let text = world.rbuild(&["doctor"]).success().stdout;
    assert!(text.contains(&store) && text.contains("\nRUN\n"), "{text}");
    assert_eq!(world.scratch_left(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn credentials_and_proxies_are_named_without_their_values() {
    let world = World::new();
    let docker = world.path("home/.docker");
    std::fs::create_dir_all(&docker).expect("a folder");
    let config = r#"{"auths": {"reg.local": {"auth": "dXNlcjpodW50ZXIy"}}, "credHelpers": {"aws.local": "ecr-login"}}"#;
    std::fs::write(docker.join("config.json"), config).expect("a file");
    for format in ["text", "json"] {
        let mut command = world.command();
        command.args(["doctor", "--format", format]).env("HTTPS_PROXY", "http://user:hunter2@proxy.invalid");
        let output = command.output().expect("rbuild starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for named in
            ["config.json", "reg.local", "aws.local (asks docker-credential-ecr-login)", "HTTPS_PROXY"]
        {
            assert!(text.contains(named), "{named}: {text}");
        }
        for value in ["hunter2", "dXNlcjpodW50ZXIy", "proxy.invalid"] {
            assert!(!text.contains(value), "{value}: {text}");
        }
    }
}

#[test]
fn only_an_isolation_that_was_asked_for_fails() {
    if !is_root("the isolation supervised is not for root") {
        return;
    }
    let world = World::new();
    let run = world.rbuild(&["doctor", "--isolation", "supervised"]).exits(4);
    assert!(run.stdout.contains("\nRUN\n"), "the page is printed all the same: {}", run.stdout);
    world.rbuild(&["doctor", "--isolation", "docker"]).exits(2).says("unknown isolation");

    // Without a store nothing is tried, and the rest is said.
    std::fs::remove_dir_all(world.store()).expect("a store");
    std::fs::write(world.store(), "").expect("a file");
    let run = world.rbuild(&["doctor"]).success();
    assert!(
        run.stdout.contains("cannot open the store") && run.stdout.contains("not tried"),
        "{}",
        run.stdout
    );
}
