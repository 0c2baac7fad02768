//! The default seccomp filter of a step, modelled on Docker's default profile.
//!
//! The table of system calls is data (`seccomp/table.txt`); what depends on arguments, or is answered without being
//! executed, is named in [`special`]; how an isolation departs from that is data too ([`Rules`]). `compile` turns all
//! of it into a BPF program, once per process for each set of rules.

mod compile;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use thiserror::Error;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the sandbox's seccomp table covers x86_64 and aarch64 only");

const TABLE: &str = include_str!("seccomp/table.txt");

/// What happens to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is executed.
    Allow,
    /// It is answered with this errno; 0 is success.
    Errno(u16),
    /// It waits for an answer of the isolation's emulation (`notify`).
    Notify,
    /// It depends on the low 32 bits of an argument.
    When(&'static Condition),
}

/// A choice by one argument. The kernel reads 32 bits of every argument that is tested here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// The argument's index, from 0.
    pub(crate) argument: u8,
    pub(crate) test: Test,
    /// What happens if the test holds.
    pub(crate) then: Action,
    /// What happens if it does not.
    pub(crate) otherwise: Action,
}

/// How an isolation departs from the default filter. A call the table does not list stays refused.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Identifies the rules.
    pub(crate) name: &'static str,
    /// Actions by the call's name, in all calling conventions that have it.
    pub(crate) calls: &'static [(&'static str, Action)],
}

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) program: Vec<libc::sock_filter>,
    /// Whether a call may be notified, which wants a listener.
    pub(crate) notifies: bool,
}

/// A test of an argument.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// It is one of these values.
    OneOf(&'static [u32]),
    /// It has one of these bits.
    AnyBit(u32),
    /// Its bits under the mask are one of these values.
    Masked(u32, &'static [u32]),
}

pub(crate) const EPERM: u16 = 1;
const ENOSYS: u16 = 38;
const REFUSED: Action = Action::Errno(EPERM);

const S_IFMT: u32 = 0o170_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFCHR: u32 = 0o020_000;
/// null, zero, full, random, urandom, tty, ptmx and overlayfs's whiteout, as mknod(2) encodes them.
pub(crate) const HARMLESS_DEVICES: &[u32] = &[0x103, 0x105, 0x107, 0x108, 0x109, 0x500, 0x502, 0];

/// CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;
const MS_SYNC: u32 = 4;
/// AF_ALG is a kernel attack surface, AF_VSOCK leaves the network namespace: Docker's profile has neither.
const REFUSED_FAMILIES: &[u32] = &[38, 40];
/// PER_LINUX, PER_LINUX32, each with and without UNAME26, and the query.
const PERSONALITIES: &[u32] = &[0, 0x8, 0x20000, 0x20008, 0xffff_ffff];

static CLONE: Condition =
    Condition { argument: 0, test: Test::AnyBit(NAMESPACE_FLAGS), then: REFUSED, otherwise: Action::Allow };
static SOCKET: Condition =
    Condition { argument: 0, test: Test::OneOf(REFUSED_FAMILIES), then: REFUSED, otherwise: Action::Allow };
static PERSONALITY: Condition =
    Condition { argument: 0, test: Test::OneOf(PERSONALITIES), then: Action::Allow, otherwise: REFUSED };
/// MS_ASYNC writes nothing, and unwinders use it to ask whether an address is mapped.
static MSYNC: Condition =
    Condition { argument: 2, test: Test::AnyBit(MS_SYNC), then: Action::Errno(0), otherwise: Action::Allow };
/// A real root may make any device, and without a device cgroup it may open what it made: the disks of the host. The
/// root filesystem and all binds are mounted `nodev`; this keeps a step from making one where that flag is not, in a
/// tmpfs. User namespaces refuse all of them anyway.
static MKNOD: Condition =
    Condition { argument: 1, test: Test::Masked(S_IFMT, &[S_IFBLK]), then: REFUSED, otherwise: CHARACTER };
static MKNOD_CHARACTER: Condition = Condition {
    argument: 1,
    test: Test::Masked(S_IFMT, &[S_IFCHR]),
    then: HARMLESS,
    otherwise: Action::Allow,
};
static MKNOD_HARMLESS: Condition =
    Condition { argument: 2, test: Test::OneOf(HARMLESS_DEVICES), then: Action::Allow, otherwise: REFUSED };
static MKNODAT: Condition =
    Condition { argument: 2, test: Test::Masked(S_IFMT, &[S_IFBLK]), then: REFUSED, otherwise: CHARACTER_AT };
static MKNODAT_CHARACTER: Condition = Condition {
    argument: 2,
    test: Test::Masked(S_IFMT, &[S_IFCHR]),
    then: HARMLESS_AT,
    otherwise: Action::Allow,
};
static MKNODAT_HARMLESS: Condition =
    Condition { argument: 3, test: Test::OneOf(HARMLESS_DEVICES), then: Action::Allow, otherwise: REFUSED };
const CHARACTER: Action = Action::When(&MKNOD_CHARACTER);
const HARMLESS: Action = Action::When(&MKNOD_HARMLESS);
const CHARACTER_AT: Action = Action::When(&MKNODAT_CHARACTER);
const HARMLESS_AT: Action = Action::When(&MKNODAT_HARMLESS);

/// Returns the action for a call of the table.
fn special(name: &str) -> Action {
    match name {
        "clone" => Action::When(&CLONE),
        // Its flags are behind a pointer; the C libraries fall back to clone.
        "clone3" => Action::Errno(ENOSYS),
        "socket" => Action::When(&SOCKET),
        "mknod" => Action::When(&MKNOD),
        "mknodat" => Action::When(&MKNODAT),
        "personality" => Action::When(&PERSONALITY),
        // What a step writes is read back by us, not by the next boot: a build that dies is built again.
        "fsync" | "fdatasync" | "sync" | "syncfs" | "sync_file_range" | "sync_file_range2" => {
            Action::Errno(0)
        }
        "msync" => Action::When(&MSYNC),
        _ => Action::Allow,
    }
}

/// The calls of one calling convention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Abi {
    /// AUDIT_ARCH_*, as in `seccomp_data.arch`.
    pub(crate) audit: u32,
    /// Actions by number, ascending and distinct.
    pub(crate) calls: Vec<(u32, Action)>,
}

