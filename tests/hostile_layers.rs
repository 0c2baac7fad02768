//! Layers that broke other programs, as a base image in every form a rootfs has here: unpacked by root and by nobody in
//! particular, mounted as an overlay and copied to a plain tree. Nothing outside of the root changes.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archive::{Archive, Header, seal};
use crate::support::{Run, World, busybox_rootfs, image_layout, is_root, skipped};

/// What becomes of an archive.
pub(crate) enum Fate {
    /// It is refused with these words.
    Refused(&'static str),
    /// These paths are in the root, and nothing is elsewhere.
    Contained(&'static [&'static str]),
}

pub(crate) struct Row {
    /// What it is known as.
    pub(crate) name: &'static str,
    pub(crate) archive: Archive,
    pub(crate) fate: Fate,
}

use Fate::{Contained, Refused};

/// The advisories about unpacking, each with what it took. `out` is the absolute path of the canary.
pub(crate) fn rows(out: &str) -> Vec<Row> {
    let up = format!("{}{}", "../".repeat(20), out.trim_start_matches('/'));
    let mut rows = names(out, &up);
    rows.extend(links(out, &up));
    rows.extend(marks(out));
    rows.extend(readings());
    rows
}

fn row(name: &'static str, archive: Archive, fate: Fate) -> Row {
    Row { name, archive, fate }
}

fn new() -> Archive {
    Archive::default()
}

/// Names that lead out.
fn names(out: &str, up: &str) -> Vec<Row> {
    let chmod = |name: &str| Header { mode: 0o777, ..Header::new(b'5', name) };
    vec![
        row(
            "CVE-2026-28406: dots in a name",
            new().file(&format!("{up}/a"), "x").file("..", ""),
            Refused("only be a directory"),
        ),
        row(
            "CVE-2026-28406: dots that a prefix hides",
            new().dir("rootfs").file("rootfs/../../../b", "x"),
            Contained(&["b"]),
        ),
        row("CVE-2014-9356: absolute link", new().symlink("l", out).file("l/file", "x"), Contained(&["l"])),
        row("CVE-2014-9357: link with dots", new().symlink("l", up).file("l/file", "x"), Contained(&["l"])),
        row(
            "CVE-2026-42574: directories and nodes through a link",
            new().symlink("l", out).dir("l/new").entry(Header::new(b'6', "l/pipe"), b""),
            Contained(&["l"]),
        ),
        row(
            "CVE-2026-33056: a directory entry for a link",
            new().symlink("l", out).entry(chmod("l"), b""),
            Contained(&["l"]),
        ),
        row(
            "CVE-2021-32760: mode of a link's target",
            new()
                .symlink("s", &format!("{out}/file"))
                .entry(Header { link: b"s".to_vec(), mode: 0o777, ..Header::new(b'1', "h") }, b""),
            Contained(&["s", "h"]),
        ),
        row(
            "CVE-2025-47290: a directory that becomes a link",
            new().dir("d").file("d/a", "").symlink("d", out).file("d/b", ""),
            Contained(&["d"]),
        ),
        row("CVE-2021-29136: the root as a link", new().symlink(".", out), Refused("only be a directory")),
        row(
            "CVE-2021-29136: the root as a link, with a slash",
            new().symlink("./", out),
            Refused("only be a directory"),
        ),
    ]
}

