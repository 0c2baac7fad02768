use std::fs;
use std::path::Path;

use rbuild_image::Descriptor;

use super::*;
use crate::change::{Changes, Content, Entry};
use crate::compress::Compression;
use crate::meta::{Kind, Time};
use crate::root::RootError;
use crate::snapshot::ActiveRootfs;
use crate::store::StoreDirError;
use crate::view::Descend;
use crate::writer::{LayerOptions, write_layer};

fn overlay() -> (tempfile::TempDir, Overlay, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, Overlay::new(store.clone(), Limits::default()), store)
}

fn entries(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

fn file(content: &'static [u8], mode: u32) -> Entry {
    let size = content.len() as u64;
    let mtime = Time { seconds: 1_600_000_000, nanos: 123_456_789 };
    let meta = Meta { size, mtime, ..Meta::new(Kind::File, mode) };
    Entry::Node { meta, content: Content::Bytes(content.into()) }
}

/// Three layers that add, replace, hide and link; the blobs are in the store, no snapshot is.
fn chain(store: &Store, compression: Compression) -> Vec<Layer> {
    let noise: &'static [u8] =
        Vec::leak((0..100_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect());
    let directory = || Entry::node(Meta { mtime: Time::seconds(1_600_000_000), ..Meta::default_directory() });
    let mut first = Changes::new();
    for path in ["etc", "opt", "opt/old", "srv"] {
        first.insert(path, directory());
    }
    first.insert("etc/passwd", file(b"root", 0o644));
    first.insert("etc/shadow", file(b"secret", 0o4711));
    first.insert("opt/noise", file(noise, 0o644));
    first.insert("opt/old/file", file(b"old", 0o644));
    first.insert("srv/gone", file(b"gone", 0o644));
    let mut second = Changes::new();
    for path in ["etc", "srv"] {
        second.insert(path, directory());
    }
    second.insert("etc/passwd", file(b"changed", 0o600));
    second.insert("etc/passwd-", Entry::HardLink("etc/passwd".into()));
    second.insert("srv/gone", Entry::Whiteout);
    second.insert("link", Entry::node(Meta::new(Kind::Symlink("etc".into()), 0o777)));
    let mut third = Changes::new();
    third.insert("opt", directory());
    third.insert("opt/old", Entry::Opaque(Meta { uid: 7, gid: 8, ..Meta::default_directory() }));
    third.insert("opt/old/new", file(b"new", 0o644));
    let options = LayerOptions { compression, ..LayerOptions::default() };
    [first, second, third].iter().map(|changes| write_layer(changes, store, &options).unwrap()).collect()
}

fn listing(view: &View) -> Vec<String> {
    let mut lines = Vec::new();
    view.walk(Path::new(""), &mut |visit| {
        let meta = visit.meta;
        let content = if meta.is_file() { view.read(visit.path, 1 << 24)?.unwrap() } else { Vec::new() };
        let Meta { mode, uid, gid, .. } = meta;
        // Layers tell whole seconds.
        let mtime = meta.mtime.seconds;
        let digest = Digest::of(&content).hex();
        lines.push(format!("{} {mode:o} {uid}:{gid} {mtime} {digest}", visit.path.display()));
        Ok::<_, RootError>(Descend::Into)
    })
    .unwrap();
    lines
}

#[test]
fn layers_unpack_to_what_was_written() {
    let mut listings = Vec::new();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let (_directory, overlay, store) = overlay();
        let chain = chain(&store, compression);
        assert_eq!(overlay.missing(&chain).unwrap(), chain);
        let view = overlay.view(&chain).unwrap();
        let read = |path: &str| view.read(Path::new(path), 1 << 24).unwrap();
        assert_eq!(read("etc/passwd").unwrap(), b"changed");
        assert_eq!(read("link/passwd-").unwrap(), b"changed");
        assert_eq!(read("etc/shadow").unwrap(), b"secret");
        assert_eq!(view.metadata(Path::new("etc/shadow")).unwrap().unwrap().mode, 0o4711);
        assert_eq!(read("srv/gone"), None);
        assert_eq!(read("opt/old/file"), None);
        assert_eq!(read("opt/old/new").unwrap(), b"new");
        assert_eq!(view.metadata(Path::new("opt/old")).unwrap().unwrap().uid, 7);
        assert!(overlay.missing(&chain).unwrap().is_empty());
        assert_eq!(entries(&store.path().join("tmp")), 0);
        listings.push(listing(&view));
    }
    assert_eq!(listings[0], listings[1]);
    assert_eq!(listings[0], listings[2]);
}

/// Nothing unpacked from a bad blob may be found under a valid name, or anywhere.
fn assert_nothing_left(store: &Store, expect: usize) {
    assert_eq!(entries(&store.path().join("snapshots")), expect);
    assert_eq!(entries(&store.path().join("tmp")), 0);
}

#[test]
fn every_corrupt_region_of_a_blob_is_refused() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let (_directory, overlay, store) = overlay();
        let chain = &chain(&store, compression)[..1];
        let digest = chain[0].descriptor.digest;
        let sound = fs::read(store.blob_path(&digest)).unwrap();
        let step = sound.len() / 20;
        let regions =
            (0..20).map(|region| region * step).chain(0..24).chain([sound.len() - 1, sound.len() - 5]);
        for at in regions {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x41;
            fs::write(store.blob_path(&digest), bytes).unwrap();
            let error = overlay.view(chain).unwrap_err();
            let corrupt = matches!(&error, SnapshotError::Store(StoreDirError::Corrupt { .. }));
            assert!(corrupt, "{compression} flipped at {at}: {error:?}");
            assert_eq!(error.to_string(), format!("blob {digest} in the store is corrupt"));
        }
        assert_nothing_left(&store, 0);
        for cut in [0, 1, 10, 25, sound.len() / 2, sound.len() - 1] {
            fs::write(store.blob_path(&digest), &sound[..cut]).unwrap();
            let error = overlay.view(chain).unwrap_err();
            let corrupt = matches!(&error, SnapshotError::Store(StoreDirError::Corrupt { .. }));
            assert!(corrupt, "{compression} cut at {cut}: {error:?}");
        }
        fs::remove_file(store.blob_path(&digest)).unwrap();
        let error = overlay.view(chain).unwrap_err();
        assert!(matches!(&error, SnapshotError::Store(StoreDirError::Missing(_))), "{error:?}");
        assert_nothing_left(&store, 0);
        fs::write(store.blob_path(&digest), &sound).unwrap();
        overlay.view(chain).unwrap();
    }
}

