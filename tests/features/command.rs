//! What uses each feature of the command line, and what must come of it.

use super::Want::{Config, File, Is, Written};
use super::{Group, Row};

/// A row that builds `COPY a /`.
const fn row(name: &'static str, args: &'static [&'static str], wants: &'static [super::Want]) -> Row {
    Row { name, dockerfile: "FROM scratch\nCOPY a /", args, wants }
}

/// A row that copies from the named context `n`.
const fn named(name: &'static str, args: &'static [&'static str], wants: &'static [super::Want]) -> Row {
    Row { name, dockerfile: "FROM scratch\nCOPY --from=n . /n/", args, wants }
}

/// A row whose step writes `/o`.
const fn step(
    name: &'static str,
    dockerfile: &'static str,
    args: &'static [&'static str],
    wants: &'static [super::Want],
) -> Row {
    Row { name, dockerfile, args, wants }
}

const A: &[super::Want] = &[File("a", "a\n")];

pub(super) const COMMAND: &[Group] = &[
    (
        "Contexts",
        &[
            row("directory", &["."], A),
            row("tar file", &["context.tar"], A),
            row("standard input", &["-"], A),
            row("git repository", &["{git}"], &[File("x/second", "2\n")]),
            row("URL", &["{web}/context.tar"], A),
            named("named: directory", &["--build-context", "n=d"], &[File("n/e/c", "c\n")]),
            row("named: docker-image://", &["--build-context", "b=docker-image://busybox"], A),
            named(
                "named: oci-layout://",
                &["--build-context", "n={busybox}"],
                &[File(
                    "n/etc/passwd",
                    "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n",
                )],
            ),
            named("named: git repository", &["--build-context", "n={git}"], &[File("n/second", "2\n")]),
            named("named: URL", &["--build-context", "n={web}/context.tar"], &[Is("n/context", "600 0:0")]),
        ],
    ),
    (
        "Outputs",
        &[
            row("type=image", &["-o", "type=image,name=a"], &[Written("store/index.json")]),
            row("type=oci", &["-o", "type=oci,dest=../oci.tar"], &[Written("oci.tar")]),
            row(
                "type=oci,tar=false",
                &["-o", "type=oci,dest=../oci,tar=false"],
                &[Written("oci/index.json")],
            ),
            row("type=docker", &["-o", "type=docker,dest=../docker.tar"], &[Written("docker.tar")]),
            row("type=local", &["-o", "type=local,dest=../local"], &[Written("local/a")]),
            row("type=tar", &["-o", "type=tar,dest=../tree.tar"], &[Written("tree.tar")]),
            row("type=cacheonly", &["-o", "type=cacheonly"], &[]),
            row(
                "compression=zstd",
                &["-o", "type=oci,dest=../zstd.tar,compression=zstd"],
                &[Written("zstd.tar")],
            ),
            row(
                "force-compression",
                &["-o", "type=oci,dest=../forced.tar,compression=zstd,force-compression=true"],
                &[Written("forced.tar")],
            ),
            row("compression=estargz", &["-o", "type=oci,dest=../estargz.tar,compression=estargz"], &[]),
            row(
                "rewrite-timestamp",
                &["-o", "type=oci,dest=../times.tar,rewrite-timestamp=true"],
                &[Written("times.tar")],
            ),
            row(
                "several platforms",
                &["--platform", "linux/amd64,linux/arm64", "-o", "type=oci,dest=../index.tar"],
                &[Written("index.tar")],
            ),
            row("provenance attestation", &["--provenance=true"], &[]),
            row("SBOM attestation", &["--sbom=true"], &[]),
        ],
    ),
    (
        "Options",
        &[
            row("--secret", &["--secret", "id=a,src=Dockerfile"], A),
            row("--ssh, an agent", &["--ssh", "default=agent"], A),
            step(
                "--ssh, a key file",
                "FROM busybox\nRUN --mount=type=ssh,required test -S $SSH_AUTH_SOCK && echo socket > /o",
                &["--ssh", "default=key"],
                &[File("o", "socket\n")],
            ),
            row("--cache-from", &["--cache-from", "type=local,src=cache"], &[]),
            row("--cache-to", &["--cache-to", "type=local,dest=../cache"], &[]),
            step(
                "--add-host",
                "FROM busybox\nRUN grep added /etc/hosts > /o",
                &["--add-host", "added:127.0.0.1"],
                &[File("o", "127.0.0.1\tadded\n")],
            ),
            step(
                "--ulimit",
                "FROM busybox\nRUN ulimit -n > /o",
                &["--ulimit", "nofile=100:200"],
                &[File("o", "100\n")],
            ),
            step(
                "--shm-size",
                "FROM busybox\nRUN stat -f -c %b /dev/shm > /o",
                &["--shm-size", "1m"],
                &[File("o", "256\n")],
            ),
            row(
                "--cgroup-parent, for steps that run where cgroup2 can be written",
                &["--cgroup-parent", "a"],
                A,
            ),
            row("--allow", &["--allow", "network.host"], A),
            row("--attest", &["--attest", "type=sbom"], &[]),
            step(
                "--build-arg",
                "FROM scratch\nARG A\nENV B=$A",
                &["--build-arg", "A=b"],
                &[Config("/config/Env/1", r#""B=b""#)],
            ),
            step(
                "--label",
                "FROM scratch\nLABEL a=c",
                &["--label", "a=b"],
                &[Config("/config/Labels", r#"{"a":"b"}"#)],
            ),
            row("--annotation", &["--annotation", "a=b"], A),
            step(
                "--target",
                "FROM scratch AS one\nCOPY a /\nFROM scratch\nRUN false",
                &["--target", "one"],
                A,
            ),
            step(
                "--network",
                "FROM busybox\nRUN grep -c : /proc/net/dev > /o",
                &["--network", "none"],
                &[File("o", "1\n")],
            ),
        ],
    ),
];
