//! The step's first process, from the fork to execve: raw system calls only, nothing is allocated.

use std::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Signal};

use crate::capabilities;
use crate::notify;
use crate::program::{Credentials, Entry, Executable, Lookup, Privileges, Root, Supervision};
use crate::report::{Found, Report, Stage};
use crate::seccomp::Filter;
use crate::sys::{self, landlock};

/// The exit code of a process that could not become the step's; the report says why.
const NOT_STARTED: i32 = 127;

/// The descriptors the process starts with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams<'a> {
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
    pub(crate) report: BorrowedFd<'a>,
    /// Where the listener of a notifying filter goes.
    pub(crate) listener: Option<BorrowedFd<'a>>,
}

/// Becomes the step's program, or reports why not and exits.
pub(crate) fn become_program(entry: &Entry, supervision: Supervision, streams: Streams<'_>) -> ! {
    let report = match prepare(entry, supervision, streams) {
        Err((stage, errno)) => Report::Stage { stage, errno: errno.raw_os_error() },
        Ok(()) => match &entry.program {
            Executable::Nothing => match rehearse(entry) {
                Ok(()) => sys::exit(0),
                Err(errno) => Report::Stage { stage: Stage::Emulation, errno: errno.raw_os_error() },
            },
            Executable::Files { candidates, lookup, argv, env } => {
                let candidates = candidates.iter().map(|file| file.as_c_str());
                execute(candidates, *lookup, |file| match entry.own_program {
                    Some(own) if own.is_executed_by(file) => Errno::PERM,
                    _ => sys::execve(file, argv, env),
                })
            }
        },
    };
    report.send(streams.report);
    sys::exit(NOT_STARTED)
}

/// Takes on the identity of the step. The order matters: the bounding set needs CAP_SETPCAP and the filter
/// CAP_SYS_ADMIN (or no_new_privs, which would disarm set-id programs), so both come before the ids are given up.
fn prepare(entry: &Entry, supervision: Supervision, streams: Streams<'_>) -> Result<(), (Stage, Errno)> {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    if supervision == Supervision::Subreaper {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(at(Stage::Supervise))?;
    }
    rustix::process::setsid().map_err(at(Stage::Session))?;
    connect(entry, streams).map_err(at(Stage::Streams))?;
    for &(resource, limit) in &entry.rlimits {
        rustix::process::setrlimit(resource, limit).map_err(at(Stage::Limits))?;
    }
    let (root, programs) = match &entry.root {
        Root::Mounted => (None, None),
        Root::Changed(path) => (Some(change_root(path).map_err(at(Stage::Root))?), None),
        Root::Beside { path, programs } => {
            let open = |path: &CStr| open_directory(path).map_err(at(Stage::Root));
            (Some(open(path)?), Some(open(programs)?))
        }
    };
    if let Some(null) = own_null() {
        sys::dup_onto(null.as_fd(), 0).map_err(at(Stage::Streams))?;
    }
    // Before the user changes, as runc does: the directory may be closed to the user.
    match (&entry.root, &root) {
        (Root::Beside { .. }, Some(root)) => enter(root.as_fd(), &entry.cwd),
        _ => rustix::process::chdir(entry.cwd.as_c_str()),
    }
    .map_err(at(Stage::WorkingDirectory))?;
    if let Some(kept) = entry.capabilities {
        capabilities::bound(kept).map_err(at(Stage::Bounding))?;
    }
    if entry.privileges == Privileges::Fixed {
        rustix::thread::set_no_new_privs(true).map_err(at(Stage::Privileges))?;
    }
    if let Some(domain) = entry.domain {
        match (&root, &programs) {
            (Some(root), Some(programs)) => {
                landlock::confine_to_programs(domain, &[root.as_fd(), programs.as_fd()])
            }
            _ => landlock::confine(domain, root.as_ref().map(AsFd::as_fd)),
        }
        .map_err(at(Stage::Domain))?;
    }
    drop((root, programs));
    if entry.credentials == Credentials::Emulated {
        // Its calls are answered by who can read its memory, which is still a copy of the builder's. Nobody else can
        // but who can read that one's: what runs beside it is in other user namespaces.
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(at(Stage::Emulation))?;
    }
    if let Some(filter) = &entry.filter {
        install_filter(filter, streams.listener)?;
    }
    if entry.credentials == Credentials::Real {
        change_ids(entry)?;
    }
    // The kernel has emptied the sets of any other user by now.
    let is_root = entry.uid.is_root() || entry.credentials == Credentials::Emulated;
    if let Some(kept) = entry.capabilities.filter(|_| is_root) {
        capabilities::reduce(kept).map_err(at(Stage::Capabilities))?;
    }
    if supervision == Supervision::Subreaper {
        // A change of user id clears it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(at(Stage::Supervise))?;
    }
    rustix::process::umask(Mode::from_raw_mode(entry.umask));
    sys::set_signals(0).map_err(at(Stage::Signals))
}

