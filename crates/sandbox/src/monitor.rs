//! The process between builder and step: prepares the root, forks the step's first process, reaps, and sees to it that
//! everything ends with it. It never executes anything and allocates nothing.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};

use crate::entry::{self, Streams};
use crate::operations::Tree;
use crate::program::{Entry, Program, Supervision};
use crate::report::{Report, Stage};
use crate::sys;

/// What the monitor keeps of the builder's descriptors.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// A byte comes when the id maps are written; the end of file means "stop".
    pub(crate) control: OwnedFd,
    pub(crate) report: OwnedFd,
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// The builder, where the kernel gives a descriptor of it.
    pub(crate) builder: Option<OwnedFd>,
    /// Where the listener of a notifying filter goes.
    pub(crate) listener: Option<OwnedFd>,
}

/// Lives the monitor's life.
///
/// # Safety
/// Only in a child made by [`sys::clone`] with all signals blocked.
#[expect(unsafe_code, reason = "closes the descriptors of a process that is a copy")]
pub(crate) unsafe fn run(program: &Program, fds: &Descriptors) -> ! {
    let _guard = ExitOnUnwind(fds.report.as_fd());
    // SAFETY: alone in a process of its own, by the caller's promise.
    unsafe { sys::reset_signal_handlers() };
    let mut keep = fds.raw();
    keep.sort_unstable();
    // SAFETY: this process runs nothing but this function, which uses no other descriptor it inherited.
    let outcome = match unsafe { sys::close_all_but(&keep) } {
        Ok(()) => prepare_and_fork(program, fds),
        Err(errno) => Err(failed(Stage::CloseDescriptors)(errno)),
    };
    match outcome {
        Ok(step) => step.attend(fds),
        Err(Some(report)) => report.send(fds.report.as_fd()),
        Err(None) => {}
    }
    sys::exit(0)
}

/// Ends the process, should anything in it panic: unwinding would go on in a copy of the builder.
struct ExitOnUnwind<'a>(BorrowedFd<'a>);

impl Drop for ExitOnUnwind<'_> {
    fn drop(&mut self) {
        Report::Stage { stage: Stage::Unwind, errno: Errno::NOTRECOVERABLE.raw_os_error() }.send(self.0);
        sys::exit(1);
    }
}

impl Descriptors {
    fn raw(&self) -> [RawFd; 7] {
        let optional = |fd: &Option<OwnedFd>| fd.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let raw = AsRawFd::as_raw_fd;
        [
            raw(&self.control),
            raw(&self.report),
            raw(&self.stdin),
            raw(&self.stdout),
            raw(&self.stderr),
            optional(&self.builder),
            optional(&self.listener),
        ]
    }
}

/// What ends the monitor early: a report, or nothing to say because the builder is gone.
type Failure = Option<Report>;

fn failed(stage: Stage) -> impl Fn(Errno) -> Failure {
    move |errno| Some(Report::Stage { stage, errno: errno.raw_os_error() })
}

/// A running step.
struct Step {
    first: Pid,
    supervision: Supervision,
    signals: OwnedFd,
    /// `/proc/thread-self/children` of the host, when the supervision needs it.
    children: Option<OwnedFd>,
    /// Whether signals of this process reach its descendants only.
    fenced: bool,
}

#[expect(unsafe_code, reason = "forks a process that allocates nothing either")]
fn prepare_and_fork(program: &Program, fds: &Descriptors) -> Result<Step, Failure> {
    await_go(fds.control.as_fd())?;
    let children = supervise(program.supervision)?;
    rustix::process::umask(Mode::empty());
    let mut tree = Tree::default();
    for (index, operation) in (0u32..).zip(&program.operations) {
        tree.perform(&operation.action)
            .map_err(|errno| Some(Report::Operation { index, errno: errno.raw_os_error() }))?;
    }
    let signals = sys::child_signals().map_err(failed(Stage::Supervise))?;
    // Our memory is a copy of the builder's: nobody in the step may read it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(failed(Stage::Supervise))?;
    let fenced = program.supervision == Supervision::Subreaper && fence(&program.entry);
    // SAFETY: the child keeps to raw system calls and ends in `become_program`.
    match unsafe { sys::fork() }.map_err(failed(Stage::Fork))? {
        Some(first) => Ok(Step { first, supervision: program.supervision, signals, children, fenced }),
        None => entry::become_program(&program.entry, program.supervision, fds.streams()),
    }
}

