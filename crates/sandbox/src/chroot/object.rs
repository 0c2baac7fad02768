//! The real files behind the names of `/proc`, and which of them a step may have.

use std::ffi::{CStr, CString};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};
use rustix::process::Pid;

use super::mirror;
use super::path::{Own, Place};
use super::skeleton::FALLBACK;
use crate::lineage::Lineage;
use crate::prepare::{MASKED_PROC, READ_ONLY_PROC};
use crate::status::Status;

/// What a step may write of its own processes.
const WRITABLE: [&[u8]; 8] = [
    b"clear_refs",
    b"comm",
    b"coredump_filter",
    b"loginuid",
    b"mem",
    b"oom_adj",
    b"oom_score_adj",
    b"timerslack_ns",
];

/// What nobody needs to open: namespaces, and mapped files, which are no paths.
const CLOSED: [&[u8]; 2] = [b"ns", b"map_files"];

/// Opens `/proc` and `/proc/PID` for lookups only.
const LOOKUP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Who makes a call.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) thread: Pid,
    pub(super) status: Status,
}

impl Caller {
    /// # Errors
    /// ESRCH when it is gone.
    pub(super) fn of(thread: Pid) -> Result<Self> {
        let status = Status::of(thread.as_raw_nonzero().get()).ok_or(Errno::SRCH)?;
        Ok(Self { thread, status })
    }

    /// Does something with the caller's rights on files. Root's are ours.
    pub(super) fn act<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let [.., uid] = self.status.uids;
        let [.., gid] = self.status.gids;
        // Ours are root's too where a single user plays all of them.
        if uid == 0 || uid == rustix::process::geteuid().as_raw() {
            return act();
        }
        crate::sys::identity::with_file_ids(uid, gid, &self.status.groups, act)
    }
}

/// A real file or directory that a name of the step's `/proc` stands for.
#[derive(Debug)]
pub(super) struct Object {
    /// What `path` is relative to.
    pub(super) directory: OwnedFd,
    /// `.` is the directory itself.
    pub(super) path: CString,
    pub(super) link: Link,
    pub(super) rights: Rights,
    /// Where the step's `/proc` has it.
    pub(super) names: Vec<Vec<u8>>,
}

/// Whether the last name is one of the links of `/proc` that are no paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// It is a file or a directory.
    None,
    /// It leads to whatever a process has open.
    Magic,
}

/// What may be done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rights {
    Read,
    /// As the kernel's own permissions say.
    All,
    /// It can be looked at, but not be opened.
    Look,
}

/// Something that a place stands for.
#[derive(Debug)]
pub(super) enum Meaning {
    Object(Object),
    /// A path inside the root: the rest of a path beyond a link to a directory.
    Inside(Vec<u8>),
}

/// The real `/proc`, for a step.
#[derive(Debug)]
pub(super) struct Processes {
    /// The host's `/proc`.
    real: OwnedFd,
    /// The step's.
    pub(super) skeleton: OwnedFd,
    pub(super) lineage: Lineage,
    /// The root directory's path, as the kernel shows it to us.
    pub(super) prefix: Vec<u8>,
    /// Where copies of programs are, if any, at the paths that those have below the root.
    programs: Option<Vec<u8>>,
}

impl Processes {
    pub(super) fn new(
        skeleton: OwnedFd,
        root: BorrowedFd<'_>,
        programs: Option<BorrowedFd<'_>>,
        lineage: Lineage,
    ) -> Result<Self> {
        let real = rustix::fs::open(c"/proc", LOOKUP, Mode::empty())?;
        let programs = programs.map(mirror::path_of).transpose()?;
        Ok(Self { real, skeleton, lineage, prefix: mirror::path_of(root)?, programs })
    }

