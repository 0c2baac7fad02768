//! One process in one root filesystem, in the strongest isolation this host allows.
//!
//! A [`Sandbox`] is found by trying: [`Sandbox::detect`] does once, in a child, everything a step would do, for each
//! [`Isolation`] in turn, and keeps the first that works. Its [`run`](Sandbox::run) takes a [`Spec`], which is plain
//! data: a [`Rootfs`] (an overlay, or a directory), the [`Mount`]s in it, and a [`Process`]. It passes the output on as
//! it comes and returns how the process ended, when every process of the step is dead and its mounts are gone.
//!
//! ```no_run
//! use rbuild_sandbox::{Access, Cancel, Mount, MountKind, Process, Rootfs, Sandbox, Spec};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sandbox = Sandbox::detect("/var/lib/rbuild/tmp".as_ref())?;
//!
//! let mut process = Process::new(["sh", "-c", "make && make install"]);
//! process.env = vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())];
//! process.cwd = "/src".into();
//!
//! let mut mounts = Mount::defaults(); // /proc, /sys, /dev
//! let hosts = MountKind::Bind { source: "/tmp/hosts".into(), access: Access::ReadOnly, recursive: false };
//! mounts.push(Mount::new("etc/hosts", hosts));
//!
//! let rootfs = Rootfs::Overlay {
//!     lower: vec!["/layers/1".into(), "/layers/2".into()], // lowest first
//!     upper: "/scratch/upper".into(),                     // the changes
//!     work: "/scratch/work".into(),                       // empty, new for every step
//! };
//! let spec = Spec { rootfs, mounts, process };
//! let exit = sandbox.run(&spec, &mut |_stream, bytes| eprint!("{}", bytes.escape_ascii()), &Cancel::new())?;
//! std::process::exit(exit.shell_code())
//! # }
//! ```
//!
//! # What a step gets
//!
//! Docker's default capabilities and a default seccomp filter modelled on Docker's; new mount, IPC and UTS namespaces;
//! an empty standard input; its own session; default signal actions; and nothing of the calling process: no
//! descriptor, no environment, no memory. `fsync` and its family succeed without doing anything, since a build that
//! dies is built again. Set-id programs work: `no_new_privs` is not set.
//!
//! | | [`Namespaces`](Isolation::Namespaces) | [`Userns`](Isolation::Userns) |
//! | --- | --- | --- |
//! | needs | CAP_SYS_ADMIN | a seccomp profile that allows clone and mount |
//! | ids | those of the calling process | the same numbers, in a user namespace of the step |
//!
//! Both need Linux 5.12 (mount_setattr), and a directory that can be an overlay's upper layer: not on a container's own
//! overlay root filesystem. Where `/proc` may be mounted, the step has a PID namespace. Where not (a container whose
//! own `/proc` has masked paths), it sees the processes around it; since Linux 6.12 Landlock keeps it from signalling
//! them, before that a step run as root can kill its builder.
//!
//! # How it is done
//!
//! The embedding program has no contract to fulfil: no call at the start of `main`, no binary to re-execute. It is
//! assumed to have any number of threads, so the child that is cloned from it finds locks taken for ever, the
//! allocator's among them. Therefore everything is prepared beforehand, as data, and the child only carries it out:
//!
//! 1. `prepare` makes a `program` of a [`Spec`]: operations with C strings in them, and for each what to say if it fails.
//! 2. `launch` clones the `monitor` from a thread that lives as long as the sandbox (a process that asks to die with
//!    its parent dies with the *thread* that cloned it), and writes its id maps.
//! 3. The monitor carries out the `operations`: the root, each mount attached to a descriptor that was resolved inside
//!    the root, the way in. A failure is reported as (operation, errno) over a pipe.
//! 4. It forks the step's first process (`entry`), which gives up privileges, installs the filter and executes.
//! 5. The monitor reaps whatever ends. It ends when the first process does, when the builder closes its pipe, or when
//!    the builder dies; and everything of the step with it: as process 1 of a PID namespace, or by killing all its
//!    descendants, whose subreaper it is.
//! 6. Meanwhile `supervise` passes the output on, until the monitor is dead.
//!
//! `unsafe` is confined to `sys` (single system calls) and the three places that clone.

mod cancel;
mod capabilities;
mod entry;
mod error;
mod ids;
mod isolation;
mod launch;
mod monitor;
mod mounts;
mod operations;
mod overlay;
mod prepare;
mod probe;
mod process;
mod program;
mod report;
mod sandbox;
mod seccomp;
mod supervise;
mod sys;

pub use cancel::Cancel;
pub use error::{ExecError, RunError};
pub use isolation::{Isolation, UnknownIsolation};
pub use mounts::{Access, Mount, MountKind, Rootfs, Spec};
pub use probe::{Attempt, Failure, Probe, Unavailable, probe};
pub use process::{Exit, Network, Process, Resource, Rlimit, Stream, User};
pub use sandbox::Sandbox;
