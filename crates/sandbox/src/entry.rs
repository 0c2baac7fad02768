//! The step's first process, from the fork to execve: raw system calls only, nothing is allocated.

use std::ffi::CStr;

use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::capabilities;
use crate::program::{Entry, Executable, Lookup, Supervision};
use crate::report::{Found, Report, Stage};
use crate::sys::{self, StringArray};

/// The exit code of a process that could not become the step's; the report says why.
const NOT_STARTED: i32 = 127;

/// The descriptors the process starts with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams<'a> {
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
    pub(crate) report: BorrowedFd<'a>,
}

/// Becomes the step's program, or reports why not and exits.
pub(crate) fn become_program(entry: &Entry, supervision: Supervision, streams: Streams<'_>) -> ! {
    let report = match prepare(entry, supervision, streams) {
        Err((stage, errno)) => Report::Stage { stage, errno: errno.raw_os_error() },
        Ok(()) => match &entry.program {
            Executable::Nothing => sys::exit(0),
            Executable::Files { candidates, lookup, argv, env } => {
                let candidates = candidates.iter().map(|file| file.as_c_str());
                execute(candidates, *lookup, argv, env)
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
    // Before the user changes, as runc does: the directory may be closed to the user.
    rustix::process::chdir(entry.cwd.as_c_str()).map_err(at(Stage::WorkingDirectory))?;
    capabilities::bound().map_err(at(Stage::Bounding))?;
    if supervision == Supervision::Subreaper {
        // Without a PID namespace the step sees every process around it. Where the kernel has the scope (Linux
        // 6.12) it can signal its own only; where not, nothing replaces it yet.
        let _ = sys::fence_signals();
    }
    sys::install_filter(entry.filter).map_err(at(Stage::Filter))?;
    rustix::thread::set_thread_groups(&entry.groups).map_err(at(Stage::Groups))?;
    rustix::thread::set_thread_res_gid(entry.gid, entry.gid, entry.gid).map_err(at(Stage::GroupId))?;
    rustix::thread::set_thread_res_uid(entry.uid, entry.uid, entry.uid).map_err(at(Stage::UserId))?;
    // The kernel has emptied the sets of any other user by now.
    if entry.uid.is_root() {
        capabilities::reduce().map_err(at(Stage::Capabilities))?;
    }
    if supervision == Supervision::Subreaper {
        // A change of user id clears it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(at(Stage::Supervise))?;
    }
    rustix::process::umask(Mode::from_raw_mode(entry.umask));
    sys::set_signals(0).map_err(at(Stage::Signals))
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

/// Tries the candidates; returns only when none could be executed.
///
/// As in Go's `exec.LookPath`, which runc uses: in the directories of `PATH`, what is missing, a directory or not
/// executable is passed over.
fn execute<'a>(
    candidates: impl Iterator<Item = &'a CStr>,
    lookup: Lookup,
    argv: &StringArray,
    env: &StringArray,
) -> Report {
    let mut last = Report::Exec { index: 0, errno: Errno::NOENT.raw_os_error(), found: Found::Nothing };
    for (index, file) in (0u32..).zip(candidates) {
        let errno = sys::execve(file, argv, env);
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
