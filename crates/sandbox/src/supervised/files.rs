//! Calls about files that exist: opening them, asking about them, changing them.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, Timespec, Timestamps};
use rustix::io::{Errno, Result};

use super::rules::OURS;
use super::{Supervised, drive, path_of, place};
use crate::notify::{Call, Reply, Target};
use crate::single::create::{Opening, mode};
use crate::single::files::{extended_with_record, with_record};
use crate::single::locate::{Entry, as_root};
use crate::single::symlink::is_symlink;
use crate::single::{Follow, Named};
use crate::sys::plain;

/// More openings than this at a time may not wait for the other end of a named pipe.
const MOST_OPENINGS: usize = 256;

/// Named pipes that wait to be opened. When the step has ended, they are opened from here, so that no thread is left.
#[derive(Debug, Default)]
pub(super) struct Openings(Arc<Mutex<Vec<(u64, OwnedFd)>>>, u64);

impl Openings {
    /// Opens a named pipe in a thread of its own and answers the call with it.
    fn wait_for(&mut self, pipe: OwnedFd, flags: OFlags, target: &Target<'_>) -> Result<Reply> {
        let pending = Arc::clone(&self.0);
        self.1 = self.1.wrapping_add(1);
        let number = self.1;
        let path = path_of(&pipe);
        let mut list = pending.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() >= MOST_OPENINGS {
            return Err(Errno::MFILE);
        }
        list.push((number, pipe));
        drop(list);
        let later = target.postpone()?;
        let open = move || {
            let ours = (flags & !OFlags::NOFOLLOW) | OFlags::CLOEXEC | OFlags::NOCTTY;
            let opened = rustix::fs::open(path, ours, Mode::empty());
            let mut list = pending.lock().unwrap_or_else(PoisonError::into_inner);
            list.retain(|(other, _)| *other != number);
            drop(list);
            later.answer(opened, flags.contains(OFlags::CLOEXEC));
        };
        thread::Builder::new().name("rbuild-pipe".to_owned()).spawn(open).map_err(|_| Errno::AGAIN)?;
        Ok(Reply::Elsewhere)
    }
}

impl Drop for Openings {
    fn drop(&mut self) {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, pipe) in list.iter() {
            // Both ends: whoever waits for one gets it.
            let _ = rustix::fs::open(
                path_of(pipe),
                OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
                Mode::empty(),
            );
        }
    }
}

impl Supervised {
    /// open(2), creat and openat(2).
    pub(super) fn open(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let opening = Opening::of(call.name, call, target)?.ok_or(Errno::INVAL)?;
        let flags = opening.flags();
        let close_on_exec = flags.contains(OFlags::CLOEXEC);
        let path = target.read_path(opening.path)?;
        if flags.contains(OFlags::TMPFILE) {
            let named = Named::at(target, opening.directory, opening.path, 0)?;
            let directory = self.single.open(call, target, &named)?;
            let mask = self.single.take_umask(call)?;
            let fd = as_root(directory.as_fd(), Mode::WUSR | Mode::XUSR, || {
                rustix::fs::openat(&directory, c".", flags | OFlags::CLOEXEC, mode(opening.mode))
            })?;
            self.single.settle(fd.as_fd(), mode(opening.mode), mask)?;
            return Ok(Reply::Descriptor { fd, close_on_exec });
        }
        if flags.contains(OFlags::CREATE) && !flags.contains(OFlags::PATH) {
            if path.to_bytes().ends_with(b"/") {
                return Err(Errno::ISDIR);
            }
            if let Some(fd) = self.create(call, target, (&opening, &path))? {
                return Ok(Reply::Descriptor { fd, close_on_exec });
            }
        }
        let follow = if flags.contains(OFlags::NOFOLLOW) { Follow::No } else { Follow::Yes };
        let viewer = self.single.viewer(call, target)?;
        let file = viewer.locate(opening.directory, &path, follow)?;
        self.open_found(file, flags, (call, target))
    }

