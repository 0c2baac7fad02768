//! What `/proc/TID/status` says of a thread.

use std::io;

/// The lines that are needed of a status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// The thread group and the thread, as numbered in the innermost PID namespace they are in.
    pub(super) process: u32,
    pub(super) thread: u32,
    /// The thread group, as numbered in our PID namespace.
    pub(super) leader: i32,
    /// The file mode creation mask; 0 before Linux 4.7.
    pub(super) umask: u32,
    /// Whether set-id programs have no effect.
    pub(super) no_new_privileges: bool,
}

impl Status {
    /// Reads the status of a thread.
    ///
    /// # Errors
    /// The thread is gone.
    ///
    /// # References
    /// proc_pid_status(5)
    pub(super) fn of(thread: i32) -> io::Result<Self> {
        std::fs::read(format!("/proc/{thread}/status")).map(|text| Self::parse(&text))
    }

    /// Reads the status of the calling process.
    pub(super) fn of_this_process() -> io::Result<Self> {
        std::fs::read("/proc/self/status").map(|text| Self::parse(&text))
    }

    pub(super) fn parse(text: &[u8]) -> Self {
        let mut status = Self::default();
        for line in text.split(|&byte| byte == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            let Some((name, value)) = line.split_once(':') else { continue };
            let last = || value.split_ascii_whitespace().next_back();
            let number = || last().and_then(|number| number.parse::<u32>().ok()).unwrap_or_default();
            match name {
                "NStgid" => status.process = number(),
                "Tgid" => status.leader = number().cast_signed(),
                "NSpid" => status.thread = number(),
                "Umask" => {
                    status.umask =
                        last().and_then(|mask| u32::from_str_radix(mask, 8).ok()).unwrap_or_default();
                }
                "NoNewPrivs" => status.no_new_privileges = number() != 0,
                _ => {}
            }
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = b"Name:\ta\xff:b\nUmask:\t0027\nState:\tS (sleeping)\nTgid:\t4071\nNStgid:\t4071\t12\nNSpid:\t4072\t13\nNoNewPrivs:\t1\n";
        let expect = Status { process: 12, thread: 13, leader: 4071, umask: 0o27, no_new_privileges: true };
        assert_eq!(Status::parse(text), expect);
        assert_eq!(Status::parse(b""), Status::default());
    }

    #[test]
    fn of_ourselves() {
        let status = Status::of_this_process().unwrap();
        assert_eq!(status.process, std::process::id());
    }
}
