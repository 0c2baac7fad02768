//! System calls of a step that a thread of ours answers.
//!
//! A filter with [`Action::Notify`](crate::seccomp::Action) in it has a listener. The step's first process makes it
//! and sends it to the builder (pods refuse pidfd_getfd); from then on every notified call stands still until it is
//! answered. A builder that dies closes the listener: calls that wait, and later ones, get ENOSYS, and none hangs.
//!
//! An isolation's emulation is an [`Answer`]: it is given each [`Call`] and the [`Target`], the memory of who made it,
//! and returns a [`Reply`]. What a call points to can be changed by the step's other threads at any time: an answer
//! reads it once and acts on what it read, and [`Reply::Continue`], after which the kernel reads it again, is never a
//! permission.
//!
//! # References
//! seccomp_unotify(2)

mod listener;
mod target;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::Pid;

use crate::seccomp::Width;

pub(crate) use listener::{Serving, send_listener, serve};
pub(crate) use target::Target;

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Its name, as in the filter's table.
    pub(crate) name: &'static str,
    pub(crate) arguments: [u64; 6],
    /// How wide the caller's registers, pointers and structures are.
    pub(crate) width: Width,
    /// The calling thread, which need not be the process's first.
    pub(crate) thread: Pid,
}

impl Call {
    /// Returns an argument that is a pointer or a length.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.arguments.get(index).copied().unwrap_or(0)
    }

    /// Returns an argument that is an `int`, of which the kernel reads the low half.
    #[expect(clippy::cast_possible_truncation, reason = "as the kernel does")]
    pub(crate) fn int(&self, index: usize) -> i32 {
        self.word(index) as i32
    }
}

/// What becomes of a call.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The kernel executes it as if there were no filter.
    Continue,
    /// It returns this, 0 or more.
    Value(i64),
    /// It fails with this.
    Errno(Errno),
    /// It returns a new descriptor of the caller's, a copy of this one.
    Descriptor {
        fd: OwnedFd,
        /// Whether the copy is closed by execve.
        close_on_exec: bool,
    },
    /// It is answered already, or will be by another thread.
    Elsewhere,
}

impl From<Errno> for Reply {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// The emulation of an isolation, on the thread that serves one step.
pub(crate) trait Answer: Send {
    /// Prepares the thread on which all answers are given.
    fn start(&mut self) {}

    /// Says what becomes of a call.
    fn answer(&mut self, call: &Call, target: &Target<'_>) -> Reply;
}

#[cfg(test)]
mod tests;
