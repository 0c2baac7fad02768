//! Calls that make files: what a process makes belongs to it, or to the group of a set-group-id directory.
//!
//! Where the owner is root, the kernel makes the file itself. Otherwise it is made here, with the caller's umask, the
//! owner is recorded, and an open file is handed over.

use std::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::calls::CREATING;
use super::locate::{Entry, as_root, descriptor_path};
use super::{Follow, Named, Single, Umask};
use crate::capabilities;
use crate::notify::{Call, Reply, Target};
use crate::owners::{Node, NodeKind, Recorded};
use crate::seccomp::HARMLESS_DEVICES;
use crate::status::Status;
use crate::sys;

const S_ISGID: u32 = libc::S_ISGID;

/// overlayfs's whiteout.
const WHITEOUT: u32 = 0;

/// A file about to be made for somebody who is not root.
struct Creation {
    entry: Entry,
    owner: Recorded,
    /// Whether the caller may write to directories closed to it, as root may.
    overrides: bool,
}

/// Where a call makes something.
struct Place {
    directory: i32,
    /// The address of the path.
    path: u64,
    follow: Follow,
}

impl Place {
    const fn of(directory: i32, path: u64) -> Self {
        Self { directory, path, follow: Follow::No }
    }
}

/// An `open` of any form.
pub(crate) struct Opening {
    pub(crate) directory: i32,
    pub(crate) path: u64,
    flags: u64,
    pub(crate) mode: u64,
}

impl Opening {
    pub(crate) fn of(name: &str, call: &Call, target: &Target<'_>) -> Result<Option<Self>, Errno> {
        let (here, create) = (libc::AT_FDCWD, (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64);
        let (path, flags, mode) = (call.word(0), call.word(1), call.word(2));
        Ok(Some(match name {
            "open" => Self { directory: here, path, flags, mode },
            "creat" => Self { directory: here, path, flags: create, mode: flags },
            "openat" => Self { directory: call.int(0), path: flags, flags: mode, mode: call.word(3) },
            _ => {
                let mut how = [0; 24];
                if call.word(3) < 24 {
                    return Ok(None);
                }
                target.read(call.word(2), &mut how)?;
                let word = |index: usize| {
                    let bytes = how.get(index..index.saturating_add(8)).and_then(|word| word.try_into().ok());
                    bytes.map_or(0, u64::from_ne_bytes)
                };
                // A path that is resolved under conditions is the kernel's to resolve.
                if word(8) & !0o7777 != 0 || word(16) != 0 {
                    return Ok(None);
                }
                Self { directory: call.int(0), path: call.word(1), flags: word(0), mode: word(8) }
            }
        }))
    }

    /// Returns the flags our own open takes over.
    #[expect(clippy::cast_possible_truncation, reason = "as the kernel does")]
    pub(crate) const fn flags(&self) -> OFlags {
        OFlags::from_bits_retain(self.flags as u32)
    }
}

impl Single {
    /// open(2), creat, openat and openat2(2), where they may create.
    pub(super) fn create_file(
        &mut self,
        name: &str,
        call: &Call,
        target: &Target<'_>,
    ) -> Result<Reply, Errno> {
        let Some(opening) = Opening::of(name, call, target)? else { return Ok(Reply::Continue) };
        let flags = opening.flags();
        if flags.bits() & CREATING == 0 {
            return Ok(Reply::Continue);
        }
        let temporary = flags.contains(OFlags::TMPFILE);
        let exclusive = flags.intersects(OFlags::EXCL | OFlags::NOFOLLOW) && !temporary;
        let follow = if exclusive { Follow::No } else { Follow::Yes };
        let found = if temporary {
            self.temporary(call, target, &opening)?
        } else {
            self.creation(call, target, &Place { follow, ..Place::of(opening.directory, opening.path) })?
        };
        let Some(creation) = found else { return Ok(Reply::Continue) };
        let Entry { directory, name } = &creation.entry;
        if !temporary && rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            // The kernel opens what is there, or refuses to.
            return Ok(Reply::Continue);
        }
        let create = if temporary { OFlags::empty() } else { OFlags::CREATE | OFlags::EXCL };
        let mode = mode(opening.mode);
        let made = self.make(call, &creation, |directory, name| {
            rustix::fs::openat(directory, name, flags | create | OFlags::CLOEXEC, mode)
        });
        let (fd, mask) = match made {
            // Somebody else was faster.
            Err(Errno::EXIST) if !temporary => return Ok(Reply::Continue),
            made => made?,
        };
        let file =
            rustix::fs::open(descriptor_path(fd.as_fd()), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        self.settle(file.as_fd(), mode, mask)?;
        self.record(file.as_fd(), &creation.owner)?;
        Ok(Reply::Descriptor { fd, close_on_exec: flags.contains(OFlags::CLOEXEC) })
    }

