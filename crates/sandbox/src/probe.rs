//! What this host allows, found by trying.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fd::BorrowedFd;
use rustix::fs::Stat;
use thiserror::Error;

use crate::cancel::Cancel;
use crate::error::RunError;
use crate::ids::IdRanges;
use crate::isolation::Isolation;
use crate::launch::Launcher;
use crate::mounts::{Mount, Rootfs, RootfsForm, Spec};
use crate::owners::{Owners, Recorded};
use crate::prepare::{self, Mode, ProcMount, Purpose};
use crate::process::{Exit, Process, Rlimit};
use crate::step::Setting;
use crate::sys::landlock::Abi;

/// What happened when each isolation was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// One entry per isolation tried, in order of preference.
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
    #[error("cannot {operation}{}{target}: {}", if .target.is_empty() { "" } else { " " }, io::Error::from_raw_os_error(*.errno))]
    Operation {
        /// What was tried, as a verb phrase.
        operation: &'static str,
        /// The path or name it was tried on; may be empty.
        target: String,
        /// The system call's error number; 0 when it was none.
        errno: i32,
    },
}

impl Failure {
    /// Tells whether the scratch directory was refused as an overlay's upper layer.
    fn is_upper_refused(&self) -> bool {
        // EROFS: the upper directory belongs to an id that is not mapped. EIO, EOPNOTSUPP: it cannot keep user.*
        // xattrs.
        const REFUSALS: [i32; 4] = [libc::EINVAL, libc::EROFS, libc::EIO, libc::EOPNOTSUPP];
        matches!(self, Self::Operation { operation, errno, .. }
            if operation.contains("overlay") && REFUSALS.contains(errno))
    }

    /// Tells whether a `/proc` of the step's own was refused.
    fn is_proc_refused(&self) -> bool {
        matches!(self, Self::Operation { operation: prepare::MOUNT_NEW_PROC, .. })
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Operation { operation, target, source } => {
                Self::Operation { operation, target, errno: source.raw_os_error().unwrap_or(0) }
            }
            other => Self::Operation { operation: "finish", target: other.to_string(), errno: 0 },
        }
    }
}

/// Tries every isolation, doing the whole sequence in a child, with an overlay whose upper layer is below `scratch`.
///
/// Takes a few milliseconds for each, and leaves nothing behind. `scratch` must exist.
pub fn probe(scratch: &Path) -> Probe {
    let attempts = Isolation::ALL
        .into_iter()
        .map(|isolation| Attempt { isolation, outcome: try_isolation(isolation, scratch).map(drop) })
        .collect();
    Probe { attempts, scratch: scratch.to_owned(), uid: rustix::process::geteuid().as_raw() }
}

/// Tries `isolations` in turn and returns the first that works.
pub(crate) fn choose(isolations: &[Isolation], scratch: &Path) -> Result<Setting, Unavailable> {
    let mut attempts = Vec::new();
    for &isolation in isolations {
        match try_isolation(isolation, scratch) {
            Ok(found) => return Ok(found),
            Err(failure) => attempts.push(Attempt { isolation, outcome: Err(failure) }),
        }
    }
    let uid = rustix::process::geteuid().as_raw();
    Err(Unavailable { probe: Box::new(Probe { attempts, scratch: scratch.to_owned(), uid }) })
}

fn no_thread(error: &io::Error) -> Failure {
    let errno = error.raw_os_error().unwrap_or(0);
    Failure::Operation { operation: "start a thread", target: String::new(), errno }
}

