//! What changed in an upper directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use rbuild_layers::tar::write_changes;
use rbuild_layers::{Changes, Content, Entry, Kind, Limits, Meta, Time, View, apply, from_upper, unpack};

use crate::support::{Archive, is_root, own_ids, root, skipped, snapshot};

fn show(changes: &Changes) -> Vec<String> {
    let show = |(path, entry): (&Path, &Entry)| match entry {
        Entry::Whiteout => format!("-{}", path.display()),
        Entry::HardLink(target) => format!("{}={}", path.display(), target.display()),
        Entry::Opaque(_) => format!("!{}", path.display()),
        Entry::Node { meta, .. } if meta.is_dir() => format!("{}/", path.display()),
        Entry::Node { .. } => path.display().to_string(),
    };
    changes.iter().map(show).collect()
}

/// A lower layer and an upper directory on it.
struct Pair {
    directory: tempfile::TempDir,
}

impl Pair {
    fn new(lower: Archive) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["lower", "upper", "work", "merged"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let pair = Self { directory };
        unpack(&lower.end()[..], &root(&pair.path("lower")), &View::empty(), &Limits::default()).unwrap();
        pair
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn lower(&self) -> View {
        View::overlay(vec![root(&self.path("lower"))])
    }

    fn diff(&self) -> Changes {
        from_upper(&root(&self.path("upper")), &self.lower()).unwrap()
    }

    /// Runs a shell script in the merged tree of a mount of its own; false where that is not allowed.
    fn run(&self, script: &str) -> bool {
        let mount = "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,userxattr merged && cd merged";
        let script = format!("{mount} || exit 99; set -e; {script}");
        let mut unshare = Command::new("unshare");
        unshare
            .args(["-m", "--propagation", "private", "sh", "-c", &script])
            .current_dir(self.directory.path());
        match unshare.output() {
            Ok(output) if output.status.success() => true,
            Ok(output) if is_root() && output.status.code() != Some(99) => {
                panic!("{}", String::from_utf8_lossy(&output.stderr))
            }
            _ => {
                skipped("overlayfs cannot be mounted here");
                false
            }
        }
    }
}

fn base() -> Archive {
    let new = Archive::default().dir("d").dir("d/s").file("d/a", "a").file("d/b", "b").file("d/s/x", "x");
    let new =
        new.file("f", "f").symlink("l", "f").dir("old").file("old/1", "1").dir("old/2").file("old/2/y", "");
    new.file("hard.one", "1").link("hard.two", "hard.one")
}

#[test]
fn overlay_changes_are_buildkits() {
    fn check(script: &str, expect: &[&str]) {
        let pair = Pair::new(base());
        if pair.run(script) {
            assert_eq!(show(&pair.diff()), expect, "{script}");
        }
    }
    check("true", &[]);
    check("echo n > new", &["new"]);
    check("echo n > d/s/new", &["d/", "d/s/", "d/s/new"]);
    check("rm d/a", &["d/", "-d/a"]);
    check("rm -r old", &["-old"]);
    check("chmod 700 d", &["d/"]);
    check("chmod 600 f", &["f"]);
    check("chmod 600 f; chmod 644 f", &[]);
    check("touch d d/s", &[]);
    check("touch new; rm new", &[]);
    check("rm -r old; mkdir old", &["old/", "-old/1", "-old/2"]);
    check(
        "rm -r old; mkdir old; chmod 711 old; echo > old/1; mkdir old/2",
        &["old/", "old/1", "old/2/", "-old/2/y"],
    );
    check("rm -r old; echo > old", &["old"]);
    check("rm f; mkdir f; echo > f/x", &["f/", "f/x"]);
    check("ln d/a new", &["d/", "d/a", "new=d/a"]);
    check("ln d/a new; rm d/a", &["d/", "-d/a", "new"]);
    check("touch -d @1000000000 d/b; ln -f d/a d/b", &["d/", "d/a", "d/b=d/a"]);
    check("ln f one; ln one d/two; ln f three", &["d/", "d/two", "f=d/two", "one=d/two", "three=d/two"]);
    // hard.one and hard.two are one file below: overlayfs copies up the name that is asked for alone
    check("ln hard.one new", &["hard.one", "new=hard.one"]);
    check("rm hard.one", &["-hard.one"]);
    check("rm hard.two; ln hard.one hard.two", &[]);
    check("chmod 600 hard.one; chmod 644 hard.one", &[]);
    check("echo > p; ln p q; ln p d/q", &["d/", "d/q", "p=d/q", "q=d/q"]);
    check("ln -s x p; ln p q", &["p", "q=p"]);
    check("rm l; ln -s f l; touch -hd @1000000000 l", &[]);
    check("rm l; ln -s g l; touch -hd @1000000000 l", &["l"]);
    check("printf F > f; touch -d @1000000000 f", &["f"]);
    check("printf f > f; touch -d @1000000000 f", &[]);
    check("printf f > f; touch -d @1000000000.5 f", &["f"]);
    check("mkdir -p m/n; mv f m/n", &["-f", "m/", "m/n/", "m/n/f"]);
    check("mv d e || { cp -r d e; rm -r d; }", &["-d", "e/", "e/a", "e/b", "e/s/", "e/s/x"]);
    check("mkfifo p; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")' || true", &["p"]);
}

#[test]
fn marks_of_overlayfs_stay_behind() {
    let pair = Pair::new(base());
    if !pair.run("rm -r old; mkdir old new; echo > old/n; touch d/z; chmod 600 f") {
        return;
    }
    let changes = pair.diff();
    assert!(changes.iter().all(|(_, entry)| entry.meta().is_none_or(|meta| meta.xattrs.is_empty())));
    let merged = snapshot(&pair.lower().with_layer(root(&pair.path("upper"))));
    assert!(!merged.is_empty());
}

#[test]
fn capabilities_make_a_change() {
    if !is_root() {
        skipped("file capabilities need root");
        return;
    }
    let pair = Pair::new(base());
    if !pair.run("chmod 600 f; chmod 644 f") {
        return;
    }
    assert!(pair.diff().is_empty());
    let value = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let file = pair.path("upper/f");
    if rustix::fs::setxattr(&file, "security.capability", &value, rustix::fs::XattrFlags::empty()).is_err() {
        skipped("file capabilities cannot be set here");
        return;
    }
    let changes = pair.diff();
    assert_eq!(changes.get("f").unwrap().meta().unwrap().xattrs[&b"security.capability"[..]], value);
}

fn name() -> impl Strategy<Value = PathBuf> {
    let odd = vec![&b"a"[..], b"b", b"c", b"d.e", b"\xff\xfe", b"new\nline", b"sp ace"];
    let part = prop::sample::select(odd).prop_map(|name| PathBuf::from(OsStr::from_bytes(name)));
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.iter().collect())
}

