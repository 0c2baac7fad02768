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
    fn this_process_descends_from_its_parent() {
        let (own, parent) = (rustix::process::getpid(), rustix::process::getppid().unwrap());
        assert!(Lineage::of(parent).contains(own.as_raw_nonzero().get()));
        assert!(!Lineage::of(own).contains(parent.as_raw_nonzero().get()));
        assert!(!Lineage::of(own).contains(own.as_raw_nonzero().get()));
    }
}
