//! What the kernel offers to keep a step from what lies around it, and what it lacks.

use std::fmt;

use crate::isolation::Isolation;
use crate::prepare::{Mode, ProcMount};
use crate::sandbox::Sandbox;
use crate::sys::landlock::Abi;

/// Returns the version of Landlock that this kernel speaks: 0 where it has none, or it is not enabled.
///
/// # References
/// landlock_create_ruleset(2)
pub fn landlock_abi() -> u32 {
    Abi::of_this_kernel().number()
}

/// Something that keeps a step in, and that this place lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wall {
    /// A Landlock domain around the files of the root.
    Files,
    /// A Landlock scope around abstract sockets.
    AbstractSockets,
    /// A PID namespace.
    Processes,
    /// An IPC namespace.
    Ipc,
    /// Mounts with sizes and rights of their own.
    Mounts,
    /// A root directory of its own.
    Root,
}

impl Wall {
    /// Returns what is missing where it does not stand, and what follows from that.
    pub const fn absence(self) -> &'static str {
        match self {
            Self::Files => {
                "no Landlock (Linux 5.19, enabled by lsm=landlock): only the changed root keeps steps from the files \
                 around it, and debuggers are refused in them"
            }
            Self::AbstractSockets => {
                "no Landlock scopes (Linux 6.12): steps reach the abstract sockets of what runs beside them"
            }
            Self::Root => {
                "no changed root: one thread of rbuild answers for the paths of steps (the slowest isolation: all their \
                 system calls share about one core), and Landlock alone keeps them from the files around; local sockets \
                 with a path, and whatever the user may do that is no file, are in reach of a step that sets out for them"
            }
            Self::Ipc => {
                "no IPC namespace (nothing can be unshared): System V IPC and POSIX message queues are shared with what \
                 runs beside steps"
            }
            Self::Mounts => {
                "no mounts: sizes of a tmpfs and of /dev/shm are not enforced, and what a step writes to a read-only \
                 bind is thrown away instead of refused"
            }
            Self::Processes => {
                "no PID namespace (paths of this container's /proc are masked): steps see the processes beside them and \
                 their command lines, and may change their priority and OOM score"
            }
        }
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.absence())
    }
}

impl Sandbox {
    /// Returns the walls that steps of this isolation have elsewhere, and not here.
    pub fn missing_walls(&self) -> Vec<Wall> {
        missing_walls(self.mode(), Abi::of_this_kernel())
    }
}

fn missing_walls(mode: Mode, abi: Abi) -> Vec<Wall> {
    if !mode.isolation.shares_namespaces() {
        return if mode.proc == ProcMount::Host { vec![Wall::Processes] } else { Vec::new() };
    }
    let walls = [
        (Wall::Root, mode.isolation == Isolation::Chroot),
        (Wall::Files, abi.confines_files()),
        (Wall::AbstractSockets, abi.has_scopes()),
        (Wall::Ipc, false),
        (Wall::Mounts, false),
    ];
    walls.into_iter().filter(|(_, stands)| !stands).map(|(wall, _)| wall).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::RootfsForm;

    #[test]
    fn walls_that_a_kernel_lacks() {
        let check_with = |isolation, proc, abi: u32, expect: &[Wall]| {
            let mode = Mode { isolation, proc, rootfs: RootfsForm::Overlay };
            assert_eq!(missing_walls(mode, Abi::from(abi)), expect, "{isolation} {proc:?} {abi}");
        };
        let check = |isolation, abi, expect| check_with(isolation, ProcMount::Fresh, abi, expect);
        check(Isolation::Chroot, 0, &[Wall::Files, Wall::AbstractSockets, Wall::Ipc, Wall::Mounts]);
        check(Isolation::Chroot, 1, &[Wall::Files, Wall::AbstractSockets, Wall::Ipc, Wall::Mounts]);
        check(Isolation::Chroot, 2, &[Wall::AbstractSockets, Wall::Ipc, Wall::Mounts]);
        check(Isolation::Chroot, 6, &[Wall::Ipc, Wall::Mounts]);
        check(Isolation::Supervised, 6, &[Wall::Root, Wall::Ipc, Wall::Mounts]);
        check(Isolation::Userns, 0, &[]);
        check_with(Isolation::Userns, ProcMount::Host, 7, &[Wall::Processes]);
        check_with(Isolation::UsernsSingle, ProcMount::Host, 7, &[Wall::Processes]);
        check_with(Isolation::Chroot, ProcMount::Host, 7, &[Wall::Ipc, Wall::Mounts]);
    }
}
