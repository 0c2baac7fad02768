//! Finding the file that a path of another process means.
//!
//! The kernel resolves a path for us as well as for its owner where nothing depends on who asks: an absolute path from
//! the other's root, a relative one that stays below where it starts. What is left is walked by component here:
//! relative paths that go up or meet an absolute symlink, `/proc/self` (which would be ours), the magic links of
//! `/proc`, and directories closed to their owner, which the root of the step may enter and we may not.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, Result};

use crate::lineage::Lineage;
use crate::notify::Target;
use crate::status::Status;

/// As many symlinks as the kernel follows.
const MOST_LINKS: usize = 40;

const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// The inode of the root of any procfs.
const PROC_ROOT_INODE: u64 = 1;

/// Whether a symlink in the last place is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    Yes,
    No,
}

impl Follow {
    /// Reads AT_SYMLINK_NOFOLLOW.
    pub(crate) const fn unless_nofollow(flags: u64) -> Self {
        if flags & libc::AT_SYMLINK_NOFOLLOW as u64 == 0 { Self::Yes } else { Self::No }
    }
}

/// A thread whose paths are resolved.
#[derive(Clone, Debug)]
pub(crate) struct Viewer<'a> {
    /// As numbered in our own PID namespace.
    pub(crate) thread: i32,
    /// Its root directory.
    pub(crate) root: Arc<OwnedFd>,
    /// The processes of the step, where `/proc` shows others too.
    pub(crate) step: Option<Lineage>,
    /// What the kernel calls the root directory, where a thread could have others open.
    pub(crate) within: Option<Arc<[u8]>>,
    /// Its call, which waits.
    pub(crate) target: Option<Target<'a>>,
}

/// The directory that a name is, or will be, in.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) directory: OwnedFd,
    pub(crate) name: CString,
}

/// Opens the root directory of a thread.
pub(crate) fn root_of(thread: i32, target: &Target<'_>) -> Result<OwnedFd> {
    let root = open_path(CWD, format!("/proc/{thread}/root"))?;
    still(Some(target), root)
}

/// Lets go of what was found under the number of a thread, if its call waits no more: it may have been another's.
fn still(target: Option<&Target<'_>>, found: OwnedFd) -> Result<OwnedFd> {
    if target.is_none_or(Target::is_waiting) { Ok(found) } else { Err(Errno::SRCH) }
}

