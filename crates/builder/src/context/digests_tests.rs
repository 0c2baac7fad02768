use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;

/// A directory whose files are as old as a test wants: its builds happen later.
struct Bench {
    dir: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("context/sub")).expect("a directory");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        Self { dir, store }
    }

    fn root(&self) -> Root {
        Root::open(&self.dir.path().join("context")).expect("the context")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("context").join(name)
    }

    /// The table of a build that begins `seconds` from now.
    fn table(&self, seconds: u64) -> FileDigests {
        self.table_at(SystemTime::now() + Duration::from_secs(seconds))
    }

    fn table_at(&self, now: SystemTime) -> FileDigests {
        FileDigests::at(&self.root(), &self.store, now).expect("the machine has a boot ID")
    }

    fn stamp(&self, name: &str) -> Stamp {
        let path = Path::new(name);
        let listing = self.root().list(path.parent().expect("a parent")).expect("a directory");
        listing.stamp(path.file_name().expect("a name")).expect("a file").expect("a file")
    }

    /// Remembers files as a build does that reads them `seconds` from now.
    fn remember(&self, seconds: u64, names: &[&str]) {
        let table = self.table(seconds);
        for name in names {
            let digest = Digest::of(&fs::read(self.path(name)).expect("a file"));
            table.add(Path::new(name), self.stamp(name), digest);
        }
        table.keep(&self.root());
    }

    /// What a later build knows of a file.
    fn known(&self, name: &str) -> Option<Digest> {
        self.table(1000).get(&self.stamp(name))
    }
}

#[test]
fn what_has_not_changed_is_known() {
    let bench = Bench::new();
    for (name, bytes) in [("a", "one"), ("sub/b", "two"), ("sub/c", "")] {
        fs::write(bench.path(name), bytes).expect("a file");
    }
    assert_eq!(bench.known("a"), None);
    bench.remember(100, &["a", "sub/b", "sub/c"]);
    assert_eq!(bench.known("a"), Some(Digest::of(b"one")));
    assert_eq!(bench.known("sub/b"), Some(Digest::of(b"two")));
    assert_eq!(bench.known("sub/c"), Some(Digest::of(b"")));
    // a second table adds to the first
    fs::write(bench.path("d"), "four").expect("a file");
    bench.remember(200, &["d"]);
    assert_eq!((bench.known("a"), bench.known("d")), (Some(Digest::of(b"one")), Some(Digest::of(b"four"))));
    // other names of a file are the same file
    fs::hard_link(bench.path("sub/b"), bench.path("sub/e")).expect("a link");
    assert_eq!(bench.known("sub/e"), None, "a link moves the time of the file");
    bench.remember(300, &["sub/b"]);
    assert_eq!(
        (bench.known("sub/e"), bench.known("sub/b")),
        (Some(Digest::of(b"two")), Some(Digest::of(b"two")))
    );
}

#[test]
fn what_changed_is_not_known_however_it_is_hidden() {
    let bench = Bench::new();
    let names = ["written", "renamed", "truncated", "through-link", "removed", "left-alone"];
    for name in names {
        fs::write(bench.path(name), "before").expect("a file");
    }
    fs::hard_link(bench.path("through-link"), bench.path("link")).expect("a link");
    bench.remember(100, &names);
    for name in names {
        assert_eq!(bench.known(name), Some(Digest::of(b"before")), "{name}");
    }
    std::thread::sleep(Duration::from_millis(20));
    let restore = |name: &str, path: &Path| {
        let old = fs::metadata(bench.path(name)).expect("a file");
        let times = fs::FileTimes::new()
            .set_accessed(old.accessed().expect("a time"))
            .set_modified(old.modified().expect("a time"));
        let write = |path: &Path| {
            let mut file = File::options().write(true).open(path).expect("a file");
            file.write_all(b"AFTER!").expect("written");
            file.set_times(times).expect("times are set");
        };
        write(path);
        let new = fs::metadata(path).expect("a file");
        assert_eq!(
            (new.size(), new.modified().expect("a time")),
            (old.size(), old.modified().expect("a time"))
        );
    };
    restore("written", &bench.path("written"));
    let new = bench.path("new");
    fs::write(&new, "before").expect("a file");
    restore("renamed", &new);
    fs::rename(&new, bench.path("renamed")).expect("renamed");
    let old = fs::metadata(bench.path("truncated")).expect("a file").modified().expect("a time");
    let mut file = File::options().write(true).open(bench.path("truncated")).expect("a file");
    file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).expect("truncated");
    file.write_all(b"AFTER!").and_then(|()| file.set_modified(old)).expect("written");
    restore("through-link", &bench.path("link"));
    fs::remove_file(bench.path("removed")).expect("removed");
    fs::write(bench.path("removed"), "AFTER!").expect("a file of perhaps the same inode");
    for name in names.iter().filter(|name| **name != "left-alone") {
        assert_eq!(bench.known(name), None, "{name}");
    }
    assert_eq!(bench.known("left-alone"), Some(Digest::of(b"before")), "nothing happened to it");
}

