//! Pseudo-terminals: those of the host's devpts that this step has made, and no others.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

/// What an open of a terminal may ask for here. It becomes the controlling terminal of nobody: the opener's session
/// is the builder's.
const FLAGS: OFlags = OFlags::ACCMODE.union(OFlags::NONBLOCK);
const ALWAYS: OFlags = OFlags::NOCTTY.union(OFlags::CLOEXEC);

/// The terminals of a step.
#[derive(Debug)]
pub(super) struct Terminals {
    /// The step's `/dev/pts`.
    directory: OwnedFd,
    /// The other sides, by number. An inode that is held tells whether its number was given to somebody else.
    others: BTreeMap<u32, OwnedFd>,
}

impl Terminals {
    pub(super) const fn in_directory(directory: OwnedFd) -> Self {
        Self { directory, others: BTreeMap::new() }
    }

    /// Makes a terminal, and a node for what only looks.
    pub(super) fn make(&mut self, flags: OFlags) -> Result<OwnedFd> {
        let terminal = rustix::fs::open(c"/dev/ptmx", flags & FLAGS | ALWAYS, Mode::empty())?;
        let name = rustix::pty::ptsname(&terminal, Vec::new())?;
        let other = rustix::fs::open(name.as_c_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let number = name.to_bytes().rsplit(|&byte| byte == b'/').next();
        let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse::<u32>().ok());
        let number = number.ok_or(Errno::NODEV)?;
        self.forget_the_dead();
        self.put_node(number, other.as_fd());
        self.others.insert(number, other);
        Ok(terminal)
    }

    /// Opens the other side of a terminal of this step.
    pub(super) fn open(&self, number: u32, flags: OFlags) -> Result<OwnedFd> {
        let other = self.find(number)?;
        let path = format!("/proc/self/fd/{}", other.as_raw_fd());
        rustix::fs::open(path, flags & FLAGS | ALWAYS, Mode::empty())
    }

    /// Returns the other side of a living terminal of this step.
    pub(super) fn find(&self, number: u32) -> Result<BorrowedFd<'_>> {
        let other = self.others.get(&number).ok_or(Errno::NOENT)?;
        if is_alive(other.as_fd()) { Ok(other.as_fd()) } else { Err(Errno::NOENT) }
    }

    fn forget_the_dead(&mut self) {
        let directory = &self.directory;
        self.others.retain(|number, other| {
            let alive = is_alive(other.as_fd());
            if !alive {
                let _ = rustix::fs::unlinkat(directory, number.to_string(), AtFlags::empty());
            }
            alive
        });
    }

    /// A node outside of a devpts cannot be opened, but has the right numbers. Where mknod is refused, there is none.
    fn put_node(&self, number: u32, other: BorrowedFd<'_>) {
        let Ok(stat) = rustix::fs::fstat(other) else { return };
        let (name, mode) = (number.to_string(), Mode::from_raw_mode(stat.st_mode));
        let _ = rustix::fs::unlinkat(&self.directory, &name, AtFlags::empty());
        let kind = FileType::CharacterDevice;
        if rustix::fs::mknodat(&self.directory, &name, kind, mode, stat.st_rdev).is_ok() {
            let owner = Some(rustix::fs::Uid::from_raw(stat.st_uid));
            let group = Some(rustix::fs::Gid::from_raw(stat.st_gid));
            let _ = rustix::fs::chownat(&self.directory, &name, owner, group, AtFlags::SYMLINK_NOFOLLOW);
        }
    }
}

/// A devpts takes away the name of a terminal whose first side is closed.
fn is_alive(other: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(other).is_ok_and(|stat| stat.st_nlink > 0)
}
