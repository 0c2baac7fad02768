//! What uses each feature of the language, and what must come of it.

use super::Want::{Absent, Config, File, Is, Same};
use super::{Group, Row};

/// A row without arguments.
const fn row(name: &'static str, dockerfile: &'static str, wants: &'static [super::Want]) -> Row {
    with(name, dockerfile, &[], wants)
}

const fn with(
    name: &'static str,
    dockerfile: &'static str,
    args: &'static [&'static str],
    wants: &'static [super::Want],
) -> Row {
    Row { name, dockerfile, args, wants }
}

/// A RUN that writes `/o`.
const O: &str = "o";

pub(super) const LANGUAGE: &[Group] = &[
    (
        "Directives",
        &[
            row(
                "# syntax=docker/dockerfile:1",
                "# syntax=docker/dockerfile:1\nFROM scratch\nCOPY a /",
                &[File("a", "a\n")],
            ),
            row("# syntax= of another frontend", "# syntax=example/frontend\nFROM scratch\nCOPY a /", &[]),
            row(
                "# escape=`",
                "# escape=`\nFROM scratch\nENV A=x`\nb`$c",
                &[Config("/config/Env/1", r#""A=xb$c""#)],
            ),
            row(
                "# check=skip=…;error=true",
                "# check=skip=JSONArgsRecommended;error=true\nFROM scratch\nCMD x",
                &[Config("/config/Cmd/2", r#""x""#)],
            ),
        ],
    ),
    (
        "Instructions",
        &[
            row(
                "FROM",
                "FROM busybox AS base",
                &[Config("/config/Cmd", r#"["sh"]"#), Is("bin/busybox", "755 0:0")],
            ),
            row(
                "FROM --platform",
                "FROM --platform=linux/amd64 busybox",
                &[Config("/architecture", r#""amd64""#)],
            ),
            row(
                "FROM of a stage",
                "FROM scratch AS base\nENV A=1\nCOPY a /\nFROM base\nENV B=$A",
                &[Config("/config/Env/2", r#""B=1""#), File("a", "a\n")],
            ),
            row(
                "RUN, shell form",
                "FROM busybox\nRUN echo $((1+1)) > /o",
                &[
                    File(O, "2\n"),
                    Config("/history/1/created_by", r#""RUN /bin/sh -c echo $((1+1)) > /o # buildkit""#),
                ],
            ),
            row(
                "RUN, exec form",
                "FROM busybox\nRUN [\"cp\", \"/etc/group\", \"/$A\"]",
                &[Same("$A", "etc/group")],
            ),
            row(
                "RUN, heredoc",
                "FROM busybox\nRUN <<EOF\necho one > /o\necho $0 >> /o\nEOF",
                &[File(O, "one\n/bin/sh\n")],
            ),
            row(
                "RUN, heredoc with #!",
                "FROM busybox\nRUN <<EOF\n#!/bin/cat\nx\nEOF",
                &[
                    Config("/history/1/created_by", r#""RUN /bin/sh -c /dev/pipes/EOF # buildkit""#),
                    Absent("dev/pipes"),
                ],
            ),
            row(
                "CMD",
                "FROM scratch\nCMD [\"a\"]",
                &[Config("/config/Cmd", r#"["a"]"#), Config("/config/ArgsEscaped", "true")],
            ),
            row(
                "ENTRYPOINT",
                "FROM busybox\nENTRYPOINT [\"a\"]",
                &[Config("/config/Entrypoint", r#"["a"]"#), Config("/config/Cmd", "null")],
            ),
            row("ENV", "FROM scratch\nENV A=b C=\"d e\"", &[Config("/config/Env/2", r#""C=d e""#)]),
            row("ENV, old form", "FROM scratch\nENV A b  c", &[Config("/config/Env/1", r#""A=b  c""#)]),
            row("LABEL", "FROM scratch\nLABEL a=b", &[Config("/config/Labels", r#"{"a":"b"}"#)]),
            row("MAINTAINER", "FROM scratch\nMAINTAINER a", &[Config("/author", r#""a""#)]),
            row(
                "EXPOSE",
                "FROM scratch\nEXPOSE 80-81/tcp",
                &[Config("/config/ExposedPorts", r#"{"80/tcp":{},"81/tcp":{}}"#)],
            ),
            row("ADD", "FROM scratch\nADD a /", &[File("a", "a\n"), Is("a", "644 0:0")]),
            row(
                "COPY",
                "FROM scratch\nCOPY a d /x/",
                &[File("x/a", "a\n"), File("x/b.md", "b\n"), Is("x", "755 0:0")],
            ),
            row(
                "COPY, heredoc",
                "FROM scratch\nENV V=1\nCOPY <<EOF <<\"F\" /x/\n$V\nEOF\n$V\nF",
                &[File("x/EOF", "1\n"), File("x/F", "$V\n")],
            ),
            row("VOLUME", "FROM scratch\nVOLUME /a", &[Config("/config/Volumes", r#"{"/a":{}}"#)]),
            row(
                "USER",
                "FROM busybox\nUSER app\nRUN id -u > /tmp/o",
                &[File("tmp/o", "1000\n"), Config("/config/User", r#""app""#)],
            ),
            row(
                "WORKDIR",
                "FROM scratch\nUSER 5:6\nWORKDIR /a\nWORKDIR b",
                &[Is("a/b", "755 5:6"), Config("/config/WorkingDir", r#""/a/b""#)],
            ),
            with(
                "ARG",
                "ARG A=b\nFROM busybox\nARG A C\nRUN echo $A $C > /o",
                &["--build-arg", "C=d"],
                &[File(O, "b d\n")],
            ),
            row(
                "ONBUILD",
                "FROM scratch AS x\nONBUILD COPY a /\nFROM x",
                &[File("a", "a\n"), Config("/config/OnBuild", "null")],
            ),
            row(
                "STOPSIGNAL",
                "FROM scratch\nSTOPSIGNAL SIGTERM",
                &[Config("/config/StopSignal", r#""SIGTERM""#)],
            ),
            row(
                "HEALTHCHECK NONE",
                "FROM scratch\nHEALTHCHECK NONE",
                &[Config("/config/Healthcheck/Test", r#"["NONE"]"#)],
            ),
            row(
                "SHELL",
                "FROM busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\nRUN echo $0 > /o",
                &[Config("/config/Shell/1", r#""sh""#), File(O, "sh\n")],
            ),
        ],
    ),
    (
        "HEALTHCHECK flags",
        &[
            row(
                "--interval",
                "FROM scratch\nHEALTHCHECK --interval=5s CMD a",
                &[Config("/config/Healthcheck/Interval", "5000000000")],
            ),
            row(
                "--timeout",
                "FROM scratch\nHEALTHCHECK --timeout=5s CMD a",
                &[Config("/config/Healthcheck/Timeout", "5000000000")],
            ),
            row(
                "--start-period",
                "FROM scratch\nHEALTHCHECK --start-period=5s CMD a",
                &[Config("/config/Healthcheck/StartPeriod", "5000000000")],
            ),
            row(
                "--start-interval",
                "FROM scratch\nHEALTHCHECK --start-interval=5s CMD a",
                &[Config("/config/Healthcheck/StartInterval", "5000000000")],
            ),
            row(
                "--retries",
                "FROM scratch\nHEALTHCHECK --retries=2 CMD a",
                &[Config("/config/Healthcheck/Retries", "2")],
            ),
        ],
    ),
    (
        "COPY flags",
        &[
            row(
                "--from of a stage",
                "FROM scratch AS base\nCOPY a /x\nFROM scratch\nCOPY --from=base x /y",
                &[File("y", "a\n")],
            ),
            row(
                "--from of an image",
                "FROM scratch\nCOPY --from=busybox /etc/group /",
                &[Is("group", "644 0:0")],
            ),
            row(
                "--chown",
                "FROM busybox\nCOPY --chown=app:2 a d /x/",
                &[Is("x/a", "644 1000:2"), Is("x", "755 1000:2")],
            ),
            row("--chmod, octal", "FROM scratch\nCOPY --chmod=711 a /", &[Is("a", "711 0:0")]),
            row(
                "--chmod, symbolic",
                "FROM scratch\nCOPY --chmod=u=rwX,go= d /d/",
                &[Is("d/b.md", "600 0:0"), Is("d/e", "700 0:0")],
            ),
            row(
                "--link",
                "FROM busybox AS base\nRUN mkdir /t && ln -s /t /l\nFROM base\nCOPY --link a /l/",
                &[File("l/a", "a\n"), Absent("t/a")],
            ),
            row(
                "--parents",
                "FROM scratch\nCOPY --parents d/./e /x/",
                &[File("x/e/c", "c\n"), Absent("x/b.md")],
            ),
            row(
                "--exclude",
                "FROM scratch\nCOPY --exclude=*.md d /d/",
                &[Absent("d/b.md"), File("d/e/c", "c\n")],
            ),
        ],
    ),
    (
        "ADD sources and flags",
        &[
            row("local archive", "FROM scratch\nADD a.tar /", &[File("in/tar", "t\n"), Absent("a.tar")]),
            row("URL", "FROM scratch\nADD {web}/u /", &[File("u", "u\n"), Is("u", "600 0:0")]),
            row(
                "git repository",
                "FROM scratch\nADD {git} /x/",
                &[File("x/second", "2\n"), Absent("x/.git")],
            ),
            row("--chown", "FROM scratch\nADD --chown=1:2 a /", &[Is("a", "644 1:2")]),
            row("--chmod", "FROM scratch\nADD --chmod=700 a /", &[Is("a", "700 0:0")]),
            row("--link", "FROM scratch\nADD --link a /x/", &[File("x/a", "a\n")]),
            row("--exclude", "FROM scratch\nADD --exclude=e d /d/", &[File("d/b.md", "b\n"), Absent("d/e")]),
            row(
                "--unpack",
                "FROM scratch\nADD --unpack=false a.tar /\nADD --unpack {web}/a.tar /u/",
                &[Is("a.tar", "644 0:0"), File("u/in/tar", "t\n")],
            ),
            row(
                "--checksum",
                "FROM scratch\nADD --checksum=sha256:ea46748e171abd2dd4dba5b86bb6589334d86bba2df8d50cbb16b36c83b0856a {web}/u /",
                &[File("u", "u\n")],
            ),
            row("--keep-git-dir", "FROM scratch\nADD --keep-git-dir {git} /x/", &[Is("x/.git", "755 0:0")]),
        ],
    ),
    (
        "RUN flags",
        &[
            row("--network=default", "FROM busybox\nRUN --network=default echo x > /o", &[File(O, "x\n")]),
            row(
                "--network=none",
                "FROM busybox\nRUN --network=none grep -c : /proc/net/dev > /o",
                &[File(O, "1\n")],
            ),
            with(
                "--network=host, with --allow",
                "FROM busybox\nRUN --network=host echo x > /o",
                &["--allow", "network.host"],
                &[File(O, "x\n")],
            ),
            row("--security=sandbox", "FROM busybox\nRUN --security=sandbox echo x > /o", &[File(O, "x\n")]),
            with(
                "--security=insecure, with --allow",
                "FROM busybox\nRUN --security=insecure echo x > /o",
                &["--allow", "security.insecure"],
                &[File(O, "x\n")],
            ),
            with(
                "--device, with --allow",
                "FROM busybox\nRUN --device=vendor/class=a true",
                &["--allow", "device"],
                &[],
            ),
        ],
    ),
    (
        "RUN --mount",
        &[
            row(
                "type=bind: target, source, from",
                "FROM busybox\nRUN --mount=type=bind,from=busybox,source=/etc,target=/b cp /b/group /o",
                &[Same(O, "etc/group"), Absent("b")],
            ),
            row(
                "type=bind: rw",
                "FROM busybox\nRUN --mount=type=bind,target=/b,rw touch /b/new && ls /b/new > /o",
                &[File(O, "/b/new\n"), Absent("b")],
            ),
            row(
                "type=cache: target, id",
                "FROM busybox AS x\nRUN --mount=type=cache,id=i,target=/b echo x > /b/f\nFROM x\nRUN --mount=type=cache,id=i,target=/c cp /c/f /o",
                &[File(O, "x\n"), Absent("b"), Absent("c")],
            ),
            row(
                "type=cache: sharing=shared",
                "FROM busybox\nRUN --mount=type=cache,target=/b,sharing=shared touch /b/x && ls /b > /o",
                &[File(O, "x\n")],
            ),
            row(
                "type=cache: sharing=private",
                "FROM busybox\nRUN --mount=type=cache,target=/p,sharing=private touch /p/x && ls /p > /o",
                &[File(O, "x\n")],
            ),
            row(
                "type=cache: sharing=locked",
                "FROM busybox\nRUN --mount=type=cache,target=/l,sharing=locked touch /l/x && ls /l > /o",
                &[File(O, "x\n")],
            ),
            row(
                "type=cache: from, source",
                "FROM busybox\nRUN --mount=type=cache,target=/b,id=f,from=busybox,source=/etc cp /b/group /o",
                &[Same(O, "etc/group")],
            ),
            row(
                "type=cache: mode, uid, gid",
                "FROM busybox\nRUN --mount=type=cache,target=/b,id=m,mode=0700,uid=1,gid=2 stat -c '%a %u:%g' /b > /o",
                &[File(O, "700 1:2\n")],
            ),
            row(
                "type=cache: ro",
                "FROM busybox\nRUN --mount=type=cache,target=/b,id=r,ro touch /b/x 2> /dev/null || echo no > /o",
                &[File(O, "no\n")],
            ),
            row(
                "type=tmpfs: target, size",
                "FROM busybox\nRUN --mount=type=tmpfs,target=/b,size=1m stat -f -c %b /b > /o",
                &[File(O, "256\n"), Absent("b")],
            ),
            with(
                "type=secret: id, target",
                "FROM busybox\nRUN --mount=type=secret,id=a,target=/b cat /b > /o",
                &["--secret", "id=a,src=a"],
                &[File(O, "a\n"), Absent("b")],
            ),
            with(
                "type=secret: env",
                "FROM busybox\nRUN --mount=type=secret,id=a,env=A printf %s \"$A\" > /o",
                &["--secret", "id=a,src=a"],
                &[File(O, "a\n"), Absent("run/secrets")],
            ),
            with(
                "type=secret: mode, uid, gid",
                "FROM busybox\nRUN --mount=type=secret,id=a,mode=0440,uid=1,gid=2 stat -c '%a %u:%g' /run/secrets/a > /o",
                &["--secret", "id=a,src=a"],
                &[File(O, "440 1:2\n")],
            ),
            with(
                "type=secret: required",
                "FROM busybox\nRUN --mount=type=secret,id=a,required cat /run/secrets/a > /o",
                &["--secret", "id=a,src=a"],
                &[File(O, "a\n")],
            ),
            with(
                "type=ssh: id, target",
                "FROM busybox\nRUN --mount=type=ssh,id=a,target=/b test -S /b && echo $SSH_AUTH_SOCK > /o",
                &["--ssh", "a=agent"],
                &[File(O, "/b\n"), Absent("b")],
            ),
            with(
                "type=ssh: mode, uid, gid",
                "FROM busybox\nRUN --mount=type=ssh,mode=0660,uid=1,gid=2 stat -c '%a %u:%g' $SSH_AUTH_SOCK > /o",
                &["--ssh", "default=agent"],
                &[File(O, "660 1:2\n")],
            ),
            with(
                "type=ssh: required",
                "FROM busybox\nRUN --mount=type=ssh,required test -S $SSH_AUTH_SOCK && echo x > /o",
                &["--ssh", "default=agent"],
                &[File(O, "x\n")],
            ),
        ],
    ),
    (
        "Platforms",
        &[
            row(
                "COPY for a foreign platform",
                "FROM --platform=linux/s390x busybox\nCOPY a /",
                &[File("a", "a\n")],
            ),
            row("windows", "FROM --platform=windows/amd64 busybox\nCOPY a /", &[]),
        ],
    ),
];
