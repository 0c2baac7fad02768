//! Answers the calls of a step.

use std::ffi::{CStr, CString};
use std::io;

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Access, AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

use super::memory::MemoryFiles;
use super::object::{Caller, Link, Meaning, Object, Processes, as_asked, without_waiting};
use super::path::{self, Own, Place};
use super::skeleton::{Devices, Parts};
use super::terminal::Terminals;
use crate::capabilities;
use crate::lineage::Lineage;
use crate::mounts::Spec;
use crate::notify::{Answer, Call, Reply, Target};
use crate::seccomp::Width;
use crate::single::Follow;
use crate::sys;

/// Links that are followed to find out whether a path leads below `/proc` or `/dev`.
const MAX_LINKS: usize = 8;

/// The supervisor of a step in a changed root.
#[derive(Debug)]
pub(crate) struct Supervisor {
    root: OwnedFd,
    processes: Processes,
    terminals: Terminals,
    devices: Devices,
    memory: MemoryFiles,
    hostname: String,
}

/// Where the path of a call is among its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathArgument {
    directory: Option<usize>,
    path: usize,
}

pub(crate) const PATH_FIRST: PathArgument = PathArgument { directory: None, path: 0 };
pub(crate) const DIRECTORY_FIRST: PathArgument = PathArgument { directory: Some(0), path: 1 };

/// What a path led to that is not left to the kernel.
#[derive(Debug)]
enum Found {
    Object(Object),
    /// A file inside the root, opened with `O_PATH`, or to be opened by its path.
    Inside(Vec<u8>),
    Ptmx,
    Terminal(u32),
    /// A device whose node cannot be opened in the root.
    Device(CString),
}

impl Supervisor {
    pub(crate) fn new(parts: Parts, lineage: Lineage, spec: &Spec) -> io::Result<Self> {
        let processes = Processes::new(
            parts.proc,
            parts.root.as_fd(),
            parts.programs.as_ref().map(AsFd::as_fd),
            lineage,
        )?;
        Ok(Self {
            processes,
            terminals: Terminals::in_directory(parts.terminals),
            devices: parts.devices,
            memory: MemoryFiles::new(parts.root.as_fd(), &spec.mounts)?,
            hostname: spec.process.hostname.clone(),
            root: parts.root,
        })
    }

    fn decide(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        match call.name {
            "open" => self.open(call, target, PATH_FIRST, How::new(call.int(1), call.int(2))),
            "creat" => {
                let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
                self.open(call, target, PATH_FIRST, How::new(flags, call.int(1)))
            }
            "openat" => self.open(call, target, DIRECTORY_FIRST, How::new(call.int(2), call.int(3))),
            "openat2" => self.open_how(call, target),
            "readlink" => self.read_link(call, target, PATH_FIRST),
            "readlinkat" => self.read_link(call, target, DIRECTORY_FIRST),
            "stat" => self.stat(call, target, PATH_FIRST, 1),
            "newfstatat" => self.stat(call, target, DIRECTORY_FIRST, 2),
            "statx" => self.statx(call, target),
            "access" => self.access(call, target, PATH_FIRST, 1),
            "faccessat" | "faccessat2" => self.access(call, target, DIRECTORY_FIRST, 2),
            "chmod" => self.chmod(call, target, PATH_FIRST, 1),
            "fchmodat" => self.chmod(call, target, DIRECTORY_FIRST, 2),
            "uname" => self.uname(call, target),
            _ => Ok(Reply::Continue),
        }
    }

    /// Reads the path of a call and finds what it names below `/proc` or `/dev`. What cannot be read is the kernel's
    /// to refuse, or of a process that has shut itself off: it has to do with the skeleton.
    fn place(&self, call: &Call, target: &Target<'_>, at: PathArgument, follow: Follow) -> Option<Place> {
        let text = target.read_path(call.word(at.path)).ok()?;
        let text = text.to_bytes();
        if text.starts_with(b"/") {
            return path::place(text).or_else(|| self.through_link(text, follow));
        }
        if text.is_empty() || !path::is_plausible(text) {
            return None;
        }
        path::place(&self.absolute(call, at, text)?)
    }

