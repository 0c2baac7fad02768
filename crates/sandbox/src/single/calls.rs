//! The calls that are answered, as data for the filter.

use crate::emulation::OWN_LIMITS;
use crate::seccomp::{Action, Condition, Rules, Test};

/// O_CREAT and __O_TMPFILE, which have these values on every architecture of the filter.
pub(super) const CREATING: u32 = (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

/// The C libraries disagree on its type.
const RLIMIT_LOCKS: u32 = 10;

pub(super) const PR_GET_KEEPCAPS: i32 = libc::PR_GET_KEEPCAPS;
pub(super) const PR_SET_KEEPCAPS: i32 = libc::PR_SET_KEEPCAPS;
pub(super) const PR_CAP_AMBIENT: i32 = libc::PR_CAP_AMBIENT;

static OPEN: Condition = creating(1);
static OPENAT: Condition = creating(2);
static PRCTL: Condition = Condition {
    argument: 0,
    test: Test::OneOf(&[PR_GET_KEEPCAPS as u32, PR_SET_KEEPCAPS as u32, PR_CAP_AMBIENT as u32]),
    then: Action::Notify,
    otherwise: Action::Allow,
};
static RLIMIT: Condition = about_locks(0);
static PRLIMIT: Condition = Condition { otherwise: Action::When(&OWN_LIMITS), ..about_locks(1) };
/// Of a link itself: AT_SYMLINK_NOFOLLOW.
static UTIMENSAT: Condition = Condition {
    argument: 3,
    test: Test::AnyBit(libc::AT_SYMLINK_NOFOLLOW as u32),
    then: Action::Notify,
    otherwise: Action::Allow,
};
static GETSOCKOPT: Condition = Condition {
    argument: 2,
    test: Test::OneOf(&[libc::SO_PEERCRED as u32]),
    then: Action::Notify,
    otherwise: Action::Allow,
};

/// A file that exists may be opened by the kernel: who opens does not show.
const fn creating(argument: u8) -> Condition {
    Condition { argument, test: Test::AnyBit(CREATING), then: Action::Notify, otherwise: Action::Allow }
}

/// The limit that holds the number of the identity is not the step's to see or change.
const fn about_locks(argument: u8) -> Condition {
    let test = Test::OneOf(&[RLIMIT_LOCKS]);
    Condition { argument, test, then: Action::Notify, otherwise: Action::Allow }
}

macro_rules! notified {
    ($($name:literal)*; $($conditional:literal => $condition:ident)*) => {
        &[$(($name, Action::Notify),)* $(($conditional, Action::When(&$condition)),)*]
    };
}

/// What a user namespace of a single id answers itself.
pub(crate) static RULES: Rules = Rules {
    name: "userns-single",
    calls: notified![
        "capget" "capset" "chown" "chown32" "chroot" "creat" "execve" "execveat" "fchown" "fchown32" "fchownat"
        "fgetxattr" "flistxattr" "fremovexattr" "fsetxattr" "fstat" "getegid" "getegid32" "geteuid" "geteuid32"
        "getgid" "getgid32" "getgroups" "getgroups32" "getresgid" "getresgid32" "getresuid" "getresuid32" "getuid"
        "getuid32" "getxattr" "getxattrat" "lchown" "lchown32" "lgetxattr" "link" "linkat" "listxattr" "listxattrat" "llistxattr"
        "lremovexattr" "lsetxattr" "lstat" "mkdir" "mkdirat" "mknod" "mknodat" "newfstatat" "openat2" "removexattr"
        "removexattrat" "rename" "renameat" "renameat2" "setfsgid" "setfsgid32" "setfsuid" "setfsuid32" "setgid" "setgid32" "setgroups"
        "setgroups32" "setregid" "setregid32" "setresgid" "setresgid32" "setresuid" "setresuid32" "setreuid"
        "setreuid32" "setuid" "setuid32" "setxattr" "setxattrat" "stat" "statx" "symlink" "symlinkat";
        "getrlimit" => RLIMIT "getsockopt" => GETSOCKOPT "open" => OPEN "openat" => OPENAT "prctl" => PRCTL
        "prlimit64" => PRLIMIT "setrlimit" => RLIMIT "ugetrlimit" => RLIMIT "utimensat" => UTIMENSAT
        "utimensat_time64" => UTIMENSAT
    ],
};
