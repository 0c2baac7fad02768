//! Archives that mean harm, and archives that mean two things.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rbuild_layers::tar::Reader;
use rbuild_layers::{Kind, Limits, View, read_archive, unpack};

use crate::exercise;
use crate::support::{Archive, Header, record, root, seal, snapshot};

/// Unpacks into `upper` beside a canary, and fails if anything outside `upper` changed.
fn contained(archive: &[u8]) -> (tempfile::TempDir, Result<(), String>) {
    let host = tempfile::tempdir().unwrap();
    let canary = host.path().join("canary");
    std::fs::create_dir_all(canary.join("etc")).unwrap();
    std::fs::write(canary.join("etc/passwd"), "root").unwrap();
    std::fs::write(host.path().join("file"), "file").unwrap();
    std::fs::create_dir_all(host.path().join("tree/upper")).unwrap();
    std::fs::create_dir_all(host.path().join("lower/etc")).unwrap();
    std::fs::write(host.path().join("lower/etc/passwd"), "lower").unwrap();
    let outside = || {
        let mut nodes = snapshot(&View::directory(root(host.path())));
        nodes.retain(|path, _| !path.starts_with("tree/upper"));
        nodes
    };
    let before = outside();
    let lower = View::overlay(vec![root(&host.path().join("lower"))]);
    let upper = root(&host.path().join("tree/upper"));
    let result = unpack(archive, &upper, &lower, &Limits { bytes: 1 << 24, ..Limits::default() });
    assert_eq!(outside(), before, "something outside the root changed");
    let chain = |error: rbuild_layers::UnpackError| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    };
    (host, result.map(drop).map_err(chain))
}

#[test]
fn nothing_leads_out() {
    fn check(archive: Archive, expect: Result<&[&str], &str>) {
        let (host, result) = contained(&archive.end());
        match (expect, result) {
            (Ok(paths), Ok(())) => {
                let upper = host.path().join("tree/upper");
                let tree = snapshot(&View::directory(root(&upper)));
                assert_eq!(tree.keys().collect::<Vec<_>>(), paths);
            }
            (Err(text), Err(error)) => assert!(error.contains(text), "{error}"),
            (expect, result) => panic!("{expect:?} expected, {result:?} came"),
        }
    }
    let new = Archive::default;
    check(new().file("../../file", "x"), Ok(&["file"]));
    check(new().file("/abs", "x"), Ok(&["abs"]));
    check(new().file("a/../../b", "x"), Ok(&["b"]));
    // through links of the archive, absolute and relative
    check(new().symlink("l", "/").file("l/file", "x"), Ok(&["file", "l"]));
    check(
        new().symlink("l", "../../canary").file("l/etc/passwd", "x"),
        Ok(&["canary", "canary/etc", "canary/etc/passwd", "l"]),
    );
    check(new().symlink("a", ".").symlink("a/b", "..").file("b/c", "x"), Ok(&["a", "b", "c"]));
    check(new().symlink("l", "l").file("l/x", "x"), Err("too many symbolic links"));
    // a directory entry must not change what a link points to, nor a file be written through one
    check(new().symlink("l", "../../canary/etc").dir("l"), Ok(&["l"]));
    check(new().symlink("l", "../../file").file("l", "x"), Ok(&["l"]));
    // a cached directory that was replaced
    check(
        new().dir("d").file("d/a", "x").symlink("d", "/canary").file("d/b", "x"),
        Ok(&["canary", "canary/b", "d"]),
    );
    // hard links
    check(new().link("h", "../../file"), Err("cannot link to `file`"));
    check(new().symlink("l", "/canary/etc/passwd").link("h", "l/../passwd"), Err("cannot link to"));
    check(new().dir("d").link("h", "d"), Err("Is a directory"));
    check(new().link("h", "/"), Err("Is a directory"));
    check(new().file("a", "x").link("a", "a"), Ok(&["a"]));
    check(new().dir("d").file("d/a", "x").link("d", "d/a"), Err("cannot link to"));
    check(new().link("h", "etc/passwd"), Ok(&["etc", "etc/passwd", "h"]));
    // whiteouts
    check(new().file(".wh...", ""), Err("whiteout of no file"));
    check(new().file("a/.wh..", ""), Err("whiteout of no file"));
    check(new().file(".wh.", ""), Err("whiteout of no file"));
    check(new().file(".wh.a/b", ""), Err("below a whiteout"));
    check(new().symlink("l", ".wh.a").file("l/b", ""), Err("the name of a whiteout"));
    check(new().symlink("l", "x/.wh..wh..opq/y").dir("l/b"), Err("the name of a whiteout"));
    check(new().symlink("l", "/canary").file("l/.wh.etc", ""), Ok(&["canary", "canary/etc", "l"]));
    // the root
    check(new().symlink(".", "/canary"), Err("only be a directory"));
    check(new().file("./", "x"), Err("malformed"));
    check(new().file("", ""), Err("only be a directory"));
    check(new().entry(Header { device: (0, 0), ..Header::new(b'3', "c") }, b""), Err("0:0"));
    // what an archive must not bring: marks of overlayfs
    let marks =
        [("SCHILY.xattr.user.overlay.opaque", &b"y"[..]), ("SCHILY.xattr.trusted.overlay.redirect", b"/etc")];
    check(new().pax(&marks).dir("d"), Ok(&["d"]));
    let (host, _) = contained(&new().pax(&marks).dir("d").end());
    let mut names = [0; 256];
    let upper = host.path().join("tree/upper/d");
    assert_eq!(rustix::fs::listxattr(&upper, &mut names[..]).unwrap(), 0);
}

