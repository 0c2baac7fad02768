use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rbuild_image::{BytesContent, Descriptor, Digest, Sink, Source, VerifyError};

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_new_store_is_private_and_a_layout() {
    let (_directory, store) = store();
    assert_eq!(fs::metadata(store.path()).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(fs::read(store.path().join("oci-layout")).unwrap(), br#"{"imageLayoutVersion":"1.0.0"}"#);
    assert!(store.path().join("index.json").is_file());
    Store::open(store.path()).unwrap();
}

#[test]
fn blobs_round_trip() {
    let (_directory, store) = store();
    let digest = store.put_bytes(b"content").unwrap();
    assert_eq!(digest, Digest::of(b"content"));
    assert!(store.has_blob(&digest));
    assert_eq!(store.read_bytes(&digest, 7).unwrap(), b"content");
    assert!(matches!(store.read_bytes(&digest, 6), Err(StoreDirError::TooLong { limit: 6, .. })));
    let other = Digest::of(b"other");
    assert!(!store.has_blob(&other));
    assert!(matches!(store.read_bytes(&other, 9), Err(StoreDirError::Missing(missing)) if missing == other));
    assert!(names(&store.tmp_path()).is_empty());
}

#[test]
fn blob_writers_store_all_or_nothing() {
    let (_directory, store) = store();
    let write = |expected| {
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"abc").unwrap();
        writer.finish(expected)
    };
    let digest = Digest::of(b"abc");
    for (expected, size) in [(Digest::of(b"abd"), 3), (digest, 2), (digest, 4)] {
        assert!(matches!(write(Some((expected, size))), Err(StoreDirError::Unexpected(_))), "{size}");
    }
    store.blob_writer().unwrap().write_all(b"dropped").unwrap();
    assert!(names(&store.path().join("blobs/sha256")).is_empty());
    assert_eq!(write(Some((digest, 3))).unwrap(), (digest, 3));
    assert_eq!(write(None).unwrap(), (digest, 3), "again");
    assert_eq!(names(&store.path().join("blobs/sha256")), [digest.hex()]);
    assert!(names(&store.tmp_path()).is_empty());
}

#[test]
fn corrupt_blobs_are_noticed_and_healed() {
    let (_directory, store) = store();
    let descriptor = Descriptor::of("application/octet-stream", b"content");
    for damaged in [&b"c0ntent"[..], b"conten", b"contents", b""] {
        store.put_bytes(b"content").unwrap();
        fs::write(store.blob_path(&descriptor.digest), damaged).unwrap();
        let read = store.read_bytes(&descriptor.digest, 100);
        assert!(matches!(read, Err(StoreDirError::Corrupt { .. })), "{damaged:?}");
        let StoreDirError::Corrupt { digest, source } = store.verify_blob(&descriptor).unwrap_err() else {
            panic!("{damaged:?} passes")
        };
        assert_eq!(digest, descriptor.digest);
        assert_eq!(matches!(*source, VerifyError::Mismatch { .. }), damaged.len() == 7);
        store.put_bytes(b"content").unwrap();
        store.verify_blob(&descriptor).unwrap();
    }
}

#[test]
fn many_writers_of_one_blob() {
    let (_directory, first) = store();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = Store::open(first.path()).unwrap();
                for round in 0..5_u8 {
                    let digest = store.put_bytes(&[round; 1000]).unwrap();
                    assert_eq!(store.read_bytes(&digest, 1000).unwrap(), [round; 1000]);
                    store.cache_put("shared/key", &[round; 100]).unwrap();
                    let value = store.cache_get("shared/key").unwrap().unwrap();
                    assert_eq!(value, [value[0]; 100]);
                    drop(store.scratch().unwrap());
                }
            });
        }
    });
    assert!(names(&first.tmp_path()).is_empty());
}