/// Times are those that ext4 can keep.
fn node() -> impl Strategy<Value = Entry> {
    let kind = prop_oneof![
        4 => Just(Kind::File),
        3 => Just(Kind::Directory),
        1 => "[a-z/.]{1,150}".prop_map(|target| Kind::Symlink(target.into())),
        1 => Just(Kind::Fifo),
    ];
    let size = prop_oneof![Just(0_usize), 1_usize..2000, Just(512), Just(70_000)];
    let note = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    (kind, 0_u32..0o10000, -2_147_483_648_i64..9_000_000_000, size, note).prop_map(
        |(kind, mode, time, size, note)| {
            let (uid, gid) = own_ids();
            // a directory of another owner's making must stay ours to read
            let mode = match kind {
                Kind::Symlink(_) => 0o777,
                _ if is_root() => mode,
                _ => mode | 0o700,
            };
            let mut meta = Meta { uid, gid, mtime: Time::seconds(time), ..Meta::new(kind, mode) };
            let mut content = Content::None;
            if meta.is_file() {
                meta.size = size as u64;
                content = Content::Bytes(vec![b'x'; size].into());
            }
            if let (true, Some(note)) = (meta.is_file() || meta.is_dir(), note) {
                meta.xattrs.insert(b"user.note".to_vec(), note);
            }
            Entry::Node { meta, content }
        },
    )
}

/// Keeps the entries whose parents are directories, so that they describe one tree.
fn tree(entries: Vec<(PathBuf, Entry)>) -> Changes {
    let mut changes = Changes::new();
    for (path, entry) in entries {
        let mut parents = path.ancestors().skip(1);
        let is_dir = |entry: &Entry| entry.meta().is_some_and(Meta::is_dir);
        let below_file = parents.any(|parent| changes.get(parent).is_some_and(|entry| !is_dir(entry)));
        let above = changes.iter().any(|(other, _)| other != path && other.starts_with(&path));
        if !below_file && (!above || is_dir(&entry)) {
            changes.insert(path, entry);
        }
    }
    changes.with_parents(&View::empty()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// changes → upper → changes → tar → upper → changes, and the archive is the same each time.
    #[test]
    fn round_trip(entries in prop::collection::vec((name(), node()), 0..16)) {
        let changes = tree(entries);
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        std::fs::create_dir(&first).unwrap();
        std::fs::create_dir(&second).unwrap();
        let written = write_changes(&changes, Vec::new(), None).unwrap();
        apply(&changes, &root(&first), &View::empty()).unwrap();
        let applied = from_upper(&root(&first), &View::empty()).unwrap();
        prop_assert!(write_changes(&applied, Vec::new(), None).unwrap() == written);
        unpack(&written[..], &root(&second), &View::empty(), &Limits::default()).unwrap();
        let unpacked = from_upper(&root(&second), &View::empty()).unwrap();
        prop_assert!(write_changes(&unpacked, Vec::new(), None).unwrap() == written);
        // on itself nothing changes
        let lower = View::overlay(vec![root(&first)]);
        prop_assert!(from_upper(&root(&second), &lower).unwrap().is_empty());
    }
}

#[test]
fn sockets_are_left_out_and_named() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::create_dir(tree.path().join("d")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path().join("d/socket")).unwrap();
    let changes = from_upper(&root(tree.path()), &View::empty()).unwrap();
    assert_eq!(changes.sockets(), [Path::new("d/socket")]);
    assert!(changes.get("d").is_some() && changes.get("d/socket").is_none());
}
