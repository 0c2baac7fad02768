//! What a step sees: its root filesystem and what is mounted into it.

use std::path::PathBuf;

use crate::process::Process;

/// A root filesystem, the mounts in it and the process to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The root filesystem.
    pub rootfs: Rootfs,
    /// What is mounted into it, in this order.
    pub mounts: Vec<Mount>,
    /// The process.
    pub process: Process,
}

/// A root filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rootfs {
    /// An overlay; changes land in `upper`, in the `user.overlay.*` form.
    Overlay {
        /// Lower directories, lowest first; at least one.
        lower: Vec<PathBuf>,
        /// Where changes go; on a filesystem that can be an overlay's upper layer.
        upper: PathBuf,
        /// An empty directory beside `upper`, used by no other mount before (the overlay may be `volatile`).
        work: PathBuf,
    },
    /// A plain directory, changed in place.
    Directory(PathBuf),
}

/// Something mounted into the root filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where: a path inside the root filesystem that exists. Symlinks are followed as the step would follow
    /// them, and cannot lead outside. Directories right below the target of a [`MountKind::Dev`] are made.
    pub target: PathBuf,
    /// What.
    pub kind: MountKind,
}

impl Mount {
    /// Describes a mount of `kind` at `target`.
    pub fn new(target: impl Into<PathBuf>, kind: MountKind) -> Self {
        Self { target: target.into(), kind }
    }

    /// Returns `/proc`, `/sys` and `/dev`, as Docker gives them to a container.
    pub fn defaults() -> Vec<Self> {
        vec![
            Self::new("proc", MountKind::Proc),
            Self::new("sys", MountKind::Sysfs),
            Self::new("dev", MountKind::Dev),
        ]
    }
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A file or directory of the calling process.
    Bind {
        /// The path outside. Symlinks in it are followed on the host: a path below a directory that others
        /// write must have been resolved by the caller.
        source: PathBuf,
        /// Whether the step may write.
        access: Access,
        /// Whether what is mounted below `source` comes along.
        recursive: bool,
    },
    /// A new memory filesystem, without set-id programs.
    Tmpfs {
        /// The largest size, in bytes; half of the memory when absent.
        size: Option<u64>,
        /// The mode of its root.
        mode: u32,
    },
    /// A directory whose changes are thrown away: an overlay of its own.
    Overlay {
        /// Lower directories, lowest first; at least one.
        lower: Vec<PathBuf>,
        /// Where changes go.
        upper: PathBuf,
        /// An empty directory beside `upper`, used by no other mount before.
        work: PathBuf,
    },
    /// `/proc` with Docker's masked and read-only paths.
    Proc,
    /// `/sys`, read-only, with Docker's masked paths.
    Sysfs,
    /// A minimal `/dev`: null, zero, full, random, urandom, tty, pts, shm and the usual symlinks.
    Dev,
}

/// Whether a bind mount can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Writes fail with EROFS.
    ReadOnly,
    /// Writes reach the source.
    ReadWrite,
}