impl Abi {
    /// The highest number any architecture uses for an ordinary call; arm's private calls are far above.
    const ORDINARY: u32 = 0xffff;

    /// Returns the number above which a call is unknown rather than refused.
    fn last_known(&self) -> u32 {
        self.calls.iter().map(|call| call.0).filter(|&number| number <= Self::ORDINARY).max().unwrap_or(0)
    }

    /// Returns the action of a call, without regard to how it is compiled.
    pub(crate) fn action(&self, number: u32) -> Action {
        match self.calls.binary_search_by_key(&number, |call| call.0) {
            Ok(index) => self.calls.get(index).map_or(Action::Errno(EPERM), |call| call.1),
            Err(_) if number > self.last_known() => Action::Errno(ENOSYS),
            Err(_) => Action::Errno(EPERM),
        }
    }
}

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    X86_64 = 1,
    I386 = 2,
    Aarch64 = 3,
    Arm = 4,
}

impl Column {
    /// The calling conventions a process of this architecture can use. x32 calls are answered with ENOSYS.
    const NATIVE: [Self; 2] =
        if cfg!(target_arch = "aarch64") { [Self::Aarch64, Self::Arm] } else { [Self::X86_64, Self::I386] };

    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }
}

/// A line of the table that cannot be read.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("seccomp table: malformed line {0:?}")]
struct TableError(String);

fn parse(table: &str, column: Column, rules: &[&Rules]) -> Result<Abi, TableError> {
    let action = |name: &str| {
        let changed = rules.iter().rev().flat_map(|rules| rules.calls).find(|(call, _)| *call == name);
        changed.map_or_else(|| special(name), |(_, action)| *action)
    };
    let mut calls = Vec::new();
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let malformed = || TableError(line.to_owned());
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next().ok_or_else(malformed)?;
        match fields.nth(column as usize - 1).ok_or_else(malformed)? {
            "-" => {}
            number => calls.push((number.parse().map_err(|_| malformed())?, action(name))),
        }
    }
    calls.sort_by_key(|call| call.0);
    Ok(Abi { audit: column.audit(), calls })
}

/// Returns the filter for this architecture with `rules` on top of the default, the last having the last word; it is
/// compiled by the first call.
pub(crate) fn filter(rules: &[&'static Rules]) -> Arc<Filter> {
    type Compiled = BTreeMap<Vec<&'static str>, Arc<Filter>>;
    static COMPILED: Mutex<Compiled> = Mutex::new(BTreeMap::new());
    let key = rules.iter().map(|rules| rules.name).collect();
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(compiled.entry(key).or_insert_with(|| Arc::new(compile_filter(rules))))
}

fn compile_filter(rules: &[&Rules]) -> Filter {
    // A malformed table is caught by the tests; were it not, its calling convention would be refused altogether.
    let abis: Vec<Abi> =
        Column::NATIVE.into_iter().filter_map(|column| parse(TABLE, column, rules).ok()).collect();
    let notifies = abis.iter().flat_map(|abi| &abi.calls).any(|(_, action)| action.notifies());
    Filter { program: compile::compile(&abis), notifies }
}

impl Action {
    fn notifies(self) -> bool {
        match self {
            Self::Notify => true,
            Self::Allow | Self::Errno(_) => false,
            Self::When(condition) => condition.then.notifies() || condition.otherwise.notifies(),
        }
    }
}

/// How wide the registers of a call are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// Those of this architecture.
    Native,
    /// Those of its 32-bit sibling.
    Narrow,
}

