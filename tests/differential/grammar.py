"""Small Dockerfiles and their contexts, made from a seed. The same seed gives the same case in every run.

Most cases are meant to build: what is drawn fits the stage it stands in (Stage). One in eight is odd: there the lists
ODD_... are drawn from too, and what does not fit.
"""
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
    """What is built; absent names files that the context lacks."""
    seed: str
    dockerfile: str
    ignore: str | None = None
    target: str | None = None
    build_args: dict = field(default_factory=dict)
    contexts: tuple = ()
    absent: tuple = ()

    def write(self, folder):
        """Puts the context and the named one into folder and the Dockerfile beside them."""
        context = folder / "context"
        write_context(context)
        write_named(folder / "named")
        for name in self.absent:
            (context / name).unlink()
        if self.ignore is not None:
            (context / ".dockerignore").write_text(self.ignore)
        (folder / "Dockerfile").write_text(self.dockerfile)

    def options(self, folder="."):
        args = [f"--build-arg={key}={value}" for key, value in self.build_args.items()]
        values = {"ctx": f"{folder}/named", "img": f"docker-image://{BASE}"}
        args += [f"--build-context={name}={values[name]}" for name in self.contexts]
        return args + ([f"--target={self.target}"] if self.target else [])


# --- the context: always the same files, so that the grammar knows what is there ---

FILES = [
    ("a.txt", 0o644, "a\n"), ("b.txt", 0o600, "bb\n"), ("run.sh", 0o755, "#!/bin/sh\necho ran\n"), ("empty", 0o644, ""),
    ("set", 0o4755, "set\n"), ("sp ace", 0o644, "space\n"), ("[x]", 0o644, "bracket\n"), ("$v", 0o644, "dollar\n"),
    ("ü.txt", 0o644, "umlaut\n"), ("q'q", 0o644, "quote\n"), ("d/f.txt", 0o640, "f\n"), ("d/g.md", 0o644, "g\n"),
    ("d/.hidden", 0o644, "h\n"), ("d/e/h.txt", 0o755, "eh\n"), ("d/e/i.md", 0o644, "ei\n"), ("s/d/e/j.txt", 0o644, "j\n"),
    ("s/a.txt", 0o644, "other a\n"), ("s/clash/d", 0o644, "a file named d\n"),
]
LINKS = [
    ("link", "a.txt"), ("dlink", "d"), ("links/l/dangling", "nowhere"), ("links/l/absolute", "/a.txt"),
    ("links/l/outside", "../../../../b.txt"), ("links/l/loop", "loop"), ("d/up", "../b.txt"), ("d/in", "e"), ("s/far", "../d/e"),
]
FOLDERS = [("d", 0o750), ("d/e", 0o755), ("d/none", 0o700), ("s", 0o755), ("sticky", 0o1777), ("links", 0o755), ("links/l", 0o755)]


def write_context(root):
    root.mkdir()
    for name, mode in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, mode, text in FILES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    for name, target in LINKS:
        os.symlink(target, root / name)
    for name, mode in FOLDERS:
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


def write_named(root):
    """The named context ctx, which has an ignore file of its own."""
    (root / "n").mkdir(parents=True)
    for name, text in [("a.txt", "named\n"), ("n/b.md", "b\n"), ("n/c.txt", "c\n"), (".dockerignore", "**/*.md\n")]:
        (root / name).write_text(text)


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

