//! A step as data: everything a cloned child needs, made by the parent beforehand.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use rustix::mount::MountAttrFlags;
use rustix::process::Resource;
use rustix::thread::{CapabilitySet, Gid, Uid};

use crate::mounts::Access;
use crate::own_program::OwnProgram;
use crate::seccomp::Filter;
use crate::secret::Secret;
use crate::sys::StringArray;
use crate::sys::landlock::Domain;

/// What the monitor and the step's first process execute.
#[derive(Debug)]
pub(crate) struct Program {
    /// Carried out by the monitor, in order.
    pub(crate) operations: Vec<Operation>,
    /// Carried out by the step's first process.
    pub(crate) entry: Entry,
    /// How the step's processes are held together.
    pub(crate) supervision: Supervision,
}

/// How the step's processes are held together, so that all of them can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supervision {
    /// The monitor is process 1 of a PID namespace; the kernel kills the others with it.
    PidNamespace,
    /// The monitor is the subreaper of its descendants and kills them itself.
    Subreaper,
}

/// A step of the preparation, with what a report of its failure says.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    /// A verb phrase.
    pub(crate) name: &'static str,
    /// What it is done to; may be empty.
    pub(crate) target: String,
}

/// What the monitor can do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Keep mounts from propagating to or from the host.
    PrivateMounts,
    /// Set the host name.
    Hostname(Vec<u8>),
    /// Bring up the loopback interface.
    LoopbackUp,
    /// Mount an overlay and take it as the root.
    RootOverlay(OverlayPlan),
    /// Take a directory as the root.
    RootDirectory(CString),
    /// Replace a lower directory in the root: fails unless the overlay is writable and can keep `user.*` xattrs.
    ReplaceDirectory(&'static CStr),
    /// Mount a host path below the root.
    Bind { source: CString, recursive: bool, access: Access, target: CString },
    /// Mount an overlay, or what of it is at `subpath`, below the root.
    Overlay { plan: OverlayPlan, subpath: Option<CString>, access: Access, target: CString },
    /// Mount a new file in memory below the root.
    File { file: MemoryFile, target: CString },
    /// Mount a new filesystem below the root.
    Filesystem { filesystem: Filesystem, target: CString },
    /// Mount a new sysfs, or the host's with everything in it.
    Sysfs { access: Access, target: CString },
    /// Hide a path below the root, if it is there.
    Mask(CString),
    /// Make a path below the root read-only, if it is there.
    ReadOnly(CString),
    /// Mount a new tmpfs below the root and take it as `/dev` for the operations that follow.
    Dev { target: CString },
    /// Put a device of the host into `/dev`.
    Device { name: &'static CStr, host: &'static CStr },
    /// Make a directory in `/dev` and mount a new filesystem on it.
    DevFilesystem { name: &'static CStr, filesystem: Filesystem },
    /// Make a directory below the root, if there is nothing of that name.
    MakeDirectory { parent: CString, name: CString },
    /// Make a file below the root, if there is nothing of that name.
    MakeFile { parent: CString, name: CString },
    /// Make a symlink in `/dev`.
    DevLink { name: &'static CStr, to: &'static CStr },
    /// Make the root this process's root directory, and let go of the old one.
    EnterRoot,
}

/// A filesystem to be made by fsopen.
#[derive(Debug)]
pub(crate) struct Filesystem {
    pub(crate) kind: &'static CStr,
    pub(crate) options: Vec<(&'static CStr, CString)>,
    pub(crate) attributes: MountAttrFlags,
}

/// A file to be made in memory.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    pub(crate) content: Secret,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) mode: u32,
}

/// An overlay to be mounted. Paths are relative to `base`: option values are bounded (to 255 bytes by fsconfig, to a
/// page altogether by mount).
#[derive(Debug)]
pub(crate) struct OverlayPlan {
    /// The deepest directory all the others are in.
    pub(crate) base: CString,
    /// Topmost first, as the kernel takes them.
    pub(crate) lower: Vec<CString>,
    pub(crate) upper: CString,
    /// `upper` and `work` as option values, where a backslash escapes.
    pub(crate) upper_option: CString,
    pub(crate) work_option: CString,
    /// The options for mount(2), with and without `volatile`.
    pub(crate) options: CString,
    pub(crate) options_durable: CString,
}

/// The step's first process.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) groups: Vec<Gid>,
    pub(crate) credentials: Credentials,
    pub(crate) cwd: CString,
    pub(crate) umask: u32,
    pub(crate) rlimits: Vec<(Resource, rustix::process::Rlimit)>,
    /// None with [`Confinement::Lifted`](crate::Confinement::Lifted).
    pub(crate) filter: Option<Arc<Filter>>,
    pub(crate) privileges: Privileges,
    /// The most it may have; everything when absent.
    pub(crate) capabilities: Option<CapabilitySet>,
    pub(crate) domain: Option<Domain>,
    pub(crate) root: Root,
    pub(crate) program: Executable,
    /// What it must not execute.
    pub(crate) own_program: Option<OwnProgram>,
}

/// How the root filesystem becomes the one of the step.
#[derive(Debug)]
pub(crate) enum Root {
    /// The monitor has mounted it.
    Mounted,
    /// This directory becomes the first process's root.
    Changed(CString),
    /// Not for the kernel: paths are answered as if this directory were the root.
    Beside {
        path: CString,
        /// What may be executed besides what is in there.
        programs: CString,
    },
}

impl Root {
    /// Returns the directory, where it is one for the kernel outside.
    pub(crate) fn path(&self) -> Option<&CStr> {
        match self {
            Self::Mounted => None,
            Self::Changed(path) | Self::Beside { path, .. } => Some(path),
        }
    }
}

/// Who knows the ids of the step's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// The kernel.
    Real,
    /// An emulation, by a limit among [`Entry::rlimits`]: for the kernel all of them are root.
    Emulated,
}

/// Whether an execve in the step may give privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privileges {
    /// By set-id programs and file capabilities.
    Gained,
    /// Not at all: `no_new_privs`, without which a filter wants CAP_SYS_ADMIN.
    Fixed,
}

/// What the first process becomes.
#[derive(Debug)]
pub(crate) enum Executable {
    /// One of these files, the first that can be executed.
    Files { candidates: Vec<CString>, lookup: Lookup, argv: StringArray, env: StringArray },
    /// Nothing: it exits with code 0. For the probe.
    Nothing,
}

/// Where the candidates came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The program was named by a path.
    Path,
    /// The program was named without a slash; the candidates are in the directories of `PATH`.
    SearchPath,
}
