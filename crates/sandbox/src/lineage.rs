//! Which processes belong to a step where it has no PID namespace: the descendants of its monitor. Whatever loses its
//! parent becomes the monitor's child, so that the way up leads to it until it dies.

use std::fs;

use rustix::process::Pid;

/// More ancestors than any process has: ends a walk that a busy process table misleads.
const MAX_DEPTH: usize = 4096;

/// The processes below one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lineage {
    monitor: Pid,
}

/// What a process or thread is, as `/proc/PID/status` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// The process a thread is in.
    pub(crate) process: i32,
    /// Real, effective, saved and filesystem user id.
    pub(crate) uids: [u32; 4],
    /// Real, effective, saved and filesystem group id.
    pub(crate) gids: [u32; 4],
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
}

impl Lineage {
    pub(crate) const fn of(monitor: Pid) -> Self {
        Self { monitor }
    }

    /// Tells whether a process or thread is of the step. The monitor is not.
    pub(crate) fn contains(self, pid: i32) -> bool {
        let monitor = self.monitor.as_raw_nonzero().get();
        let mut at = pid;
        for _ in 0..MAX_DEPTH {
            match parent_and_group(at) {
                Some((parent, _)) if parent == monitor => return true,
                Some((parent, _)) if parent > 1 => at = parent,
                _ => return false,
            }
        }
        false
    }

    /// Returns the processes of the step.
    pub(crate) fn members(self) -> impl Iterator<Item = i32> {
        processes().filter(move |&pid| self.contains(pid))
    }

    /// Tells whether a process group has a member in the step. It has no other then: the step is in sessions of its
    /// own, and a process joins groups of its session only.
    pub(crate) fn contains_group(self, group: i32) -> bool {
        processes()
            .filter(|&pid| parent_and_group(pid).is_some_and(|(_, its)| its == group))
            .any(|pid| self.contains(pid))
    }
}

/// Returns the processes that `/proc` shows.
pub(crate) fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent_and_group(pid: i32) -> Option<(i32, i32)> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Parses "pid (name) state parent group …"; the name may hold anything.
fn parse_stat(stat: &[u8]) -> Option<(i32, i32)> {
    let after = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(stat.get(after + 1..)?).ok()?.split_ascii_whitespace().skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

impl Status {
    /// Reads it; `None` when there is no such process any more.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/status")).ok()?)
    }

    /// The name of the process, in the first line, may hold anything but a line break.
    fn parse(status: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(status);
        let field = |name: &str| {
            let mut lines = text.lines().skip(1).filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
        };
        let numbers = |name: &str| -> Vec<u32> {
            let text = field(name).unwrap_or_default();
            text.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
        };
        Some(Self {
            process: field("Tgid")?.parse().ok()?,
            uids: numbers("Uid").try_into().ok()?,
            gids: numbers("Gid").try_into().ok()?,
            groups: numbers("Groups"),
            umask: field("Umask").and_then(|mask| u32::from_str_radix(mask, 8).ok()).unwrap_or(0o022),
        })
    }

    /// Tells whether the kernel would let this process signal `other`, of the same step.
    pub(crate) fn may_signal(&self, other: &Self) -> bool {
        let [real, effective, ..] = self.uids;
        let [other_real, _, other_saved, _] = other.uids;
        effective == 0 || [real, effective].iter().any(|uid| [other_real, other_saved].contains(uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let check = |line: &str, expect| assert_eq!(parse_stat(line.as_bytes()), expect, "{line}");
        check("12 (sh) S 7 12 12 0", Some((7, 12)));
        check("12 (a) b) (c) R 7 -1 12", Some((7, -1)));
        check("12 (sh", None);
        check("12 (sh) S", None);
    }

    #[test]
    fn status_files() {
        let text =
            "Name:\tTgid:\t9\nUmask:\t0027\nTgid:\t41\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t10 20 \n";
        let expect = Status {
            process: 41,
            uids: [1, 2, 3, 4],
            gids: [5, 6, 7, 8],
            groups: vec![10, 20],
            umask: 0o027,
        };
        assert_eq!(Status::parse(text.as_bytes()), Some(expect));
        assert_eq!(Status::parse(b"Name:\tx\n"), None);
    }

    #[test]
    fn this_process_descends_from_its_parent() {
        let (own, parent) = (rustix::process::getpid(), rustix::process::getppid().unwrap());
        assert!(Lineage::of(parent).contains(own.as_raw_nonzero().get()));
        assert!(!Lineage::of(own).contains(parent.as_raw_nonzero().get()));
        assert!(!Lineage::of(own).contains(own.as_raw_nonzero().get()));
        assert_eq!(Status::of(own.as_raw_nonzero().get()).unwrap().process, own.as_raw_nonzero().get());
    }
}
