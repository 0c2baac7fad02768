//! RLIMIT_LOCKS of other processes. Linux has looked at it in 2.4.0 to 2.4.24 only.

use std::ptr;

use rustix::io::Result;
use rustix::process::{Pid, Resource, Rlimit};

use super::check;

/// Returns the limit of a process; the number of any of its threads will do.
///
/// # References
/// prlimit(2)
pub(crate) fn locks(process: Pid) -> Result<Rlimit> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a null new limit is not read, and the kernel writes one live structure.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            process.as_raw_nonzero().get(),
            libc::RLIMIT_LOCKS,
            ptr::null::<libc::rlimit64>(),
            &raw mut limit,
        )
    })?;
    let finite = |value: u64| (value != libc::RLIM64_INFINITY).then_some(value);
    Ok(Rlimit { current: finite(limit.rlim_cur), maximum: finite(limit.rlim_max) })
}

/// Sets the soft limit of a process.
///
/// # Errors
/// EINVAL when it is above the hard one.
pub(crate) fn set_locks(process: Pid, before: &Rlimit, current: u64) -> Result<()> {
    let new = Rlimit { current: Some(current), maximum: before.maximum };
    rustix::process::prlimit(Some(process), Resource::Locks, new).map(drop)
}
