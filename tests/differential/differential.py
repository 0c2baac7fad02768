#!/usr/bin/env python3
"""Builds generated Dockerfiles with rbuild and with another builder and compares the images (README.md)."""
import argparse
import collections
import concurrent.futures
import dataclasses
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile

import calls
import grammar
import image
import known

# Per feature a Dockerfile and a path it makes: what the peer does not do is left out of the generated ones.
FEATURES = {
    "parents": ("FROM scratch\nCOPY --parents d/f.txt /x/\n", "x/d/f.txt"),
    "exclude": ("FROM scratch\nCOPY --exclude=*.md d /x/\n", "x/f.txt"),
    "unpack": ("FROM scratch\nADD --unpack=false t.tar /x/\n", "x/t.tar"),
    "security": (f"FROM {grammar.BASE}\nRUN --security=sandbox echo > /made\n", "made"),
    "link": ("FROM scratch\nCOPY dlink/f.txt /d/\nCOPY a.txt /y/\nCOPY --link a.txt /y\n", "y"),
}


class Builder:
    """A command that builds, and how its images are read."""

    def __init__(self, command, timeout):
        self.command, self.timeout = command, timeout

    def document(self, *arguments):
        """The JSON that a call prints, even one that fails."""
        done = subprocess.run([*self.command, *map(str, arguments)], stdin=subprocess.DEVNULL, timeout=self.timeout,
                              capture_output=True, text=True, check=False)
        if done.returncode < 0 or done.returncode > 128 or "panicked at" in done.stderr:
            raise ValueError(f"crash: {done.stderr[-300:]}")
        return json.JSONDecoder().raw_decode(done.stdout)[0] if done.stdout.startswith("{") else None

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
        verdict, text = self.call(*output, "-f", folder / "Dockerfile", *case.options(folder), folder / "context")
        if verdict != "accepted":
            return verdict, text, None
        if self.registry:
            return verdict, text, image.from_registry(self.registry, "differential", tag, self.blobs)
        return verdict, text, image.from_archive(archive)

    def said(self, call, case, folder):
        return self.document(f"--call={call},format=json", "-f", folder / "Dockerfile", *case.options(folder), folder / "context")


class Ours(Builder):
    def build(self, case, folder):
        output = folder / "ours.tar"
        verdict, text = self.call("build", "-o", f"type=oci,dest={output}", "-f", folder / "Dockerfile", *case.options(folder), folder / "context")
        return verdict, text, image.from_archive(output) if verdict == "accepted" else None

    def said(self, call, case, folder):
        return self.document("build", f"--call={call},format=json", "-f", folder / "Dockerfile", *case.options(folder), folder / "context")


@dataclasses.dataclass
class Outcome:
    """What came of one case."""
    verdict: str
    found: list = dataclasses.field(default_factory=list)
    reason: str | None = None
    rules: collections.Counter = dataclasses.field(default_factory=collections.Counter)


class Comparison:
    """Both builders, and where they work."""

    def __init__(self, peer, ours, scratch, calls):
        self.peer, self.ours, self.scratch, self.calls = peer, ours, scratch, calls

    def run(self, case):
        """Compares; a difference that a known cause explains is a reason. What cannot be read is a difference."""
        try:
            outcome, verdicts, text = self.compare(case)
            reasons = self.explain(case, verdicts, text, outcome.found) if outcome.found else None
            return Outcome(outcome.verdict, [], reasons) if reasons else outcome
        except (OSError, ValueError, KeyError, tarfile.TarError) as error:
            return Outcome("unreadable", [f"unreadable: {type(error).__name__}: {error}"])

    def explain(self, case, verdicts, text, found, depth=2):
        """The known causes without which both builders agree, or none; adds what they differ in then to what is found."""
        for reason, without in known.variants(case, verdicts, text):
            again, verdicts, text = self.compare(without)
            if not again.found and verdicts == ("accepted", "accepted"):
                return reason
            # a second cause may have stood behind the first
            other = self.explain(without, verdicts, text, again.found, depth - 1) if depth > 1 else None
            if other:
                return f"{reason}; {other}"
            found += [f"without «{reason}»: {line}" for line in again.found]
        return None

    def compare(self, case):
        with tempfile.TemporaryDirectory(dir=self.scratch, ignore_cleanup_errors=True) as folder:
            folder = pathlib.Path(folder)
            case.write(folder)
            theirs, their_text, their_image = self.peer.build(case, folder)
            verdict, text, our_image = self.ours.build(case, folder)
            outcome = Outcome(theirs)
            if verdict != theirs:
                why = last_lines(text if verdict != "accepted" else their_text)
                outcome.found = [f"verdict: {verdict}, the peer {theirs}  | {line}" for line in why or ["no output"]]
            elif our_image:
                outcome.found += image.differences(image.config(their_image[0]), image.config(our_image[0]), "config: ")
                outcome.found += image.differences(image.tree(their_image[1]), image.tree(our_image[1]), "tree: ")
            for call in self.calls if verdict == theirs else ():
                self.compare_call(call, case, folder, outcome)
            return outcome, (verdict, theirs), their_text

    def compare_call(self, call, case, folder, outcome):
        wanted, got = (builder.said(call, case, folder) for builder in (self.peer, self.ours))
        if wanted is None or "buildError" in wanted:
            return
        if got is None or "buildError" in got:
            outcome.found.append(f"{call}: refused, the peer accepted")
            return
        outcome.found += calls.differences(call, wanted, got)
        if call == "check":
            outcome.rules += calls.rules(wanted)


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
    p.add_argument("--call", default="", help="compare what --call says too: " + ",".join(calls.CALLS))
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
        comparison = Comparison(peer, ours, scratch, [call for call in calls.CALLS if call in given.call.split(",")])
        with concurrent.futures.ThreadPoolExecutor(given.jobs) as pool:
            outcomes = list(shown(zip(cases, pool.map(comparison.run, cases)), given))
    differing = summary(outcomes)
    sys.exit(1 if differing else 0)


def shown(results, given):
    """Prints the cases that differ while results come."""
    for case, outcome in results:
        if outcome.found:
            report(case, outcome.found, given.lines)
            if given.keep:
                shutil.rmtree(given.keep / case.seed, ignore_errors=True)
                (given.keep / case.seed).mkdir(parents=True)
                case.write(given.keep / case.seed)
        yield outcome


def summary(outcomes):
    """Prints counts; the number of cases that differ."""
    for reason, count in collections.Counter(outcome.reason for outcome in outcomes if outcome.reason).items():
        print(f"known: {count} cases: {reason}")
    rules = sum((outcome.rules for outcome in outcomes), collections.Counter())
    if rules:
        print("lint findings of the peer:", ", ".join(f"{rule} {count}" for rule, count in sorted(rules.items())))
    verdicts = collections.Counter(outcome.verdict for outcome in outcomes)
    differing = sum(bool(outcome.found) for outcome in outcomes)
    counts = ", ".join(f"{count} {verdict} by the peer" for verdict, count in sorted(verdicts.items()))
    print(f"{len(outcomes)} cases ({counts}): {differing} differ")
    return differing


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
