//! Keeps a step that has no PID namespace from reaching the processes around it.
//!
//! Debugging them (ptrace, `process_vm_readv`, pidfd_getfd and so on) the kernel refuses: the step is in a Landlock
//! domain, a child user namespace, or has fewer capabilities than its builder. Signals are confined by the Landlock
//! domain since Linux 6.12, and by the answers here before that.

use rustix::fd::AsFd;
use rustix::io::{Errno, Result};
use rustix::process::{Pid, PidfdFlags};

use crate::lineage::Lineage;
use crate::notify::{Answer, Call, Reply, Target};
use crate::seccomp::{Action, Condition, EPERM, Rules, Test};
use crate::status::Status;
use crate::sys;

/// A descriptor that is ready sends a signal of any number to its owner, whoever has been made that.
const F_SETOWN: u32 = 8;
const F_SETOWN_EX: u32 = 15;
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
const REFUSED: Action = Action::Errno(EPERM);
static SET_OWNER: Condition =
    Condition { argument: 1, test: Test::OneOf(&[F_SETOWN]), then: Action::Notify, otherwise: OTHER_OWNER };
const OTHER_OWNER: Action = Action::When(&SET_OWNER_BY_POINTER);
static SET_OWNER_BY_POINTER: Condition =
    Condition { argument: 1, test: Test::OneOf(&[F_SETOWN_EX]), then: REFUSED, otherwise: Action::Allow };
static SET_OWNER_OF_SOCKET: Condition = Condition {
    argument: 1,
    test: Test::OneOf(&[FIOSETOWN, SIOCSPGRP]),
    then: REFUSED,
    otherwise: Action::Allow,
};

/// Calls that send signals, where Landlock has no scope for them.
pub(crate) static SIGNALS: Rules = Rules {
    name: "signals",
    calls: &[
        ("kill", Action::Notify),
        ("tkill", Action::Notify),
        ("tgkill", Action::Notify),
        ("rt_sigqueueinfo", Action::Notify),
        ("rt_tgsigqueueinfo", Action::Notify),
        ("pidfd_send_signal", Action::Notify),
        ("fcntl", Action::When(&SET_OWNER)),
        ("fcntl64", Action::When(&SET_OWNER)),
        ("ioctl", Action::When(&SET_OWNER_OF_SOCKET)),
    ],
};

/// Answers the calls of [`SIGNALS`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fence(Lineage);

impl Fence {
    pub(crate) const fn around(lineage: Lineage) -> Self {
        Self(lineage)
    }

    /// Answers a call that is of [`SIGNALS`].
    fn decide(self, call: &Call) -> Option<Reply> {
        let done = match call.name {
            "kill" => self.kill(call),
            "tkill" | "tgkill" | "rt_sigqueueinfo" | "rt_tgsigqueueinfo" => self.one(call, call.int(0)),
            "fcntl" | "fcntl64" => self.group_or_process(call.int(2)),
            "pidfd_send_signal" => self.through_descriptor(call),
            _ => return None,
        };
        Some(done.unwrap_or_else(Reply::from))
    }

    /// The number is in a register, and that of a living process is not given to another: what is decided here holds.
    fn one(self, call: &Call, pid: i32) -> Result<Reply> {
        if pid == call.thread.as_raw_nonzero().get() || self.0.contains(pid) {
            return Ok(Reply::Continue);
        }
        Err(Errno::PERM)
    }

    /// The owner of a descriptor: a group by a negative number, and nobody by 0.
    fn group_or_process(self, owner: i32) -> Result<Reply> {
        let reached = match owner {
            0 => true,
            group if group < 0 => self.0.contains_group(group.saturating_neg()),
            pid => self.0.contains(pid),
        };
        if reached { Ok(Reply::Continue) } else { Err(Errno::PERM) }
    }

    fn kill(self, call: &Call) -> Result<Reply> {
        match call.int(0) {
            -1 => self.everyone(call),
            0 => Ok(Reply::Continue),
            group if group < 0 && self.0.contains_group(group.saturating_neg()) => Ok(Reply::Continue),
            group if group < 0 => Err(Errno::PERM),
            pid => self.one(call, pid),
        }
    }

    /// For the kernel, everyone is everyone in the PID namespace.
    fn everyone(self, call: &Call) -> Result<Reply> {
        let caller = Status::of(call.thread.as_raw_nonzero().get()).ok_or(Errno::SRCH)?;
        let mut reached = false;
        for pid in self.0.members().filter(|&pid| pid != caller.process) {
            if Status::of(pid).is_some_and(|status| caller.may_signal(&status)) {
                reached |= self.signal(pid, call.int(1)).is_ok();
            }
        }
        if reached { Ok(Reply::Value(0)) } else { Err(Errno::SRCH) }
    }

