//! From a started step to its end: output, cancellation, reports.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::error::{ExecError, RunError};
use crate::launch::{Running, failed};
use crate::process::{Exit, Stream};
use crate::program::{Executable, Lookup, Program};
use crate::report::{Found, Report, SIZE, Stage};

/// The size of one reading of the output.
const CHUNK: usize = 64 * 1024;

/// Bounds the reading of what is left in a pipe after every writer has died: it holds a megabyte at most.
const LEFT_IN_PIPE: usize = 4096;

/// Where a pipe stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Ended,
}

/// Follows a step to its end; every process of it is dead afterwards.
pub(crate) fn supervise(
    mut running: Running,
    program: &Program,
    output: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
) -> Result<Exit, RunError> {
    let waker = cancel.waker().map_err(|errno| failed("watch for cancellation")(errno.into()))?;
    let mut buffer = vec![0u8; CHUNK];
    let mut open = [State::Open; 2];
    let mut cancelled = false;
    while !await_event(&running, (!cancelled).then_some(&*waker), open)? {
        if cancel.is_cancelled() && !cancelled {
            cancelled = true;
            running.kill();
        }
        for (state, (stream, pipe)) in open.iter_mut().zip(streams(&running)) {
            if *state == State::Open {
                *state = forward_once(pipe, stream, &mut buffer, output).0;
            }
        }
    }
    let monitor = running.reap();
    for (stream, pipe) in streams(&running) {
        for _ in 0..LEFT_IN_PIPE {
            match forward_once(pipe, stream, &mut buffer, output) {
                (State::Open, length) if length > 0 => {}
                _ => break,
            }
        }
    }
    match first_report(&running.pipes.report) {
        Some(report) => outcome(report, program),
        None if cancelled => Err(RunError::Cancelled),
        None => Err(monitor.err().unwrap_or(RunError::MonitorDied)),
    }
}

fn streams(running: &Running) -> [(Stream, &OwnedFd); 2] {
    [(Stream::Stdout, &running.pipes.stdout), (Stream::Stderr, &running.pipes.stderr)]
}

/// Waits for output, cancellation or the end; tells whether it is the end: the monitor is dead. It dies last.
fn await_event(running: &Running, waker: Option<&OwnedFd>, open: [State; 2]) -> Result<bool, RunError> {
    let mut polled = Vec::with_capacity(4);
    polled.push(PollFd::new(&running.pidfd, PollFlags::IN));
    polled.extend(waker.map(|waker| PollFd::new(waker, PollFlags::IN)));
    for (state, (_, pipe)) in open.iter().zip(streams(running)) {
        if *state == State::Open {
            polled.push(PollFd::new(pipe, PollFlags::IN));
        }
    }
    match poll(&mut polled, None) {
        Ok(_) => Ok(polled.first().is_some_and(|pidfd| !pidfd.revents().is_empty())),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(failed("wait for the step")(errno.into())),
    }
}

/// Passes on what one read gives; the pipe does not block.
fn forward_once(
    pipe: &OwnedFd,
    stream: Stream,
    buffer: &mut [u8],
    output: &mut dyn FnMut(Stream, &[u8]),
) -> (State, usize) {
    match rustix::io::read(pipe.as_fd(), &mut *buffer) {
        Ok(0) => (State::Ended, 0),
        Ok(length) => {
            output(stream, buffer.get(..length).unwrap_or_default());
            (State::Open, length)
        }
        Err(Errno::AGAIN | Errno::INTR) => (State::Open, 0),
        Err(_) => (State::Ended, 0),
    }
}

/// Reads the first report: a failure is written before the exit that follows from it.
fn first_report(pipe: &OwnedFd) -> Option<Report> {
    let mut message = [0u8; SIZE];
    let length = rustix::io::read(pipe, &mut message).ok()?;
    Report::decode(message.get(..length)?)
}

fn outcome(report: Report, program: &Program) -> Result<Exit, RunError> {
    let error = |errno| io::Error::from_raw_os_error(errno);
    match report {
        Report::Ended { status } if libc::WIFSIGNALED(status) => Ok(Exit::Signal(libc::WTERMSIG(status))),
        Report::Ended { status } => Ok(Exit::Code(libc::WEXITSTATUS(status))),
        Report::Operation { index, errno } => {
            let operation = usize::try_from(index).ok().and_then(|index| program.operations.get(index));
            let (operation, target) =
                operation.map_or(("prepare the step", String::new()), |o| (o.name, o.target.clone()));
            Err(RunError::Operation { operation, target, source: error(errno) })
        }
        Report::Stage { stage, errno } => {
            let target = match stage {
                Stage::WorkingDirectory => program.entry.cwd.to_string_lossy().into_owned(),
                Stage::Root => program
                    .entry
                    .root
                    .path()
                    .map(|root| root.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                Stage::UserId => program.entry.uid.as_raw().to_string(),
                Stage::GroupId => program.entry.gid.as_raw().to_string(),
                _ => String::new(),
            };
            Err(RunError::Operation { operation: stage.name(), target, source: error(errno) })
        }
        Report::Exec { index, errno, found } => Err(RunError::Exec(exec_error(program, index, errno, found))),
    }
}

/// Says why the program could not be executed, in runc's words.
fn exec_error(program: &Program, index: u32, errno: i32, found: Found) -> ExecError {
    let Executable::Files { candidates, lookup, argv, .. } = &program.entry.program else {
        return ExecError::NotFound(String::new());
    };
    let candidate = usize::try_from(index).ok().and_then(|index| candidates.get(index));
    let file = candidate.map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
    match (Errno::from_raw_os_error(errno), found) {
        (_, Found::Nothing) if *lookup == Lookup::SearchPath => ExecError::NotInPath(argv.first_lossy()),
        (Errno::NOENT | Errno::NOTDIR, Found::Nothing) => ExecError::NotFound(file),
        (_, Found::Directory) => ExecError::IsDirectory(file),
        (Errno::ACCESS, _) => ExecError::Denied(file),
        (Errno::NOEXEC, _) => ExecError::Refused { file, reason: "exec format error".to_owned() },
        (Errno::NOENT, _) => ExecError::Refused { file, reason: "no such file or directory".to_owned() },
        (errno, _) => ExecError::Refused { file, reason: io::Error::from(errno).to_string() },
    }
}
