//! Owners that the kernel does not let this process give away, kept in records beside the files.
//!
//! A tree is [`Ownership::Native`] when files have the owners they are said to have, or [`Ownership::Recorded`]
//! when all of them belong to this process and the rest is written down:
//!
//! | what | where |
//! | --- | --- |
//! | owner of a file or directory | `user.rbuild.owner` = `UID:GID` |
//! | a device node: an empty regular file | `user.rbuild.node` = `c MAJOR:MINOR` or `b MAJOR:MINOR` |
//! | an attribute that needs privileges | `user.rbuild.xattr.NAME` = its value |
//! | a mode that keeps its owner from reading | `user.rbuild.mode` = the mode in octal; see `open_form` |
//! | owner of a symbolic link, pipe or socket | an [`OwnerTable`], as these carry no `user.*` attribute |
//!
//! What has no record belongs to 0:0. Records never travel: no layer carries them, and none is taken over from one.

mod table;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{FileType, Mode, XattrFlags};
use rustix::io::{Errno, Result};

pub use table::OwnerTable;

use crate::meta::Kind;
use crate::xattr;

const OWNER: &str = "user.rbuild.owner";
const NODE: &str = "user.rbuild.node";
const MODE: &str = "user.rbuild.mode";
const XATTR: &[u8] = b"user.rbuild.xattr.";

/// How the trees of a store keep the owners of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Files have their owners: this process may give them away.
    Native,
    /// Files belong to this process, their owners are recorded.
    Recorded,
}

/// What is recorded of one file. Where nothing is, root owns it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The device that an empty regular file stands for.
    pub node: Option<Node>,
    /// The permission bits, where the file has others so that this process can read it.
    pub mode: Option<u32>,
}

/// A device node that this process may not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its type.
    pub kind: NodeKind,
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
}

/// The type of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
}

impl Node {
    pub(crate) const fn of(kind: &Kind) -> Option<Self> {
        match *kind {
            Kind::CharDevice { major, minor } => Some(Self { kind: NodeKind::Char, major, minor }),
            Kind::BlockDevice { major, minor } => Some(Self { kind: NodeKind::Block, major, minor }),
            _ => None,
        }
    }

    pub(crate) const fn file_type(self) -> FileType {
        match self.kind {
            NodeKind::Char => FileType::CharacterDevice,
            NodeKind::Block => FileType::BlockDevice,
        }
    }

    fn text(self) -> String {
        let letter = if self.kind == NodeKind::Char { 'c' } else { 'b' };
        format!("{letter} {}:{}", self.major, self.minor)
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (kind, numbers) = match value.split_at_checked(2)? {
            (b"c ", numbers) => (NodeKind::Char, numbers),
            (b"b ", numbers) => (NodeKind::Block, numbers),
            _ => return None,
        };
        let (major, minor) = parse_pair(numbers)?;
        Some(Self { kind, major, minor })
    }
}

/// Returns what is recorded of an open file, whose `st_mode` and `st_size` are given. `O_PATH` suffices.
///
/// Costs one system call for most files and none for links as long as the table is empty.
///
/// # Errors
/// The attributes cannot be read, or are none that this program writes.
pub fn read(file: BorrowedFd<'_>, mode: u32, size: u64, table: &OwnerTable) -> io::Result<Owner> {
    if !carries_xattrs(mode) {
        let (uid, gid) = table.of(file)?.unwrap_or_default();
        return Ok(Owner { uid, gid, ..Owner::default() });
    }
    let look = |file: BorrowedFd<'_>| {
        let (uid, gid) =
            get(file, OWNER)?.map_or(Ok((0, 0)), |value| parse_pair(&value).ok_or(Errno::INVAL))?;
        let marks = if needs_look(mode, size) { Marks::read(file, mode)? } else { Marks::default() };
        Ok(Owner { uid, gid, node: marks.node, mode: marks.mode })
    };
    match look(file) {
        // user.* attributes may be read by whoever may read the file: xattr(7)
        Err(Errno::ACCESS) => Ok(with_mode(file, mode, 0o400, look)?),
        read => Ok(read?),
    }
}

