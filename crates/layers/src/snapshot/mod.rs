//! Where the files of a rootfs live: committed snapshots, one per layer and what lies below it, and active
//! ones that a step may change.

mod active;
mod layer;
mod listing;
mod overlay;
mod plain;
mod rise;

use std::io;
use std::path::{Path, PathBuf};

use rbuild_image::{DiffId, Digest, Layer};

pub use active::{Active, ActiveRootfs, MountPoint};
pub use layer::unpack_layer;
pub(crate) use listing::Changed;
pub use overlay::Overlay;
pub use plain::Plain;

use crate::change::Changes;
use crate::root::RootError;
use crate::store::{StoreDirError, TreeError};
use crate::unpack::UnpackError;
use crate::view::View;

/// Gives out rootfs trees by the chain of layers that makes them, lowest first.
pub trait Snapshotter: Send + Sync + std::fmt::Debug {
    /// Lists the layers whose blobs [`Snapshotter::view`] would read: those that are not unpacked yet.
    ///
    /// # Errors
    /// The snapshots cannot be looked at.
    fn missing(&self, chain: &[Layer]) -> Result<Vec<Layer>, SnapshotError>;

    /// Returns the tree of `chain`, unpacking what is missing from the blobs of the store. Each blob is verified
    /// against its digest and diff ID while it is unpacked; a snapshot appears whole or not at all. Any number of
    /// threads and processes may ask for the same chain.
    ///
    /// # Errors
    /// A blob is missing, corrupt or cannot be unpacked.
    fn view(&self, chain: &[Layer]) -> Result<View, SnapshotError>;

    /// Makes a tree of `chain` that one step may change.
    ///
    /// # Errors
    /// As [`Snapshotter::view`]; the scratch directory cannot be made.
    fn prepare(&self, chain: &[Layer]) -> Result<Active, SnapshotError>;

    /// Keeps what a step made as the snapshot of `chain`, whose last layer was written from `changes`, as
    /// [`Active::changes`] found them. The blob of that layer is not looked at. If the snapshot exists already, `active` is discarded.
    ///
    /// # Errors
    /// [`SnapshotError::NoLayer`]; the directory cannot be renamed.
    fn commit(&self, active: Active, changes: &Changes, chain: &[Layer]) -> Result<(), SnapshotError>;
}

/// Why a tree could not be given out.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store could not be read or written, or has not the blob, or another one in its place.
    #[error(transparent)]
    Store(#[from] StoreDirError),
    /// The archive is refused, or its files cannot be written.
    #[error("cannot unpack layer {digest}")]
    Unpack {
        /// The layer's digest.
        digest: Digest,
        /// Why.
        source: UnpackError,
    },
    /// The blob is what the manifest says and cannot be decompressed.
    #[error("cannot decompress layer {digest}")]
    Decompress {
        /// The layer's digest.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// The image's config and its manifest do not belong together.
    #[error("layer {digest} unpacks to {}, the image's config says {}", actual.0, expected.0)]
    DiffId {
        /// The layer's digest.
        digest: Digest,
        /// The diff ID of the config.
        expected: DiffId,
        /// The diff ID of the blob.
        actual: DiffId,
    },
    /// The blob goes on long after the end of its archive.
    #[error("layer {digest} has more than {limit} bytes after the end of its archive")]
    Trailing {
        /// The layer's digest.
        digest: Digest,
        /// The limit in bytes.
        limit: u64,
    },
    /// A tree could not be read or written.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A snapshot directory could not be made or moved.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nothing can be committed as the empty chain.
    #[error("a chain without layers has no snapshot")]
    NoLayer,
    /// What is at a mount point, or above it, has the wrong type.
    #[error("cannot mount on `{}`: not a {expected}", path.display())]
    MountPoint {
        /// The path that has the wrong type.
        path: PathBuf,
        /// What it would have to be.
        expected: &'static str,
    },
}

impl From<TreeError> for SnapshotError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Store(error) => Self::Store(error),
            TreeError::Root(error) => Self::Root(error),
        }
    }
}

/// Makes the closure that `map_err` wants for a failed system call.
fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
