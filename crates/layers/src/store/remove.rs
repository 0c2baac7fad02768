//! Removal of trees that hold anything a build step can make.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, fchmod, fstat, openat, renameat_with, unlinkat,
};
use rustix::io::Errno;

/// Deeper directories are moved up first: descriptors and stack stay bounded whatever a step nested.
const MAX_DEPTH: u32 = 64;

/// Removes `path` and everything below it. Symbolic links are removed, never followed; directories without
/// permissions (overlayfs makes its `work/work` with mode 000) are opened up on the way.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return Ok(other?),
    }
    let top = open_directory(CWD, path)?;
    Removal { top: top.as_fd(), moved: 0 }.clear(top.as_fd(), 0)?;
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    moved: u64,
}

impl Removal<'_> {
    /// Empties a directory. A directory may be listed incompletely while it changes, and the top one gains
    /// entries: so until a whole pass finds nothing.
    fn clear(&mut self, directory: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
        loop {
            let mut found = false;
            for entry in Dir::read_from(directory)? {
                let entry = entry?;
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                found = true;
                self.remove(directory, name, entry.file_type(), depth)?;
            }
            if !found {
                return Ok(());
            }
        }
    }

    fn remove(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        kind: FileType,
        depth: u32,
    ) -> io::Result<()> {
        if kind != FileType::Directory {
            match unlinkat(directory, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                Err(Errno::NOENT) => return Ok(()),
                other => return Ok(other?),
            }
        }
        if depth >= MAX_DEPTH {
            return self.move_up(directory, name);
        }
        let child = open_directory(directory, name)?;
        self.clear(child.as_fd(), depth + 1)?;
        Ok(unlinkat(directory, name, AtFlags::REMOVEDIR)?)
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        // Moving a directory changes its `..`, which needs write permission on itself.
        drop(open_directory(directory, name)?);
        loop {
            self.moved += 1;
            let free = format!("moved-{}", self.moved);
            match renameat_with(directory, name, self.top, free, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// Opens a directory, itself and not what a link points to, so that its entries can be listed and removed.
fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg + Copy) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(&parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let closed = openat(&parent, name, flags, Mode::empty())?;
            // fchmod(2) refuses an O_PATH descriptor; its /proc link is the way to name exactly this inode.
            rustix::fs::chmod(format!("/proc/self/fd/{}", closed.as_raw_fd()), Mode::RWXU)?;
            openat(&parent, name, OFlags::RDONLY | flags.difference(OFlags::PATH), Mode::empty())?
        }
        other => other?,
    };
    if !Mode::from_raw_mode(fstat(&directory)?.st_mode).contains(Mode::RWXU) {
        fchmod(&directory, Mode::RWXU)?;
    }
    Ok(directory)
}
