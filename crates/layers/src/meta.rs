//! What a tree says of one path besides its content.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// A point in time as file systems store it: seconds since 1970-01-01 UTC, which may be negative, and
/// nanoseconds of that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds since the epoch, rounded towards negative infinity.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below 1 000 000 000.
    pub nanos: u32,
}

impl Time {
    /// Makes a time of whole seconds.
    pub const fn seconds(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }
}

/// The type of a path, with what only this type has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and its target, byte for byte.
    Symlink(OsString),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A unix socket. Layers never list one.
    Socket,
}

/// The attributes of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The type.
    pub kind: Kind,
    /// Permission, setuid, setgid and sticky bits (`07777`).
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of the last modification.
    pub mtime: Time,
    /// The length of a regular file in bytes; 0 for everything else.
    pub size: u64,
    /// The extended attributes that travel in layers ([`crate::xattr::travels`]), by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Meta {
    /// Makes the attributes of a path owned by `0:0`, at the epoch, empty and without extended attributes.
    pub const fn new(kind: Kind, mode: u32) -> Self {
        Self { kind, mode, uid: 0, gid: 0, mtime: Time::seconds(0), size: 0, xattrs: BTreeMap::new() }
    }

    /// Makes the attributes a directory gets that nobody described: `0755`, owned by `0:0`, at the epoch.
    pub const fn default_directory() -> Self {
        Self::new(Kind::Directory, 0o755)
    }

    /// Tells whether this is a directory.
    pub const fn is_dir(&self) -> bool {
        matches!(self.kind, Kind::Directory)
    }

    /// Tells whether this is a regular file.
    pub const fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File)
    }

    /// Tells whether this is a symbolic link.
    pub const fn is_symlink(&self) -> bool {
        matches!(self.kind, Kind::Symlink(_))
    }
}
