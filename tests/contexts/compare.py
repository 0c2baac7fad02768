#!/usr/bin/env python3
"""Builds every form of context with rbuild and with docker buildx and compares the flattened trees (README.md)."""
import argparse
import bz2
import contextlib
import gzip
import hashlib
import http.server
import io
import lzma
import os
import pathlib
import re
import shlex
import socket
import subprocess
import tarfile
import tempfile
import threading
import time

SOME_TIME = 784_111_777
DOCKERFILE = "FROM scratch\nCOPY . /x/\n"

# Differences that were looked into and stay (README.md): how their line ends, or begins.
KNOWN = re.compile(r"module/\.git: missing here|\.sample: missing here"
                   r"|/\.git/(description|hooks|info|info/exclude|logs(/.*)?): missing here|/\.git/index content: ")

# Later times are those of a build or a checkout: all others are fixed below.
A_BUILD = 1_000_000_000


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def archive(dockerfile=DOCKERFILE, below_link=False):
    """A tar with owners, modes, times, links, an extended attribute, and, if asked for, an entry below a link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        def add(name, content=b"", kind=tarfile.REGTYPE, mode=0o644, owner=0, link="", pax=None):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid, info.mtime, info.linkname = kind, mode, owner, owner, SOME_TIME, link
            info.pax_headers = pax or {}
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        add("Dockerfile", dockerfile.encode())
        add("d", kind=tarfile.DIRTYPE, mode=0o750, owner=7)
        add("d/f", b"file\n", mode=0o640, owner=7)
        add("d/run", b"#!/bin/sh\n", mode=0o4755)
        add("l", kind=tarfile.SYMTYPE, link="d/f", mode=0o777)
        add("dangling", kind=tarfile.SYMTYPE, link="/no/such", mode=0o777)
        add("h", kind=tarfile.LNKTYPE, link="d/f")
        add("x", b"x", pax={"SCHILY.xattr.user.a": "1"})
        add(".dockerignore", b"x\n")
        if below_link:
            add("ld", kind=tarfile.SYMTYPE, link="d", mode=0o777)
            add("ld/inside", b"inside\n")
    return out.getvalue()


def zst(data):
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


class Served(http.server.BaseHTTPRequestHandler):
    files = {}

    def do_GET(self):
        content = self.files.get(self.path)
        self.send_response(200 if content is not None else 404)
        self.send_header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def git(folder, *args):
    fixed = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_DATE": f"{SOME_TIME} +0000", "GIT_COMMITTER_DATE": f"{SOME_TIME} +0000"}
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-c", "protocol.file.allow=always", "-C", str(folder), *args]
    return subprocess.run(command, env={**os.environ, **fixed}, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def repositories(root, port):
    """`work` with a branch, a tag, a pull request and the submodule `inner`, served by git daemon."""
    for name in ("inner", "work"):
        folder = root / name
        (folder / "sub/deep").mkdir(parents=True)
        git(folder, "init", "-q", "-b", "main", ".")
        (folder / "Dockerfile").write_text(DOCKERFILE)
        (folder / "sub/Dockerfile").write_text(DOCKERFILE)
        (folder / "sub/deep/g").write_text(name)
        (folder / "run.sh").write_text("#!/bin/sh\n")
        (folder / "run.sh").chmod(0o775)
        os.symlink("run.sh", folder / "link")
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", "one")
        git(folder, "tag", "-a", "-m", "first", "v1")
        if name == "work":
            git(folder, "checkout", "-q", "-b", "modules")
            subprocess.run(["git", "-C", folder, "submodule", "--quiet", "add", f"git://127.0.0.1:{port}/inner", "module"], check=True)
            git(folder, "commit", "-q", "-m", "module")
            git(folder, "checkout", "-q", "-f", "main")
            subprocess.run(["rm", "-rf", folder / "module"], check=True)
        (folder / "second").write_text("2\n")
        git(folder, "add", ".")
        git(folder, "commit", "-q", "-m", "two")
        git(folder, "update-ref", "refs/pull/1/head", "HEAD")
    return git(root / "work", "rev-parse", "HEAD")


@contextlib.contextmanager
def daemons(root):
    """Web server, git daemon and sshd; the addresses, and the environment with an agent that holds the key."""
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Served)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    ports, running = {"web": web.server_port, "git": free_port(), "ssh": free_port()}, []
    everywhere = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    exec_path = subprocess.run(["git", "--exec-path"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    running.append(subprocess.Popen([f"{exec_path}/git-daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1", f"--base-path={root}",
                                     f"--port={ports['git']}"], env={**os.environ, **everywhere}, stderr=subprocess.DEVNULL))
    wait_for(ports["git"])
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True)
    pathlib.Path("/run/sshd").mkdir(exist_ok=True)
    settings = {"Port": ports["ssh"], "ListenAddress": "127.0.0.1", "HostKey": root / "host", "AuthorizedKeysFile": root / "user.pub",
                "PidFile": "none", "StrictModes": "no", "UsePAM": "no", "PermitRootLogin": "prohibit-password",
                "SetEnv": "GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*"}
    (root / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    running.append(subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", root / "sshd_config"], stderr=subprocess.DEVNULL))
    wait_for(ports["ssh"])
    socket_path = root / "agent"
    running.append(subprocess.Popen(["ssh-agent", "-D", "-a", socket_path], stdout=subprocess.DEVNULL))
    while not socket_path.exists():
        time.sleep(0.05)
    agent = {"SSH_AUTH_SOCK": str(socket_path)}
    subprocess.run(["ssh-add", "-q", root / "user"], env={**os.environ, **agent}, check=True)
    try:
        yield ports, agent
    finally:
        for process in running:
            process.terminate()
            process.wait()
        web.shutdown()


def flattened(path):
    """Path to type, mode, owner, link, content and extended attributes, and its time."""
    tree = {}
    with tarfile.open(path) as tar:
        for member in tar:
            content = hashlib.sha256(tar.extractfile(member).read()).hexdigest()[:12] if member.isfile() else ""
            xattrs = {key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr.")}
            same = {"type": member.type, "mode": oct(member.mode & 0o7777), "owner": (member.uid, member.gid),
                    "link": member.linkname, "content": content, "xattrs": xattrs, "mtime": min(int(member.mtime), A_BUILD)}
            tree[member.name.rstrip("/")] = same
    return tree


def cases(ports, root, commit):
    """Name, arguments, standard input."""
    web, repo = f"http://127.0.0.1:{ports['web']}", f"git://127.0.0.1:{ports['git']}/work"
    plain = archive()
    forms = {"tar": plain, "tar.gz": gzip.compress(plain), "tar.bz2": bz2.compress(plain), "tar.xz": lzma.compress(plain), "tar.zst": zst(plain)}
    yield "stdin Dockerfile", ["-"], b"FROM scratch\nCOPY <<a /a\nhello\na\n"
    for name, data in forms.items():
        yield f"stdin {name}", ["-"], data
        Served.files[f"/c.{name}"] = data
        yield f"http {name}", [f"{web}/c.{name}"], b""
    yield "stdin tar, entry below a link", ["-"], archive(below_link=True)
    Served.files["/Dockerfile"] = b"FROM scratch\nCOPY <<a /a\nhello\na\nCOPY . /x/\n"
    yield "http Dockerfile", [f"{web}/Dockerfile"], b""
    yield "git", [repo], b""
    for fragment in ("#v1", "#main:sub", "#refs/pull/1/head", f"#{commit}", "#modules", "#:sub/deep/..", "?tag=v1", "?branch=main&subdir=sub"):
        yield f"git {fragment}", [repo + fragment], b""
    yield "git, .git kept", ["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", repo], b""
    yield "git, wrong ref", [f"{repo}#none"], b""
    yield "git, wrong subdir", [f"{repo}#main:none"], b""
    ssh = f"ssh://root@127.0.0.1:{ports['ssh']}{root}/work"
    yield "ssh", [ssh], b""
    yield "ssh #v1:sub", [f"{ssh}#v1:sub"], b""
    Served.files["/f"] = b"hello\n"
    digest = "sha256:" + hashlib.sha256(b"hello\n").hexdigest()
    adds = {
        "url": f"ADD {web}/f /f", "url into": f"ADD {web}/f /d/", "url root": f"ADD {web}/c.tar /d/",
        "url unpacked": f"ADD --unpack=true {web}/c.tar.gz /d/", "url checksum": f"ADD --checksum={digest} {web}/f /f",
        "url wrong checksum": f"ADD --checksum={digest[:-4]}0000 {web}/f /f", "url missing": f"ADD {web}/none /f",
        "git": f"ADD {repo} /g", "git kept": f"ADD --keep-git-dir=true {repo} /g", "git sub": f"ADD {repo}#main:sub /g/",
        "git checksum": f"ADD --checksum={commit} {repo} /g", "git wrong checksum": f"ADD --checksum={'0' * 40} {repo} /g",
        "git modules": f"ADD {repo}#modules /g", "tar below link": "ADD t.tar /d/",
    }
    for name, line in adds.items():
        folder = root / "context"
        folder.mkdir(exist_ok=True)
        (folder / "t.tar").write_bytes(archive(below_link=True))
        (folder / name.replace(" ", "-")).write_text(f"FROM scratch\n{line}\n")
        yield f"ADD {name}", ["-f", str(folder / name.replace(" ", "-")), str(folder)], b""


def build(command, arguments, stdin, output, environment):
    done = subprocess.run([*command, "--no-cache", "-o", f"type=tar,dest={output}", *arguments], input=stdin, timeout=120, check=False,
                          env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return (flattened(output) if done.returncode == 0 else None), done.stdout.decode(errors="replace")


def differences(ours, theirs):
    if ours is None or theirs is None:
        return {} if ours is theirs else {"accepted": (ours is not None, theirs is not None)}
    found = {}
    for path in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(path), theirs.get(path)
        if one is None or other is None:
            found[path] = ("missing here" if one is None else "missing there",)
        else:
            found.update({f"{path} {key}": (one[key], other[key]) for key in one if one[key] != other[key]})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rbuild", default="rbuild", type=shlex.split)
    parser.add_argument("--peer", default="docker buildx build --network host --provenance=false", type=shlex.split)
    parser.add_argument("--only", default="", help="a part of the names of the cases wanted")
    options = parser.parse_args()
    counts = {"equal": 0, "known": 0, "different": 0}
    with tempfile.TemporaryDirectory(prefix="contexts-") as scratch:
        root = pathlib.Path(scratch)
        root.chmod(0o755)
        with daemons(root) as (ports, agent):
            commit = repositories(root, ports["git"])
            environment = {"RBUILD_ROOT": f"{root}/store", **agent}
            for name, arguments, stdin in cases(ports, root, commit):
                if options.only not in name:
                    continue
                ours, said = build(options.rbuild, arguments, stdin, root / "ours.tar", environment)
                # The peer's daemon often has no ssh: it reads the same repository from git daemon.
                ssh, git_daemon = f"ssh://root@127.0.0.1:{ports['ssh']}{root}/", f"git://127.0.0.1:{ports['git']}/"
                arguments = [argument.replace(ssh, git_daemon) for argument in arguments]
                theirs, they_said = build(options.peer, arguments, stdin, root / "theirs.tar", {})
                found = differences(ours, theirs)
                known = [path for path, what in found.items() if KNOWN.search(f"{path}: {what[0]}")]
                found = {path: what for path, what in found.items() if path not in known}
                verdict = "different" if found else "known" if known else "equal"
                counts[verdict] += 1
                print(f"{verdict:10} {name}" + ("" if ours is not None else " (refused)"), flush=True)
                for path, what in list(found.items())[:8]:
                    print(f"    {path}: {' | '.join(map(str, what))}")
                if "accepted" in found:
                    print("    " + "\n    ".join((said if ours is None else they_said).strip().splitlines()[-12:]))
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["different"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