FILE_SOURCES = [
    "a.txt", "b.txt", "run.sh", "empty", "set", "./a.txt", "/a.txt", "../a.txt", "d/../a.txt", "?.txt", "[ab].txt",
    "[!a].txt", "[^a].txt", "d/*.md", "link", "links/l/absolute", "d/up", "hard", "ü.txt", "\\[x\\]", "[[]x]", "$F",
    "${F}", "${F:-b.txt}", "${F#x}", "$D/f.txt", "\\$v", "d/e/../f.txt", "//a.txt", "d//f.txt", "set*", "t.tar",
    "d/e/*.txt", "nomatch*", "s/a.txt", "q\"'\"q",
]
FOLDER_SOURCES = [
    "d", "d/", "d/.", "./d/", "d/e", ".", "./", "/", "*/e", "dlink", "dlink/", "dlink/e", "d/in", "s", "s/far",
    "s/far/", "sticky", "d/none", "s/./d", "links", "$D", "${D%/}",
]
MIXED_SOURCES = ["*", "*.txt", "d/*", "*/*", "d/nomatch?", "dlink/*", "d/in/*", "s/*", "**", "**/*.txt", "d/**", "[ds]*"]
ODD_SOURCES = [
    "links/l/dangling", "links/l/outside", "links/l/loop", "missing", "missing/", "d/missing", "a.txt/", "a.txt/b",
    "\"a.txt\"", "'a.txt'", "[a.txt", "q'q", "s/clash", "",
]
# Into these go files and folders alike; and names that are only ever given to files.
FOLDER_DESTINATIONS = [
    "/x/", "/x/y/", "x/", ".", "./", "/", "/x/.", "/x/./", "../x/", "/etc/", "/lnk/", "/lnk/x/", "${P}/", "${P:-/q}/r/",
    "\"/x/\"", "/x//y/", "/a/../x/", "/tmp", "/etc", "/root/.z/", "/new/deep/er/", "/g/", "/g/d/",
]
BARE_DESTINATIONS = ["/x", "/x/y", "x", "$P", "/lnk", "/lnk/x", "../x", "\"/x\"", "/a/../x", "/g/d"]
FILE_DESTINATIONS = ["/n1", "/x/n2", "n3", "${P}n4", "\"/n5\"", "/new/n6", "/bin/n7", "/dang", "/flnk", "/f", "/lnk/n8", "/g/a.txt"]
ODD_DESTINATIONS = ["..", "/etc/passwd/", "/etc/passwd", "/dang/x", "\"\"", "/f/", "/f/x", "/flnk", "/n1/x"]
NUMBERS = ["1:2", "1", "$O", "1:", ":1", "0:0", "7:0"]
NAMES = ["root", "daemon", "nobody:daemon", "daemon:5", "5:daemon", "www-data", "4294967294:1"]
ODD_OWNERS = ["", "-1", "99999999999", "a:b:c", "nosuch", "1:nosuch"]
MODES = [
    "644", "0755", "7755", "0", "u=rwX,go=rX", "+x", "g-w,o=", "a+rwxt", "u+s", "$M", "go-rwx", "755,u+x", "ug=r",
    "u=rw,g=u-w,o=g", "a=,u+rwx", "=rX", "1711", "g=u", "o-rwx,+X",
]
ODD_MODES = ["8", "99999", "", "rwx", "=", "-rw", "0o755"]
EXCLUDES = [
    "*.md", "e", "**/*.md", "d/e", "!f.txt", ".hidden", "e/*", "/e", "a.txt", "$F", "e/", "**/h.txt", "d", "*.txt",
    "hard", "**", "?", "[a-f].*",
]
ODD_EXCLUDES = ["[", "*"]
WORDS = [
    "a", "\"a b\"", "'a b'", "a\\ b", "$A", "${A}", "'$A'", "\"$A\"", "\\$A", "${A:-x}", "${A-x}", "${A:+x}",
    "${A+x}", "${N:-x}", "${N-}", "${N:+x}", "${A#a}", "${A##*/}", "${A%.*}", "${A%%.*}", "${A/b/X}", "${A//b/X}",
    "\"${N:-a b}\"", "${N:-'q'}", "${N:-$A}", "${N:-${A:-z}}", "$$", "$", "a$", "\"\"", "''", "a'b'\"c\"", "\\\"",
    "\\\\", "$A$A", "${A}x", "$Ax", "~", "a=b", "a#b", "#a", "*", "`a`", "$(a)", "ü", "\"a\\\"b\"",
    "\"a\\nb\"", "\"a'b\"", "a;b", "${E:-x}", "${E-x}", "${A/\\//_}", "${A//\\//_}", "${A#*/}", "${A%/*}",
    "${A/#a/X}", "\"$A\"'$A'$A", "{a,b}", "\"${A}\"x", "${A:-\"}\"}", "%d", "<x>", "&", "$1", "${1:-x}", "${A:?}",
    "${A?no}", "${N+x}y", "${A##a*}", "${A%%*c}", "${A//?/-}", "${A/\\*/s}", "${B:-$PATH}", "$TARGETARCH", "${A:+${B}}",
]
ODD_WORDS = ["'a\\'", "${N:?gone}", "${A/}", "${}", "${A", "\"a", "'a", "${A:1:2}", "${A^^}", "$@x", "a b", "a\\", "${A#[a]}"]
KEYS = ["A", "B", "N", "E", "a.b", "a-b", "HOME", "_x", "\"K\"", "K$A", "MY_TOKEN", "lower"]
ODD_KEYS = ["1x", "ü", "'K K'", "$A", "PATH", "F", "P", "\"\""]
# Lines for any user, which write to OUT; lines for root; and lines after which the stage is not what it was.
LINES = [
    "echo hi > OUT", "echo $A $B > OUT", "true", "id > OUT", "pwd > OUT", "echo \"$HOME $PATH\" > OUT",
    "env | sort | grep -v HOSTNAME > OUT", "ls -la / | wc -l > /dev/null", "umask > OUT", "echo 'a b'   \\\n  c > OUT",
    "echo a \\\n# comment\n  b > OUT", "echo a \\\n\n  b > OUT", "ls /run /proc/self/exe > OUT; true", "hostname > OUT",
    "[ -t 0 ] || echo no tty > OUT", "cat < /dev/stdin > OUT", "test -e /dev/fuse && echo f > OUT; true",
    "cat /proc/self/status | grep -E 'Cap(Eff|Bnd)|NoNewPrivs' > OUT", "stat -c '%a %u' /tmp /dev/shm /proc > OUT",
    "ulimit -n > /dev/null; cat /etc/resolv.conf > /dev/null", "echo $0 \"$1\" $# > OUT", "echo ${TARGETARCH:-no} > OUT",
    "set -- a b; echo \"$@\" > OUT", "exec 3> OUT; echo x >&3", "(umask 077; echo x > OUT)", "grep Groups /proc/self/status > OUT",
]
ROOT_LINES = [
    "mkdir -p /m/n && echo x > /m/n/f", "ln -sf /d /lnk2; ln -f /bin/busybox /hb", "rm -rf /x /g", "chmod 700 /root",
    "touch /tmp/t && rm /tmp/t", "rm -f /fifo; mkfifo /fifo", "rm -f /lib; ln -sfn /x /lnk", "cp -a /etc /etc2",
    "rm -rf /d1 /d2; mkdir /d1 && mv /d1 /d2", "touch /x9; ln -f /x9 /y9; rm /x9", "mknod /n c 1 3; true",
    "chown 5:6 /etc/group", "chown 1:1 /bin/busybox; ls / > OUT", "chmod u+s /bin/busybox", "echo x >> /etc/group",
    "rm -rf /w; mkdir -p /w/new", "touch -d 2001-01-01 /etc/group", "truncate -s 1M /sparse", "chmod 1777 /etc; chmod 755 /etc",
]
LAST_LINES = [
    "rm /etc/passwd", "rm -rf /etc && mkdir /etc", "mv /bin /bin2; /bin2/busybox true", "echo -n > /etc/passwd",
    "rm -rf /etc /tmp /root", "chmod 700 /etc",
]
ODD_LINES = ["exit 3", "nosuchcommand", "echo x >> /etc/hosts"]
MOUNTS = [
    ("--mount=target=/mnt", "find /mnt | sort > OUT"), ("--mount=type=bind,source=d,target=/mnt", "ls -lan /mnt/e > OUT"),
    ("--mount=type=bind,source=d,target=/new/mnt,rw", "touch /new/mnt/w; ls /new/mnt > OUT"),
    ("--mount=type=tmpfs,target=/tm", "touch /tm/w; ls /tm > OUT"), ("--mount=type=tmpfs,target=/tm,size=1m", "stat -f -c %b /tm > OUT"),
    ("--mount=type=secret,id=q", "ls /run/secrets > OUT; true"), ("--mount=type=bind,source=a.txt,target=/n/f", "cat /n/f > OUT"),
    ("--mount=type=bind,from=ctx,target=/mnt", "find /mnt | sort > OUT"), ("--mount=type=bind,from=img,source=/etc,target=/mnt", "ls /mnt > OUT"),
    ("--mount=type=bind,source=$D,target=/mnt", "stat -c '%a %u %g' /mnt /mnt/* > OUT"), ("--network=none", "cat /proc/net/dev | wc -l > OUT"),
    ("--mount=type=tmpfs,target=rel", "pwd > OUT"), ("--mount=type=bind,target=/mnt,source=d --mount=type=tmpfs,target=/mnt/e", "ls /mnt/e > OUT"),
    ("--network=default", "true"), ("--security=sandbox", "true"),
]
ODD_MOUNTS = [
    ("--mount=type=bind,source=missing,target=/mnt", "true"), ("--mount=type=nope,target=/x", "true"), ("--network=x", "true"),
    ("--mount=type=cache", "true"), ("--mount=type=bind,source=a.txt,target=/etc/group", "cat /etc/group > OUT"),
    ("--mount=type=secret", "true"), ("--mount=type=bind,target=/m,mode=1", "true"), ("--mount=type=bind,target=/", "true"),
]
BODIES = [
    "hi $A\n", "\ta\n\tb\n", "", "\\$A ${A:-x} '$A' \"$A\"\n", "a \\\nb\n", "# c\n\n x\n", "${A#a} ${N-n} \\\\ \\x\n", "a\r\nb\r\n", "$A\n$B\n<<X\n",
]
SCRIPTS = ["#!/bin/sh\necho hi > OUT\n", "echo $A > OUT\n", "\techo tab > OUT\n", "set -e\n\necho \\\n  b > OUT\n", "# c\nid > OUT\n", ""]
SMALL = {
    "EXPOSE": (["80", "81/udp", "80/TCP", "1-3", "${N:-90}", "80/sctp", "127.0.0.1:8:9", "8:9", "\"80\"", "0", "1-2/udp", "80 80", "65535", "[::1]:80:81", "80/"],
               ["x", "70000", "80/x", "3-1", "$A", "$N", "-1", "80/tcp/udp"]),
    "VOLUME": (["/v", "/v /w", "[\"/v\", \"w\"]", "v/", "$P", "'/v'", "/x", "\"/ab\"", "[\"$P\"]", "/v,/w", "[]", "[/v]"], ["", "$N", "[\"\"]"]),
    "STOPSIGNAL": (["SIGTERM", "term", "9", "${N:-KILL}", "RTMIN+3", "SIGRTMAX", "sigint", "\"QUIT\"", "SIGUSR1"], ["SIGFOO", "$A", "0", "65", "-1", ""]),
    "HEALTHCHECK": (["NONE", "CMD x y", "CMD [\"x\", \"y\"]", "--interval=5s --timeout=1m30s CMD x", "--retries=3 CMD x", "none",
                     "--start-period=1h --start-interval=2.5s CMD a", "--interval=0 CMD x", "cmd x", "--retries=0 CMD [\"a\"]",
                     "--timeout=1.5h CMD $A", "--interval=1h2m3.5s --retries=12 CMD [\"a b\", \"\\\"\"]", "--timeout=100ms CMD a && b"],
                    ["--retries=-1 CMD x", "--interval=1us CMD x", "--interval=x CMD x", "NONE x", "x", "CMD", "CMD []", "--interval= CMD x", "--nope=1 CMD x"]),
    "SHELL": (["[\"/bin/sh\", \"-ec\"]", "[\"/bin/busybox\", \"sh\", \"-c\"]", "[\"/bin/sh\", \"-xc\"]", "[\"sh\", \"-c\"]", "[\"/bin/sh\", \"-o\", \"pipefail\", \"-c\"]"],
              ["/bin/sh", "[]", "[\"$A\"]", "[\"/bin/echo\"]", "[\"/bin/sh\", \"-c\", \"set -e; $0\"]", ""]),
    "CMD": (["x y", "[\"x\", \"y\"]", "[]", "[\"x\" ]", "[x]", "$A", "[\"a\\\"b\", \"\\u00e9\"]", "x \\\n y", "['x']", " [\"x\"]", "x  y",
             "[\"tab\\t\", \"nl\\n\", \"\\u0001\"]", "\"x\" 'y'", "[\"$A\"]"], ["", "[\"a\",]", "[1]"]),
    "MAINTAINER": (["me", "a b <c@d>", "$A", "\"q\""], [""]),
}
SMALL["ENTRYPOINT"] = SMALL["CMD"]
ENVIRONMENT = "ENV A=a.b/c.b E= F=a.txt D=d P=/p O=3:4 M=0700"
SETTING = "RUN mkdir -p /t /g/d /x && ln -s /t /lnk && ln -s /x/flat /flnk && ln -s /x/nowhere /dang && echo f > /f && echo old > /x/a.txt && chown 9:9 /g"


