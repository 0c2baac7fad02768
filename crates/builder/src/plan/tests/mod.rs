use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rbuild_dockerfile::Dockerfile;
use rbuild_image::{Digest, ImageConfig, Platform};
use serde_json::json;

use super::*;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn options() -> PlanOptions {
    PlanOptions {
        platform: Platform::new("linux", "amd64"),
        build_platform: Platform::new("linux", "amd64"),
        ..PlanOptions::default()
    }
}

fn checking() -> PlanOptions {
    PlanOptions { scope: Scope::All, ..options() }
}

fn with_args(args: &[(&str, &str)]) -> PlanOptions {
    let build_args = args.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    PlanOptions { build_args, ..checking() }
}

/// A base whose triggers depend on its name.
fn base(request: &ImageRequest) -> ImageConfig {
    let triggers: Vec<&str> = match request.name.as_str() {
        "copies" => vec!["COPY --from=tools /t /t"],
        "runs" => vec!["ARG A=trigger", "RUN $A", "ENV T=1"],
        "broken" => vec!["NOSUCH x"],
        _ => Vec::new(),
    };
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [{"created_by": "base"}],
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "OnBuild": triggers},
        "container": "kept",
    });
    serde_json::from_value(config).unwrap()
}

fn try_plan(text: &str, options: &PlanOptions) -> Result<Plan, PlanError> {
    let (dockerfile, diagnostics) = Dockerfile::parse(text);
    assert_eq!(diagnostics, [], "{text}");
    let mut graph = graph(&dockerfile, options)?;
    let mut bases = BTreeMap::new();
    loop {
        let missing = graph.missing(&bases)?;
        if missing.is_empty() {
            return lower(&dockerfile, graph, options, &bases);
        }
        bases.extend(missing.into_iter().map(|request| (request.clone(), base(&request))));
    }
}