/// Tries an isolation on an overlay, then on a plain directory where the scratch directory is refused as an upper
/// layer; each with a `/proc` of its own, then with the host's.
fn try_isolation(isolation: Isolation, scratch: &Path) -> Result<Setting, Failure> {
    if !isolation.is_implemented() {
        return Err(Failure::NotImplemented);
    }
    let launcher = Launcher::new().map_err(|error| no_thread(&error))?;
    let ids = match isolation {
        Isolation::UsernsSingle | Isolation::Supervised => IdRanges::single(),
        _ => IdRanges::of_this_process().map_err(|error| Failure::Operation {
            operation: "read",
            target: error.to_string(),
            errno: 0,
        })?,
    };
    let (proc, rootfs) = match isolation {
        isolation if isolation.shares_namespaces() => (ProcMount::Host, RootfsForm::Directory),
        _ => (ProcMount::Fresh, RootfsForm::Overlay),
    };
    if isolation.shares_namespaces() {
        injects_descriptors()?;
    }
    if isolation == Isolation::Supervised && !Abi::of_this_kernel().confines_files() {
        let operation = "confine steps with Landlock (Linux 5.19, enabled by lsm=landlock)";
        return Err(Failure::Operation { operation, target: String::new(), errno: libc::ENOSYS });
    }
    if isolation == Isolation::Supervised && rustix::process::geteuid().is_root() {
        // Root's files have owners of their own, and root has better isolations.
        let (operation, target) = ("do without privileges as", "root".to_owned());
        return Err(Failure::Operation { operation, target, errno: libc::EPERM });
    }
    let mode = Mode { isolation, proc, rootfs };
    let mut setting = Setting { launcher, mode, ids, scratch: scratch.to_owned(), cgroup: None };
    loop {
        let Mode { proc, rootfs, .. } = setting.mode;
        match rehearse(&setting, &[]) {
            Ok(()) => return Ok(setting),
            Err(failure) if failure.is_upper_refused() && rootfs == RootfsForm::Overlay => {
                setting.mode.rootfs = RootfsForm::Directory;
            }
            Err(failure) if failure.is_proc_refused() && proc == ProcMount::Fresh => {
                setting.mode.proc = ProcMount::Host;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Tells whether the kernel gives a process a descriptor in answer to a call: SECCOMP_ADDFD_FLAG_SEND is Linux 5.14.
fn injects_descriptors() -> Result<(), Failure> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) >= (Some(5), Some(14)) {
        return Ok(());
    }
    let operation = "answer system calls with descriptors (Linux 5.14) on Linux";
    Err(Failure::Operation { operation, target: release, errno: libc::ENOSYS })
}

/// Does everything that a step does up to its execve.
pub(crate) fn rehearse(setting: &Setting, limits: &[Rlimit]) -> Result<(), Failure> {
    let scratch = &setting.scratch;
    let place = Place::new(scratch).map_err(|source| Failure::Operation {
        operation: "write to the scratch directory",
        target: scratch.display().to_string(),
        errno: source.raw_os_error().unwrap_or(0),
    })?;
    let process = Process { rlimits: limits.to_vec(), ..Process::new(["/"]) };
    let rootfs = place.rootfs(setting.mode.rootfs);
    let spec = Spec { rootfs, mounts: Mount::defaults(), process, owners: Some(Arc::new(Nobody)) };
    match setting.run(&spec, Purpose::Rehearse, &mut |_, _| {}, &Cancel::new())? {
        Exit::Code(0) => Ok(()),
        exit => Err(Failure::Operation { operation: "finish", target: format!("{exit:?}"), errno: 0 }),
    }
}

/// Keeps no owners: a rehearsal changes none.
#[derive(Debug)]
struct Nobody;

impl Owners for Nobody {
    fn get(&self, _: BorrowedFd<'_>, _: &Stat) -> io::Result<Recorded> {
        Ok(Recorded::default())
    }

    fn set(&self, _: BorrowedFd<'_>, _: &Stat, _: &Recorded) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A small tree to rehearse in; removed when dropped.
struct Place(PathBuf);

impl Place {
    fn new(scratch: &Path) -> io::Result<Self> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let place = Self(scratch.join(format!("probe-{}-{next}", std::process::id())));
        fs::create_dir(&place.0)?;
        for directory in ["lower/proc", "lower/sys", "lower/dev", "upper", "workdir"] {
            fs::create_dir_all(place.0.join(directory))?;
        }
        fs::create_dir(place.0.join("lower").join(prepare::REHEARSAL_DIRECTORY.to_string_lossy().as_ref()))?;
        Ok(place)
    }

    fn rootfs(&self, form: RootfsForm) -> Rootfs {
        let path = |name: &str| self.0.join(name);
        match form {
            RootfsForm::Overlay => {
                Rootfs::Overlay { lower: vec![path("lower")], upper: path("upper"), work: path("workdir") }
            }
            RootfsForm::Directory => Rootfs::Directory(path("lower")),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The kernel makes directories in there that not even their owner may read.
        for directory in ["workdir/work", "workdir/work/incompat", "workdir/work/incompat/volatile"] {
            let _ = fs::set_permissions(self.0.join(directory), fs::Permissions::from_mode(0o700));
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// No isolation that was tried works here. The text says what failed and what would help.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Unavailable {
    /// What was tried.
    pub probe: Box<Probe>,
}

impl Unavailable {
    /// Returns what to change so that an isolation works.
    pub fn remedy(&self) -> String {
        let failures = || self.probe.attempts.iter().filter_map(|attempt| attempt.outcome.as_ref().err());
        if failures().any(|failure| matches!(failure, Failure::Operation { errno: libc::ENOSPC, .. })) {
            return "raise the sysctl user.max_user_namespaces".to_owned();
        }
        let namespaces = "securityContext.privileged: true, or hostUsers: false on the pod with \
                          securityContext.capabilities.add: [SYS_ADMIN] (isolation namespaces)";
        let userns = "securityContext.seccompProfile.type: Unconfined on the container (isolation userns)";
        let single = "securityContext.seccompProfile.type: Unconfined on the container, where the node lets users \
                      make user namespaces (isolation userns-single)";
        let chroot = "securityContext.capabilities.add: [SYS_CHROOT] on the container (isolation chroot)";
        let root =
            "securityContext.runAsUser: 0 on the container, with the default capabilities (isolation chroot)";
        let supervised = "the slowest one (--isolation=supervised)";
        let is_root = self.probe.uid == 0;
        match self.probe.attempts.as_slice() {
            [Attempt { isolation: Isolation::Supervised, .. }] => {
                format!("choose another isolation: set {}", if is_root { chroot } else { single })
            }
            [Attempt { isolation: Isolation::Namespaces, .. }] => format!("set {namespaces}"),
            [Attempt { isolation: Isolation::Userns, .. }] if is_root => format!("set {userns}"),
            [Attempt { isolation: Isolation::UsernsSingle, .. }] => format!("set {single}"),
            [Attempt { isolation: Isolation::Chroot, .. }] if is_root => format!("set {chroot}"),
            [Attempt { isolation: Isolation::Chroot, .. }] => format!("set {root}"),
            _ if is_root => format!("set {chroot}, or {userns}, or {namespaces}"),
            _ => format!("set {single}, or {root}; or change nothing and choose {supervised}"),
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [Attempt { isolation, outcome: Err(failure) }] = self.probe.attempts.as_slice() {
            return write!(f, "isolation {isolation} does not work here: {failure}: {}", self.remedy());
        }
        write!(f, "no isolation for RUN works here (")?;
        let failed = |attempt: &Attempt| Some((attempt.isolation, attempt.outcome.clone().err()?));
        for (index, (isolation, failure)) in self.probe.attempts.iter().filter_map(failed).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{isolation}: {failure}")?;
        }
        write!(f, "): {}", self.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies() {
        let check = |uid: u32, failures: &[(&'static str, i32)], expect: &str| {
            let attempts = failures
                .iter()
                .map(|&(operation, errno)| Attempt {
                    isolation: Isolation::Userns,
                    outcome: Err(match errno {
                        0 => Failure::NotImplemented,
                        errno => Failure::Operation { operation, target: String::new(), errno },
                    }),
                })
                .collect();
            let probe = Box::new(Probe { attempts, scratch: "/store".into(), uid });
            let text = Unavailable { probe }.to_string();
            assert!(text.contains(expect), "{text}");
        };
        let none = ("", 0);
        check(0, &[("create namespaces", libc::EPERM), none], "capabilities.add: [SYS_CHROOT]");
        check(0, &[("create a user namespace", libc::EPERM)], "seccompProfile.type: Unconfined");
        check(1000, &[("create namespaces", libc::EPERM), none], "(isolation userns-single)");
        check(1000, &[("create namespaces", libc::EPERM), none], "securityContext.runAsUser: 0");
        check(0, &[("create a user namespace", libc::ENOSPC)], "max_user_namespaces");
    }
}