#[test]
fn cache_entries() {
    let (_directory, store) = store();
    let check = |key: &str, sound: bool| {
        assert_eq!(store.cache_put(key, key.as_bytes()).is_ok(), sound, "put {key:?}");
        match store.cache_get(key) {
            Ok(value) => assert!(sound && value.unwrap() == key.as_bytes(), "get {key:?}"),
            Err(error) => assert!(!sound && matches!(error, StoreDirError::Key(_)), "get {key:?}: {error}"),
        }
    };
    check("step", true);
    check("steps/0a1b", true);
    check("a/b/c-d_e.f", true);
    for key in ["", "/", "/etc/passwd", "a//b", "a/", "..", "a/../b", ".hidden", "a/.b", "a b", "a\0b", "ä"]
    {
        check(key, false);
    }
    check(&"x".repeat(255), true);
    check(&"x".repeat(256), false);
    assert_eq!(store.cache_get("absent").unwrap(), None);
    store.cache_put("step", b"new").unwrap();
    assert_eq!(store.cache_get("step").unwrap().unwrap(), b"new");
}

/// Everything a step can leave: closed directories, links out of the tree, deep nesting, odd names.
fn hostile_tree(root: &Path, canary: &Path) {
    fs::create_dir_all(root.join("step/work/inner")).unwrap();
    symlink(canary, root.join("link")).unwrap();
    symlink("/", root.join("step/root")).unwrap();
    fs::write(root.join("moved-1"), b"in the way").unwrap();
    let mut deep = root.join("deep");
    for _ in 0..300 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    symlink(canary, deep.join("link")).unwrap();
    for number in 0..300 {
        fs::write(root.join(format!("step/{number}")), b"").unwrap();
    }
    for closed in ["step/work/inner", "step/work", "deep/d/d"] {
        fs::set_permissions(root.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
    }
}

fn canary(directory: &Path) -> std::path::PathBuf {
    let canary = directory.join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), b"alive").unwrap();
    canary
}