fn plan(text: &str, options: &PlanOptions) -> Plan {
    try_plan(text, options).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

fn target(plan: &Plan) -> &PlannedStage {
    &plan.stages[plan.target]
}

/// History texts of a stage's own steps; `~` marks those without a layer.
fn history(stage: &PlannedStage) -> Vec<String> {
    let entries = stage.steps.iter().filter_map(|step| step.history.as_ref());
    entries
        .map(|entry| {
            assert_eq!(entry.comment.as_deref(), Some("buildkit.dockerfile.v0"));
            let mark = if entry.empty_layer { "~" } else { "" };
            format!("{}{mark}", entry.created_by.as_deref().unwrap())
        })
        .collect()
}

#[test]
fn writes_history_as_buildkit_does() {
    let check = |body: &str, expect: &[&str]| {
        let plan = plan(&format!("FROM debian\n{body}"), &checking());
        assert_eq!(history(target(&plan)), expect, "{body}");
    };
    check("RUN make\nRUN [\"a\", \"b c\"]", &["RUN /bin/sh -c make # buildkit", "RUN a b c # buildkit"]);
    check("ARG A=1 B\nRUN x", &["ARG A=1 B~", "RUN |2 A=1 B= /bin/sh -c x # buildkit"]);
    check("ARG A=1\nARG A=2\nRUN x", &["ARG A=1~", "ARG A=2~", "RUN |1 A=2 /bin/sh -c x # buildkit"]);
    check("ARG A=1\nENV A=env\nRUN x", &["ARG A=1~", "ENV A=env~", "RUN |1 A=env /bin/sh -c x # buildkit"]);
    check("ARG a=1 b=$a", &["ARG a=1 b=1~"]);
    check("ENV a=hi\nENV a=bye b=$a", &["ENV a=hi~", "ENV a=bye b=hi~"]);
    check("ENV k rest  of \"line\"", &["ENV k=rest  of line~"]);
    check(
        "SHELL [\"/bin/bash\", \"-c\"]\nRUN x",
        &["SHELL [/bin/bash -c]~", "RUN /bin/bash -c x # buildkit"],
    );
    check("RUN <<EOF\na\nb\nEOF", &["RUN /bin/sh -c a\nb\n # buildkit"]);
    check("RUN <<EOF\n#!/bin/x\nEOF", &["RUN /bin/sh -c /dev/pipes/EOF # buildkit"]);
    check(
        "CMD [\"a\", \"b\\\"c\"]\nCMD x $HOME",
        &[r#"CMD ["a" "b\"c"]~"#, r#"CMD ["/bin/sh" "-c" "x $HOME"]~"#],
    );
    check("ENTRYPOINT []", &["ENTRYPOINT []~"]);
    check("EXPOSE 81/UDP 80", &["EXPOSE [80/tcp 81/udp]~"]);
    check("ENV P=\"1 2\"\nEXPOSE $P 5-6", &["ENV P=1 2~", "EXPOSE [1/tcp 2/tcp 5/tcp 6/tcp]~"]);
    check("VOLUME data [x]", &["VOLUME [data [x]]~"]);
    check(
        "WORKDIR a\nWORKDIR ../b/\nWORKDIR /c/\nWORKDIR /",
        &["WORKDIR /a", "WORKDIR /b", "WORKDIR /c/", "WORKDIR /~"],
    );
    check("LABEL a=b \"c d\"=e\nUSER x:y\nSTOPSIGNAL 9", &["LABEL a=b c d=e~", "USER x:y~", "STOPSIGNAL 9~"]);
    check("MAINTAINER me <a@b>", &["MAINTAINER me <a@b>~"]);
    check(
        "HEALTHCHECK --interval=5m --timeout=1500ms --retries=3 CMD curl x",
        &[
            "HEALTHCHECK {Test:[CMD-SHELL curl x] Interval:5m0s Timeout:1.5s StartPeriod:0s StartInterval:0s Retries:3}~",
        ],
    );
    check(
        "HEALTHCHECK NONE",
        &["HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}~"],
    );
    check("ONBUILD RUN x", &[]);
    check("COPY --chown=1 --chmod=755 --link a b* /d/", &["COPY --chown=1 --chmod=755 a b* /d/ # buildkit"]);
    check("COPY --parents --exclude=x a /d/", &["COPY --parents a /d/ # buildkit"]);
    check("COPY <<a <<b x /d/\n1\na\n2\nb", &["COPY x <<a <<b /d/ # buildkit"]);
    let digest = Digest::of(b"");
    check(&format!("ADD --checksum={digest} http://h/x /d"), &["ADD http://h/x /d # buildkit"]);
}

#[test]
fn folds_configs() {
    let check = |text: &str, expect: serde_json::Value| {
        let plan = plan(text, &checking());
        let config = serde_json::to_value(&target(&plan).config.config).unwrap();
        assert_eq!(config, expect, "{text}");
    };
    check("FROM scratch", json!({"Env": [PATH], "WorkingDir": "/"}));
    check("FROM debian", json!({"Env": ["PATH=/bin"], "Cmd": ["sh"]}));
    check("FROM debian\nENTRYPOINT [\"e\"]", json!({"Env": ["PATH=/bin"], "Entrypoint": ["e"]}));
    check(
        "FROM debian\nCMD [\"c\"]\nENTRYPOINT e",
        json!({"Env": ["PATH=/bin"], "Cmd": ["c"], "Entrypoint": ["/bin/sh", "-c", "e"], "ArgsEscaped": true}),
    );
    check(
        "FROM debian AS a\nCMD [\"c\"]\nENV A=1\nUSER u\nWORKDIR /w\nFROM a\nENTRYPOINT [\"e\"]\nENV A=2 B=$A",
        json!({
            "Env": ["PATH=/bin", "A=2", "B=1"], "Entrypoint": ["e"], "User": "u", "WorkingDir": "/w", "ArgsEscaped": true,
        }),
    );
    check(
        "FROM scratch\nONBUILD RUN <<E\nhi\nE\nVOLUME /v\nEXPOSE 80\nSTOPSIGNAL term\nLABEL a=b\nHEALTHCHECK CMD [\"x\"]",
        json!({
            "Env": [PATH], "WorkingDir": "/", "OnBuild": ["RUN <<E\nhi\nE"], "Volumes": {"/v": {}},
            "ExposedPorts": {"80/tcp": {}}, "StopSignal": "term", "Labels": {"a": "b"},
            "Healthcheck": {"Test": ["CMD", "x"]},
        }),
    );
}

#[test]
fn keeps_what_it_does_not_know_of_a_base() {
    let plan = plan("FROM debian\nMAINTAINER m", &options());
    let config = &target(&plan).config;
    assert_eq!(config.extra.get("container"), Some(&json!("kept")));
    assert_eq!((config.created.as_deref(), config.author.as_deref()), (None, Some("m")));
    assert_eq!(config.history.len(), 1);
}

#[test]
fn refuses_what_cannot_be_built() {
    let check = |text: &str, message: &str, line: u32| {
        let error = try_plan(text, &options()).expect_err(text);
        let first = &error.0[0];
        assert!(first.message.contains(message), "{text}: {}", first.message);
        assert_eq!(first.lines.map(|(start, _)| start), Some(line), "{text}");
        assert!(first.span.is_some(), "{text}");
    };
    check("FROM $A", "should not be blank", 1);
    check("FROM debian AS a\nFROM A\n", "must be lower case", 2);
    check("FROM --platform=$X debian", "empty platform value", 1);
    check("FROM --platform=a/b/c/d debian", "failed to parse platform", 1);
    check("FROM debian\nCOPY --from=0 a b", "circular dependency", 2);
    check(
        "FROM debian AS a\nCOPY --from=b x y\nFROM debian AS b\nCOPY --from=a x y\nFROM debian",
        "circular",
        4,
    );
    check(
        "FROM debian\nCOPY --from=b x y\nFROM debian AS b\nFROM 0\nCOPY --from=0 x y",
        "to be defined before",
        2,
    );
    check("FROM debian\nCOPY --from=7 x y", "invalid stage index 7", 2);
    check("FROM debian\nCOPY --from=$x x y", "variable expansion is not supported", 2);
    check("FROM debian\nUSER ${x", "cannot expand", 2);
    check("FROM debian\nENV A=\"${x:?need x}\"", "x: need x", 2);
    check("FROM debian\nSTOPSIGNAL SIGFOO", "invalid signal", 2);
    check("FROM debian\nVOLUME $none", "can not be an empty string", 2);
    check("FROM debian\nEXPOSE 70000", "invalid container port", 2);
    check("FROM debian\nCOPY --chmod=0o755 a b", "invalid chmod", 2);
    check("FROM debian\nCOPY http://h/x /", "can't be a URL for COPY", 2);
    check("FROM debian\nCOPY git@h:x /", "can't be a git ref for COPY", 2);
    check("FROM debian\nADD --checksum=sha256:00 a /", "checksum requires", 2);
    check("FROM debian\nADD --checksum=sha256:00 http://h/x http://h/y /", "multiple sources", 2);
    check("FROM debian\nADD --checksum=md5:00 http://h/x /", "invalid checksum", 2);
    check("FROM debian\nADD --checksum=ab https://h/x.git?checksum=cd /", "checksum conflicts", 2);
    check("FROM debian\nADD --keep-git-dir https://h/x.git?keep-git-dir=0 /", "keep-git-dir conflicts", 2);
    check("FROM debian\nADD https://h/x.git?depth=1 /", "unexpected query", 2);
    check("FROM debian\nRUN --mount=type=cache x", "invalid mount target", 2);
    check("FROM debian\nENV $A=b\nRUN x", "a variable without a name", 3);
    check("FROM broken", "trigger `NOSUCH x` of the base", 1);
}

#[test]
fn reports_every_bad_instruction() {
    let error =
        try_plan("FROM debian\nEXPOSE x\nRUN ok\nSTOPSIGNAL x\n", &options()).expect_err("two errors");
    assert_eq!(error.0.iter().map(|error| error.lines).collect::<Vec<_>>(), [Some((2, 2)), Some((4, 4))]);
    assert_eq!(error.to_string(), "invalid container port: x (and 1 more)");
}

#[test]
fn refuses_by_name_what_is_not_executed_yet() {
    for (feature, name) in support::REFUSED {
        let (platform, body) = match feature {
            support::Feature::Windows => ("windows/amd64", "ENV A=1"),
        };
        let text = format!("FROM --platform={platform} debian\n{body}\n");
        let error = try_plan(&text, &options()).expect_err(&text);
        assert_eq!(error.0.len(), 1, "{text}: {error:?}");
        assert_eq!(error.0[0].message, format!("{name} is not supported yet"));
        assert_eq!(error.0[0].lines, Some((2, 2)), "{text}");
        plan(&text, &checking());
        // In a stage that nothing needs it refuses nothing.
        plan(&format!("{text}FROM scratch\n"), &options());
    }
}

#[test]
fn refuses_what_nobody_gave_or_allowed() {
    let given = PlanOptions {
        secrets: ["s".to_owned()].into(),
        agents: ["default".to_owned(), "a".to_owned()].into(),
        allow: [Entitlement::SecurityInsecure, Entitlement::Device, Entitlement::NetworkHost].into(),
        ..options()
    };
    let check = |flags: &str, expect: &str| {
        let text = format!("FROM debian\nRUN {flags} x\n");
        let without = PlanOptions { network: Network::None, ..options() };
        let error = try_plan(&text, &without).expect_err(&text);
        assert_eq!(error.0.iter().map(|error| error.message.as_str()).collect::<Vec<_>>(), [expect]);
        assert_eq!((error.0[0].lines, error.0[0].hint.is_some()), (Some((2, 2)), true), "{text}");
        plan(&text, &PlanOptions { network: Network::None, ..given.clone() });
        plan(&text, &checking());
        plan(&format!("{text}FROM scratch\n"), &without);
    };
    check("--mount=type=secret,id=s,required", "secret s: not found");
    check("--mount=type=ssh,required", "no SSH key \"default\" forwarded");
    check("--mount=type=ssh,id=a,required", "no SSH key \"a\" forwarded");
    check("--security=insecure", "RUN --security=insecure is not allowed");
    check("--device=a.com/b=c", "RUN --device is not allowed");
    check("--network=host", "RUN --network=host in a build without network is not allowed");
    for flags in ["--mount=type=ssh --mount=type=secret,id=s", "--network=host", "--security=sandbox"] {
        plan(&format!("FROM debian\nRUN {flags} x"), &options());
    }
}

#[test]
fn devices_are_absent_until_somebody_describes_them() {
    let allowed = PlanOptions { allow: [Entitlement::Device].into(), ..options() };
    let check = |device: &str, options: &PlanOptions, expect: Option<&str>| {
        let error = try_plan(&format!("FROM debian\nRUN --device={device} x"), options).err();
        assert_eq!(error.map(|error| error.0[0].message.clone()).as_deref(), expect, "{device}");
    };
    check("a.com/b=c", &allowed, None);
    check("a.com/b=c,required=false", &allowed, None);
    let absent = Some("required device \"a.com/b=c\" is not registered on this host");
    check("a.com/b=c,required", &allowed, absent);
    let described = PlanOptions { device_specifications: vec!["/etc/cdi/b.json".into()], ..allowed };
    let refused = "RUN --device is not supported where devices are described (/etc/cdi/b.json)";
    check("a.com/b=c", &described, Some(refused));
}

#[test]
fn runs_foreign_programs_where_the_kernel_does() {
    let check = |platform: &str, emulator: Option<Emulator>, expect: Option<&str>| {
        let emulators = emulator.map(|emulator| ("s390x".to_owned(), emulator)).into_iter().collect();
        let options = PlanOptions { emulators, ..options() };
        let text = format!("FROM --platform={platform} debian\nCOPY a /\nRUN x\n");
        match (try_plan(&text, &options), expect) {
            (Ok(_), None) => {}
            (Err(error), Some(expect)) => {
                assert!(error.0[0].message.contains(expect), "{error}");
                assert_eq!((error.0.len(), error.0[0].lines), (1, Some((3, 3))));
                assert!(error.0[0].hint.is_some());
            }
            (got, expect) => panic!("{platform}: {expect:?}, not {got:?}"),
        }
    };
    check("linux/amd64", None, None);
    check("linux/amd64/v3", None, None);
    check("linux/s390x", Some(Emulator::Fixed), None);
    check("linux/s390x", None, Some("no emulator is registered"));
    check("linux/s390x", Some(Emulator::NotFixed), Some("without the flag F"));
    check("linux/arm64", Some(Emulator::Fixed), Some("no emulator is registered"));
    check("darwin/amd64", Some(Emulator::Fixed), Some("another operating system"));
    // Without RUN nothing is foreign.
    plan("FROM --platform=linux/s390x debian\nCOPY a /\nWORKDIR /w\n", &options());
}

#[test]
fn knows_its_own_frontend() {
    let check = |frontend: &str, argument: &str, expect: bool| {
        let args = [("BUILDKIT_SYNTAX", argument)];
        let options = PlanOptions { scope: Scope::Target, ..with_args(&args) };
        let text = format!("# syntax={frontend}\nFROM scratch");
        assert_eq!(try_plan(&text, &options).is_ok(), expect, "{frontend} {argument}");
    };
    check("docker/dockerfile:1", "", true);
    check("docker.io/docker/dockerfile-upstream:master-labs", "", true);
    check("mirror.gcr.io/docker/dockerfile:1.9-labs", "", true);
    check("dockerfile.v0", "", true);
    check("foobar", "", false);
    check("ghcr.io/x/dockerfile", "", false);
    check("foobar", "docker/dockerfile:1.6", true);
    check("docker/dockerfile", "foobar", false);
}

#[test]
fn many_long_words_end_in_an_error() {
    let check = |text: &str, expect: &str| {
        let error = try_plan(text, &options()).expect_err("too long");
        assert!(error.0[0].message.contains(expect), "{}", error.0[0].message);
    };
    // A line has 64 KiB at most, so that a long value takes two.
    let long =
        |keyword: &str| format!("{keyword} A={}\n{keyword} A={}\n", "x".repeat(1 << 15), "$A".repeat(16));
    let one: String = (0..70).map(|index| format!(" B{index}=$A")).collect();
    check(&format!("FROM scratch\n{}ENV{one}\n", long("ENV")), "longer than 32 MiB");
    check(&format!("FROM scratch\n{}EXPOSE $A$A$A\n", long("ENV")), "longer than 1 MiB");
    check(
        "ARG A=xxxxxxxx\nARG A=$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A\nARG A=$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A\n\
           ARG A=$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A\nARG A=$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A\n\
           ARG A=$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A$A\nFROM scratch\n",
        "longer than 1 MiB",
    );
}

#[test]
fn doubling_ends_in_an_error() {
    let text = format!("FROM scratch\nENV A=xxxxxxxx\n{}", "ENV A=$A$A$A$A\n".repeat(10));
    let error = try_plan(&text, &options()).expect_err("too long");
    assert!(error.0[0].message.ends_with("the result is longer than 1 MiB"), "{error}");
}

#[test]
fn prunes_to_the_target() {
    let text = "FROM a AS one\nFROM b AS two\nCOPY --from=one x y\nFROM c AS Three\nFROM two\n\
                COPY --from=img x y\nRUN --mount=from=three,target=/t x\n";
    let check = |target: Option<&str>, expect: &[&str], images: &[&str]| {
        let options = PlanOptions { target: target.map(str::to_owned), ..options() };
        let (dockerfile, _) = Dockerfile::parse(text);
        let graph = graph(&dockerfile, &options).unwrap();
        let names: Vec<_> = graph.reachable().iter().map(|&index| graph.stages[index].name.clone()).collect();
        assert_eq!(names, expect, "{target:?}");
        let requests: Vec<_> = graph.images().into_iter().map(|request| request.name).collect();
        assert_eq!(requests, images, "{target:?}");
    };
    check(None, &["one", "two", "three", "stage-3"], &["a", "b", "c", "img"]);
    check(Some("TWO"), &["one", "two"], &["a", "b"]);
    check(Some("three"), &["three"], &["c"]);
    let options = PlanOptions { target: Some("tow".to_owned()), ..options() };
    let error = try_plan(text, &options).expect_err("no such target");
    assert_eq!(error.0[0].message, "target stage \"tow\" could not be found");
    assert_eq!(error.0[0].hint.as_deref(), Some("did you mean `two`?"));
}

#[test]
fn finds_stages_by_the_rules_of_each_place() {
    let check = |text: &str, expect: &[&str]| {
        let (dockerfile, _) = Dockerfile::parse(text);
        let requests = graph(&dockerfile, &options()).unwrap().images();
        assert_eq!(
            requests.iter().map(|request| request.name.as_str()).collect::<Vec<_>>(),
            expect,
            "{text}"
        );
    };
    check("FROM debian AS foo\nFROM foo", &["debian"]);
    check("FROM foo\nFROM x AS foo", &["x"]);
    check("FROM debian\nFROM 0", &["0"]);
    check("FROM a AS foo\nFROM scratch\nCOPY --from=FOO x y", &["a"]);
    check("FROM a\nFROM scratch\nCOPY --from=0 x y", &["a"]);
    check("FROM a\nFROM scratch\nRUN --mount=from=0,target=/x x", &["0"]);
    check("FROM a AS d\nFROM b AS d\nFROM d", &["b"]);
    check("FROM a AS scratch\nFROM scratch", &["a"]);
    check("FROM scratch\nCOPY --from=scratch x y", &[]);
    check("ARG V=1\nARG W=$V.2\nFROM debian:$W", &["debian:1.2"]);
    check("FROM scratch\nRUN --mount=type=cache,target=/x,\"from=a\" x", &["a"]);
}

#[test]
fn takes_triggers_over() {
    let check = |text: &str, expect: &[&str]| {
        let plan = plan(text, &checking());
        assert_eq!(history(target(&plan)), expect, "{text}");
        assert!(target(&plan).config.config.on_build.is_empty(), "{text}");
    };
    check(
        "FROM runs\nRUN own",
        &[
            "ARG A=trigger~",
            "RUN |1 A=trigger /bin/sh -c $A # buildkit",
            "ENV T=1~",
            "RUN |1 A=trigger /bin/sh -c own # buildkit",
        ],
    );
    check("FROM debian AS a\nONBUILD ENV X=1\nFROM a AS b\nFROM b", &[]);
    check("FROM debian AS a\nONBUILD ENV X=1\nONBUILD ENV Y=$X\nFROM a", &["ENV X=1~", "ENV Y=1~"]);
    // A trigger may need a stage or an image that nothing else needs.
    let pruned = plan("FROM t AS tools\nFROM copies", &options());
    assert_eq!(
        pruned.stages.iter().map(|stage| stage.name.as_str()).collect::<Vec<_>>(),
        ["tools", "stage-1"]
    );
    let StepKind::Copy(copy) = &target(&pruned).steps[0].kind else { panic!("no COPY") };
    assert_eq!(copy.from, Source::Stage(0));
    let plan = plan("FROM copies", &options());
    let StepKind::Copy(copy) = &target(&plan).steps[0].kind else { panic!("no COPY") };
    assert!(matches!(&copy.from, Source::Image(request) if request.name == "tools"), "{copy:?}");
}

#[test]
fn named_contexts_replace_images_and_stages() {
    let names = ["debian", "mid", "tools"].map(str::to_owned);
    let options = PlanOptions { named_contexts: BTreeSet::from(names), ..options() };
    let text = "FROM never AS base\nFROM base AS mid\nRUN --security=insecure x\n\
                FROM debian:latest\nCOPY --from=mid a /\nCOPY --from=tools a /\nCOPY --from=other a /\n";
    let plan = plan(text, &options);
    let contexts: Vec<_> = plan
        .stages
        .iter()
        .map(|stage| match &stage.base {
            Base::Image(request) => (stage.name.as_str(), request.context.as_deref()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(contexts, [("mid", Some("mid")), ("stage-2", Some("debian"))]);
    assert!(plan.stages[0].steps.is_empty());
    let from: Vec<_> = target(&plan)
        .steps
        .iter()
        .map(|step| match &step.kind {
            StepKind::Copy(copy) => match &copy.from {
                Source::Image(request) => request.context.clone().unwrap_or_default(),
                other => format!("{other:?}"),
            },
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(from, ["Stage(0)", "tools", ""]);
}

#[test]
fn arguments_come_from_their_scopes() {
    let check = |args: &[(&str, &str)], text: &str, expect: &[&str]| {
        assert_eq!(history(target(&plan(text, &with_args(args)))), expect, "{text}");
    };
    check(&[], "ARG G=1\nFROM scratch\nARG G", &["ARG G=1~"]);
    check(&[], "ARG G=1\nFROM scratch\nENV A=$G", &["ENV A=~"]);
    check(&[], "ARG G=1\nFROM scratch\nARG G=2", &["ARG G=2~"]);
    check(&[("G", "9")], "ARG G=1\nFROM scratch\nARG G=2", &["ARG G=9~"]);
    check(&[("A", "9")], "FROM scratch\nARG A=${", &["ARG A=9~"]);
    check(&[], "FROM scratch AS a\nARG X=1\nFROM a\nENV Y=$X", &["ENV Y=1~"]);
    check(
        &[],
        "FROM scratch\nARG TARGETPLATFORM TARGETSTAGE TARGETVARIANT",
        &["ARG TARGETPLATFORM=linux/amd64 TARGETSTAGE=default TARGETVARIANT=~"],
    );
    check(
        &[("TARGETARCH", "q")],
        "FROM scratch AS fin\nARG TARGETARCH TARGETSTAGE",
        &["ARG TARGETARCH=q TARGETSTAGE=fin~"],
    );
    check(
        &[],
        "FROM scratch\nARG BUILDKIT_SBOM_SCAN_STAGE=1\nENV A=$BUILDKIT_SBOM_SCAN_STAGE",
        &["ARG BUILDKIT_SBOM_SCAN_STAGE=1~", "ENV A=~"],
    );
}

fn only_run(text: &str, options: &PlanOptions) -> RunStep {
    let plan = plan(text, options);
    let run = target(&plan).steps.iter().find_map(|step| match &step.kind {
        StepKind::Run(run) => Some(run.clone()),
        _ => None,
    });
    run.unwrap_or_else(|| panic!("{text}: no RUN"))
}

#[test]
fn runs_see_arguments_and_proxies() {
    let args = with_args(&[("http_proxy", "p"), ("no_proxy", "n"), ("BUILDKIT_SANDBOX_HOSTNAME", "host")]);
    let run = only_run("FROM debian\nARG A=1 no_proxy\nUSER u\nWORKDIR /w\nRUN x", &args);
    let env: Vec<_> = run.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["PATH=/bin", "A=1", "HTTP_PROXY=p", "http_proxy=p", "NO_PROXY=n", "no_proxy=n"]);
    assert_eq!(run.uncached_env, ["HTTP_PROXY", "http_proxy", "NO_PROXY"]);
    assert_eq!((run.user.as_str(), run.cwd.as_str(), run.hostname.as_str()), ("u", "/w", "host"));
    let run = only_run("FROM debian\nRUN --network=none --security=insecure <<E\n#!/x\n1\nE", &checking());
    assert_eq!(run.files, [ScriptFile { name: "E".into(), content: "#!/x\n1\n".into(), mode: 0o755 }]);
    assert_eq!((run.network, run.security), (Network::None, Security::Insecure));
    assert_eq!((run.hostname.as_str(), run.cwd.as_str(), run.user.as_str()), ("buildkitsandbox", "/", ""));
    let host = PlanOptions { network: Network::Host, ..checking() };
    assert_eq!(only_run("FROM debian\nRUN x", &host).network, Network::Host);
}

#[test]
fn mounts_are_carried_whole() {
    let check = |mount: &str, expect: StepMount| {
        let text = format!("FROM scratch AS s\nFROM debian\nARG N=7\nWORKDIR /w\nRUN --mount={mount} x");
        let run = only_run(&text, &with_args(&[("BUILDKIT_CACHE_MOUNT_NS", "ns")]));
        assert_eq!(run.mounts, [expect], "{mount}");
    };
    let bind = |target: &str, from: Source, source: &str, access| {
        StepMount::Bind(BindMount { target: target.into(), from, source: source.into(), access })
    };
    check("target=t", bind("/w/t", Source::Context, "/", Access::ReadOnly));
    check("from=S,src=a/../b,target=/t/,rw", bind("/t", Source::Stage(0), "/b", Access::ReadWrite));
    check("from=scratch,target=/t", bind("/t", Source::Scratch, "/", Access::ReadOnly));
    let cache = CacheMount {
        target: "/w/c".into(),
        id: "ns/c".into(),
        sharing: Sharing::Shared,
        from: None,
        source: "/".into(),
        access: Access::ReadWrite,
        mode: 0o755,
        uid: 0,
        gid: 0,
    };
    check("type=cache,target=c", StepMount::Cache(cache.clone()));
    check(
        "type=cache,target=c,id=i$N,sharing=locked,from=s,source=x,ro,mode=700,uid=$N,gid=8",
        StepMount::Cache(CacheMount {
            id: "ns/i7".into(),
            sharing: Sharing::Locked,
            from: Some(Source::Stage(0)),
            source: "/x".into(),
            access: Access::ReadOnly,
            mode: 0o700,
            uid: 7,
            gid: 8,
            ..cache
        }),
    );
    check("type=tmpfs,target=/t,size=1m", StepMount::Tmpfs { target: "/t".into(), size: Some(1 << 20) });
    check(
        "type=secret,id=k,env=K",
        StepMount::Secret(SecretMount {
            id: "k".into(),
            target: None,
            env: Some("K".into()),
            required: false,
            mode: 0o400,
            uid: 0,
            gid: 0,
        }),
    );
    let ssh = only_run("FROM debian\nRUN --mount=type=ssh --mount=type=ssh,id=b x", &checking());
    let targets = ssh.mounts.iter().map(|mount| match mount {
        StepMount::Ssh(ssh) => ssh.target.as_str(),
        other => panic!("{other:?}"),
    });
    assert_eq!(targets.collect::<Vec<_>>(), ["/run/buildkit/ssh_agent.0", "/run/buildkit/ssh_agent.1"]);
    assert!(ssh.env.contains(&("SSH_AUTH_SOCK".into(), "/run/buildkit/ssh_agent.0".into())));
}

#[test]
fn copies_are_carried_whole() {
    let plan = plan(
        "FROM debian\nARG D=dir C=1:2\nWORKDIR /w\n\
         COPY --chown=$C --chmod=u=rwX --link --exclude=$D --exclude=b $D/* ./x <<A <<\"B\" .\n$D \\$D\nA\n$D\nB\n\
         ADD --unpack=false --keep-git-dir --checksum=$C https://h/x.git $D/sub/.\n",
        &checking(),
    );
    let copies: Vec<_> = target(&plan)
        .steps
        .iter()
        .filter_map(|step| match &step.kind {
            StepKind::Copy(copy) => Some(copy),
            _ => None,
        })
        .collect();
    let [copy, add] = copies.as_slice() else { panic!("{copies:?}") };
    assert_eq!(
        copy.sources,
        [
            CopySource::Pattern("dir/*".into()),
            CopySource::Pattern("./x".into()),
            CopySource::Heredoc { name: "A".into(), content: "dir $D\n".into() },
            CopySource::Heredoc { name: "B".into(), content: "$D\n".into() },
        ]
    );
    assert_eq!((copy.destination.as_str(), copy.link, &copy.kind), ("/w/", true, &CopyKind::Copy));
    assert_eq!((copy.chown.as_deref(), copy.chmod.as_deref()), (Some("1:2"), Some("u=rwX")));
    assert_eq!(copy.exclude, ["$D", "b"]);
    assert_eq!(add.sources, [CopySource::Git("https://h/x.git".into())]);
    assert_eq!(add.destination, "/w/dir/sub/");
    let kind = CopyKind::Add { checksum: Some("1:2".into()), unpack: Some(false), keep_git_dir: Some(true) };
    assert_eq!(add.kind, kind);
}

#[test]
fn shows_steps_on_one_line() {
    let check = |body: &str, expect: &str| {
        let plan = plan(&format!("FROM debian\nARG V=1\n{body}"), &checking());
        assert_eq!(target(&plan).steps.last().map(|step| step.display.as_str()), Some(expect), "{body}");
    };
    check("run   make \\\n  $V '$V' $W", "RUN make 1 '$V' $W");
    check("COPY a$V \"b\" /", "COPY a1 \"b\" /");
    check("RUN <<E\n set -x\nmake\nE", "RUN <<E (set -x...)");
    check("ENV A=b", "ENV A=b");
}

#[test]
fn warns_of_what_only_a_plan_knows() {
    let check = |text: &str, expect: &[(&str, &str, u32)]| {
        let plan = plan(text, &checking());
        let warnings = plan.warnings.iter();
        let found: Vec<_> = warnings
            .map(|warning| (warning.rule.unwrap(), warning.message.as_str(), warning.lines.unwrap().0))
            .collect();
        assert_eq!(found, expect, "{text}");
    };
    check(
        "FROM scratch\nENV A=$PAHT",
        &[("UndefinedVar", "Usage of undefined variable '$PAHT' (did you mean $PATH?)", 2)],
    );
    check("FROM scratch\nARG A\nENV B=$A$A", &[]);
    check("FROM scratch\nCOPY $x $x /", &[("UndefinedVar", "Usage of undefined variable '$x'", 2)]);
    check("FROM scratch\n# check=skip=UndefinedVar\nCOPY $x /", &[]);
    check("# check=skip=all\nFROM scratch\nCOPY $x /", &[]);
    check(
        "ARG ABC=debian\nFROM $ABC$BCDEF",
        &[("UndefinedArgInFrom", "FROM argument 'BCDEF' is not declared", 2)],
    );
    let undefined = |message, line| [("UndefinedVar", message, line)];
    // An argument is declared behind its own default, and suggested for what comes behind that.
    check("FROM scratch\nARG A=${A/x/y}", &undefined("Usage of undefined variable '$A'", 2));
    check("FROM scratch\nARG A\nARG A=${A/x/y} B=$A", &[]);
    check("FROM scratch\nARG B A=$B", &[]);
    check("FROM scratch\nARG N=${N:-${N:-z}} E=${N-}", &undefined("Usage of undefined variable '$N'", 2));
    check(
        "FROM scratch\nARG ZZ=1 A=$ZX",
        &undefined("Usage of undefined variable '$ZX' (did you mean $ZZ?)", 2),
    );
    check("FROM scratch\nARG A=$ZX ZZ=1", &undefined("Usage of undefined variable '$ZX'", 2));
    let plan_of = plan("FROM scratch\nenv a b", &checking());
    assert_eq!(
        plan_of.warnings[0].message,
        "\"env key=value\" should be used instead of legacy \"env key value\" format"
    );
    check("FROM scratch\nENV B=$paht", &undefined("Usage of undefined variable '$paht'", 2));
    check(
        "FROM scratch\nWORKDIR a\nWORKDIR b",
        &[(
            "WorkdirRelativePath",
            "Relative workdir \"a\" can have unexpected results if the base image changes",
            2,
        )],
    );
    check("FROM scratch AS a\nWORKDIR /a\nFROM a\nWORKDIR b", &[]);
    check(
        "FROM --platform=linux/s390x debian",
        &[(
            "InvalidBaseImagePlatform",
            "Base image debian was pulled with platform \"linux/amd64\", expected \"linux/s390x\" for current build",
            1,
        )],
    );
}

#[test]
fn rules_look_at_what_is_built_with_its_values() {
    let check = |text: &str, scope: Scope, expect: &[(&str, u32)]| {
        let (dockerfile, _) = Dockerfile::parse(text);
        let options = PlanOptions { scope, ..with_args(&[("D", "/given")]) };
        let plan = plan(text, &options);
        let found = super::findings(&dockerfile, &plan.into(), None);
        let found: Vec<_> =
            found.iter().map(|one| (one.rule.unwrap_or_default(), one.lines.unwrap_or_default().0)).collect();
        assert_eq!(found, expect, "{text}");
    };
    let json = "JSONArgsRecommended";
    check("FROM scratch AS a\nCMD x\nFROM scratch", Scope::All, &[(json, 2)]);
    check("FROM scratch AS a\nCMD x\nFROM scratch", Scope::Target, &[]);
    check("FROM scratch\nSHELL [\"x\"]\nCMD x", Scope::All, &[]);
    check("FROM scratch AS a\nONBUILD CMD x\nFROM a", Scope::All, &[(json, 3)]);
    check("FROM scratch AS a\nONBUILD CMD x\nFROM a\nFROM scratch", Scope::All, &[]);
    check("FROM scratch AS a\nONBUILD CMD x\nFROM a AS b\nFROM b", Scope::All, &[(json, 3)]);
    let twice = "MultipleInstructionsDisallowed";
    check("FROM scratch AS a\nONBUILD CMD [\"x\"]\nFROM a\nCMD [\"y\"]", Scope::All, &[(twice, 3)]);
    check("FROM scratch\nCMD [\"x\"]\n# check=skip=all\nCMD [\"y\"]", Scope::All, &[]);
    check("FROM scratch AS a\nCMD [\"x\"]\nFROM a\nCMD [\"y\"]", Scope::All, &[]);
    check("FROM scratch\nARG D=x\nWORKDIR $D", Scope::All, &[]);
    check("FROM scratch\nENV P=80/TCP\nEXPOSE $P", Scope::All, &[("ExposeProtoCasing", 3)]);
    check("FROM scratch\nENV K=KEY\nENV A_$K=1", Scope::All, &[("SecretsUsedInArgOrEnv", 3)]);
    check("ARG KEY\nFROM scratch", Scope::All, &[]);
    check(
        "FROM scratch\nENV a b\nLABEL a b",
        Scope::All,
        &[("LegacyKeyValueFormat", 2), ("LegacyKeyValueFormat", 3)],
    );
}

#[test]
fn warns_of_bases_that_need_a_build_argument() {
    let plan = plan("ARG T\nFROM busybox:$T", &with_args(&[("T", "1")]));
    let [warning] = plan.warnings.as_slice() else { panic!("{:?}", plan.warnings) };
    assert_eq!((warning.rule, warning.lines), (Some("InvalidDefaultArgInFrom"), Some((2, 2))));
    assert_eq!(
        warning.message,
        "Default value for ARG busybox:$T results in empty or invalid base image name"
    );
}

#[test]
fn finishes_the_result() {
    let platform: Platform = "linux/arm64/v8".parse().unwrap();
    let labels = BTreeMap::from([("a".to_owned(), "cli".to_owned())]);
    let base = PlanOptions { platform, labels, ..checking() };
    let finished = |origin| {
        let plan =
            plan("FROM debian\nLABEL a=b c=d", &PlanOptions { platform_origin: origin, ..base.clone() });
        target(&plan).config.clone()
    };
    let requested = finished(PlatformOrigin::Requested);
    assert_eq!(requested.platform(), Platform::new("linux", "arm64"));
    assert_eq!(
        requested.config.labels,
        BTreeMap::from([("a".into(), "cli".into()), ("c".into(), "d".into())])
    );
    assert_eq!(finished(PlatformOrigin::Host).platform(), Platform::new("linux", "amd64"));
}

#[test]
fn reads_the_source_date_epoch() {
    let check = |args: &[(&str, &str)], text: &str, expect: Result<Option<i64>, ()>| {
        let epoch = try_plan(text, &with_args(args)).map(|plan| plan.source_date_epoch);
        assert_eq!(epoch.map_err(|_| ()), expect, "{text} {args:?}");
    };
    check(&[], "FROM scratch", Ok(None));
    check(&[("SOURCE_DATE_EPOCH", "7")], "FROM scratch", Ok(Some(7)));
    check(&[], "ARG SOURCE_DATE_EPOCH=8\nFROM scratch", Ok(Some(8)));
    check(&[("SOURCE_DATE_EPOCH", "7")], "ARG SOURCE_DATE_EPOCH=8\nFROM scratch", Ok(Some(7)));
    check(&[("SOURCE_DATE_EPOCH", "")], "FROM scratch", Ok(None));
    check(&[("SOURCE_DATE_EPOCH", "context")], "FROM scratch", Err(()));
}

fn any_line() -> impl Strategy<Value = String> {
    const KEYWORDS: [&str; 22] = [
        "FROM",
        "FROM --platform=$P",
        "RUN",
        "RUN --mount=from=a,target=",
        "COPY",
        "COPY --from=0",
        "COPY --from=a --chmod=$A",
        "ADD",
        "ENV",
        "LABEL",
        "ARG",
        "USER",
        "WORKDIR",
        "EXPOSE",
        "VOLUME",
        "STOPSIGNAL",
        "SHELL",
        "HEALTHCHECK",
        "CMD",
        "ENTRYPOINT",
        "ONBUILD",
        "ONBUILD COPY --from=b",
    ];
    const WORDS: [&str; 15] = [
        "a",
        "b",
        "/",
        "..",
        "A=$A$A",
        "${A:-$B}",
        "AS",
        "runs",
        "copies",
        "scratch",
        "80-90",
        "[\"x\"]",
        "<<EOF",
        "http://h/x",
        "é",
    ];
    let words = proptest::collection::vec(proptest::sample::select(&WORDS), 0..4);
    (proptest::sample::select(&KEYWORDS), words)
        .prop_map(|(keyword, words)| format!("{keyword} {}\n", words.join(" ")))
        .prop_filter("an instruction", |line| Dockerfile::parse(format!("FROM x\n{line}")).1.is_empty())
}

proptest! {
    #[test]
    fn planning_never_panics(lines in proptest::collection::vec(any_line(), 0..12)) {
        let text = format!("ARG A=x B\nFROM runs AS a\n{}", lines.concat());
        let (dockerfile, _) = Dockerfile::parse(&text);
        for scope in [Scope::All, Scope::Target] {
            let options = PlanOptions { scope, ..options() };
            let Ok(mut graph) = graph(&dockerfile, &options) else { continue };
            let mut bases = BTreeMap::new();
            while let Ok(missing) = graph.missing(&bases) {
                if missing.is_empty() {
                    let _ = lower(&dockerfile, graph, &options, &bases);
                    break;
                }
                bases.extend(missing.into_iter().map(|request| (request.clone(), base(&request))));
            }
        }
    }
}