#[test]
fn what_changed_of_late_is_not_remembered() {
    let bench = Bench::new();
    for name in ["a", "sub/b"] {
        fs::write(bench.path(name), "x").expect("a file");
    }
    bench.remember(50, &["a", "sub/b"]);
    assert_eq!((bench.known("a"), bench.known("sub/b")), (None, None), "both changed within the last minute");

    // what changed between the first look and the last is what nobody read
    let table = bench.table(100);
    let stamps = [bench.stamp("a"), bench.stamp("sub/b")];
    std::thread::sleep(Duration::from_millis(20));
    fs::write(bench.path("a"), "y").expect("a file");
    table.add(Path::new("a"), stamps[0], Digest::of(b"x"));
    table.add(Path::new("sub/b"), stamps[1], Digest::of(b"x"));
    table.keep(&bench.root());
    assert_eq!((bench.known("a"), bench.known("sub/b")), (None, Some(Digest::of(b"x"))));
}

#[test]
fn a_directory_that_was_changed_meanwhile_teaches_nothing() {
    let bench = Bench::new();
    fs::write(bench.path("sub/b"), "x").expect("a file");
    std::thread::sleep(Duration::from_millis(1100));
    fs::write(bench.path("sub/new"), "").expect("a file");
    // a build that began between: its path may have led to another directory for a while
    let began = SystemTime::now() + SETTLED - Duration::from_millis(550);
    let table = bench.table_at(began);
    table.add(Path::new("sub/b"), bench.stamp("sub/b"), Digest::of(b"x"));
    assert_eq!(table.news().read.len(), 1, "the file is old enough");
    table.keep(&bench.root());
    assert_eq!(bench.known("sub/b"), None);
}

#[test]
fn a_damaged_table_is_none() {
    let bench = Bench::new();
    fs::write(bench.path("a"), "x").expect("a file");
    bench.remember(100, &["a"]);
    let name = bench.table(0).name;
    let kept = bench.store.cache_get(&name).expect("readable").expect("there");
    assert_eq!(decode(&kept, 1).expect("sound").len(), 1);
    for at in 0..kept.len() {
        let mut damaged = kept.clone();
        damaged[at] ^= 0x10;
        assert_eq!(decode(&damaged, 1), None, "byte {at}");
        assert_eq!(decode(&kept[..at], 1), None, "{at} bytes");
    }
    bench.store.cache_put(&name, &kept[1..]).expect("written");
    assert_eq!(bench.known("a"), None);
    bench.remember(100, &["a"]);
    assert_eq!(bench.known("a"), Some(Digest::of(b"x")));
}

#[test]
fn a_table_is_bounded_and_forgets_what_nobody_asks_for() {
    let stamp = |ino| Stamp { dev: 1, ino, size: 0, mtime: Time::seconds(-1), ctime: Time::seconds(5) };
    let known =
        |ino: u64| Known { stamp: stamp(ino), age: u8::from(ino.is_multiple_of(2)), digest: Digest::of(b"") };
    let table: HashMap<_, _> = (0..=MAX_FILES as u64 + 9).map(|ino| (ino, known(ino))).collect();
    let kept = decode(&encode(&table), 1).expect("sound");
    assert_eq!(kept.len(), MAX_FILES);
    assert!((0..MAX_FILES as u64).step_by(2).all(|ino| kept.contains_key(&(ino + 1))), "the young ones stay");
    assert!(kept.iter().all(|(ino, entry)| *entry == known(*ino)));

    let bench = Bench::new();
    for name in ["a", "b"] {
        fs::write(bench.path(name), "x").expect("a file");
    }
    bench.remember(100, &["a", "b"]);
    for round in 0..MAX_AGE {
        assert!(bench.known("a").is_some() || round == MAX_AGE - 1, "round {round}");
        bench.remember(100, &["b"]);
    }
    assert_eq!((bench.known("a"), bench.known("b")), (None, Some(Digest::of(b"x"))));
}

#[test]
fn only_file_systems_that_tell_changes_are_trusted() {
    const NFS: u64 = 0x6969;
    const FUSE: u64 = 0x6573_5546;
    const OVERLAY: u64 = 0x794c_7630;
    const TMPFS: u64 = 0x0102_1994;
    const V9FS: u64 = 0x0102_1997;
    for magic in [NFS, FUSE, OVERLAY, TMPFS, V9FS, 0xff53_4d42] {
        assert!(!tells_changes(magic), "{magic:#x}");
    }
    // btrfs as a signed field of 32 bits shows it
    for magic in [0xef53, 0x5846_5342, 0x9123_683e, 0xffff_ffff_9123_683e] {
        assert!(tells_changes(magic), "{magic:#x}");
    }
}