fn change_ids(entry: &Entry) -> Result<(), (Stage, Errno)> {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    rustix::thread::set_thread_groups(&entry.groups).map_err(at(Stage::Groups))?;
    rustix::thread::set_thread_res_gid(entry.gid, entry.gid, entry.gid).map_err(at(Stage::GroupId))?;
    rustix::thread::set_thread_res_uid(entry.uid, entry.uid, entry.uid).map_err(at(Stage::UserId))
}

/// Makes a directory this process's root, and nothing outside of it known to it.
fn change_root(path: &CStr) -> Result<OwnedFd, Errno> {
    let root = open_directory(path)?;
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(c".")?;
    Ok(root)
}

fn open_directory(path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Makes a directory inside a root that is not this process's the working directory.
fn enter(root: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::process::fchdir(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?)
}

/// From here on, a notified call waits until the builder has the listener.
fn install_filter(filter: &Filter, socket: Option<BorrowedFd<'_>>) -> Result<(), (Stage, Errno)> {
    let Some(socket) = socket else {
        return sys::install_filter(&filter.program).map_err(|errno| (Stage::Filter, errno));
    };
    let listener = sys::install_notifying_filter(&filter.program).map_err(|errno| (Stage::Filter, errno))?;
    notify::send_listener(socket, listener.as_fd()).map_err(|errno| (Stage::Listener, errno))
}

/// Makes the streams descriptors 0 to 2 and gives the pipes to the user, who could not reopen them through
/// `/dev/stdout` otherwise. (A pipe's owner has no say in the ids that are not mapped: errors do not matter.)
fn connect(entry: &Entry, streams: Streams<'_>) -> Result<(), Errno> {
    for stream in [streams.stdout, streams.stderr] {
        let _ = rustix::fs::fchown(stream, Some(entry.uid), None);
    }
    sys::dup_onto(streams.stdin, 0)?;
    sys::dup_onto(streams.stdout, 1)?;
    sys::dup_onto(streams.stderr, 2)?;
    sys::close_on_exec_from(3)
}

/// Opens the empty input in the step's own `/dev`, if it is there: the mode and owner of the host's could be changed
/// through a descriptor of that.
fn own_null() -> Option<OwnedFd> {
    let path = c"/dev/null";
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    is_null.then(|| rustix::fs::open(path, flags, Mode::empty()).ok())?
}

/// Makes a call that waits for an answer, where the isolation has such calls.
fn rehearse(entry: &Entry) -> Result<(), Errno> {
    match (entry.credentials, &entry.root) {
        // This one is answered by making it another call.
        (Credentials::Emulated, Root::Beside { .. }) => {
            rustix::fs::stat(c"/")?;
            rustix::process::chdir(c"/")
        }
        // It is answered only if the memory of this process can be read.
        (Credentials::Emulated, _) => rustix::fs::stat(c"/").map(drop),
        // Here that cannot be, so that the kernel opens the skeleton's file.
        (Credentials::Real, Root::Changed(_)) => {
            rustix::fs::open(c"/proc/mounts", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(drop)
        }
        (Credentials::Real, _) => Ok(()),
    }
}

/// Tries the candidates; returns only when none could be executed.
///
/// As in Go's `exec.LookPath`, which runc uses: in the directories of `PATH`, what is missing, a directory or not
/// executable is passed over.
fn execute<'a>(
    candidates: impl Iterator<Item = &'a CStr>,
    lookup: Lookup,
    execve: impl Fn(&CStr) -> Errno,
) -> Report {
    let mut last = Report::Exec { index: 0, errno: Errno::NOENT.raw_os_error(), found: Found::Nothing };
    for (index, file) in (0u32..).zip(candidates) {
        let errno = execve(file);
        let found = look(file);
        let report = Report::Exec { index, errno: errno.raw_os_error(), found };
        let passed_over = lookup == Lookup::SearchPath
            && (found != Found::File || matches!(errno, Errno::ACCESS | Errno::PERM));
        if !passed_over {
            return report;
        }
        last = Report::Exec { index, errno: Errno::NOENT.raw_os_error(), found: Found::Nothing };
    }
    last
}

fn look(file: &CStr) -> Found {
    match rustix::fs::statat(CWD, file, AtFlags::empty()) {
        Err(_) => Found::Nothing,
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Found::Directory,
        Ok(_) => Found::File,
    }
}