impl Descriptors {
    fn streams(&self) -> Streams<'_> {
        Streams {
            stdin: self.stdin.as_fd(),
            stdout: self.stdout.as_fd(),
            stderr: self.stderr.as_fd(),
            report: self.report.as_fd(),
            listener: self.listener.as_ref().map(AsFd::as_fd),
        }
    }
}

/// Waits until the builder has written the id maps.
fn await_go(control: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut byte = [0u8];
    loop {
        match rustix::io::read(control, &mut byte) {
            Ok(0) => return Err(None),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(Stage::Supervise)(errno)),
        }
    }
}

fn supervise(supervision: Supervision) -> Result<Option<OwnedFd>, Failure> {
    match supervision {
        Supervision::PidNamespace => {
            // The death of the thread that cloned us counts; it lives as long as the sandbox. Had it died before
            // this call, the control pipe would be at its end.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(failed(Stage::Supervise))?;
            Ok(None)
        }
        Supervision::Subreaper => {
            // Not killed with the builder: it has to kill the step first.
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .map_err(failed(Stage::Supervise))?;
            let path = c"/proc/thread-self/children";
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map(Some)
                .map_err(failed(Stage::ListChildren))
        }
    }
}

/// Keeps our signals within our descendants; tells whether that holds, tried on our own parent.
fn fence(entry: &Entry) -> bool {
    let root = entry
        .domain
        .filter(|domain| domain.confines_files())
        .map(|_| rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()))
        .transpose();
    root.and_then(|root| sys::fence_signals(root.as_ref().map(AsFd::as_fd))).is_ok()
        && rustix::process::getppid()
            .is_some_and(|parent| rustix::process::test_kill_process(parent) == Err(Errno::PERM))
}

/// Children of any exit signal, not only SIGCHLD.
const ANY: WaitOptions = WaitOptions::from_bits_retain(libc::__WALL.cast_unsigned());

impl Step {
    /// Reaps until the first process or the builder has ended, then ends the rest.
    fn attend(&self, fds: &Descriptors) {
        let mut polled = [
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&fds.control, PollFlags::IN),
            PollFd::from_borrowed_fd(fds.builder.as_ref().unwrap_or(&fds.control).as_fd(), PollFlags::IN),
        ];
        while let Ok(_) | Err(Errno::INTR) = poll(&mut polled, None) {
            let [signals, control, builder] = &polled;
            if !control.revents().is_empty() || !builder.revents().is_empty() {
                break;
            }
            if !signals.revents().is_empty() {
                // What it says does not matter; several SIGCHLD may be one.
                let mut information = [0u8; 128];
                let _ = rustix::io::read(&self.signals, &mut information);
            }
            if let Some(status) = self.reap() {
                Report::Ended { status }.send(fds.report.as_fd());
                break;
            }
        }
        if self.supervision == Supervision::Subreaper {
            self.end_descendants();
        }
    }

    /// Reaps what has ended; returns the wait status of the first process once it is among them.
    fn reap(&self) -> Option<i32> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = rustix::process::wait(ANY.union(WaitOptions::NOHANG)) {
            if pid == self.first {
                ended = Some(status.as_raw());
            }
        }
        ended
    }

    /// Kills and reaps until there is no child. Whatever loses its parent becomes our child, and a child's number
    /// cannot be reused before we have reaped it.
    fn end_descendants(&self) {
        loop {
            if self.fenced {
                // One call under the kernel's lock of the process table: no fork escapes it.
                sys::kill_everything_reachable();
            }
            self.kill_children();
            match rustix::process::wait(ANY) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            self.reap();
        }
    }

    fn kill_children(&self) {
        let Some(children) = &self.children else { return };
        let mut text = [0u8; 4096];
        let read = rustix::fs::seek(children, SeekFrom::Start(0))
            .and_then(|_| rustix::io::read(children, &mut text));
        let Ok(length) = read else { return };
        let mut number: i32 = 0;
        for &byte in text.iter().take(length) {
            match byte {
                b'0'..=b'9' => {
                    number = number.wrapping_mul(10).wrapping_add(i32::from(byte.wrapping_sub(b'0')));
                }
                // A number cut off by the end of the buffer is not followed by a space, and not acted on.
                _ => {
                    if let Some(pid) = Pid::from_raw(number).filter(|pid| pid.as_raw_nonzero().get() > 1) {
                        let _ = rustix::process::kill_process(pid, Signal::KILL);
                    }
                    number = 0;
                }
            }
        }
    }
}
