//! `rbuild parse` and refusals: nothing starts when the Dockerfile is wrong.

use crate::support::World;

#[test]
fn parse_prints_one_object_per_file() {
    let world = World::new();
    world.file("good", "# escape=`\nFROM scratch AS Base\nCOPY <<EOF /x\nhi\nEOF\n");
    world.file("bad", "FROM scratch\nCOPPY a b\n");
    let run = world.rbuild(&["parse", "--format", "json", "good", "bad"]).exits(1);
    let answers: Vec<serde_json::Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0]["ok"], true);
    assert_eq!(answers[0]["stages"][0]["name"], "base");
    assert_eq!(answers[0]["nodes"][1]["heredocs"][0]["content"], "hi\n");
    assert_eq!(answers[1]["ok"], false);
    assert_eq!(answers[1]["error"]["line"], 2);
}

#[test]
fn refusals_name_the_line_and_start_nothing() {
    let cases = [
        ("FROM scratch\nCOPPY a b\n", "Dockerfile:2", "COPY"),
        ("FROM scratch\nCOPY --form=x a b\n", "Dockerfile:2", "from"),
        (
            "FROM scratch AS build\nFROM scratch\nCOPY --from=biuld /a /b\n",
            "Dockerfile:3",
            "did you mean the stage build?",
        ),
        ("FROM scratch\nENV\n", "Dockerfile:2", "ENV"),
        ("FROM scratch\nRUN --security=insecure true\n", "Dockerfile:2", "security"),
        ("FROM scratch\nENV A=${B:?must be given}\n", "Dockerfile:2", ""),
        ("", "", "no instructions"),
        ("RUN true\n", "Dockerfile:1", ""),
    ];
    for (text, place, word) in cases {
        let world = World::new();
        world.dockerfile(text);
        let run = world.rbuild(&["--progress", "plain", "--output", "type=oci,dest=../out.tar", "."]);
        assert!(
            run.code == 2 || (run.code == 3 && text.contains("biuld")),
            "{text:?}: {} {}",
            run.code,
            run.stderr
        );
        assert!(run.stderr.contains(place), "{text:?}: {}", run.stderr);
        assert!(run.stderr.contains(word), "{text:?}: {}", run.stderr);
        assert!(!world.path("out.tar").exists(), "{text:?}");
    }
}

#[test]
fn usage_errors_are_exit_status_two() {
    let world = World::new();
    world.dockerfile("FROM scratch\n");
    let cases: &[(&[&str], &str)] = &[
        (&["--no-such-flag", "."], "no-such-flag"),
        (&["--load", "."], "type=docker"),
        (&["--provenance=true", "."], "provenance"),
        (&["--output", "type=nonsense", "."], "nonsense"),
        (&["-t", "Not A Name", "."], "Not A Name"),
        (&["--platform", "linux/amd64/v1/x/y", "."], "platform"),
    ];
    for (args, word) in cases {
        world.rbuild(args).exits(2).says(word);
    }
    world.rbuild(&["--provenance=false", "--sbom=false", "--output", "type=cacheonly", "."]).success();
}

#[test]
fn missing_inputs_are_named() {
    let world = World::new();
    world.rbuild(&["--output", "type=cacheonly", "."]).exits(2).says("Dockerfile");
    world.rbuild(&["--output", "type=cacheonly", "no-such-folder"]).exits(2).says("no-such-folder");
    world.dockerfile("FROM scratch\nCOPY missing.txt /\n");
    world.rbuild(&["--output", "type=cacheonly", "."]).exits(1).says("missing.txt").says("Dockerfile:2");
}
