//! What can go wrong with a repository.

use std::io;

use thiserror::Error;

use super::git::{MAX_SUBMODULE_DEPTH, MAX_SUBMODULES};

/// Why a repository cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GitError {
    /// There is no git.
    #[error("git is not installed; {repository} needs it (Debian, Alpine and others: the package `git`)")]
    Missing {
        /// The repository.
        repository: String,
    },
    /// git cannot be run.
    #[error("cannot run git")]
    Start(#[source] io::Error),
    /// git failed.
    #[error("cannot {operation} {repository}: {message}")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// The repository.
        repository: String,
        /// What git said.
        message: String,
    },
    /// The reference is no name that git knows.
    #[error("{reference:?} is no name of a branch, tag or commit")]
    Malformed {
        /// The reference.
        reference: String,
    },
    /// The repository has no such reference.
    #[error("{repository} has no branch, tag or reference {reference:?}")]
    NoReference {
        /// The repository.
        repository: String,
        /// The reference.
        reference: String,
    },
    /// The reference stands for another commit than the checksum says.
    #[error("{repository}: expected checksum to match {expected}, got {actual}")]
    Checksum {
        /// The repository.
        repository: String,
        /// The checksum asked for.
        expected: String,
        /// The commit.
        actual: String,
    },
    /// The directory does not exist in the repository.
    #[error("{repository} has no directory {subdir:?}")]
    Subdirectory {
        /// The repository.
        repository: String,
        /// The directory.
        subdir: String,
    },
    /// Submodules are nested too deep, or there are too many.
    #[error(
        "{repository} has more than {MAX_SUBMODULES} submodules, or they nest deeper than {MAX_SUBMODULE_DEPTH}"
    )]
    Submodules {
        /// The repository.
        repository: String,
    },
    /// The checkout cannot be read or cleaned up.
    #[error("cannot read the checkout")]
    Read(#[source] io::Error),
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}
