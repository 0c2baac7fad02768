//! A tree of everything that is hard, taken through RUN, COPY, COPY --from, push and pull: it comes out as it went in.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::support::{Registry, World, have, image_layout, is_root, skipped, works};

/// Names of the file that has many.
const LINKS: usize = 10_000;

/// `cap_net_raw+ep`, `struct vfs_cap_data` of revision 2.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
}

fn node(path: &Path, kind: FileType, (major, minor): (u32, u32)) -> bool {
    let mode = Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(CWD, path, kind, mode, rustix::fs::makedev(major, minor)).is_ok()
}

/// Makes the tree; tells what this file system cannot hold.
fn make(tree: &Path) -> Result<(), &'static str> {
    let at = |name: &str| tree.join(name);
    let write = |path: &Path, text: &str| std::fs::write(path, text).expect("a file");
    for folder in ["links", "plain", "times"] {
        std::fs::create_dir_all(at(folder)).expect("a folder");
    }
    write(&at("links/0"), "one file");
    for number in 1..LINKS {
        std::fs::hard_link(at("links/0"), at(&format!("links/{number}")))
            .map_err(|_| "so many hard links")?;
    }
    let sparse = std::fs::File::create(at("plain/sparse")).expect("a file");
    for piece in 0..20 {
        sparse.write_all_at(b"data", piece * (1 << 20) + 77).expect("a file with holes");
    }
    sparse.set_len(64 << 20).expect("a file with holes");
    for (name, mode) in
        [("setuid", 0o4755), ("setgid", 0o2711), ("both", 0o6750), ("closed", 0o000), ("sticky", 0o1777)]
    {
        write(&at(&format!("plain/{name}")), name);
        rustix::fs::chmod(at(&format!("plain/{name}")), Mode::from_raw_mode(mode)).expect("a mode");
    }
    std::fs::create_dir(at("plain/tmp")).expect("a folder");
    rustix::fs::chmod(at("plain/tmp"), Mode::from_raw_mode(0o3777)).expect("a mode");
    write(&at("plain/noted"), "noted");
    for (name, value) in
        [("user.note", &b"line\nline\0zero"[..]), ("user.empty", b""), ("security.capability", CAPABILITY)]
    {
        let set = rustix::fs::setxattr(at("plain/noted"), name, value, XattrFlags::empty());
        set.map_err(|_| "extended attributes")?;
    }
    rustix::fs::setxattr(at("plain"), "user.folder", b"yes", XattrFlags::empty())
        .map_err(|_| "extended attributes")?;
    let nodes = [
        ("null", FileType::CharacterDevice, (1, 3)),
        ("zero", FileType::CharacterDevice, (1, 5)),
        ("pipe", FileType::Fifo, (0, 0)),
    ];
    for (name, kind, device) in nodes {
        if !node(&at(&format!("plain/{name}")), kind, device) {
            return Err("device nodes");
        }
    }
    std::os::unix::fs::symlink("a/target/that/is/not", at("plain/link")).expect("a link");
    std::os::unix::fs::symlink("x".repeat(3000), at("plain/long-link")).expect("a link");
    write(&at(&"n".repeat(255)), "long name");
    std::fs::write(tree.join(OsStr::from_bytes(b"not-\xff\xfe-utf8")), "bytes").expect("a file");
    write(&at("line\nbreak and space"), "odd");
    // with the tree's own name, and what it is copied to, a path stays below 4096 bytes
    let mut deep = at("deep");
    while deep.strip_prefix(tree).expect("below").as_os_str().len() < 3780 {
        deep.push("d".repeat(200));
    }
    std::fs::create_dir_all(&deep).map_err(|_| "such long paths")?;
    let left = 4000 - deep.strip_prefix(tree).expect("below").as_os_str().len() - 1;
    write(&deep.join("f".repeat(left)), "deep");
    for (name, seconds) in [
        ("before-1970", -1_000_000_000),
        ("epoch", 0),
        ("after-2038", 2_200_000_000),
        ("after-2106", 4_400_000_000),
        ("2400", 13_600_000_000),
    ] {
        write(&at(&format!("times/{name}")), name);
        set_time(&at(&format!("times/{name}")), seconds);
        if at(&format!("times/{name}")).symlink_metadata().expect("a file").mtime() != seconds {
            return Err("such times");
        }
    }
    let mut all: Vec<PathBuf> = look(tree).into_keys().map(|path| tree.join(path)).collect();
    // inner ones first: a folder's time changes with what is in it
    all.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in all.iter().filter(|path| path.parent() != Some(&at("times"))) {
        set_time(path, 1_234_567_890);
    }
    Ok(())
}

/// What a path is: kind and mode, owner, device, time and length; content, target or attributes; the first of its names.
type Look = (u32, (u32, u32), u64, (i64, u64), Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>, PathBuf);