impl Viewer<'_> {
    /// Opens what a path means, with O_PATH.
    pub(crate) fn locate(&self, directory: i32, path: &CStr, follow: Follow) -> Result<OwnedFd> {
        match self.locate_at_once(directory, path, follow) {
            Err(Errno::NOENT) if !may_be_in_proc(path) => Err(Errno::NOENT),
            Err(Errno::NOENT | Errno::LOOP | Errno::XDEV | Errno::ACCESS | Errno::AGAIN) => {
                self.walk(directory, path, follow)
            }
            result => result,
        }
    }

    /// Opens what a path means by components, also where [`Viewer::locate`] takes a missing file for missing.
    pub(crate) fn walk(&self, directory: i32, path: &CStr, follow: Follow) -> Result<OwnedFd> {
        let mut walk = Walk::new(self, directory, path)?;
        walk.finish(follow)?;
        Ok(walk.current)
    }

    /// Opens what a descriptor of the thread is open on; its working directory for AT_FDCWD.
    pub(crate) fn descriptor(&self, descriptor: i32) -> Result<OwnedFd> {
        let thread = self.thread;
        if descriptor == libc::AT_FDCWD {
            let directory = open_path(CWD, format!("/proc/{thread}/cwd"))?;
            return self.bounded(still(self.target.as_ref(), directory)?);
        }
        let file = open_path(CWD, format!("/proc/{thread}/fd/{descriptor}"));
        let file = file.map_err(|errno| if errno == Errno::NOENT { Errno::BADF } else { errno })?;
        self.bounded(still(self.target.as_ref(), file)?)
    }

    /// Refuses files and directories outside of the root, but for those in memory and those of `/proc`.
    fn bounded(&self, file: OwnedFd) -> Result<OwnedFd> {
        let Some(within) = &self.within else { return Ok(file) };
        let path = rustix::fs::readlink(descriptor_path(file.as_fd()), Vec::new())?.into_bytes();
        let below = path.strip_prefix(&**within).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
        // A pipe, a socket, memory.
        if below || !path.starts_with(b"/") || path.starts_with(b"/memfd:") {
            return Ok(file);
        }
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        let is_stored = matches!(kind, FileType::Directory | FileType::RegularFile | FileType::Symlink);
        if is_stored && proc_place(file.as_fd())? == ProcPlace::Outside {
            return Err(Errno::ACCESS);
        }
        Ok(file)
    }

    /// Opens the directory of a path's last name. `Follow::Yes` goes on where a symlink in the last place leads.
    pub(crate) fn entry(&self, directory: i32, path: &CStr, follow: Follow) -> Result<Entry> {
        let mut path = path.to_owned();
        let mut start = None;
        for _ in 0..MOST_LINKS {
            let (parent, name) = split_last(&path)?;
            let parent = match &start {
                Some(start) => self.locate_from(start, &parent)?,
                None => self.locate(directory, &parent, Follow::Yes)?,
            };
            let target = match follow {
                Follow::Yes => rustix::fs::readlinkat(&parent, &name, Vec::new()).ok(),
                Follow::No => None,
            };
            match target {
                // A magic link: what it leads to exists.
                Some(_) if proc_place(parent.as_fd())? == ProcPlace::Below => return Err(Errno::EXIST),
                Some(target) => (path, start) = (target, Some(parent)),
                None => return Ok(Entry { directory: parent, name }),
            }
        }
        Err(Errno::LOOP)
    }

    fn locate_from(&self, start: &OwnedFd, path: &CStr) -> Result<OwnedFd> {
        let mut walk =
            Walk { viewer: self, current: start.try_clone().map_err(errno_of)?, rest: Vec::new(), links: 0 };
        walk.push(path.to_bytes())?;
        walk.finish(Follow::Yes)?;
        Ok(walk.current)
    }

    /// Lets the kernel resolve the path in one call.
    fn locate_at_once(&self, directory: i32, path: &CStr, follow: Follow) -> Result<OwnedFd> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, follow == Follow::No);
        let open = |from: BorrowedFd<'_>, resolve| {
            rustix::fs::openat2(from, path, flags, Mode::empty(), resolve | ResolveFlags::NO_MAGICLINKS)
        };
        if path.to_bytes().starts_with(b"/") {
            open(self.root.as_fd(), ResolveFlags::IN_ROOT)
        } else {
            open(self.descriptor(directory)?.as_fd(), ResolveFlags::BENEATH)
        }
    }

    /// Returns the name that "self" or "thread-self" in a procfs has for the thread.
    fn own_name(&self, name: &[u8]) -> Option<Vec<u8>> {
        let status = Status::of(self.thread)?;
        match name {
            b"self" => Some(status.inner_process.to_string().into_bytes()),
            _ => Some(format!("{}/task/{}", status.inner_process, status.inner_thread).into_bytes()),
        }
    }
}

/// A path on its way.
struct Walk<'a> {
    viewer: &'a Viewer<'a>,
    current: OwnedFd,
    /// Components still to go, the next one last.
    rest: Vec<Vec<u8>>,
    links: usize,
}

impl<'a> Walk<'a> {
    fn new(viewer: &'a Viewer<'a>, directory: i32, path: &CStr) -> Result<Self> {
        let bytes = path.to_bytes();
        if bytes.is_empty() {
            return Err(Errno::NOENT);
        }
        let current = match bytes.starts_with(b"/") {
            true => viewer.root.try_clone().map_err(errno_of)?,
            false => viewer.descriptor(directory)?,
        };
        let mut walk = Self { viewer, current, rest: Vec::new(), links: 0 };
        walk.push(bytes)?;
        Ok(walk)
    }

