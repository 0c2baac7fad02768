//! Starting a step: pipes, the clone, the id maps.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::error::RunError;
use crate::ids::IdRanges;
use crate::isolation::Isolation;
use crate::lineage::processes;
use crate::monitor::{self, Descriptors};
use crate::process::Network;
use crate::program::{Program, Root, Supervision};
use crate::single;
use crate::status::Status;
use crate::sys::{self, Cloned, identity, limit};

type Job = Box<dyn FnOnce() + Send>;

/// The thread that clones. A process asked to die with its parent dies with the thread that cloned it, so this one
/// lives as long as the sandbox.
#[derive(Debug)]
pub(crate) struct Launcher {
    jobs: Sender<Job>,
}

impl Launcher {
    /// Starts the thread; it ends when the launcher is dropped.
    pub(crate) fn new() -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        thread::Builder::new().name("rbuild-launcher".to_owned()).spawn(move || {
            for job in queue {
                job();
            }
        })?;
        Ok(Self { jobs })
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (answer, result) = channel();
        let gone = || io::Error::other("the launcher thread has ended");
        self.jobs
            .send(Box::new(move || {
                let _ = answer.send(job());
            }))
            .map_err(|_| gone())?;
        result.recv().map_err(|_| gone())
    }

    /// Starts a program in new namespaces. Its monitor waits for [`Running::go`].
    pub(crate) fn start(
        &self,
        program: Arc<Program>,
        isolation: Isolation,
        network: Network,
    ) -> Result<Running, RunError> {
        let flags = namespaces(isolation, network, program.supervision);
        let root = match &program.entry.root {
            Root::Changed(path) => Some(path.clone()),
            Root::Mounted | Root::Beside { .. } => None,
        };
        let limit = program.entry.rlimits.iter().find(|(resource, _)| *resource == single::LIMIT);
        let limit = match program.entry.root {
            Root::Beside { .. } => limit.and_then(|(_, limit)| limit.maximum),
            _ => None,
        };
        let supervision = program.supervision;
        let (child, parent) = pipes(program.entry.filter.as_ref().is_some_and(|filter| filter.notifies))
            .map_err(failed("make the step's pipes"))?;
        let cloned = self.run(move || clone_monitor(flags, &program, child));
        let (pid, pidfd) = cloned
            .map_err(failed("ask the launcher thread"))?
            .map_err(|errno| failed(refusal(isolation, network))(errno.into()))?;
        let mark = match (supervision, root) {
            (Supervision::PidNamespace, _) => None,
            (Supervision::Subreaper, _) if isolation == Isolation::Supervised => limit.map(Mark::Limit),
            (Supervision::Subreaper, Some(root)) => {
                rustix::fs::stat(root).ok().map(|stat| Mark::Root(stat.st_dev, stat.st_ino))
            }
            (Supervision::Subreaper, None) => {
                mount_namespace_of(pid).map(|(device, inode)| Mark::MountNamespace(device, inode))
            }
        };
        Ok(Running { pid, pidfd, supervision, mark, pipes: parent, reaped: false })
    }
}

/// Returns a closure that wraps an error with what was tried.
pub(crate) fn failed(operation: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Operation { operation, target: String::new(), source }
}

const fn refusal(isolation: Isolation, network: Network) -> &'static str {
    match (isolation, network) {
        (Isolation::Userns | Isolation::UsernsSingle, _) => "create a user namespace",
        (Isolation::Chroot | Isolation::Supervised, _) => "clone a process",
        (_, Network::None) => "create namespaces, a network namespace among them",
        (_, Network::Host) => "create namespaces",
    }
}

fn namespaces(isolation: Isolation, network: Network, supervision: Supervision) -> i32 {
    if isolation.shares_namespaces() {
        return 0;
    }
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if isolation.has_user_namespace() {
        flags |= libc::CLONE_NEWUSER;
    }
    if supervision == Supervision::PidNamespace {
        flags |= libc::CLONE_NEWPID;
    }
    if network == Network::None {
        flags |= libc::CLONE_NEWNET;
    }
    flags
}

#[expect(unsafe_code, reason = "clones a process that allocates nothing")]
fn clone_monitor(flags: i32, program: &Program, fds: Descriptors) -> Result<(Pid, OwnedFd), Errno> {
    // No handler of the embedding program may run in the child: it would act on its parent's behalf.
    let mask = sys::block_signals()?;
    // SAFETY: the child does nothing but `monitor::run`, which keeps to raw system calls and never returns.
    let cloned = unsafe { sys::clone(flags) };
    if let Ok(Cloned::Child) = cloned {
        // SAFETY: this is the child, and all signals are blocked.
        unsafe { monitor::run(program, &fds) }
    }
    sys::set_signals(mask)?;
    match cloned? {
        Cloned::Parent(pid, pidfd) => Ok((pid, pidfd)),
        Cloned::Child => Err(Errno::INVAL),
    }
}

/// The builder's ends of a step's pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// Closed to stop the step.
    pub(crate) control: Option<OwnedFd>,
    pub(crate) report: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// Where the listener of a notifying filter comes from.
    pub(crate) listener: Option<OwnedFd>,
}

