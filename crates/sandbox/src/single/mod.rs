//! What a step is told in a user namespace of a single id: `userns-single`.
//!
//! The kernel knows one user in there, whom it calls root. All files belong to it and all processes are it; that some
//! files belong to others and some processes are others is believed by the step only. The calls that would show the
//! difference are answered here:
//!
//! * Who a process is: the identity calls, by [`identity`](crate::identity). A process carries the number of its
//!   identity as its soft RLIMIT_LOCKS, which Linux has not looked at since 2.4.25: it is inherited by fork, kept by
//!   execve, and read and written from outside. Nothing is tracked, so nothing is out of date when a number of a
//!   process is used again.
//! * Who owns a file: chown, the stat family and what creates files, by [`Owners`].
//! * What keeps the owners: their attributes are hidden.
//!
//! Nothing here is a boundary. Whatever the step believes, the kernel lets each of its processes do to each of its
//! files what root may: a permission that the identity lacks is not denied.

mod calls;
pub(crate) mod create;
mod credentials;
mod exec;
pub(crate) mod files;
pub(crate) mod locate;
mod peer;
pub(crate) mod symlink;
pub(crate) mod xattr;

use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::Stat;
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};

pub(crate) use self::locate::{Follow, Viewer};
use crate::identity::{Identity, Table};
use crate::lineage::Lineage;
use crate::mounts::{Mount, MountKind, Spec};
use crate::notify::{Answer, Call, Reply, Target};
use crate::owners::{Owners, Recorded};
use crate::process::User;
use crate::seccomp::Width;
use crate::sys::limit;

pub(crate) use calls::RULES;

/// The resource whose soft limit is the number of a process's identity.
pub(crate) const LIMIT: Resource = Resource::Locks;

/// Returns the limit a step of `user` starts with.
pub(crate) fn first_limit(user: &User) -> Rlimit {
    let (_, number) = Table::starting_as(user);
    Rlimit { current: Some(number), maximum: rustix::process::getrlimit(LIMIT).maximum }
}

/// Makes a hard limit of that resource that no other process has: what a process inherits and, without privileges,
/// cannot raise tells whose step it is of.
pub(crate) fn new_mark() -> u64 {
    const SPARE: u64 = 1 << 62;
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) % SPARE + SPARE
}

/// Answers the calls of one step.
#[derive(Debug)]
pub(crate) struct Single {
    owners: Arc<dyn Owners>,
    /// The owners of what keeps no records and ends in no layer, by device and inode: terminals, pipes, secrets.
    volatile: HashMap<(u64, u64), Recorded>,
    /// What the step has been given in files of others; they are looked up once there is a root.
    placed: Vec<(CString, Recorded)>,
    identities: Table,
    /// The root directory of every process of the step, until one of them calls chroot(2): nothing else that the
    /// filter lets through changes it.
    root: Root,
    /// What the kernel calls the root directory, where it is none for the kernel.
    within: Option<Arc<[u8]>>,
    /// The file that the call means, where somebody else has found it.
    pub(crate) found: Option<OwnedFd>,
    /// The processes of the step, where it sees others too.
    step: Option<Lineage>,
    /// The one user and group there is.
    uid: Uid,
    gid: Gid,
    /// Whether this thread has a umask of its own.
    umask: Umask,
    phase: Phase,
}

/// Whether the step's first process has executed its program. Until then it is ours, and reduces its capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Entering,
    Running,
}

#[derive(Debug)]
enum Root {
    Unknown,
    Shared(Arc<OwnedFd>),
    Differs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Umask {
    OfTheProcess,
    Own,
    /// It can have none: unshare(2) is refused. What is made gets its mode once more.
    Refused,
}

/// What a call gives as its file.
#[derive(Debug)]
pub(crate) enum Named {
    Descriptor(i32),
    Path { directory: i32, path: CString, follow: Follow },
}

/// The process that calls, as it believes to be.
#[derive(Debug)]
struct Caller {
    /// Its RLIMIT_LOCKS.
    limit: Rlimit,
    identity: Arc<Identity>,
}

impl Single {
    /// Makes the answers to a step. `step` are its processes, where it has no PID namespace.
    pub(crate) fn new(owners: Arc<dyn Owners>, spec: &Spec, step: Option<Lineage>) -> Self {
        let (identities, _) = Table::starting_as(&spec.process.user);
        let placed = spec.mounts.iter().filter_map(placed).collect();
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let (umask, phase) = (Umask::OfTheProcess, Phase::Entering);
        Self {
            owners,
            volatile: HashMap::new(),
            placed,
            identities,
            root: Root::Unknown,
            within: None,
            found: None,
            step,
            uid,
            gid,
            umask,
            phase,
        }
    }