    /// Finds what a place below `/proc` stands for.
    ///
    /// # Errors
    /// ENOENT when there is no such thing, for this step.
    pub(super) fn find(&self, place: &Place, caller: &Caller) -> Result<Meaning> {
        match place {
            Place::Own(own, names) => {
                let names = self.own(*own, names, caller);
                self.of_process(caller.status.process, &names, caller)
            }
            Place::Process(pid, names) => self.of_process(*pid, names, caller),
            Place::Global(names) => self.global(names).map(Meaning::Object),
            Place::Processes => {
                let (directory, path) = (self.real.try_clone().map_err(|_| Errno::MFILE)?, c".".to_owned());
                let (link, rights) = (Link::None, Rights::Read);
                Ok(Meaning::Object(Object { directory, path, link, rights, names: Vec::new() }))
            }
            Place::Ptmx | Place::Terminal(_) | Place::Device(_) => Err(Errno::NOENT),
        }
    }

    fn own(&self, own: Own, names: &[Vec<u8>], caller: &Caller) -> Vec<Vec<u8>> {
        let before: Vec<Vec<u8>> = match own {
            Own::Process | Own::Descriptors | Own::Stream => Vec::new(),
            Own::Thread => vec![b"task".to_vec(), caller.thread.as_raw_nonzero().to_string().into_bytes()],
            Own::Mounts => vec![b"mounts".to_vec()],
            Own::Net => vec![b"net".to_vec()],
        };
        before.into_iter().chain(names.iter().cloned()).collect()
    }

    fn of_process(&self, pid: i32, names: &[Vec<u8>], caller: &Caller) -> Result<Meaning> {
        // Held before it is looked at: its number may be given away, but not to what the descriptor means.
        let directory = rustix::fs::openat(&self.real, pid.to_string(), LOOKUP, Mode::empty())?;
        if pid != caller.status.process && !self.lineage.contains(pid) {
            return Err(Errno::NOENT);
        }
        let inner = match names {
            [task, _, inner @ ..] if task == b"task" => inner,
            names => names,
        };
        let inner: Vec<&[u8]> = inner.iter().map(Vec::as_slice).collect();
        let magic = match inner.as_slice() {
            [b"fd", _, rest @ ..] | [b"exe" | b"cwd" | b"root", rest @ ..] => Some(rest),
            _ => None,
        };
        let (length, link) = match magic {
            Some(rest) => (names.len() - rest.len(), Link::Magic),
            None => (names.len(), Link::None),
        };
        let path = joined(names.get(..length).unwrap_or_default())?;
        if let (Some(rest), true) =
            (magic, self.programs.is_some() && inner.first() == Some(&b"root".as_slice()))
        {
            // The kernel's is that of the host.
            return Ok(Meaning::Inside([b"/".as_slice(), &rest.join(&b'/')].concat()));
        }
        if let Some(rest @ [_, ..]) = magic {
            let base = caller.act(|| rustix::fs::readlinkat(&directory, &path, Vec::new()))?;
            let base = self.inside(base.to_bytes()).ok_or(Errno::ACCESS)?;
            return Ok(Meaning::Inside([base, b"/", &rest.join(&b'/')].concat()));
        }
        if matches!(inner.as_slice(), [b"mounts" | b"mountinfo" | b"mountstats"]) {
            return self.fixed(inner.first().copied().unwrap_or_default());
        }
        let rights = match inner.first().copied() {
            Some(name) if CLOSED.contains(&name) && inner.len() > 1 => Rights::Look,
            Some(b"mem") if pid != caller.status.process => Rights::Look,
            Some(name) if WRITABLE.contains(&name) => Rights::All,
            _ if link == Link::Magic => Rights::All,
            _ => Rights::Read,
        };
        let names = [pid.to_string().into_bytes()].into_iter().chain(names.iter().cloned()).collect();
        Ok(Meaning::Object(Object { directory, path, link, rights, names }))
    }

