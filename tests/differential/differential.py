#!/usr/bin/env python3
"""Builds generated Dockerfiles with rbuild and with another builder and compares the images (README.md)."""
import argparse
import collections
import concurrent.futures
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile

import grammar
import image

# Per feature a Dockerfile and a path it makes: what the peer does not do is left out of the generated ones.
FEATURES = {
    "parents": ("FROM scratch\nCOPY --parents d/f.txt /x/\n", "x/d/f.txt"),
    "exclude": ("FROM scratch\nCOPY --exclude=*.md d /x/\n", "x/f.txt"),
    "unpack": ("FROM scratch\nADD --unpack=false t.tar /x/\n", "x/t.tar"),
    "link": ("FROM scratch\nCOPY dlink/f.txt /d/\nCOPY a.txt /y/\nCOPY --link a.txt /y\n", "y"),
}

# Differences that were looked into and stay (README.md): a pattern of the line, and the reason.
KNOWN = [
    (r"created_by: \"(\|\d+ .*)?HEALTHCHECK ", "the peer's frontend writes HEALTHCHECK's history in an older form"),
    (r"\| .*invalid user index: -1", "the peer cannot look up names on scratch; frontend 1.26 gives 0:0"),
    (r"\| .*lstat /\w+: no such file or directory", "the peer did not send the folder that a wildcard without matches lies in"),
    (r"\| .*\"/(.*/)?(dangling|absolute|outside|loop)\": not found", "the peer's cache key fails on links that lead nowhere"),
]


