//! Landlock: a domain that a process enters and nothing in it leaves.
//!
//! # References
//! landlock(7); Documentation/userspace-api/landlock.rst

use std::mem::size_of;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Result;

use super::{check, owned};

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
/// LANDLOCK_ACCESS_FS_REFER: to link or rename a file to another directory.
const REFER: u64 = 1 << 13;
const EXECUTE: u64 = 1;
const READ_FILE: u64 = 1 << 2;
const MAKE_SOCK: u64 = 1 << 9;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 1 << 1;

/// The start of `struct landlock_ruleset_attr`, to the field added by ABI 6. A kernel that knows less takes it as long
/// as what it does not know is zero.
#[repr(C)]
struct RulesetAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// What a domain confines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Domain {
    handled: u64,
    scoped: u64,
}

/// The version of Landlock that a kernel speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Abi(u32);

impl Domain {
    /// Tells whether files are among what it confines.
    pub(crate) fn confines_files(self) -> bool {
        self.handled != 0
    }
}

impl Abi {
    /// Before this one, every rename to another directory fails in a domain.
    const REFER: Self = Self(2);
    const TRUNCATE: Self = Self(3);
    const IOCTL_DEV: Self = Self(5);
    const SCOPES: Self = Self(6);

    /// Asks the kernel; one without Landlock, or where it is not enabled, speaks none.
    pub(crate) fn of_this_kernel() -> Self {
        let none = std::ptr::null::<RulesetAttributes>();
        // SAFETY: with this flag the kernel reads no memory.
        let version = check(unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, CREATE_RULESET_VERSION)
        });
        Self(version.ok().and_then(|version| u32::try_from(version).ok()).unwrap_or(0))
    }

    /// Returns its number, 0 for none.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// Tells whether files can be confined.
    pub(crate) fn confines_files(self) -> bool {
        self >= Self::REFER
    }

    /// Tells whether signals and abstract sockets can be confined.
    pub(crate) fn has_scopes(self) -> bool {
        self >= Self::SCOPES
    }

    /// Returns the domain that confines signals, as far as this version can.
    pub(crate) fn signals(self) -> Domain {
        Domain { handled: 0, scoped: if self.has_scopes() { SCOPE_SIGNAL } else { 0 } }
    }

    /// Returns the domain that confines all that this version can.
    pub(crate) fn everything(self) -> Domain {
        let bits: u32 = match self {
            abi if abi >= Self::IOCTL_DEV => 16,
            abi if abi >= Self::TRUNCATE => 15,
            abi if abi >= Self::REFER => 14,
            _ => 0,
        };
        let scoped = if self.has_scopes() { SCOPE_SIGNAL | SCOPE_ABSTRACT_UNIX_SOCKET } else { 0 };
        Domain { handled: (1 << bits) - 1, scoped }
    }
}

impl From<u32> for Abi {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

/// Puts this thread into a domain in which it reaches the files below `root` only, or none. A domain that confines
/// nothing is not entered.
pub(crate) fn confine(domain: Domain, root: Option<BorrowedFd<'_>>) -> Result<()> {
    confine_to(domain, root.as_slice(), domain.handled)
}

/// Puts this thread into a domain in which it executes and reads the files below `directories`, and makes
/// sockets there, and nothing else.
///
/// (Who executes a file, opens it for reading.)
pub(crate) fn confine_to_programs(domain: Domain, directories: &[BorrowedFd<'_>]) -> Result<()> {
    confine_to(domain, directories, domain.handled & (EXECUTE | READ_FILE | MAKE_SOCK))
}

fn confine_to(domain: Domain, directories: &[BorrowedFd<'_>], allowed_access: u64) -> Result<()> {
    if domain.handled == 0 && domain.scoped == 0 {
        return Ok(());
    }
    let ruleset = create(domain)?;
    for directory in directories.iter().filter(|_| domain.handled != 0) {
        let rule = PathBeneath { allowed_access, parent_fd: directory.as_raw_fd() };
        // SAFETY: the kernel reads one live structure.
        check(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                ruleset.as_raw_fd(),
                RULE_PATH_BENEATH,
                &raw const rule,
                0u32,
            )
        })?;
    }
    enter(ruleset.as_fd())
}

/// Puts this thread into a domain that nothing in it can signal its way out of.
///
/// Once a later domain confines files, this one too has a say in renames to another directory, and refuses them unless
/// it handles and allows them: it does, below `renames`.
///
/// # Errors
/// E2BIG, EOPNOTSUPP or ENOSYS where the kernel has no signal scope (before Linux 6.12).
pub(crate) fn fence_signals(renames: Option<BorrowedFd<'_>>) -> Result<()> {
    let handled = if renames.is_some() { REFER } else { 0 };
    confine(Domain { handled, scoped: SCOPE_SIGNAL }, renames)
}

fn create(domain: Domain) -> Result<OwnedFd> {
    let attributes =
        RulesetAttributes { handled_access_fs: domain.handled, handled_access_net: 0, scoped: domain.scoped };
    // SAFETY: the structure is live and of the size passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            size_of::<RulesetAttributes>(),
            0u32,
        )
    })
    .and_then(owned)
}

fn enter(ruleset: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) }).map(drop)
}