    /// What the kernel would say of mounts is of the host's, of which the step has none.
    fn fixed(&self, name: &[u8]) -> Result<Meaning> {
        let name = if name == b"mountinfo" { name } else { b"mounts" };
        let names = [FALLBACK.as_bytes().to_vec(), name.to_vec()];
        let directory = self.skeleton.try_clone().map_err(|_| Errno::MFILE)?;
        let (link, rights) = (Link::None, Rights::Read);
        Ok(Meaning::Object(Object { directory, path: joined(&names)?, link, rights, names: Vec::new() }))
    }

    fn global(&self, names: &[Vec<u8>]) -> Result<Object> {
        let masked = |name: &Vec<u8>| MASKED_PROC.iter().any(|masked| masked.as_bytes() == name);
        let rights = if names.first().is_some_and(masked) { Rights::Look } else { Rights::Read };
        let directory = self.real.try_clone().map_err(|_| Errno::MFILE)?;
        Ok(Object { directory, path: joined(names)?, link: Link::None, rights, names: names.to_vec() })
    }

    /// Returns a path that the kernel shows to us as the step has it; `None` when it is outside of the root.
    pub(super) fn inside<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let below = |prefix: &[u8]| match path.strip_prefix(prefix)? {
            [] => Some(b"/".as_slice()),
            rest @ [b'/', ..] => Some(rest),
            _ => None,
        };
        below(&self.prefix).or_else(|| below(self.programs.as_deref()?))
    }

    /// Returns the text of a link of `/proc` as the step would have it. Pipes, sockets and memory have no path, and
    /// what was given to the step is at the same path for it.
    pub(super) fn translate(&self, text: &CStr) -> Option<CString> {
        let bytes = text.to_bytes();
        let is_given = |path: &[u8]| {
            [b"/dev/".as_slice(), b"/proc/", b"/memfd:"].iter().any(|top| path.starts_with(top))
        };
        match self.inside(bytes) {
            Some(path) => CString::new(path).ok(),
            None if !bytes.starts_with(b"/") || is_given(bytes) => Some(text.to_owned()),
            None => None,
        }
    }

    /// Opens a directory of `/proc`, which is made in the skeleton for that.
    pub(super) fn open_directory(&self, object: &Object, caller: &Caller) -> Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let is_top = object.names.is_empty();
        let mut listing = caller.act(|| {
            let real = rustix::fs::openat2(&object.directory, &object.path, flags, Mode::empty(), plain())?;
            mirror::list(real.as_fd(), |text| self.translate(text))
        })?;
        if is_top {
            listing.retain(|name, _| self.shows(name.to_bytes()));
        }
        let kept = |name: &[u8]| is_top && (name.starts_with(b".") || SYMLINKS.contains(&name));
        let made = mirror::make(self.skeleton.as_fd(), &object.names, &listing, kept)?;
        if let [first, rest @ ..] = object.names.as_slice()
            && *first == caller.status.process.to_string().as_bytes()
        {
            // What lists a directory asks the kernel for the status of what is in it, and by this name maybe.
            let names: Vec<_> =
                [FALLBACK.as_bytes().to_vec()].into_iter().chain(rest.iter().cloned()).collect();
            let kept = |name: &[u8]| matches!(name, b"mounts" | b"mountinfo");
            let _ = mirror::make(self.skeleton.as_fd(), &names, &listing, kept);
        }
        Ok(made)
    }

    fn shows(&self, name: &[u8]) -> bool {
        let text = std::str::from_utf8(name).unwrap_or_default();
        match text.parse() {
            Ok(pid) => self.lineage.contains(pid),
            Err(_) => !MASKED_PROC.contains(&text),
        }
    }

    /// Opens a file of `/proc`.
    pub(super) fn open_file(&self, object: &Object, flags: OFlags, caller: &Caller) -> Result<OwnedFd> {
        if object.rights == Rights::Look {
            return Err(Errno::ACCESS);
        }
        if object.rights == Rights::Read && writes(flags) {
            let top = object.names.first().map(Vec::as_slice).unwrap_or_default();
            let read_only = READ_ONLY_PROC.iter().any(|name| name.as_bytes() == top);
            return Err(if read_only { Errno::ROFS } else { Errno::ACCESS });
        }
        let ours = without_waiting(flags.difference(OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW));
        let resolve = if object.link == Link::Magic { ResolveFlags::empty() } else { plain() };
        let open = || rustix::fs::openat2(&object.directory, &object.path, ours, Mode::empty(), resolve);
        as_asked(caller.act(open)?, flags)
    }

    /// Tells whether an object that is no link is a directory.
    pub(super) fn is_directory(&self, object: &Object) -> Result<bool> {
        let look = OFlags::PATH | OFlags::CLOEXEC;
        let real = rustix::fs::openat2(&object.directory, &object.path, look, Mode::empty(), plain())?;
        Ok(FileType::from_raw_mode(rustix::fs::fstat(&real)?.st_mode) == FileType::Directory)
    }

    /// Tells whether a file is one of the root's.
    pub(super) fn is_inside(&self, file: BorrowedFd<'_>) -> Result<bool> {
        let path = mirror::path_of(file)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
        let is_stored = matches!(kind, FileType::Directory | FileType::RegularFile);
        Ok(is_stored && self.inside(&path).is_some())
    }

    /// Tells whether something may be looked at, or changed, by a step: it is of the root, of `/proc`, or has no path.
    pub(super) fn may_be_looked_at(&self, file: BorrowedFd<'_>) -> Result<bool> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            return Ok(true);
        }
        let path = mirror::path_of(file)?;
        let is_proc = || Ok(rustix::fs::fstatfs(file)?.f_type == rustix::fs::PROC_SUPER_MAGIC);
        if self.inside(&path).is_some() || path.starts_with(b"/memfd:") { Ok(true) } else { is_proc() }
    }

    /// Tells whether something that a link led to may be given to the step: no file or directory outside of the root
    /// (before its first execve, a process's `exe` is the builder's), and no file of the kernel's that it could write
    /// by opening it anew.
    pub(super) fn may_be_given(&self, file: BorrowedFd<'_>, flags: OFlags) -> Result<bool> {
        let path = mirror::path_of(file)?;
        Ok(match FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) {
            FileType::Directory => self.inside(&path).is_some(),
            FileType::RegularFile => {
                let is_proc = rustix::fs::fstatfs(file)?.f_type == rustix::fs::PROC_SUPER_MAGIC;
                self.inside(&path).is_some() || path.starts_with(b"/memfd:") || (is_proc && !writes(flags))
            }
            _ => true,
        })
    }
}