    /// Puts a relative path behind the directory it starts from.
    fn absolute(&self, call: &Call, at: PathArgument, text: &[u8]) -> Option<Vec<u8>> {
        let thread = call.thread.as_raw_nonzero();
        let base = match at.directory.map(|index| call.int(index)) {
            Some(fd) if fd != libc::AT_FDCWD => format!("/proc/{thread}/fd/{fd}"),
            _ => format!("/proc/{thread}/cwd"),
        };
        let read = || rustix::fs::readlink(base.as_str(), Vec::new());
        // What is another user's is told to that user alone.
        let base = read().or_else(|_| Caller::of(call.thread)?.act(read)).ok()?;
        let base = self.processes.inside(base.to_bytes())?;
        Some([base, b"/", text].concat())
    }

    /// Opens a file in memory, when the path of a call leads to its placeholder.
    fn open_memory(
        &self,
        call: &Call,
        target: &Target<'_>,
        at: PathArgument,
        flags: OFlags,
    ) -> Option<Result<OwnedFd>> {
        let text = target.read_path(call.word(at.path)).ok()?;
        let path = match text.to_bytes() {
            [] => return None,
            absolute @ [b'/', ..] => absolute.to_vec(),
            relative => self.absolute(call, at, relative)?,
        };
        let caller = Caller::of(call.thread).ok()?;
        self.memory.open(self.root.as_fd(), &path, flags, &caller)
    }

    /// Looks whether an absolute path is of a symlink that leads there. (One of its directories may be a symlink that
    /// means something else outside of the root. So what is found is looked up again there.)
    fn through_link(&self, text: &[u8], follow: Follow) -> Option<Place> {
        if follow == Follow::No {
            return None;
        }
        let mut at = text.to_vec();
        for _ in 0..MAX_LINKS {
            let names = path::names(&at);
            let link = CString::new(names.join(&b'/')).ok()?;
            let to = rustix::fs::readlinkat(&self.root, &link, Vec::new()).ok()?;
            at = path::join(&[b"/", link.to_bytes()].concat(), to.to_bytes());
            if let Some(place) = path::place(&at) {
                return self.has_link(&link, &to).then_some(place);
            }
        }
        None
    }