/// Links, whiteouts and what is read by name that lead out.
fn links(out: &str, up: &str) -> Vec<Row> {
    vec![
        row(
            "CVE-2026-50163: hard link out",
            new().link("h", &format!("{up}/file")),
            Refused("cannot link to"),
        ),
        row(
            "CVE-2026-50163: hard link by an absolute path",
            new().link("h", &format!("{out}/file")),
            Refused("cannot link to"),
        ),
        row(
            "CVE-2026-50162: hard link through a link",
            new().symlink("l", out).link("h", "l/file"),
            Refused("cannot link to"),
        ),
        row(
            "CVE-2026-50162: a link over a hard link's file",
            new().file("a", "x").link("b", "a").symlink("a", &format!("{out}/file")).file("a", "y"),
            Contained(&["a", "b"]),
        ),
        row(
            "CVE-2018-15664: a whiteout through a link",
            new().symlink("l", out).file("l/.wh.file", ""),
            Contained(&["l"]),
        ),
        row(
            "CVE-2018-15664: an opaque directory through a link",
            new().symlink("l", out).file("l/.wh..wh..opq", ""),
            Contained(&["l"]),
        ),
        row(
            "CVE-2024-1753: the password file as a link",
            new().symlink("etc/passwd", &format!("{out}/file")).symlink("etc/group", &format!("{up}/file")),
            Contained(&["etc"]),
        ),
        row("CVE-2024-9676: /etc as a link", new().symlink("etc", out), Contained(&["etc"])),
    ]
}

/// Names and attributes that mean something to overlayfs or to layers.
fn marks(out: &str) -> Vec<Row> {
    let device = Header { device: (0, 0), ..Header::new(b'3', "etc/passwd") };
    let marks = [
        ("SCHILY.xattr.trusted.overlay.redirect", out.as_bytes()),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
    ];
    vec![
        row("whiteout of the parent", new().file("etc/.wh...", ""), Refused("whiteout of no file")),
        row("whiteout of the directory", new().file("etc/.wh..", ""), Refused("whiteout of no file")),
        row("overlayfs: a whiteout device", new().entry(device, b""), Refused("0:0")),
        row("overlayfs: marks", new().pax(&marks).dir("d"), Contained(&["d"])),
    ]
}

/// Archives that two programs would read differently, or nobody to their end.
fn readings() -> Vec<Row> {
    let smuggled = new().file("smuggled", "").0;
    let sized = new().pax(&[("size", b"512")]).raw(&Header::new(b'0', "data").block()).raw(&smuggled);
    let mut huge = Header { magic: *b"ustar  \0", ..Header::new(b'S', "huge") }.block();
    huge[483..495].copy_from_slice(b"\x80\0\0\0\x10\0\0\0\0\0\0\0");
    seal(&mut huge);
    let map = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")];
    vec![
        row("CVE-2025-62518: a header inside of a file", sized, Contained(&["data"])),
        row(
            "CVE-2025-62518: two sizes",
            new().pax(&[("size", b"0")]).file("data", &"x".repeat(600)),
            Refused("two sizes"),
        ),
        row(
            "RUSTSEC-2026-0112: two names",
            new().pax(&[("path", b"a"), ("path", b"b")]).file("c", ""),
            Refused("given twice"),
        ),
        row(
            "RUSTSEC-2026-0145: a record beyond its header",
            new().entry(Header::new(b'x', "x"), b"99 path=a\n").file("c", ""),
            Refused("malformed pax record"),
        ),
        row(
            "CVE-2022-2879: an endless header",
            new().entry(Header::new(b'x', "x"), &vec![b'x'; 1_100_000]).file("c", ""),
            Refused("too large"),
        ),
        row(
            "CVE-2025-58183: an endless sparse map",
            new().pax(&map).entry(Header::new(b'0', "s"), &[&b"99999999\n0\n0\n"[..], &[0; 499]].concat()),
            Refused("sparse map too large"),
        ),
        row("CVE-2026-32288: an endless old sparse file", new().raw(&huge), Refused("bytes of content")),
        row(
            "CVE-2024-40635: an owner that overflows",
            new().pax(&[("uid", b"4294967296")]).file("c", ""),
            Refused("no user or group number"),
        ),
    ]
}

/// A form that a rootfs has.
struct Form {
    isolation: &'static str,
    /// Who builds.
    user: u32,
}

const FORMS: [Form; 4] = [
    Form { isolation: "namespaces", user: 0 },
    Form { isolation: "userns", user: 0 },
    Form { isolation: "userns-single", user: 1000 },
    Form { isolation: "chroot", user: 0 },
];