@dataclass
class Stage:
    """What is known of a stage while it is drawn."""
    name: str | None
    shell: bool
    names: bool
    root: bool = True
    is_set: bool = False


class Grammar:
    """Draws one case."""

    def __init__(self, seed, lacks=()):
        self.seed, self.random, self.lacks = seed, random.Random(seed), lacks
        self.odd, self.stages, self.used = self.chance(0.12), [], set()
        self.stage, self.escape = None, "\\"

    def one(self, *choices):
        return self.random.choice(choices)

    def chance(self, share):
        return self.random.random() < share

    def oddly(self):
        """Whether something that does not fit is drawn here."""
        return self.odd and self.chance(0.2)

    def pick(self, usual, odd=()):
        return self.random.choice(odd) if odd and self.oddly() else self.random.choice(usual)

    def several(self, draw, most=3):
        return [draw() for _ in range(self.one(*range(1, most + 1), 1))]

    def case(self):
        theme = self.random.choices(list(THEMES), [weight for weight, _ in THEMES.values()])[0]
        lines, globals_ = [], "G" if self.chance(0.25) else ""
        if self.chance(0.12):
            line = self.one("# escape=`", "# check=skip=all", "# a comment", "#escape = \\", "# nothing=x\n# escape=`", "# note", "# check=skip=JSONArgsRecommended,UndefinedVar")
            lines.append(line)
            self.escape = "`" if line == "# escape=`" else self.escape
        if globals_:
            lines.append("ARG " + self.one("G=", f"G={BASE}", "G", f"T=latest\nARG G={BASE[:-6]}$T", f"G={BASE} T=x\n# T is it\nARG T=${{T}}y"))
        count = self.random.choice([1, 1, 2, 2, 3, 4])
        for index in range(count):
            lines += self.draw_stage(index, THEMES[theme][1], index + 1 == count)
        named = [stage.name for stage in self.stages if stage.name]
        target = self.one(*named) if named and self.chance(0.12) else "nosuch" if self.oddly() and self.chance(0.1) else None
        args = {key: self.one("arg", "", "a b", "$A") for key in self.random.sample("ABN", 2)} if self.chance(0.3) else {}
        ignore = "\n".join(self.ignore_lines()) + "\n" if theme == "ignore" else None
        text = "\n".join(lines) + "\n"
        if self.escape == "`":
            text = text.replace("\\\n", "`\n")
        return Case(self.seed, text, ignore, target, args, tuple(sorted(self.used)))

    def draw_stage(self, index, makers, is_last):
        name = self.one(None, f"s{index}", f"S{index}", f"st.{index}_x") if self.chance(0.75) else None
        bases = [stage for stage in self.stages if stage.name]
        lower = name.lower() if name else None
        if bases and self.chance(0.45):
            below = self.one(*bases)
            base, self.stage = below.name, Stage(lower, below.shell, below.names, below.root, below.is_set)
        elif self.chance(0.15):
            base, self.stage = "scratch", Stage(lower, False, False)
        else:
            base, self.stage = self.one(BASE, BASE, BASE, "${G:-" + BASE + "}", "img"), Stage(lower, True, True)
            self.use(base)
        line = self.one("FROM", "FROM", "FROM", "from", "FROM --platform=$TARGETPLATFORM", "FROM --platform=linux/amd64") + " " + base
        lines = [line + (f" {self.one('AS', 'as')} {name}" if name else "")]
        lines.append(ENVIRONMENT)
        if self.stage.shell and self.stage.root and not self.stage.is_set and self.chance(0.3):
            lines.append(SETTING)
            self.stage.is_set = True
        for _ in range(self.random.randint(1, 5)):
            lines.append(getattr(self, self.random.choice(makers))())
        if is_last and self.stage.shell and self.stage.root and self.chance(0.1):
            lines.append("RUN " + self.one(*LAST_LINES).replace("OUT", "/o"))
        self.stages.append(self.stage)
        return lines

    def use(self, name):
        if name in ("ctx", "img"):
            self.used.add(name)
        return name

    # words

    def escaped(self, word):
        return word.replace("\\", self.escape)

    def word(self):
        return self.escaped(self.pick(WORDS, ODD_WORDS))

    def key(self):
        return self.pick(KEYS, ODD_KEYS)

    def pairs(self):
        if self.chance(0.12):
            return self.key() + " " + " ".join(self.several(self.word, 2))
        return self.one(" ", " ", " \\\n  ").join(f"{self.key()}={self.word()}" for _ in range(self.one(1, 1, 2, 3)))

    def env(self):
        if self.chance(0.05):
            return "ENV PATH=/x:$PATH"
        return self.one("ENV", "ENV", "env", "ENV ") + " " + self.pairs()

    def label(self):
        return "LABEL " + self.pairs()

    def arg(self):
        keys = self.random.sample(["A", "B", "N", "G", "TARGETARCH", "BUILDPLATFORM", "TARGETSTAGE", "E", "API_KEY"], self.one(1, 1, 2, 3))
        comment = self.one("", "", f"# {keys[0]} says something\n")
        return comment + "ARG " + " ".join(self.one(key, f"{key}={self.word()}") for key in keys)

    # files

    def owner(self):
        return self.pick(NUMBERS + (NAMES if self.stage.names else []), ODD_OWNERS + NAMES)

    def flags(self, command, parents=True):
        flags = []
        if self.chance(0.25):
            flags.append("--chown=" + self.owner())
        if self.chance(0.25):
            flags.append("--chmod=" + self.pick(MODES, ODD_MODES))
        if self.chance(0.12) and "link" not in self.lacks and not any("--chown=" + name in flags for name in NAMES):
            flags.append(self.one("--link", "--link=true", "--link=false"))
        if self.chance(0.15) and "exclude" not in self.lacks:
            flags += [f"--exclude={self.pick(EXCLUDES, ODD_EXCLUDES)}" for _ in range(self.one(1, 1, 2))]
        if command == "COPY" and parents and self.chance(0.12) and "parents" not in self.lacks:
            flags.append("--parents")
        if command == "ADD" and self.chance(0.15) and "unpack" not in self.lacks:
            flags.append(self.one("--unpack=true", "--unpack=false", "--unpack"))
        if self.oddly():
            flags.append(self.one("--nope", "--chown", "--link=maybe", "--chown=1 --chown=2", "--", "--from="))
        self.random.shuffle(flags)
        return flags

    def destination(self, kinds):
        """Where files, folders or both can go without being in the way of each other."""
        folders = [name for name in FOLDER_DESTINATIONS if self.stage.names or name.endswith(("/", ".", "\""))]
        choices = {"file": folders + FILE_DESTINATIONS, "folder": folders + BARE_DESTINATIONS, "mixed": folders}[kinds]
        return self.pick(choices, ODD_DESTINATIONS)

    def transfer(self, command, sources, kinds, flags):
        destination = self.destination(kinds)
        words = [self.escaped(word) for word in [*sources, destination]]
        if self.chance(0.1) and not any(set(word) & {"\"", "`"} for word in words):
            return " ".join([command, *flags, "[" + ", ".join('"' + w.replace("\\", "\\\\") + '"' for w in words) + "]"])
        return " ".join([command, *flags, *words])

    def copy(self):
        if self.chance(0.5):
            sources, kinds = [self.pick(FILE_SOURCES, ODD_SOURCES)], "file"
        else:
            sources = self.several(lambda: self.pick(FILE_SOURCES + FOLDER_SOURCES + MIXED_SOURCES, ODD_SOURCES), self.one(1, 1, 3))
            kinds = "folder" if len(sources) == 1 and sources[0] in FOLDER_SOURCES else "mixed"
        return self.transfer("COPY", sources, kinds, self.flags("COPY"))

    def copy_ignored(self):
        """Sources that an ignore file cannot take away altogether."""
        return self.transfer("COPY", [self.pick([".", "./", "/", "*", "d*", "*.txt", "s*", "[ds]*", "?.txt", "d/e*", "*/e"], FOLDER_SOURCES)], "mixed", self.flags("COPY"))

    def copy_from(self):
        above = [stage for stage in self.stages if stage.name]
        origin = self.one(BASE, self.use("ctx"), self.use("img"), *above, *above, *(["first"] if self.stages else []))
        stage = self.stages[0] if origin == "first" else origin if isinstance(origin, Stage) else None
        if origin == "ctx":
            sources, kinds = self.one((["a.txt"], "file"), (["n"], "folder"), (["."], "folder"), (["n/*", "a.txt"], "mixed")), None
            sources, kinds = sources
        elif stage and not stage.shell:
            sources, kinds = [self.one("/", "/no*", ".")], "mixed"
        else:
            files, folders = ["/etc/passwd", "/bin/sh", "etc/group", "/e*/p*"], ["/etc", "/etc/", "/", "etc"]
            kinds = self.one("file", "folder", "mixed")
            sources = {"file": [self.one(*files)], "folder": [self.one(*folders)], "mixed": [self.one(*files, *folders, "/etc/*", "/no*", "/bin/s*"), self.one(*files)]}[kinds]
        name = "0" if origin == "first" else stage.name if stage else origin
        name = name.upper() if stage and name in "s0s1s2" and self.chance(0.1) else name
        if self.oddly():
            name, sources = self.one(name, "later", "$A", "9"), [self.one("/lnk", "/dang", "/flnk", "/missing", "/x", "/t")]
        flags = [f"--from={name}", *self.flags("COPY", parents=False)]
        self.random.shuffle(flags)
        return self.transfer("COPY", sources, kinds, flags)

    def add(self):
        archives, files = ["t.tar", "t.gz", "t.bz2", "t.xz"], ["text.gz", "not-tar.tar", "a.txt", "empty", "link", "hard", "d/*.md"]
        folders = ["*.tar", "t.*", "d", "dlink", "s", "links"]
        kinds = self.one("file", "mixed", "mixed")
        sources = self.several(lambda: self.pick(files if kinds == "file" else archives + files + folders, ["missing", "links/l/dangling"]), 1 if kinds == "file" else 2)
        return self.transfer("ADD", sources, kinds, self.flags("ADD"))

    def heredoc(self):
        name = self.one("EOF", "a.txt", "'EOF'", "\"EOF\"", "-EOF", "E'O'F", "E_1", "-\"E\"")
        bare = name.lstrip("-").replace("'", "").replace("\"", "")
        if self.stage.shell and self.chance(0.5):
            start = self.one("RUN <<{}", "RUN <<{} sh", "RUN cat <<{} > OUT", "RUN <<{} cat > OUT", "RUN --network=none <<{}", "ONBUILD RUN <<{}", "RUN 3<<{} cat <&3 > OUT")
            body = self.one(*SCRIPTS) if "cat" not in start else self.one(*BODIES[:5])
            return f"{start}\n{body}{bare}".format(name).replace("OUT", self.out()) if "{" not in body else f"{start.format(name)}\n{body}{bare}".replace("OUT", self.out())
        start = self.one("COPY <<{} /x/h", "COPY <<{} /x/", "ADD <<{} /x/", "COPY --chmod=755 --chown=1:2 <<{} /x/h", "COPY a.txt <<{} /x/", "COPY <<{} $P/h", "ONBUILD COPY <<{} /x/t", "COPY [\"a.txt\", \"/x/\"]\nCOPY <<{} /x/m")
        return f"{start.format(name)}\n{self.one(*BODIES)}{bare}"

    # commands

    def out(self):
        return "/o" if self.stage.root else "/tmp/o"

    def line(self):
        lines = LINES + (ROOT_LINES * 2 if self.stage.root else [])
        return self.pick(lines, ODD_LINES + ROOT_LINES + LAST_LINES).replace("OUT", self.out())

    def run(self):
        if not self.stage.shell and not self.oddly():
            return self.copy()
        if self.chance(0.12):
            return "RUN " + self.pick(['["/bin/sh", "-c", "echo x > OUT"]', '["sh","-c","echo $0 $A > OUT","q"]', "['a'] 2> /dev/null || true", '["true", "$A"]', '[ "touch" , "/tmp/a b" ]', "true # not a comment"], ['["nosuch"]', "[]", "[1]", "['a']", ""]).replace("OUT", self.out())
        if self.chance(0.2):
            flag, line = self.pick([mount for mount in MOUNTS if "security" not in mount[0] or "security" not in self.lacks], ODD_MOUNTS)
            for name in ("ctx", "img"):
                if f"from={name}" in flag:
                    self.use(name)
            if self.stage.root:
                return f"RUN {flag} {line}".replace("OUT", self.out())
        return self.one("RUN", "RUN", "Run", "run") + f" {self.line()}"

    def workdir(self):
        return "WORKDIR " + self.pick(["/w", "w", "/w/", "w/v", ".", "..", "/", "${P}/z", "/a b", "\"/q\"", "/lnk/in", "/etc", "~", "../..", "/w/../v", "/w2", "//w", "/w/.", "./w", "$P", "/w/${A##*/}"], ["", "/f", "/dang", "$N", "$A", "/bin/sh"])

    def user(self):
        user = self.pick(["1", "1:2", "0", "0:0", "7:root" if self.stage.names else "7:0", "$O"] + (["root", "daemon", "daemon:daemon", "nobody"] if self.stage.names else []), ["nosuch", "1:nosuch", "a b", "\"1\"", "", "$N", "99999999999"])
        self.stage.root = user in ("0", "0:0", "root")
        return "USER " + user

    def small(self):
        keyword = self.one(*SMALL)
        if keyword == "SHELL" and not self.stage.shell:
            keyword = "CMD"
        return f"{keyword} " + self.pick(*SMALL[keyword])

    def onbuild(self):
        draw = self.one(self.env, self.label, self.copy, lambda: "arg B=1", lambda: "VOLUME /ob", lambda: "CMD [\"ob\"]", lambda: "EXPOSE 99", self.workdir,
                        *([lambda: "RUN " + self.one(*LINES[:8]).replace("OUT", "/tmp/o")] if self.stage.shell else []))
        inner = draw()
        if self.oddly():
            inner = self.one("ONBUILD ENV a=b", "FROM x", "NOPE x", "", "MAINTAINER x")
        return "ONBUILD " + inner.split("\n")[-1] if inner.startswith("#") else "ONBUILD " + inner

    def unusual(self):
        if self.oddly():
            return self.one("NOPE x", "ENV", "ENV x", "LABEL", "COPY a.txt", "COPY", "ADD x", "FROM", "FROM a b", "FROM scratch AS 1x", "ARG", "COPY <<EOF /h")
        return self.one("env A=lower", "   ENV A=indented", "# comment", "", "ENV A=b \\\n# c\n  B=c", "ENV A=b \\  \n  B=c", "ENV A=b \\\n\n  B=c", "\tLABEL t=1", "COPY <<EOF <<F /x/\n1\nEOF\n2\nF", "ENV A='`echo`'", "COPY <<\"EOF\" /x/\n$A\nEOF", "ADD --chown=1:2 <<EOF a.txt /x/\n$A\nEOF", "LABEL \"a b\"=\"c\" 'd'='e'", "ENV k  two  words ", "LABEL multi=\"a\\\n b\"")

    def ignore_lines(self):
        return self.several(lambda: self.pick(["*", "!a.txt", "!d", "!d/e", "d", "d/", "/d", "*.md", "**/*.md", "!**/h.txt", "a.txt", "# c", "", " b.txt ", "d/*", "!d/g.md", "**", "*/e", "s/**", "?.txt", "[ab].txt", "link", "dlink", "!dlink/e", "links/l", "./a.txt", "../a.txt", "d/../b.txt", "**/e/**", ".dockerignore", "**/d", "hard", "\\*", "!*.txt", "d/e/h.txt", "!d/**/*.md", "**/[a-h].*", "!s/*", "*/?"], ["!", "["]), 4)


ALL = ["env", "label", "arg", "copy", "copy_from", "add", "heredoc", "run", "workdir", "user", "small", "onbuild", "unusual"]
THEMES = {
    "copy": (26, ["copy", "copy", "copy", "copy_from", "copy_from", "workdir"]),
    "words": (12, ["env", "env", "label", "arg", "workdir"]),
    "small": (12, ["small", "small", "user", "workdir"]),
    "run": (16, ["run", "run", "heredoc", "user", "workdir", "arg"]),
    "heredoc": (6, ["heredoc", "heredoc", "env", "copy"]),
    "add": (9, ["add", "add", "copy"]),
    "ignore": (8, ["copy_ignored"]),
    "onbuild": (7, ["onbuild", "onbuild", "run"]),
    "all": (16, ALL),
}


def generate(seed, lacks=()):
    """The case of a seed; lacks names features that the peer does not know."""
    return Grammar(seed, lacks).case()