    fn has_link(&self, link: &CStr, text: &CStr) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, link, flags, Mode::empty(), resolve)
            .and_then(|link| rustix::fs::readlinkat(&link, c"", Vec::new()))
            .is_ok_and(|found| found.as_c_str() == text)
    }

    /// Finds what a place stands for; `None` when the skeleton's file serves as well.
    fn find(&self, place: &Place, caller: &Caller) -> Result<Option<Found>> {
        Ok(Some(match place {
            Place::Ptmx => Found::Ptmx,
            Place::Terminal(number) => Found::Terminal(*number),
            Place::Device(name) => match (self.devices, name.as_slice()) {
                (Devices::Placeholders, b"null" | b"zero" | b"full" | b"random" | b"urandom" | b"tty") => {
                    Found::Device(
                        CString::new([b"/dev/", name.as_slice()].concat()).map_err(|_| Errno::INVAL)?,
                    )
                }
                _ => return Ok(None),
            },
            place => match self.processes.find(place, caller)? {
                Meaning::Object(object) => Found::Object(object),
                // Shorter by the link that it led through.
                Meaning::Inside(path) => match path::place(&path) {
                    Some(place) => return self.find(&place, caller),
                    None => Found::Inside(path),
                },
            },
        }))
    }

    fn open_how(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let mut how = [0u8; 24];
        if target.read(call.word(2), &mut how).is_err() {
            return Ok(Reply::Continue);
        }
        let word = |index: usize| {
            let bytes = how.get(index * 8..index * 8 + 8).and_then(|bytes| bytes.try_into().ok());
            u64::from_ne_bytes(bytes.unwrap_or_default())
        };
        let (flags, mode, resolve) = (word(0), word(1), word(2));
        let (Ok(flags), Ok(mode), 0) = (i32::try_from(flags), i32::try_from(mode), resolve) else {
            // Paths that are resolved otherwise are meant to stay in a directory.
            return Ok(Reply::Continue);
        };
        self.open(call, target, DIRECTORY_FIRST, How::new(flags, mode))
    }

    fn open(&mut self, call: &Call, target: &Target<'_>, at: PathArgument, how: How) -> Result<Reply> {
        let flags = how.flags;
        if !self.memory.is_empty()
            && let Some(opened) = self.open_memory(call, target, at, flags)
        {
            let close_on_exec = flags.contains(OFlags::CLOEXEC);
            return Ok(Reply::Descriptor { fd: opened?, close_on_exec });
        }
        let is_link = flags.contains(OFlags::NOFOLLOW) || flags.contains(OFlags::CREATE | OFlags::EXCL);
        let follow = if is_link { Follow::No } else { Follow::Yes };
        let Some(place) = self.place(call, target, at, follow) else { return Ok(Reply::Continue) };
        let caller = Caller::of(call.thread)?;
        let Some(found) = self.find(&place, &caller)? else { return Ok(Reply::Continue) };
        let fd = match found {
            Found::Object(object) if object.link == Link::Magic && flags.contains(OFlags::NOFOLLOW) => {
                return Err(Errno::LOOP);
            }
            Found::Object(object) => self.open_object(&object, flags, &caller)?,
            Found::Inside(path) => self.open_inside(&path, how, &caller)?,
            Found::Ptmx => caller.act(|| self.terminals.make(flags))?,
            Found::Terminal(number) => self.terminals.open(number, flags)?,
            // No process of a step has a controlling terminal.
            Found::Device(path) if path.as_c_str() == c"/dev/tty" => return Err(Errno::NXIO),
            Found::Device(path) => {
                let flags = flags & (OFlags::ACCMODE | OFlags::NONBLOCK) | OFlags::CLOEXEC | OFlags::NOCTTY;
                rustix::fs::open(path, flags, Mode::empty())?
            }
        };
        Ok(Reply::Descriptor { fd, close_on_exec: flags.contains(OFlags::CLOEXEC) })
    }

    fn open_object(&mut self, object: &Object, flags: OFlags, caller: &Caller) -> Result<OwnedFd> {
        if object.link == Link::None {
            if self.processes.is_directory(object)? {
                if flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
                    return Err(Errno::ISDIR);
                }
                return self.processes.open_directory(object, caller);
            }
            if flags.contains(OFlags::DIRECTORY) {
                return Err(Errno::NOTDIR);
            }
            return self.processes.open_file(object, flags, caller);
        }
        let read = || rustix::fs::readlinkat(&object.directory, &object.path, Vec::new());
        let text = caller.act(read)?.into_bytes();
        // What was given to the step is opened anew under the rules by which it was given.
        match path::place(&text) {
            Some(Place::Terminal(number)) => return self.terminals.open(number, flags),
            Some(Place::Ptmx | Place::Device(_)) | None => {}
            Some(place) => {
                let Meaning::Object(object) = self.processes.find(&place, caller)? else {
                    return Err(Errno::ACCESS);
                };
                return self.processes.open_file(&object, flags, caller);
            }
        }
        let file = self.processes.open_file(object, flags, caller)?;
        if self.processes.may_be_given(file.as_fd(), flags)? { Ok(file) } else { Err(Errno::ACCESS) }
    }

    /// Opens a path inside the root for a caller, as the kernel would have.
    fn open_inside(&self, path: &[u8], how: How, caller: &Caller) -> Result<OwnedFd> {
        let How { flags, mode } = how;
        let mode = mode.cast_unsigned() & 0o7777 & !caller.status.umask;
        let mode = if flags.contains(OFlags::CREATE) { mode } else { 0 };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let ours = without_waiting(flags);
        let open = || rustix::fs::openat2(&self.root, path, ours, Mode::from_raw_mode(mode), resolve);
        as_asked(caller.act(open)?, flags)
    }

    fn read_link(&self, call: &Call, target: &Target<'_>, at: PathArgument) -> Result<Reply> {
        let Some(place) = self.place(call, target, at, Follow::No) else { return Ok(Reply::Continue) };
        let caller = Caller::of(call.thread)?;
        let process = caller.status.process;
        let text = match &place {
            Place::Own(Own::Process, names) if names.is_empty() => {
                self.show_process(&place, &caller);
                process.to_string().into_bytes()
            }
            Place::Own(Own::Thread, names) if names.is_empty() => {
                format!("{process}/task/{}", call.thread.as_raw_nonzero()).into_bytes()
            }
            Place::Own(Own::Mounts, names) if names.is_empty() => b"self/mounts".to_vec(),
            Place::Own(Own::Net, names) if names.is_empty() => b"self/net".to_vec(),
            // The symlinks of `/dev` are the skeleton's.
            Place::Own(Own::Stream, _) => return Ok(Reply::Continue),
            Place::Own(Own::Descriptors, names) if names.len() == 1 => return Ok(Reply::Continue),
            place => match self.find(place, &caller)? {
                Some(Found::Object(object)) => self.text_of(&object, &caller)?,
                Some(Found::Inside(path)) if path == b"/" => path,
                Some(Found::Inside(path)) => {
                    let look = How::new(libc::O_PATH | libc::O_NOFOLLOW, 0);
                    let link = self.open_inside(&path, look, &caller)?;
                    rustix::fs::readlinkat(&link, c"", Vec::new())?.into_bytes()
                }
                _ => return Ok(Reply::Continue),
            },
        };
        let (buffer, size) = (call.word(at.path + 1), call.int(at.path + 2));
        let room = usize::try_from(size).ok().filter(|&size| size > 0).ok_or(Errno::INVAL)?;
        let text = text.get(..room).unwrap_or(&text);
        target.write(buffer, text)?;
        Ok(Reply::Value(i64::try_from(text.len()).unwrap_or(0)))
    }

    /// Makes the caller's directory in the skeleton: who resolves `/proc/self/exe` name by name asks the kernel for the
    /// status of what it leads through.
    fn show_process(&self, own: &Place, caller: &Caller) {
        if let Ok(Meaning::Object(object)) = self.processes.find(own, caller) {
            let _ = self.processes.open_directory(&object, caller);
        }
    }

    fn text_of(&self, object: &Object, caller: &Caller) -> Result<Vec<u8>> {
        let read = || rustix::fs::readlinkat(&object.directory, &object.path, Vec::new());
        // EINVAL for what is no link, as it has to be.
        let text = caller.act(read)?;
        self.processes.translate(&text).map(CString::into_bytes).ok_or(Errno::NOENT)
    }

    /// Returns a descriptor and a path below it of which the status is to be asked; `None` when the skeleton's file
    /// serves as well.
    fn subject(&self, place: &Place, caller: &Caller) -> Result<Option<(OwnedFd, CString)>> {
        Ok(match self.find(place, caller)? {
            Some(Found::Object(object)) => Some((object.directory, object.path)),
            Some(Found::Inside(path)) => {
                Some((self.open_inside(&path, How::new(libc::O_PATH, 0), caller)?, c"".to_owned()))
            }
            Some(Found::Terminal(number)) => {
                let terminal = self.terminals.find(number)?;
                Some((terminal.try_clone_to_owned().map_err(|_| Errno::MFILE)?, c"".to_owned()))
            }
            Some(Found::Device(path)) => Some((self.root.try_clone().map_err(|_| Errno::MFILE)?, path)),
            Some(Found::Ptmx) | None => None,
        })
    }

    /// Opens what the path of a call means with O_PATH, if that is below `/proc` or `/dev` and not the skeleton's. No
    /// file outside of the root is found, but what has no path or is of `/proc`.
    pub(crate) fn look(
        &self,
        call: &Call,
        target: &Target<'_>,
        at: PathArgument,
        follow: Follow,
    ) -> Result<Option<OwnedFd>> {
        let Some(place) = self.place(call, target, at, follow) else { return Ok(None) };
        let is_own_link = match &place {
            Place::Own(Own::Stream, _) => true,
            Place::Own(_, names) => names.is_empty(),
            _ => false,
        };
        if follow == Follow::No && is_own_link {
            return Ok(None);
        }
        let caller = Caller::of(call.thread)?;
        let Some((directory, path)) = self.subject(&place, &caller)? else { return Ok(None) };
        if path.is_empty() {
            return Ok(Some(directory));
        }
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, follow == Follow::No);
        let found = rustix::fs::openat(&directory, &path, flags, Mode::empty())?;
        if self.processes.may_be_looked_at(found.as_fd())? { Ok(Some(found)) } else { Err(Errno::ACCESS) }
    }

    /// Returns a path that the kernel shows to us as the step has it.
    pub(crate) fn inside<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        self.processes.inside(path)
    }

    fn stat(&self, call: &Call, target: &Target<'_>, at: PathArgument, buffer: usize) -> Result<Reply> {
        if call.width == Width::Narrow {
            return Ok(Reply::Continue);
        }
        let Some(place) = self.place(call, target, at, Follow::Yes) else { return Ok(Reply::Continue) };
        let caller = Caller::of(call.thread)?;
        let Some((directory, path)) = self.subject(&place, &caller)? else { return Ok(Reply::Continue) };
        let stat = caller.act(|| sys::stat_bytes(directory.as_fd(), &path))?;
        target.write(call.word(buffer), &stat)?;
        Ok(Reply::Value(0))
    }

    fn statx(&self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let at = DIRECTORY_FIRST;
        let Some(place) = self.place(call, target, at, Follow::Yes) else { return Ok(Reply::Continue) };
        let caller = Caller::of(call.thread)?;
        let Some((directory, path)) = self.subject(&place, &caller)? else { return Ok(Reply::Continue) };
        let mask = call.int(3).cast_unsigned();
        let statx = caller.act(|| sys::statx_bytes(directory.as_fd(), &path, mask))?;
        target.write(call.word(4), &statx)?;
        Ok(Reply::Value(0))
    }

    fn access(&self, call: &Call, target: &Target<'_>, at: PathArgument, mode: usize) -> Result<Reply> {
        let Some(place) = self.place(call, target, at, Follow::Yes) else { return Ok(Reply::Continue) };
        let caller = Caller::of(call.thread)?;
        let Some((directory, path)) = self.subject(&place, &caller)? else { return Ok(Reply::Continue) };
        let access = Access::from_bits(call.int(mode).cast_unsigned()).ok_or(Errno::INVAL)?;
        caller.act(|| {
            sys::stat_bytes(directory.as_fd(), &path)?;
            if path.is_empty() {
                return Ok(());
            }
            rustix::fs::accessat(&directory, &path, access, AtFlags::EACCESS)
        })?;
        Ok(Reply::Value(0))
    }

    /// Changes the mode of what a link of `/proc` leads to: that is how the C library sets a mode without following a
    /// symlink, and takes a missing `/proc` for a system that cannot (fchmodat2 is Linux 6.6).
    fn chmod(&mut self, call: &Call, target: &Target<'_>, at: PathArgument, mode: usize) -> Result<Reply> {
        let Some(place) = self.place(call, target, at, Follow::Yes) else { return Ok(Reply::Continue) };
        let caller = Caller::of(call.thread)?;
        let file = match self.find(&place, &caller)? {
            Some(Found::Object(object)) if object.link == Link::Magic => {
                self.open_object(&object, OFlags::PATH, &caller)?
            }
            Some(Found::Inside(path)) => self.open_inside(&path, How::new(libc::O_PATH, 0), &caller)?,
            _ => return Ok(Reply::Continue),
        };
        if !self.processes.is_inside(file.as_fd())? {
            return Ok(Reply::Continue);
        }
        let mode = Mode::from_raw_mode(call.int(mode).cast_unsigned() & 0o7777);
        caller.act(|| rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode))?;
        Ok(Reply::Value(0))
    }

    /// The step has no host name of its own, but sees the one it would have.
    fn uname(&self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        const FIELD: usize = 65;
        if call.width == Width::Narrow {
            return Ok(Reply::Continue);
        }
        let uname = rustix::system::uname();
        let mut names = Vec::with_capacity(6 * FIELD);
        let fields = [
            uname.sysname().to_bytes(),
            self.hostname.as_bytes(),
            uname.release().to_bytes(),
            uname.version().to_bytes(),
            uname.machine().to_bytes(),
            b"(none)",
        ];
        for (index, text) in fields.into_iter().enumerate() {
            names.extend_from_slice(text.get(..FIELD - 1).unwrap_or(text));
            names.resize((index + 1) * FIELD, 0);
        }
        target.write(call.word(0), &names)?;
        Ok(Reply::Value(0))
    }
}

/// How a file is to be opened.
#[derive(Clone, Copy, Debug)]
struct How {
    flags: OFlags,
    mode: i32,
}

impl How {
    const fn new(flags: i32, mode: i32) -> Self {
        Self { flags: OFlags::from_bits_retain(flags.cast_unsigned()), mode }
    }
}

impl Answer for Supervisor {
    fn start(&mut self) {
        // What debugs others, a pod's builder has not, and this thread need not have anywhere.
        let _ = capabilities::reduce(capabilities::DEFAULT);
    }

    fn answer(&mut self, call: &Call, target: &Target<'_>) -> Reply {
        self.decide(call, target).unwrap_or_else(Reply::from)
    }
}