    fn caller(&self, call: &Call) -> Result<Caller, Errno> {
        let limit = limit::locks(call.thread)?;
        let identity = self.identities.get(limit.current.unwrap_or(Table::ROOT));
        Ok(Caller { limit, identity })
    }

    /// Makes the caller somebody else.
    fn transform(&mut self, call: &Call, caller: &Caller, identity: Identity) -> Result<(), Errno> {
        let number = self.identities.number(identity)?;
        if caller.limit.current != Some(number) {
            limit::set_locks(call.thread, &caller.limit, number)?;
        }
        Ok(())
    }

    pub(crate) fn viewer<'t>(&mut self, call: &Call, target: &Target<'t>) -> Result<Viewer<'t>, Errno> {
        let thread = thread_of(call);
        let root = match &self.root {
            Root::Shared(root) => Arc::clone(root),
            Root::Differs => Arc::new(locate::root_of(thread, target)?),
            Root::Unknown => {
                let root = Arc::new(locate::root_of(thread, target)?);
                self.root = Root::Shared(Arc::clone(&root));
                self.look_up_placed(&Viewer {
                    thread,
                    root: Arc::clone(&root),
                    step: self.step,
                    within: None,
                    target: Some(*target),
                });
                root
            }
        };
        Ok(Viewer { thread, root, step: self.step, within: self.within.clone(), target: Some(*target) })
    }

    /// Resolves all paths in this directory, whatever the root directory of the step's processes is.
    ///
    /// # Errors
    /// The kernel does not tell where the directory is.
    pub(crate) fn in_root(mut self, root: OwnedFd) -> std::io::Result<Self> {
        let path = rustix::fs::readlink(locate::descriptor_path(root.as_fd()), Vec::new())?;
        self.within = Some(path.to_bytes().into());
        let root = Arc::new(root);
        self.root = Root::Shared(Arc::clone(&root));
        let thread = std::process::id().cast_signed();
        self.look_up_placed(&Viewer { thread, root, step: self.step, within: None, target: None });
        Ok(self)
    }

    /// Opens an absolute path with O_PATH, where all processes have one root directory.
    pub(crate) fn in_shared_root(&self, path: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
        let Root::Shared(root) = &self.root else { return Err(Errno::NOENT) };
        let thread = std::process::id().cast_signed();
        let viewer = Viewer { thread, root: Arc::clone(root), step: self.step, within: None, target: None };
        viewer.locate(libc::AT_FDCWD, path, Follow::Yes)
    }

    fn look_up_placed(&mut self, viewer: &Viewer<'_>) {
        for (path, owner) in std::mem::take(&mut self.placed) {
            let file = viewer.locate(libc::AT_FDCWD, &path, Follow::Yes);
            if let Ok(stat) = file.and_then(rustix::fs::fstat) {
                self.volatile.insert((stat.st_dev, stat.st_ino), owner);
            }
        }
    }

    /// Opens the file a call means, with O_PATH.
    pub(crate) fn open(&mut self, call: &Call, target: &Target<'_>, named: &Named) -> Result<OwnedFd, Errno> {
        if let Some(found) = self.found.take() {
            return Ok(found);
        }
        let viewer = self.viewer(call, target)?;
        match named {
            Named::Descriptor(descriptor) => viewer.descriptor(*descriptor),
            Named::Path { directory, path, follow } => viewer.locate(*directory, path, *follow),
        }
    }

    /// Returns what is recorded of a file. What others own, the kernel shows as nobody's.
    pub(crate) fn recorded(&self, file: BorrowedFd<'_>, stat: &Stat) -> Recorded {
        if stat.st_uid != self.uid.as_raw() {
            return Recorded::default();
        }
        if let Some(recorded) = self.volatile.get(&(stat.st_dev, stat.st_ino)) {
            return *recorded;
        }
        // A record that cannot be read is none: files outside the root filesystem keep none at all.
        self.owners.get(file, stat).unwrap_or_default()
    }

    pub(crate) fn record(&mut self, file: BorrowedFd<'_>, owner: &Recorded) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(file)?;
        let result = self.owners.set(file, &stat, owner);
        match result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)) {
            Err(Errno::NOTSUP) => {
                self.volatile.insert((stat.st_dev, stat.st_ino), *owner);
                Ok(())
            }
            result => result,
        }
    }
}

