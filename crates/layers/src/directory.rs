//! One open directory and the names in it. Everything here acts on a descriptor and a single name, so that no
//! path is resolved twice.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::{Errno, Result};

use crate::meta::{Kind, Meta, Time};
use crate::xattr;

/// What `stat` says, with the same integer types on every architecture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) nlink: u64,
    pub(crate) rdev: u64,
    pub(crate) size: u64,
    pub(crate) mtime: Time,
}

impl Status {
    #[expect(
        clippy::unnecessary_cast,
        reason = "the fields of stat have other widths on other architectures"
    )]
    fn new(stat: &rustix::fs::Stat) -> Self {
        Self {
            mode: stat.st_mode as u32,
            uid: stat.st_uid as u32,
            gid: stat.st_gid as u32,
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            nlink: stat.st_nlink as u64,
            rdev: stat.st_rdev as u64,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: Time { seconds: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
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

    /// Tells whether this is overlayfs's sign for a path that is gone: a character device 0:0.
    pub(crate) fn is_whiteout(&self) -> bool {
        self.file_type() == FileType::CharacterDevice && self.rdev == 0
    }

    fn meta(&self, kind: Kind) -> Meta {
        let size = if kind == Kind::File { self.size } else { 0 };
        let xattrs = BTreeMap::new();
        Meta { kind, mode: self.mode & 0o7777, uid: self.uid, gid: self.gid, mtime: self.mtime, size, xattrs }
    }
}

/// An open directory.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    fd: Arc<OwnedFd>,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Flags of every open of something that must be exactly this name. `NONBLOCK` keeps a pipe that took the place
/// of a file from blocking, `NOCTTY` a terminal from becoming ours.
const EXACT: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

impl Directory {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd) }
    }

    /// Looks at a name; none if there is no such.
    pub(crate) fn status(&self, name: &OsStr) -> Result<Option<Status>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Status::new(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks at the directory itself.
    pub(crate) fn own_status(&self) -> Result<Status> {
        rustix::fs::fstat(&self.fd).map(|stat| Status::new(&stat))
    }

    /// Reads the attributes of the directory itself.
    pub(crate) fn own_meta(&self) -> Result<Meta> {
        let mut meta = self.own_status()?.meta(Kind::Directory);
        meta.xattrs = xattr::read(&self.fd)?;
        Ok(meta)
    }

    /// Reads the attributes of a name whose status is known.
    pub(crate) fn meta(&self, name: &OsStr, status: &Status) -> Result<Meta> {
        let (major, minor) = (rustix::fs::major(status.rdev), rustix::fs::minor(status.rdev));
        let kind = match status.file_type() {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink(self.read_link(name)?),
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            _ => return Err(Errno::INVAL),
        };
        let mut meta = status.meta(kind);
        // user.* and file capabilities exist on regular files and directories only: xattr(7)
        if status.is_file() || status.is_dir() {
            meta.xattrs = self.xattrs(name)?;
        }
        Ok(meta)
    }

    fn xattrs(&self, name: &OsStr) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        match rustix::fs::openat(&self.fd, name, EXACT | OFlags::RDONLY, Mode::empty()) {
            Ok(fd) => xattr::read(fd),
            // Attributes may be read of a file that may not: only the name is needed, but no system call before
            // Linux 6.13 takes a directory for it.
            Err(Errno::ACCESS | Errno::PERM) => {
                let fd = rustix::fs::openat(&self.fd, name, EXACT | OFlags::PATH, Mode::empty())?;
                via_proc(&fd, xattr::read_path)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn read_link(&self, name: &OsStr) -> Result<OsString> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Returns the names in the directory, sorted by bytes.
    pub(crate) fn names(&self) -> Result<Vec<OsString>> {
        Ok(self.list()?.into_iter().map(|(name, _)| name).collect())
    }

    /// Returns the names in the directory, sorted by bytes, and their types, which some file systems leave
    /// unknown.
    pub(crate) fn list(&self) -> Result<Vec<(OsString, FileType)>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
            }
        }
        names.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        Ok(names)
    }

    pub(crate) fn open_dir(&self, name: &OsStr) -> Result<Self> {
        let flags = EXACT | OFlags::RDONLY | OFlags::DIRECTORY;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map(Self::new)
    }

    /// Opens a regular file for reading; anything else is `EINVAL`, a symbolic link `ELOOP`.
    pub(crate) fn open_file(&self, name: &OsStr) -> Result<File> {
        let fd = rustix::fs::openat(&self.fd, name, EXACT | OFlags::RDONLY, Mode::empty())?;
        let status = Status::new(&rustix::fs::fstat(&fd)?);
        if status.is_dir() {
            return Err(Errno::ISDIR);
        }
        if !status.is_file() {
            return Err(Errno::INVAL);
        }
        Ok(File::from(fd))
    }

    pub(crate) fn create_dir(&self, name: &OsStr) -> Result<()> {
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)
    }

    pub(crate) fn create_file(&self, name: &OsStr) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    }

    pub(crate) fn symlink(&self, name: &OsStr, target: &OsStr) -> Result<()> {
        rustix::fs::symlinkat(target, &self.fd, name)
    }

    /// Gives `from`'s `source` the further name `name`. A symbolic link is not followed.
    pub(crate) fn link(&self, name: &OsStr, from: &Self, source: &OsStr) -> Result<()> {
        rustix::fs::linkat(&from.fd, source, &self.fd, name, AtFlags::empty())
    }

    /// Makes a device, pipe or socket with mode `0600`.
    pub(crate) fn mknod(&self, name: &OsStr, kind: &Kind) -> Result<()> {
        let (file_type, device) = match *kind {
            Kind::CharDevice { major, minor } => {
                (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
            }
            Kind::BlockDevice { major, minor } => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::Socket => (FileType::Socket, 0),
            Kind::File | Kind::Directory | Kind::Symlink(_) => return Err(Errno::INVAL),
        };
        rustix::fs::mknodat(&self.fd, name, file_type, Mode::RUSR | Mode::WUSR, device)
    }

    /// Makes overlayfs's sign for a path that is gone. It needs no capability since Linux 5.8.
    pub(crate) fn whiteout(&self, name: &OsStr) -> Result<()> {
        rustix::fs::mknodat(&self.fd, name, FileType::CharacterDevice, Mode::empty(), 0)
    }

    /// Removes a name and everything below it; one that does not exist is no error.
    pub(crate) fn remove(&self, name: &OsStr) -> Result<()> {
        let Some(child) = self.unlink_or_open(name)? else { return Ok(()) };
        // a list of our own: a hostile tree may be deeper than the stack
        let mut open = vec![(self.clone(), name.to_owned(), child.names()?, child)];
        while let Some((parent, name, names, directory)) = open.last_mut() {
            let Some(inner) = names.pop() else {
                match rustix::fs::unlinkat(&parent.fd, &*name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
                open.pop();
                continue;
            };
            if let Some(child) = directory.unlink_or_open(&inner)? {
                let level = (directory.clone(), inner, child.names()?, child);
                open.push(level);
            }
        }
        Ok(())
    }

    /// Removes a name that is no directory, or opens the directory so that its content can be removed.
    fn unlink_or_open(&self, name: &OsStr) -> Result<Option<Self>> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(None),
            // POSIX wants EPERM for a directory, Linux says EISDIR
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
        let child = match self.open_dir(name) {
            Err(Errno::NOTDIR) => return Err(Errno::PERM),
            // a directory of our own that was made unreadable
            Err(Errno::ACCESS) => {
                self.change_mode(name, 0o700)?;
                self.open_dir(name)?
            }
            opened => opened?,
        };
        if child.own_status()?.mode & 0o700 != 0o700 {
            rustix::fs::fchmod(&child.fd, Mode::RWXU)?;
        }
        Ok(Some(child))
    }

    /// Sets owner, mode, extended attributes and time of a name, in this order: changing the owner clears the
    /// setuid bits and file capabilities, and writing attributes would move the time.
    pub(crate) fn set_meta(&self, name: &OsStr, meta: &Meta) -> Result<()> {
        let status = self.status(name)?.ok_or(Errno::NOENT)?;
        if status.is_file() || status.is_dir() {
            match rustix::fs::openat(&self.fd, name, EXACT | OFlags::RDONLY, Mode::empty()) {
                Ok(fd) => return set_meta(fd, meta),
                Err(Errno::ACCESS) => {
                    self.change_mode(name, 0o700)?;
                    let fd = rustix::fs::openat(&self.fd, name, EXACT | OFlags::RDONLY, Mode::empty())?;
                    return set_meta(fd, meta);
                }
                Err(error) => return Err(error),
            }
        }
        if (status.uid, status.gid) != (meta.uid, meta.gid) {
            let (uid, gid) = owner(meta)?;
            rustix::fs::chownat(&self.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        // a symbolic link has no mode of its own
        if !status.is_symlink() {
            self.change_mode(name, meta.mode)?;
        }
        rustix::fs::utimensat(&self.fd, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Changes the mode of a name that is no symbolic link. fchmodat(2) would follow one that took its place,
    /// and a descriptor opened for its path alone is refused by fchmod(2), but not by way of `/proc`.
    fn change_mode(&self, name: &OsStr, mode: u32) -> Result<()> {
        let fd = rustix::fs::openat(&self.fd, name, EXACT | OFlags::PATH, Mode::empty())?;
        if Status::new(&rustix::fs::fstat(&fd)?).is_symlink() {
            return Err(Errno::LOOP);
        }
        via_proc(&fd, |path| rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o7777)))
    }
}

fn via_proc<T>(fd: &OwnedFd, act: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    act(&format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Sets owner, mode, extended attributes and time of an open file or directory, leaving out what is so already.
pub(crate) fn set_meta(fd: impl AsFd, meta: &Meta) -> Result<()> {
    let fd = fd.as_fd();
    let status = Status::new(&rustix::fs::fstat(fd)?);
    if (status.uid, status.gid) != (meta.uid, meta.gid) {
        let (uid, gid) = owner(meta)?;
        rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    }
    if status.mode & 0o7777 != meta.mode & 0o7777 || meta.mode & 0o6000 != 0 {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode & 0o7777))?;
    }
    if !meta.xattrs.is_empty() {
        xattr::write(fd, &meta.xattrs)?;
    }
    rustix::fs::futimens(fd, &times(meta.mtime))
}

/// Refuses the ids that chown(2) takes for "leave it as it is".
fn owner(meta: &Meta) -> Result<(Uid, Gid)> {
    if meta.uid == u32::MAX || meta.gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    Ok((Uid::from_raw(meta.uid), Gid::from_raw(meta.gid)))
}

fn times(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() },
    }
}
