"""Built images as comparable values: the config, and the tree that the layers give when laid over each other."""
import ast
import collections
import gzip
import hashlib
import io
import json
import posixpath
import re
import tarfile
import urllib.request

NOT_COMPARED = {"config": ("created", "rootfs"), "history": ("created", "comment")}
BUILDER_MARKS = (" # buildkit", " # rbuild")
MANIFESTS = ", ".join((
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
))


def from_archive(path):
    """Config and uncompressed layers of the image in an OCI archive."""
    with tarfile.open(path, "r:") as tar:
        files = {posixpath.normpath(m.name): tar.extractfile(m).read() for m in tar if m.isfile()}

    def blob(descriptor):
        return files["blobs/" + descriptor["digest"].replace(":", "/")]

    manifest = json.loads(blob(json.loads(files["index.json"])["manifests"][0]))
    return parts(manifest, blob)


def from_registry(registry, repository, tag, cache):
    """The same of an image in a registry that needs no login; cache keeps blobs by digest."""
    def get(path):
        request = urllib.request.Request(f"http://{registry}/v2/{repository}/{path}", headers={"Accept": MANIFESTS})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return answer.read()

    def blob(descriptor):
        digest = descriptor["digest"]
        if digest not in cache:
            cache[digest] = get(f"blobs/{digest}")
        return cache[digest]

    return parts(json.loads(get(f"manifests/{tag}")), blob)


def parts(manifest, blob):
    layers = (blob(layer) for layer in manifest.get("layers") or [])
    return json.loads(blob(manifest["config"])), [
        # Not gzip.decompress: it copies what is left for each member, and a layer may have hundreds.
        gzip.GzipFile(fileobj=io.BytesIO(layer)).read() if layer[:2] == b"\x1f\x8b" else layer for layer in layers
    ]


OLD_HEALTHCHECK = re.compile(
    r"^HEALTHCHECK &\{\[(?P<test>(?:\"(?:[^\"\\]|\\.)*\" ?)*)\] " + " ".join(r'"([0-9a-zµ.]+)"' for _ in range(4)) + r" '(?P<retries>(?:[^'\\]|\\.)+)'\}$"
)


def healthcheck(created_by):
    """HEALTHCHECK's history as frontend 1.26 writes it, from the form of older ones: `&{["CMD" "x"] "5s" … '\\x03'}`."""
    found = OLD_HEALTHCHECK.match(created_by)
    if not found:
        return created_by
    words = [ast.literal_eval(word) for word in re.findall(r'"(?:[^"\\]|\\.)*"', found["test"])]
    times = dict(zip(("Interval", "Timeout", "StartPeriod", "StartInterval"), found.groups()[1:5]))
    fields = [f"Test:[{' '.join(words)}]", *(f"{key}:{value}" for key, value in times.items())]
    retries = ord(ast.literal_eval(f"'{found['retries']}'"))
    return "HEALTHCHECK {" + " ".join([*fields, f"Retries:{retries}"]) + "}"


def config(raw):
    """A config without what two builds never share; null and false count as absent."""
    def trim(value):
        if isinstance(value, dict):
            return {k: trim(v) for k, v in value.items() if v is not None and v is not False}
        return [trim(v) for v in value] if isinstance(value, list) else value

    kept = trim({k: v for k, v in raw.items() if k not in NOT_COMPARED["config"]})
    for step in kept.get("history", []):
        for key in NOT_COMPARED["history"]:
            step.pop(key, None)
        for mark in BUILDER_MARKS:
            step["created_by"] = healthcheck(step.get("created_by", "").removesuffix(mark))
    return kept


def entries(layer):
    """What a layer holds, as (path, node) pairs."""
    with tarfile.open(fileobj=io.BytesIO(layer), mode="r:") as tar:
        for member in tar:
            path = posixpath.normpath("/" + member.name).lstrip("/")
            node = {"mode": f"{member.mode & 0o7777:04o}", "uid": member.uid, "gid": member.gid}
            if member.isdir():
                node["type"] = "dir"
            elif member.issym():
                node.update(type="symlink", link=member.linkname)
            elif member.islnk():
                node = {"type": "hardlink", "link": posixpath.normpath("/" + member.linkname).lstrip("/")}
            elif member.isreg():
                content = tar.extractfile(member).read()
                node.update(type="file", size=member.size, sha256=hashlib.sha256(content).hexdigest())
            else:
                node.update(type=f"device {member.type}", device=[member.devmajor, member.devminor])
            prefix = "SCHILY.xattr."
            xattrs = {k[len(prefix):]: v for k, v in member.pax_headers.items() if k.startswith(prefix)}
            if xattrs:
                node["xattrs"] = xattrs
            if path:
                yield path, node


def tree(layers):
    """Path to node of all layers laid over each other; hard links list their other names."""
    laid = {}

    def remove(path, itself):
        for p in [p for p in laid if p.startswith(path + "/") or (itself and p == path)]:
            del laid[p]

    for layer in map(list, map(entries, layers)):
        for path, _ in layer:
            folder, name = posixpath.split(path)
            if name == ".wh..wh..opq":
                remove(folder, itself=False)
            elif name.startswith(".wh."):
                remove(posixpath.join(folder, name[4:]), itself=True)
        for path, node in layer:
            if posixpath.basename(path).startswith(".wh."):
                continue
            if node["type"] == "hardlink":
                node = laid[node["link"]]
            if node["type"] != "dir" and laid.get(path, node)["type"] == "dir":
                remove(path, itself=False)
            laid[path] = node
    names = collections.defaultdict(list)
    for path, node in laid.items():
        names[id(node)].append(path)
    return {
        path: {**node, "same_file_as": sorted(names[id(node)])} if len(names[id(node)]) > 1 else node
        for path, node in laid.items()
    }


def differences(peer, ours, where=""):
    """Every place where two JSON values differ, as lines."""
    if isinstance(peer, dict) and isinstance(ours, dict):
        for key in sorted(peer.keys() | ours.keys()):
            at = f"{where}/{key}"
            if key not in ours:
                yield f"{at}: missing, the peer has {short(peer[key])}"
            elif key not in peer:
                yield f"{at}: {short(ours[key])}, the peer has none"
            else:
                yield from differences(peer[key], ours[key], at)
    elif isinstance(peer, list) and isinstance(ours, list) and len(peer) == len(ours):
        for index, pair in enumerate(zip(peer, ours)):
            yield from differences(*pair, f"{where}[{index}]")
    elif peer != ours:
        yield f"{where}: {short(ours)}, the peer has {short(peer)}"


def short(value):
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 200 else text[:197] + "..."
