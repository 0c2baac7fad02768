//! The calls that are answered or refused, as data for the filter.

use crate::seccomp::{Action, Condition, EPERM, Rules, Test};

const ENOSYS: u16 = libc::ENOSYS as u16;
const EOPNOTSUPP: u16 = libc::EOPNOTSUPP as u16;

/// The sixth argument of a call that we make in a thread's place: of calls that have fewer arguments.
///
/// It is no secret: a step that gives it makes the call on the paths of the host, in its Landlock domain.
pub(super) const OURS: u32 = 0x7262_6c64;

static EXECUTE: Condition =
    Condition { argument: 5, test: Test::OneOf(&[OURS]), then: Action::Allow, otherwise: Action::Notify };
static ADDRESS: Condition = EXECUTE_ALIKE;
const EXECUTE_ALIKE: Condition =
    Condition { argument: 5, test: Test::OneOf(&[OURS]), then: Action::Allow, otherwise: Action::Notify };

/// A process that cannot be looked into could not be answered.
static DUMPABLE: Condition = Condition {
    argument: 0,
    test: Test::OneOf(&[libc::PR_SET_DUMPABLE as u32]),
    then: Action::Errno(0),
    otherwise: Action::When(&KEPT),
};
static KEPT: Condition = Condition {
    argument: 0,
    test: Test::OneOf(&[
        libc::PR_GET_KEEPCAPS as u32,
        libc::PR_SET_KEEPCAPS as u32,
        libc::PR_CAP_AMBIENT as u32,
    ]),
    then: Action::Notify,
    otherwise: Action::Allow,
};

/// A datagram that names its receiver by a path: refused where it has an address at all that could be one. Internet
/// addresses are longer than nothing too, so that the answer looks at them.
static SENDTO: Condition =
    Condition { argument: 5, test: Test::OneOf(&[0]), then: Action::Allow, otherwise: Action::Notify };

const NOTIFY: Action = Action::Notify;
const REFUSED: Action = Action::Errno(EPERM);
const MISSING: Action = Action::Errno(ENOSYS);

