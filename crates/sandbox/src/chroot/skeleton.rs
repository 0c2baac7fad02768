//! What takes the place of the image's `/proc`, `/sys` and `/dev` while a step runs.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Timestamps};
use rustix::io::Errno;

use crate::error::RunError;
use crate::mounts::{Mount, MountKind};
use crate::single::locate::as_root;

use super::mirror;

/// The directory that the kernel finds where it follows `/proc/self` by itself.
pub(super) const FALLBACK: &str = ".self";

/// Name, major and minor number.
const DEVICES: [(&str, u32, u32); 7] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("ptmx", 5, 2),
];

const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

const DIRECTORIES: [(&str, u32); 11] = [
    ("", 0o700),
    ("proc", 0o555),
    ("proc/.self", 0o555),
    ("proc/.self/fd", 0o555),
    ("proc/.self/fdinfo", 0o555),
    ("proc/.self/net", 0o555),
    ("proc/.self/task", 0o555),
    ("sys", 0o555),
    ("dev", 0o755),
    ("dev/pts", 0o755),
    ("dev/shm", 0o1777),
];

/// The mounts that a step would have. Some programs refuse to go on without a `/proc`.
const MOUNTS: &str = "overlay / overlay rw,relatime 0 0\n\
                      proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n\
                      sysfs /sys sysfs ro,nosuid,nodev,noexec,relatime 0 0\n";
const MOUNT_TABLE: &str = "1 0 0:1 / / rw,relatime - overlay overlay rw\n\
                           2 1 0:2 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n\
                           3 1 0:3 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro\n";

/// Path, content and mode. What is written to `/dev/stdout` by way of the kernel alone is lost, not refused.
const FILES: [(&str, &str, u32); 13] = [
    ("proc/.self/mounts", MOUNTS, 0o444),
    ("proc/.self/mountinfo", MOUNT_TABLE, 0o444),
    ("proc/.self/cgroup", "0::/\n", 0o444),
    ("proc/.self/cmdline", "", 0o444),
    ("proc/.self/comm", "", 0o644),
    ("proc/.self/environ", "", 0o400),
    ("proc/.self/limits", "", 0o444),
    ("proc/.self/maps", "", 0o444),
    ("proc/.self/stat", "", 0o444),
    ("proc/.self/status", "", 0o444),
    ("proc/.self/fd/0", "", 0o666),
    ("proc/.self/fd/1", "", 0o666),
    ("proc/.self/fd/2", "", 0o666),
];

/// The directory for copies of programs.
const PROGRAMS: &str = "programs";

const LINKS: [(&str, &str); 12] = [
    ("proc/self", FALLBACK),
    ("proc/thread-self", FALLBACK),
    ("proc/mounts", "self/mounts"),
    ("proc/net", "self/net"),
    ("proc/.self/cwd", "/"),
    // Executed by this name, no program is found: it differs from caller to caller.
    ("proc/.self/exe", "(deleted)"),
    ("proc/.self/root", "/"),
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
    ("dev/core", "/proc/kcore"),
];

/// Files of `/proc` of which the skeleton has copies, as they were when the step started: for processes whose memory,
/// and with it the paths they open, cannot be read.
const COPIES: [&str; 7] = ["cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version"];

/// What of the skeleton a step's supervisor works with.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The root directory.
    pub(crate) root: OwnedFd,
    /// The directory that is the step's `/proc`.
    pub(super) proc: OwnedFd,
    /// The directory that is the step's `/dev/pts`.
    pub(super) terminals: OwnedFd,
    /// Whether the nodes in `/dev` can be opened.
    pub(super) devices: Devices,
    /// The directory for copies of programs.
    pub(crate) programs: Option<OwnedFd>,
}

/// What the files in the skeleton's `/dev` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Devices {
    /// Devices.
    Nodes,
    /// Empty files: mknod is refused, or the filesystem opens no devices. Opening them is answered.
    Placeholders,
}

