//! The kernel's file status structures as bytes, for the memory of another process.

use std::mem::size_of;
use std::slice;

use rustix::fs::{Stat, StatFs, Statx};

/// Returns a `struct stat` as the 64-bit calls of this architecture write it.
pub(crate) fn stat_bytes(stat: &Stat) -> &[u8] {
    // SAFETY: the structure is the kernel's own: plain integers whose padding is declared as fields.
    unsafe { slice::from_raw_parts(std::ptr::from_ref(stat).cast(), size_of::<Stat>()) }
}

/// Returns a `struct statx`, which is the same on every architecture.
pub(crate) fn statx_bytes(statx: &Statx) -> &[u8] {
    // SAFETY: as above.
    unsafe { slice::from_raw_parts(std::ptr::from_ref(statx).cast(), size_of::<Statx>()) }
}

/// Returns a `struct statfs` as the 64-bit calls of this architecture write it.
pub(crate) fn statfs_bytes(statfs: &StatFs) -> &[u8] {
    // SAFETY: as above.
    unsafe { slice::from_raw_parts(std::ptr::from_ref(statfs).cast(), size_of::<StatFs>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_kernel_s() {
        let stat = if cfg!(target_arch = "x86_64") { 144 } else { 128 };
        assert_eq!((size_of::<Stat>(), size_of::<Statx>()), (stat, 256));
        let stat = rustix::fs::stat("/").unwrap();
        assert_eq!(stat_bytes(&stat).len(), size_of::<Stat>());
    }
}
