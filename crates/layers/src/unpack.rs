//! Unpacks a layer into an overlay upper directory.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use thiserror::Error;

use crate::change::Changes;
use crate::root::{Root, RootError};
use crate::view::View;

/// What a layer may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of a path or link target.
    pub path: usize,
    /// Bytes of all files together, holes included.
    pub bytes: u64,
}

impl Default for Limits {
    /// Five million entries, paths of 4095 bytes (`PATH_MAX` without its zero), 512 GiB.
    fn default() -> Self {
        Self { entries: 5_000_000, path: 4095, bytes: 512 << 30 }
    }
}

/// What was unpacked.
#[derive(Clone, Debug, Default)]
pub struct Unpacked {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of all files together, holes included.
    pub bytes: u64,
}

/// Why a layer could not be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The tree could not be read or written.
    #[error(transparent)]
    Root(#[from] RootError),
}

/// Unpacks the uncompressed tar stream `reader` into `upper`, the overlay upper directory that lies on `lower`.
///
/// # Errors
/// The stream is not a sound archive, exceeds `limits`, or the file system refuses.
pub fn unpack(
    _reader: impl Read,
    _upper: &Root,
    _lower: &View,
    _limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    unimplemented!()
}

/// Reads an uncompressed archive as changes whose contents stay in `file`.
///
/// # Errors
/// The file is not a sound archive or exceeds `limits`.
pub fn read_archive(_file: &Arc<File>, _limits: &Limits) -> Result<Changes, UnpackError> {
    unimplemented!()
}