#[test]
fn bounds_hold() {
    let check = |archive: Archive, limits: Limits, expect: &str| {
        let tree = tempfile::tempdir().unwrap();
        let error = unpack(&archive.end()[..], &root(tree.path()), &View::empty(), &limits).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    };
    let three = Archive::default().dir("a").dir("b").file("c", "content");
    let limits = Limits::default();
    check(three.clone(), Limits { entries: 2, ..limits }, "more than 2 entries");
    check(three.clone(), Limits { bytes: 6, ..limits }, "more than 6 bytes of content");
    check(three.clone(), Limits { path: 0, ..limits }, "more than 0 bytes in a path");
    check(three.symlink("l", "long"), Limits { path: 3, ..limits }, "more than 3 bytes in a path");
    let records = [("GNU.sparse.size", &b"9"[..]), ("GNU.sparse.map", b"0,1,4,1,6,1")];
    let sparse = Archive::default().pax(&records).file("s", "abc");
    check(sparse, Limits { sparse_parts: 2, ..limits }, "more than 2 parts in a sparse file");
    let long = vec![b'n'; 300];
    check(Archive::default().pax(&[("path", &long)]).file("n", ""), limits, "cannot unpack the entry");
}

/// Reads an archive to the end: the paths with kinds, sizes and contents, or the error.
fn list(archive: &[u8]) -> Result<Vec<(String, Kind, Vec<u8>)>, String> {
    let mut reader = Reader::new(archive);
    let mut list = Vec::new();
    while let Some(member) = reader.next_member().map_err(|error| error.to_string())? {
        let mut content = Vec::new();
        reader.body().read_to_end(&mut content).map_err(|error| error.to_string())?;
        assert_eq!(content.len() as u64, member.meta.size);
        list.push((member.path.to_string_lossy().into_owned(), member.meta.kind, content));
    }
    Ok(list)
}

/// RUSTSEC-2026-0068 and tar-rs#428: a newline in a value must not end its record.
#[test]
fn r428_records_are_not_split_at_newlines() {
    let hidden = Archive::default().entry(Header { mode: 0o4755, ..Header::new(b'0', "smuggled") }, b"").0;
    let mut content = [hidden, vec![0; 512]].concat();
    content.truncate(1024);
    let sized = Header::new(b'0', "data").block();
    let records = [("SCHILY.xattr.user.x", &b"x\n10 size=0"[..]), ("size", b"1024")];
    let archive = Archive::default().pax(&records).raw(&sized).padded(&content).file("last", "z").end();
    let listed = list(&archive).unwrap();
    let names: Vec<_> = listed.iter().map(|(name, _, content)| (name.as_str(), content.len())).collect();
    assert_eq!(names, [("data", 1024), ("last", 1)]);
}

