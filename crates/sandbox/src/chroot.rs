//! A changed root without mounts: what `/proc` and `/dev` would show is supplied by answering system calls.
//!
//! The step's own `/proc` and `/dev` are a [`skeleton`]: plain directories that take the place of the image's while
//! the step runs. Opening, following, reading the link of, asking for the status of or access to what is named below them is
//! answered by the [`Supervisor`] from the real ones, for processes of the step only and for files that are harmless;
//! what the kernel finds by itself (a chdir, an lstat, a directory read through a descriptor) finds the skeleton.
//!
//! Descriptors that are given to the step are of files: a directory of the real `/proc` would lead out of the root,
//! since `..` of it is no descendant of the root. Directories of `/proc` are made in the skeleton when they are
//! opened ([`mirror`]).

mod memory;
mod mirror;
mod object;
mod path;
mod skeleton;
mod supervisor;
mod terminal;

use crate::seccomp::{Action, Condition, Rules, Test};

pub(crate) use skeleton::Skeleton;
pub(crate) use supervisor::{DIRECTORY_FIRST, PATH_FIRST, PathArgument, Supervisor};

const EPERM: u16 = 1;
const EACCES: u16 = 13;
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_EMPTY_PATH: u32 = 0x1000;

/// An lstat finds what the skeleton has, and an fstat is of what was opened.
static STAT: Condition = Condition {
    argument: 3,
    test: Test::AnyBit(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH),
    then: Action::Allow,
    otherwise: Action::Notify,
};
static STATX: Condition = Condition {
    argument: 2,
    test: Test::AnyBit(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH),
    then: Action::Allow,
    otherwise: Action::Notify,
};

/// What every step has answered, or is refused: a second chroot is the way out of the first.
pub(crate) static RULES: Rules = Rules {
    name: "chroot",
    calls: &[
        ("chroot", Action::Errno(EPERM)),
        ("open", Action::Notify),
        ("creat", Action::Notify),
        ("openat", Action::Notify),
        ("openat2", Action::Notify),
        ("readlink", Action::Notify),
        ("readlinkat", Action::Notify),
        ("stat", Action::Notify),
        ("newfstatat", Action::When(&STAT)),
        ("statx", Action::When(&STATX)),
        ("access", Action::Notify),
        ("faccessat", Action::Notify),
        ("faccessat2", Action::Notify),
        ("chmod", Action::Notify),
        ("fchmodat", Action::Notify),
        ("uname", Action::Notify),
    ],
};

/// What is refused where no Landlock domain keeps the step from debugging the processes around it.
pub(crate) static NO_DEBUGGING: Rules = Rules {
    name: "chroot-no-debugging",
    calls: &[
        ("ptrace", Action::Errno(EPERM)),
        ("process_vm_readv", Action::Errno(EPERM)),
        ("process_vm_writev", Action::Errno(EPERM)),
        ("process_madvise", Action::Errno(EPERM)),
        ("process_mrelease", Action::Errno(EPERM)),
        ("pidfd_getfd", Action::Errno(EPERM)),
        ("kcmp", Action::Errno(EPERM)),
    ],
};

/// AF_INET, AF_INET6, AF_NETLINK, AF_PACKET; and those that the default filter refuses.
const FAMILIES: &[u32] = &[2, 10, 16, 17, 38, 40];
static SOCKET: Condition = Condition {
    argument: 0,
    test: Test::OneOf(FAMILIES),
    then: Action::Errno(EACCES),
    otherwise: Action::Allow,
};

/// A network of nothing. A 32-bit program's `socketcall` has its arguments behind a pointer.
pub(crate) static NO_NETWORK: Rules = Rules {
    name: "chroot-no-network",
    calls: &[("socket", Action::When(&SOCKET)), ("socketcall", Action::Errno(EACCES))],
};