#[test]
fn scratch_is_removed_whatever_is_in_it() {
    let (directory, store) = store();
    let canary = canary(directory.path());
    let scratch = store.scratch().unwrap();
    let path = scratch.path().to_owned();
    assert_eq!(path.parent(), Some(store.tmp_path().as_path()));
    hostile_tree(&path, &canary);
    drop(scratch);
    assert!(!path.exists());
    assert_eq!(fs::read(canary.join("file")).unwrap(), b"alive");
    assert_eq!(fs::metadata(&canary).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn closed_directories_are_opened_without_privileges() {
    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
    let (directory, store) = store();
    let canary = canary(directory.path());
    // Capabilities belong to a thread: this one then removes as the plain owner of the files would.
    std::thread::spawn(move || {
        let overriding = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        let sets = capabilities(None).unwrap();
        let scratch = store.scratch().unwrap();
        let path = scratch.path().to_owned();
        hostile_tree(&path, &canary);
        set_capabilities(None, CapabilitySets { effective: sets.effective - overriding, ..sets }).unwrap();
        drop(scratch);
        assert!(!path.exists());
    })
    .join()
    .unwrap();
}

#[test]
fn the_next_open_reclaims_what_the_dead_left() {
    let (_directory, store) = store();
    let live = store.scratch().unwrap();
    let writer = store.blob_writer().unwrap();
    let abandoned = store.tmp_path().join("sdead00");
    fs::create_dir_all(abandoned.join("step/work")).unwrap();
    fs::set_permissions(abandoned.join("step/work"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(store.tmp_path().join("fdead00"), b"half a blob").unwrap();
    symlink("/", store.tmp_path().join("sdead01")).unwrap();
    assert_eq!(names(&store.tmp_path()).len(), 5);
    let again = Store::open(store.path()).unwrap();
    assert!(live.path().is_dir());
    // Links are not followed, so not locked, so never taken for abandoned.
    assert_eq!(names(&again.tmp_path()).len(), 3);
    drop((live, writer));
    assert_eq!(names(&again.tmp_path()), ["sdead01"]);
}

#[test]
fn what_killed_pulls_left_goes_when_nobody_else_is_there() {
    let (_directory, store) = store();
    let path = store.path().to_owned();
    let begun = path.join("blobs/sha256/.new-begun");
    drop(store);
    fs::write(&begun, b"half").unwrap();
    let _first = Store::open(&path).unwrap();
    assert!(!begun.exists());
    fs::write(&begun, b"half").unwrap();
    let _second = Store::open(&path).unwrap();
    assert!(begun.exists(), "another process may be writing it");
}

/// Sets the time at which a file was used to this many days ago.
fn age(path: &Path, days: u64) {
    let time = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

fn collect(store: &Store, max_size: u64, days: u64) -> Collected {
    let keep_duration = Duration::from_secs(days * 24 * 60 * 60);
    store.collect(&GcPolicy { max_size, keep_duration, images: NamedImages::Keep }).unwrap()
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let (_directory, store) = store();
    let digests = [&[1; 9000][..], &[2; 9000], &[3; 9000]].map(|bytes| store.put_bytes(bytes).unwrap());
    store.cache_put("steps/a", b"old").unwrap();
    for (digest, days) in digests.iter().zip([3, 9, 1]) {
        age(&store.blob_path(digest), days);
    }
    age(&store.path().join("cache/steps/a"), 12);
    let left = || digests.map(|digest| store.blob_path(&digest).exists());
    let all = collect(&store, 0, 10_000);
    assert_eq!((all.kept(Part::Blob).count, all.kept(Part::CacheEntry).count), (3, 1));
    let two = all.kept(Part::Blob).bytes / 3 * 2;
    assert_eq!(all.size(), two / 2 * 3 + all.kept(Part::CacheEntry).bytes);
    let collected = collect(&store, two, 0);
    assert_eq!(left(), [true, false, true]);
    assert_eq!(collected.removed(Part::Blob), Tally { count: 1, bytes: two / 2 });
    assert_eq!(collected.removed(Part::CacheEntry).count, 1);
    assert_eq!(collected.kept(Part::Blob).count, 2);
    collect(&store, 0, 2);
    assert_eq!(left(), [false, false, true]);
    collect(&store, 0, 0);
    assert_eq!(left(), [false, false, false]);
    assert!(names(&store.tmp_path()).is_empty());
}

#[test]
fn what_somebody_uses_stays() {
    let (directory, store) = store();
    let [used, unused] = [b"used", b"none"].map(|bytes| store.put_bytes(bytes).unwrap());
    store.cache_put("entry", b"x").unwrap();
    for path in [store.blob_path(&used), store.blob_path(&unused), store.path().join("cache/entry")] {
        age(&path, 1);
    }
    let other = Store::open(store.path()).unwrap();
    assert!(other.has_blob(&used) && other.cache_get("entry").unwrap().is_some());
    let collector = Store::open(store.path()).unwrap();
    collect(&collector, 0, 0);
    assert!(other.has_blob(&used) && !other.has_blob(&unused));
    assert!(other.cache_get("entry").unwrap().is_some());
    drop((store, other, collector));
    // later, nobody uses it
    let (path, name) = (directory.path().join("store"), used);
    let store = Store::open(&path).unwrap();
    age(&store.blob_path(&name), 1);
    collect(&store, 0, 0);
    assert!(!store.blob_path(&name).exists());
}

#[test]
fn cache_mounts_go_unless_they_are_held() {
    let (_directory, store) = store();
    for name in ["held", "free", "young"] {
        fs::create_dir(store.mounts_path().join(name)).unwrap();
        fs::write(store.mounts_path().join(name).join("file"), name).unwrap();
        fs::set_permissions(store.mounts_path().join(name), fs::Permissions::from_mode(0o555)).unwrap();
        fs::write(store.mounts_path().join(format!("{name}.lock")), b"").unwrap();
        age(&store.mounts_path().join(format!("{name}.lock")), 5);
    }
    store.mark_mount("young").unwrap();
    let held = fs::File::open(store.mounts_path().join("held.lock")).unwrap();
    held.lock_shared().unwrap();
    collect(&store, 0, 1);
    let left: Vec<_> = names(&store.mounts_path()).into_iter().filter(|name| !name.contains('.')).collect();
    assert_eq!(left, ["held", "young"]);
}

#[tokio::test]
async fn named_images_stay_whole() {
    let (_directory, store) = store();
    let blob = Descriptor::of("application/octet-stream", b"layer");
    let config = Descriptor::of(rbuild_image::media_type::OCI_CONFIG, b"{}");
    let describe = |blob: &Descriptor| {
        format!(r#"{{"mediaType":"{}","digest":"{}","size":{}}}"#, blob.media_type, blob.digest, blob.size)
    };
    let (manifest, layers) = (r#"{"schemaVersion":2,"config":"#, r#","layers":["#);
    let bytes = Bytes::from([manifest, &describe(&config), layers, &describe(&blob), "]}"].concat());
    let descriptor = Descriptor::of(rbuild_image::media_type::OCI_MANIFEST, &bytes);
    let name = "example.com/app:1".parse().unwrap();
    store.put_bytes(b"layer").unwrap();
    store.put_bytes(b"{}").unwrap();
    store.tag(&descriptor, bytes.clone(), &name).await.unwrap();
    assert_eq!(store.verify().unwrap().damages, []);
    let all = [descriptor.digest, blob.digest, config.digest];
    all.iter().for_each(|digest| age(&store.blob_path(digest), 3));
    collect(&store, 0, 0);
    assert!(all.iter().all(|digest| store.blob_path(digest).exists()));
    let policy = GcPolicy { images: NamedImages::Collect, ..GcPolicy::default() };
    assert_eq!(store.collect(&policy).unwrap().removed(Part::Image).count, 1);
    assert!(all.iter().all(|digest| !store.blob_path(digest).exists()));
    assert!(store.layout().descriptors().unwrap().is_empty());
}

#[test]
fn damages_are_found_and_discarded() {
    let (_directory, store) = store();
    let [sound, damaged] = [b"sound", b"rusty"].map(|bytes| store.put_bytes(bytes).unwrap());
    fs::write(store.blob_path(&damaged), b"rustx").unwrap();
    fs::write(store.path().join("blobs/sha256/odd"), b"").unwrap();
    fs::create_dir_all(store.snapshots_path().join("0123/fs")).unwrap();
    fs::write(
        store.snapshots_path().join("0123/chain"),
        b"key
",
    )
    .unwrap();
    let found = store.verify().unwrap();
    let problems: Vec<_> = found.damages.iter().map(|damage| damage.problem.as_str()).collect();
    let digest = format!("its digest is {}", Digest::of(b"rustx"));
    assert_eq!((found.blobs.count, found.snapshots.count), (3, 1));
    assert!(problems.contains(&digest.as_str()) && problems.contains(&"it is no blob"), "{problems:?}");
    assert!(problems.contains(&"its key belongs to another name"), "{problems:?}");
    store.discard(&found.damages).unwrap();
    assert_eq!(store.verify().unwrap().damages, []);
    assert!(store.has_blob(&sound));
}

#[test]
fn key_files_count_for_one_boot_until_they_are_synced() {
    let (_directory, store) = store();
    let path = store.path().join("key");
    store.write_key(&path, "key\n").unwrap();
    let read = || fs::read_to_string(&path).unwrap();
    assert_eq!(store.trust(&read(), "key\n"), Trust::Complete);
    assert_eq!(store.trust("key\nboot another\n", "key\n"), Trust::Lost);
    assert_eq!(store.trust("\0\0\0\0", "key\n"), Trust::Lost);
    assert_eq!(store.trust("", "key\n"), Trust::Lost);
    store.sync_later(path.clone(), "key\n");
    store.sync().unwrap();
    assert_eq!(read(), "key\n");
    assert_eq!(store.trust(&read(), "key\n"), Trust::Complete);
}

#[tokio::test]
async fn images_are_found_by_name() {
    let (_directory, store) = store();
    let bytes = Bytes::from_static(br#"{"schemaVersion":2,"manifests":[]}"#);
    let descriptor = Descriptor::of(rbuild_image::media_type::OCI_INDEX, &bytes);
    let blob = Descriptor::of("application/octet-stream", b"blob");
    let name = "example.com/app:1".parse().unwrap();
    store.push(&blob, Arc::new(BytesContent(Bytes::from_static(b"blob")))).await.unwrap();
    assert!(store.exists(&blob).await.unwrap());
    assert_eq!(store.read_bytes(&blob.digest, 4).unwrap(), b"blob");
    store.tag(&descriptor, bytes.clone(), &name).await.unwrap();
    assert_eq!(store.resolve(&name).await.unwrap().bytes, bytes);
    assert_eq!(store.manifest(&descriptor).await.unwrap(), bytes);
}