/// Returns the name of a call, as in the table, from what seccomp says of it.
pub(crate) fn call_name(audit: u32, number: u32) -> Option<(&'static str, Width)> {
    static NAMES: OnceLock<BTreeMap<(u32, u32), &'static str>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
        let named = lines.flat_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            Column::NATIVE.into_iter().filter_map(move |column| {
                let number = fields.get(column as usize)?.parse().ok()?;
                Some(((column.audit(), number), *fields.first()?))
            })
        });
        named.collect()
    });
    let [native, _] = Column::NATIVE;
    let width = if audit == native.audit() { Width::Native } else { Width::Narrow };
    names.get(&(audit, number)).map(|name| (*name, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_well_formed() {
        for column in [Column::X86_64, Column::I386, Column::Aarch64, Column::Arm] {
            let abi = parse(TABLE, column, &[]).unwrap();
            assert!(abi.calls.len() > 260, "{column:?}: {}", abi.calls.len());
            for pair in abi.calls.windows(2) {
                assert!(pair[0].0 < pair[1].0, "{column:?}: {} twice", pair[1].0);
            }
        }
        let mut names: Vec<&str> = TABLE.lines().filter(|l| !l.starts_with('#')).collect();
        let before = names.clone();
        names.sort_by_key(|line| line.split(' ').next());
        assert_eq!(names, before);
    }

    /// The numbers of this architecture are those of its C library.
    #[test]
    fn numbers_agree_with_libc() {
        let abi = parse(TABLE, Column::NATIVE[0], &[]).unwrap();
        let check = |number: libc::c_long, expect: Action| {
            assert_eq!(abi.action(u32::try_from(number).unwrap()), expect, "{number}");
        };
        for number in
            [libc::SYS_read, libc::SYS_openat2, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_chroot]
        {
            check(number, Action::Allow);
        }
        for number in [
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_keyctl,
            libc::SYS_pivot_root,
            libc::SYS_open_by_handle_at,
            libc::SYS_init_module,
            libc::SYS_perf_event_open,
            libc::SYS_io_uring_setup,
            libc::SYS_move_mount,
        ] {
            check(number, Action::Errno(EPERM));
        }
        for number in [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync, libc::SYS_syncfs] {
            check(number, Action::Errno(0));
        }
        check(libc::SYS_clone3, Action::Errno(ENOSYS));
        check(libc::SYS_clone, Action::When(&CLONE));
        check(0x4000_0000, Action::Errno(ENOSYS));
        check(2000, Action::Errno(ENOSYS));
    }

    #[test]
    fn rules_have_the_last_word() {
        static ONE: Rules =
            Rules { name: "one", calls: &[("openat", Action::Notify), ("getuid", Action::Errno(7))] };
        static TWO: Rules = Rules { name: "two", calls: &[("getuid", Action::Allow)] };
        let check = |rules: &[&'static Rules], expect: [Action; 2]| {
            let abi = parse(TABLE, Column::NATIVE[0], rules).unwrap();
            let action = |number| abi.action(u32::try_from(number).unwrap());
            assert_eq!([action(libc::SYS_openat), action(libc::SYS_getuid)], expect);
            assert_eq!(filter(rules).notifies, expect.contains(&Action::Notify));
        };
        check(&[], [Action::Allow, Action::Allow]);
        check(&[&ONE], [Action::Notify, Action::Errno(7)]);
        check(&[&ONE, &TWO], [Action::Notify, Action::Allow]);
        check(&[&TWO, &ONE], [Action::Notify, Action::Errno(7)]);
    }

    #[test]
    fn calls_have_names() {
        let [native, narrow] = Column::NATIVE;
        let openat = u32::try_from(libc::SYS_openat).unwrap();
        assert_eq!(call_name(native.audit(), openat), Some(("openat", Width::Native)));
        assert_eq!(call_name(narrow.audit(), 3), Some(("read", Width::Narrow)));
        assert_eq!(call_name(native.audit(), 2000), None);
    }
}
