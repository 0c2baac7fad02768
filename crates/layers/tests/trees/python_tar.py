"""Writes archives of random entries, and lists archives, with Python's tarfile.

python_tar.py write FORMAT SEED FILE
python_tar.py list FILE            one line per entry, as peers.rs writes them
"""
import hashlib
import io
import math
import random
import sys
import tarfile

TYPES = {tarfile.REGTYPE: "file", tarfile.AREGTYPE: "file", tarfile.GNUTYPE_SPARSE: "file", tarfile.DIRTYPE: "dir",
         tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "link", tarfile.FIFOTYPE: "fifo", tarfile.CHRTYPE: "char",
         tarfile.BLKTYPE: "block"}


def text(name):
    return name.encode("utf-8", "surrogateescape").hex() or "-"


def show(path):
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as archive:
        for entry in archive:
            kind = TYPES[entry.type]
            content = archive.extractfile(entry).read() if entry.isreg() else b""
            device = f"{entry.devmajor}:{entry.devminor}" if kind in ("char", "block") else "-"
            link = text(entry.linkname) if kind in ("symlink", "link") else "-"
            digest = hashlib.sha256(content).hexdigest() if kind == "file" else "-"
            name = text(entry.name.rstrip("/"))
            print(name, kind, f"{entry.mode & 0o7777:o}", entry.uid, entry.gid, math.floor(entry.mtime), device, link, digest)


def write(form, seed, path):
    chance = random.Random(seed)
    forms = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
    is_ustar = form == "ustar"

    def name(longest):
        letters = "abc.é \n" if form == "pax" else "abc. -\n"
        parts = ("".join(chance.choices(letters, k=chance.randint(1, 40))) for _ in range(chance.randint(1, longest)))
        return "x" + "/x".join(parts)

    with tarfile.open(path, "w", format=forms[form], encoding="utf-8", errors="surrogateescape") as archive:
        for number in range(300):
            entry = tarfile.TarInfo(f"{number}" + name(2 if is_ustar else 9))
            entry.type = chance.choice([kind for kind in TYPES if kind not in (tarfile.GNUTYPE_SPARSE, tarfile.AREGTYPE)])
            entry.mode = chance.randint(0, 0o7777)
            entry.uid, entry.gid = (chance.randint(0, 0o7777777 if is_ustar else 2**32 - 2) for _ in range(2))
            entry.mtime = chance.randint(0, 2**33 - 1) if is_ustar else chance.randint(-2**35, 2**35)
            if form == "pax" and chance.random() < 0.5:
                entry.mtime += 0.25
            content = b""
            if entry.isreg():
                content = chance.randbytes(chance.choice([0, 1, 511, 512, 513, 70000]))
                entry.size = len(content)
            if entry.issym() or entry.islnk():
                entry.linkname = name(2 if is_ustar else 9)
            if entry.isdev() and not entry.isfifo():
                entry.devmajor, entry.devminor = chance.randint(0, 4095), chance.randint(0, 65535)
            archive.addfile(entry, io.BytesIO(content))


if sys.argv[1] == "list":
    show(sys.argv[2])
else:
    write(sys.argv[2], int(sys.argv[3]), sys.argv[4])
