//! What a child tells its parent: fixed-size messages over a pipe, each written at once.

use rustix::fd::BorrowedFd;
use rustix::io::Errno;

/// The size of a message; far below PIPE_BUF, so that messages of two writers do not mix.
pub(crate) const SIZE: usize = 16;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// An operation of the program failed.
    Operation { index: u32, errno: i32 },
    /// A stage of a process's own life failed.
    Stage { stage: Stage, errno: i32 },
    /// No candidate could be executed; `index` is the last one tried.
    Exec { index: u32, errno: i32, found: Found },
    /// The first process ended with this wait status.
    Ended { status: i32 },
}

/// What a file that could not be executed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Directory,
    File,
}

macro_rules! stages {
    ($($name:ident: $text:literal),+ $(,)?) => {
        /// What happens outside the list of operations.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Stage { $($name),+ }

        impl Stage {
            const ALL: &[Self] = &[$(Self::$name),+];

            /// Returns the stage as a verb phrase.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

stages! {
    CloseDescriptors: "close inherited descriptors",
    Supervise: "become the step's supervisor",
    ListChildren: "open /proc/thread-self/children",
    Fork: "fork the step's first process",
    Session: "start a session",
    Streams: "connect the standard streams",
    Limits: "set resource limits",
    Root: "change the root directory to",
    WorkingDirectory: "enter the working directory",
    Bounding: "drop capabilities from the bounding set",
    Domain: "enter a Landlock domain",
    Privileges: "set no_new_privs",
    Filter: "install the seccomp filter",
    Listener: "send the seccomp listener",
    Groups: "set the supplementary groups",
    GroupId: "set the group id",
    UserId: "set the user id",
    Capabilities: "set capabilities",
    Signals: "unblock signals",
    Emulation: "have a call answered by the builder",
    Unwind: "keep a child of the sandbox from panicking",
}

impl Report {
    pub(crate) fn encode(self) -> [u8; SIZE] {
        let [kind, a, b, c] = match self {
            Self::Operation { index, errno } => [1, index, errno.cast_unsigned(), 0],
            Self::Stage { stage, errno } => [2, stage as u32, errno.cast_unsigned(), 0],
            Self::Exec { index, errno, found } => [3, index, errno.cast_unsigned(), found as u32],
            Self::Ended { status } => [4, status.cast_unsigned(), 0, 0],
        };
        let mut message = [0; SIZE];
        for (to, from) in message.chunks_exact_mut(4).zip([kind, a, b, c]) {
            to.copy_from_slice(&from.to_ne_bytes());
        }
        message
    }

    /// Reads a message; `None` when it is not one.
    pub(crate) fn decode(message: &[u8]) -> Option<Self> {
        let mut words =
            message.chunks_exact(4).filter_map(|chunk| chunk.try_into().ok()).map(u32::from_ne_bytes);
        let (kind, a, b, c) = (words.next()?, words.next()?, words.next()?, words.next()?);
        Some(match kind {
            1 => Self::Operation { index: a, errno: b.cast_signed() },
            2 => Self::Stage { stage: *Stage::ALL.get(usize::try_from(a).ok()?)?, errno: b.cast_signed() },
            3 => {
                let found = [Found::Nothing, Found::Directory, Found::File];
                let found = *found.get(usize::try_from(c).ok()?)?;
                Self::Exec { index: a, errno: b.cast_signed(), found }
            }
            4 => Self::Ended { status: a.cast_signed() },
            _ => return None,
        })
    }

    /// Writes the message. A parent that is gone needs none.
    pub(crate) fn send(self, pipe: BorrowedFd<'_>) {
        let message = self.encode();
        while rustix::io::write(pipe, &message) == Err(Errno::INTR) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let mut reports = vec![
            Report::Operation { index: 7, errno: 22 },
            Report::Exec { index: u32::MAX, errno: 2, found: Found::Directory },
            Report::Ended { status: -1 },
        ];
        reports.extend(Stage::ALL.iter().map(|&stage| Report::Stage { stage, errno: 1 }));
        for report in reports {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        for message in [&[0; SIZE][..], &[1; SIZE], &[1, 0, 0], &[]] {
            assert_eq!(Report::decode(message), None);
        }
    }
}
