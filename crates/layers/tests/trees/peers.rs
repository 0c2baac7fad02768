//! GNU tar and the tar crate read what we write, and we read what they write.

use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use rbuild_layers::tar::write_changes;
use rbuild_layers::{
    Changes, Content, Entry, Kind, Limits, Meta, Time, View, from_upper, read_archive, unpack,
};

use crate::support::{is_root, own_ids, root, skipped, snapshot};

fn meta(kind: Kind, mode: u32) -> Meta {
    let (uid, gid) = own_ids();
    Meta { uid, gid, mtime: Time::seconds(1_600_000_000), ..Meta::new(kind, mode) }
}

fn file(content: impl Into<Vec<u8>>) -> Entry {
    let content = content.into();
    let meta = Meta { size: content.len() as u64, ..meta(Kind::File, 0o640) };
    Entry::Node { meta, content: Content::Bytes(Bytes::from(content)) }
}

/// Everything a layer may hold that needs no privilege.
fn changes() -> Changes {
    let mut changes = Changes::new();
    let deep = format!("{}/{}", vec!["d".repeat(200); 12].join("/"), "f".repeat(255));
    let at = |seconds| Entry::node(Meta { mtime: Time::seconds(seconds), ..meta(Kind::File, 0o600) });
    changes.insert("empty", file(""));
    changes.insert("dir", Entry::node(meta(Kind::Directory, 0o1755)));
    changes.insert("dir/file", file("content"));
    changes.insert("dir/block", file(vec![b'x'; 512]));
    changes.insert("dir/large", file(vec![b'y'; 300_000]));
    changes.insert("dir/link", Entry::HardLink("dir/file".into()));
    changes.insert("a-link", Entry::HardLink("dir/file".into()));
    changes.insert("sym", Entry::node(meta(Kind::Symlink("dir/../x y".into()), 0o777)));
    changes.insert("long-sym", Entry::node(meta(Kind::Symlink("t".repeat(300).into()), 0o777)));
    changes.insert("pipe", Entry::node(meta(Kind::Fifo, 0o600)));
    changes.insert("before-1970", at(-12_345));
    changes.insert("after-2106", at(5_000_000_000));
    changes.insert("ümlaut", file("u"));
    changes.insert(deep, file("deep"));
    changes.insert("n".repeat(100), file("just fits"));
    changes.insert(format!("{}/{}", "p".repeat(155), "n".repeat(100)), file("just fits too"));
    let mut noted = meta(Kind::File, 0o644);
    noted.xattrs.insert(b"user.lines".to_vec(), b"a\n10 size=9\n\0".to_vec());
    changes.insert("noted", Entry::node(noted));
    changes.with_parents(&View::empty()).unwrap()
}

fn archive(changes: &Changes) -> Vec<u8> {
    write_changes(changes, Vec::new(), None).unwrap()
}

#[test]
fn writing_is_deterministic_and_clamped() {
    let bytes = archive(&changes());
    assert_eq!(bytes, archive(&changes()));
    assert_eq!(bytes.len() % 512, 0);
    let clamped = write_changes(&changes(), Vec::new(), Some(1000)).unwrap();
    let listed = list(&clamped);
    assert!(listed.iter().all(|(_, mtime)| *mtime <= 1000));
    assert!(listed.contains(&("before-1970".into(), -12_345)));
}

fn list(bytes: &[u8]) -> Vec<(String, i64)> {
    let mut reader = rbuild_layers::tar::Reader::new(bytes);
    let mut list = Vec::new();
    while let Some(member) = reader.next_member().unwrap() {
        list.push((member.path.to_string_lossy().into_owned(), member.meta.mtime.seconds));
    }
    list
}

#[test]
fn layers_have_whiteout_names() {
    let mut changes = Changes::new();
    changes.insert("d/gone", Entry::Whiteout);
    changes.insert("o", Entry::Opaque(meta(Kind::Directory, 0o755)));
    changes.insert("socket", Entry::node(meta(Kind::Socket, 0o755)));
    changes.insert("", Entry::node(meta(Kind::Directory, 0o755)));
    let names: Vec<_> = list(&archive(&changes)).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["d/.wh.gone", "o/", "o/.wh..wh..opq"]);
    changes.insert("x/.wh.y", file(""));
    assert!(write_changes(&changes, Vec::new(), None).unwrap_err().to_string().contains("`x/.wh.y`"));
}

#[test]
fn hard_links_need_a_file_in_their_layer() {
    let check = |changes: &[(&str, Entry)], expect: &str| {
        let changes: Changes = changes.iter().map(|(path, entry)| ((*path).into(), entry.clone())).collect();
        let shown = match write_changes(&changes, Vec::new(), None) {
            Ok(bytes) => list(&bytes).into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expect);
    };
    let link = |target: &str| Entry::HardLink(target.into());
    check(&[("a", link("b")), ("b", link("c")), ("c", file("x")), ("d", link("a"))], "c d a b");
    check(&[("a", link("b"))], "the hard link `a` has no file `b` in its layer");
    check(&[("a", link("b")), ("b", link("a"))], "the hard link `a` has no file `b` in its layer");
    check(&[("a", link("b")), ("b", Entry::Whiteout)], "the hard link `a` has no file `b` in its layer");
}