/// What the skeleton has for the symlinks of `/proc`, whose texts differ from process to process.
const SYMLINKS: [&[u8]; 4] = [b"self", b"thread-self", b"mounts", b"net"];

/// Follows no link at all.
const fn plain() -> ResolveFlags {
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS)
}

/// Returns the flags with which a file is opened for a step: nothing here may wait (as an open of a named pipe does)
/// or become our terminal.
pub(super) fn without_waiting(flags: OFlags) -> OFlags {
    let lookup = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    if flags.contains(OFlags::PATH) {
        return flags & lookup | OFlags::CLOEXEC;
    }
    OFlags::from_bits_truncate(flags.bits()) | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK
}

/// Lets what was opened without waiting wait from now on, if it was asked to.
pub(super) fn as_asked(file: OwnedFd, flags: OFlags) -> Result<OwnedFd> {
    if !flags.intersects(OFlags::NONBLOCK | OFlags::PATH) {
        let status = rustix::fs::fcntl_getfl(&file)?.difference(OFlags::NONBLOCK);
        rustix::fs::fcntl_setfl(&file, status)?;
    }
    Ok(file)
}

fn writes(flags: OFlags) -> bool {
    flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC)
}

fn joined(names: &[Vec<u8>]) -> Result<CString> {
    let path = if names.is_empty() { b".".to_vec() } else { names.join(&b'/') };
    CString::new(path).map_err(|_| Errno::INVAL)
}
