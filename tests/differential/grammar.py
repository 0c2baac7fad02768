"""Small Dockerfiles and their contexts, made from a seed. The same seed gives the same case in every run."""
import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
from dataclasses import dataclass, field

BASE = "127.0.0.1:5000/library/busybox:latest"


@dataclass
class Case:
    """What is built."""
    seed: str
    dockerfile: str
    ignore: str | None = None
    target: str | None = None
    build_args: dict = field(default_factory=dict)

    def write(self, folder):
        """Puts the context into folder and the Dockerfile beside it."""
        context = folder / "context"
        write_context(context)
        if self.ignore is not None:
            (context / ".dockerignore").write_text(self.ignore)
        (folder / "Dockerfile").write_text(self.dockerfile)

    def options(self):
        args = [f"--build-arg={key}={value}" for key, value in self.build_args.items()]
        return args + ([f"--target={self.target}"] if self.target else [])


# --- the context: always the same files, so that the grammar knows what is there ---

FILES = [
    ("a.txt", 0o644, "a\n"), ("b.txt", 0o600, "bb\n"), ("run.sh", 0o755, "#!/bin/sh\necho ran\n"), ("empty", 0o644, ""),
    ("set", 0o4755, "set\n"), ("sp ace", 0o644, "space\n"), ("[x]", 0o644, "bracket\n"), ("$v", 0o644, "dollar\n"),
    ("ü.txt", 0o644, "umlaut\n"), ("q'q", 0o644, "quote\n"), ("d/f.txt", 0o640, "f\n"), ("d/g.md", 0o644, "g\n"),
    ("d/.hidden", 0o644, "h\n"), ("d/e/h.txt", 0o755, "eh\n"), ("d/e/i.md", 0o644, "ei\n"), ("s/d/e/j.txt", 0o644, "j\n"),
    ("s/a.txt", 0o644, "other a\n"), ("x/d", 0o644, "a file named d\n"),
]
LINKS = [
    ("link", "a.txt"), ("dlink", "d"), ("dangling", "nowhere"), ("absolute", "/a.txt"), ("outside", "../../b.txt"),
    ("loop", "loop"), ("d/up", "../b.txt"), ("d/in", "e"), ("s/far", "../d/e"),
]
FOLDERS = [("d", 0o750), ("d/e", 0o755), ("d/none", 0o700), ("s", 0o755), ("sticky", 0o1777)]


def write_context(root):
    root.mkdir()
    for name, mode, text in FILES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    for name, target in LINKS:
        os.symlink(target, root / name)
    for name, mode in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    os.link(root / "a.txt", root / "hard")
    os.link(root / "d/f.txt", root / "d/hard")
    plain = archive()
    (root / "t.tar").write_bytes(plain)
    (root / "t.gz").write_bytes(gzip.compress(plain, mtime=0))
    (root / "t.bz2").write_bytes(bz2.compress(plain))
    (root / "t.xz").write_bytes(lzma.compress(plain))
    (root / "not-tar.tar").write_text("not a tar\n")
    (root / "text.gz").write_bytes(gzip.compress(b"text\n", mtime=0))


def archive():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        def add(name, kind, **fields):
            member, data = tarfile.TarInfo(name), fields.pop("data", b"")
            member.type, member.size, member.mtime = kind, len(data), 1000000000
            for key, value in fields.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(data))

        add("td", tarfile.DIRTYPE, mode=0o711, uid=7, gid=8)
        add("td/file", tarfile.REGTYPE, mode=0o4750, uid=5, gid=6, data=b"in tar\n")
        add("td/link", tarfile.SYMTYPE, mode=0o777, linkname="file")
        add("td/hard", tarfile.LNKTYPE, mode=0o2644, uid=15, gid=16, linkname="td/file")
        add("implied/parent/x", tarfile.REGTYPE, mode=0o600, uid=9, gid=9, data=b"x\n")
        add("./dot/../y", tarfile.REGTYPE, mode=0o644, data=b"y\n")
    return out.getvalue()


# --- the grammar ---