/// Returns the path and the owner of a file that a mount brings.
fn placed(mount: &Mount) -> Option<(CString, Recorded)> {
    let MountKind::File { uid, gid, .. } = mount.kind else { return None };
    let path = CString::new(Path::new("/").join(&mount.target).into_os_string().into_vec()).ok()?;
    let owner = Recorded { uid, gid, ..Recorded::default() };
    (owner != Recorded::default()).then_some((path, owner))
}

impl Answer for Single {
    fn answer(&mut self, call: &Call, target: &Target<'_>) -> Reply {
        self.reply(call, target).unwrap_or_else(Reply::Errno)
    }
}

impl Single {
    pub(crate) fn reply(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply, Errno> {
        let name = match (call.width, call.name.strip_suffix("32")) {
            (Width::Native, _) => call.name,
            (Width::Narrow, Some(name)) => name,
            // The old calls of 16-bit ids and of other structures see what the kernel has.
            (Width::Narrow, None) if has_two_forms(call.name) => return Ok(Reply::Continue),
            (Width::Narrow, None) => call.name,
        };
        match name {
            "stat" | "lstat" | "fstat" | "newfstatat" | "statx" => self.stat(name, call, target),
            "chown" | "lchown" | "fchown" | "fchownat" => self.chown(name, call, target),
            "open" | "openat" | "openat2" | "creat" => self.create_file(name, call, target),
            "mkdir" | "mkdirat" => self.create_directory(name, call, target),
            "mknod" | "mknodat" => self.create_node(name, call, target),
            "rename" | "renameat" | "renameat2" | "link" | "linkat" | "utimensat" | "utimensat_time64" => {
                self.copy_up(name, call, target)
            }
            "symlink" | "symlinkat" => self.create_symlink(name, call, target),
            "execve" | "execveat" => self.exec(name, call, target),
            "chroot" => {
                self.root = Root::Differs;
                Ok(Reply::Continue)
            }
            "getsockopt" => self.peer(call, target),
            name if name.ends_with("xattr") || name.ends_with("xattrat") => self.xattr(name, call, target),
            name => self.credentials(name, call, target),
        }
    }
}

/// Tells whether a 32-bit call has a younger form with the suffix 32 or 64.
fn has_two_forms(name: &str) -> bool {
    matches!(name, "chown" | "lchown" | "fchown" | "stat" | "lstat" | "fstat")
        || (name != "setrlimit" && name != "getrlimit" && name.ends_with("id"))
        || name.ends_with("groups")
}

impl Named {
    /// Reads what a call of the `*at` form names.
    pub(crate) fn at(target: &Target<'_>, directory: i32, path: u64, flags: u64) -> Result<Self, Errno> {
        const EMPTY_PATH: u64 = libc::AT_EMPTY_PATH as u64;
        let may_be_empty = flags & EMPTY_PATH != 0;
        if may_be_empty && path == 0 {
            return Ok(Self::Descriptor(directory));
        }
        let path = target.read_path(path)?;
        if may_be_empty && path.is_empty() {
            return Ok(Self::Descriptor(directory));
        }
        Ok(Self::Path { directory, path, follow: Follow::unless_nofollow(flags) })
    }

    pub(crate) fn path(target: &Target<'_>, path: u64, follow: Follow) -> Result<Self, Errno> {
        Ok(Self::Path { directory: libc::AT_FDCWD, path: target.read_path(path)?, follow })
    }
}

pub(crate) fn thread_of(call: &Call) -> i32 {
    call.thread.as_raw_nonzero().get()
}
