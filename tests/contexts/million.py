#!/usr/bin/env python3
"""Builds from a context of a million files with 200 ignore patterns and prints what that takes (README.md)."""
import argparse
import os
import pathlib
import subprocess
import tempfile
import time

ENDINGS = ("js", "txt", "o", "md")
FOLDERS_OF_FILES = 100

# 200 patterns of the kinds that ignore files have. None of them excludes a folder that holds files, so that each file
# is compared with each pattern; those of FOLDERS do.
FILES = [pattern for at in range(40) for pattern in
         (f"**/*.tmp{at}", f"**/cache{at}-*", f"logs/{at}/**", f"**/gen?{at}/*.pb.[ch]", f"old-{at}.bak")]
MOST = [*FILES[:-5], "**/*.js", "**/f*.o", "**/f?[0-9].txt", "**/f[1-9]?.md", "**/f0[0-5].m?"]
FOLDERS = [*FILES[:-3], "**/vendor", "p[1-9]*", "p0[1-9]"]
FEW = "FROM scratch\nCOPY README p00/m00/f07.md /x/\n"
ALL = "FROM scratch\nCOPY . /x/\n"

# Name, Dockerfile, ignore patterns.
CASES = {
    "few": (FEW, MOST),
    "folders": (ALL, FOLDERS),
    "files": (ALL, MOST),
    "exceptions-near": (ALL, ["*", *FILES[:-3], "!README", "!p00/m0?/*.md"]),
    "exceptions-anywhere": (ALL, [*MOST[:-1], "p[1-9]*", "p0[1-9]", "!**/keep"][-200:]),
    "whole": (ALL, []),
}


def make(root, count):
    """A tree of `count` files of a few bytes, 100 to a folder."""
    (root / "p00/m00/vendor").mkdir(parents=True)
    (root / "README").write_text("read me\n")
    (root / "p99/m99").mkdir(parents=True)
    (root / "p99/m99/keep").write_text("kept\n")
    for at in range(0, count, FOLDERS_OF_FILES):
        folder = at // FOLDERS_OF_FILES
        path = root / f"p{folder // 100:02}/m{folder % 100:02}"
        path.mkdir(parents=True, exist_ok=True)
        for file in range(min(FOLDERS_OF_FILES, count - at)):
            descriptor = os.open(f"{path}/f{file:02}.{ENDINGS[file % 4]}", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(descriptor, b"%d\n" % (at + file))
            os.close(descriptor)


def fingerprint(root):
    """What would show that something was written: the names, modes and times of the first folders."""
    folders = [root, *sorted(root.iterdir())]
    return [(str(p), (s := p.lstat()).st_mode, s.st_mtime_ns, s.st_ctime_ns, s.st_nlink) for p in folders]


def measure(command):
    """Wall and processor seconds, and the peak of resident memory in MiB."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{error[-2000:]}")
    return time.monotonic() - start, usage.ru_utime, usage.ru_stime, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rbuild", default="rbuild")
    parser.add_argument("--tree", type=pathlib.Path, required=True, help="where the files are, or are made")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="the first reads the disk, the best of the others counts")
    parser.add_argument("--only", default=",".join(CASES))
    options = parser.parse_args()
    if not options.tree.exists():
        make(options.tree, options.files)
    before = fingerprint(options.tree)
    print("| case | patterns | wall | user | system | memory |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="million-") as scratch:
        os.environ["RBUILD_ROOT"] = f"{scratch}/store"
        for name in options.only.split(","):
            text, patterns = CASES[name]
            dockerfile = pathlib.Path(scratch, name)
            dockerfile.write_text(text)
            pathlib.Path(scratch, f"{name}.dockerignore").write_text("\n".join(patterns))
            command = [options.rbuild, "-f", str(dockerfile), "-o", "type=cacheonly", "--no-cache", str(options.tree)]
            rounds = [measure(command) for _ in range(options.rounds)]
            wall, user, system, memory = min(rounds[1:] or rounds)
            print(f"| {name} | {len(patterns)} | {wall:.2f} s | {user:.2f} s | {system:.2f} s | {memory:.0f} MiB |", flush=True)
    if fingerprint(options.tree) != before:
        raise SystemExit("the context was changed")


if __name__ == "__main__":
    main()
