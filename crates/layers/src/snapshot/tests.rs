use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rbuild_image::{Descriptor, DiffId, Digest, Layer};

use super::*;
use crate::change::{Content, Entry};
use crate::changes::from_upper;
use crate::meta::{Kind, Meta};
use crate::store::Store;
use crate::unpack::Limits;

fn overlay() -> (tempfile::TempDir, Overlay, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, Overlay::new(store.clone(), Limits::default()), store)
}

/// A layer without a blob: enough for a snapshot that is committed.
fn named(name: &str) -> Layer {
    let digest = Digest::of(name.as_bytes());
    Layer { descriptor: Descriptor::new("application/x-test", digest, 0), diff_id: DiffId(digest) }
}

fn long_ago(path: &Path) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

fn mtime(path: &Path) -> i64 {
    fs::symlink_metadata(path).unwrap().mtime()
}

/// Commits a base with a few files and links as the snapshot of one layer.
fn base(overlay: &Overlay) -> Vec<Layer> {
    let active = overlay.prepare(&[]).unwrap();
    let root = active.root().path().to_owned();
    for directory in ["etc", "run", "data/sub"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("etc/hosts"), "base").unwrap();
    symlink("../run/resolve/stub.conf", root.join("etc/resolv.conf")).unwrap();
    symlink("/data", root.join("alias")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    for directory in ["etc", "run", "data/sub", "data", ""] {
        long_ago(&root.join(directory));
    }
    let chain = vec![named("base")];
    overlay.commit(active, &Changes::new(), &chain).unwrap();
    chain
}

fn entries(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

#[test]
fn what_is_committed_is_seen() {
    let (_directory, overlay, store) = overlay();
    let chain = base(&overlay);
    assert!(overlay.missing(&chain).unwrap().is_empty());
    let view = overlay.view(&chain).unwrap();
    assert_eq!(view.read(Path::new("etc/hosts"), 10).unwrap().unwrap(), b"base");
    assert_eq!(entries(&store.path().join("tmp")), 0);

    let active = overlay.prepare(&chain).unwrap();
    fs::create_dir(active.root().path().join("etc")).unwrap();
    fs::write(active.root().path().join("etc/hosts"), "changed").unwrap();
    assert_eq!(active.lower_view().read(Path::new("etc/hosts"), 10).unwrap().unwrap(), b"base");
    let longer = [chain.clone(), vec![named("second")]].concat();
    assert_eq!(overlay.missing(&longer).unwrap(), [named("second")]);
    overlay.commit(active, &Changes::new(), &longer).unwrap();
    let view = overlay.view(&longer).unwrap();
    assert_eq!(view.read(Path::new("etc/hosts"), 10).unwrap().unwrap(), b"changed");
    assert_eq!(entries(&store.path().join("tmp")), 0);

    let again = overlay.prepare(&chain).unwrap();
    overlay.commit(again, &Changes::new(), &longer).unwrap();
    let view = overlay.view(&longer).unwrap();
    assert_eq!(view.read(Path::new("etc/hosts"), 10).unwrap().unwrap(), b"changed", "the first one stays");
    let dropped = overlay.prepare(&longer).unwrap();
    assert!(matches!(overlay.commit(dropped, &Changes::new(), &[]), Err(SnapshotError::NoLayer)));
    assert_eq!(entries(&store.path().join("tmp")), 0);
}

#[test]
fn an_active_tree_can_be_mounted() {
    let (_directory, overlay, _store) = overlay();
    let active = overlay.prepare(&[]).unwrap();
    let ActiveRootfs::Overlay { lower, upper, work } = active.rootfs() else { panic!() };
    assert_eq!(lower.len(), 1, "overlayfs wants a lower directory");
    for directory in lower.iter().chain([&upper, &work]) {
        assert_eq!(entries(directory), 0);
    }
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o555)).unwrap();
    let chain = [named("closed root")];
    overlay.commit(active, &Changes::new(), &chain).unwrap();
    let active = overlay.prepare(&chain).unwrap();
    assert_eq!(fs::metadata(active.root().path()).unwrap().permissions().mode() & 0o7777, 0o555);
    assert!(from_upper(active.root(), &active.lower_view()).unwrap().is_empty());
}

