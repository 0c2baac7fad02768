//! Carrying out the operations of a program, in a cloned child: raw system calls only, nothing is allocated.

use std::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use crate::loopback;
use crate::mounts::Access;
use crate::program::{Action, Filesystem, MemoryFile, OverlayPlan};
use crate::sys;

/// Device nodes of an image, a context or a cache are files like others and never opened as devices: a real root has
/// no device cgroup here to keep it from the disks of the host.
const NO_DEVICES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;

const fn attributes(access: Access) -> MountAttrFlags {
    match access {
        Access::ReadOnly => NO_DEVICES.union(MountAttrFlags::MOUNT_ATTR_RDONLY),
        Access::ReadWrite => NO_DEVICES,
    }
}

/// What the operations have built so far.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    root: Option<OwnedFd>,
    dev: Option<OwnedFd>,
}

impl Tree {
    /// Carries out one action.
    pub(crate) fn perform(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::PrivateMounts => {
                rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            }
            Action::Hostname(name) => rustix::system::sethostname(name),
            Action::LoopbackUp => loopback::bring_up(),
            Action::RootOverlay(plan) => self.root_overlay(plan),
            Action::RootDirectory(path) => self.root_directory(path),
            Action::ReplaceDirectory(name) => self.replace_directory(name),
            Action::Bind { source, recursive, access, target } => {
                self.attach(bind(source, *recursive, attributes(*access))?, target)
            }
            Action::Overlay { plan, subpath, access, target } => {
                let mount = overlay(plan)?;
                self.attach(self.part(mount, subpath.as_deref(), attributes(*access))?, target)
            }
            Action::File { file, target } => self.attach(self.memory_file(file)?, target),
            Action::Filesystem { filesystem, target } => self.attach(new_filesystem(filesystem)?, target),
            Action::Sysfs { access, target } => self.attach(sysfs(*access)?, target),
            Action::Mask(path) => self.mask(path),
            Action::ReadOnly(path) => self.read_only(path),
            Action::Dev { target } => self.dev(target),
            Action::Device { name, host } => self.device(name, host),
            Action::DevFilesystem { name, filesystem } => self.dev_filesystem(name, filesystem),
            Action::MakeDirectory { parent, name } => self.make_directory(parent, name),
            Action::MakeFile { parent, name } => self.make_file(parent, name),
            Action::DevLink { name, to } => rustix::fs::symlinkat(*to, self.dev_fd()?, *name),
            Action::EnterRoot => self.enter_root(),
        }
    }

    fn root_fd(&self) -> Result<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    fn dev_fd(&self) -> Result<BorrowedFd<'_>> {
        self.dev.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    /// Mounts the root over its own upper directory: pivot_root wants an attached mount, and that directory is ours.
    fn root_overlay(&mut self, plan: &OverlayPlan) -> Result<()> {
        let mount = overlay(plan)?;
        attach_at(mount.as_fd(), CWD, &plan.upper)?;
        self.root = Some(mount);
        Ok(())
    }

    fn root_directory(&mut self, path: &CStr) -> Result<()> {
        let mount = bind(path, true, NO_DEVICES)?;
        attach_at(mount.as_fd(), CWD, path)?;
        self.root = Some(mount);
        Ok(())
    }

    fn replace_directory(&self, name: &CStr) -> Result<()> {
        let root = self.root_fd()?;
        rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR)?;
        rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755))
    }

    /// Opens a path as a process whose root is the step's would see it: no symlink and no `..` leads outside.
    fn locate(&self, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
        resolve(self.root_fd()?, path, flags)
    }

    /// Opens what is at a path itself; `None` when nothing is.
    fn locate_itself(&self, path: &CStr) -> Result<Option<OwnedFd>> {
        match self.locate(path, OFlags::NOFOLLOW) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn attach(&self, mount: OwnedFd, target: &CStr) -> Result<()> {
        attach_on(mount.as_fd(), self.locate(target, OFlags::empty())?.as_fd())
    }

    /// Takes what is at `path` in a detached mount, with these attributes.
    ///
    /// Before Linux 6.15 a part of a mount can be taken only while that is attached: it is, to the root, for a moment.
    fn part(&self, whole: OwnedFd, path: Option<&CStr>, attributes: MountAttrFlags) -> Result<OwnedFd> {
        let part = match path {
            None => whole,
            Some(path) => {
                attach_on(whole.as_fd(), self.root_fd()?)?;
                let part =
                    resolve(whole.as_fd(), path, OFlags::empty()).and_then(|found| copy_mount(found.as_fd()));
                rustix::process::fchdir(&whole)?;
                rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
                part?
            }
        };
        sys::restrict(part.as_fd(), attributes, false)?;
        Ok(part)
    }

    /// Makes a file in a ramfs of its own, whose pages are never written to a swap device.
    fn memory_file(&self, file: &MemoryFile) -> Result<OwnedFd> {
        let name = c"file";
        let memory = make(c"ramfs", &[], MountAttrFlags::MOUNT_ATTR_NOSUID | NO_DEVICES)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&memory, name, flags, Mode::empty())?;
        let mut rest = file.content.expose();
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, rest))?;
            rest = rest.get(written..).unwrap_or_default();
        }
        rustix::fs::fchown(&fd, Some(file.uid), Some(file.gid))?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(file.mode))?;
        drop(fd);
        let executable = file.mode & 0o111 != 0;
        let inert = if executable { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_NOEXEC };
        self.part(
            memory,
            Some(name),
            inert | attributes(Access::ReadOnly) | MountAttrFlags::MOUNT_ATTR_NOSUID,
        )
    }

    fn mask(&self, path: &CStr) -> Result<()> {
        let Some(target) = self.locate_itself(path)? else { return Ok(()) };
        let stat = rustix::fs::fstat(&target)?;
        let cover = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => make(c"tmpfs", &[], MountAttrFlags::MOUNT_ATTR_RDONLY)?,
            _ => bind(c"/dev/null", false, MountAttrFlags::empty())?,
        };
        attach_on(cover.as_fd(), target.as_fd())
    }

    fn read_only(&self, path: &CStr) -> Result<()> {
        let Some(target) = self.locate_itself(path)? else { return Ok(()) };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let mount = rustix::mount::open_tree(&target, c"", flags)?;
        sys::restrict(mount.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, true)?;
        attach_on(mount.as_fd(), target.as_fd())
    }

    fn dev(&mut self, target: &CStr) -> Result<()> {
        let options = [(c"mode", c"755"), (c"size", c"65536k")];
        let mount = make(c"tmpfs", &options, MountAttrFlags::MOUNT_ATTR_NOSUID)?;
        attach_on(mount.as_fd(), self.locate(target, OFlags::empty())?.as_fd())?;
        self.dev = Some(mount);
        Ok(())
    }

    /// Binds a device: a tmpfs mounted in a user namespace opens none of its own. Read-only, which devices are written
    /// through all the same: its mode and owner are those of the host's.
    fn device(&self, name: &CStr, host: &CStr) -> Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let target = rustix::fs::openat(self.dev_fd()?, name, flags, Mode::from_raw_mode(0o666))?;
        attach_on(bind(host, false, MountAttrFlags::MOUNT_ATTR_RDONLY)?.as_fd(), target.as_fd())
    }

    fn dev_filesystem(&self, name: &CStr, filesystem: &Filesystem) -> Result<()> {
        let dev = self.dev_fd()?;
        rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
        match new_filesystem(filesystem) {
            // A kernel built without POSIX message queues.
            Err(Errno::NODEV) if filesystem.kind == c"mqueue" => Ok(()),
            mount => attach_at(mount?.as_fd(), dev, name),
        }
    }

    fn make_directory(&self, parent: &CStr, name: &CStr) -> Result<()> {
        let parent = self.locate(parent, OFlags::DIRECTORY)?;
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => Ok(()),
            made => made,
        }
    }

    fn make_file(&self, parent: &CStr, name: &CStr) -> Result<()> {
        let parent = self.locate(parent, OFlags::DIRECTORY)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => Ok(()),
            made => made.map(drop),
        }
    }

    /// Leaves the host's tree. Where seccomp refuses pivot_root (Docker's profile lists it for nobody), the root is
    /// moved over "/" instead: above it nothing but itself can be reached, since a walk up ends at the topmost mount
    /// on the namespace's root.
    fn enter_root(&self) -> Result<()> {
        rustix::process::fchdir(self.root_fd()?)?;
        if rustix::process::pivot_root(c".", c".").is_ok() {
            rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
        } else {
            rustix::mount::mount_move(c".", c"/")?;
            rustix::process::chroot(c".")?;
        }
        rustix::process::chdir(c"/")
    }
}

