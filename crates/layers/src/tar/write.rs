//! The writer.

use std::io::{self, Write};
use std::path::PathBuf;

use thiserror::Error;

use crate::change::Changes;
use crate::root::RootError;

/// Why a layer could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The content of an entry could not be opened or read.
    #[error("cannot read the content of `{}`", path.display())]
    Content {
        /// The entry.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content of an entry could not be opened.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A file has not the length its attributes say.
    #[error("`{}` changed while it was read: {expected} bytes expected", path.display())]
    Changed {
        /// The entry.
        path: PathBuf,
        /// The length when it was looked at.
        expected: u64,
    },
    /// The writer below failed.
    #[error("cannot write the layer")]
    Output(#[source] io::Error),
}

/// Writes `changes` as an uncompressed tar stream, end marker included, and returns the writer. Equal changes
/// give equal bytes. Modification times later than `clamp` seconds after the epoch are written as `clamp`.
///
/// # Errors
/// A content cannot be read or has another length than its attributes say; the writer fails.
pub fn write_changes<W: Write>(_changes: &Changes, _writer: W, _clamp: Option<i64>) -> Result<W, WriteError> {
    unimplemented!()
}
