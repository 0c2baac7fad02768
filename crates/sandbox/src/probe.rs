//! What this host allows, found by trying.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::isolation::Isolation;

/// What happened when each isolation was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// One entry per isolation, in order of preference.
    pub attempts: Vec<Attempt>,
    /// The directory in which an overlay's upper layer was tried.
    pub scratch: PathBuf,
    /// The effective user id of the calling process.
    pub uid: u32,
}

/// One isolation tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The isolation.
    pub isolation: Isolation,
    /// Nothing when the whole sequence worked, else the first operation that failed.
    pub outcome: Result<(), Failure>,
}

/// Why an isolation does not work here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// This version does not have it.
    #[error("not implemented yet")]
    NotImplemented,
    /// An operation of the sequence failed.
    #[error("cannot {operation}{}{target}: {}", if .target.is_empty() { "" } else { " " }, std::io::Error::from_raw_os_error(*.errno))]
    Operation {
        /// What was tried, as a verb phrase.
        operation: &'static str,
        /// The path or name it was tried on; may be empty.
        target: String,
        /// The system call's error number.
        errno: i32,
    },
}

/// Tries every isolation, doing the whole sequence in a child, with an overlay whose upper layer is below `scratch`.
///
/// Leaves nothing behind.
pub fn probe(scratch: &Path) -> Probe {
    let _ = scratch;
    unimplemented!()
}

/// No isolation works here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Unavailable {
    /// What was tried.
    pub probe: Probe,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no isolation for RUN works here")
    }
}