    /// Makes a file that is not there; `None` when it is.
    fn create(
        &mut self,
        call: &Call,
        target: &Target<'_>,
        (opening, path): (&Opening, &std::ffi::CStr),
    ) -> Result<Option<OwnedFd>> {
        let flags = opening.flags();
        let exclusive = flags.intersects(OFlags::EXCL | OFlags::NOFOLLOW);
        let follow = if exclusive { Follow::No } else { Follow::Yes };
        let entry = match self.single.viewer(call, target)?.entry(opening.directory, path, follow) {
            // A directory, or what a link of /proc leads to.
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => return Ok(None),
            entry => entry?,
        };
        let Entry { directory, name } = &entry;
        match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) if flags.contains(OFlags::EXCL) => return Err(Errno::EXIST),
            Ok(_) => return Ok(None),
            Err(_) => {}
        }
        let mask = self.single.take_umask(call)?;
        let ours = flags | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOCTTY;
        let made = as_root(directory.as_fd(), Mode::WUSR | Mode::XUSR, || {
            rustix::fs::openat(directory, name, ours, mode(opening.mode))
        });
        match made {
            // Somebody else was faster.
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => Ok(None),
            made => {
                let made = made?;
                self.single.settle(made.as_fd(), mode(opening.mode), mask)?;
                Ok(Some(made))
            }
        }
    }

    /// Makes the caller open something with O_PATH: such a descriptor cannot be given to it.
    fn open_path(
        &mut self,
        call: &Call,
        target: &Target<'_>,
        file: &OwnedFd,
        flags: OFlags,
    ) -> Result<Reply> {
        let path = rustix::fs::readlink(path_of(file), Vec::new())?.into_bytes();
        if self.proc.inside(&path).is_none() {
            return Err(Errno::ACCESS);
        }
        let flags = flags & (OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC) | OFlags::NOFOLLOW;
        let mut driven = drive::take(call, target)?;
        let opened = drive::memory(&mut driven, call.thread, &self.seal).and_then(|memory| {
            let at = memory.start + drive::STRINGS;
            drive::write(call.thread, at, &[path.as_slice(), b"\0"].concat())?;
            let here = u64::from(libc::AT_FDCWD.cast_unsigned());
            driven.call(libc::SYS_openat, [here, at, flags.bits().into(), 0, 0, OURS.into()])
        });
        driven.finish(opened.unwrap_or_else(|errno| -i64::from(errno.raw_os_error())))?;
        Ok(Reply::Elsewhere)
    }

    fn open_found(
        &mut self,
        file: OwnedFd,
        flags: OFlags,
        (call, target): (&Call, &Target<'_>),
    ) -> Result<Reply> {
        let close_on_exec = flags.contains(OFlags::CLOEXEC);
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        if flags.contains(OFlags::PATH) {
            if flags.contains(OFlags::DIRECTORY) && kind != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            return self.open_path(call, target, &file, flags);
        }
        let access = flags & OFlags::RWMODE;
        match kind {
            FileType::Symlink => return Err(Errno::LOOP),
            FileType::Directory if flags.contains(OFlags::CREATE) => return Err(Errno::ISDIR),
            FileType::Fifo if access != OFlags::RDWR && !flags.contains(OFlags::NONBLOCK) => {
                let flags = flags.difference(OFlags::CREATE | OFlags::TRUNC);
                return self.openings.wait_for(file, flags, target);
            }
            _ => {}
        }
        let fd = open_again(&file, flags)?;
        Ok(Reply::Descriptor { fd, close_on_exec })
    }

    /// readlink(2) and readlinkat(2).
    pub(super) fn read_link(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        const NO_LINK: u64 = (libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) as u64;
        let (_, directory, path) = place(call);
        let first = if call.name == "readlink" { 1 } else { 2 };
        // An empty path means the descriptor here.
        let flags = if first == 2 { NO_LINK } else { libc::AT_SYMLINK_NOFOLLOW as u64 };
        let named = Named::at(target, directory, path, flags)?;
        let link = self.single.open(call, target, &named)?;
        let text = match rustix::fs::readlinkat(&link, c"", Vec::new()) {
            Err(Errno::NOENT) => return Err(Errno::INVAL),
            text => text?.into_bytes(),
        };
        let room = usize::try_from(call.int(first + 1)).ok().filter(|&size| size > 0).ok_or(Errno::INVAL)?;
        let text = text.get(..room).unwrap_or(&text);
        target.write(call.word(first), text)?;
        Ok(Reply::Value(i64::try_from(text.len()).unwrap_or(0)))
    }

    /// stat(2), lstat, fstat, newfstatat and statx(2).
    pub(super) fn stat(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let file = match call.name {
            "fstat" => self.single.open(call, target, &Named::Descriptor(call.int(0)))?,
            "lstat" => self.look_at(call, target, libc::AT_SYMLINK_NOFOLLOW as u64)?,
            "newfstatat" => self.look_at(call, target, call.word(3))?,
            "statx" => self.look_at(call, target, call.word(2))?,
            _ => self.look_at(call, target, 0)?,
        };
        let stat = rustix::fs::fstat(&file)?;
        let recorded = self.single.recorded(file.as_fd(), &stat);
        if call.name == "statx" {
            let flags = AtFlags::from_bits_retain(call.int(2).cast_unsigned()) | AtFlags::EMPTY_PATH;
            let mask = StatxFlags::from_bits_retain(call.int(3).cast_unsigned());
            let statx = rustix::fs::statx(&file, c"", flags, mask)?;
            target.write(call.word(4), plain::statx_bytes(&extended_with_record(statx, recorded)))?;
        } else {
            let buffer = if call.name == "newfstatat" { call.word(2) } else { call.word(1) };
            target.write(buffer, plain::stat_bytes(&with_record(stat, recorded)))?;
        }
        Ok(Reply::Value(0))
    }

    /// access(2), faccessat and faccessat2(2), as root: it may do all but execute what nobody may.
    pub(super) fn access(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        const ANY_EXECUTE: u32 = 0o111;
        let (wish, flags) = match call.name {
            "access" => (call.int(1), 0),
            "faccessat" => (call.int(2), 0),
            _ => (call.int(2), call.word(3)),
        };
        if wish & !(libc::R_OK | libc::W_OK | libc::X_OK) != 0 {
            return Err(Errno::INVAL);
        }
        let file = self.look_at(call, target, flags)?;
        let stat = rustix::fs::fstat(&file)?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if wish & libc::X_OK != 0 && is_file && stat.st_mode & ANY_EXECUTE == 0 {
            return Err(Errno::ACCESS);
        }
        Ok(Reply::Value(0))
    }

    /// chmod(2), fchmodat and fchmodat2(2).
    pub(super) fn chmod(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let (wish, flags) = match call.name {
            "chmod" => (call.word(1), 0),
            "fchmodat" => (call.word(2), 0),
            _ => (call.word(2), call.word(3)),
        };
        let file = self.look_at(call, target, flags)?;
        if is_symlink(&rustix::fs::fstat(&file)?) {
            return Err(Errno::OPNOTSUPP);
        }
        rustix::fs::chmod(path_of(&file), mode(wish))?;
        Ok(Reply::Value(0))
    }

    /// truncate(2).
    pub(super) fn truncate(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let length = u64::try_from(call.word(1).cast_signed()).map_err(|_| Errno::INVAL)?;
        let file = self.look_at(call, target, 0)?;
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        rustix::fs::ftruncate(open_again(&file, OFlags::WRONLY)?, length)?;
        Ok(Reply::Value(0))
    }

    /// statfs(2).
    pub(super) fn statfs(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let file = self.look_at(call, target, 0)?;
        let statfs = rustix::fs::fstatfs(&file)?;
        target.write(call.word(1), plain::statfs_bytes(&statfs))?;
        Ok(Reply::Value(0))
    }

    /// utime(2), utimes, futimesat and utimensat(2).
    pub(super) fn set_times(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let (_, directory, path) = place(call);
        let (times, flags) = match call.name {
            "utime" | "utimes" => (call.word(1), 0),
            "futimesat" => (call.word(2), 0),
            _ => (call.word(2), call.word(3)),
        };
        let times = read_times(call.name, target, times)?;
        if path == 0 {
            let file = self.single.open(call, target, &Named::Descriptor(directory))?;
            rustix::fs::utimensat(CWD, path_of(&file), &times, AtFlags::empty())?;
            return Ok(Reply::Value(0));
        }
        let file = self.look_at(call, target, flags)?;
        if is_symlink(&rustix::fs::fstat(&file)?) {
            let path = target.read_path(path)?;
            let entry = self.single.viewer(call, target)?.entry(directory, &path, Follow::No)?;
            let Entry { directory, name } = &entry;
            rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        } else {
            rustix::fs::utimensat(CWD, path_of(&file), &times, AtFlags::empty())?;
        }
        Ok(Reply::Value(0))
    }
}