/// What every step has answered, or is refused. Every call of the table that takes a path is here or among those of
/// `userns-single`; a test walks the table.
pub(crate) static RULES: Rules = Rules {
    name: "supervised",
    calls: &[
        // Answered here.
        ("access", NOTIFY),
        ("bind", Action::When(&ADDRESS)),
        ("chdir", NOTIFY),
        ("chmod", NOTIFY),
        ("connect", Action::When(&ADDRESS)),
        ("creat", NOTIFY),
        ("execve", Action::When(&EXECUTE)),
        ("execveat", NOTIFY),
        ("faccessat", NOTIFY),
        ("faccessat2", NOTIFY),
        ("fchmodat", NOTIFY),
        ("fchmodat2", NOTIFY),
        ("futimesat", NOTIFY),
        ("getcwd", NOTIFY),
        ("getsockname", NOTIFY),
        ("link", NOTIFY),
        ("linkat", NOTIFY),
        ("open", NOTIFY),
        ("openat", Action::When(&EXECUTE)),
        ("prctl", Action::When(&DUMPABLE)),
        ("readlink", NOTIFY),
        ("readlinkat", NOTIFY),
        ("rmdir", NOTIFY),
        ("sendto", Action::When(&SENDTO)),
        ("statfs", NOTIFY),
        ("truncate", NOTIFY),
        ("uname", NOTIFY),
        ("unlink", NOTIFY),
        ("unlinkat", NOTIFY),
        ("utime", NOTIFY),
        ("utimensat", NOTIFY),
        ("utimes", NOTIFY),
        // Refused: what falls back finds the older call.
        ("openat2", MISSING),
        ("getxattrat", MISSING),
        ("listxattrat", MISSING),
        ("removexattrat", MISSING),
        ("setxattrat", MISSING),
        ("inotify_add_watch", MISSING),
        ("listmount", MISSING),
        ("statmount", MISSING),
        ("name_to_handle_at", Action::Errno(EOPNOTSUPP)),
        ("fanotify_mark", REFUSED),
        ("chroot", REFUSED),
        // The forms of 32-bit programs, which are not executed either.
        ("fstatat64", MISSING),
        ("lstat64", MISSING),
        ("stat64", MISSING),
        ("fstat64", MISSING),
        ("statfs64", MISSING),
        ("truncate64", MISSING),
        ("utimensat_time64", MISSING),
        ("socketcall", MISSING),
        ("ipc", MISSING),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::single;

    /// The calls of x86_64 and aarch64 that take a path, by the prototypes in include/linux/syscalls.h of Linux 6.18:
    /// all parameters `const char __user *` that are names of files, and `struct sockaddr __user *` of what resolves one.
    const PATH_TAKING: &[&str] = &[
        "access",
        "acct",
        "bind",
        "chdir",
        "chmod",
        "chown",
        "chroot",
        "connect",
        "creat",
        "execve",
        "execveat",
        "faccessat",
        "faccessat2",
        "fanotify_mark",
        "fchmodat",
        "fchmodat2",
        "fchownat",
        "file_getattr",
        "file_setattr",
        "fsconfig",
        "fspick",
        "futimesat",
        "getxattr",
        "getxattrat",
        "inotify_add_watch",
        "lchown",
        "lgetxattr",
        "link",
        "linkat",
        "listxattr",
        "listxattrat",
        "llistxattr",
        "lremovexattr",
        "lsetxattr",
        "lstat",
        "mkdir",
        "mkdirat",
        "mknod",
        "mknodat",
        "mount",
        "mount_setattr",
        "move_mount",
        "name_to_handle_at",
        "newfstatat",
        "open",
        "open_tree",
        "open_tree_attr",
        "openat",
        "openat2",
        "pivot_root",
        "quotactl",
        "readlink",
        "readlinkat",
        "removexattr",
        "removexattrat",
        "rename",
        "renameat",
        "renameat2",
        "rmdir",
        "sendto",
        "setxattr",
        "setxattrat",
        "stat",
        "statfs",
        "statx",
        "swapoff",
        "swapon",
        "symlink",
        "symlinkat",
        "truncate",
        "umount2",
        "unlink",
        "unlinkat",
        "uselib",
        "utime",
        "utimensat",
        "utimes",
    ];

    #[test]
    fn every_call_that_takes_a_path_is_answered_or_refused() {
        let table = include_str!("../seccomp/table.txt");
        let allowed: Vec<&str> = table
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_ascii_whitespace().next())
            .collect();
        for name in PATH_TAKING {
            let rule = |rules: &'static Rules| rules.calls.iter().find(|(call, _)| call == name);
            let action = rule(&RULES).or_else(|| rule(&single::RULES)).map(|(_, action)| *action);
            match action {
                None => assert!(!allowed.contains(name), "{name} reaches the kernel"),
                Some(Action::Allow) => panic!("{name} reaches the kernel"),
                Some(Action::When(condition)) => {
                    assert_eq!(condition.otherwise, Action::Notify, "{name}");
                }
                Some(Action::Notify | Action::Errno(_)) => {}
            }
        }
        // What has `at` or a path in its name is one of them, or known not to be.
        let harmless =
            ["fstatat64", "cachestat", "utimensat_time64", "sched_getattr", "sched_setattr", "mq_getsetattr"];
        for name in allowed.iter().filter(|name| name.ends_with("at") || name.ends_with("xattr")) {
            let by_descriptor = name.starts_with('f') && name.ends_with("xattr")
                || matches!(*name, "fstat" | "fchmod" | "sched_setattr" | "shmat");
            let known = PATH_TAKING.contains(name) || harmless.contains(name) || by_descriptor;
            assert!(known, "{name} is not known");
        }
    }
}
