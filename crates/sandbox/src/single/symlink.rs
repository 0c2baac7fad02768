//! Symlinks whose owners are recorded.
//!
//! They carry no attributes, so that their owners are kept by inode; but the inode that overlayfs shows of a link it has
//! copied up is neither the one on disk nor kept with it. Before the kernel would copy one up, it is replaced by
//! a new link of the same text and times, which has one inode everywhere.

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::locate::{Entry, as_root};
use super::{Follow, Named, Single};
use crate::notify::{Call, Reply, Target};
use crate::owners::Recorded;

/// The name of a link that is on its way to its place.
const NEW: &std::ffi::CStr = c".rbuild.link";

impl Single {
    /// The calls that copy a link up: rename(2), link(2) and utimensat(2) of all forms.
    pub(super) fn copy_up(&mut self, name: &str, call: &Call, target: &Target<'_>) -> Result<Reply, Errno> {
        let (directory, path) = match name {
            "rename" | "link" => (libc::AT_FDCWD, call.word(0)),
            _ => (call.int(0), call.word(1)),
        };
        if path == 0 || !self.owners.has_links() {
            return Ok(Reply::Continue);
        }
        let named = Named::Path { directory, path: target.read_path(path)?, follow: Follow::No };
        if let Ok(file) = self.open(call, target, &named)
            && let Ok(stat) = rustix::fs::fstat(&file)
            && is_symlink(&stat)
        {
            let owner = self.recorded(file.as_fd(), &stat);
            if owner != Recorded::default() {
                self.replace_symlink((call, target), &named, &stat, &owner)?;
            }
        }
        Ok(Reply::Continue)
    }

    /// Puts a link with this owner in the place of one; tells whether that was possible.
    pub(super) fn replace_symlink(
        &mut self,
        (call, target): (&Call, &Target<'_>),
        named: &Named,
        stat: &Stat,
        owner: &Recorded,
    ) -> Result<bool, Errno> {
        let Named::Path { directory, path, .. } = named else { return Ok(false) };
        let Ok(entry) = self.viewer(call, target)?.entry(*directory, path, Follow::No) else {
            return Ok(false);
        };
        if stat.st_nlink > 1 || stat.st_uid != self.uid.as_raw() {
            return Ok(false);
        }
        let parent = rustix::fs::fstat(&entry.directory)?;
        let needed = Mode::WUSR | Mode::XUSR;
        if as_root(entry.directory.as_fd(), needed, || replace(&entry, stat)).is_err() {
            return Ok(false);
        }
        // Nothing has happened in there that the step knows of.
        rustix::fs::utimensat(&entry.directory, c".", &times_of(&parent), AtFlags::empty())?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link = rustix::fs::openat(&entry.directory, &entry.name, flags, Mode::empty())?;
        self.record(link.as_fd(), owner)?;
        Ok(true)
    }
}

pub(crate) fn is_symlink(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

fn replace(entry: &Entry, stat: &Stat) -> rustix::io::Result<()> {
    let Entry { directory, name } = entry;
    let text = rustix::fs::readlinkat(directory, name, Vec::new())?;
    rustix::fs::symlinkat(&text, directory, NEW)?;
    let placed = rustix::fs::utimensat(directory, NEW, &times_of(stat), AtFlags::SYMLINK_NOFOLLOW)
        .and_then(|()| rustix::fs::renameat(directory, NEW, directory, name));
    if placed.is_err() {
        let _ = rustix::fs::unlinkat(directory, NEW, AtFlags::empty());
    }
    placed
}

fn times_of(stat: &Stat) -> Timestamps {
    let nanoseconds = |value| i64::try_from(value).unwrap_or_default();
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: nanoseconds(stat.st_atime_nsec) },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds(stat.st_mtime_nsec) },
    }
}
