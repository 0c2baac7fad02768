//! What a step sees: its root filesystem and what is mounted into it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::owners::Owners;
use crate::process::Process;
use crate::secret::Secret;

/// A root filesystem, the mounts in it and the process to run.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The root filesystem.
    pub rootfs: Rootfs,
    /// What is mounted into it, in this order.
    pub mounts: Vec<Mount>,
    /// The process.
    pub process: Process,
    /// Where owners are kept; wanted by a sandbox whose [`ownership`](crate::Sandbox::ownership) is recorded, and not
    /// used by others.
    pub owners: Option<Arc<dyn Owners>>,
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

/// Which [`Rootfs`] the steps of a sandbox want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RootfsForm {
    /// [`Rootfs::Overlay`].
    Overlay,
    /// [`Rootfs::Directory`]: nothing can be mounted, or not on the filesystem the sandbox was tried on.
    Directory,
}

/// How what a step sees besides its root filesystem gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mounting {
    /// [`Spec::mounts`] are mounted.
    Kernel,
    /// Nothing can be mounted: the embedder puts files into the tree before the step and takes them out after it.
    /// [`Spec::mounts`] may name [`MountKind::Proc`], [`MountKind::Sysfs`], [`MountKind::Dev`] and [`MountKind::File`]
    /// only, the last with a placeholder at its target: a file with the same size, owner and mode.
    Placed,
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
    /// A directory or file whose changes are thrown away: part of an overlay of its own.
    Overlay {
        /// Lower directories, lowest first; at least one.
        lower: Vec<PathBuf>,
        /// Where changes go.
        upper: PathBuf,
        /// An empty directory beside `upper`, used by no other mount before.
        work: PathBuf,
        /// What of the overlay is mounted; empty for all of it. Symlinks in it stay inside the overlay.
        subpath: PathBuf,
        /// Whether the step may write.
        access: Access,
    },
    /// A read-only file in a memory filesystem of its own, which is never swapped out. The target is a file.
    File {
        /// What it holds.
        content: Secret,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its permission bits; without an `x` among them it cannot be executed at all.
        mode: u32,
    },
    /// `/proc` with Docker's masked and read-only paths.
    Proc,
    /// `/sys`, read-only, with Docker's masked paths.
    Sysfs,
    /// A minimal `/dev`: null, zero, full, random, urandom, tty, pts, shm, mqueue and the usual symlinks.
    Dev,
}

impl MountKind {
    /// Tells whether the target has to be a directory.
    pub(crate) fn is_directory(&self) -> bool {
        match self {
            Self::Bind { source, .. } => source.is_dir(),
            Self::Overlay { lower, upper, subpath, .. } => {
                lower.iter().chain([upper]).any(|layer| layer.join(subpath).is_dir())
            }
            Self::File { .. } => false,
            Self::Tmpfs { .. } | Self::Proc | Self::Sysfs | Self::Dev => true,
        }
    }
}

/// Whether a bind mount can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Writes fail with EROFS.
    ReadOnly,
    /// Writes reach the source.
    ReadWrite,
}
