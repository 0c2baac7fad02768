//! Owners of files that the process running the sandbox cannot give away.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::Stat;

/// Whether a step changes the owners of files, or has them kept beside the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// Owners are the files' own.
    Native,
    /// Every file belongs to one user; what the step believes is kept by [`Owners`].
    Recorded,
}

/// Where the owners of files are kept that this process cannot give away.
///
/// Extended attributes whose names start with `user.rbuild.` are the keeper's: steps do not see them. One named
/// `user.rbuild.xattr.NAME` is shown as the attribute NAME, which this process could not set.
///
/// Both operations take the file as a descriptor opened with `O_PATH | O_NOFOLLOW`, which may be of any type, and what
/// `fstat` said of it. They are called from one thread of a step at a time, and from those of several steps at once.
pub trait Owners: Send + Sync + Debug {
    /// Returns what is recorded of a file; user and group 0 when nothing is.
    ///
    /// # Errors
    /// The record cannot be read.
    fn get(&self, file: BorrowedFd<'_>, stat: &Stat) -> io::Result<Recorded>;

    /// Records an owner, replacing what was recorded.
    ///
    /// # Errors
    /// The record cannot be written.
    fn set(&self, file: BorrowedFd<'_>, stat: &Stat, recorded: &Recorded) -> io::Result<()>;

    /// Tells whether anything but regular files and directories may have a record; `true` is always right, `false`
    /// saves looking.
    fn has_links(&self) -> bool {
        true
    }
}

/// What is recorded of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The device that a regular, empty file stands for.
    pub node: Option<Node>,
    /// The permission bits that the file is said to have, where its own are more: a file that closes itself to its
    /// owner cannot keep records. [`Owners::set`] does not change them.
    pub mode: Option<u32>,
}

/// A device that could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its type.
    pub kind: NodeKind,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
}

/// The type of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
}
