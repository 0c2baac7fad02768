//! What is shown of a Dockerfile that is not built: golden files below `testdata/findings`, one folder per Dockerfile.
//!
//! A rendering is compared when its file is there; `UPDATE_EXPECT=1` writes those files anew.

use std::path::{Path, PathBuf};

use crate::support::{Registry, World, can_run};

/// File names and the arguments that make what is in them.
const RENDERINGS: &[(&str, &[&str])] = &[
    ("lint.txt", &["lint"]),
    ("lint.json", &["lint", "--format", "json"]),
    ("lint.sarif.json", &["lint", "--format", "sarif"]),
    ("outline.txt", &["--call", "outline"]),
    ("outline.json", &["--call=outline,format=json"]),
    ("outline-of-build.txt", &["--call", "outline", "--target", "build", "--build-arg", "VERSION=2"]),
    ("targets.txt", &["--call", "targets"]),
    ("targets.json", &["--call=targets,format=json"]),
    ("build.txt", &["build", "--progress", "plain", "--output", "type=cacheonly"]),
];

#[test]
fn renderings_are_as_recorded() {
    let mut compared = 0;
    for case in std::fs::read_dir(cases()).expect("testdata/findings") {
        let case = case.expect("a case").path();
        let world = World::new();
        for name in ["Dockerfile", ".dockerignore"] {
            if let Ok(text) = std::fs::read(case.join(name)) {
                world.file(name, text);
            }
        }
        for (name, args) in RENDERINGS {
            compared += usize::from(compare(&world, &case.join(name), args));
        }
    }
    assert!(compared > 15, "{compared} golden files");
}

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/findings")
}

/// Compares one rendering; tells whether there was something to compare with.
fn compare(world: &World, golden: &Path, args: &[&str]) -> bool {
    let Ok(expect) = std::fs::read_to_string(golden) else { return false };
    let mut run = world.rbuild(args);
    // How long a retry waits is left to chance.
    let told = |line: &&str| !line.contains("failed, retrying in ");
    run.stderr = run.stderr.split_inclusive('\n').filter(told).collect();
    let is_json = golden.extension().is_some_and(|extension| extension == "json");
    let version = format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    let got = if is_json {
        run.stdout.replace(&version, "\"version\": \"VERSION\"")
    } else {
        format!("{}--- standard error\n{}--- exit status {}\n", run.stdout, run.stderr, run.code)
    };
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(golden, &got).expect("the golden file");
        return true;
    }
    assert_eq!(got, expect, "{} of {args:?}; UPDATE_EXPECT=1 takes it over", golden.display());
    true
}

#[test]
fn every_rule_that_needs_no_image_is_in_a_golden_file() {
    let mut text = String::new();
    for case in std::fs::read_dir(cases()).expect("testdata/findings") {
        text += &std::fs::read_to_string(case.expect("a case").path().join("lint.txt")).unwrap_or_default();
    }
    let missing: Vec<_> = rbuild_dockerfile::lint::all()
        .map(|rule| rule.name)
        .filter(|name| *name != "InvalidBaseImagePlatform" && !text.contains(&format!("warning[{name}]")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The properties that SARIF 2.1.0 requires (3.13.2, 3.13.4, 3.14.6, 3.18.2, 3.19.2, 3.27.11, 3.49.3).
#[test]
fn sarif_has_what_it_must_have() {
    let world = World::new();
    world.dockerfile("FROM scratch AS Base\nCMD x\n");
    for (text, level, code) in
        [("FROM scratch AS Base\nCMD x\n", "warning", 0), ("FORM scratch\n", "error", 2)]
    {
        world.dockerfile(text);
        let run = world.rbuild(&["lint", "--format", "sarif"]).exits(code);
        let log: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
        assert_eq!(log["version"], "2.1.0");
        let run = &log["runs"][0];
        assert!(run["tool"]["driver"]["name"].is_string());
        let rules = run["tool"]["driver"]["rules"].as_array().expect("rules");
        assert!(rules.iter().all(|rule| rule["id"].is_string()));
        let results = run["results"].as_array().expect("results");
        assert!(!results.is_empty());
        for result in results {
            assert!(result["message"]["text"].is_string(), "{result}");
            assert_eq!(result["level"], level);
            let place = &result["locations"][0]["physicalLocation"];
            assert_eq!(place["artifactLocation"]["uri"], "Dockerfile");
            assert!(place["region"]["startLine"].as_u64().is_some_and(|line| line > 0), "{result}");
            if let Some(index) = result["ruleIndex"].as_u64() {
                assert_eq!(rules[usize::try_from(index).expect("an index")]["id"], result["ruleId"]);
            }
        }
    }
}

#[test]
fn a_build_warns_before_its_first_step_and_stops_when_told_to() {
    let world = World::new();
    world.file("a", "a");
    world.dockerfile("FROM scratch AS Base\nCOPY a /\n");
    let args = ["--progress", "plain", "--output", "type=cacheonly", "."];
    let run = world.rbuild(&args).success();
    let warning = run.stderr.find("StageNameCasing").expect("a warning");
    assert!(warning < run.stderr.find("COPY a").expect("a step"), "{}", run.stderr);
    assert_eq!(run.stderr.matches("StageNameCasing").count(), 1, "{}", run.stderr);
    let quiet = world.rbuild(&["-q", "--output", "type=cacheonly", "."]).success();
    assert_eq!(quiet.stderr, "");

    let strict = ["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true"];
    let run = world.rbuild(&[&strict[..], &args[..]].concat()).exits(2).says("StageNameCasing");
    assert!(!run.stderr.contains("COPY a"), "{}", run.stderr);
    world.rbuild(&["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=nonsense", "."]).exits(2).says("nonsense");
    let silent = ["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"];
    let run = world.rbuild(&[&silent[..], &args[..]].concat()).success();
    assert!(!run.stderr.contains("StageNameCasing"), "{}", run.stderr);
}

#[test]
fn a_base_for_another_platform_is_found_where_bases_are_resolved() {
    let world = World::new();
    if !can_run(&world) {
        return;
    }
    let Some(registry) = Registry::open(&world.path("registry")) else { return };
    let base = registry.image("library/busybox:latest");
    world.rbuild(&["push", world.path("busybox").to_str().expect("UTF-8"), &base]).success();
    world.dockerfile(&format!("FROM {base}\n"));
    let other = if cfg!(target_arch = "aarch64") { "linux/amd64" } else { "linux/arm64" };
    let run = world.rbuild(&["--check", "--platform", other]).exits(1);
    assert!(run.stdout.contains("InvalidBaseImagePlatform"), "{}", run.stdout);
    let run = world.rbuild(&["--check"]).success();
    assert!(run.stdout.contains("no warnings found"), "{}", run.stdout);
    // Nothing is asked for here.
    let run = world.rbuild(&["lint"]).success();
    assert!(run.stdout.contains("no warnings found"), "{}", run.stdout);
}