/// Opens a path below `root`, which it cannot leave.
fn resolve(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    // EAGAIN: something was renamed or mounted anywhere while `..` was resolved.
    const ATTEMPTS: usize = 64;
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Copies the mount that a descriptor is in, from there on.
fn copy_mount(from: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(from, c"", flags)
}

fn attach_at(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    rustix::mount::move_mount(mount, c"", directory, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn attach_on(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags)
}

/// Copies the mount a host path is in. Where the kernel does not let go of what is mounted below it (EINVAL: locked by
/// the owner of this user namespace's parent), that comes along.
fn bind(source: &CStr, recursive: bool, attributes: MountAttrFlags) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let with_mounts = flags | OpenTreeFlags::AT_RECURSIVE;
    let (mount, recursive) = if recursive {
        (rustix::mount::open_tree(CWD, source, with_mounts)?, true)
    } else {
        match rustix::mount::open_tree(CWD, source, flags) {
            Err(Errno::INVAL) => (rustix::mount::open_tree(CWD, source, with_mounts)?, true),
            result => (result?, false),
        }
    };
    if !attributes.is_empty() {
        sys::restrict(mount.as_fd(), attributes, recursive)?;
    }
    Ok(mount)
}

/// Starts a filesystem whose source, in `/proc/mounts`, is its own name.
fn open_filesystem(kind: &CStr) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, c"source", kind)?;
    Ok(context)
}