/// Records the owner, and the device it stands for, of an open file, whose `st_mode` is given. `O_PATH` suffices.
/// The other records stay.
///
/// Costs one system call for most files. On an overlay mount the file must have been copied up: changing its real
/// owner to what it is does that.
///
/// # Errors
/// The file system keeps no `user.*` attributes, or they cannot be written.
pub fn record(file: BorrowedFd<'_>, mode: u32, owner: &Owner, table: &OwnerTable) -> io::Result<()> {
    if !carries_xattrs(mode) {
        return Ok(table.set(file, (owner.uid, owner.gid))?);
    }
    let write = |file: BorrowedFd<'_>| {
        put_owner(file, owner.uid, owner.gid)?;
        owner.node.map_or(Ok(()), |node| put(file, NODE, Some(node.text().as_bytes())))
    };
    match write(file) {
        // and written by whoever may write it
        Err(Errno::ACCESS) => Ok(with_mode(file, mode, 0o200, write)?),
        written => Ok(written?),
    }
}

/// Acts while the owner of the file has further permissions.
fn with_mode<T>(
    file: BorrowedFd<'_>,
    mode: u32,
    further: u32,
    act: impl Fn(BorrowedFd<'_>) -> Result<T>,
) -> Result<T> {
    chmod(file, mode | further)?;
    let done = act(file);
    chmod(file, mode)?;
    done
}

/// Changes the mode of what a descriptor stands for. fchmod(2) refuses one opened for its path alone, but not by way
/// of `/proc`.
pub(crate) fn chmod(file: BorrowedFd<'_>, mode: u32) -> Result<()> {
    rustix::fs::chmod(proc_path(file), Mode::from_raw_mode(mode & 0o7777))
}

/// Names what a descriptor stands for, also where system calls refuse one opened for its path alone.
pub(crate) fn proc_path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Tells whether files of this `st_mode` carry `user.*` attributes: regular files and directories alone, xattr(7).
pub(crate) fn carries_xattrs(mode: u32) -> bool {
    matches!(FileType::from_raw_mode(mode), FileType::RegularFile | FileType::Directory)
}

/// Tells whether a file with these attributes may be something else than it looks.
pub(crate) fn needs_look(mode: u32, size: u64) -> bool {
    carries_xattrs(mode)
        && (mode & STICKY != 0 || (size == 0 && FileType::from_raw_mode(mode) == FileType::RegularFile))
}

const STICKY: u32 = 0o1000;

/// Returns the mode under which a file of this mode is kept on disk, if it would keep its owner from reading it or
/// from entering it: the missing permissions, and the sticky bit as a sign that there is a record.
///
/// Opening it up for a moment only would let another process that shares the tree see a mode that never was.
/// A record counts only under the mode that belongs to it, so that a later chmod(2) wins.
pub(crate) fn open_form(mode: u32) -> Option<u32> {
    let wanted = if FileType::from_raw_mode(mode) == FileType::Directory { 0o500 } else { 0o400 };
    (mode & wanted != wanted).then_some(mode | wanted | STICKY)
}

/// Keeps a file or directory that its mode closes to its owner in its open form.
pub(crate) fn open_up(file: BorrowedFd<'_>, mode: u32) -> Result<()> {
    let Some(open) = open_form(mode) else { return Err(Errno::ACCESS) };
    chmod(file, mode | 0o700)?;
    put(file, MODE, Some(format!("{:o}", mode & 0o7777).as_bytes()))?;
    chmod(file, open)
}

/// What makes a file something else than it looks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks {
    pub(crate) node: Option<Node>,
    pub(crate) mode: Option<u32>,
}

