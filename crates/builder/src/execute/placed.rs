//! Mounts where nothing can be mounted: what a step should see is put into its tree, and taken out after it.
//!
//! Everything changes places with what is at its target, by one rename: the image's own waits in a private directory
//! on the same file system, untouched. Unlike a mount, what is placed can be removed or moved by the step; the image's
//! own comes back all the same. Read-only is not enforced: what the step writes is thrown away.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rbuild_layers::MountPoint;
use rbuild_sandbox::{Mount, MountKind};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::error::StepError;
use super::mounts::{Owner, Planned, mount_error};

/// What is placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Thing {
    /// A file, directory or socket of the builder's that nobody else uses.
    Own(PathBuf),
    /// A directory that goes back to where it is.
    Lent(PathBuf),
    /// A copy of a file.
    CopyOf(PathBuf),
    /// A new directory with this mode.
    Empty(u32),
    /// A file of nothing, of this size and with these attributes; somebody else answers for what is in it.
    Placeholder {
        /// Bytes.
        size: u64,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

impl Thing {
    /// What to place for a mount; nothing for what the sandbox supplies by itself.
    ///
    /// # Errors
    /// It can only be mounted.
    pub(crate) fn of(mount: &Planned) -> io::Result<Option<Self>> {
        Ok(Some(match (&mount.kind, mount.source) {
            (MountKind::Proc | MountKind::Sysfs | MountKind::Dev, _) => return Ok(None),
            // The sandbox has one, whose size nothing limits.
            (MountKind::Tmpfs { .. }, _) if mount.target == Path::new("dev/shm") => return Ok(None),
            (MountKind::Tmpfs { mode, .. }, _) => Self::Empty(*mode),
            (MountKind::File { content, uid, gid, mode }, _) => {
                Self::Placeholder { size: content.expose().len() as u64, mode: *mode, uid: *uid, gid: *gid }
            }
            (MountKind::Bind { source, .. }, Owner::Step) => Self::Own(source.clone()),
            (MountKind::Bind { source, .. }, Owner::Cache) => Self::Lent(source.clone()),
            (MountKind::Bind { source, .. }, Owner::Build) => Self::CopyOf(source.clone()),
            (MountKind::Overlay { .. }, _) => return Err(io::ErrorKind::Unsupported.into()),
        }))
    }
}

/// What stands in a tree; taken out when dropped, if not [before](Self::take_out).
#[derive(Debug)]
pub(crate) struct Placed {
    root: OwnedFd,
    /// Private, on the tree's file system.
    scratch: PathBuf,
    swaps: Vec<Swap>,
}

/// One thing in the place of another.
#[derive(Debug)]
struct Swap {
    directory: PathBuf,
    name: OsString,
    /// Where the image's own waits.
    aside: PathBuf,
    identity: (u64, u64),
    /// Where what was placed goes back to.
    home: Option<PathBuf>,
    /// The times of the directory before, and its modification time after.
    before: Timestamps,
    after: Timespec,
}

impl Placed {
    /// Begins with nothing placed. `scratch` is an empty directory on the file system of `root` that nobody else uses.
    ///
    /// # Errors
    /// The root cannot be opened.
    pub(crate) fn new(root: &Path, scratch: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(root, DIRECTORY, Mode::empty())?;
        Ok(Self { root, scratch: scratch.to_owned(), swaps: Vec::new() })
    }

    /// Puts in everything of a step that is not mounted, in order, and returns the mounts that are left to the sandbox.
    ///
    /// # Errors
    /// As [`Placed::place`]; names the mount.
    pub(crate) fn place_all(&mut self, mounts: &[Planned]) -> Result<Vec<Mount>, StepError> {
        let mut left = Vec::new();
        for mount in mounts {
            let failed = |error| mount_error(&mount.target.to_string_lossy(), error);
            if let Some(thing) = Thing::of(mount).map_err(failed)? {
                self.place(&mount.target, mount.point, &thing).map_err(failed)?;
            }
            if !matches!(mount.kind, MountKind::Bind { .. } | MountKind::Tmpfs { .. }) {
                left.push(Mount::new(mount.target.clone(), mount.kind.clone()));
            }
        }
        Ok(left)
    }

    /// Puts `thing` at `target`, a path without symbolic links. What is missing of it is made: that is within
    /// something that was placed before.
    ///
    /// # Errors
    /// The target is of the wrong type, or a file cannot be made or renamed.
    pub(crate) fn place(&mut self, target: &Path, point: MountPoint, thing: &Thing) -> io::Result<()> {
        let name = target.file_name().ok_or(Errno::INVAL)?.to_owned();
        let directory = target.parent().unwrap_or(Path::new("")).to_owned();
        let parent = make_directories(self.root.as_fd(), &directory)?;
        make_target(parent.as_fd(), &name, point)?;
        let (aside, home) = self.bring(thing)?;
        let identity = identity(&aside)?;
        let before = rustix::fs::fstat(&parent)?;
        if let Err(errno) = rustix::fs::renameat_with(CWD, &aside, &parent, &name, RenameFlags::EXCHANGE) {
            if let Some(home) = &home {
                fs::rename(&aside, home)?;
            }
            return Err(errno.into());
        }
        let after = modified(&rustix::fs::fstat(&parent)?);
        let before = Timestamps {
            last_access: Timespec {
                tv_sec: before.st_atime,
                tv_nsec: before.st_atime_nsec.try_into().unwrap_or(0),
            },
            last_modification: modified(&before),
        };
        self.swaps.push(Swap { directory, name, aside, identity, home, before, after });
        Ok(())
    }

    /// Makes what is placed, and tells where it stands and where it goes back to.
    fn bring(&self, thing: &Thing) -> io::Result<(PathBuf, Option<PathBuf>)> {
        let made = self.scratch.join(self.swaps.len().to_string());
        match thing {
            Thing::Own(path) => return Ok((path.clone(), None)),
            Thing::Lent(path) => {
                // Not exchanged at home: what a killed build leaves there would be taken for the real thing.
                fs::rename(path, &made)?;
                return Ok((made, Some(path.clone())));
            }
            Thing::CopyOf(path) => {
                fs::copy(path, &made)?;
            }
            Thing::Empty(mode) => {
                fs::create_dir(&made)?;
                fs::set_permissions(&made, PermissionsExt::from_mode(*mode))?;
            }
            Thing::Placeholder { size, mode, uid, gid } => {
                fs::File::create(&made)?.set_len(*size)?;
                match std::os::unix::fs::chown(&made, Some(*uid), Some(*gid)) {
                    // The sandbox records it, as all owners, where this process is not root.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !is_root() => {}
                    done => done?,
                }
                fs::set_permissions(&made, PermissionsExt::from_mode(*mode))?;
            }
        }
        Ok((made, None))
    }

    /// Takes everything out, the last first, and gives the directories the times they had, unless the step changed
    /// them. Idempotent.
    ///
    /// # Errors
    /// The first that was met; the rest is taken out all the same.
    pub(crate) fn take_out(&mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        while let Some(swap) = self.swaps.pop() {
            outcome = outcome.and(swap.undo(self.root.as_fd()));
        }
        outcome
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        // The step has failed already, or has not begun.
        let _ = self.take_out();
    }
}

impl Swap {
    fn undo(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        // A step that replaced the directories above has nowhere that the image's own could come back to.
        let Ok(parent) = open_directory(root, &self.directory) else { return Ok(()) };
        let now = modified(&rustix::fs::fstat(&parent)?);
        match rustix::fs::renameat_with(&parent, &self.name, CWD, &self.aside, RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) => rustix::fs::renameat(CWD, &self.aside, &parent, &self.name)?,
            exchanged => {
                exchanged?;
                if let Some(home) = &self.home
                    && identity(&self.aside)? == self.identity
                {
                    fs::rename(&self.aside, home)?;
                }
            }
        }
        let times = match now == self.after {
            true => self.before.clone(),
            false => Timestamps { last_modification: now, ..self.before.clone() },
        };
        Ok(rustix::fs::futimens(&parent, &times)?)
    }
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);