fn new_filesystem(filesystem: &Filesystem) -> Result<OwnedFd> {
    let context = open_filesystem(filesystem.kind)?;
    for (key, value) in &filesystem.options {
        rustix::mount::fsconfig_set_string(&context, *key, value.as_c_str())?;
    }
    finish(context, filesystem.attributes)
}

fn make(kind: &CStr, options: &[(&CStr, &CStr)], attributes: MountAttrFlags) -> Result<OwnedFd> {
    let context = open_filesystem(kind)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&context, *key, *value)?;
    }
    finish(context, attributes)
}

fn finish(context: OwnedFd, attributes: MountAttrFlags) -> Result<OwnedFd> {
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Mounts a sysfs, which only the owner of the network namespace may; else takes the host's.
fn sysfs(access: Access) -> Result<OwnedFd> {
    let writing = match access {
        Access::ReadOnly => MountAttrFlags::MOUNT_ATTR_RDONLY,
        Access::ReadWrite => MountAttrFlags::empty(),
    };
    let attributes =
        writing | MountAttrFlags::MOUNT_ATTR_NOSUID | NO_DEVICES | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    make(c"sysfs", &[], attributes).or_else(|_| bind(c"/sys", true, writing))
}

/// Mounts an overlay, detached. `userxattr` always: without it a directory cannot be replaced in a user namespace, and
/// one on-disk form serves all isolations.
///
/// # References
/// Documentation/filesystems/overlayfs.rst; `lowerdir+` is Linux 6.7
fn overlay(plan: &OverlayPlan) -> Result<OwnedFd> {
    rustix::process::chdir(plan.base.as_c_str())?;
    // Kernels before 6.5 take any option and complain when the filesystem is created.
    match overlay_context(plan).and_then(|context| finish(context, NO_DEVICES)) {
        Ok(mount) => Ok(mount),
        Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => overlay_by_mount(plan),
        Err(errno) => Err(errno),
    }
}

fn overlay_context(plan: &OverlayPlan) -> Result<OwnedFd> {
    let context = open_filesystem(c"overlay")?;
    for lower in &plan.lower {
        rustix::mount::fsconfig_set_string(&context, c"lowerdir+", lower.as_c_str())?;
    }
    rustix::mount::fsconfig_set_string(&context, c"upperdir", plan.upper_option.as_c_str())?;
    rustix::mount::fsconfig_set_string(&context, c"workdir", plan.work_option.as_c_str())?;
    rustix::mount::fsconfig_set_flag(&context, c"userxattr")?;
    // Only speed: a kernel or filesystem without it syncs as ever.
    let _ = rustix::mount::fsconfig_set_flag(&context, c"volatile");
    Ok(context)
}

fn overlay_by_mount(plan: &OverlayPlan) -> Result<OwnedFd> {
    let mount = |options: &CStr| {
        let flags = MountFlags::NODEV;
        rustix::mount::mount(c"overlay", plan.upper.as_c_str(), c"overlay", flags, Some(options))
    };
    mount(&plan.options).or_else(|_| mount(&plan.options_durable))?;
    let detached = bind(&plan.upper, false, NO_DEVICES)?;
    rustix::mount::unmount(plan.upper.as_c_str(), UnmountFlags::DETACH)?;
    Ok(detached)
}
