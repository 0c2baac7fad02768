//! What `stat` and our records say of a file.

use std::collections::BTreeMap;

use rustix::fs::FileType;

use crate::meta::{Kind, Meta, Time};
use crate::owner::{self, Marks};

/// What `stat` says, with the same integer types on every architecture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    /// The mode, of what the file stands for if that is recorded.
    pub(crate) mode: u32,
    /// The mode the file has.
    pub(super) disk_mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) nlink: u64,
    pub(crate) rdev: u64,
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
    pub(super) whiteout: bool,
}

impl Status {
    #[expect(
        clippy::unnecessary_cast,
        reason = "the fields of stat have other widths on other architectures"
    )]
    pub(super) fn new(stat: &rustix::fs::Stat) -> Self {
        let mode = stat.st_mode as u32;
        Self {
            mode,
            disk_mode: mode,
            uid: stat.st_uid as u32,
            gid: stat.st_gid as u32,
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            nlink: stat.st_nlink as u64,
            rdev: stat.st_rdev as u64,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: Time { seconds: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
            ctime: Time { seconds: stat.st_ctime as i64, nanos: stat.st_ctime_nsec as u32 },
            whiteout: FileType::from_raw_mode(mode) == FileType::CharacterDevice && stat.st_rdev == 0,
        }
    }

    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    pub(crate) fn is_file(&self) -> bool {
        self.file_type() == FileType::RegularFile
    }

    pub(crate) fn is_symlink(&self) -> bool {
        self.file_type() == FileType::Symlink
    }

    /// Tells whether its owner is in its attributes, if it is recorded at all.
    pub(crate) fn carries_xattrs(&self) -> bool {
        owner::carries_xattrs(self.disk_mode)
    }

    /// Tells whether this is the sign for a path that is gone.
    pub(crate) fn is_whiteout(&self) -> bool {
        self.whiteout
    }

    /// Has the file be what it is recorded to be.
    pub(super) fn mark(&mut self, marks: Marks) {
        if let Some(node) = marks.node {
            self.mode = self.mode & 0o7777 | node.file_type().as_raw_mode();
            self.rdev = rustix::fs::makedev(node.major, node.minor);
        }
        if let Some(mode) = marks.mode {
            self.mode = self.mode & !0o7777 | mode;
        }
    }

    pub(super) fn meta(&self, kind: Kind) -> Meta {
        let size = if kind == Kind::File { self.size } else { 0 };
        let xattrs = BTreeMap::new();
        Meta { kind, mode: self.mode & 0o7777, uid: self.uid, gid: self.gid, mtime: self.mtime, size, xattrs }
    }
}