    /// mkdir(2) and mkdirat(2).
    pub(super) fn create_directory(
        &mut self,
        name: &str,
        call: &Call,
        target: &Target<'_>,
    ) -> Result<Reply, Errno> {
        let (directory, first) = if name == "mkdir" { (libc::AT_FDCWD, 0) } else { (call.int(0), 1) };
        let mode = mode(call.word(first + 1));
        let Some(creation) = self.creation(call, target, &Place::of(directory, call.word(first)))? else {
            return Ok(Reply::Continue);
        };
        let ((), mask) =
            self.make(call, &creation, |directory, name| rustix::fs::mkdirat(directory, name, mode))?;
        self.settle_entry(&creation.entry, mode, mask)?;
        self.record_entry(&creation)
    }

    /// symlink(2) and symlinkat(2).
    pub(super) fn create_symlink(
        &mut self,
        name: &str,
        call: &Call,
        target: &Target<'_>,
    ) -> Result<Reply, Errno> {
        let (directory, path) = if name == "symlink" { (libc::AT_FDCWD, 1) } else { (call.int(1), 2) };
        let Some(creation) = self.creation(call, target, &Place::of(directory, call.word(path)))? else {
            return Ok(Reply::Continue);
        };
        let content = target.read_path(call.word(0))?;
        self.make(call, &creation, |directory, name| rustix::fs::symlinkat(&content, directory, name))?;
        self.record_entry(&creation)
    }

    /// mknod(2) and mknodat(2). A device becomes an empty file with a record, within what the filter allows others.
    pub(super) fn create_node(
        &mut self,
        name: &str,
        call: &Call,
        target: &Target<'_>,
    ) -> Result<Reply, Errno> {
        let (directory, first) = if name == "mknod" { (libc::AT_FDCWD, 0) } else { (call.int(0), 1) };
        let (path, raw_mode) = (call.word(first), call.word(first + 1));
        #[expect(clippy::cast_possible_truncation, reason = "as the kernel does")]
        let (kind, device) = (FileType::from_raw_mode(raw_mode as u32), call.word(first + 2) as u32);
        let node = match kind {
            FileType::CharacterDevice if device == WHITEOUT => return Ok(Reply::Continue),
            FileType::CharacterDevice if HARMLESS_DEVICES.contains(&device) => {
                Some(Node { kind: NodeKind::Character, ..node_of(device) })
            }
            FileType::CharacterDevice | FileType::BlockDevice => return Err(Errno::PERM),
            _ => None,
        };
        let owned = self.owned_creation(call, target, &Place::of(directory, path));
        let Ok(mut creation) = owned else { return Ok(Reply::Continue) };
        if node.is_some() && self.caller(call)?.identity.capabilities.effective & capabilities::MKNOD == 0 {
            return Err(Errno::PERM);
        }
        creation.owner.node = node;
        if creation.owner == Recorded::default() {
            return Ok(Reply::Continue);
        }
        let kind = if node.is_some() { FileType::RegularFile } else { kind };
        let mode = mode(raw_mode);
        let ((), mask) = self
            .make(call, &creation, |directory, name| rustix::fs::mknodat(directory, name, kind, mode, 0))?;
        self.settle_entry(&creation.entry, mode, mask)?;
        self.record_entry(&creation)
    }

    /// Says what a call makes and for whom; `None` when the kernel may do it, as it does what fails.
    fn creation(
        &mut self,
        call: &Call,
        target: &Target<'_>,
        place: &Place,
    ) -> Result<Option<Creation>, Errno> {
        let creation = match self.owned_creation(call, target, place) {
            Err(Errno::PERM) => return Err(Errno::PERM),
            Err(_) => return Ok(None),
            Ok(creation) => creation,
        };
        Ok((creation.owner != Recorded::default()).then_some(creation))
    }

    fn owned_creation(&mut self, call: &Call, target: &Target<'_>, place: &Place) -> Result<Creation, Errno> {
        let path = target.read_path(place.path)?;
        let entry = self.viewer(call, target)?.entry(place.directory, &path, place.follow)?;
        self.creation_in(call, entry)
    }