#[test]
fn what_the_image_says_must_be_true() {
    let (_directory, overlay, store) = overlay();
    let good = chain(&store, Compression::Gzip);
    let with = |change: &dyn Fn(&mut Layer)| {
        let mut chain = good.clone();
        change(&mut chain[1]);
        overlay.view(&chain).unwrap_err()
    };
    let error = with(&|layer| layer.diff_id = DiffId(Digest::of(b"other")));
    assert!(matches!(error, SnapshotError::DiffId { .. }), "{error:?}");
    for grown in [1, -1] {
        let error = with(&|layer| {
            layer.descriptor.size = layer.descriptor.size.checked_add_signed(grown).unwrap();
        });
        assert!(matches!(error, SnapshotError::Store(StoreDirError::Corrupt { .. })), "{error:?}");
    }
    assert_nothing_left(&store, 1);
}

#[test]
fn sound_blobs_that_are_no_layers_are_refused() {
    let (_directory, overlay, store) = overlay();
    let gzip = chain(&store, Compression::Gzip).remove(0);
    let gzip = fs::read(store.blob_path(&gzip.descriptor.digest)).unwrap();
    for bytes in
        [&b"neither tar nor anything"[..], &gzip[..gzip.len() - 1], &[&gzip[..], b"garbage"].concat()]
    {
        let digest = store.put_bytes(bytes).unwrap();
        let descriptor = Descriptor::of("application/x-test", bytes);
        let error = overlay.view(&[Layer { descriptor, diff_id: DiffId(digest) }]).unwrap_err();
        let expected = matches!(&error, SnapshotError::Unpack { .. } | SnapshotError::Decompress { .. });
        assert!(expected, "{error:?}");
        assert!(error.to_string().contains(&digest.to_string()));
    }
    assert_nothing_left(&store, 0);
}