    /// Puts a path before what is left; an absolute one starts over.
    fn push(&mut self, path: &[u8]) -> Result<()> {
        if path.starts_with(b"/") {
            self.current = self.viewer.root.try_clone().map_err(errno_of)?;
        }
        // "a/" is "a/.": it follows a symlink and wants a directory.
        let path = if path.ends_with(b"/") { [path, b"."].concat() } else { path.to_vec() };
        let components = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        self.rest.extend(components.rev().map(<[u8]>::to_vec));
        Ok(())
    }

    fn finish(&mut self, follow: Follow) -> Result<()> {
        while let Some(name) = self.rest.pop() {
            let follow = if self.rest.is_empty() { follow } else { Follow::Yes };
            match name.as_slice() {
                b"." => self.enter(c".")?,
                b".." if self.is_at_root()? => {}
                b".." => self.enter(c"..")?,
                _ => self.step(name, follow)?,
            }
        }
        Ok(())
    }

    fn is_at_root(&self) -> Result<bool> {
        Ok(same(&rustix::fs::fstat(&self.current)?, &rustix::fs::fstat(&self.viewer.root)?))
    }

    fn enter(&mut self, name: &CStr) -> Result<()> {
        self.current = open_in(self.current.as_fd(), name, OFlags::DIRECTORY)?;
        Ok(())
    }

    fn step(&mut self, name: Vec<u8>, follow: Follow) -> Result<()> {
        let in_proc = proc_place(self.current.as_fd())?;
        if in_proc == ProcPlace::Root
            && follow == Follow::Yes
            && matches!(name.as_slice(), b"self" | b"thread-self")
        {
            let own = self.viewer.own_name(&name).ok_or(Errno::NOENT)?;
            return self.push(&own);
        }
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let next = open_in(self.current.as_fd(), &name, OFlags::NOFOLLOW)?;
        let stat = rustix::fs::fstat(&next)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink || follow == Follow::No {
            self.current = next;
            return Ok(());
        }
        self.links = self.links.saturating_add(1);
        if self.links > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        if in_proc == ProcPlace::Below {
            // A magic link leads to a file, not to a name: only the kernel can follow it. It asks whether we may look
            // into the process, and into the builder we may.
            if !self.is_of_step()? {
                return Err(Errno::ACCESS);
            }
            self.current = open_in(self.current.as_fd(), &name, OFlags::empty())?;
            return Ok(());
        }
        let target = rustix::fs::readlinkat(&next, c"", Vec::new())?;
        self.push(target.as_bytes())
    }
}

