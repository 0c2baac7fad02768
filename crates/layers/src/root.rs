//! One directory tree of the host, reached through descriptors only: [`Root`].

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::meta::Meta;

/// Why a path of a tree could not be reached or changed.
#[derive(Debug, Error)]
pub enum RootError {
    /// A system call failed.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried: `open`, `create`, `set the owner of` …
        operation: &'static str,
        /// The path inside the tree, or of the tree itself.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path leads over more than 40 symbolic links.
    #[error("too many symbolic links in `{}`", path.display())]
    TooManyLinks {
        /// The path that was resolved.
        path: PathBuf,
    },
    /// The path cannot name an entry of a tree.
    #[error("`{}` is not a path below the root", path.display())]
    NotBelow {
        /// The path as given.
        path: PathBuf,
    },
}

impl RootError {
    /// Returns what the kernel said, if it was asked.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::TooManyLinks { .. } | Self::NotBelow { .. } => None,
        }
    }
}

/// What tells one file from another, and how many names it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The layer of a view, counted from the lowest; 0 for a [`Root`].
    pub layer: usize,
    /// The device.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// The number of names.
    pub nlink: u64,
}

/// A directory of the host whose contents are named by paths that cannot lead out of it.
///
/// Paths are relative to it (a leading `/` means the root itself, `..` is clamped there). Symbolic links in the
/// parents of a path are followed below the root; the last component is never followed. Cloning is cheap and
/// gives the same directory.
#[derive(Clone, Debug)]
pub struct Root {
    fd: Arc<OwnedFd>,
    path: Arc<PathBuf>,
}

impl Root {
    /// Opens the directory at a path of the host. `path` itself may be a symbolic link.
    ///
    /// # Errors
    /// The path is missing or not a directory.
    pub fn open(_path: &Path) -> Result<Self, RootError> {
        unimplemented!()
    }

    /// Returns the path of the host it was opened with; for messages and mount options, never to be joined.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the attributes of a path; none if it does not exist.
    ///
    /// # Errors
    /// The path cannot be looked at.
    pub fn metadata(&self, _path: &Path) -> Result<Option<Meta>, RootError> {
        unimplemented!()
    }

    /// Returns the identity of a path; none if it does not exist.
    ///
    /// # Errors
    /// The path cannot be looked at.
    pub fn identity(&self, _path: &Path) -> Result<Option<FileId>, RootError> {
        unimplemented!()
    }

    /// Returns the names in a directory, sorted by bytes.
    ///
    /// # Errors
    /// The path is not a directory or cannot be read.
    pub fn read_dir(&self, _path: &Path) -> Result<Vec<OsString>, RootError> {
        unimplemented!()
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// The path is not a symbolic link.
    pub fn read_link(&self, _path: &Path) -> Result<OsString, RootError> {
        unimplemented!()
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// The path is missing, is not a regular file, or may not be read.
    pub fn open_file(&self, _path: &Path) -> Result<File, RootError> {
        unimplemented!()
    }

    /// Makes a directory with mode `0700`; the parent must exist.
    ///
    /// # Errors
    /// The path exists or the file system refuses.
    pub fn create_dir(&self, _path: &Path) -> Result<(), RootError> {
        unimplemented!()
    }

    /// Makes an empty regular file with mode `0600`, open for writing.
    ///
    /// # Errors
    /// The path exists or the file system refuses.
    pub fn create_file(&self, _path: &Path) -> Result<File, RootError> {
        unimplemented!()
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// The path exists or the file system refuses.
    pub fn symlink(&self, _path: &Path, _target: &Path) -> Result<(), RootError> {
        unimplemented!()
    }

    /// Gives the existing file `target` (no directory) the further name `path`.
    ///
    /// # Errors
    /// `path` exists, `target` does not, or the file system refuses.
    pub fn hard_link(&self, _path: &Path, _target: &Path) -> Result<(), RootError> {
        unimplemented!()
    }

    /// Makes the device, pipe or socket that `meta.kind` names.
    ///
    /// # Errors
    /// The path exists, the kind is another one, or the kernel refuses (`EPERM`).
    pub fn mknod(&self, _path: &Path, _meta: &Meta) -> Result<(), RootError> {
        unimplemented!()
    }

    /// Removes a path and everything below it; one that does not exist is no error.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn remove(&self, _path: &Path) -> Result<(), RootError> {
        unimplemented!()
    }

    /// Sets owner, mode, extended attributes and time of an existing path, in this order. The kind and the size
    /// are not looked at, extended attributes that `meta` does not name stay.
    ///
    /// # Errors
    /// The path is missing or the kernel refuses.
    pub fn set_meta(&self, _path: &Path, _meta: &Meta) -> Result<(), RootError> {
        unimplemented!()
    }
}
