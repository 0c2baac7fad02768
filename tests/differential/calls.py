"""The documents of --call: what two builders say of a Dockerfile without building it, as comparable values."""
import collections

CALLS = ("check", "outline", "targets")
# Of older frontends it is experimental, and does not clean `./a` (README.md).
NOT_COMPARED = ("CopyIgnoredFile",)


def differences(call, peer, ours):
    """Lines; none for what either refuses. counts takes the peer's findings."""
    if call == "check":
        peer, ours = findings(peer), findings(ours)
    elif call == "outline":
        peer, ours = (without_order(document) for document in (peer, ours))
    if peer != ours:
        lacks, adds = parts(peer, ours), parts(ours, peer)
        yield f"{call}: missing {lacks}, unexpected {adds}"


def findings(document):
    """Each finding once, with all that is said of it, and the Dockerfile."""
    found = {"sources": [(one["filename"], one["data"], one["language"]) for one in document["sources"]]}
    for one in document["warnings"] or []:
        if one["ruleName"] not in NOT_COMPARED:
            key = (one["ruleName"], one["detail"], one["description"], one.get("url"), lines(one))
            found[str(key)] = True
    return found


def rules(document):
    return collections.Counter(one["ruleName"] for one in document["warnings"] or [])


def without_order(document):
    """Arguments of one line come in any order from BuildKit."""
    key = {name: sorted(document.get(name, []), key=lambda one: (lines(one), one["name"])) for name in ("args", "secrets", "ssh")}
    return {**document, **key}


def lines(one):
    return tuple((place["start"]["line"], place["end"]["line"]) for place in one["location"].get("ranges", []))


def parts(one, other):
    return [f"{key}={value!r}" for key, value in one.items() if other.get(key) != value]
