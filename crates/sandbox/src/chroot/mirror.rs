//! Directories of `/proc`, made anew in the skeleton when a step opens them.
//!
//! A step may have changed anything in the skeleton: no symlink is followed there.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

/// What a directory is made of, by name.
pub(super) type Listing = BTreeMap<CString, Entry>;

/// Something in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Directory,
    File,
    /// A symlink and its text.
    Link(CString),
}

const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Removal goes no deeper than `/proc/PID/task/TID/…` does.
const MAX_DEPTH: usize = 8;

/// Lists a real directory. `link` translates the text of a symlink, or leaves it out.
pub(super) fn list(real: BorrowedFd<'_>, link: impl Fn(&CStr) -> Option<CString>) -> Result<Listing> {
    let mut listing = Listing::new();
    for entry in Dir::read_from(real)? {
        // Processes end while they are listed.
        let Ok(entry) = entry else { break };
        let name = entry.file_name();
        let kind = match entry.file_type() {
            _ if matches!(name.to_bytes(), b"." | b"..") => None,
            FileType::Directory => Some(Entry::Directory),
            FileType::Symlink => {
                let text = rustix::fs::readlinkat(real, name, Vec::new());
                text.ok().and_then(|text| link(&text)).map(Entry::Link)
            }
            _ => Some(Entry::File),
        };
        if let Some(kind) = kind {
            listing.insert(name.to_owned(), kind);
        }
    }
    Ok(listing)
}

/// Makes the directory `names` below `top` hold what `listing` says, and opens it. Names that `keeps` are left as they are.
pub(super) fn make(
    top: BorrowedFd<'_>,
    names: &[Vec<u8>],
    listing: &Listing,
    keeps: impl Fn(&[u8]) -> bool,
) -> Result<OwnedFd> {
    let mut directory = rustix::fs::openat(top, c".", DIRECTORY, Mode::empty())?;
    for name in names {
        let name = CString::new(name.as_slice()).map_err(|_| Errno::INVAL)?;
        match rustix::fs::mkdirat(&directory, &name, Mode::from_raw_mode(open_to_us(0o555))) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        directory = match rustix::fs::openat(&directory, &name, DIRECTORY, Mode::empty()) {
            // What was a file when it was listed, or what the step has put there.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                rustix::fs::unlinkat(&directory, &name, AtFlags::empty())?;
                rustix::fs::mkdirat(&directory, &name, Mode::from_raw_mode(open_to_us(0o555)))?;
                rustix::fs::openat(&directory, &name, DIRECTORY, Mode::empty())?
            }
            opened => opened?,
        };
    }
    let present = list(directory.as_fd(), |text| Some(text.to_owned()))?;
    let is_kept = |name: &CStr| keeps(name.to_bytes());
    for (name, entry) in &present {
        if !is_kept(name) && listing.get(name) != Some(entry) {
            remove(directory.as_fd(), name, MAX_DEPTH)?;
        }
    }
    for (name, entry) in listing {
        if !is_kept(name) && present.get(name) != Some(entry) {
            put(directory.as_fd(), name, entry)?;
        }
    }
    rustix::fs::openat(&directory, c".", DIRECTORY, Mode::empty())
}

fn put(directory: BorrowedFd<'_>, name: &CStr, entry: &Entry) -> Result<()> {
    match entry {
        Entry::Directory => rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(open_to_us(0o555))),
        Entry::Link(text) => rustix::fs::symlinkat(text, directory, name),
        Entry::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o444)).map(drop)
        }
    }
}

fn remove(directory: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR) if depth > 0 => {}
        Err(Errno::NOENT) => return Ok(()),
        removed => return removed,
    }
    let inner = rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())?;
    for name in list(inner.as_fd(), |text| Some(text.to_owned()))?.into_keys() {
        remove(inner.as_fd(), &name, depth - 1)?;
    }
    rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
}

/// Tells where a descriptor of this process leads, as this process sees it.
pub(super) fn path_of(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::readlinkat(CWD, link, Vec::new())?.into_bytes())
}

/// Returns a mode of a directory in which this process can make files, which root can anyway.
pub(super) fn open_to_us(mode: u32) -> u32 {
    if rustix::process::geteuid().is_root() { mode } else { mode | 0o300 }
}
