//! seccomp filters, and what their listeners understand.

use std::mem::MaybeUninit;

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::process::Pid;

use super::{check, owned};

/// Installs a seccomp filter on this thread.
///
/// # References
/// seccomp(2)
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> Result<()> {
    install(program, 0).map(drop)
}

/// Installs a seccomp filter on this thread and returns its listener, which execve closes.
///
/// Where the kernel can (Linux 5.19), only a fatal signal interrupts a call that the listener has received: an
/// emulation may have changed something by then.
///
/// # Errors
/// EBUSY when a filter installed before has a listener.
pub(crate) fn install_notifying_filter(program: &[libc::sock_filter]) -> Result<OwnedFd> {
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    match install(program, listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(Errno::INVAL) => install(program, listener),
        installed => installed,
    }
    .and_then(owned)
}

fn install(program: &[libc::sock_filter], flags: libc::c_ulong) -> Result<libc::c_long> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions, all of them live, and writes nothing.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })
}

/// Asks the kernel to wake the listener on the caller's processor and the caller on the listener's, which saves a
/// trip through the scheduler for each call.
///
/// # Errors
/// EINVAL before Linux 6.6.
pub(crate) fn wake_synchronously(listener: BorrowedFd<'_>) -> Result<()> {
    const SYNC_WAKE_UP: u64 = 1;
    // SAFETY: SET_FLAGS takes its argument by value.
    check(unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
            SYNC_WAKE_UP,
        )
    })
    .map(drop)
}

/// Takes the next waiting call.
///
/// # Errors
/// ENOENT when its process died meanwhile.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> Result<libc::seccomp_notif> {
    // SAFETY: the structure is plain data; the kernel wants it zeroed.
    let mut notification: libc::seccomp_notif = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the kernel writes one structure, whose size is part of the request's number.
    let received = unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut notification,
        )
    };
    check(received).map(|_| notification)
}

/// Answers a call.
///
/// # Errors
/// ENOENT when its process died meanwhile.
pub(crate) fn respond(listener: BorrowedFd<'_>, response: &libc::seccomp_notif_resp) -> Result<()> {
    // SAFETY: the kernel reads one live structure.
    check(unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            std::ptr::from_ref(response),
        )
    })
    .map(drop)
}

/// Gives the caller a copy of `fd` and answers the call with its number.
///
/// # Errors
/// ENOENT when its process died meanwhile; EMFILE when it has no number left.
///
/// # References
/// seccomp_unotify(2); SECCOMP_ADDFD_FLAG_SEND is Linux 5.14
pub(crate) fn respond_with_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    close_on_exec: bool,
) -> Result<()> {
    let send = u32::try_from(libc::SECCOMP_ADDFD_FLAG_SEND).map_err(|_| Errno::INVAL)?;
    add_descriptor(listener, id, fd, send, close_on_exec).map(drop)
}

/// Gives the caller a copy of `fd`, closed by execve, and leaves the call waiting; returns its number.
///
/// # Errors
/// As for [`respond_with_descriptor`].
pub(crate) fn give_descriptor(listener: BorrowedFd<'_>, id: u64, fd: BorrowedFd<'_>) -> Result<i32> {
    let number = add_descriptor(listener, id, fd, 0, true)?;
    i32::try_from(number).map_err(|_| Errno::BADF)
}

fn add_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    flags: u32,
    close_on_exec: bool,
) -> Result<libc::c_long> {
    let request = libc::seccomp_notif_addfd {
        id,
        flags,
        srcfd: u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::BADF)?,
        newfd: 0,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
    };
    // SAFETY: the kernel reads one live structure.
    check(unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ADDFD,
            &raw const request,
        )
    })
}

/// Tells whether a call still waits: what was read of its process between receiving it and this was its own.
pub(crate) fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads one live number.
    let valid = unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
            &raw const id,
        )
    };
    check(valid).is_ok()
}

/// Reads another process's memory; returns how much could be read.
///
/// # References
/// process_vm_readv(2)
pub(crate) fn read_memory(process: Pid, address: u64, buffer: &mut [u8]) -> Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = remote(address, buffer.len())?;
    // SAFETY: the kernel writes at most the live buffer's length into it, and checks the remote address.
    let done = unsafe {
        libc::syscall(
            libc::SYS_process_vm_readv,
            process.as_raw_nonzero().get(),
            &raw const local,
            1usize,
            &raw const remote,
            1usize,
            0usize,
        )
    };
    check(done).map(|read| usize::try_from(read).unwrap_or(0))
}

/// Writes another process's memory; returns how much could be written.
///
/// # References
/// process_vm_writev(2)
pub(crate) fn write_memory(process: Pid, address: u64, bytes: &[u8]) -> Result<usize> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = remote(address, bytes.len())?;
    // SAFETY: the kernel only reads the live bytes, and checks the remote address.
    let done = unsafe {
        libc::syscall(
            libc::SYS_process_vm_writev,
            process.as_raw_nonzero().get(),
            &raw const local,
            1usize,
            &raw const remote,
            1usize,
            0usize,
        )
    };
    check(done).map(|written| usize::try_from(written).unwrap_or(0))
}

fn remote(address: u64, length: usize) -> Result<libc::iovec> {
    let address = usize::try_from(address).map_err(|_| Errno::FAULT)?;
    Ok(libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: length })
}
