//! Whether locks of the store's file system do what the store wants of them.

use std::io;
use std::path::Path;

use super::StoreDirError;

/// Who takes part in the locks of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locks {
    /// Every process that can reach it.
    Everybody,
    /// The processes of one machine with certainty. Those of others only if the file system of this name passes flock(2) on, which depends on
    /// how it is mounted: NFS does with `local_lock=none` and a lock service, CIFS without `nobrl`.
    ThisMachine(&'static str),
}

impl Locks {
    /// Says what to beware of; none where there is nothing.
    #[must_use]
    pub fn remark(self) -> Option<String> {
        let Self::ThisMachine(system) = self else { return None };
        Some(format!(
            "the store is on a {system} volume: only one machine may use it at a time, unless locks hold between machines there"
        ))
    }

    pub(super) fn of(path: &Path) -> Self {
        rustix::fs::statfs(path).map_or(Self::Everybody, |system| Self::of_file_system(system.f_type as u64))
    }

    /// Reads a magic number of statfs(2), which may be a signed field of 32 bits.
    fn of_file_system(magic: u64) -> Self {
        match magic & 0xffff_ffff {
            0x6969 => Self::ThisMachine("nfs"),
            0xff53_4d42 | 0xfe53_4d42 | 0x517b => Self::ThisMachine("cifs"),
            0x6573_5546 => Self::ThisMachine("fuse"),
            0x0102_1997 => Self::ThisMachine("9p"),
            0x00c3_6400 => Self::ThisMachine("ceph"),
            0x0bd0_0bd0 => Self::ThisMachine("lustre"),
            0x5346_414f | 0x6b41_4653 => Self::ThisMachine("afs"),
            _ => Self::Everybody,
        }
    }
}

/// Makes the error of a lock that could not be taken.
pub(super) fn unlocked(path: &Path) -> impl FnOnce(io::Error) -> StoreDirError + '_ {
    move |source| {
        use rustix::io::Errno;
        let refusals = [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS].map(Errno::raw_os_error);
        let is_refused = source.raw_os_error().is_some_and(|errno| refusals.contains(&errno));
        if is_refused || source.kind() == io::ErrorKind::Unsupported {
            return StoreDirError::NoLocks { path: path.to_owned(), source };
        }
        StoreDirError::Io { operation: "lock", path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_several_machines_are_known() {
        assert_eq!(Locks::of_file_system(0x6969), Locks::ThisMachine("nfs"));
        assert_eq!(Locks::of_file_system(0xffff_ffff_ff53_4d42), Locks::ThisMachine("cifs"));
        assert!(Locks::ThisMachine("nfs").remark().is_some_and(|remark| remark.contains(" nfs volume")));
        for magic in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630] {
            assert_eq!(Locks::of_file_system(magic), Locks::Everybody, "{magic:#x}");
        }
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(crate::Store::open(directory.path()).unwrap().locks(), Locks::of(directory.path()));
    }

    #[test]
    fn a_volume_without_locks_is_refused_by_name() {
        use rustix::io::Errno;
        for errno in [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS] {
            let error = unlocked(Path::new("/s"))(errno.into());
            let expect = "the file system of the store `/s` has no locks: put the store on a local one, or mount this one with locks";
            assert_eq!(error.to_string(), expect);
        }
        let error = unlocked(Path::new("/s"))(Errno::IO.into());
        assert_eq!(error.to_string(), "cannot lock `/s`");
    }
}