/// Everything that could change in the canary, times included.
pub(crate) fn look(canary: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![canary.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = path.symlink_metadata().expect("a file of the canary");
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        let text = format!("{:o} {} {} {} {times:?}", meta.mode(), meta.uid(), meta.gid(), meta.nlink());
        if meta.is_dir() {
            pending.extend(
                std::fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()),
            );
        }
        found.insert(path, text);
    }
    found
}

fn build(world: &World, form: &Form, layout: &Path, out: &Path) -> Run {
    let home = world.path(&format!("home-{}", form.isolation));
    if !home.exists() {
        std::fs::create_dir(&home).expect("a folder");
        std::os::unix::fs::chown(&home, Some(form.user), Some(form.user))
            .expect("root may give folders away");
    }
    let mut command = Command::new(world.path("rbuild"));
    command
        .env_clear()
        .env("HOME", &home)
        .env("RBUILD_ROOT", home.join("store"))
        .current_dir(world.context());
    command.args(["--network", "none", "--progress", "plain", "--no-cache", "--isolation", form.isolation]);
    command.arg("--build-context").arg(format!("evil=oci-layout://{}:latest", layout.display()));
    command.arg("--output").arg(format!("type=tar,dest={}", home.join(out).display()));
    Run::of(command.arg(".").uid(form.user).gid(form.user).output().expect("rbuild starts"))
}

#[test]
fn layers_of_advisories_stay_in_their_root() {
    let world = World::new();
    let Some(busybox) = busybox_rootfs() else {
        return skipped("no statically linked /bin/busybox (Debian: busybox-static)");
    };
    if !is_root("only root can build as root and as somebody else") {
        return;
    }
    let canary = world.path("canary");
    std::fs::create_dir_all(canary.join("folder")).expect("folders");
    std::fs::write(canary.join("file"), "canary").expect("a file");
    std::fs::set_permissions(world.path("."), std::fs::Permissions::from_mode(0o755))
        .expect("our own folder");
    for path in [canary.clone(), canary.join("folder")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("our own folder");
    }
    std::fs::copy(env!("CARGO_BIN_EXE_rbuild"), world.path("rbuild")).expect("where anybody may run it");
    let applet = world.file("busybox", std::fs::read("/bin/busybox").expect("it was there"));
    std::fs::set_permissions(applet, std::fs::Permissions::from_mode(0o755)).expect("our own file");
    world.dockerfile("FROM evil\nCOPY busybox /busybox\nRUN [\"/busybox\", \"touch\", \"/late\"]\n");
    let forms: Vec<_> = FORMS.iter().filter(|form| crate::support::works(&world, form.isolation)).collect();
    let before = look(&canary);
    for (number, row) in rows(&canary.display().to_string()).into_iter().enumerate() {
        let layout = world.path(&format!("layout-{number}"));
        image_layout(&layout, &[busybox.clone(), row.archive.end()]);
        for form in &forms {
            let run = build(&world, form, &layout, Path::new("out.tar"));
            let place = format!("{} in {}: {}", row.name, form.isolation, run.stderr);
            assert_eq!(look(&canary), before, "{place}");
            match row.fate {
                Refused(words) => {
                    assert_eq!(run.code, 1, "{place}");
                    assert!(run.stderr.contains(words), "{place}");
                }
                Contained(paths) => {
                    assert_eq!(run.code, 0, "{place}");
                    let tar = world.path(&format!("home-{}/out.tar", form.isolation));
                    let file = std::fs::File::open(tar).expect("the archive");
                    let mut archive = tar::Archive::new(file);
                    let names = archive.entries().expect("a tar").map(|entry| {
                        let path = entry.expect("an entry").path().expect("a path").display().to_string();
                        path.trim_end_matches('/').to_owned()
                    });
                    let names: Vec<_> = names.collect();
                    assert!(
                        paths.iter().all(|path| names.iter().any(|name| name == path)),
                        "{place} {names:?}"
                    );
                }
            }
        }
    }
}
