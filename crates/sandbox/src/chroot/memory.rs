//! Files in memory: the embedder has placed an empty one, and who opens that gets a sealed one instead.
//!
//! The kernel finds the placeholder by itself: what asks for its status gets the placeholder's, and a program that it
//! executes is the placeholder. (The pages of a memfd may be swapped, unlike those of the ramfs in isolations that mount.)

use std::ffi::CString;
use std::io;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Gid, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags, Uid};
use rustix::io::{Errno, Result};

use super::object::Caller;
use crate::mounts::{Mount, MountKind};

/// The files in memory of one step.
#[derive(Debug, Default)]
pub(super) struct MemoryFiles(Vec<MemoryFile>);

#[derive(Debug)]
struct MemoryFile {
    /// Device and inode of the placeholder.
    placeholder: (u64, u64),
    file: OwnedFd,
}

impl MemoryFiles {
    /// Makes those among `mounts`, whose placeholders stand below `root`.
    pub(super) fn new(root: BorrowedFd<'_>, mounts: &[Mount]) -> io::Result<Self> {
        let mut files = Vec::new();
        for mount in mounts {
            let MountKind::File { content, uid, gid, mode } = &mount.kind else { continue };
            let target = mount.target.as_os_str();
            let placeholder = look(root, target.as_encoded_bytes(), OFlags::empty())?;
            let file = rustix::fs::memfd_create(c"file", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            let mut rest = content.expose();
            while !rest.is_empty() {
                let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
                rest = rest.get(written..).unwrap_or_default();
            }
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
            match rustix::fs::fchown(&file, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid))) {
                // Where owners are recorded, that of the placeholder is.
                Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {}
                done => done?,
            }
            let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
            rustix::fs::fcntl_add_seals(&file, seals)?;
            files.push(MemoryFile { placeholder, file });
        }
        Ok(Self(files))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Opens the file whose placeholder an absolute path leads to, under the caller's rights; `None` when it leads
    /// elsewhere.
    pub(super) fn open(
        &self,
        root: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
        caller: &Caller,
    ) -> Option<Result<OwnedFd>> {
        if flags.intersects(OFlags::PATH | OFlags::DIRECTORY) {
            return None;
        }
        let found = caller.act(|| look(root, path, flags & OFlags::NOFOLLOW)).ok()?;
        let file = &self.0.iter().find(|file| file.placeholder == found)?.file;
        if flags.contains(OFlags::CREATE | OFlags::EXCL) {
            return Some(Err(Errno::EXIST));
        }
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) {
            return Some(Err(Errno::ROFS));
        }
        // A descriptor of its own: position and flags are the opener's.
        let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        let open = || rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Some(caller.act(open))
    }
}

/// Returns what tells the file at a path from all others.
fn look(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<(u64, u64)> {
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(root, &path, flags, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(&file)?;
    Ok((stat.st_dev, stat.st_ino))
}