#[test]
fn two_meanings_are_refused() {
    fn check(archive: Archive, expect: &str) {
        let error = list(&archive.end()).unwrap_err();
        assert!(error.contains(expect), "{error}");
    }
    let new = Archive::default;
    let file = |name: &str| Archive::default().file(name, "").0;
    let gnu = |flag: u8, name: &[u8]| new().entry(Header::new(flag, "././@LongLink"), name);
    check(new().pax(&[("path", b"a"), ("path", b"b")]).file("c", ""), "given twice");
    check(new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("c", ""), "two extended headers");
    check(new().pax(&[("path", b"a\0b")]).file("c", ""), "zero byte");
    check(gnu(b'L', b"a\0").pax(&[("path", b"b")]).file("c", ""), "two names");
    check(gnu(b'L', b"a\0b\0").file("c", ""), "zero byte");
    check(gnu(b'L', b"a\0").raw(&gnu(b'L', b"b\0").0).file("c", ""), "two long names");
    check(new().pax(&[("size", b"512")]).file("c", "content"), "two sizes");
    check(new().pax(&[("size", b"-1")]).file("c", ""), "malformed number");
    check(new().pax(&[("size", b"99999999999999999999")]).file("c", ""), "malformed number");
    check(new().pax(&[("size", b"18446744073709551615")]).file("c", ""), "too large");
    check(new().pax(&[("uid", b"4294967295")]).file("c", ""), "no user or group number");
    check(new().pax(&[("uid", b"4294967296")]).file("c", ""), "no user or group number");
    check(new().pax(&[("mtime", b"x")]).file("c", ""), "malformed time");
    check(new().extended(b'g', &[("path", b"a")]).file("c", ""), "global header");
    check(new().extended(b'g', &[("size", b"1")]).file("c", ""), "global header");
    check(new().entry(Header::new(b'5', "d"), b"content"), "no file has content");
    check(
        new().entry(Header { link: b"x".to_vec(), ..Header::new(b'2', "l") }, b"content"),
        "no file has content",
    );
    check(new().symlink("l", ""), "without a target");
    check(new().raw(&[0; 512]).file("hidden", ""), "follows the end mark");
    check(new().entry(Header::new(b'M', "c"), b""), "unsupported type `M`");
    check(new().pax(&[("GNU.sparse.major", b"2")]).file("c", ""), "unknown sparse format");
    let mut wrong = Header::new(b'0', "c").block();
    wrong[0] = b'd';
    check(new().raw(&wrong), "checksum");
    let mut field = Header::new(b'0', "c").block();
    field[124..136].copy_from_slice(b"9999999999 \0");
    seal(&mut field);
    check(new().raw(&field), "not a number");
    field[124..136].copy_from_slice(&[0xff; 12]);
    seal(&mut field);
    check(new().raw(&field), "not a number");
    for cut in [1, 511, 513, 700] {
        let whole = Archive(file("c")).file("d", &"x".repeat(600)).0;
        assert!(list(&whole[..cut]).unwrap_err().contains("cut off"), "{cut}");
    }
    assert!(list(&new().pax(&[("path", b"a")]).0).unwrap_err().contains("cut off"));
    let huge = Header { size: 1 << 21, ..Header::new(b'x', "x") };
    assert!(list(&huge.block()).unwrap_err().contains("too large"));
    assert_eq!(list(b"").unwrap(), []);
}

