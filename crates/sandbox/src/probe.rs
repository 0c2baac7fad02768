//! What this host allows, found by trying.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::cancel::Cancel;
use crate::error::RunError;
use crate::ids::IdRanges;
use crate::isolation::Isolation;
use crate::launch::Launcher;
use crate::mounts::{Mount, Rootfs, Spec};
use crate::prepare::{self, Mode, ProcMount, Purpose};
use crate::process::{Exit, Process};
use crate::supervise::supervise;

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
    let launcher = Launcher::new();
    let attempts = Isolation::ALL
        .into_iter()
        .map(|isolation| {
            let found = match &launcher {
                Ok(launcher) => try_isolation(isolation, scratch, launcher),
                Err(error) => Err(no_thread(error)),
            };
            Attempt { isolation, outcome: found.map(drop) }
        })
        .collect();
    Probe { attempts, scratch: scratch.to_owned(), uid: rustix::process::geteuid().as_raw() }
}

/// Tries `isolations` in turn and returns the first that works.
pub(crate) fn choose(
    isolations: &[Isolation],
    scratch: &Path,
) -> Result<(Launcher, Mode, IdRanges), Unavailable> {
    let mut attempts = Vec::new();
    for &isolation in isolations {
        let found = Launcher::new().map_err(|error| no_thread(&error)).and_then(|launcher| {
            let (mode, ids) = try_isolation(isolation, scratch, &launcher)?;
            Ok((launcher, mode, ids))
        });
        match found {
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

/// Tries an isolation with its own `/proc`, then with the host's.
fn try_isolation(
    isolation: Isolation,
    scratch: &Path,
    launcher: &Launcher,
) -> Result<(Mode, IdRanges), Failure> {
    if !isolation.is_implemented() {
        return Err(Failure::NotImplemented);
    }
    let ids = IdRanges::of_this_process().map_err(|error| Failure::Operation {
        operation: "read",
        target: error.to_string(),
        errno: 0,
    })?;
    let fresh = Mode { isolation, proc: ProcMount::Fresh };
    let host = Mode { isolation, proc: ProcMount::Host };
    rehearse(fresh, scratch, launcher, &ids)
        .map(|()| fresh)
        .or_else(|first| match first {
            Failure::Operation { operation: prepare::MOUNT_NEW_PROC, .. } => {
                rehearse(host, scratch, launcher, &ids).map(|()| host)
            }
            other => Err(other),
        })
        .map(|mode| (mode, ids))
}

/// Does everything that a step does up to its execve.
fn rehearse(mode: Mode, scratch: &Path, launcher: &Launcher, ids: &IdRanges) -> Result<(), Failure> {
    let place = Place::new(scratch).map_err(|source| Failure::Operation {
        operation: "write to the scratch directory",
        target: scratch.display().to_string(),
        errno: source.raw_os_error().unwrap_or(0),
    })?;
    let spec = Spec { rootfs: place.rootfs(), mounts: Mount::defaults(), process: Process::new(["/"]) };
    let program = Arc::new(prepare::program(&spec, mode, ids, Purpose::Rehearse)?);
    let running = launcher.start(Arc::clone(&program), mode.isolation, spec.process.network)?;
    running.go((mode.isolation == Isolation::Userns).then_some(ids))?;
    match supervise(running, &program, &mut |_, _| {}, &Cancel::new())? {
        Exit::Code(0) => Ok(()),
        exit => Err(Failure::Operation { operation: "finish", target: format!("{exit:?}"), errno: 0 }),
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
        for directory in ["lower/proc", "lower/sys", "lower/dev", "upper", "work"] {
            fs::create_dir_all(place.0.join(directory))?;
        }
        fs::create_dir(place.0.join("lower").join(prepare::REHEARSAL_DIRECTORY.to_string_lossy().as_ref()))?;
        Ok(place)
    }

    fn rootfs(&self) -> Rootfs {
        let path = |name: &str| self.0.join(name);
        Rootfs::Overlay { lower: vec![path("lower")], upper: path("upper"), work: path("work") }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
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
        if failures().any(Failure::is_upper_refused) {
            return format!(
                "{} cannot hold the upper directory of an overlay (it is probably on a container's own overlay root \
                 filesystem): mount a volume, for example an emptyDir, and point RBUILD_ROOT at a directory on it",
                self.probe.scratch.display()
            );
        }
        if failures().any(|failure| matches!(failure, Failure::Operation { errno: libc::ENOSPC, .. })) {
            return "raise the sysctl user.max_user_namespaces".to_owned();
        }
        if failures().all(|failure| *failure == Failure::NotImplemented) {
            return "choose the isolation namespaces or userns, or none".to_owned();
        }
        if self.probe.uid != 0 {
            return "run as root (securityContext.runAsUser: 0) with securityContext.seccompProfile.type: Unconfined; \
                    RUN as another user (isolation userns-single) is not implemented yet"
                .to_owned();
        }
        let userns = "securityContext.seccompProfile.type: Unconfined on the container (isolation userns)";
        let namespaces = "hostUsers: false on the pod with securityContext.capabilities.add: [SYS_ADMIN], or \
                          securityContext.privileged: true (isolation namespaces)";
        match self.probe.attempts.as_slice() {
            [Attempt { isolation: Isolation::Userns, .. }] => format!("set {userns}"),
            [Attempt { isolation: Isolation::Namespaces, .. }] => format!("set {namespaces}"),
            _ => format!("set {userns}, or {namespaces}"),
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
        check(0, &[("create namespaces", libc::EPERM), none], "seccompProfile.type: Unconfined");
        check(1000, &[("create namespaces", libc::EPERM), none], "userns-single) is not implemented yet");
        check(0, &[("create namespaces", 1), ("mount the root overlay", libc::EINVAL)], "RBUILD_ROOT");
        check(0, &[("create a user namespace", libc::ENOSPC)], "max_user_namespaces");
        check(0, &[none], "choose the isolation");
    }
}
