//! No namespaces, no changed root, no privileges: every call that takes a path is answered.
//!
//! For the kernel the processes of a step are ordinary ones of the builder's user, whose root directory is the
//! builder's. What they name is resolved here, inside the step's root directory, and acted on or opened for them.
//!
//! * `/proc` and `/dev` are those of [`chroot`](crate::chroot), identities and owners those of
//!   [`single`](crate::single); both see the calls first. What they leave to the kernel elsewhere is done in [`files`]
//!   and [`names`].
//! * What only the caller itself can do (execute, change its working directory, connect a socket) it is made to do:
//!   its thread is stopped by ptrace for a moment and makes the call we choose ([`drive`]).
//! * A program whose interpreter the kernel would look for outside of the root is executed from a copy that names the
//!   right one ([`programs`]).
//! * A Landlock domain lets the step execute what is below the root, and open nothing by itself.

mod drive;
mod elf;
mod exec;
mod files;
mod names;
mod programs;
mod rules;
mod socket;

use std::ffi::CString;

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use crate::chroot::{DIRECTORY_FIRST, PATH_FIRST, PathArgument, Supervisor};
use crate::notify::{Answer, Call, Reply, Target};
use crate::seccomp::Width;
use crate::single::{self, Follow, Named, Single, thread_of};

use self::files::Openings;
use self::programs::Programs;

pub(crate) use rules::RULES;

/// Answers the calls of one step.
#[derive(Debug)]
pub(crate) struct Supervised {
    proc: Supervisor,
    single: Single,
    programs: Programs,
    openings: Openings,
    /// What tells our memory in a process from its own.
    seal: [u8; 16],
}

impl Supervised {
    /// Makes the answers to a step from those of the isolations that have a part in it. `programs` is an empty directory.
    pub(crate) fn new(proc: Supervisor, single: Single, programs: OwnedFd) -> Self {
        Self {
            proc,
            single,
            programs: Programs::in_directory(programs),
            openings: Openings::default(),
            seal: drive::seal(),
        }
    }

    fn decide(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        if call.width == Width::Narrow {
            return Err(Errno::NOSYS);
        }
        match call.name {
            "stat" | "lstat" | "fstat" | "newfstatat" | "statx" => return self.stat(call, target),
            "getcwd" => return self.working_directory(call, target),
            "chdir" => return self.change_directory(call, target),
            "bind" | "connect" | "sendto" | "getsockname" => return self.socket(call, target),
            "open" | "creat" | "openat" | "readlink" | "readlinkat" | "chmod" | "fchmodat" | "uname" => {
                match self.proc.answer(call, target) {
                    Reply::Continue => {}
                    Reply::Descriptor { fd, close_on_exec } => {
                        let fd = self.original(fd)?;
                        return Ok(Reply::Descriptor { fd, close_on_exec });
                    }
                    reply => return Ok(reply),
                }
            }
            _ => {}
        }
        if !single::RULES.calls.iter().any(|(name, _)| *name == call.name) {
            return self.perform(call, target);
        }
        self.single.found = match call.name {
            "chown" | "getxattr" | "setxattr" | "listxattr" | "removexattr" => {
                self.proc.look(call, target, PATH_FIRST, Follow::Yes)?
            }
            "fchownat" if Follow::unless_nofollow(call.word(4)) == Follow::Yes => {
                self.proc.look(call, target, DIRECTORY_FIRST, Follow::Yes)?
            }
            _ => None,
        };
        let reply = self.single.reply(call, target);
        self.single.found = None;
        match reply? {
            Reply::Continue => self.perform(call, target),
            reply => Ok(reply),
        }
    }

