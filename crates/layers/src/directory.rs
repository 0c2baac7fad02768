//! One open directory and the names in it. Everything here acts on a descriptor and a single name, so that no
//! path is resolved twice.

mod status;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

use crate::meta::{Kind, Meta, Time};
use crate::owner::{self, Marks, Node, OwnerTable};
use crate::xattr;

pub(crate) use status::Status;

/// How a tree keeps what its file system, or the lack of privileges, does not let it have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keeping {
    /// Owners are recorded, those of symbolic links, pipes and sockets here; none where files have theirs.
    pub(crate) owners: Option<OwnerTable>,
    /// How a path that is gone is marked.
    pub(crate) whiteouts: Whiteouts,
}

/// How a layer directory marks that a path of the layers below is gone, or all of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Whiteouts {
    /// As overlayfs does: a character device 0:0, and `user.overlay.opaque`.
    #[default]
    Device,
    /// As overlayfs does when it is mounted without `userxattr`: `trusted.overlay.opaque`, which only root may set.
    Trusted,
    /// Where there can be no such device, as on an overlay mount: an empty regular file with
    /// `user.rbuild.whiteout`, and `user.rbuild.opaque`. overlayfs would not know them; it cannot be mounted there.
    Attribute,
}

/// An open directory.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    fd: Arc<OwnedFd>,
    keeping: Keeping,
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
    pub(crate) fn new(fd: OwnedFd, keeping: Keeping) -> Self {
        Self { fd: Arc::new(fd), keeping }
    }

    /// Takes an open directory of a tree and sees to it that the names in it can be looked up: a recorded one that
    /// can be read but not entered is kept in its open form from then on.
    pub(crate) fn enter(fd: OwnedFd, keeping: Keeping) -> Result<Self> {
        if keeping.owners.is_some() {
            let mode = Status::new(&rustix::fs::fstat(&fd)?).mode;
            if owner::open_form(mode).is_some() {
                owner::open_up(fd.as_fd(), mode)?;
            }
        }
        Ok(Self::new(fd, keeping))
    }

    /// Returns how the tree keeps what it may not have.
    pub(crate) fn keeping(&self) -> &Keeping {
        &self.keeping
    }

    /// Tells whether owners are recorded here.
    pub(crate) fn is_recorded(&self) -> bool {
        self.keeping.owners.is_some()
    }

    /// Looks at a name; none if there is no such.
    pub(crate) fn status(&self, name: &OsStr) -> Result<Option<Status>> {
        let mut status = match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Status::new(&stat),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        if self.is_recorded() && owner::needs_look(status.mode, status.size) {
            let fd = self.open_path(name)?;
            status.mark(self.readable(&fd, &status, |fd| Marks::read(fd, status.disk_mode))?);
        }
        if self.keeping.whiteouts == Whiteouts::Attribute && status.is_file() && status.size == 0 {
            let fd = self.open_path(name)?;
            status.whiteout = self.readable(&fd, &status, |fd| xattr::is_set(fd, xattr::WHITEOUT))?;
        }
        Ok(Some(status))
    }

    /// Looks at the directory itself.
    pub(crate) fn own_status(&self) -> Result<Status> {
        let mut status = Status::new(&rustix::fs::fstat(&self.fd)?);
        if self.is_recorded() && owner::needs_look(status.mode, status.size) {
            status.mark(Marks::read(self.as_fd(), status.disk_mode)?);
        }
        Ok(status)
    }

    /// Reads the attributes of the directory itself.
    pub(crate) fn own_meta(&self) -> Result<Meta> {
        self.with_records(self.own_status()?.meta(Kind::Directory), xattr::read(&self.fd)?)
    }

    /// Fills in what the extended attributes of a file or directory say of it.
    fn with_records(&self, mut meta: Meta, xattrs: BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Meta> {
        if self.is_recorded() {
            ((meta.uid, meta.gid), meta.xattrs) = owner::split(xattrs)?;
        } else {
            meta.xattrs = xattrs.into_iter().filter(|(name, _)| xattr::travels(name)).collect();
        }
        Ok(meta)
    }

    /// Acts on something of a recorded tree, made readable if its mode keeps us out.
    fn readable<T>(
        &self,
        fd: &OwnedFd,
        status: &Status,
        act: impl Fn(BorrowedFd<'_>) -> Result<T>,
    ) -> Result<T> {
        match act(fd.as_fd()) {
            Err(Errno::ACCESS) if self.is_recorded() => {
                owner::open_up(fd.as_fd(), status.disk_mode)?;
                act(fd.as_fd())
            }
            done => done,
        }
    }

    fn open_path(&self, name: &OsStr) -> Result<OwnedFd> {
        rustix::fs::openat(&self.fd, name, EXACT | OFlags::PATH, Mode::empty())
    }

    /// Opens a name for reading. In a recorded tree, what its mode closes to us is kept in its open form from then on.
    fn open_name(&self, name: &OsStr, flags: OFlags) -> Result<OwnedFd> {
        let open = || rustix::fs::openat(&self.fd, name, EXACT | OFlags::RDONLY | flags, Mode::empty());
        match open() {
            Err(Errno::ACCESS) if self.is_recorded() => {
                let fd = self.open_path(name)?;
                let mode = Status::new(&rustix::fs::fstat(&fd)?).mode;
                if !owner::carries_xattrs(mode) {
                    return Err(Errno::ACCESS);
                }
                owner::open_up(fd.as_fd(), mode)?;
                open()
            }
            opened => opened,
        }
    }

    /// Changes the names in this directory, in a recorded tree also against its mode: like root's, our own
    /// directories are always ours to write.
    fn changing<T>(&self, act: impl Fn() -> Result<T>) -> Result<T> {
        match act() {
            Err(Errno::ACCESS) if self.is_recorded() => {
                let mode = Mode::from_raw_mode(rustix::fs::fstat(&self.fd)?.st_mode);
                rustix::fs::fchmod(&self.fd, mode | Mode::RWXU)?;
                let done = act();
                rustix::fs::fchmod(&self.fd, mode)?;
                done
            }
            done => done,
        }
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
        if status.carries_xattrs() {
            return self.with_records(meta, self.xattrs(name)?);
        }
        if let Some(table) = &self.keeping.owners {
            (meta.uid, meta.gid) = table.get_in(&self.fd, name)?.unwrap_or_default();
        }
        Ok(meta)
    }

    /// Has a symbolic link, pipe or socket without a recorded owner take this one.
    pub(crate) fn adopt(&self, name: &OsStr, owner: (u32, u32)) -> Result<()> {
        match &self.keeping.owners {
            Some(table) if table.get_in(&self.fd, name)?.is_none() => table.set_in(&self.fd, name, owner),
            _ => Ok(()),
        }
    }

    fn xattrs(&self, name: &OsStr) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        match self.open_name(name, OFlags::empty()) {
            Ok(fd) => xattr::read(fd),
            // Attributes may be read of a file that may not: only the name is needed, but no system call before
            // Linux 6.13 takes a directory for it.
            Err(Errno::ACCESS | Errno::PERM) => {
                xattr::read_path(&owner::proc_path(self.open_path(name)?.as_fd()))
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
        Self::enter(self.open_name(name, OFlags::DIRECTORY)?, self.keeping.clone())
    }

    /// Opens a regular file for reading; anything else is `EINVAL`, a symbolic link `ELOOP`.
    pub(crate) fn open_file(&self, name: &OsStr) -> Result<File> {
        let fd = self.open_name(name, OFlags::empty())?;
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
        self.changing(|| rustix::fs::mkdirat(&self.fd, name, Mode::RWXU))
    }

    pub(crate) fn create_file(&self, name: &OsStr) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        self.changing(|| rustix::fs::openat(&self.fd, name, flags, mode)).map(File::from)
    }

    pub(crate) fn symlink(&self, name: &OsStr, target: &OsStr) -> Result<()> {
        self.changing(|| rustix::fs::symlinkat(target, &self.fd, name))
    }

    /// Gives `from`'s `source` the further name `name`. A symbolic link is not followed.
    pub(crate) fn link(&self, name: &OsStr, from: &Self, source: &OsStr) -> Result<()> {
        self.changing(|| rustix::fs::linkat(&from.fd, source, &self.fd, name, AtFlags::empty()))
    }

    /// Makes a device, pipe or socket with mode `0600`. In a recorded tree a device is a file with a record.
    pub(crate) fn mknod(&self, name: &OsStr, kind: &Kind) -> Result<()> {
        if let (true, Some(node)) = (self.is_recorded(), Node::of(kind)) {
            return owner::put_node(self.create_file(name)?.as_fd(), node);
        }
        let (file_type, device) = match *kind {
            Kind::CharDevice { major, minor } => {
                (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
            }
            Kind::BlockDevice { major, minor } => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::Socket => (FileType::Socket, 0),
            Kind::File | Kind::Directory | Kind::Symlink(_) => return Err(Errno::INVAL),
        };
        let mode = Mode::RUSR | Mode::WUSR;
        self.changing(|| rustix::fs::mknodat(&self.fd, name, file_type, mode, device))
    }

    /// Makes the sign for a path that is gone. overlayfs's needs no capability since Linux 5.8.
    pub(crate) fn whiteout(&self, name: &OsStr) -> Result<()> {
        match self.keeping.whiteouts {
            Whiteouts::Device | Whiteouts::Trusted => self.changing(|| {
                rustix::fs::mknodat(&self.fd, name, FileType::CharacterDevice, Mode::empty(), 0)
            }),
            Whiteouts::Attribute => xattr::set(self.create_file(name)?, xattr::WHITEOUT),
        }
    }

    /// Tells whether a listed type may be that of the sign for a path that is gone.
    pub(crate) fn may_be_whiteout(&self, file_type: FileType) -> bool {
        match file_type {
            FileType::CharacterDevice | FileType::Unknown => true,
            FileType::RegularFile => self.keeping.whiteouts == Whiteouts::Attribute,
            _ => false,
        }
    }

    /// Tells whether this directory of a layer hides what is below it.
    pub(crate) fn is_opaque(&self) -> Result<bool> {
        xattr::is_set(&self.fd, self.opaque_name())
    }

    /// Marks this directory of a layer as hiding what is below it.
    pub(crate) fn set_opaque(&self) -> Result<()> {
        self.changing(|| xattr::set(&self.fd, self.opaque_name()))
    }

    fn opaque_name(&self) -> &'static str {
        match self.keeping.whiteouts {
            Whiteouts::Device => xattr::OVERLAY_OPAQUE,
            Whiteouts::Trusted => xattr::TRUSTED_OPAQUE,
            Whiteouts::Attribute => xattr::OPAQUE,
        }
    }

    /// Removes a name and everything below it; one that does not exist is no error.
    pub(crate) fn remove(&self, name: &OsStr) -> Result<()> {
        let Some(child) = self.unlink_or_open(name)? else { return Ok(()) };
        // a list of our own: a hostile tree may be deeper than the stack
        let mut open = vec![(self.clone(), name.to_owned(), child.names()?, child)];
        while let Some((parent, name, names, directory)) = open.last_mut() {
            let Some(inner) = names.pop() else {
                match parent.changing(|| rustix::fs::unlinkat(&parent.fd, &*name, AtFlags::REMOVEDIR)) {
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
        match self.changing(|| rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())) {
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
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let status = Status::new(&stat);
        if status.is_file() || status.is_dir() {
            match self.open_name(name, OFlags::empty()) {
                Ok(fd) => return set_meta(fd, meta, &self.keeping),
                Err(Errno::ACCESS) => {
                    self.change_mode(name, 0o700)?;
                    return set_meta(self.open_name(name, OFlags::empty())?, meta, &self.keeping);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(table) = &self.keeping.owners {
            table.set_in(&self.fd, name, (meta.uid, meta.gid))?;
        } else if (status.uid, status.gid) != (meta.uid, meta.gid) {
            let (uid, gid) = owner(meta)?;
            rustix::fs::chownat(&self.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        // a symbolic link has no mode of its own
        if !status.is_symlink() {
            self.change_mode(name, meta.mode)?;
        }
        rustix::fs::utimensat(&self.fd, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Changes the mode of a name that is no symbolic link. fchmodat(2) would follow one that took its place.
    fn change_mode(&self, name: &OsStr, mode: u32) -> Result<()> {
        let fd = self.open_path(name)?;
        if Status::new(&rustix::fs::fstat(&fd)?).is_symlink() {
            return Err(Errno::LOOP);
        }
        owner::chmod(fd.as_fd(), mode)
    }
}

/// Sets owner, mode, extended attributes and time of an open file or directory, leaving out what is so already.
pub(crate) fn set_meta(fd: impl AsFd, meta: &Meta, keeping: &Keeping) -> Result<()> {
    let fd = fd.as_fd();
    let status = Status::new(&rustix::fs::fstat(fd)?);
    if keeping.owners.is_some() {
        return set_recorded_meta(fd, &status, meta);
    }
    if (status.uid, status.gid) != (meta.uid, meta.gid) {
        let (uid, gid) = owner(meta)?;
        rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    }
    if status.mode & 0o7777 != meta.mode & 0o7777 || meta.mode & 0o6000 != 0 {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode & 0o7777))?;
    }
    for (name, value) in meta.xattrs.iter().filter(|(name, _)| xattr::travels(name)) {
        rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty())?;
    }
    rustix::fs::futimens(fd, &times(meta.mtime))
}

/// Does the same in a recorded tree, where the mode comes last: it may close the file to us.
fn set_recorded_meta(fd: BorrowedFd<'_>, status: &Status, meta: &Meta) -> Result<()> {
    if status.mode & 0o200 == 0 {
        owner::chmod(fd, status.mode | 0o700)?;
    }
    owner::put_owner(fd, meta.uid, meta.gid)?;
    for (name, value) in meta.xattrs.iter().filter(|(name, _)| xattr::travels(name)) {
        owner::put_xattr(fd, name, value)?;
    }
    owner::put_mode(fd, status.mode, meta.mode)?;
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
