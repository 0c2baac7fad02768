//! The loopback interface of a step that has no other.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use rustix::thread::ThreadNameSpaceType;

use crate::sys::{self, Cloned};

/// Brings up the loopback interface of this process's own network namespace.
///
/// That needs CAP_NET_ADMIN in the user namespace the network namespace belongs to, which a pod that was given
/// CAP_SYS_ADMIN alone lacks. Over a user namespace that it has made a process has every capability. So the network
/// namespace is exchanged there for one that belongs to such a namespace.
///
/// # References
/// user_namespaces(7), "Capabilities"; setns(2), with a pidfd since Linux 5.8
pub(crate) fn bring_up() -> Result<()> {
    match interface_up() {
        Err(Errno::PERM) => {}
        result => return result,
    }
    let (child, pidfd) = idle_child()?;
    let entered = rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), ThreadNameSpaceType::NETWORK);
    let _ = rustix::process::kill_process(child, Signal::KILL);
    let options = WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned());
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options);
    entered?;
    interface_up()
}

fn interface_up() -> Result<()> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sys::loopback_up(socket.as_fd())
}

/// Makes a process that does nothing, in a user namespace that owns its network namespace.
#[expect(unsafe_code, reason = "clones a process that does nothing")]
fn idle_child() -> Result<(Pid, OwnedFd)> {
    let maker = rustix::process::getpid();
    // SAFETY: the child makes raw system calls only, and waits for its end.
    match unsafe { sys::clone(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) }? {
        Cloned::Parent(pid, pidfd) => Ok((pid, pidfd)),
        Cloned::Child => {
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            while rustix::process::getppid() == Some(maker) {
                rustix::event::pause();
            }
            sys::exit(0)
        }
    }
}