#[test]
fn odd_but_clear_archives_are_read() {
    let new = Archive::default;
    let names =
        |archive: Vec<u8>| list(&archive).unwrap().into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
    assert_eq!(names(new().extended(b'g', &[("comment", b"git")]).file("a", "x").end()), ["a"]);
    assert_eq!(names(new().file("a", "x").0), ["a"]);
    assert_eq!(names(new().file("a", "x").raw(&[0; 512]).0), ["a"]);
    assert_eq!(names(new().file("a", "x").end().into_iter().chain([7; 999]).collect()), ["a"]);
    let old = Header { magic: [0; 8], ..Header::new(0, "dir/") };
    assert!(matches!(&list(&new().entry(old, b"").end()).unwrap()[..], [(_, Kind::Directory, _)]));
    let long = vec![b'n'; 200];
    let records = [("path", &long[..]), ("uname", b"x"), ("atime", b"1.5"), ("SCHILY.xattr.user.e", b"")];
    assert_eq!(names(new().pax(&records).file("short", "").end()), [String::from_utf8(long).unwrap()]);
}

#[test]
fn sparse_members_are_expanded() {
    let stored = "AABC";
    let expect = b"\0\0AA\0B\0\0C\0".to_vec();
    let check = |archive: Vec<u8>| {
        let listed = list(&archive).unwrap();
        assert_eq!(listed[0].2, expect);
        assert_eq!(listed[1].0, "next");
        let tree = tempfile::tempdir().unwrap();
        unpack(&archive[..], &root(tree.path()), &View::empty(), &Limits::default()).unwrap();
        assert_eq!(std::fs::read(tree.path().join(&listed[0].0)).unwrap(), expect);
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &archive).unwrap();
        let changes = read_archive(&Arc::new(file), &Limits::default()).unwrap();
        let Some(rbuild_layers::Entry::Node { content, .. }) = changes.get(&listed[0].0) else { panic!() };
        let mut read = Vec::new();
        content.open().unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, expect);
    };
    let pairs = ["2", "2", "5", "1", "8", "1"];
    let zero: Vec<u8> = [("GNU.sparse.size", "10"), ("GNU.sparse.numblocks", "3")]
        .into_iter()
        .chain(pairs.iter().enumerate().map(|(at, number)| {
            (if at % 2 == 0 { "GNU.sparse.offset" } else { "GNU.sparse.numbytes" }, *number)
        }))
        .flat_map(|(key, value)| record(key, value.as_bytes()))
        .collect();
    check(Archive::default().entry(Header::new(b'x', "x"), &zero).file("s", stored).file("next", "").end());
    let one =
        [("GNU.sparse.size", &b"10"[..]), ("GNU.sparse.map", b"2,2,5,1,8,1"), ("GNU.sparse.name", b"s")];
    check(Archive::default().pax(&one).file("GNUSparseFile/s", stored).file("next", "").end());
    let records =
        [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"10")];
    let mut map = Archive::default().padded(b"3\n2\n2\n5\n1\n8\n1\n").0;
    map.extend_from_slice(stored.as_bytes());
    check(Archive::default().pax(&records).entry(Header::new(b'0', "s"), &map).file("next", "").end());
    let mut old = Header { size: 4, magic: *b"ustar  \0", ..Header::new(b'S', "s") }.block();
    for (at, number) in pairs.iter().enumerate() {
        old[386 + 12 * at..398 + 12 * at]
            .copy_from_slice(format!("{:011o}\0", number.parse::<u64>().unwrap()).as_bytes());
    }
    old[483..495].copy_from_slice(b"00000000012\0");
    seal(&mut old);
    check(Archive::default().raw(&old).padded(stored.as_bytes()).file("next", "").end());

    let bad = [("GNU.sparse.size", &b"10"[..]), ("GNU.sparse.map", b"8,4")];
    assert!(list(&Archive::default().pax(&bad).file("s", stored).end()).is_err());
}

