//! Python's tarfile and this crate read the same from the same bytes, whoever wrote them.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use rbuild_image::Digest;
use rbuild_layers::tar::{Reader, write_changes};
use rbuild_layers::{Changes, Content, Entry, Kind, Meta, Time, View};

use crate::support::skipped;

fn script(arguments: &[&OsStr]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees/python_tar.py");
    let output = Command::new("python3").arg("-X").arg("utf8").arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        skipped("python3 is not installed");
    }
    found
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".to_owned();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lists an archive as the script does.
fn list(archive: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(archive);
    let mut lines = Vec::new();
    while let Some(member) = reader.next_member().unwrap() {
        let Meta { kind, mode, uid, gid, mtime, .. } = &member.meta;
        let mut path = member.path.as_os_str().as_bytes();
        while let Some(shorter) = path.strip_suffix(b"/") {
            path = shorter;
        }
        let (mut device, mut link, mut digest) = ("-".to_owned(), "-".to_owned(), "-".to_owned());
        let kind = match (kind, &member.hard_link) {
            (_, Some(target)) => {
                link = hex(target.as_os_str().as_bytes());
                "link"
            }
            (Kind::File, None) => {
                let mut content = Vec::new();
                reader.body().read_to_end(&mut content).unwrap();
                digest = Digest::of(&content).hex();
                "file"
            }
            (Kind::Symlink(target), None) => {
                link = hex(target.as_bytes());
                "symlink"
            }
            (Kind::CharDevice { major, minor }, None) => {
                device = format!("{major}:{minor}");
                "char"
            }
            (Kind::BlockDevice { major, minor }, None) => {
                device = format!("{major}:{minor}");
                "block"
            }
            (Kind::Directory, None) => "dir",
            (Kind::Fifo, None) => "fifo",
            (Kind::Socket, None) => panic!("no archive holds sockets"),
        };
        let name = hex(path);
        lines.push(format!("{name} {kind} {mode:o} {uid} {gid} {} {device} {link} {digest}", mtime.seconds));
    }
    lines
}

#[test]
fn we_read_what_python_writes() {
    if !has_python() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("archive");
    for form in ["ustar", "gnu", "pax"] {
        for seed in ["1", "2", "3"] {
            let arguments = [OsStr::new("write"), OsStr::new(form), OsStr::new(seed), file.as_os_str()];
            script(&arguments);
            let theirs = script(&[OsStr::new("list"), file.as_os_str()]);
            let ours = list(&std::fs::read(&file).unwrap());
            assert_eq!(theirs.len(), 300);
            assert_eq!(ours, theirs, "{form} {seed}");
        }
    }
}

/// Numbers that look random and are always the same.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn name(&mut self, longest: u64) -> OsString {
        let bytes =
            (0..=self.below(longest)).map(|_| [b'a', b'b', b' ', b'\n', 0xff, b'.'][self.below(6) as usize]);
        let name: Vec<u8> = std::iter::once(b'x').chain(bytes).collect();
        OsString::from_vec(name)
    }

    fn path(&mut self) -> PathBuf {
        (0..=self.below(6)).map(|_| self.name(90)).collect()
    }

    fn entry(&mut self) -> Entry {
        let length = [0, 1, 511, 512, 513, 70_000][self.below(6) as usize];
        let content: Vec<u8> = (0..length).map(|_| self.below(256) as u8).collect();
        let kind = match self.below(6) {
            0 => Kind::Symlink(self.name(300)),
            1 => Kind::Fifo,
            2 => Kind::CharDevice { major: self.below(4096) as u32, minor: self.below(1 << 20) as u32 },
            3 => Kind::Directory,
            _ => Kind::File,
        };
        let seconds = self.below(1 << 36) as i64 - (1 << 34);
        let (uid, gid) = (self.below(0xffff_ffff) as u32, self.below(1 << 22) as u32);
        let meta = Meta {
            uid,
            gid,
            mtime: Time { seconds, nanos: 0 },
            ..Meta::new(kind, self.below(0o10000) as u32)
        };
        match meta.kind {
            Kind::File => Entry::Node {
                meta: Meta { size: length as u64, ..meta },
                content: Content::Bytes(Bytes::from(content)),
            },
            _ => Entry::node(meta),
        }
    }
}

#[test]
fn python_reads_what_we_write() {
    if !has_python() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("archive");
    for seed in 1..6 {
        let mut chance = Chance(seed);
        let mut changes = Changes::new();
        for _ in 0..300 {
            let (path, entry) = (chance.path(), chance.entry());
            changes.insert(&path, entry);
            if chance.below(4) == 0 && changes.get(&path).and_then(Entry::meta).is_some_and(Meta::is_file) {
                changes.insert(chance.path(), Entry::HardLink(path));
            }
        }
        let changes = changes.with_parents(&View::empty()).unwrap();
        let archive = write_changes(&changes, Vec::new(), None).unwrap();
        std::fs::write(&file, &archive).unwrap();
        let theirs = script(&[OsStr::new("list"), file.as_os_str()]);
        let ours = list(&archive);
        assert!(theirs.len() > 300);
        assert_eq!(ours, theirs, "{seed}");
    }
}
