//! The memory of a process whose call waits.

use std::ffi::{CStr, CString};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::process::Pid;

use crate::status::Status;
use crate::sys::{identity, notification};

/// The longest path the kernel takes, with its null byte.
const PATH_MAX: usize = 4096;

/// A multiple of this is where reading may have to stop.
const PAGE: u64 = 4096;

/// Most paths are shorter: what is read of one at first.
const USUAL_PATH: usize = 256;

/// The process behind a waiting call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(super) listener: BorrowedFd<'a>,
    pub(super) id: u64,
    pub(super) thread: Pid,
}

impl Target<'_> {
    /// Tells whether the call still waits. If so, whatever was looked up before under the number of its thread
    /// belonged to it.
    pub(crate) fn is_waiting(&self) -> bool {
        notification::is_waiting(self.listener, self.id)
    }

    /// Fills the buffer from the process's memory.
    ///
    /// # Errors
    /// EFAULT when not all of it can be read; EPERM when this process may not; ESRCH when the call waits no more.
    pub(crate) fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        let read = self.with_rights(|| notification::read_memory(self.thread, address, buffer))?;
        self.check()?;
        if read == buffer.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Reads a string of at most PATH_MAX bytes.
    ///
    /// # Errors
    /// As for [`Target::read`]; ENAMETOOLONG when it is longer.
    pub(crate) fn read_path(&self, address: u64) -> Result<CString> {
        let mut text = [0u8; PATH_MAX];
        let mut length = 0;
        while length < PATH_MAX {
            let from = address.checked_add(length as u64).ok_or(Errno::FAULT)?;
            let until_page_ends = usize::try_from(PAGE - from % PAGE).map_err(|_| Errno::FAULT)?;
            let wanted = until_page_ends.min(PATH_MAX - length);
            let wanted = if length == 0 { wanted.min(USUAL_PATH) } else { wanted };
            let piece = text.get_mut(length..length + wanted).ok_or(Errno::FAULT)?;
            let read = self.with_rights(|| notification::read_memory(self.thread, from, piece))?;
            if let Some(end) = piece.get(..read).unwrap_or_default().iter().position(|&byte| byte == 0) {
                self.check()?;
                let text = text.get(..=length + end).unwrap_or_default();
                return CStr::from_bytes_with_nul(text).map(CStr::to_owned).map_err(|_| Errno::FAULT);
            }
            if read < wanted {
                return Err(Errno::FAULT);
            }
            length += read;
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Writes to the process's memory. Pages that the process may not write are refused.
    ///
    /// # Errors
    /// As for [`Target::read`].
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.check()?;
        let written = self.with_rights(|| notification::write_memory(self.thread, address, bytes))?;
        if written == bytes.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// The kernel wants the real ids of who touches a process's memory to be all of that process's own, or
    /// CAP_SYS_PTRACE, which a pod's root has not.
    fn with_rights<T>(&self, mut act: impl FnMut() -> Result<T>) -> Result<T> {
        match act() {
            Err(Errno::PERM) => {}
            done => return done,
        }
        let status = Status::of(self.thread.as_raw_nonzero().get()).ok_or(Errno::SRCH)?;
        let ([uid, ..], [gid, ..]) = (status.uids, status.gids);
        identity::with_real_ids(uid, gid, act)
    }

    /// Gives the process a copy of a descriptor; the call goes on waiting.
    pub(crate) fn give(&self, fd: BorrowedFd<'_>) -> Result<i32> {
        notification::give_descriptor(self.listener, self.id, fd)
    }

    /// Answers the call with 0, for who drives its thread.
    pub(crate) fn release(&self) -> Result<()> {
        let response = libc::seccomp_notif_resp { id: self.id, val: 0, error: 0, flags: 0 };
        notification::respond(self.listener, &response)
    }

    /// Returns what answers the call with a descriptor later, from another thread.
    pub(crate) fn postpone(&self) -> Result<Postponed> {
        let listener = self.listener.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        Ok(Postponed { listener, id: self.id })
    }

    fn check(&self) -> Result<()> {
        if self.is_waiting() { Ok(()) } else { Err(Errno::SRCH) }
    }
}

/// A call that is answered later.
#[derive(Debug)]
pub(crate) struct Postponed {
    listener: OwnedFd,
    id: u64,
}

impl Postponed {
    /// Answers the call with a descriptor, or an error.
    pub(crate) fn answer(&self, opened: Result<OwnedFd>, close_on_exec: bool) {
        let (listener, id) = (self.listener.as_fd(), self.id);
        let given = opened
            .and_then(|fd| notification::respond_with_descriptor(listener, id, fd.as_fd(), close_on_exec));
        if let Err(errno) = given {
            let error = -errno.raw_os_error();
            // It fails when the caller has died, and then nobody waits.
            let _ =
                notification::respond(listener, &libc::seccomp_notif_resp { id, val: 0, error, flags: 0 });
        }
    }
}
