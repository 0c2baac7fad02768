#!/usr/bin/env python3
"""Builds one Dockerfile in every kind of pod and compares the images. See README.md."""
import argparse
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "differential"))
import image  # noqa: E402

HERE = os.path.dirname(os.path.realpath(__file__))
KINDS = ("privileged", "root-unconfined", "hostusers-false", "hostusers-false-admin", "root-default", "nonroot-unconfined",
         "restricted=supervised")
# What two installations of the same packages never share: logs, caches with times, random keys, a database's files, the last change
# of a password.
VARYING = re.compile(
    r"^(var/log/|var/cache/(ldconfig|debconf|apt)/|var/lib/(mysql|dpkg|systemd|apt)/|etc/(passwd|group|g?shadow)-?$|etc/ssl/private/"
    r"|etc/ssl/certs/ssl-cert|etc/machine-id$|etc/mysql/debian.cnf$|run/|tmp/|.*\.pyc$)")


def build(args, kind, volume):
    """Builds and pushes in a pod; the reference that was pushed, the isolation, the seconds and the outcome."""
    kind, _, isolation = kind.partition("=")
    isolation = isolation or args.isolation
    name = f"{args.repository}/{kind}{'' if volume else '-no-volume'}"
    store = "/scratch/store" if volume else "/var/tmp/store"
    command = [
        args.pods, kind, "-v", f"{os.path.dirname(args.rbuild)}:/rbuild:ro", "-v", f"{HERE}/image:/context:ro",
        "-e", f"RBUILD_ROOT={store}", "-e", "HOME=/tmp", *([] if volume else ["--no-scratch"]), "--",
        "/rbuild/" + os.path.basename(args.rbuild), "--progress", "plain", "--build-arg", f"BASE={args.base}",
        *(["--isolation", isolation] if isolation else []), "-t", f"{args.registry}/{name}:1", "/context",
    ]
    start = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=args.timeout)
    seconds = time.monotonic() - start
    with open(os.path.join(args.logs, name.replace("/", "_") + ".log"), "w") as log:
        log.write(done.stdout)
    found = re.search(r"^isolation (\S+?):", done.stdout, re.M)
    return name, found.group(1) if found else "-", seconds, done


def compare(expected, got):
    """What differs: of the metadata, of content that must be equal, and how many files that may differ do."""
    wrong, varying = [], 0
    for path in sorted(expected.keys() | got.keys()):
        one, other = expected.get(path), got.get(path)
        if one is None or other is None:
            if VARYING.match(path):
                varying += 1
            else:
                wrong.append(f"/{path}: {'missing' if other is None else 'only here'}")
            continue
        one, other = dict(one), dict(other)
        content = [(node.pop("size", None), node.pop("sha256", None)) for node in (one, other)]
        if content[0] != content[1]:
            if VARYING.match(path):
                varying += 1
            else:
                wrong.append(f"/{path}: another content")
        wrong.extend(image.differences(one, other, f"/{path}"))
    return wrong, varying


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rbuild", required=True, help="the binary; its folder is mounted into the pods")
    parser.add_argument("--pods", required=True, help="the command that runs a command in a pod: POD KIND [-v HOST:CTR[:ro]] [-e N=V] -- CMD")
    parser.add_argument("--registry", default="127.0.0.1:5000")
    parser.add_argument("--base", default="127.0.0.1:5000/library/debian:bookworm")
    parser.add_argument("--repository", default="pods")
    parser.add_argument("--isolation", help="force one; KIND=ISOLATION among the kinds does for that")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--volumes", default="with,without", help="with a volume for the store, without, or both")
    parser.add_argument("--logs", default="/tmp")
    parser.add_argument("--timeout", type=int, default=900)
    args = parser.parse_args()
    args.rbuild = os.path.realpath(args.rbuild)
    os.makedirs(args.logs, exist_ok=True)

    print("| pod | volume | isolation | result | seconds | paths | differing metadata or content | varying content |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    expected, expected_config, failed, cache = None, None, False, {}
    for volume in args.volumes.split(","):
        for kind in args.kinds.split(","):
            name, isolation, seconds, done = build(args, kind, volume == "with")
            if done.returncode:
                failed = True
                last = " ".join(done.stdout.strip().splitlines()[-1:])[:200]
                print(f"| {kind} | {volume} | {isolation} | exit {done.returncode}: {last} | {seconds:.0f} | | | |", flush=True)
                continue
            config, layers = image.from_registry(args.registry, name, "1", cache)
            tree, config = image.tree(layers), image.config(config)
            if expected is None:
                expected, expected_config = tree, config
            wrong, varying = compare(expected, tree)
            wrong += image.differences(expected_config, config, "config")
            failed |= bool(wrong)
            print(f"| {kind} | {volume} | {isolation} | built | {seconds:.0f} | {len(tree)} | {len(wrong)} | {varying} |", flush=True)
            for line in wrong[:40]:
                print("    " + line, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