/// A skeleton that is in place. What was there before comes back when it is dropped or [removed](Self::remove).
#[derive(Debug)]
pub(crate) struct Skeleton {
    scratch: PathBuf,
    root: OwnedFd,
    /// The skeleton's `/dev`, wherever the step has moved it.
    dev: Option<OwnedFd>,
    devices: Devices,
    /// What was exchanged, by name in the root and in the scratch directory.
    placed: Vec<&'static str>,
    /// What was moved from the image's `/dev` into the skeleton's.
    carried: Vec<OsString>,
}

impl Skeleton {
    /// Puts a skeleton into a root directory, for those of `mounts` that ask for one. `scratch` is on the root's
    /// filesystem.
    pub(crate) fn place(scratch: &Path, root: &Path, mounts: &[Mount]) -> Result<Self, RunError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("skeleton-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = rustix::fs::open(root, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())
            .map_err(|errno| failed("open the root directory", root, errno.into()))?;
        let mut skeleton = Self {
            scratch: scratch.join(name),
            root: directory,
            dev: None,
            devices: Devices::Nodes,
            placed: Vec::new(),
            carried: Vec::new(),
        };
        skeleton.make().map_err(|error| failed("make /proc and /dev in", scratch, error))?;
        let asked = mounts.iter().filter(|mount| !matches!(mount.kind, MountKind::File { .. }));
        for name in asked.map(asked_for).collect::<Result<Vec<_>, _>>()? {
            let target = root.join(name);
            skeleton.exchange(name).map_err(|errno| failed("put the step's own", &target, errno.into()))?;
        }
        Ok(skeleton)
    }

    /// Makes a directory for copies of programs, which goes with the skeleton, and returns its path.
    pub(crate) fn make_programs(&self) -> Result<PathBuf, RunError> {
        let path = self.scratch.join(PROGRAMS);
        fs::create_dir(&path)
            .map_err(|error| failed("make a directory for programs in", &self.scratch, error))?;
        Ok(path)
    }