#[test]
fn mount_points() {
    let (_directory, overlay, _store) = overlay();
    let chain = base(&overlay);
    let check = |path: &str, kind, expect: Result<&str, &str>, stubs: usize| {
        let mut active = overlay.prepare(&chain).unwrap();
        let found = active.mount_point(Path::new(path), kind);
        let found = found.as_ref().map(|path| path.to_str().unwrap()).map_err(ToString::to_string);
        assert_eq!(found, expect.map_err(str::to_owned), "{path}");
        let changes = || from_upper(active.root(), &active.lower_view()).unwrap();
        let made = changes();
        let new = made.iter().filter(|(path, _)| active.lower_view().metadata(path).unwrap().is_none());
        assert_eq!(new.count(), stubs, "{path}: {made:?}");
        if expect.is_ok() {
            active.remove_stubs().unwrap();
            let left = from_upper(active.root(), &active.lower_view()).unwrap();
            assert!(left.is_empty(), "{path} leaves {left:?}");
        }
        for copied in ["", "etc", "run"] {
            let path = active.root().path().join(copied);
            assert!(!path.exists() || mtime(&path) == 1_000_000_000, "{copied:?} for {path:?}");
        }
    };
    let (file, directory) = (MountPoint::File, MountPoint::Directory);
    check("/", directory, Ok(""), 0);
    check("/etc", directory, Ok("etc"), 0);
    check("etc/hosts", file, Ok("etc/hosts"), 0);
    check("/etc/../etc//hosts", file, Ok("etc/hosts"), 0);
    check("/proc", directory, Ok("proc"), 1);
    check("/etc/new", file, Ok("etc/new"), 1);
    check("/run/secrets/token", file, Ok("run/secrets/token"), 2);
    check("/a/b/c", directory, Ok("a/b/c"), 3);
    check("/etc/resolv.conf", file, Ok("run/resolve/stub.conf"), 2);
    check("/alias/sub", directory, Ok("data/sub"), 0);
    check("/alias/sub/x", directory, Ok("data/sub/x"), 1);
    check("/../../outside", directory, Ok("outside"), 1);
    check("/etc", file, Err("cannot mount on `etc`: not a file"), 0);
    check("/etc/hosts", directory, Err("cannot mount on `etc/hosts`: not a directory"), 0);
    check("/loop", file, Err("too many symbolic links in `/loop`"), 0);
}

#[test]
fn mount_points_through_files_are_refused() {
    let (_directory, overlay, _store) = overlay();
    let mut active = overlay.prepare(&base(&overlay)).unwrap();
    assert!(active.mount_point(Path::new("/etc/hosts/x"), MountPoint::File).is_err());
    assert!(from_upper(active.root(), &active.lower_view()).unwrap().is_empty());
}

#[test]
fn stubs_the_step_used_stay() {
    let (_directory, overlay, _store) = overlay();
    let mut active = overlay.prepare(&base(&overlay)).unwrap();
    for (path, kind) in [
        ("/filled", MountPoint::Directory),
        ("/closed", MountPoint::Directory),
        ("/written", MountPoint::File),
        ("/owned/inner", MountPoint::File),
        ("/gone", MountPoint::File),
        ("/etc/untouched", MountPoint::File),
        ("/etc/untouched2", MountPoint::File),
    ] {
        active.mount_point(Path::new(path), kind).unwrap();
    }
    let upper = active.root().path().to_owned();
    fs::write(upper.join("filled/file"), "").unwrap();
    fs::set_permissions(upper.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(upper.join("written"), "x").unwrap();
    fs::set_permissions(upper.join("owned"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::remove_file(upper.join("gone")).unwrap();
    fs::write(upper.join("etc/by-the-step"), "").unwrap();
    let stepped = fs::File::open(upper.join("etc")).unwrap();
    stepped.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000)).unwrap();
    active.remove_stubs().unwrap();
    let changes = from_upper(active.root(), &active.lower_view()).unwrap();
    let paths: Vec<_> = changes.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    assert_eq!(paths, ["closed", "etc", "etc/by-the-step", "filled", "filled/file", "owned", "written"]);
    assert_eq!(mtime(&upper.join("etc")), 1_500_000_000, "the step's own change of the parent stays");
}

#[test]
fn stubs_are_not_sought_through_links() {
    let (_directory, overlay, _store) = overlay();
    let mut active = overlay.prepare(&base(&overlay)).unwrap();
    active.mount_point(Path::new("/a/b"), MountPoint::Directory).unwrap();
    let upper = active.root().path().to_owned();
    fs::rename(upper.join("a"), upper.join("moved")).unwrap();
    symlink("moved", upper.join("a")).unwrap();
    active.remove_stubs().unwrap();
    assert!(upper.join("moved/b").is_dir());
    assert!(upper.join("a").is_symlink());
}

#[test]
fn snapshots_of_another_chain_are_not_taken() {
    let (_directory, overlay, store) = overlay();
    let chain = base(&overlay);
    let snapshot = fs::read_dir(store.path().join("snapshots")).unwrap().next().unwrap().unwrap().path();
    assert!(snapshot.file_name().unwrap().len() <= 20);
    fs::write(snapshot.join("chain"), "sha256:0 native\n").unwrap();
    assert_eq!(overlay.missing(&chain).unwrap().len(), 1);
}

#[test]
fn bombs_are_refused() {
    let (_directory, _, store) = overlay();
    let mut changes = Changes::new();
    let meta = Meta { size: 8 << 20, ..Meta::new(Kind::File, 0o644) };
    changes.insert("zeros", Entry::Node { meta, content: Content::Bytes(vec![0; 8 << 20].into()) });
    let layer = crate::write_layer(&changes, &store, &crate::LayerOptions::default()).unwrap();
    let view = |limits| Overlay::new(store.clone(), limits).view(std::slice::from_ref(&layer)).map(drop);
    let tight = Limits { ratio: 100, unrated: 1 << 20, ..Limits::default() };
    let mut error: &dyn std::error::Error = &view(tight).unwrap_err();
    while let Some(source) = error.source() {
        error = source;
    }
    assert_eq!(error.to_string(), "it expands more than a layer may");
    view(Limits { ratio: 1100, ..tight }).unwrap();
}