#[test]
fn many_unpack_the_same_chain() {
    let (_directory, overlay, store) = overlay();
    let chain = chain(&store, Compression::Gzip);
    let listings: Vec<_> = std::thread::scope(|scope| {
        let unpack = || {
            let store = Store::open(store.path()).unwrap();
            listing(&Overlay::new(store, Limits::default()).view(&chain).unwrap())
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(unpack)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(listings.iter().all(|other| *other == listings[0]));
    assert_nothing_left(&store, 3);
    assert!(overlay.missing(&chain).unwrap().is_empty());
}

/// Runs `script` in the mounted tree, as a step would be run.
fn run_mounted(active: &Active, script: &str) -> bool {
    let mount_point = active.scratch().path().join("m");
    fs::create_dir(&mount_point).unwrap();
    let ActiveRootfs::Overlay { lower, upper, work } = active.rootfs() else { panic!() };
    let lower: Vec<_> = lower.iter().rev().map(|path| path.to_str().unwrap()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},userxattr,volatile",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    let mounted = "mount -t overlay overlay -o \"$1\" \"$2\" && cd \"$2\" || exit 99; ";
    let status = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-ec", &format!("{mounted}{script}"), "sh", &options])
        .arg(&mount_point)
        .status();
    match status.map(|status| status.code()) {
        Ok(Some(0)) => true,
        Ok(Some(99 | 1)) | Err(_) => {
            eprintln!("skipped: overlayfs cannot be mounted here");
            false
        }
        Ok(code) => panic!("the step ended with {code:?}"),
    }
}

#[test]
fn what_a_step_leaves_is_what_its_layer_unpacks_to() {
    let (_directory, overlay, store) = overlay();
    let mut chain = chain(&store, Compression::Gzip);
    let mut active = overlay.prepare(&chain).unwrap();
    active.mount_point(Path::new("/proc"), crate::snapshot::MountPoint::Directory).unwrap();
    active.mount_point(Path::new("/etc/resolv.conf"), crate::snapshot::MountPoint::File).unwrap();
    let script = "rm etc/shadow; chmod 4755 etc/passwd; ln etc/passwd- etc/third; mkdir -p var/lib/x; \
        rm -r opt/old; mkdir opt/old; echo x > opt/old/y; mkfifo var/pipe; mv srv var/srv; \
        ln -s /nowhere 'var/odd name'; touch -d @-5 var/before; chown 3:4 opt";
    if !run_mounted(&active, script) {
        return;
    }
    assert_eq!(
        fs::read_dir(active.scratch().path().join("work")).unwrap().count(),
        1,
        "overlayfs leaves its own directory"
    );
    active.remove_stubs().unwrap();
    let changes = active.changes().unwrap();
    let layer = write_layer(&changes, &store, &LayerOptions::default()).unwrap();
    chain.push(layer);
    let scratch = active.scratch().path().to_owned();
    overlay.commit(active, &changes, &chain).unwrap();
    assert!(!scratch.exists());
    let committed = listing(&overlay.view(&chain).unwrap());
    assert!(committed.iter().any(|line| line.starts_with("var/srv ")));
    assert!(committed.iter().any(|line| line.starts_with("opt/old/y ")));
    assert!(!committed.iter().any(|line| line.starts_with("proc") || line.starts_with("etc/resolv.conf")));

    fs::remove_dir_all(overlay.place(&chain).unwrap().path).unwrap();
    assert_eq!(overlay.missing(&chain).unwrap().len(), 1);
    let unpacked = listing(&overlay.view(&chain).unwrap());
    assert_eq!(committed, unpacked);
}

/// What a layer does not say of a parent, or of the file that a link leads to, is in the layers below.
#[test]
fn layers_unpacked_at_once_are_as_one_after_the_other() {
    let restricted = |mode| Entry::node(Meta { uid: 7, ..Meta::new(Kind::Directory, mode) });
    let mut lowest = Changes::new();
    lowest.insert("private", restricted(0o700));
    lowest.insert("private/deep", restricted(0o750));
    lowest.insert("private/deep/old", file(b"old", 0o600));
    let mut middle = Changes::new();
    middle.insert("private/deep/new", file(b"new", 0o644));
    let mut upper = Changes::new();
    upper.insert("private/deep/old", Entry::Whiteout);
    upper.insert("private/deep/newer", file(b"newer", 0o640));
    let layers = [lowest, middle, upper];
    let seen = |at_once: bool| {
        let (_directory, overlay, store) = overlay();
        let write = |changes| write_layer(changes, &store, &LayerOptions::default()).unwrap();
        let chain: Vec<Layer> = layers.iter().map(write).collect();
        let views = (1..chain.len()).filter(|_| !at_once).map(|length| overlay.view(&chain[..length]));
        views.for_each(|view| drop(view.unwrap()));
        let mut seen = Vec::new();
        let visit = &mut |visit: &crate::view::Visit<'_>| {
            seen.push((visit.path.to_owned(), visit.meta.clone()));
            Ok::<_, RootError>(Descend::Into)
        };
        overlay.view(&chain).unwrap().walk(Path::new(""), visit).unwrap();
        seen
    };
    let serial = seen(false);
    assert_eq!(seen(true), serial);
    let modes: Vec<_> = serial.iter().map(|(path, meta)| (path.to_str().unwrap(), meta.mode)).collect();
    let expect = [("private", 0o700), ("private/deep", 0o750), ("private/deep/new", 0o644)];
    assert_eq!(modes, [&expect[..], &[("private/deep/newer", 0o640)]].concat());
}
