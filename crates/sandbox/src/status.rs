//! What `/proc/PID/status` says of a process or thread.

use std::fs;

/// The lines that are needed of a status.
///
/// # References
/// proc_pid_status(5)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// The process a thread is in, as numbered in our PID namespace.
    pub(crate) process: i32,
    /// The process and the thread, as numbered in the innermost PID namespace they are in.
    pub(crate) inner_process: u32,
    pub(crate) inner_thread: u32,
    /// Real, effective, saved and filesystem user id.
    pub(crate) uids: [u32; 4],
    /// Real, effective, saved and filesystem group id.
    pub(crate) gids: [u32; 4],
    pub(crate) groups: Vec<u32>,
    /// The file mode creation mask; 022 before Linux 4.7, which does not tell.
    pub(crate) umask: u32,
    /// Whether set-id programs have no effect.
    pub(crate) no_new_privileges: bool,
}

impl Status {
    /// Reads that of a process or thread; `None` when there is none such any more.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/status")).ok()?)
    }

    /// Reads that of the calling process.
    pub(crate) fn of_this_process() -> Option<Self> {
        Self::parse(&fs::read("/proc/self/status").ok()?)
    }

    /// The name of the process, in the first line, may hold anything but a line break.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(text);
        let mut status = Self { umask: 0o022, ..Self::default() };
        for (name, value) in text.lines().skip(1).filter_map(|line| line.split_once(':')) {
            let mut words = value.split_ascii_whitespace();
            let numbers = || value.split_ascii_whitespace().filter_map(|number| number.parse::<u32>().ok());
            match name {
                "Tgid" => status.process = words.next()?.parse().ok()?,
                "NStgid" => status.inner_process = numbers().next_back()?,
                "NSpid" => status.inner_thread = numbers().next_back()?,
                "Uid" => status.uids = numbers().collect::<Vec<_>>().try_into().ok()?,
                "Gid" => status.gids = numbers().collect::<Vec<_>>().try_into().ok()?,
                "Groups" => status.groups = numbers().collect(),
                "Umask" => status.umask = u32::from_str_radix(words.next()?, 8).ok()?,
                "NoNewPrivs" => status.no_new_privileges = numbers().next() == Some(1),
                _ => {}
            }
        }
        (status.process != 0).then_some(status)
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
    fn lines() {
        let text = b"Name:\ta\xff:b\nUmask:\t0027\nState:\tS (sleeping)\nTgid:\t41\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n\
            Groups:\t10 20 \nNStgid:\t41\t12\nNSpid:\t42\t13\nNoNewPrivs:\t1\n";
        let expect = Status {
            process: 41,
            inner_process: 12,
            inner_thread: 13,
            uids: [1, 2, 3, 4],
            gids: [5, 6, 7, 8],
            groups: vec![10, 20],
            umask: 0o027,
            no_new_privileges: true,
        };
        assert_eq!(Status::parse(text), Some(expect));
        assert_eq!(Status::parse(b"Name:\tx\nTgid:\t9\n").map(|status| status.umask), Some(0o022));
        assert_eq!(Status::parse(b"Name:\tTgid:\t9\n"), None);
    }

    #[test]
    fn of_ourselves() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let status = Status::of_this_process().unwrap();
        assert_eq!((status.process, status.inner_process), (own, std::process::id()));
        assert_eq!(Status::of(own).unwrap().process, own);
    }
}