/// Reads the times a call sets; an absent structure is the present.
fn read_times(name: &str, target: &Target<'_>, address: u64) -> Result<Timestamps> {
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    if address == 0 {
        return Ok(Timestamps { last_access: now, last_modification: now });
    }
    let mut words = [0i64; 4];
    let count = if name == "utime" { 2 } else { 4 };
    let mut bytes = [0; 32];
    target.read(address, bytes.get_mut(..count * 8).ok_or(Errno::FAULT)?)?;
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.try_into().map_or(0, i64::from_ne_bytes);
    }
    let [first, second, third, fourth] = words;
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let microseconds = |value: i64| {
        if (0..1_000_000).contains(&value) { Ok(value * 1000) } else { Err(Errno::INVAL) }
    };
    let (last_access, last_modification) = match name {
        "utime" => (time(first, 0), time(second, 0)),
        "utimensat" => (time(first, second), time(third, fourth)),
        _ => (time(first, microseconds(second)?), time(third, microseconds(fourth)?)),
    };
    Ok(Timestamps { last_access, last_modification })
}

/// Opens what a descriptor opened with O_PATH is of, also where the mode keeps its owner from that, but not root.
pub(super) fn open_again(file: &OwnedFd, flags: OFlags) -> Result<OwnedFd> {
    let created = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let ours = flags.difference(created) | OFlags::CLOEXEC | OFlags::NOCTTY;
    let needed = match flags & OFlags::RWMODE {
        OFlags::WRONLY => Mode::WUSR,
        OFlags::RDWR => Mode::RUSR | Mode::WUSR,
        _ => Mode::RUSR,
    };
    as_root(file.as_fd(), needed, || rustix::fs::open(path_of(file), ours, Mode::empty()))
}
