//! What runs: arguments, environment, identity and limits; and how it ended.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::secret::Secret;

/// A process to run in a root filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The program and its arguments. A program without a slash is looked up in the `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// The complete environment, in this order; nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// Variables that come after those of `env` and that nobody is shown.
    pub secret_env: Vec<(OsString, Secret)>,
    /// The working directory inside the root filesystem; it must exist.
    pub cwd: PathBuf,
    /// The identity of the process.
    pub user: User,
    /// The host name of the step's UTS namespace.
    pub hostname: String,
    /// Which network the process sees.
    pub network: Network,
    /// The file mode creation mask, 0022 by default.
    pub umask: u32,
    /// Resource limits to set; the others are those of the calling process.
    pub rlimits: Vec<Rlimit>,
    /// What keeps the process from the machine.
    pub confinement: Confinement,
}

impl Process {
    /// Describes a process of user 0 in `/` with an empty environment on the host's network.
    pub fn new<I, S>(argv: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            secret_env: Vec::new(),
            cwd: PathBuf::from("/"),
            user: User::default(),
            hostname: "buildkitsandbox".to_owned(),
            network: Network::Host,
            umask: 0o022,
            rlimits: Vec::new(),
            confinement: Confinement::Default,
        }
    }
}

/// Numeric ids, as seen inside the step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Real, effective and saved user id. Only user 0 gets capabilities.
    pub uid: u32,
    /// Real, effective and saved group id.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
}

/// Which network a process sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// The network namespace of the calling process.
    #[default]
    Host,
    /// A namespace of its own with nothing but a loopback interface that is up.
    None,
}

/// What keeps a process from the machine, beside its namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Confinement {
    /// Docker's default capabilities and system call filter; parts of `/proc` and `/sys` are hidden or read-only.
    #[default]
    Default,
    /// Nothing: every capability the calling process has (in a user namespace: every one over it), no filter, all of
    /// `/proc` and a writable `/sys`.
    Lifted,
}

/// One resource limit.
///
/// # References
/// getrlimit(2)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// The resource.
    pub resource: Resource,
    /// The limit the kernel enforces; `None` is unlimited.
    pub soft: Option<u64>,
    /// The ceiling of the soft limit; `None` is unlimited.
    pub hard: Option<u64>,
}

/// A resource that can be limited, under docker's `--ulimit` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Size of a core file, in bytes.
    Core,
    /// CPU time, in seconds.
    Cpu,
    /// Data segment, in bytes.
    Data,
    /// Size of a file, in bytes.
    Fsize,
    /// Number of file locks.
    Locks,
    /// Locked memory, in bytes.
    Memlock,
    /// POSIX message queues, in bytes.
    Msgqueue,
    /// Ceiling of the nice value.
    Nice,
    /// One more than the highest descriptor number.
    Nofile,
    /// Number of processes of the real user id.
    Nproc,
    /// Resident set, in bytes; without effect on Linux.
    Rss,
    /// Real-time priority.
    Rtprio,
    /// Real-time CPU time without a blocking call, in microseconds.
    Rttime,
    /// Number of pending signals.
    Sigpending,
    /// Stack of the main thread, in bytes.
    Stack,
}

/// Where a piece of output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Descriptor 1 of the process.
    Stdout,
    /// Descriptor 2 of the process.
    Stderr,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

impl Exit {
    /// Returns the code a shell would show: the exit code, or 128 plus the signal.
    pub const fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128i32.saturating_add(signal),
        }
    }

    /// Tells whether the process exited with code 0.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl Resource {
    /// Every resource.
    pub const ALL: [Self; 15] = [
        Self::Core,
        Self::Cpu,
        Self::Data,
        Self::Fsize,
        Self::Locks,
        Self::Memlock,
        Self::Msgqueue,
        Self::Nice,
        Self::Nofile,
        Self::Nproc,
        Self::Rss,
        Self::Rtprio,
        Self::Rttime,
        Self::Sigpending,
        Self::Stack,
    ];

    /// Returns docker's name of the resource.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Cpu => "cpu",
            Self::Data => "data",
            Self::Fsize => "fsize",
            Self::Locks => "locks",
            Self::Memlock => "memlock",
            Self::Msgqueue => "msgqueue",
            Self::Nice => "nice",
            Self::Nofile => "nofile",
            Self::Nproc => "nproc",
            Self::Rss => "rss",
            Self::Rtprio => "rtprio",
            Self::Rttime => "rttime",
            Self::Sigpending => "sigpending",
            Self::Stack => "stack",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_codes() {
        for (exit, code) in [(Exit::Code(0), 0), (Exit::Code(7), 7), (Exit::Signal(9), 137)] {
            assert_eq!(exit.shell_code(), code);
        }
    }
}