/// Opens a directory that no symbolic link leads to: a step may have put one in the way.
fn open_directory(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), resolve)
}

fn make_directories(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut parent = open_directory(root, Path::new(""))?;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        parent = match open_directory(parent.as_fd(), Path::new(name)) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                open_directory(parent.as_fd(), Path::new(name))?
            }
            opened => opened?,
        };
    }
    Ok(parent)
}

fn make_target(parent: BorrowedFd<'_>, name: &OsStr, point: MountPoint) -> rustix::io::Result<()> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) if point == MountPoint::Directory => {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
        }
        Err(Errno::NOENT) => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o755)).map(drop)
        }
        found => found.map(drop),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

fn modified(stat: &rustix::fs::Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0) }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Lab {
        dir: tempfile::TempDir,
    }

    impl Lab {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for path in ["tree/etc", "tree/data/own", "scratch", "cache", "bind/sub"] {
                fs::create_dir_all(dir.path().join(path)).unwrap();
            }
            for (path, text) in
                [("tree/etc/hosts", "image"), ("cache/c", "cached"), ("bind/f", "bound"), ("h", "ours")]
            {
                fs::write(dir.path().join(path), text).unwrap();
            }
            Self { dir }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.path(path)).unwrap_or_else(|error| error.kind().to_string())
        }

        fn placed(&self) -> Placed {
            let scratch = tempfile::tempdir_in(self.path("scratch")).unwrap().keep();
            Placed::new(&self.path("tree"), &scratch).unwrap()
        }

        /// Names, modes and modification times of the tree.
        fn listing(&self) -> Vec<(PathBuf, u32, i64, i64)> {
            let mut found = Vec::new();
            let mut left = vec![self.path("tree")];
            while let Some(path) = left.pop() {
                let meta = fs::symlink_metadata(&path).unwrap();
                if meta.is_dir() {
                    left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                }
                found.push((path, meta.mode(), meta.mtime(), meta.mtime_nsec()));
            }
            found.sort();
            found
        }
    }

    fn place_all(lab: &Lab) -> Placed {
        let mut placed = lab.placed();
        let mut place = |target: &str, point, thing| placed.place(Path::new(target), point, &thing).unwrap();
        place("data/own", MountPoint::Directory, Thing::Lent(lab.path("cache")));
        place("data", MountPoint::Directory, Thing::Own(lab.path("bind")));
        place("data/sub/new/tmp", MountPoint::Directory, Thing::Empty(0o1777));
        place("etc/hosts", MountPoint::File, Thing::CopyOf(lab.path("h")));
        placed
    }

    #[test]
    fn nothing_is_left() {
        let lab = Lab::new();
        let before = lab.listing();
        let mut placed = place_all(&lab);
        assert_eq!((lab.read("tree/etc/hosts"), lab.read("tree/data/f")), ("ours".into(), "bound".into()));
        assert_eq!(fs::metadata(lab.path("tree/data/sub/new/tmp")).unwrap().mode() & 0o7777, 0o1777);
        assert!(!lab.path("cache").exists(), "it is lent");
        fs::write(lab.path("tree/data/g"), "written").unwrap();
        fs::write(lab.path("tree/etc/hosts"), "written").unwrap();
        placed.take_out().unwrap();
        assert_eq!(lab.listing(), before);
        assert_eq!((lab.read("tree/etc/hosts"), lab.read("cache/c")), ("image".into(), "cached".into()));
        assert_eq!(lab.read("h"), "ours");
    }

    #[test]
    fn a_step_that_fails_leaves_nothing_either() {
        let lab = Lab::new();
        let before = lab.listing();
        let placed = place_all(&lab);
        drop(placed);
        assert_eq!((lab.listing(), lab.read("cache/c")), (before, "cached".into()));
    }

    #[test]
    fn what_the_step_does_beside_stays() {
        let lab = Lab::new();
        let mut placed = lab.placed();
        placed.place(Path::new("etc/hosts"), MountPoint::File, &Thing::CopyOf(lab.path("h"))).unwrap();
        fs::write(lab.path("tree/etc/passwd"), "").unwrap();
        let changed = fs::metadata(lab.path("tree/etc")).unwrap();
        placed.take_out().unwrap();
        let after = fs::metadata(lab.path("tree/etc")).unwrap();
        assert_eq!((after.mtime(), after.mtime_nsec()), (changed.mtime(), changed.mtime_nsec()));
        assert_eq!(lab.read("tree/etc/hosts"), "image");
    }

    #[test]
    fn a_step_cannot_lead_the_way_back_astray() {
        let lab = Lab::new();
        fs::create_dir(lab.path("outside")).unwrap();
        fs::write(lab.path("outside/hosts"), "victim").unwrap();
        let check = |act: &dyn Fn()| {
            let mut placed = lab.placed();
            placed.place(Path::new("etc/hosts"), MountPoint::File, &Thing::CopyOf(lab.path("h"))).unwrap();
            placed
                .place(Path::new("data/own"), MountPoint::Directory, &Thing::Lent(lab.path("cache")))
                .unwrap();
            act();
            placed.take_out().unwrap();
            assert_eq!(lab.read("outside/hosts"), "victim");
        };
        check(&|| fs::remove_file(lab.path("tree/etc/hosts")).unwrap());
        assert_eq!((lab.read("tree/etc/hosts"), lab.read("cache/c")), ("image".into(), "cached".into()));
        check(&|| {
            fs::rename(lab.path("tree/data/own"), lab.path("tree/moved")).unwrap();
            symlink("/", lab.path("tree/data/own")).unwrap();
        });
        assert!(
            lab.path("tree/data/own").is_dir() && !lab.path("cache").exists(),
            "moved is lost, never half"
        );
        fs::create_dir(lab.path("cache")).unwrap();
        check(&|| {
            fs::rename(lab.path("tree/etc"), lab.path("tree/etc2")).unwrap();
            symlink(lab.path("outside"), lab.path("tree/etc")).unwrap();
        });
    }

    #[test]
    fn placeholders_show_everything_but_content() {
        let lab = Lab::new();
        let mut placed = lab.placed();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let thing = Thing::Placeholder { size: 7, mode: 0o440, uid, gid };
        placed.place(Path::new("run/secrets/s"), MountPoint::File, &thing).unwrap();
        let meta = fs::metadata(lab.path("tree/run/secrets/s")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.len(), meta.uid()), (0o440, 7, uid));
        placed.take_out().unwrap();
        assert_eq!(lab.read("tree/run/secrets/s"), "");
    }
}
