//! A cgroup of its own for the processes of a step, below one that somebody else made and limits.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Pid;
use thiserror::Error;

use crate::error::RunError;
use crate::probe::{self, Failure};
use crate::sandbox::Sandbox;

/// What the cgroups of steps are called, before the number of the builder's process.
const PREFIX: &str = "rbuild-";

/// How often a cgroup is made that another builder takes for one that was left behind.
const ATTEMPTS: usize = 8;

/// A cgroup that the cgroups of steps are made in.
///
/// # References
/// cgroups(7), version 2
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupParent {
    path: PathBuf,
}

/// Why steps cannot have cgroups below one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// Nobody mounted version 2 here.
    #[error("no cgroup2 filesystem is mounted")]
    NotMounted,
    /// The name leads elsewhere, or is systemd's form.
    #[error("{0:?} is no path below the cgroup2 filesystem")]
    Invalid(PathBuf),
    /// It does not exist, or belongs to somebody else.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A process could not be moved there.
    #[error("no process can run in it: {0}")]
    Rehearsal(Failure),
}

impl CgroupParent {
    /// Finds a cgroup by its path below the mounted cgroup2 filesystem; a leading slash makes no difference.
    ///
    /// # Errors
    /// [`CgroupError`]; it must exist.
    pub fn open(name: &Path) -> Result<Self, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo");
        let mounts = mounts.map_err(|source| io_error("read", Path::new("/proc/self/mountinfo"), source))?;
        Self::below(&mount_point(&mounts).ok_or(CgroupError::NotMounted)?, name)
    }

    fn below(mount_point: &Path, name: &Path) -> Result<Self, CgroupError> {
        let mut path = mount_point.to_owned();
        for component in name.components() {
            match component {
                Component::Normal(name) => path.push(name),
                Component::RootDir | Component::CurDir => {}
                _ => return Err(CgroupError::Invalid(name.to_owned())),
            }
        }
        let procs = path.join("cgroup.procs");
        match fs::metadata(&procs) {
            Ok(_) => Ok(Self { path }),
            Err(source) => Err(io_error("use", &procs, source)),
        }
    }

    /// Makes a cgroup for one step. What builders that died left is removed.
    pub(crate) fn child(&self) -> Result<Cgroup, RunError> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        self.remove_left();
        let mut last = io::ErrorKind::NotFound.into();
        for _ in 0..ATTEMPTS {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = self.path.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match fs::create_dir(&path).and_then(|()| locked(&path)) {
                Ok(Some(lock)) => return Ok(Cgroup { path, _lock: lock }),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.path.exists() => last = error,
                Err(source) => return Err(failed("make the cgroup", &path, source)),
            }
        }
        Err(failed("make a cgroup in", &self.path, last))
    }

    fn remove_left(&self) {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
            if let Ok(Some(_lock)) = locked(&entry.path()) {
                // One with processes in it stays.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// The cgroup of one step; removed when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    /// Tells other builders that somebody uses it.
    _lock: File,
}

impl Cgroup {
    /// Moves a process into it; its children follow when they are made.
    pub(crate) fn take(&self, process: Pid) -> Result<(), RunError> {
        let procs = self.path.join("cgroup.procs");
        let id = process.as_raw_nonzero().to_string();
        fs::write(&procs, id).map_err(|source| failed("move the step into", &procs, source))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

impl Sandbox {
    /// Gives every step a cgroup of its own below `parent`, after trying it once.
    ///
    /// # Errors
    /// [`CgroupError::Rehearsal`]: a process cannot be moved there.
    pub fn in_cgroup(mut self, parent: CgroupParent) -> Result<Self, CgroupError> {
        self.set_cgroup(parent);
        probe::rehearse(self.setting(), &[]).map_err(CgroupError::Rehearsal)?;
        Ok(self)
    }
}

/// Where version 2 is mounted, by the text of mountinfo; proc_pid_mountinfo(5).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let is_cgroup = kind.split(' ').next() == Some("cgroup2");
        is_cgroup.then(|| mount.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

/// Takes the lock of a cgroup; `None` when somebody has it.
fn locked(path: &Path) -> io::Result<Option<File>> {
    let directory = File::open(path)?;
    match directory.try_lock() {
        Ok(()) => Ok(Some(directory)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io { operation, path: path.to_owned(), source }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> RunError {
    RunError::Operation { operation, target: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_where_version_2_is_mounted() {
        let hybrid = "30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      40 30 0:36 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point("31 30 0:27 / /cpu rw - cgroup cgroup2 rw,cpu\n"), None);
    }

    #[test]
    fn names_do_not_lead_out() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/cgroup.procs"), "").unwrap();
        let below = |name: &str| CgroupParent::below(root.path(), Path::new(name));
        let found = CgroupParent { path: root.path().join("a") };
        assert_eq!((below("a").unwrap(), below("/a/").unwrap()), (found.clone(), found));
        assert!(matches!(below("../a"), Err(CgroupError::Invalid(_))));
        assert!(matches!(below("b"), Err(CgroupError::Io { .. })));
    }

    #[test]
    fn what_was_left_is_removed_and_what_is_used_stays() {
        let root = tempfile::tempdir().unwrap();
        let parent = CgroupParent { path: root.path().to_owned() };
        fs::create_dir(root.path().join("rbuild-1-1")).unwrap();
        fs::create_dir(root.path().join("other")).unwrap();
        let one = parent.child().unwrap();
        let other = parent.child().unwrap();
        assert!(one.path.is_dir() && other.path.is_dir() && one.path != other.path);
        assert!(!root.path().join("rbuild-1-1").exists());
        drop((one, other));
        let left: Vec<_> =
            fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["other"]);
    }
}
