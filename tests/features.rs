//! `docs/features.md`: every feature of the language and of the command line with its state, found out by running it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use rbuild_builder::plan::{self, PlanError, PlanOptions};
use rbuild_dockerfile::Dockerfile;
use rbuild_image::{ImageConfig, Platform};

use crate::support::{Run, World};

/// A heading and the features below it, each with what uses it.
type Group<Use> = (&'static str, &'static [(&'static str, Use)]);

/// Group, feature and the smallest Dockerfile that uses it.
const LANGUAGE: &[Group<&str>] = &[
    (
        "Directives",
        &[
            ("# syntax=docker/dockerfile:1", "# syntax=docker/dockerfile:1\nFROM scratch"),
            ("# syntax= of another frontend", "# syntax=example/frontend\nFROM scratch"),
            ("# escape=`", "# escape=`\nFROM scratch"),
            ("# check=skip=…;error=true", "# check=skip=JSONArgsRecommended;error=true\nFROM scratch"),
        ],
    ),
    (
        "Instructions",
        &[
            ("FROM", "FROM busybox AS base"),
            ("FROM --platform", "FROM --platform=linux/amd64 busybox"),
            ("FROM of a stage", "FROM busybox AS base\nFROM base"),
            ("RUN, shell form", "FROM busybox\nRUN true"),
            ("RUN, exec form", "FROM busybox\nRUN [\"true\"]"),
            ("RUN, heredoc", "FROM busybox\nRUN <<EOF\ntrue\nEOF"),
            ("CMD", "FROM scratch\nCMD [\"a\"]"),
            ("ENTRYPOINT", "FROM scratch\nENTRYPOINT [\"a\"]"),
            ("ENV", "FROM scratch\nENV A=b"),
            ("ENV, old form", "FROM scratch\nENV A b"),
            ("LABEL", "FROM scratch\nLABEL a=b"),
            ("MAINTAINER", "FROM scratch\nMAINTAINER a"),
            ("EXPOSE", "FROM scratch\nEXPOSE 80/tcp"),
            ("ADD", "FROM scratch\nADD a /"),
            ("COPY", "FROM scratch\nCOPY a /"),
            ("COPY, heredoc", "FROM scratch\nCOPY <<EOF /a\nEOF"),
            ("VOLUME", "FROM scratch\nVOLUME /a"),
            ("USER", "FROM scratch\nUSER 1"),
            ("WORKDIR", "FROM scratch\nWORKDIR /a"),
            ("ARG", "ARG A=b\nFROM scratch\nARG A"),
            ("ONBUILD", "FROM scratch\nONBUILD ENV A=b"),
            ("STOPSIGNAL", "FROM scratch\nSTOPSIGNAL SIGTERM"),
            ("HEALTHCHECK NONE", "FROM scratch\nHEALTHCHECK NONE"),
            ("SHELL", "FROM scratch\nSHELL [\"/bin/sh\", \"-ec\"]"),
        ],
    ),
    (
        "HEALTHCHECK flags",
        &[
            ("--interval", "FROM scratch\nHEALTHCHECK --interval=5s CMD a"),
            ("--timeout", "FROM scratch\nHEALTHCHECK --timeout=5s CMD a"),
            ("--start-period", "FROM scratch\nHEALTHCHECK --start-period=5s CMD a"),
            ("--start-interval", "FROM scratch\nHEALTHCHECK --start-interval=5s CMD a"),
            ("--retries", "FROM scratch\nHEALTHCHECK --retries=2 CMD a"),
        ],
    ),
    (
        "COPY flags",
        &[
            ("--from of a stage", "FROM busybox AS base\nFROM scratch\nCOPY --from=base a /"),
            ("--from of an image", "FROM scratch\nCOPY --from=busybox a /"),
            ("--chown", "FROM scratch\nCOPY --chown=1:2 a /"),
            ("--chmod, octal", "FROM scratch\nCOPY --chmod=755 a /"),
            ("--chmod, symbolic", "FROM scratch\nCOPY --chmod=u=rwX,go=rX a /"),
            ("--link", "FROM scratch\nCOPY --link a /"),
            ("--parents", "FROM scratch\nCOPY --parents a/./b /"),
            ("--exclude", "FROM scratch\nCOPY --exclude=*.md a /"),
        ],
    ),
    (
        "ADD sources and flags",
        &[
            ("local archive", "FROM scratch\nADD a.tar /"),
            ("URL", "FROM scratch\nADD https://example.com/a /"),
            ("git repository", "FROM scratch\nADD https://example.com/a.git /"),
            ("--chown", "FROM scratch\nADD --chown=1:2 a /"),
            ("--chmod", "FROM scratch\nADD --chmod=755 a /"),
            ("--link", "FROM scratch\nADD --link a /"),
            ("--exclude", "FROM scratch\nADD --exclude=*.md a /"),
            ("--unpack", "FROM scratch\nADD --unpack=false a.tar /"),
            (
                "--checksum",
                "FROM scratch\nADD --checksum=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 https://example.com/a /",
            ),
            ("--keep-git-dir", "FROM scratch\nADD --keep-git-dir https://example.com/a.git /"),
        ],
    ),
    (
        "RUN flags",
        &[
            ("--network=default", "FROM busybox\nRUN --network=default true"),
            ("--network=none", "FROM busybox\nRUN --network=none true"),
            ("--network=host", "FROM busybox\nRUN --network=host true"),
            ("--security=sandbox", "FROM busybox\nRUN --security=sandbox true"),
            ("--security=insecure", "FROM busybox\nRUN --security=insecure true"),
            ("--device", "FROM busybox\nRUN --device=vendor/class=a true"),
        ],
    ),
    (
        "RUN --mount",
        &[
            (
                "type=bind: target, source, from",
                "FROM busybox\nRUN --mount=type=bind,from=busybox,source=/a,target=/b true",
            ),
            ("type=bind: rw", "FROM busybox\nRUN --mount=type=bind,target=/b,rw true"),
            ("type=cache: target, id", "FROM busybox\nRUN --mount=type=cache,id=a,target=/b true"),
            (
                "type=cache: sharing=shared",
                "FROM busybox\nRUN --mount=type=cache,target=/b,sharing=shared true",
            ),
            (
                "type=cache: sharing=private",
                "FROM busybox\nRUN --mount=type=cache,target=/b,sharing=private true",
            ),
            (
                "type=cache: sharing=locked",
                "FROM busybox\nRUN --mount=type=cache,target=/b,sharing=locked true",
            ),
            (
                "type=cache: from, source",
                "FROM busybox\nRUN --mount=type=cache,target=/b,from=busybox,source=/a true",
            ),
            (
                "type=cache: mode, uid, gid",
                "FROM busybox\nRUN --mount=type=cache,target=/b,mode=0700,uid=1,gid=2 true",
            ),
            ("type=cache: ro", "FROM busybox\nRUN --mount=type=cache,target=/b,ro true"),
            ("type=tmpfs: target, size", "FROM busybox\nRUN --mount=type=tmpfs,target=/b,size=10m true"),
            ("type=secret: id, target", "FROM busybox\nRUN --mount=type=secret,id=a,target=/b true"),
            ("type=secret: env", "FROM busybox\nRUN --mount=type=secret,id=a,env=A true"),
            (
                "type=secret: mode, uid, gid",
                "FROM busybox\nRUN --mount=type=secret,id=a,mode=0400,uid=1,gid=2 true",
            ),
            ("type=secret: required", "FROM busybox\nRUN --mount=type=secret,id=a,required true"),
            ("type=ssh: id, target", "FROM busybox\nRUN --mount=type=ssh,id=a,target=/b true"),
            ("type=ssh: mode, uid, gid", "FROM busybox\nRUN --mount=type=ssh,mode=0600,uid=1,gid=2 true"),
            ("type=ssh: required", "FROM busybox\nRUN --mount=type=ssh,required true"),
        ],
    ),
    (
        "Platforms",
        &[
            ("COPY for a foreign platform", "FROM --platform=linux/s390x busybox\nCOPY a /"),
            ("RUN for a foreign platform", "FROM --platform=linux/s390x busybox\nRUN true"),
            ("windows", "FROM --platform=windows/amd64 busybox\nCOPY a /"),
        ],
    ),
];

/// Group, feature and the arguments after `rbuild` that use it.
const COMMAND: &[Group<&[&str]>] = &[
    (
        "Contexts",
        &[
            ("directory", &["-o", "type=cacheonly", "."]),
            ("tar file", &["-o", "type=cacheonly", "context.tar"]),
            ("standard input", &["-o", "type=cacheonly", "-"]),
            ("git repository", &["-o", "type=cacheonly", "https://127.0.0.1:1/a.git"]),
            ("URL", &["-o", "type=cacheonly", "http://127.0.0.1:1/a.tar"]),
            ("named: directory", &["--build-context", "a=.", "-o", "type=cacheonly", "."]),
            (
                "named: docker-image://",
                &["--build-context", "a=docker-image://busybox", "-o", "type=cacheonly", "."],
            ),
            (
                "named: oci-layout://",
                &["--build-context", "a=oci-layout://layout:latest", "-o", "type=cacheonly", "."],
            ),
            (
                "named: git repository",
                &["--build-context", "a=https://127.0.0.1:1/a.git", "-o", "type=cacheonly", "."],
            ),
            ("named: URL", &["--build-context", "a=http://127.0.0.1:1/a.tar", "-o", "type=cacheonly", "."]),
        ],
    ),
    (
        "Outputs",
        &[
            ("type=image", &["-o", "type=image,name=a", "."]),
            ("type=oci", &["-o", "type=oci,dest=../oci.tar", "."]),
            ("type=oci,tar=false", &["-o", "type=oci,dest=../oci,tar=false", "."]),
            ("type=docker", &["-o", "type=docker,dest=../docker.tar", "."]),
            ("type=local", &["-o", "type=local,dest=../local", "."]),
            ("type=tar", &["-o", "type=tar,dest=../tree.tar", "."]),
            ("type=cacheonly", &["-o", "type=cacheonly", "."]),
            ("compression=zstd", &["-o", "type=oci,dest=../zstd.tar,compression=zstd", "."]),
            ("compression=estargz", &["-o", "type=oci,dest=../estargz.tar,compression=estargz", "."]),
            ("rewrite-timestamp", &["-o", "type=oci,dest=../times.tar,rewrite-timestamp=true", "."]),
            (
                "several platforms",
                &["--platform", "linux/amd64,linux/arm64", "-o", "type=oci,dest=../index.tar", "."],
            ),
            ("provenance attestation", &["--provenance=true", "-o", "type=cacheonly", "."]),
            ("SBOM attestation", &["--sbom=true", "-o", "type=cacheonly", "."]),
        ],
    ),
    (
        "Options",
        &[
            ("--secret", &["--secret", "id=a,src=Dockerfile", "-o", "type=cacheonly", "."]),
            ("--ssh", &["--ssh", "default", "-o", "type=cacheonly", "."]),
            ("--cache-from", &["--cache-from", "type=local,src=cache", "-o", "type=cacheonly", "."]),
            ("--cache-to", &["--cache-to", "type=local,dest=../cache", "-o", "type=cacheonly", "."]),
            ("--add-host", &["--add-host", "a:127.0.0.1", "-o", "type=cacheonly", "."]),
            ("--allow", &["--allow", "network.host", "-o", "type=cacheonly", "."]),
            ("--attest", &["--attest", "type=sbom", "-o", "type=cacheonly", "."]),
            ("--build-arg", &["--build-arg", "A=b", "-o", "type=cacheonly", "."]),
            ("--label", &["--label", "a=b", "-o", "type=cacheonly", "."]),
            ("--annotation", &["--annotation", "a=b", "-o", "type=cacheonly", "."]),
        ],
    ),
];

#[test]
fn the_table_of_features_is_what_runs_say() {
    let mut table = String::from(
        "# Features\n\nEach row is a run: the smallest Dockerfile or command line that uses the feature, parsed and planned, or built.\n\
         Written by `UPDATE_EXPECT=1 cargo test -p rbuild --test e2e features`, checked by the same test.\n",
    );
    for (group, features) in LANGUAGE {
        rows(&mut table, group, features.iter().map(|(name, text)| (*name, planned(text))));
    }
    for (group, features) in COMMAND {
        rows(&mut table, group, features.iter().map(|(name, args)| (*name, built(args))));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/features.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("docs");
        fs::write(&path, &table).expect("write");
    }
    let shown = fs::read_to_string(&path).unwrap_or_default();
    assert!(shown == table, "docs/features.md is out of date: UPDATE_EXPECT=1 rewrites it\n{table}");
}

fn rows<'a>(table: &mut String, group: &str, rows: impl Iterator<Item = (&'a str, Result<(), String>)>) {
    write!(table, "\n## {group}\n\n| feature | state |\n| --- | --- |\n").expect("a string");
    for (name, state) in rows {
        let state = state.map_or_else(|text| format!("refused: {text}"), |()| "supported".to_owned());
        writeln!(table, "| `{name}` | {} |", state.replace('|', "\\|")).expect("a string");
    }
}

/// Parses and plans a Dockerfile over base images that are assumed to exist.
fn planned(text: &str) -> Result<(), String> {
    let (dockerfile, findings) = Dockerfile::parse(text);
    if let Some(error) = findings.iter().find(|finding| finding.is_error()) {
        return Err(error.message.clone());
    }
    plan(&dockerfile).map_err(|error| error.to_string())
}

fn plan(dockerfile: &Dockerfile) -> Result<(), PlanError> {
    let platform = Platform::new("linux", "amd64");
    let options =
        PlanOptions { platform: platform.clone(), build_platform: platform, ..PlanOptions::default() };
    let mut graph = plan::graph(dockerfile, &options)?;
    let mut bases = BTreeMap::new();
    loop {
        let missing = graph.missing(&bases)?;
        if missing.is_empty() {
            break;
        }
        bases.extend(missing.into_iter().map(|request| {
            let config = ImageConfig::scratch(&request.platform);
            (request, config)
        }));
    }
    plan::lower(dockerfile, graph, &options, &bases).map(drop)
}

/// Builds an empty image. What fails on an address nobody listens at was not refused.
fn built(args: &[&str]) -> Result<(), String> {
    let world = World::new();
    world.dockerfile("FROM scratch\nENV A=b\n");
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_path_with_name(world.context().join("Dockerfile"), "Dockerfile").expect("a member");
    world.file("context.tar", archive.into_inner().expect("an archive"));
    let stdin = fs::File::open(world.context().join("Dockerfile")).expect("the Dockerfile");
    let run = Run::of(world.command().args(args).stdin(stdin).output().expect("rbuild starts"));
    let remote = args.iter().any(|arg| arg.contains("://127.0.0.1:1/"));
    match run.code {
        0 => Ok(()),
        2 => {
            let line = run.stderr.lines().find(|line| line.contains("error")).unwrap_or("by name");
            Err(line.trim_start_matches("error: ").to_owned())
        }
        _ if remote => Ok(()),
        code => panic!("{args:?}: exit status {code}: {}", run.stderr),
    }
}