fn hostile_name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "..",
        ".",
        "",
        "canary",
        "etc",
        "passwd",
        "file",
        "upper",
        ".wh.a",
        ".wh.etc",
        ".wh..wh..opq",
        ".wh...",
    ]);
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn hostile_entry() -> impl Strategy<Value = (u8, String, String)> {
    (prop::sample::select(b"0012255".to_vec()), hostile_name(), hostile_name())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_entries_stay_inside(entries in prop::collection::vec(hostile_entry(), 1..14)) {
        let archive = entries.iter().fold(Archive::default(), |archive, (flag, name, target)| match flag {
            b'1' => archive.link(name, target),
            b'2' => archive.symlink(name, target),
            b'5' => archive.dir(name),
            _ => archive.file(name, "hostile"),
        });
        let archive = archive.end();
        exercise::unpack_beside_canary(&archive);
        exercise::round_trip(&archive);
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &archive).unwrap();
        drop(read_archive(&Arc::new(file), &Limits::default()));
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        seed in prop::collection::vec(any::<u8>(), 0..3000),
        flips in prop::collection::vec((0_usize..4096, any::<u8>()), 0..6),
    ) {
        exercise::read(&seed);
        let records = [("path", &b"long/name"[..]), ("size", b"3"), ("GNU.sparse.map", b"0,3"), ("GNU.sparse.size", b"9")];
        let mut bytes = Archive::default().pax(&records).file("s", "abc").file("t", "x").end();
        for (at, value) in flips {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        for at in (0..bytes.len() - 511).step_by(512) {
            let mut block: [u8; 512] = bytes[at..at + 512].try_into().unwrap();
            if block != [0; 512] {
                seal(&mut block);
                bytes[at..at + 512].copy_from_slice(&block);
            }
        }
        exercise::read(&bytes);
        exercise::unpack_beside_canary(&bytes);
        exercise::round_trip(&bytes);
    }
}

#[test]
fn archives_for_add_are_plain_trees() {
    let read = |archive: Archive| {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &archive.end()).unwrap();
        read_archive(&Arc::new(file), &Limits::default())
    };
    let new = Archive::default;
    let changes =
        read(new().dir("./").file("a", "1").link("b", "a").link("c", "b").file("a", "2").dir("d")).unwrap();
    let shown: BTreeMap<_, _> = changes
        .iter()
        .map(|(path, entry)| {
            let text = match entry {
                rbuild_layers::Entry::HardLink(target) => format!("link {}", target.display()),
                rbuild_layers::Entry::Node { meta, content } => {
                    format!("{:?} {}", meta.kind, io::read_to_string(content.open().unwrap()).unwrap())
                }
                entry => format!("{entry:?}"),
            };
            (path.to_owned(), text)
        })
        .collect();
    let shown: Vec<_> = shown.iter().map(|(path, text)| (path.to_str().unwrap(), text.as_str())).collect();
    let expect = [("", "Directory "), ("a", "File 2"), ("b", "File 1"), ("c", "link b"), ("d", "Directory ")];
    assert_eq!(shown, expect);
    assert!(changes.rebase(Path::new("/x")).get("x/a").is_some());
    let narrow = Header { link: b"a".into(), mode: 0o600, ..Header::new(b'1', "h") };
    let changes = read(new().file("a", "").entry(narrow, b"")).unwrap();
    assert_eq!(changes.get("a").and_then(rbuild_layers::Entry::meta).unwrap().mode, 0o600);
    let nameless = read(new().file("", "").file("a", "")).unwrap();
    assert_eq!(nameless.iter().map(|(path, _)| path).collect::<Vec<_>>(), [Path::new("a")]);
    let linked =
        new().dir("d").symlink("d/l", "../../e").file("d/l/x", "").symlink("k", "/d/l").link("k/h", "k/x");
    let linked = read(linked.symlink("o", "o").file("f", "")).unwrap();
    let paths: Vec<_> = linked.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    assert_eq!(paths, ["d", "d/l", "e/h", "e/x", "f", "k", "o"]);
    assert!(read(new().symlink("o", "o").file("o/x", "")).is_err());
    assert!(read(new().file("f", "").file("f/x", "")).is_err());
    assert!(read(new().link("h", "nothing")).is_err());
    assert!(read(new().file("a", &"x".repeat(200_000)).file(".wh.b", "")).unwrap().get(".wh.b").is_some());
    let mut cut = new().file("a", &"x".repeat(200_000)).0;
    cut.truncate(190_000);
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, &cut).unwrap();
    assert!(read_archive(&Arc::new(file), &Limits::default()).unwrap_err().to_string().contains("cut off"));
}
