//! What must hold of every archive, whatever its bytes: run here on archives that proptest makes, and by `fuzz/` on
//! those that libFuzzer makes.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rbuild_layers::tar::{Reader, write_changes};
use rbuild_layers::{Changes, Limits, Root, View, from_upper, unpack};

/// Small enough for many runs.
const LIMITS: fn() -> Limits =
    || Limits { entries: 200, bytes: 1 << 22, sparse_parts: 100, ..Limits::default() };

/// Reads an archive to its end or to the first thing that is wrong: no panic, and contents as long as announced.
pub(crate) fn read(archive: &[u8]) {
    let mut reader = Reader::new(archive);
    let mut total = 0;
    while let Ok(Some(member)) = reader.next_member() {
        total += member.meta.size;
        if total > 1 << 26 {
            return;
        }
        let mut content = Vec::new();
        if reader.body().read_to_end(&mut content).is_ok() {
            assert_eq!(content.len() as u64, member.meta.size, "{}", member.path.display());
        }
    }
}

/// Unpacks an archive beside files that nothing may touch.
pub(crate) fn unpack_beside_canary(archive: &[u8]) {
    let host = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| host.path().join(name);
    for folder in ["canary/etc", "tree/upper", "lower/etc"] {
        std::fs::create_dir_all(at(folder)).expect("a folder");
    }
    for file in ["canary/etc/passwd", "lower/etc/passwd", "file"] {
        std::fs::write(at(file), file).expect("a file");
    }
    let before = look(host.path());
    let lower = View::overlay(vec![Root::open(&at("lower")).expect("it was made")]);
    let upper = Root::open(&at("tree/upper")).expect("it was made");
    // either is right, as long as it stays inside
    let _ = unpack(archive, &upper, &lower, &LIMITS());
    assert_eq!(look(host.path()), before, "something outside of the root changed");
}

/// Everything outside of the root that an archive could change.
fn look(host: &Path) -> BTreeMap<PathBuf, (u32, u32, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![host.to_owned()];
    while let Some(path) = pending.pop() {
        if path.ends_with("tree/upper") {
            continue;
        }
        let meta = path.symlink_metadata().expect("it is there");
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a folder");
            pending.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        let mode = meta.permissions().mode();
        found.insert(path, (mode, meta.uid(), meta.nlink(), meta.ctime(), meta.ctime_nsec()));
    }
    found
}

/// Unpacks an archive, and takes what comes of it through a layer: changes, tar, tree, changes again.
pub(crate) fn round_trip(archive: &[u8]) {
    let first = tempfile::tempdir().expect("a temporary folder");
    let Some(changes) = unpacked(archive, first.path()) else { return };
    let written = write_changes(&changes, Vec::new(), None).expect("what was unpacked can be written");
    let second = tempfile::tempdir().expect("a temporary folder");
    let again = unpacked(&written, second.path()).expect("what was written can be unpacked");
    let rewritten = write_changes(&again, Vec::new(), None).expect("it was written before");
    assert!(written == rewritten, "a layer changes on its way");
}

fn unpacked(archive: &[u8], tree: &Path) -> Option<Changes> {
    let root = Root::open(tree).expect("it is there");
    unpack(archive, &root, &View::empty(), &LIMITS()).ok()?;
    Some(from_upper(&root, &View::empty()).expect("what was unpacked can be read"))
}
