//! System calls that rustix lacks or wraps in a type that does not fit a freshly cloned child.
//!
//! Everything here is a single system call on borrowed or plain values: no allocation, no lock, no libc state but
//! `errno`. That makes all of it fit for the child of a multi-threaded process, which may find any lock of its
//! parent taken for ever.

#![expect(unsafe_code, reason = "raw system calls; each block argues its safety")]

pub(crate) mod identity;
pub(crate) mod landlock;
pub(crate) mod limit;
pub(crate) mod notification;
pub(crate) mod plain;
pub(crate) mod trace;

use std::ffi::{CStr, c_char, c_int, c_long};
use std::mem::size_of;

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::{Errno, Result};
use rustix::mount::MountAttrFlags;
use rustix::process::Pid;
use zeroize::Zeroize;

/// Turns the result of `libc::syscall` into a value or the thread's `errno`.
fn check(value: c_long) -> Result<c_long> {
    if value != -1 {
        return Ok(value);
    }
    // SAFETY: the location is the calling thread's own and valid for its life; a cloned child has a copy of it.
    let errno = unsafe { *libc::__errno_location() };
    Err(Errno::from_raw_os_error(errno))
}

pub(crate) use landlock::fence_signals;
pub(crate) use notification::{install_filter, install_notifying_filter};

/// The two sides of [`clone`].
#[derive(Debug)]
pub(crate) enum Cloned {
    /// In the calling process: the child's id and a descriptor of it.
    Parent(Pid, OwnedFd),
    /// In the child.
    Child,
}

/// Clones the calling thread into a new process with a copy of this one's memory.
///
/// The exit signal is 0: no SIGCHLD reaches the program we live in, and its `waitpid(-1)` without `__WALL` does not
/// see this child.
///
/// # Safety
/// In the child, only the calling thread exists: the caller must neither allocate nor take a lock there, nor return
/// into code that could, and must end with [`exit`] or `execve`.
///
/// # References
/// clone(2), "C library/kernel differences"; the legacy call is used because seccomp profiles answer clone3 with
/// ENOSYS (its flags cannot be filtered), while it takes every flag needed here.
pub(crate) unsafe fn clone(flags: c_int) -> Result<Cloned> {
    let mut pidfd: c_int = -1;
    let flags = flags | libc::CLONE_PIDFD;
    // SAFETY: without CLONE_VM the child gets its own copy of the stack, so a null stack pointer means "the same
    // address". `pidfd` outlives the call. The caller promises to keep to what a lone thread may do.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, &raw mut pidfd, 0usize, 0usize) })?;
    match Pid::from_raw(c_int::try_from(pid).unwrap_or(0)) {
        // SAFETY: the kernel stored a new descriptor that nothing else owns.
        Some(pid) => Ok(Cloned::Parent(pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
        None => Ok(Cloned::Child),
    }
}

/// Forks with SIGCHLD as the exit signal; `None` in the child.
///
/// # Safety
/// As for [`clone`].
pub(crate) unsafe fn fork() -> Result<Option<Pid>> {
    // SAFETY: as in `clone`; the caller carries the obligations on.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0usize, 0usize, 0usize, 0usize) })?;
    Ok(Pid::from_raw(c_int::try_from(pid).unwrap_or(0)))
}

/// Ends the process without running destructors or exit handlers.
pub(crate) fn exit(code: c_int) -> ! {
    // SAFETY: `_exit` is exit_group(2), always allowed.
    unsafe { libc::_exit(code) }
}

/// A null-terminated array of strings, as execve wants it; wiped when dropped.
pub(crate) struct StringArray {
    pointers: Vec<*const c_char>,
    strings: Vec<std::ffi::CString>,
}

// SAFETY: the pointers point into the heap buffers of `strings`, which are never changed and move with it.
unsafe impl Send for StringArray {}
// SAFETY: nothing is mutated through a shared reference.
unsafe impl Sync for StringArray {}

impl StringArray {
    pub(crate) fn new(strings: Vec<std::ffi::CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, strings }
    }

    /// Returns the first string, for messages.
    pub(crate) fn first_lossy(&self) -> String {
        self.strings.first().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// An environment may hold secrets.
impl std::fmt::Debug for StringArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StringArray({} strings)", self.strings.len())
    }
}

impl Drop for StringArray {
    fn drop(&mut self) {
        self.pointers.clear();
        self.strings.zeroize();
    }
}

/// Replaces the program of this process; returns only when that failed.
pub(crate) fn execve(file: &CStr, argv: &StringArray, env: &StringArray) -> Errno {
    // SAFETY: the file is a C string, both arrays are null-terminated arrays of C strings kept alive by `argv`, `env`.
    let failed = unsafe {
        libc::syscall(libc::SYS_execve, file.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr())
    };
    check(failed).err().unwrap_or(Errno::INVAL)
}

/// Makes `to` a copy of `from` that survives execve.
pub(crate) fn dup_onto(from: BorrowedFd<'_>, to: RawFd) -> Result<()> {
    // SAFETY: no memory is passed. The callers' targets are 0, 1 and 2, which no owned descriptor of the child uses
    // afterwards.
    check(unsafe { libc::syscall(libc::SYS_dup3, from.as_raw_fd(), to, 0) }).map(drop)
}

/// Closes every descriptor but those in `keep`, which must be sorted and distinct.
///
/// # Safety
/// Nothing may use a descriptor that is not in `keep` afterwards, not even by dropping its owner.
pub(crate) unsafe fn close_all_but(keep: &[RawFd]) -> Result<()> {
    let mut first: u32 = 0;
    for &fd in keep {
        let Ok(fd) = u32::try_from(fd) else { continue };
        if let Some(last) = fd.checked_sub(1).filter(|&last| last >= first) {
            close_range(first, last, 0)?;
        }
        first = fd.saturating_add(1);
    }
    close_range(first, u32::MAX, 0)
}

/// Marks every descriptor from `first` on to be closed by execve.
pub(crate) fn close_on_exec_from(first: u32) -> Result<()> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, last: u32, flags: u32) -> Result<()> {
    // SAFETY: no memory is passed; that the descriptors are not in use is the promise of `close_all_but`'s caller.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// Gives this thread a working directory, a root and a umask of its own.
pub(crate) fn unshare_filesystem_attributes() -> Result<()> {
    // SAFETY: no memory is shared less, and no other thread's attributes change.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }
}

/// The kernel's signal set on 64-bit architectures.
type SignalSet = u64;

/// Blocks every signal in this thread and returns what was blocked before.
pub(crate) fn block_signals() -> Result<SignalSet> {
    let all: SignalSet = !0;
    let mut before: SignalSet = 0;
    // SAFETY: both sets are live and of the size passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const all,
            &raw mut before,
            size_of::<SignalSet>(),
        )
    };
    check(done).map(|_| before)
}