#[test]
fn contents_of_another_length_are_refused() {
    for size in [1, 3] {
        let mut changes = Changes::new();
        let meta = Meta { size, ..meta(Kind::File, 0o644) };
        changes.insert("f", Entry::Node { meta, content: Content::Bytes(Bytes::from_static(b"ab")) });
        assert!(write_changes(&changes, Vec::new(), None).unwrap_err().to_string().contains("changed while"));
    }
}

#[test]
fn the_tar_crate_reads_what_we_write() {
    let changes = changes();
    let bytes = archive(&changes);
    let mut peer = tar::Archive::new(&bytes[..]);
    let mut seen = 0;
    for entry in peer.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        seen += 1;
        match changes.get(&path).unwrap() {
            Entry::HardLink(target) => {
                assert_eq!(entry.link_name().unwrap().unwrap(), target.as_path());
                // containerd sets the attributes of a link's header on the file
                let (header, meta) = (entry.header(), changes.get(target).unwrap().meta().unwrap());
                assert_eq!((header.mode().unwrap(), header.mtime().unwrap()), (meta.mode, 1_600_000_000));
            }
            Entry::Node { meta, content } => {
                assert_eq!(entry.header().mode().unwrap(), meta.mode);
                if let Kind::Symlink(target) = &meta.kind {
                    assert_eq!(entry.link_name().unwrap().unwrap(), Path::new(target));
                }
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                content.open().unwrap().read_to_end(&mut ours).unwrap();
                entry.read_to_end(&mut theirs).unwrap();
                assert_eq!(ours, theirs, "{}", path.display());
            }
            entry => panic!("{entry:?}"),
        }
    }
    assert_eq!(seen, changes.len());
}

fn gnu_tar(arguments: &[&str], directory: &Path) {
    let output = Command::new("tar").args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "tar {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn has_gnu_tar() -> bool {
    let version = Command::new("tar").arg("--version").output();
    let found = version.is_ok_and(|output| output.stdout.starts_with(b"tar (GNU tar)"));
    if !found {
        skipped("GNU tar is not installed");
    }
    found
}

#[test]
fn gnu_tar_reads_what_we_write() {
    if !has_gnu_tar() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (directory.path().join("ours"), directory.path().join("theirs"));
    let bytes = archive(&changes());
    for path in [&ours, &theirs] {
        std::fs::create_dir(path).unwrap();
    }
    std::fs::write(directory.path().join("a.tar"), &bytes).unwrap();
    gnu_tar(&["-xpf", "../a.tar", "--xattrs", "--xattrs-include=*", "--delay-directory-restore"], &theirs);
    unpack(&bytes[..], &root(&ours), &View::empty(), &Limits::default()).unwrap();
    let (ours, theirs) = (snapshot(&View::directory(root(&ours))), snapshot(&View::directory(root(&theirs))));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (path, node) in &ours {
        assert_eq!(node, &theirs[path], "{path}");
    }
}

#[test]
fn we_read_what_gnu_tar_writes() {
    if !has_gnu_tar() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    rbuild_layers::apply(&changes(), &root(&tree), &View::empty()).unwrap();
    let sparse = std::fs::File::create(tree.join("sparse")).unwrap();
    for at in 0..60 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", at * 65_536).unwrap();
    }
    sparse.set_len(1 << 23).unwrap();
    if is_root() {
        root(&tree).mknod(Path::new("null"), &meta(Kind::CharDevice { major: 1, minor: 3 }, 0o666)).unwrap();
    } else {
        skipped("making devices needs root");
    }
    let original = snapshot(&View::directory(root(&tree)));
    for (index, options) in [
        &["--format=gnu", "--sparse", "--exclude=noted"][..],
        &["--format=posix", "--sparse", "--sparse-version=0.0", "--xattrs"],
        &["--format=posix", "--sparse", "--sparse-version=0.1", "--xattrs"],
        &["--format=posix", "--sparse", "--sparse-version=1.0", "--xattrs"],
    ]
    .into_iter()
    .enumerate()
    {
        let file = directory.path().join("b.tar");
        let arguments = [&["-cf", "../b.tar"], options, &["."]].concat();
        gnu_tar(&arguments, &tree);
        let target = directory.path().join(format!("unpacked-{index}"));
        std::fs::create_dir(&target).unwrap();
        let stream = std::fs::File::open(&file).unwrap();
        unpack(&stream, &root(&target), &View::empty(), &Limits::default()).unwrap();
        let unpacked = snapshot(&View::directory(root(&target)));
        for (path, node) in original.iter().filter(|(path, _)| index > 0 || path.as_str() != "noted") {
            let mut node = node.clone();
            if index == 0 {
                node.meta.mtime.nanos = 0;
            }
            assert_eq!(unpacked.get(path), Some(&node), "{path} with {options:?}");
        }
        let changes =
            read_archive(&Arc::new(std::fs::File::open(&file).unwrap()), &Limits::default()).unwrap();
        let read = from_upper(&root(&target), &View::empty()).unwrap();
        let names = |changes: &Changes| {
            changes
                .iter()
                .map(|(path, _)| path.to_owned())
                .filter(|path| path != Path::new(""))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&changes), names(&read));
    }
}
