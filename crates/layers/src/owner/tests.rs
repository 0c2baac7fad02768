use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::meta::{Meta, Time};
use crate::root::Root;

fn tree() -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::recorded(directory.path(), OwnerTable::default()).unwrap();
    (directory, root)
}

fn meta(kind: Kind, mode: u32, uid: u32, gid: u32) -> Meta {
    Meta { uid, gid, mtime: Time { seconds: 7, nanos: 9 }, ..Meta::new(kind, mode) }
}

#[test]
fn what_cannot_be_set_is_recorded() {
    let (directory, root) = tree();
    let own = std::fs::metadata(directory.path()).unwrap();
    let capability = BTreeMap::from([
        (b"security.capability".to_vec(), b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        (b"user.note".to_vec(), b"x".to_vec()),
    ]);
    for (name, meta) in [
        ("root", meta(Kind::File, 0o644, 0, 0)),
        ("setuid", meta(Kind::File, 0o6755, 33, 0)),
        ("capable", Meta { xattrs: capability, ..meta(Kind::File, 0o444, 0, 42) }),
        ("closed", meta(Kind::File, 0o000, 1, 1)),
        ("runnable", meta(Kind::File, 0o4111, 0, 0)),
        ("sticky", meta(Kind::File, 0o1644, 0, 0)),
        ("directory", meta(Kind::Directory, 0o2755, 100, 65534)),
        ("entered", meta(Kind::Directory, 0o644, 0, 5)),
        ("listed", meta(Kind::Directory, 0o300, 0, 0)),
        ("temporary", meta(Kind::Directory, 0o1777, 0, 0)),
        ("link", meta(Kind::Symlink("nowhere".into()), 0o777, 33, 34)),
        ("pipe", meta(Kind::Fifo, 0o200, 35, 36)),
        ("null", meta(Kind::CharDevice { major: 1, minor: 3 }, 0o666, 0, 6)),
        ("disk", meta(Kind::BlockDevice { major: 259, minor: 70_000 }, 0o000, 0, 6)),
    ] {
        let path = Path::new(name);
        match &meta.kind {
            Kind::File => drop(root.create_file(path).unwrap()),
            Kind::Directory => root.create_dir(path).unwrap(),
            Kind::Symlink(target) => root.symlink(path, Path::new(target)).unwrap(),
            _ => root.mknod(path, &meta).unwrap(),
        }
        root.set_meta(path, &meta).unwrap();
        assert_eq!(root.metadata(path).unwrap(), Some(meta.clone()), "{name}");
        let disk = std::fs::symlink_metadata(directory.path().join(name)).unwrap();
        assert_eq!((disk.uid(), disk.gid()), (own.uid(), own.gid()), "{name}");
        let again = Meta { uid: 0, gid: 0, mode: 0o755, ..meta };
        if !again.is_symlink() {
            root.set_meta(path, &again).unwrap();
            assert_eq!(root.metadata(path).unwrap(), Some(again), "{name}");
        }
    }
}

#[test]
fn a_later_mode_wins() {
    let (directory, root) = tree();
    let path = Path::new("f");
    drop(root.create_file(path).unwrap());
    root.set_meta(path, &meta(Kind::File, 0o000, 0, 0)).unwrap();
    let disk = directory.path().join("f");
    assert_eq!(std::fs::metadata(&disk).unwrap().mode() & 0o7777, 0o1400);
    for mode in [0o400, 0o600, 0o700] {
        std::fs::set_permissions(&disk, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(root.metadata(path).unwrap().unwrap().mode, mode);
    }
}

#[test]
fn descriptors_tell_and_take_owners() {
    use rustix::fs::{Mode, OFlags};
    let (directory, root) = tree();
    let table = root.owners().unwrap().clone();
    std::fs::write(directory.path().join("f"), "").unwrap();
    std::fs::set_permissions(directory.path().join("f"), PermissionsExt::from_mode(0o000)).unwrap();
    symlink("f", directory.path().join("l")).unwrap();
    std::fs::create_dir(directory.path().join("d")).unwrap();
    let node = Some(Node { kind: NodeKind::Block, major: 8, minor: 1 });
    for (name, node) in [("f", node), ("l", None), ("d", None)] {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(directory.path().join(name), flags, Mode::empty()).unwrap();
        let stat = rustix::fs::fstat(&fd).unwrap();
        let size = u64::try_from(stat.st_size).unwrap();
        assert_eq!(read(fd.as_fd(), stat.st_mode, size, &table).unwrap(), Owner::default());
        let owner = Owner { uid: 5, gid: 6, node, mode: None };
        record(fd.as_fd(), stat.st_mode, &owner, &table).unwrap();
        assert_eq!(read(fd.as_fd(), stat.st_mode, size, &table).unwrap(), owner);
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_mode, stat.st_mode);
        let seen = root.metadata(Path::new(name)).unwrap().unwrap();
        assert_eq!((seen.uid, seen.gid), (5, 6));
    }
}

#[test]
fn link_owners_outlive_inode_numbers() {
    let (directory, root) = tree();
    std::fs::create_dir_all(directory.path().join("a b")).unwrap();
    for (path, owner) in [("a b/one", (1, 2)), ("two\n", (3, 4)), ("root", (0, 0))] {
        symlink("x", directory.path().join(path)).unwrap();
        root.put_link_owner(Path::new(path), owner).unwrap();
    }
    let text = root.link_owners().unwrap();
    let mut owners = OwnerTable::parse(&text).unwrap();
    owners.sort_unstable();
    assert_eq!(owners, [(Path::new("a b/one"), (1, 2)), (Path::new("two\n"), (3, 4))]);
    assert!(OwnerTable::parse(b"1:2").is_none());
    assert!(OwnerTable::parse(b"x:2 y\0").is_none());
}