impl Marks {
    pub(crate) fn read(file: BorrowedFd<'_>, mode: u32) -> Result<Self> {
        let mut marks = Self::default();
        if FileType::from_raw_mode(mode) == FileType::RegularFile
            && let Some(value) = get(file, NODE)?
        {
            marks.node = Some(Node::parse(&value).ok_or(Errno::INVAL)?);
        }
        if mode & STICKY != 0
            && let Some(value) = get(file, MODE)?
        {
            marks.mode = true_mode(&value, mode);
        }
        Ok(marks)
    }
}

/// Returns the mode a record stands for, if it belongs to the mode the file has.
fn true_mode(value: &[u8], mode: u32) -> Option<u32> {
    let text = std::str::from_utf8(value).ok()?;
    let recorded = u32::from_str_radix(text, 8).ok()? & 0o7777;
    let file_type = mode & !0o7777;
    (open_form(recorded | file_type) == Some(mode)).then_some(recorded)
}

/// Extended attributes by name.
type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Splits what was read of a recorded file into owner and attributes that travel.
pub(crate) fn split(all: Xattrs) -> Result<((u32, u32), Xattrs)> {
    let mut owner = (0, 0);
    let mut xattrs = BTreeMap::new();
    let mut kept = Vec::new();
    for (name, value) in all {
        if name == OWNER.as_bytes() {
            owner = parse_pair(&value).ok_or(Errno::INVAL)?;
        } else if let Some(name) = name.strip_prefix(XATTR) {
            kept.push((name.to_vec(), value));
        } else if xattr::travels(&name) {
            xattrs.insert(name, value);
        }
    }
    for (name, value) in kept.into_iter().filter(|(name, _)| xattr::travels(name)) {
        // what a step could set itself is later than the record
        xattrs.entry(name).or_insert(value);
    }
    Ok((owner, xattrs))
}

/// Records the owner of a file or directory that this process may write.
pub(crate) fn put_owner(file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
    if (uid, gid) == (0, 0) {
        return put(file, OWNER, None);
    }
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    put(file, OWNER, Some(format!("{uid}:{gid}").as_bytes()))
}

/// Records that an empty file is a device node.
pub(crate) fn put_node(file: BorrowedFd<'_>, node: Node) -> Result<()> {
    put(file, NODE, Some(node.text().as_bytes()))
}

/// Gives a file or directory that this process may write the permission bits of `mode`, or their open form.
pub(crate) fn put_mode(file: BorrowedFd<'_>, old: u32, mode: u32) -> Result<()> {
    let file_type = old & !0o7777;
    let open = open_form(mode & 0o7777 | file_type);
    if open.is_some() || old & STICKY != 0 {
        let text = format!("{:o}", mode & 0o7777);
        put(file, MODE, open.is_some().then_some(text.as_bytes()))?;
    }
    chmod(file, open.unwrap_or(mode))
}

/// Sets an attribute that travels, or records it where that needs privileges.
pub(crate) fn put_xattr(file: impl AsFd, name: &[u8], value: &[u8]) -> Result<()> {
    let file = file.as_fd();
    if name.starts_with(b"user.") {
        return rustix::fs::setxattr(proc_path(file), name, value, XattrFlags::empty());
    }
    let name = [XATTR, name].concat();
    rustix::fs::setxattr(proc_path(file), name.as_slice(), value, XattrFlags::empty())
}

fn get(file: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    let mut value = [0; 64];
    match rustix::fs::getxattr(proc_path(file), name, &mut value[..]) {
        Ok(length) => Ok(Some(value.get(..length).unwrap_or_default().to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets a record, or takes it away.
fn put(file: BorrowedFd<'_>, name: &str, value: Option<&[u8]>) -> Result<()> {
    let path = proc_path(file);
    match value {
        Some(value) => rustix::fs::setxattr(path, name, value, XattrFlags::empty()),
        None => match rustix::fs::removexattr(path, name) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            removed => removed,
        },
    }
}

fn parse_pair(value: &[u8]) -> Option<(u32, u32)> {
    let (left, right) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((left.parse().ok()?, right.parse().ok()?))
}

#[cfg(test)]
mod tests;