class Builder:
    """A command that builds, and how its images are read."""

    def __init__(self, command, timeout):
        self.command, self.timeout = command, timeout

    def call(self, *arguments):
        """Exit status and output. A crash, a panic or no end is an error of its own."""
        try:
            done = subprocess.run([*self.command, *map(str, arguments)], stdin=subprocess.DEVNULL, timeout=self.timeout,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        except subprocess.TimeoutExpired:
            return "no end", ""
        text = done.stdout.decode(errors="replace")
        if done.returncode < 0 or done.returncode > 128 or "panicked at" in text:
            return "crash", text
        return ("accepted" if done.returncode == 0 else "refused"), text


class Peer(Builder):
    def __init__(self, options):
        super().__init__(options.peer, options.timeout)
        self.registry, self.blobs = options.through, {}

    def build(self, case, folder):
        tag, archive = "case-" + re.sub(r"[^a-z0-9]", "-", case.seed.lower()), folder / "peer.tar"
        output = ["-o", f"type=oci,dest={archive}"]
        if self.registry:
            output = ["--push", "-t", f"{self.registry}/differential:{tag}"]
        verdict, text = self.call(*output, "-f", folder / "Dockerfile", *case.options(), folder / "context")
        if verdict != "accepted":
            return verdict, text, None
        if self.registry:
            return verdict, text, image.from_registry(self.registry, "differential", tag, self.blobs)
        return verdict, text, image.from_archive(archive)

    def lint(self, folder):
        verdict, text = self.call("--call=check,format=json", "-f", folder / "Dockerfile", folder / "context")
        found = text[text.find("{"):]
        report = json.JSONDecoder().raw_decode(found)[0] if found else {}
        if verdict != "accepted" and "warnings" not in report or report.get("buildError"):
            return None
        return {(w["ruleName"], w["location"]["ranges"][0]["start"]["line"]) for w in report.get("warnings") or []
                if w["ruleName"] != "CopyIgnoredFile" and w.get("location", {}).get("ranges")}


class Ours(Builder):
    def build(self, case, folder):
        output = folder / "ours.tar"
        verdict, text = self.call("build", "-o", f"type=oci,dest={output}", "-f", folder / "Dockerfile", *case.options(), folder / "context")
        return verdict, text, image.from_archive(output) if verdict == "accepted" else None

    def lint(self, folder):
        _, text = self.call("parse", "--format", "json", folder / "Dockerfile")
        report = json.loads(text[text.find("{"):].splitlines()[0])
        return {(w["rule"], w["start"]) for w in report["lint"]} if report["ok"] else None


def examined(case, *rest):
    """compare, where an image that cannot be read is a difference."""
    try:
        return compare(case, *rest)
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        return [f"unreadable: {type(error).__name__}: {error}"], "unreadable"


def compare(case, peer, ours, scratch, with_lint):
    """The differences of one case, as lines; and the peer's verdict."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        folder = pathlib.Path(folder)
        case.write(folder)
        theirs, their_text, their_image = peer.build(case, folder)
        verdict, text, our_image = ours.build(case, folder)
        found = []
        if verdict != theirs:
            found.append(f"verdict: {verdict}, the peer {theirs}")
            found = [f"{found[0]}  | {line}" for line in last_lines(text if verdict != "accepted" else their_text)] or found
        elif our_image:
            found += image.differences(image.config(their_image[0]), image.config(our_image[0]), "config: ")
            found += image.differences(image.tree(their_image[1]), image.tree(our_image[1]), "tree: ")
        if with_lint and not found:
            wanted, got = peer.lint(folder), ours.lint(folder)
            if wanted is not None and got is not None and wanted != got:
                found.append(f"lint: missing {sorted(wanted - got)}, unexpected {sorted(got - wanted)}")
        return found, theirs


def known(found):
    """The reasons of the differences that are known, and the other differences."""
    reasons = [next((why for pattern, why in KNOWN if re.search(pattern, line)), None) for line in found]
    return [why for why in reasons if why], [line for line, why in zip(found, reasons) if not why]


def last_lines(text):
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines)[-2:]


def report(case, found, limit):
    print(f"=== {case.seed} {' '.join(case.options())}")
    print(case.dockerfile.rstrip("\n"))
    if case.ignore is not None:
        print("--- .dockerignore\n" + case.ignore.rstrip("\n"))
    print("--- differences")
    print("\n".join(found[:limit]) + (f"\n... {len(found) - limit} more" if len(found) > limit else ""), flush=True)


def peer_version(peer):
    """What the command says about itself: `… build …` asked as `… version`, and docker's own version."""
    build = next((i for i, word in enumerate(peer) if word in ("build", "bud")), len(peer))
    asked = [peer[:build] + ["version"]]
    if "docker" in peer[:build]:
        asked.append(peer[:peer.index("docker") + 1] + ["version", "--format", "docker engine {{.Server.Version}}"])
    for command in asked:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        yield (done.stdout or done.stderr).strip().splitlines()[0]


def options():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rbuild", default="rbuild", type=shlex.split, help="the command (may hold arguments: rbuild uses RBUILD_ROOT)")
    p.add_argument("--peer", required=True, type=shlex.split, help='a build command that knows -f and -o type=oci (or -t and --push), as "docker buildx build --network host --provenance=false"')
    p.add_argument("--through", metavar="REGISTRY", help="let the peer push to this plain registry; default: it writes OCI archives")
    p.add_argument("--seed", default="0", help="the cases are SEED.0, SEED.1, ...")
    p.add_argument("--count", default=100, type=int)
    p.add_argument("--only", type=lambda text: text.split(","), help="replay the cases of these seeds, as 0.17,0.31")
    p.add_argument("--dockerfile", type=pathlib.Path, nargs="+", help="compare these Dockerfiles, with the generated context")
    p.add_argument("--call", choices=["check"], help="compare lint findings too")
    p.add_argument("--lacks", default="", help="features the peer does not know, by comma; default: tried out")
    p.add_argument("--show", action="store_true", help="print the cases and build nothing")
    p.add_argument("--keep", type=pathlib.Path, help="write the cases that differ below this folder")
    p.add_argument("--jobs", default=2, type=int)
    p.add_argument("--timeout", default=120, type=float, help="seconds for one build")
    p.add_argument("--lines", default=8, type=int, help="differences printed for one case")
    return p.parse_args()


def main():
    given = options()
    peer, ours = Peer(given), Ours(given.rbuild, given.timeout)
    for line in peer_version(given.peer):
        print("peer:", line)
    with tempfile.TemporaryDirectory(prefix="differential-", ignore_cleanup_errors=True) as scratch:
        scratch = pathlib.Path(scratch)
        lacks = given.lacks.split(",") if given.lacks else lacking(peer, scratch)
        print("peer lacks:", ", ".join(lacks) or "nothing")
        if given.dockerfile:
            cases = [grammar.Case(path.stem, path.read_text()) for path in given.dockerfile]
        else:
            seeds = given.only or [f"{given.seed}.{i}" for i in range(given.count)]
            cases = [grammar.generate(seed, lacks) for seed in seeds]
        if given.show:
            for case in cases:
                report(case, [], 0)
            return
        counts, expected, differing = collections.Counter(), collections.Counter(), 0
        with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
            work = pool.map(lambda case: examined(case, peer, ours, scratch, given.call), cases)
            for case, (found, verdict) in zip(cases, work):
                counts[verdict] += 1
                reasons, found = known(found)
                expected.update(set(reasons))
                if found:
                    differing += 1
                    report(case, found, given.lines)
                    if given.keep:
                        shutil.rmtree(given.keep / case.seed, ignore_errors=True)
                        (given.keep / case.seed).mkdir(parents=True)
                        case.write(given.keep / case.seed)
    for why, count in expected.items():
        print(f"known: {count} cases: {why}")
    verdicts = ", ".join(f"{n} {verdict} by the peer" for verdict, n in sorted(counts.items()))
    print(f"{sum(counts.values())} cases ({verdicts}): {differing} differ")
    sys.exit(1 if differing else 0)


def lacking(peer, scratch):
    """Which of the features the peer refuses."""
    out = []
    for name, (text, made) in FEATURES.items():
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            folder = pathlib.Path(folder)
            case = grammar.Case(f"probe-{name}", text)
            case.write(folder)
            verdict, _, built = peer.build(case, folder)
            if verdict != "accepted" or made not in image.tree(built[1]) or image.tree(built[1])[made]["type"] != "file":
                out.append(name)
    return out


main()