/// Looks at everything in a tree, itself included.
fn look(tree: &Path) -> BTreeMap<PathBuf, Look> {
    let mut found = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = tree.join(&path);
        let full = if path.as_os_str().is_empty() { tree } else { full.as_path() };
        let meta = full.symlink_metadata().expect("a file of the tree");
        let mut content = Vec::new();
        if meta.is_dir() {
            pending.extend(
                std::fs::read_dir(full)
                    .expect("a folder")
                    .map(|entry| path.join(entry.expect("an entry").file_name())),
            );
        } else if meta.is_file() {
            content =
                rbuild_image::Digest::of(&std::fs::read(full).expect("a file")).to_string().into_bytes();
        } else if meta.is_symlink() {
            content = std::fs::read_link(full).expect("a link").into_os_string().as_bytes().to_vec();
        }
        let (size, links) = if meta.is_dir() { (0, 0) } else { (meta.size(), meta.nlink()) };
        let owner = (meta.uid(), meta.gid());
        let look = (
            meta.mode(),
            owner,
            meta.rdev(),
            (meta.mtime(), size),
            content,
            xattrs(full),
            PathBuf::from(links.to_string()),
        );
        found.insert(path, look);
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).expect("names of attributes");
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 4096];
            let length =
                rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).expect("an attribute");
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

/// A rootfs with this machine's tar, which busybox's does not equal.
fn tools(dir: &Path) -> Option<Vec<u8>> {
    let tar = ["/usr/bin/tar", "/bin/tar"].into_iter().find(|path| Path::new(path).is_file())?;
    let listed = Command::new("ldd").arg(tar).output().ok()?;
    let listed = String::from_utf8(listed.stdout).ok()?;
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    let archive = dir.join("tools.tar");
    let mut command = Command::new("tar");
    command.args(["-chf"]).arg(&archive).args(["--transform", "s,^/*,,", "-P", tar]).args(libraries);
    command.status().ok()?.success().then(|| std::fs::read(archive).expect("the archive"))
}

#[test]
fn everything_comes_out_as_it_went_in() {
    let world = World::new();
    if !is_root("devices and file capabilities need root")
        || !have("tar")
        || !have("ldd")
        || !works(&world, "namespaces")
    {
        return;
    }
    let (Some(registry), Some(tools)) = (Registry::open(&world.path("registry")), tools(&world.path(".")))
    else {
        return skipped("there is no GNU tar or no docker-registry");
    };
    let tree = world.context().join("tree");
    if let Err(what) = make(&tree) {
        return skipped(&format!("this file system does not hold {what}"));
    }
    let mut expect = look(&tree);
    // the folder that COPY makes is no part of what it copies
    expect.remove(Path::new(""));
    let archive = world.context().join("tree.tar");
    let pack = ["--format=posix", "--sparse", "--xattrs", "--xattrs-include=*", "-C"].map(OsStr::new);
    let status =
        Command::new("tar").args(pack).arg(world.context()).arg("-cf").arg(&archive).arg("tree").status();
    assert!(status.expect("tar").success());
    image_layout(&world.path("tools"), &[tools]);
    world.dockerfile(
        "FROM tools AS run\n\
         RUN --mount=type=bind,target=/in [\"tar\", \"-C\", \"/\", \"-xpf\", \"/in/tree.tar\", \"--xattrs\", \"--xattrs-include=*\"]\n\
         FROM scratch AS copied\nCOPY tree /tree\n\
         FROM scratch\nCOPY --from=run /tree /r\nCOPY --from=copied /tree /c\n",
    );
    let name = registry.image("torture");
    let context = format!("tools=oci-layout://{}:latest", world.path("tools").display());
    world
        .rbuild(&["--network", "none", "--progress", "plain", "--build-context", &context, "-t", &name, "."])
        .success();

    // another machine
    let target = world.path("out.tar");
    let dockerfile = world.file("second/Dockerfile", format!("FROM {name}\n"));
    let mut second = world.command();
    second
        .env("RBUILD_ROOT", world.path("other"))
        .arg("--output")
        .arg(format!("type=tar,dest={}", target.display()));
    second.arg("-f").arg(&dockerfile).arg(dockerfile.parent().expect("a folder"));
    crate::support::Run::of(second.output().expect("rbuild starts")).success();
    let out = world.path("o");
    std::fs::create_dir(&out).expect("a folder");
    let unpacked = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "-C"])
        .arg(&out)
        .arg("-xpf")
        .arg(&target)
        .status();
    assert!(unpacked.expect("tar").success());
    for place in ["r", "c"] {
        let mut found = look(&out.join(place));
        found.remove(Path::new(""));
        let strange = found.keys().find(|path| !expect.contains_key(*path));
        let missing = expect.keys().find(|path| !found.contains_key(*path));
        assert_eq!((strange, missing), (None, None), "{place}");
        for (path, expect) in &expect {
            assert!(&found[path] == expect, "{place}: {}\n{:?}\n{expect:?}", path.display(), found[path]);
        }
    }
}

#[test]
fn links_of_an_archive_come_in_any_order() {
    let world = World::new();
    let archive = crate::archive::Archive::default()
        .file("m", "one")
        .link("a", "m")
        .link("z", "a")
        .dir("d")
        .link("d/b", "m");
    world.file("links.tar", archive.end());
    world.dockerfile("FROM scratch\nADD links.tar /x/\n");
    let image = world.build_layout("image", &[]);
    let mut paths = image.paths(0);
    paths.sort();
    assert_eq!(paths, ["x", "x/a", "x/d", "x/d/b", "x/m", "x/z"]);
    for link in ["x/a", "x/d/b", "x/z"] {
        let kind = image.entry(0, link).kind;
        assert!(
            kind == tar::EntryType::Link || image.entry(0, "x/m").kind == tar::EntryType::Link,
            "{link}: {kind:?}"
        );
    }
}