    /// O_TMPFILE: a file without a name in the directory that the path means.
    fn temporary(
        &mut self,
        call: &Call,
        target: &Target<'_>,
        opening: &Opening,
    ) -> Result<Option<Creation>, Errno> {
        let named = Named::at(target, opening.directory, opening.path, 0)?;
        let Ok(directory) = self.open(call, target, &named) else { return Ok(None) };
        let creation = self.creation_in(call, Entry { directory, name: c".".to_owned() })?;
        Ok((creation.owner != Recorded::default()).then_some(creation))
    }

    fn creation_in(&self, call: &Call, entry: Entry) -> Result<Creation, Errno> {
        let caller = self.caller(call)?;
        let stat = rustix::fs::fstat(&entry.directory)?;
        let gid = if stat.st_mode & S_ISGID == 0 {
            caller.identity.group.filesystem
        } else {
            self.recorded(entry.directory.as_fd(), &stat).gid
        };
        let owner = Recorded { uid: caller.identity.user.filesystem, gid, ..Recorded::default() };
        let overrides = caller.identity.capabilities.effective & capabilities::DAC_OVERRIDE != 0;
        Ok(Creation { entry, owner, overrides })
    }

    /// Makes something with the umask of the caller.
    fn make<T>(
        &mut self,
        call: &Call,
        creation: &Creation,
        make: impl Fn(BorrowedFd<'_>, &CStr) -> rustix::io::Result<T>,
    ) -> Result<(T, Mode), Errno> {
        let mask = self.take_umask(call)?;
        let Entry { directory, name } = &creation.entry;
        let make = || make(directory.as_fd(), name);
        let made = if creation.overrides {
            as_root(directory.as_fd(), Mode::WUSR | Mode::XUSR, make)
        } else {
            make()
        };
        Ok((made?, mask))
    }

    /// Gives this thread the umask of the caller, and returns it.
    pub(crate) fn take_umask(&mut self, call: &Call) -> Result<Mode, Errno> {
        if self.umask == Umask::OfTheProcess {
            self.umask = match sys::unshare_filesystem_attributes() {
                Err(Errno::PERM) => Umask::Refused,
                done => done.map(|()| Umask::Own)?,
            };
        }
        let status = Status::of(super::thread_of(call)).ok_or(Errno::SRCH)?;
        let mask = Mode::from_raw_mode(status.umask);
        if self.umask == Umask::Own {
            rustix::process::umask(mask);
        }
        Ok(mask)
    }

    /// Gives a file just made the mode that the caller's umask leaves of `wish`, where this thread has another umask.
    pub(crate) fn settle(&self, file: BorrowedFd<'_>, wish: Mode, mask: Mode) -> Result<(), Errno> {
        if self.umask != Umask::Refused {
            return Ok(());
        }
        let stat = rustix::fs::fstat(file)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Ok(());
        }
        let has = Mode::from_raw_mode(stat.st_mode);
        // mkdir(2) takes no set-id bits, but a set-group-id directory makes others.
        let wish = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => wish.difference(Mode::SUID | Mode::SGID),
            _ => wish,
        };
        let wanted = wish.difference(mask) | has & Mode::SGID;
        if has == wanted { Ok(()) } else { rustix::fs::chmod(descriptor_path(file), wanted) }
    }

    /// As [`Single::settle`], of a name.
    pub(crate) fn settle_entry(&self, entry: &Entry, wish: Mode, mask: Mode) -> Result<(), Errno> {
        if self.umask != Umask::Refused {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&entry.directory, &entry.name, flags, Mode::empty())?;
        self.settle(file.as_fd(), wish, mask)
    }

    fn record_entry(&mut self, creation: &Creation) -> Result<Reply, Errno> {
        let Entry { directory, name } = &creation.entry;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        self.record(file.as_fd(), &creation.owner)?;
        Ok(Reply::Value(0))
    }
}

pub(crate) fn mode(mode: u64) -> Mode {
    Mode::from_raw_mode((mode & 0o7777) as u32)
}

/// Decodes a device number as mknod(2) takes it.
const fn node_of(device: u32) -> Node {
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    Node { kind: NodeKind::Character, major: (device >> 8) & 0xfff, minor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        for (device, expect) in [(0x103, (1, 3)), (0x502, (5, 2)), (0xfff0_07ff, (7, 0xf_ffff))] {
            let Node { major, minor, .. } = node_of(device);
            assert_eq!((major, minor), expect, "{device:#x}");
        }
    }
}
