//! Unpacking into overlay form.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rbuild_layers::{Kind, Limits, Root, View, unpack};

use crate::support::{Archive, Header, is_root, root, skipped, snapshot};

struct Image {
    directory: tempfile::TempDir,
    layers: usize,
}

impl Image {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), layers: 0 }
    }

    fn view(&self) -> View {
        View::overlay((0..self.layers).map(|layer| self.layer(layer)).collect())
    }

    fn layer(&self, layer: usize) -> Root {
        root(&self.directory.path().join(layer.to_string()))
    }

    fn add(mut self, archive: Archive) -> Self {
        let path = self.directory.path().join(self.layers.to_string());
        std::fs::create_dir(&path).unwrap();
        unpack(&archive.end()[..], &root(&path), &self.view(), &Limits::default()).unwrap();
        self.layers += 1;
        self
    }

    fn names(&self) -> Vec<String> {
        snapshot(&self.view()).into_keys().collect()
    }
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    fn check(second: Archive, expect: &[&str]) {
        let lower = Archive::default()
            .dir("d")
            .file("d/a", "a")
            .file("d/b", "b")
            .file("f", "f")
            .dir("e")
            .file("e/x", "");
        assert_eq!(Image::new().add(lower).add(second).names(), expect);
    }
    let new = Archive::default;
    check(new(), &["d", "d/a", "d/b", "e", "e/x", "f"]);
    check(new().file("d/.wh.a", ""), &["d", "d/b", "e", "e/x", "f"]);
    check(new().file(".wh.d", "").file(".wh.none", ""), &["e", "e/x", "f"]);
    check(new().file(".wh.d", "").dir("d").file("d/c", ""), &["d", "d/c", "e", "e/x", "f"]);
    check(new().file(".wh.d", "").file("d/c", ""), &["d", "d/c", "e", "e/x", "f"]);
    check(new().dir("d").file("d/c", "").file(".wh.d", ""), &["d", "d/c", "e", "e/x", "f"]);
    check(new().file("f", "new").file(".wh.f", ""), &["d", "d/a", "d/b", "e", "e/x", "f"]);
    check(new().file("d/c", "").file("d/.wh..wh..opq", ""), &["d", "d/c", "e", "e/x", "f"]);
    check(new().file("d/.wh..wh..opq", "").file("d/b", ""), &["d", "d/b", "e", "e/x", "f"]);
    check(new().file("new", "").file(".wh..wh..opq", "").dir("e"), &["e", "new"]);
    check(new().file("d", "file"), &["d", "e", "e/x", "f"]);
    check(new().file("d", "file").dir("d"), &["d", "e", "e/x", "f"]);
    check(new().file("f/x", ""), &["d", "d/a", "d/b", "e", "e/x", "f", "f/x"]);
    check(new().file("d/.wh..wh.plnk/1", "").file(".wh..wh.aufs", ""), &["d", "d/a", "d/b", "e", "e/x", "f"]);
}

#[test]
fn attributes_are_set_last() {
    let image = Image::new().add(
        Archive::default()
            .dir("d")
            .pax(&[("mtime", b"-1.25"), ("SCHILY.xattr.user.note", b"a\n\0b")])
            .entry(Header { mode: 0o6751, ..Header::new(b'0', "d/f") }, b"content")
            .entry(Header { mode: 0o1500, ..Header::new(b'5', "d/sub") }, b"")
            .file("d/sub/x", "")
            .symlink("d/l", "f")
            .entry(Header { mode: 0o620, ..Header::new(b'6', "d/p") }, b""),
    );
    let tree = snapshot(&image.view());
    let file = &tree["d/f"].meta;
    assert_eq!((file.mode, file.mtime.seconds, file.mtime.nanos), (0o6751, -2, 750_000_000));
    assert_eq!(file.xattrs[&b"user.note"[..]], b"a\n\0b");
    for path in ["d", "d/sub", "d/sub/x", "d/l", "d/p"] {
        assert_eq!(tree[path].meta.mtime.seconds, 1_000_000_000, "{path}");
    }
    assert_eq!((tree["d/sub"].meta.mode, tree["d/p"].meta.mode), (0o1500, 0o620));
}

#[test]
fn missing_parents_are_as_below() {
    let lower = Archive::default().entry(Header { mode: 0o1777, ..Header::new(b'5', "tmp") }, b"");
    let image = Image::new().add(lower).add(Archive::default().file("tmp/a/f", ""));
    let tree = snapshot(&image.view());
    assert_eq!((tree["tmp"].meta.mode, tree["tmp"].meta.mtime.seconds), (0o1777, 1_000_000_000));
    assert_eq!((tree["tmp/a"].meta.mode, tree["tmp/a"].meta.mtime.seconds), (0o755, 0));
}

#[test]
fn hard_links_join_names() {
    let image = Image::new().add(Archive::default().dir("d").file("d/low", "low")).add(
        Archive::default()
            .file("a", "a")
            .link("b", "./a")
            .link("c", "/d/low")
            .symlink("s", "a")
            .link("t", "s"),
    );
    let tree = snapshot(&image.view());
    assert_eq!(
        (tree["b"].first.as_str(), tree["c"].first.as_str(), tree["t"].first.as_str()),
        ("a", "c", "s")
    );
    assert_eq!((tree["c"].content.as_slice(), tree["d/low"].first.as_str()), (&b"low"[..], "c"));
    assert_eq!(tree["t"].meta.kind, Kind::Symlink("a".into()));
}

#[test]
fn devices_are_made_where_allowed() {
    if !is_root() {
        skipped("making devices needs root");
        return;
    }
    let node = |flag, name, device| Header { device, ..Header::new(flag, name) };
    let archive =
        Archive::default().entry(node(b'3', "null", (1, 3)), b"").entry(node(b'4', "sda", (8, 255)), b"");
    let directory = tempfile::tempdir().unwrap();
    let upper = root(directory.path());
    let unpacked = unpack(&archive.end()[..], &upper, &View::empty(), &Limits::default()).unwrap();
    if !unpacked.refused_devices.is_empty() {
        skipped("this root may not make devices");
        return;
    }
    let kind = |name| upper.metadata(Path::new(name)).unwrap().unwrap().kind;
    assert_eq!(kind("null"), Kind::CharDevice { major: 1, minor: 3 });
    assert_eq!(kind("sda"), Kind::BlockDevice { major: 8, minor: 255 });
}

#[test]
fn holes_stay_holes() {
    let records =
        [("GNU.sparse.size", &b"8388609"[..]), ("GNU.sparse.map", b"8388608,1"), ("GNU.sparse.name", b"s")];
    let image = Image::new().add(Archive::default().pax(&records).file("x", "z"));
    let file = image.directory.path().join("0/s").metadata().unwrap();
    assert_eq!(file.len(), (8 << 20) + 1);
    assert!(file.blocks() * 512 < 1 << 20);
}

#[test]
fn the_stream_is_read_to_its_end() {
    let mut stream =
        std::io::Cursor::new([Archive::default().file("f", "").end(), vec![0; 500_000]].concat());
    let directory = tempfile::tempdir().unwrap();
    unpack(&mut stream, &root(directory.path()), &View::empty(), &Limits::default()).unwrap();
    assert_eq!(stream.position(), stream.get_ref().len() as u64);
}