/// Sets which signals are blocked in this thread.
pub(crate) fn set_signals(mask: SignalSet) -> Result<()> {
    let before = std::ptr::null_mut::<SignalSet>();
    // SAFETY: the set is live and of the size passed; a null old set is not written.
    let done = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            before,
            size_of::<SignalSet>(),
        )
    };
    check(done).map(drop)
}

/// Sets every signal to its default action: what our parent handles or ignores must not reach the step.
///
/// # Safety
/// Only for a process that was cloned without CLONE_SIGHAND and is alone in it: the handlers of this process are lost.
pub(crate) unsafe fn reset_signal_handlers() {
    const COUNT: c_int = 64;
    // handler (SIG_DFL is 0), flags, restorer, mask: four words on x86_64 and aarch64
    let default = [0u64; 4];
    for signal in 1..=COUNT {
        // SAFETY: `default` is as large as the kernel's structure. SIGKILL and SIGSTOP are refused, which is right.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<SignalSet>(),
            );
        }
    }
}

/// Opens a descriptor that is readable while SIGCHLD is pending.
pub(crate) fn child_signals() -> Result<OwnedFd> {
    let set: SignalSet = 1 << (libc::SIGCHLD - 1);
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the set is live and of the size passed.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_signalfd4, -1, &raw const set, size_of::<SignalSet>(), flags)
    })?;
    owned(fd)
}

/// Sends SIGKILL to every process this one may signal but itself.
pub(crate) fn kill_everything_reachable() {
    // SAFETY: no memory is passed.
    unsafe { libc::syscall(libc::SYS_kill, -1, libc::SIGKILL) };
}

/// Sends a signal by number; 0 only checks.
pub(crate) fn send_signal(process: BorrowedFd<'_>, signal: c_int) -> Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, 0u32) })
        .map(drop)
}

/// Adds attributes to a mount, and to all mounts below it when `recursive`. The others stay as they are, so that
/// locked ones are no obstacle.
///
/// # References
/// mount_setattr(2), Linux 5.12
pub(crate) fn restrict(mount: BorrowedFd<'_>, attributes: MountAttrFlags, recursive: bool) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: u64::from(attributes.bits()),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and the structure is live and of the size passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(done).map(drop)
}

/// The kernel's `struct stat`, as bytes.
pub(crate) fn stat_bytes(directory: BorrowedFd<'_>, path: &CStr) -> Result<Vec<u8>> {
    let mut stat = vec![0u8; size_of::<libc::stat>()];
    // SAFETY: the path is a C string; the kernel writes one structure, whose layout and size libc's has.
    let done = unsafe {
        libc::syscall(
            libc::SYS_newfstatat,
            directory.as_raw_fd(),
            path.as_ptr(),
            stat.as_mut_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    check(done).map(|_| stat)
}

/// The kernel's `struct statx`, as bytes.
pub(crate) fn statx_bytes(directory: BorrowedFd<'_>, path: &CStr, mask: u32) -> Result<Vec<u8>> {
    let mut statx = vec![0u8; size_of::<libc::statx>()];
    // SAFETY: the path is a C string; the kernel writes one structure, whose layout and size libc's has.
    let done = unsafe {
        libc::syscall(
            libc::SYS_statx,
            directory.as_raw_fd(),
            path.as_ptr(),
            libc::AT_EMPTY_PATH,
            mask,
            statx.as_mut_ptr(),
        )
    };
    check(done).map(|_| statx)
}

/// Brings up the loopback interface of this network namespace.
///
/// # References
/// netdevice(7)
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: ifreq is plain data; all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = c_char::from_ne_bytes([*from]);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the flags fit the kernel's short")]
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: SIOCSIFFLAGS reads the name and the flags of a live ifreq.
    check(unsafe {
        libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    })
    .map(drop)
}

fn owned(fd: c_long) -> Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: called with a descriptor the kernel has just made, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
