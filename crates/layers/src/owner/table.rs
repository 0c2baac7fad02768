//! Owners of what carries no attributes: [`OwnerTable`].

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::{Errno, Result};

use super::carries_xattrs;
use crate::directory::Directory;

/// The owners of symbolic links, pipes and sockets of one tree. Clones share it; any thread may use it.
///
/// A file is known by its inode and the time of its birth, so that a number that is used again names nothing old.
/// overlayfs shows the real ones where all of its directories are on one file system.
#[derive(Clone, Debug, Default)]
pub struct OwnerTable {
    owners: Arc<Mutex<HashMap<Inode, (u32, u32)>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Inode {
    number: u64,
    born: (i64, u32),
}

impl OwnerTable {
    /// Returns the recorded owner of an open file.
    pub(super) fn of(&self, file: BorrowedFd<'_>) -> Result<Option<(u32, u32)>> {
        if self.is_empty() {
            return Ok(None);
        }
        Ok(self.lock().get(&inode(file, OsStr::new(""))?).copied())
    }

    /// Records the owner of an open file.
    pub(super) fn set(&self, file: BorrowedFd<'_>, owner: (u32, u32)) -> Result<()> {
        self.set_in(file, OsStr::new(""), owner)
    }

    /// Returns the recorded owner of a name in a directory.
    pub(crate) fn get_in(&self, directory: impl AsFd, name: &OsStr) -> Result<Option<(u32, u32)>> {
        if self.is_empty() {
            return Ok(None);
        }
        Ok(self.lock().get(&inode(directory.as_fd(), name)?).copied())
    }

    /// Records the owner of a name in a directory.
    pub(crate) fn set_in(&self, directory: impl AsFd, name: &OsStr, owner: (u32, u32)) -> Result<()> {
        if owner == (0, 0) && self.is_empty() {
            return Ok(());
        }
        if owner.0 == u32::MAX || owner.1 == u32::MAX {
            return Err(Errno::INVAL);
        }
        let inode = inode(directory.as_fd(), name)?;
        self.lock().insert(inode, owner);
        Ok(())
    }

    /// Takes over what another table knows.
    pub(crate) fn extend(&self, other: &Self) {
        let others: Vec<_> = other.lock().iter().map(|(inode, owner)| (*inode, *owner)).collect();
        self.lock().extend(others);
    }

    /// Lists what is recorded of the files below a directory by path, for a file that outlives inode numbers.
    pub(crate) fn by_path(&self, top: &Directory) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        if self.is_empty() {
            return Ok(text);
        }
        let mut pending = vec![(PathBuf::new(), top.clone())];
        while let Some((path, directory)) = pending.pop() {
            for (name, file_type) in directory.list()? {
                let path = path.join(&name);
                if file_type.is_dir() {
                    pending.push((path, directory.open_dir(&name)?));
                } else if !carries_xattrs(file_type.as_raw_mode())
                    && let Some((uid, gid)) = self.get_in(&directory, &name)?
                    && (uid, gid) != (0, 0)
                {
                    text.extend(format!("{uid}:{gid} ").as_bytes());
                    text.extend(path.as_os_str().as_bytes());
                    text.push(0);
                }
            }
        }
        Ok(text)
    }

    /// Reads what [`OwnerTable::by_path`] wrote of the same tree; none if it is not sound.
    pub(crate) fn parse(text: &[u8]) -> Option<Vec<(&Path, (u32, u32))>> {
        let records = text.split(|byte| *byte == 0).filter(|record| !record.is_empty());
        records
            .map(|record| {
                let space = record.iter().position(|byte| *byte == b' ')?;
                let (owner, path) = record.split_at_checked(space)?;
                Some((Path::new(OsStr::from_bytes(path.get(1..)?)), super::parse_pair(owner)?))
            })
            .collect()
    }

    /// Tells whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Inode, (u32, u32)>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at a name in a directory, or at the descriptor itself where the name is empty.
fn inode(at: BorrowedFd<'_>, name: &OsStr) -> Result<Inode> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    match rustix::fs::statx(at, name, flags, StatxFlags::INO | StatxFlags::BTIME) {
        Ok(stat) => Ok(Inode { number: stat.stx_ino, born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec) }),
        // a seccomp filter that knows no statx(2)
        Err(Errno::NOSYS) => {
            let stat = rustix::fs::statat(at, name, flags)?;
            Ok(Inode { number: stat.st_ino, born: (0, 0) })
        }
        Err(error) => Err(error),
    }
}