    /// Another thread may exchange the descriptor after it was looked at, so the signal is sent from here.
    fn through_descriptor(self, call: &Call) -> Result<Reply> {
        let thread = call.thread.as_raw_nonzero();
        let text = std::fs::read_to_string(format!("/proc/{thread}/fdinfo/{}", call.int(0)));
        let text = text.map_err(|_| Errno::BADF)?;
        let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).ok_or(Errno::BADF)?;
        let pid = pid.trim().parse().map_err(|_| Errno::BADF)?;
        if pid < 0 {
            return Err(Errno::SRCH);
        }
        let caller = Status::of(thread.get()).ok_or(Errno::SRCH)?;
        let other = Status::of(pid).ok_or(Errno::SRCH)?;
        if !caller.may_signal(&other) {
            return Err(Errno::PERM);
        }
        self.signal(pid, call.int(1)).map(|()| Reply::Value(0))
    }

    /// Signals a process of the step.
    fn signal(self, pid: i32, signal: i32) -> Result<()> {
        let process = Pid::from_raw(pid).ok_or(Errno::INVAL)?;
        // Held, its number may be given away, but not to what the descriptor means.
        let process = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
        if !self.0.contains(pid) {
            return Err(Errno::PERM);
        }
        sys::send_signal(process.as_fd(), signal)
    }
}

/// A fence around an emulation that has calls of its own to answer.
#[derive(Debug)]
pub(crate) struct Fenced<A> {
    pub(crate) fence: Fence,
    pub(crate) inner: A,
}

impl<A: Answer> Answer for Fenced<A> {
    fn start(&mut self) {
        self.inner.start();
    }

    fn answer(&mut self, call: &Call, target: &Target<'_>) -> Reply {
        self.fence.decide(call).unwrap_or_else(|| self.inner.answer(call, target))
    }
}

impl Answer for Fence {
    fn answer(&mut self, call: &Call, _: &Target<'_>) -> Reply {
        self.decide(call).unwrap_or(Reply::Continue)
    }
}

#[cfg(test)]
mod tests {
    #![expect(unsafe_code, reason = "system calls that the C library does not make by themselves")]

    use std::process::Command;
    use std::thread;

    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;
    use crate::notify::{send_listener, serve};
    use crate::seccomp::filter;

    /// A thread is kept to the children of this process; the parent is outside.
    #[test]
    fn signals_reach_descendants_only() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let inner = i32::try_from(child.id()).unwrap();
        let outer = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        let lineage = Lineage::of(rustix::process::getpid());
        assert!(lineage.contains(inner) && !lineage.contains(outer));
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        let serving = serve(ours, Box::new(Fence::around(lineage))).unwrap();
        let caller = thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            let listener = sys::install_notifying_filter(&filter(&[&SIGNALS]).program).unwrap();
            send_listener(theirs.as_fd(), listener.as_fd()).unwrap();
            drop(listener);
            try_signals(inner, outer);
            drop(theirs);
        });
        let outcome = caller.join();
        serving.join();
        child.kill().and_then(|()| child.wait()).unwrap();
        outcome.unwrap();
    }

    fn try_signals(inner: i32, outer: i32) {
        let check = |expect: i64, done: i64| {
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap();
            assert_eq!(if done < 0 { i64::from(-errno) } else { 0 }, expect);
        };
        let refused = i64::from(-libc::EPERM);
        for (pid, expect) in [(inner, 0), (outer, refused), (1, refused)] {
            // SAFETY: signal 0 is sent, and no memory passed.
            check(expect, unsafe { libc::syscall(libc::SYS_kill, pid, 0) });
            // SAFETY: as above.
            check(expect, unsafe { libc::syscall(libc::SYS_tkill, pid, 0) });
            // SAFETY: as above.
            check(expect, unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, 0) });
            let process =
                rustix::process::pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
            let sent = sys::send_signal(process.as_fd(), 0);
            assert_eq!(sent.is_ok(), expect == 0, "{pid}: {sent:?}");
            let (read, _write) = rustix::pipe::pipe().unwrap();
            let fd = std::os::fd::AsRawFd::as_raw_fd(&read);
            // SAFETY: the owner is passed by value.
            check(expect, unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_SETOWN, pid) });
        }
        // SAFETY: as above; 1 leads a group of the machine's.
        check(refused, unsafe { libc::syscall(libc::SYS_kill, -1i32 - 1, 0) });
        // SAFETY: as above; the own group.
        check(0, unsafe { libc::syscall(libc::SYS_kill, 0, 0) });
    }
}