SOURCES = [
    "a.txt", "b.txt", "run.sh", "empty", "set", "./a.txt", "/a.txt", "../a.txt", "d/../a.txt", "d", "d/", "d/.",
    "./d/", "d/e", ".", "./", "/", "*", "*.txt", "?.txt", "[ab].txt", "[!a].txt", "[^a].txt", "d/*", "d/*.md", "*/e",
    "*/*", "d/e/*.txt", "nomatch*", "d/nomatch?", "link", "dlink", "dlink/", "dlink/*", "dlink/e", "absolute", "d/up",
    "d/in", "d/in/*", "s", "s/far", "s/far/", "s/*", "hard", "x", "x/d", "sticky", "d/none", "ü.txt", "\\[x\\]",
    "[[]x]", "$F", "${F}", "${F:-b.txt}", "$D/f.txt", "\\$v", "d/e/../f.txt", "//a.txt", "s/./d", "**",
    "**/*.txt", "d/**", "d//f.txt", "set*", "t.tar",
]
ODD_SOURCES = [
    "dangling", "outside", "loop", "missing", "missing/", "d/missing", "a.txt/", "a.txt/b", "\"a.txt\"", "'a.txt'",
    "[a.txt", "q'q",
]
DESTINATIONS = [
    "/x", "/x/", "/x/y", "/x/y/", "x", "x/", ".", "./", "/", "/x/.", "/x/./", "../x", "/etc", "/etc/", "/etc/passwd",
    "/bin/x", "/lnk", "/lnk/", "/lnk/x", "/dang", "$P", "${P}/", "${P:-/q}/r", "\"/x\"", "/x//y",
    "/a/../x", "/tmp", "/root/.z/", "/new/deep/er/", "/f", "/g/", "/g/a.txt", "/g/d",
]
ODD_DESTINATIONS = [
    "..", "/etc/passwd/", "/flnk", "/dang/x", "\"\"", "/f/", "/f/x",
]
OWNERS = [
    "1:2", "1", "root", "daemon", "nobody:daemon", "daemon:5", "5:daemon", "nosuch", "1:nosuch", "$O", "1:", ":1",
    "www-data", "4294967294:1",
]
ODD_OWNERS = [
    "", "-1", "99999999999", "a:b:c",
]
MODES = [
    "644", "0755", "7755", "0", "u=rwX,go=rX", "+x", "g-w,o=", "a+rwxt", "u+s", "$M", "go-rwx", "755,u+x", "ug=r",
]
ODD_MODES = [
    "8", "99999", "", "rwx", "=", "-rw",
]
EXCLUDES = [
    "*.md", "e", "**/*.md", "d/e", "*", "!f.txt", ".hidden", "e/*", "/e", "a.txt", "$F", "e/", "**/h.txt", "d",
    "*.txt", "hard",
]
ODD_EXCLUDES = [
    "[",
]
WORDS = [
    "a", "a b", "\"a b\"", "'a b'", "a\\ b", "$A", "${A}", "'$A'", "\"$A\"", "\\$A", "${A:-x}", "${A-x}", "${A:+x}",
    "${A+x}", "${N:-x}", "${N-}", "${N:+x}", "${A#a}", "${A##*/}", "${A%.*}", "${A%%.*}", "${A/b/X}", "${A//b/X}",
    "\"${N:-a b}\"", "${N:-'q'}", "${N:-$A}", "${N:-${A:-z}}", "$$", "$", "a$", "\"\"", "''", "a'b'\"c\"", "\\\"",
    "\\\\", "a\\", "$A$A", "${A}x", "$Ax", "~", "a=b", "a#b", "#a", "*", "`a`", "$(a)", "ü", "\"a\\\"b\"",
    "\"a\\nb\"", "\"a'b\"", "a;b", "${E:-x}", "${E-x}", "${A/\\//_}", "${A//\\//_}", "${A#*/}", "${A%/*}",
    "${A/#a/X}", "\"$A\"'$A'$A", "{a,b}", "a\tb", "\"${A}\"x", "${A:-\"}\"}", "%d", "<x>", "&", "$1", "${1:-x}",
]
ODD_WORDS = [
    "'a\\'", "${A:?}", "${N:?gone}", "${A/}", "${}", "${A", "\"a", "'a", "${A:1:2}", "${A^^}", "$@x",
]
KEYS = [
    "A", "B", "N", "E", "P", "a.b", "a-b", "PATH", "HOME", "_x", "$A", "\"K\"", "K$A", "F", "D",
]
ODD_KEYS = [
    "1x", "ü", "'K K'",
]
LINES = [
    "echo hi > /o", "echo $A $B > /o", "mkdir -p /m/n && echo x > /m/n/f", "ln -s /d /lnk2; ln /bin/busybox /hb",
    "rm -rf /x /g", "rm /etc/passwd", "chmod 700 /etc && chown 5:6 /etc/group", "touch /tmp/t && rm /tmp/t", "true",
    "id > /o", "pwd > /o", "echo \"$HOME $PATH\" > /o", "env | sort | grep -v HOSTNAME > /o",
    "rm -rf /etc && mkdir /etc", "mv /bin /bin2; /bin2/busybox true", "mkfifo /p", "ls -la / | wc -l > /dev/null",
    "umask > /o", "rm -f /lib; ln -sfn /x /lnk", "echo 'a b'   \\\n  c > /o", "echo a \\\n# comment\n  b > /o",
    "echo a \\\n\n  b > /o", "chmod u+s /bin/busybox", "cp -a /etc /etc2", "mkdir /d1 && mv /d1 /d2",
    "ls /run /proc/self/exe > /o; true", "ulimit -n > /dev/null; cat /etc/resolv.conf > /dev/null",
    "touch /x; ln /x /y; rm /x", "echo -n > /etc/passwd", "hostname > /o", "[ -t 0 ] || echo no tty > /o",
    "cat < /dev/stdin > /o", "mknod /n c 1 3; true", "test -e /dev/fuse && echo f > /o; true",
    "cat /proc/self/status | grep -E 'Cap(Eff|Bnd)|NoNewPrivs' > /o", "chown 1:1 /bin/busybox; ls / > /o",
    "stat -c '%a %u' /tmp /dev/shm /proc > /o",
]
ODD_LINES = [
    "exit 3", "nosuchcommand", "echo x >> /etc/hosts",
]


