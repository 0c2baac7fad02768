//! What can go wrong in running a step.

use std::io;

use thiserror::Error;

/// Why a step did not run to its end.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The caller cancelled it; all its processes are dead.
    #[error("cancelled")]
    Cancelled,
    /// The program could not be executed; says which file, as runc would.
    #[error("exec{}", .0)]
    Exec(ExecError),
    /// An operation of the preparation failed.
    #[error("cannot {operation}{}{target}", if .target.is_empty() { "" } else { " " })]
    Operation {
        /// What was tried, as a verb phrase.
        operation: &'static str,
        /// The path or name it was tried on; may be empty.
        target: String,
        /// The system call's error.
        source: io::Error,
    },
    /// The description of the step is not possible.
    #[error("invalid step: {0}")]
    Invalid(String),
    /// The process that supervises the step died before it.
    #[error("the step's monitor was killed (out of memory?)")]
    MonitorDied,
}

/// Why the program of a step could not be executed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExecError {
    /// No directory of `PATH` has such an executable file.
    #[error(": {0:?}: executable file not found in $PATH")]
    NotInPath(String),
    /// The named file does not exist.
    #[error(": {0:?}: stat {0}: no such file or directory")]
    NotFound(String),
    /// The named file is a directory.
    #[error(": {0:?}: is a directory")]
    IsDirectory(String),
    /// The named file is not executable by the user.
    #[error(": {0:?}: permission denied")]
    Denied(String),
    /// The kernel refused the file: wrong architecture, no interpreter line, missing interpreter and so on.
    #[error(" {file}: {reason}")]
    Refused {
        /// The file that was tried.
        file: String,
        /// The kernel's reason.
        reason: String,
    },
}
