//! Programs as the kernel can execute them from outside of the root.

use std::collections::HashMap;
use std::ffi::CString;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, Result};

use super::elf::Interpreter;
use super::path_of;

const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Where programs are copied to: each to the path in the directory that it has in the root, so that what the kernel says
/// of a running program (`/proc/PID/exe`) is easily translated back.
#[derive(Debug)]
pub(super) struct Programs {
    directory: OwnedFd,
    /// The paths of copies, for the kernel.
    copies: HashMap<Key, Vec<u8>>,
    /// Links to programs that are called by other names than theirs.
    names: HashMap<(Vec<u8>, Vec<u8>), Vec<u8>>,
}

/// What tells a program from what it was before, or from another of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    file: (u64, u64),
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
    path: Vec<u8>,
    loader: Vec<u8>,
}

impl Programs {
    pub(super) fn in_directory(directory: OwnedFd) -> Self {
        Self { directory, copies: HashMap::new(), names: HashMap::new() }
    }

    /// Tells whether a path of the kernel is that of a copy.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        let directory = rustix::fs::readlink(path_of(&self.directory), Vec::new());
        directory.is_ok_and(|directory| {
            path.strip_prefix(directory.to_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
        })
    }

    /// Returns the path of a copy of a program, whose path in the root is `path`, that names another interpreter.
    pub(super) fn copy(
        &mut self,
        (file, stat): (BorrowedFd<'_>, &Stat),
        path: &[u8],
        interpreter: Option<(&Interpreter, &[u8])>,
    ) -> Result<Vec<u8>> {
        let key = Key {
            file: (stat.st_dev, stat.st_ino),
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
            path: path.to_vec(),
            loader: interpreter.map(|(_, path)| path.to_vec()).unwrap_or_default(),
        };
        if let Some(copy) = self.copies.get(&key) {
            return Ok(copy.clone());
        }
        let (parent, name) = self.make_place(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(&parent, &name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut from = 0;
        let length = u64::try_from(stat.st_size).map_err(|_| Errno::FBIG)?;
        while from < length {
            let wanted = usize::try_from(length - from).map_err(|_| Errno::FBIG)?;
            if rustix::fs::copy_file_range(file, Some(&mut from), &copy, None, wanted)? == 0 {
                break;
            }
        }
        if let Some((interpreter, path)) = interpreter {
            interpreter.replace(copy.as_fd(), path)?;
        }
        rustix::fs::fchmod(&copy, Mode::RUSR | Mode::XUSR)?;
        let made = rustix::fs::readlink(path_of(&copy), Vec::new())?.into_bytes();
        self.copies.insert(key, made.clone());
        Ok(made)
    }

    /// Returns a path whose last name is the one that a program is called by, which the kernel makes the name of the
    /// process.
    pub(super) fn called(&mut self, path: Vec<u8>, called: &[u8]) -> Result<Vec<u8>> {
        let last = |path: &[u8]| path.rsplit(|&byte| byte == b'/').next().unwrap_or_default().to_vec();
        let name = last(called);
        if name.is_empty() || name == last(&path) || called.starts_with(b"/dev/fd/") {
            return Ok(path);
        }
        let key = (path, name);
        if let Some(link) = self.names.get(&key) {
            return Ok(link.clone());
        }
        // No program of the root is called that: it is a directory of ours beside theirs.
        let place = format!(".names/{}/", self.names.len()).into_bytes();
        let (parent, link) = self.make_place(&[place.as_slice(), &key.1].concat())?;
        let target = CString::new(key.0.as_slice()).map_err(|_| Errno::INVAL)?;
        rustix::fs::symlinkat(target, &parent, &link)?;
        let parent = rustix::fs::readlink(path_of(&parent), Vec::new())?.into_bytes();
        let link = [parent.as_slice(), b"/", &key.1].concat();
        self.names.insert(key, link.clone());
        Ok(link)
    }

    /// Makes the directories of a path, and room for its last name.
    fn make_place(&self, path: &[u8]) -> Result<(OwnedFd, CString)> {
        let names =
            path.split(|&byte| byte == b'/').filter(|name| !matches!(name, [] | [b'.'] | [b'.', b'.']));
        let mut names: Vec<CString> =
            names.map(CString::new).collect::<std::result::Result<_, _>>().map_err(|_| Errno::INVAL)?;
        let last = names.pop().ok_or(Errno::ACCESS)?;
        let mut at = rustix::fs::openat(&self.directory, c".", DIRECTORY, Mode::empty())?;
        for name in names {
            let open = || rustix::fs::openat(&at, &name, DIRECTORY, Mode::empty());
            at = match open() {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&at, &name, Mode::RWXU)?;
                    open()?
                }
                Err(Errno::NOTDIR) => {
                    rustix::fs::unlinkat(&at, &name, AtFlags::empty())?;
                    rustix::fs::mkdirat(&at, &name, Mode::RWXU)?;
                    open()?
                }
                opened => opened?,
            };
        }
        remove(at.as_fd(), &last)?;
        Ok((at, last))
    }
}

/// Removes a copy, or a directory of copies. Who runs one keeps it.
fn remove(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => {
            let inner = rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())?;
            for entry in Dir::read_from(&inner)? {
                let entry = entry?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    remove(inner.as_fd(), entry.file_name())?;
                }
            }
            rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
        }
        done => done,
    }
}

/// Tells whether root may execute a file: it is a file, and somebody may.
pub(super) fn may_execute(stat: &Stat) -> bool {
    const ANY: u32 = 0o111;
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & ANY != 0
}