    /// Opens what a supervisor needs of it.
    pub(crate) fn parts(&self) -> io::Result<Parts> {
        let open = |path: &str| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            match rustix::fs::openat2(&self.root, path, DIRECTORY, Mode::empty(), resolve) {
                Ok(fd) if self.placed.iter().any(|name| path.starts_with(name)) => Ok(fd),
                // What is not in place is seen by nobody.
                _ => rustix::fs::open(self.scratch.join(path), DIRECTORY, Mode::empty()),
            }
        };
        Ok(Parts {
            root: self.root.try_clone()?,
            proc: open("proc")?,
            terminals: open("dev/pts")?,
            devices: self.devices,
            programs: rustix::fs::open(self.scratch.join(PROGRAMS), DIRECTORY, Mode::empty()).ok(),
        })
    }

    /// Takes the skeleton out, with whatever the step made of it.
    ///
    /// # Errors
    /// What was in its place could not be put back.
    pub(crate) fn remove(mut self) -> Result<(), RunError> {
        let target = self.scratch.clone();
        self.put_back()
            .map_err(|errno| failed("put back the image's /proc and /dev from", &target, errno.into()))
    }

    fn make(&mut self) -> io::Result<()> {
        let directory = |path: &str, mode: u32| {
            let path = self.scratch.join(path);
            fs::create_dir(&path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mirror::open_to_us(mode)))
        };
        for (path, mode) in DIRECTORIES {
            directory(path, mode)?;
        }
        let file = |path: &str, content: &[u8], mode: u32| {
            let path = self.scratch.join(path);
            fs::write(&path, content)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
        };
        for (path, content, mode) in FILES {
            file(path, content.as_bytes(), mode)?;
        }
        for name in COPIES {
            if let Ok(content) = fs::read(Path::new("/proc").join(name)) {
                file(&format!("proc/{name}"), &content, 0o444)?;
            }
        }
        for (path, to) in LINKS {
            symlink(to, self.scratch.join(path))?;
        }
        let dev = rustix::fs::open(self.scratch.join("dev"), DIRECTORY, Mode::empty())?;
        self.devices = make_devices(dev.as_fd())?;
        self.dev = Some(dev);
        Ok(())
    }

    /// Exchanges a directory of the root and the one of the skeleton.
    fn exchange(&mut self, name: &'static str) -> rustix::io::Result<()> {
        let times = Times::of(self.root.as_fd())?;
        let scratch = self.scratch.join(name);
        self.with_open_root(name, || {
            rustix::fs::renameat_with(CWD, &scratch, &self.root, name, RenameFlags::EXCHANGE)
        })?;
        self.placed.push(name);
        times.restore(self.root.as_fd())?;
        if name == "dev" { self.carry_over() } else { Ok(()) }
    }

    /// Moves a directory in or out. Only root may do that where it or the root is closed to writing; another owner opens
    /// them for that moment.
    fn with_open_root(&self, name: &str, act: impl Fn() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
        let moved = [
            self.scratch.join(name),
            Path::new("/proc/self/fd").join(self.root.as_raw_fd().to_string()).join(name),
        ];
        let open = |path: &PathBuf| {
            rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        };
        let [ours, theirs] = moved.each_ref().map(|path| open(path).ok());
        let needed = Mode::WUSR | Mode::XUSR;
        let of = |directory: &Option<OwnedFd>, act: &dyn Fn() -> rustix::io::Result<()>| match directory {
            Some(directory) => as_root(directory.as_fd(), needed, act),
            None => act(),
        };
        as_root(self.root.as_fd(), needed, || of(&ours, &|| of(&theirs, &act)))
    }

    /// Moves what the embedder has placed right below the root's `/dev` into the skeleton's. Devices of the image stay
    /// behind.
    fn carry_over(&mut self) -> rustix::io::Result<()> {
        let Some(dev) = &self.dev else { return Ok(()) };
        let image = rustix::fs::open(self.scratch.join("dev"), DIRECTORY, Mode::empty())?;
        let times = Times::of(image.as_fd())?;
        for entry in Dir::read_from(&image)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_placed = matches!(entry.file_type(), FileType::Directory | FileType::RegularFile);
            if !is_placed || matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::renameat_with(&image, name, dev, name, RenameFlags::NOREPLACE) {
                Ok(()) => self.carried.push(OsStr::from_bytes(name.to_bytes()).to_owned()),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        times.restore(image.as_fd())
    }

    fn put_back(&mut self) -> rustix::io::Result<()> {
        self.carry_back()?;
        while let Some(name) = self.placed.pop() {
            let times = Times::of(self.root.as_fd())?;
            let scratch = self.scratch.join(name);
            self.with_open_root(name, || {
                match rustix::fs::renameat_with(CWD, &scratch, &self.root, name, RenameFlags::EXCHANGE) {
                    // The step has moved or deleted it.
                    Err(Errno::NOENT) => rustix::fs::renameat(CWD, &scratch, &self.root, name),
                    exchanged => exchanged,
                }
            })?;
            times.restore(self.root.as_fd())?;
        }
        let _ = fs::remove_dir_all(&self.scratch);
        Ok(())
    }

    fn carry_back(&mut self) -> rustix::io::Result<()> {
        let Some(dev) = self.dev.as_ref().filter(|_| !self.carried.is_empty()) else { return Ok(()) };
        let image = rustix::fs::open(self.scratch.join("dev"), DIRECTORY, Mode::empty())?;
        let times = Times::of(image.as_fd())?;
        for name in self.carried.drain(..) {
            match rustix::fs::renameat(dev, &name, &image, &name) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        times.restore(image.as_fd())
    }
}

impl Drop for Skeleton {
    fn drop(&mut self) {
        let _ = self.put_back();
    }
}

fn failed(operation: &'static str, target: &Path, source: io::Error) -> RunError {
    RunError::Operation { operation, target: target.display().to_string(), source }
}

/// Returns the directory that a mount asks for.
fn asked_for(mount: &Mount) -> Result<&'static str, RunError> {
    let (name, what) = match mount.kind {
        MountKind::Proc => ("proc", "proc"),
        MountKind::Sysfs => ("sys", "sysfs"),
        MountKind::Dev => ("dev", "devices"),
        _ => ("", "a filesystem"),
    };
    let target = mount.target.strip_prefix("/").unwrap_or(&mount.target);
    if !name.is_empty() && target == Path::new(name) {
        return Ok(name);
    }
    let target = mount.target.display();
    Err(RunError::Invalid(format!("nothing can be mounted in this isolation: {what} on {target}")))
}

