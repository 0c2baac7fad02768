"""Differences that were looked into and stay (README.md).

None is known by its text alone: each changes the case so that the cause it stands for is gone, and is only believed when
both builders then agree.
"""
import dataclasses
import pathlib
import re

import grammar

LINKS = tuple(name for name, _ in grammar.LINKS if name.startswith("links/l/"))


def variants(case, verdicts, text):
    """Reasons that may be behind a difference, each with the case without it."""
    if verdicts != ("accepted", "refused"):
        return
    at = [int(number) for number in re.findall(r"^Dockerfile:(\d+)$", text, re.MULTILINE)]
    lines = case.dockerfile.split("\n")
    if "invalid user index: -1" in text and at:
        renamed = [with_number(line) if number + 1 in at else line for number, line in enumerate(lines)]
        if renamed != lines:
            yield "the peer cannot look up names on scratch or with --link; frontend 1.26 gives 0:0", changed(case, renamed)
    folder = re.search(r"lstat /([\w./]+): no such file or directory", text)
    if folder and at:
        top = folder[1].split("/")[0]
        sent = [f"COPY {top} /sent/\n{line}" if number + 1 == at[-1] else line for number, line in enumerate(lines)]
        without = [line for number, line in enumerate(lines) if number + 1 != at[-1]]
        for other in (sent, without):
            # .dockerignore may keep the folder from being sent whatever asks for it
            yield "the peer's client does not send the folder that a wildcard without matches lies in", changed(case, other)
    missing = re.search(r"\"/([^\"]+)\": not found", text)
    if missing:
        # a link to what .dockerignore leaves out leads nowhere too
        names = [name for name, _ in grammar.LINKS if pathlib.PurePath(name).name == pathlib.PurePath(missing[1]).name]
        if names:
            yield "the peer's cache key follows links that lead nowhere", dataclasses.replace(case, absent=(*LINKS, *names))


def changed(case, lines):
    return dataclasses.replace(case, dockerfile="\n".join(lines))


def with_number(line):
    """The owner that a line gives by name, as the number that is taken for an unknown name."""
    names = "|".join(sorted({*grammar.NAMES, "nosuch", "1:nosuch", "nobody"}, key=len, reverse=True))
    return re.sub(rf"(--chown=|^USER )(?:{names})(?=\s|$)", r"\g<1>0:0", line)