    /// Does what is the kernel's to do elsewhere.
    fn perform(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        match call.name {
            "open" | "creat" | "openat" => self.open(call, target),
            "readlink" | "readlinkat" => self.read_link(call, target),
            "access" | "faccessat" | "faccessat2" => self.access(call, target),
            "chmod" | "fchmodat" | "fchmodat2" => self.chmod(call, target),
            "truncate" => self.truncate(call, target),
            "statfs" => self.statfs(call, target),
            "utime" | "utimes" | "futimesat" | "utimensat" => self.set_times(call, target),
            "mkdir" | "mkdirat" => self.make_directory(call, target),
            "mknod" | "mknodat" => self.make_node(call, target),
            "symlink" | "symlinkat" => self.make_symlink(call, target),
            "unlink" | "unlinkat" | "rmdir" => self.unlink(call, target),
            "rename" | "renameat" | "renameat2" => self.rename(call, target),
            "link" | "linkat" => self.link(call, target),
            "execve" | "execveat" => self.execute(call, target),
            "fgetxattr" | "fsetxattr" | "flistxattr" | "fremovexattr" => self.own_xattr(call, target),
            name if name.ends_with("xattr") => self.xattr(call, target),
            // What needs no path is the kernel's after all: the identity calls before the first program, a limit, a
            // socket's option.
            "capget" | "capset" | "prctl" | "prlimit64" | "getrlimit" | "setrlimit" | "getsockopt" => {
                Ok(Reply::Continue)
            }
            name if name.starts_with("get") || name.starts_with("set") => Ok(Reply::Continue),
            _ => Err(Errno::NOSYS),
        }
    }

    /// Opens the program that a descriptor is of a copy of, where it is.
    fn original(&self, file: OwnedFd) -> Result<OwnedFd> {
        let path = rustix::fs::readlink(path_of(&file), Vec::new())?.into_bytes();
        if !self.programs.has(&path) {
            return Ok(file);
        }
        let path = CString::new(self.proc.inside(&path).ok_or(Errno::NOENT)?).map_err(|_| Errno::NOENT)?;
        let original = self.single.in_shared_root(&path)?;
        files::open_again(&original, OFlags::RDONLY)
    }

    /// Opens what a call names with O_PATH.
    fn look(&mut self, call: &Call, target: &Target<'_>, named: &Named, at: PathArgument) -> Result<OwnedFd> {
        if let Named::Path { follow, .. } = named
            && let Some(found) = self.proc.look(call, target, at, *follow)?
        {
            return Ok(found);
        }
        self.single.open(call, target, named)
    }

    /// Opens what a call of a form with or without a directory names, following symlinks.
    fn look_at(&mut self, call: &Call, target: &Target<'_>, flags: u64) -> Result<OwnedFd> {
        let (at, directory, path) = place(call);
        let named = Named::at(target, directory, path, flags)?;
        self.look(call, target, &named, at)
    }

    /// getcwd(2).
    fn working_directory(&self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let link = format!("/proc/{}/cwd", thread_of(call));
        let real = rustix::fs::readlink(link.as_str(), Vec::new())?;
        if rustix::fs::stat(link.as_str())?.st_nlink == 0 {
            return Err(Errno::NOENT);
        }
        let path = self.proc.inside(real.to_bytes()).ok_or(Errno::NOENT)?;
        let path = CString::new(path).map_err(|_| Errno::NOENT)?.into_bytes_with_nul();
        let length = u64::try_from(path.len()).map_err(|_| Errno::RANGE)?;
        if call.word(1) < length {
            return Err(Errno::RANGE);
        }
        target.write(call.word(0), &path)?;
        Ok(Reply::Value(length.cast_signed()))
    }

    /// chdir(2).
    fn change_directory(&mut self, call: &Call, target: &Target<'_>) -> Result<Reply> {
        let directory = self.look_at(call, target, 0)?;
        if !is_directory(&directory)? {
            return Err(Errno::NOTDIR);
        }
        // A descriptor of O_PATH cannot be given to another process.
        let directory = files::open_again(&directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
        drive::enter(call, target, directory.as_fd())
    }
}

impl Answer for Supervised {
    fn start(&mut self) {
        self.proc.start();
    }

    fn answer(&mut self, call: &Call, target: &Target<'_>) -> Reply {
        self.decide(call, target).unwrap_or_else(Reply::from)
    }
}

/// Where a call has its path, the directory that is relative to, and the path.
fn place(call: &Call) -> (PathArgument, i32, u64) {
    let is_at = call.name.ends_with("at") || call.name.ends_with("at2") || call.name == "statx";
    if is_at {
        (DIRECTORY_FIRST, call.int(0), call.word(1))
    } else {
        (PATH_FIRST, libc::AT_FDCWD, call.word(0))
    }
}

fn is_directory(file: &OwnedFd) -> Result<bool> {
    let mode = rustix::fs::fstat(file)?.st_mode;
    Ok(rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::Directory)
}

/// Returns a path of ours to what a descriptor is open on.
fn path_of(file: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}