class Grammar:
    """Draws one case."""

    def __init__(self, seed, lacks=()):
        self.seed, self.random, self.lacks = seed, random.Random(seed), lacks
        self.stages = []

    def one(self, *choices):
        return self.random.choice(choices)

    def chance(self, share):
        return self.random.random() < share

    def some(self, choices, least, most):
        return [self.random.choice(choices) for _ in range(self.random.randint(least, most))]

    def pick(self, name, least=1, most=1):
        """Some of a list, seldom one of its odd sister that is likely to be refused."""
        odd = [self.chance(0.02) for _ in range(self.random.randint(least, most))]
        return [self.random.choice(globals()["ODD_" * is_odd + name]) for is_odd in odd]

    def case(self):
        theme = self.random.choices(list(THEMES), [weight for weight, _ in THEMES.values()])[0]
        makers = THEMES[theme][1]
        lines = []
        if self.chance(0.1):
            lines.append(self.one("# escape=`", "# syntax=", "# check=skip=all", "# a comment", "#escape = \\", "# nothing=x\n# escape=`"))
            lines = [line for line in lines if not line.startswith("# syntax")]
        if self.chance(0.2):
            lines.append("ARG " + " ".join(f"{k}={v}" for k, v in zip(self.some("GAT", 1, 2), self.some(["", "", BASE, "'x y'", "$G"], 2, 2))))
        for index in range(self.random.choice([1, 1, 1, 2, 2, 3])):
            lines += self.stage(index, makers)
        named = [name for name in self.stages if name]
        target = self.random.choice(named) if named and self.chance(0.15) else "nosuch" if self.chance(0.005) else None
        args = {k: self.one("arg", "", "a b", "$A") for k in self.some("ABN", 0, 2)} if self.chance(0.3) else {}
        ignore = "\n".join(self.ignore_lines()) + "\n" if theme == "ignore" or self.chance(0.08) else None
        return Case(self.seed, "\n".join(lines) + "\n", ignore, target, args)

    def stage(self, index, makers):
        name = self.one(None, f"s{index}", f"S{index}", "same") if self.chance(0.7) else None
        base = self.one(BASE, BASE, BASE, BASE, BASE, "scratch", "${G:-" + BASE + "}")
        if self.stages and self.chance(0.45):
            base = self.random.choice([s for s in self.stages if s and s.upper() != name] or [BASE])
        line = self.one("FROM", "FROM", "FROM", "from", "FROM --platform=$TARGETPLATFORM", "FROM --platform=linux/amd64") + " " + base
        lines = [line + (f" {self.one('AS', 'as')} {name}" if name else "")]
        self.stages.append(name.lower() if name else None)
        if self.chance(0.5):
            lines.append("ENV A=a.b/c.b E= F=a.txt D=d P=/p O=3:4 M=0700")
        if "scratch" not in base and self.chance(0.25):
            lines.append("RUN mkdir -p /t /g/d /x && ln -s /t /lnk && ln -s /etc/passwd /flnk && ln -s /nowhere /dang && echo f > /f && echo old > /x/a.txt && chown 9:9 /g")
        for _ in range(self.random.randint(1, 4)):
            lines.append(getattr(self, self.random.choice(makers))())
        return lines

    # the instructions

    def word(self):
        return self.pick("WORDS")[0]

    def pairs(self):
        if self.chance(0.15):
            return self.pick("KEYS")[0] + " " + " ".join(self.pick("WORDS", 1, 2))
        return " ".join(f"{key}={self.word()}" for key in self.pick("KEYS", 1, 3))

    def env(self):
        return "ENV " + self.pairs()

    def label(self):
        return "LABEL " + self.pairs()

    def arg(self):
        return "ARG " + " ".join(self.one(key, f"{key}={self.word()}") for key in self.some(["A", "B", "N", "G", "TARGETARCH", "BUILDPLATFORM", "TARGETSTAGE", "E"], 1, 2))

    def copy_flags(self, command):
        flags = []
        if self.chance(0.25):
            flags.append("--chown=" + self.pick("OWNERS")[0])
        if self.chance(0.2):
            flags.append("--chmod=" + self.pick("MODES")[0])
        if self.chance(0.12) and "link" not in self.lacks:
            flags.append(self.one("--link", "--link=true", "--link=false"))
        if self.chance(0.15) and "exclude" not in self.lacks:
            flags += [f"--exclude={pattern}" for pattern in self.pick("EXCLUDES", 1, 2)]
        if command == "COPY" and self.chance(0.12) and "parents" not in self.lacks:
            flags.append("--parents")
        if command == "ADD" and self.chance(0.15) and "unpack" not in self.lacks:
            flags.append(self.one("--unpack=true", "--unpack=false", "--unpack"))
        if self.chance(0.02):
            flags.append(self.one("--nope", "--chown", "--link=maybe", "--chown=1 --chown=2", "--", "--from="))
        self.random.shuffle(flags)
        return flags

    def transfer(self, command, sources, most=2):
        flags, destination = self.copy_flags(command), self.pick("DESTINATIONS")[0]
        if self.chance(0.1):
            words = ", ".join('"' + w.replace("\\", "\\\\").replace('"', '\\"') + '"' for w in [*sources, destination])
            return " ".join([command, *flags, f"[{words}]"])
        return " ".join([command, *flags, *sources, destination])

    def copy(self):
        return self.transfer("COPY", self.pick("SOURCES", 1, self.one(1, 1, 1, 2, 3)))

    def copy_from(self):
        origin = self.one(*(list(filter(None, self.stages[:-1])) or [BASE]), BASE, *(["0"] if len(self.stages) > 1 else []), *(["S0"] if "s0" in self.stages[:-1] else []), *(["1", "s0"] if self.chance(0.05) else []), *(["later", "$A", "9"] if self.chance(0.05) else []))
        sources = self.some(["/etc", "/etc/", "/etc/passwd", "/bin/sh", "/o", "/x", "/x/", "/g", "/lnk", "/flnk", "/dang", "/", "/etc/*", "/e*/p*", "etc/group", "/t", "/f", "/lnk/", "/hb", "/no*"], 1, self.one(1, 1, 2))
        line = self.transfer("COPY", sources)
        return line.replace("COPY", f"COPY --from={origin}", 1)

    def add(self):
        return self.transfer("ADD", self.some(["t.tar", "t.gz", "t.bz2", "t.xz", "text.gz", "not-tar.tar", "a.txt", "d", "*.tar", "t.*", "empty", "link", "missing", "dlink", "hard"], 1, self.one(1, 1, 2)))

    def heredoc(self):
        name, body = self.one("EOF", "a.txt", "'EOF'", "\"EOF\"", "-EOF", "E'O'F"), self.one("hi $A\n", "\ta\n\tb\n", "", "\\$A ${A:-x} '$A' \"$A\"\n", "#!/bin/sh\necho hi > /o\n", "a \\\nb\n", "# c\n\n x\n", "${A/x\n", "echo $A > /o\n")
        bare = name.lstrip("-").replace("'", "").replace("\"", "")
        start = self.one("RUN <<{}", "RUN cat <<{} > /o", "COPY <<{} /h", "COPY <<{} /h/", "ADD <<{} /h/", "COPY --chmod=755 --chown=1:2 <<{} /h", "COPY a.txt <<{} /h/", "RUN <<{} cat > /o", "COPY <<{} $P/h", "ONBUILD RUN <<{}").format(name)
        return f"{start}\n{body}{bare}"

    def run(self):
        if self.chance(0.12):
            return "RUN " + self.one("[\"/bin/sh\", \"-c\", \"echo x > /o\"]", "[\"sh\",\"-c\",\"echo $0 $A > /o\",\"q\"]", "['a']", "[\"nosuch\"]", "[]", "[1]", "[\"touch\", \"$A\"]", "[ \"touch\" , \"/a b\" ]", "")
        flags = ""
        if self.chance(0.2):
            flags = self.one("--mount=target=/mnt", "--mount=type=bind,source=d,target=/mnt", "--mount=type=bind,source=d,target=/new/mnt,rw", "--mount=type=tmpfs,target=/tm", "--mount=type=cache,target=/c", "--mount=type=cache,target=/c/d,uid=5,mode=0700", "--mount=type=secret,id=q", "--mount=type=bind,from=s0,target=/mnt", "--mount=type=bind,source=missing,target=/mnt", "--mount=type=bind,source=a.txt,target=/etc/group", "--mount=type=nope,target=/x", "--network=none", "--network=x", "--mount=type=bind,source=a.txt,target=/n/f", "--mount=type=tmpfs,target=rel") + " "
        line = self.pick("LINES")[0]
        if flags.startswith("--mount") and self.chance(0.6):
            line = self.one("ls -lan /mnt > /o; true", "find /mnt /new /c /tm | sort > /o; true", "touch /mnt/w /new/mnt/w /c/w /tm/w; true", "stat -c '%a %u %g' /c /c/d /mnt /tm > /o; true")
        return f"RUN {flags}{line}"

    def workdir(self):
        return "WORKDIR " + self.one("/w", "w", "/w/", "w/v", ".", "..", "/", "$A", "${P}/z", "/a b", "\"/q\"", "/lnk", "/lnk/in", "/etc", "~", "../..", "/w/../v", "/w2", "$N", "//w", "/w/.", "./w", *(["", "/f", "/dang"] if self.chance(0.1) else []))

    def user(self):
        return "USER " + self.one("1", "1:2", "root", "daemon", "daemon:daemon", "nobody", "nosuch", "1:nosuch", "$O", "a b", "\"1\"", "", "0", "$N", "99999999999")

    def small(self):
        return self.one(
            lambda: "EXPOSE " + " ".join(self.some(["80", "81/udp", "80/TCP", "1-3", "$N", "${N:-90}", "x", "70000", "80/sctp", "127.0.0.1:8:9", "8:9", "80/x", "\"80\"", "3-1", "0", "$A", "1-2/udp", "80 80"], 1, 3)),
            lambda: "VOLUME " + self.one("/v", "/v /w", "[\"/v\", \"w\"]", "v/", "$P", "[]", "", "'/v'", "/x", "\"/a b\"", "[\"$P\"]", "/v,/w"),
            lambda: "STOPSIGNAL " + self.one("SIGTERM", "term", "9", "SIGFOO", "$A", "${N:-KILL}", "0", "RTMIN+3", "SIGRTMAX", "sigint", "65", "-1", ""),
            lambda: "HEALTHCHECK " + self.one("NONE", "CMD x y", "CMD [\"x\", \"y\"]", "--interval=5s --timeout=1m30s CMD x", "--retries=3 CMD x", "--retries=-1 CMD x", "--interval=1us CMD x", "--interval=x CMD x", "none", "NONE x", "x", "CMD", "--start-period=1h --start-interval=2.5s CMD a", "--interval=0 CMD x", "cmd x", "CMD []", "--retries=0 CMD [\"a\"]", "--timeout=1.5h CMD $A", "--interval= CMD x"),
            lambda: "SHELL " + self.one("[\"/bin/sh\", \"-ec\"]", "[\"/bin/busybox\", \"sh\", \"-c\"]", "[\"/bin/echo\"]", "/bin/sh", "[]", "[\"/bin/sh\", \"-c\", \"set -e; $0\"]", "[\"$A\"]"),
            lambda: self.one("CMD", "ENTRYPOINT") + " " + self.one("x y", "[\"x\", \"y\"]", "[]", "", "[\"x\" ]", "[x]", "$A", "[\"a\\\"b\", \"\\u00e9\"]", "x \\\n y", "[\"a\",]", "['x']", " [\"x\"]", "x  y", "[\"tab\\t\", \"nl\\n\", \"\\u0001\"]", "\"x\" 'y'"),
            lambda: "MAINTAINER " + self.one("me", "a b <c@d>", "$A", "\"q\"", ""),
        )()

    def onbuild(self):
        inner = self.one(self.copy, self.run, self.env, self.small, self.workdir, self.add, self.copy_from, lambda: "arg B=1", *([lambda: "ONBUILD ENV a=b", lambda: "FROM x", lambda: "NOPE x", lambda: ""] if self.chance(0.1) else []))()
        return "ONBUILD " + inner

    def odd(self):
        if self.chance(0.15):
            return self.one("NOPE x", "ENV", "ENV x", "LABEL", "COPY a.txt", "COPY", "ADD x", "FROM", "FROM a b", "FROM scratch AS 1x", "ARG", "COPY <<EOF /h")
        return self.one("env A=lower", "Run echo x > /o", "   ENV A=indented", "# comment", "", "ENV A=b \\", "ENV A=b \\\n# c\n  B=c", "ENV A=b \\  \n  B=c", "\tLABEL t=1", "COPY <<EOF <<F /h/\n1\nEOF\n2\nF", "RUN <<A <<B\necho a > /o\nA\necho b\nB", "ENV A=`echo`", "COPY <<\"EOF\" /h/\n$A\nEOF", "ADD --chown=1:2 <<EOF a.txt /h/\n$A\nEOF")

    def ignore_lines(self):
        return self.some(["*", "!a.txt", "!d", "!d/e", "d", "d/", "/d", "*.md", "**/*.md", "!**/h.txt", "a.txt", "# c", "", " b.txt ", "d/*", "!d/g.md", "**", "*/e", "s/**", "?.txt", "[ab].txt", "link", "dlink", "!dlink/e", "x/d", "./a.txt", "../a.txt", "d/../b.txt", "**/e/**", "!", "[", ".dockerignore", "**/d", "hard", "\\*", "!*.txt", "d/e/h.txt", "!d/**/*.md"], 1, 4)


ALL = ["env", "label", "arg", "copy", "copy_from", "add", "heredoc", "run", "workdir", "user", "small", "onbuild"]
THEMES = {
    "copy": (30, ["copy", "copy", "copy", "copy_from", "workdir"]),
    "words": (14, ["env", "env", "label", "arg", "workdir"]),
    "small": (12, ["small", "small", "user", "workdir"]),
    "run": (14, ["run", "run", "heredoc", "user", "workdir", "arg"]),
    "add": (9, ["add", "add", "copy"]),
    "ignore": (9, ["copy"]),
    "onbuild": (7, ["onbuild", "onbuild", "run"]),
    "all": (15, [*ALL, "odd"]),
}


def generate(seed, lacks=()):
    """The case of a seed; lacks names features that the peer does not know."""
    return Grammar(seed, lacks).case()