fn pipes(notifies: bool) -> io::Result<(Descriptors, Pipes)> {
    let (control_read, control_write) = pipe()?;
    let (report_read, report_write) = pipe()?;
    let (stdout_read, stdout_write) = pipe()?;
    let (stderr_read, stderr_write) = pipe()?;
    for reader in [&report_read, &stdout_read, &stderr_read] {
        rustix::fs::fcntl_setfl(reader, OFlags::NONBLOCK)?;
    }
    let null = rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let (listener_read, listener_write) = if notifies { socket_pair().map(Some)? } else { None }.unzip();
    let builder = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).ok();
    let child = Descriptors {
        control: control_read,
        report: report_write,
        stdin: above_standard(null)?,
        stdout: stdout_write,
        stderr: stderr_write,
        builder: builder.map(above_standard).transpose()?,
        listener: listener_write,
    };
    let parent = Pipes {
        control: Some(control_write),
        report: report_read,
        stdout: stdout_read,
        stderr: stderr_read,
        listener: listener_read,
    };
    Ok((child, parent))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok((above_standard(read)?, above_standard(write)?))
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let (one, other) = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?;
    Ok((above_standard(one)?, above_standard(other)?))
}

/// Moves a descriptor out of the way of the standard streams, which an embedding program may have closed.
fn above_standard(fd: OwnedFd) -> io::Result<OwnedFd> {
    const FIRST: i32 = 3;
    if fd.as_raw_fd() >= FIRST {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, FIRST)?)
}

/// A step that was started. Dropping it kills every process of the step and waits for that.
#[derive(Debug)]
pub(crate) struct Running {
    pid: Pid,
    pub(crate) pidfd: OwnedFd,
    supervision: Supervision,
    /// What the step's processes are told by, when they can outlive the monitor.
    mark: Option<Mark>,
    pub(crate) pipes: Pipes,
    reaped: bool,
}

impl Running {
    /// Returns the process that all of the step descend from.
    pub(crate) fn monitor(&self) -> Pid {
        self.pid
    }

    /// Writes the id maps of a new user namespace and lets the monitor go on.
    pub(crate) fn go(&self, isolation: Isolation, ids: &IdRanges) -> Result<(), RunError> {
        if isolation == Isolation::UsernsSingle {
            // Who has no CAP_SETGID may map a group only when nobody in there can drop one: user_namespaces(7).
            self.write_map("setgroups", "deny")?;
        }
        if isolation.has_user_namespace() {
            self.write_map("uid_map", &ids.users.map())?;
            self.write_map("gid_map", &ids.groups.map())?;
        }
        let Some(control) = &self.pipes.control else { return Ok(()) };
        rustix::io::write(control, b"g").map_err(|errno| failed("let the monitor go on")(errno.into()))?;
        Ok(())
    }

    fn write_map(&self, file: &str, map: &str) -> Result<(), RunError> {
        let path = format!("/proc/{}/{file}", self.pid.as_raw_nonzero());
        // A map is accepted in a single write only, which this is for what fits a page.
        fs::write(&path, map).map_err(|source| RunError::Operation {
            operation: "write the id map",
            target: map.trim_end().replace('\n', ", "),
            source,
        })
    }

    /// Tells the step to die; does not wait. Idempotent.
    pub(crate) fn kill(&mut self) {
        self.pipes.control = None;
        if self.supervision == Supervision::PidNamespace {
            // The kernel takes everything in the namespace along.
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }

    /// Waits until every process of the step is dead. Idempotent.
    pub(crate) fn reap(&mut self) -> Result<(), RunError> {
        if self.reaped {
            return Ok(());
        }
        // A child without an exit signal is waited for with __WALL only.
        let options = WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned());
        let status = loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Err(Errno::INTR) => {}
                result => {
                    break result.map_err(|errno| failed("wait for the step's monitor")(errno.into()))?;
                }
            }
        };
        self.reaped = true;
        let finished = status.is_some_and(|status| status.exited());
        match self.mark {
            Some(mark) if !finished => {
                sweep(mark);
                Err(RunError::MonitorDied)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let _ = self.reap();
    }
}

fn mount_namespace_of(pid: Pid) -> Option<(u64, u64)> {
    let pid = pid.as_raw_nonzero();
    let stat = rustix::fs::stat(format!("/proc/{pid}/ns/mnt")).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// What only the processes of one step have, as device and inode.
#[derive(Clone, Copy, Debug)]
enum Mark {
    MountNamespace(u64, u64),
    Root(u64, u64),
    /// A hard limit: where nothing else is the step's own.
    Limit(u64),
}

/// Kills what is left of a step whose monitor was killed by somebody else.
fn sweep(mark: Mark) {
    const ROUNDS: usize = 1000;
    for _ in 0..ROUNDS {
        let left = processes().filter_map(Pid::from_raw).filter(|&pid| match mark {
            Mark::MountNamespace(device, inode) => mount_namespace_of(pid) == Some((device, inode)),
            Mark::Root(device, inode) => root_of(pid) == Some((device, inode)),
            Mark::Limit(mark) => limit::locks(pid).is_ok_and(|limit| limit.maximum == Some(mark)),
        });
        let killed = left.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
        if killed.count() == 0 {
            return;
        }
        thread::yield_now();
    }
}

/// The root directory of a process is shown to its own user, or with CAP_SYS_PTRACE.
fn root_of(pid: Pid) -> Option<(u64, u64)> {
    let number = pid.as_raw_nonzero();
    let look = || rustix::fs::stat(format!("/proc/{number}/root"));
    let stat = look().or_else(|errno| {
        let status = Status::of(number.get()).ok_or(errno)?;
        let ([.., uid], [.., gid]) = (status.uids, status.gids);
        identity::with_file_ids(uid, gid, &status.groups, look)
    });
    stat.ok().map(|stat| (stat.st_dev, stat.st_ino))
}