impl Walk<'_> {
    /// Tells whether the directory below a procfs is of a process of the step. The descriptor is of that process for
    /// ever, whoever gets its number.
    fn is_of_step(&self) -> Result<bool> {
        let Some(step) = self.viewer.step else { return Ok(true) };
        let status = [c"status", c"../status"].into_iter().find_map(|path| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            rustix::fs::openat2(&self.current, path, flags, Mode::empty(), resolve).ok()
        });
        let mut text = Vec::new();
        File::from(status.ok_or(Errno::ACCESS)?).read_to_end(&mut text).map_err(errno_of)?;
        Ok(Status::parse(&text).is_some_and(|status| step.contains(status.process)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProcPlace {
    Outside,
    Root,
    Below,
}

fn proc_place(directory: BorrowedFd<'_>) -> Result<ProcPlace> {
    let kind = rustix::fs::fstatfs(directory)?.f_type;
    if u64::try_from(kind) != Ok(PROC_SUPER_MAGIC) {
        return Ok(ProcPlace::Outside);
    }
    let is_root = rustix::fs::fstat(directory)?.st_ino == PROC_ROOT_INODE;
    Ok(if is_root { ProcPlace::Root } else { ProcPlace::Below })
}

/// Tells whether a path may lead to something that differs by who looks. A symlink elsewhere that leads there is not
/// seen: what cannot be found is then left to the kernel to find.
fn may_be_in_proc(path: &CStr) -> bool {
    let path = path.to_bytes();
    path.starts_with(b"/proc/") || path.starts_with(b"/dev/")
}

/// Tells whether two descriptors are open on one file.
pub(crate) const fn same(one: &Stat, other: &Stat) -> bool {
    one.st_dev == other.st_dev && one.st_ino == other.st_ino
}

fn split_last(path: &CStr) -> Result<(CString, CString)> {
    let bytes = path.to_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last.saturating_add(1));
    let (trimmed, _) = bytes.split_at_checked(end).ok_or(Errno::INVAL)?;
    let start = trimmed.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash.saturating_add(1));
    let (parent, name) = trimmed.split_at_checked(start).ok_or(Errno::INVAL)?;
    match (parent, name) {
        (_, b"") => Err(if bytes.is_empty() { Errno::NOENT } else { Errno::EXIST }),
        (_, b"." | b"..") => Err(Errno::EXIST),
        ([], name) => Ok((c".".to_owned(), c_string(name)?)),
        (parent, name) => Ok((c_string(parent)?, c_string(name)?)),
    }
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

fn open_path(directory: BorrowedFd<'_>, path: impl rustix::path::Arg) -> Result<OwnedFd> {
    rustix::fs::openat(directory, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a name in a directory, also in one closed to its owner.
fn open_in(directory: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | flags;
    as_root(directory, Mode::XUSR, || rustix::fs::openat(directory, name, flags, Mode::empty()))
}

/// Does something in a directory that may be closed to its owner, which the root of the step is not kept from: where
/// it is refused, the directory is opened for that moment. Its change time moves.
pub(crate) fn as_root<T>(directory: BorrowedFd<'_>, needed: Mode, act: impl Fn() -> Result<T>) -> Result<T> {
    match act() {
        Err(Errno::ACCESS) => {}
        result => return result,
    }
    let before = Mode::from_raw_mode(rustix::fs::fstat(directory)?.st_mode);
    if before.contains(needed) {
        return Err(Errno::ACCESS);
    }
    let path = descriptor_path(directory);
    rustix::fs::chmod(&path, before | needed)?;
    let result = act();
    rustix::fs::chmod(&path, before)?;
    result
}

/// Returns a path of ours to what a descriptor opened with O_PATH is open on.
pub(crate) fn descriptor_path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn errno_of(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn lab() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("a/b")).unwrap();
        fs::write(path("a/b/file"), "").unwrap();
        fs::write(path("top"), "").unwrap();
        symlink("/a/b", path("absolute")).unwrap();
        symlink("../top", path("a/up")).unwrap();
        symlink("../../../../top", path("a/b/far-up")).unwrap();
        symlink("loop", path("loop")).unwrap();
        symlink("missing", path("a/dangling")).unwrap();
        symlink("/a/dangling", path("far")).unwrap();
        dir
    }

    fn viewer(root: &Arc<OwnedFd>) -> Viewer<'static> {
        Viewer {
            thread: std::process::id().cast_signed(),
            root: Arc::clone(root),
            step: None,
            within: None,
            target: None,
        }
    }

    fn open(path: &Path) -> Arc<OwnedFd> {
        Arc::new(open_path(CWD, path).unwrap())
    }

    #[test]
    fn paths() {
        let dir = lab();
        let root = open(dir.path());
        let start = open(&dir.path().join("a"));
        let check = |path: &str, follow, expect: std::result::Result<&str, Errno>| {
            let path = CString::new(path).unwrap();
            let found = viewer(&root).locate(start.as_raw_fd(), &path, follow);
            let walked = viewer(&root).walk(start.as_raw_fd(), &path, follow);
            let inode = |fd: OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
            let expect = expect.map(|name| rustix::fs::lstat(dir.path().join(name)).unwrap().st_ino);
            assert_eq!(found.map(inode), expect, "{path:?} {follow:?}");
            assert_eq!(walked.map(inode), expect, "{path:?} {follow:?} walked");
        };
        for (path, expect) in [
            ("/a/b/file", Ok("a/b/file")),
            ("/", Ok("")),
            ("/../..//a/./b", Ok("a/b")),
            ("/absolute/file", Ok("a/b/file")),
            ("b/file", Ok("a/b/file")),
            (".", Ok("a")),
            ("..", Ok("")),
            ("../../..", Ok("")),
            ("../absolute/file", Ok("a/b/file")),
            ("up", Ok("top")),
            ("b/far-up", Ok("top")),
            ("b/", Ok("a/b")),
            ("b/file/", Err(Errno::NOTDIR)),
            ("b/file/x", Err(Errno::NOTDIR)),
            ("../loop", Err(Errno::LOOP)),
            ("dangling", Err(Errno::NOENT)),
            ("/missing", Err(Errno::NOENT)),
        ] {
            check(path, Follow::Yes, expect);
        }
        for (path, expect) in
            [("/absolute", "absolute"), ("up", "a/up"), ("../absolute/", "a/b"), ("../loop", "loop")]
        {
            check(path, Follow::No, Ok(expect));
        }
    }

    #[test]
    fn entries() {
        let dir = lab();
        let root = open(dir.path());
        let check = |path: &str, follow, expect: std::result::Result<(&str, &str), Errno>| {
            let path = CString::new(path).unwrap();
            let found = viewer(&root).entry(root.as_raw_fd(), &path, follow);
            let found = found.map(|entry| (rustix::fs::fstat(entry.directory).unwrap().st_ino, entry.name));
            let expect = expect.map(|(directory, name)| {
                let inode = rustix::fs::lstat(dir.path().join(directory)).unwrap().st_ino;
                (inode, CString::new(name).unwrap())
            });
            assert_eq!(found, expect, "{path:?} {follow:?}");
        };
        check("new", Follow::Yes, Ok(("", "new")));
        check("/a/new", Follow::Yes, Ok(("a", "new")));
        check("a/b/../new//", Follow::Yes, Ok(("a", "new")));
        check("a/dangling", Follow::Yes, Ok(("a", "missing")));
        check("far", Follow::Yes, Ok(("a", "missing")));
        check("far", Follow::No, Ok(("", "far")));
        check("missing/new", Follow::Yes, Err(Errno::NOENT));
        check("loop", Follow::Yes, Err(Errno::LOOP));
        check("/", Follow::Yes, Err(Errno::EXIST));
        check("a/..", Follow::Yes, Err(Errno::EXIST));
        check("", Follow::Yes, Err(Errno::NOENT));
    }

    #[test]
    fn proc_shows_the_other_and_not_us() {
        let mut other = std::process::Command::new("sleep")
            .arg("100")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let root = open(Path::new("/"));
        let viewer =
            Viewer { thread: other.id().cast_signed(), root, step: None, within: None, target: None };
        let stat = |path: &CStr| {
            rustix::fs::fstat(viewer.locate(libc::AT_FDCWD, path, Follow::Yes).unwrap()).unwrap()
        };
        let exe = rustix::fs::stat(format!("/proc/{}/exe", other.id())).unwrap();
        assert!(same(&stat(c"/proc/self/exe"), &exe));
        assert!(same(&stat(c"/proc/thread-self/exe"), &exe));
        let stdin = rustix::fs::fstat(other.stdin.as_ref().unwrap()).unwrap();
        assert!(same(&stat(c"/dev/stdin"), &stdin));
        assert!(same(&stat(c"/proc/self/fd/0"), &stdin));
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn closed_directories_are_entered_by_their_owner() {
        let dir = lab();
        let closed = dir.path().join("a/b");
        let root = open(dir.path());
        fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();
        let found = viewer(&root).locate(libc::AT_FDCWD, c"/a/b/file", Follow::Yes);
        assert!(found.is_ok(), "{found:?}");
        let mode = fs::metadata(&closed).unwrap().permissions().mode() & 0o7777;
        fs::set_permissions(&closed, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(mode, 0);
    }
}