/// Makes device nodes, or what stands for them.
fn make_devices(dev: BorrowedFd<'_>) -> rustix::io::Result<Devices> {
    let mode = Mode::from_raw_mode(0o666);
    for (name, major, minor) in DEVICES {
        let device = rustix::fs::makedev(major, minor);
        match rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, device) {
            Ok(()) => rustix::fs::chmodat(dev, name, mode, AtFlags::empty())?,
            Err(Errno::PERM) => return make_placeholders(dev),
            Err(errno) => return Err(errno),
        }
    }
    // A filesystem mounted `nodev` takes nodes, but opens none; nor does a device cgroup that does not list them.
    match rustix::fs::openat(dev, "null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Ok(Devices::Nodes),
        Err(_) => make_placeholders(dev),
    }
}

fn make_placeholders(dev: BorrowedFd<'_>) -> rustix::io::Result<Devices> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    for (name, ..) in DEVICES {
        let _ = rustix::fs::unlinkat(dev, name, AtFlags::empty());
        let file = rustix::fs::openat(dev, name, flags, Mode::empty())?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o666))?;
    }
    Ok(Devices::Placeholders)
}

/// The times of a directory.
struct Times(Timestamps);

impl Times {
    fn of(directory: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let stat = rustix::fs::fstat(directory)?;
        let time = |seconds: i64, nanoseconds: u64| rustix::fs::Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
        };
        Ok(Self(Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        }))
    }

    fn restore(&self, directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
        rustix::fs::futimens(directory, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, SystemTime};

    #[test]
    fn what_was_there_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for name in ["proc", "sys", "dev/pipes", "dev/shm"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("dev/shm/of-the-image"), "").unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for path in ["", "proc", "dev"] {
            fs::File::open(root.join(path)).unwrap().set_modified(old).unwrap();
        }
        let before = fs::metadata(root.join("dev")).unwrap();

        let skeleton = Skeleton::place(dir.path(), &root, &Mount::defaults()).unwrap();
        assert!(root.join("dev/pipes").is_dir() && !root.join("dev/shm/of-the-image").exists());
        assert!(root.join("proc/.self/mounts").is_file());
        fs::write(root.join("proc/new"), "").unwrap();
        fs::write(root.join("dev/pipes/kept"), "").unwrap();
        fs::write(root.join("dev/gone"), "").unwrap();
        skeleton.parts().unwrap();
        skeleton.remove().unwrap();

        let after = fs::metadata(root.join("dev")).unwrap();
        assert_eq!((before.ino(), before.mtime()), (after.ino(), after.mtime()));
        assert_eq!(fs::metadata(&root).unwrap().modified().unwrap(), old);
        assert_eq!(fs::read_dir(root.join("proc")).unwrap().count(), 0);
        let mut names: Vec<_> =
            fs::read_dir(root.join("dev")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["pipes", "shm"]);
        assert!(root.join("dev/pipes/kept").exists() && root.join("dev/shm/of-the-image").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the scratch directory is gone");
    }

    #[test]
    fn a_step_that_moves_the_skeleton_leads_nobody_astray() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        for name in ["proc", "sys", "dev/pipes"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::create_dir_all(outside.join("pipes")).unwrap();
        let skeleton = Skeleton::place(dir.path(), &root, &Mount::defaults()).unwrap();
        fs::rename(root.join("dev"), root.join("moved")).unwrap();
        symlink(&outside, root.join("dev")).unwrap();
        fs::remove_dir_all(root.join("proc")).unwrap();
        skeleton.remove().unwrap();
        assert!(outside.join("pipes").is_dir() && root.join("dev/pipes").is_dir());
        assert!(root.join("proc").is_dir());
    }

    #[test]
    fn other_mounts_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mount in [
            Mount::new("tmp", MountKind::Tmpfs { size: None, mode: 0o755 }),
            Mount::new("elsewhere", MountKind::Proc),
        ] {
            let placed = Skeleton::place(dir.path(), dir.path(), &[mount]);
            assert!(matches!(placed, Err(RunError::Invalid(_))), "{placed:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
