//! Acting as another user, in this thread only: the C library would change the whole process.

use std::ffi::c_int;

use rustix::io::{Errno, Result};

use super::check;

/// What the id calls leave as it is.
const SAME: u32 = u32::MAX;

/// Runs `act` with other real ids, which a debugger's rights are told by; capabilities stay.
///
/// # Errors
/// EPERM without CAP_SETUID and CAP_SETGID. The thread aborts the process if it cannot return to its own ids.
///
/// # References
/// process_vm_readv(2), "PTRACE_MODE_ATTACH_REALCREDS"
pub(crate) fn with_real_ids<T>(uid: u32, gid: u32, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let (own_uid, own_gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    set_real_gid(gid)?;
    let done = set_real_uid(uid).and_then(|()| {
        let done = act();
        must(set_real_uid(own_uid));
        done
    });
    must(set_real_gid(own_gid));
    done
}

/// Runs `act` with the rights another user has on files. As a user other than root, the capabilities that override
/// those rights are off.
///
/// # Errors
/// EPERM without CAP_SETUID and CAP_SETGID. The thread aborts the process if it cannot return to its own ids.
///
/// # References
/// setfsuid(2); capabilities(7), "Effect of user ID changes on capabilities"
pub(crate) fn with_file_ids<T>(
    uid: u32,
    gid: u32,
    groups: &[u32],
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let own_groups: Vec<u32> = rustix::process::getgroups()?.iter().map(|group| group.as_raw()).collect();
    let (own_uid, own_gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let dumpable = dumpable();
    set_groups(groups)?;
    let done = set_file_gid(gid).and_then(|()| {
        let done = set_file_uid(uid).and_then(|()| {
            let done = act();
            must(set_file_uid(own_uid));
            done
        });
        must(set_file_gid(own_gid));
        done
    });
    must(set_groups(&own_groups));
    if dumpable == 1 {
        // The kernel cleared it with the first change, for the whole process.
        set_dumpable(1);
    }
    done
}

/// Nothing may go on with the ids of another.
fn must(done: Result<()>) {
    if done.is_err() {
        std::process::abort();
    }
}

fn set_real_uid(uid: u32) -> Result<()> {
    // SAFETY: no memory is passed; the call changes this thread only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, SAME, SAME) }).map(drop)
}

fn set_real_gid(gid: u32) -> Result<()> {
    // SAFETY: no memory is passed; the call changes this thread only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, SAME, SAME) }).map(drop)
}

fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the kernel reads as many numbers as the slice has; the call changes this thread only.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// setfsuid tells of no failure: it returns the id of before, whatever happens.
fn set_file_uid(uid: u32) -> Result<()> {
    // SAFETY: no memory is passed; the call changes this thread only.
    let set = || check(unsafe { libc::syscall(libc::SYS_setfsuid, uid) });
    set()?;
    if set()? == i64::from(uid) { Ok(()) } else { Err(Errno::PERM) }
}

fn set_file_gid(gid: u32) -> Result<()> {
    // SAFETY: no memory is passed; the call changes this thread only.
    let set = || check(unsafe { libc::syscall(libc::SYS_setfsgid, gid) });
    set()?;
    if set()? == i64::from(gid) { Ok(()) } else { Err(Errno::PERM) }
}

fn dumpable() -> c_int {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }
}

fn set_dumpable(value: c_int) {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, value) };
}
