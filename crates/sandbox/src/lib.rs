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
//! let spec = Spec { rootfs, mounts, process, owners: None };
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
//! dies is built again. Set-id programs work: `no_new_privs` is not set. [`Confinement::Lifted`] leaves out filter, dropping of
//! capabilities and masks. What must never be seen or stored travels as a [`Secret`]: in a [`MountKind::File`], or in
//! [`Process::secret_env`].
//!
//! | | [`Namespaces`](Isolation::Namespaces) | [`Userns`](Isolation::Userns) | [`UsernsSingle`](Isolation::UsernsSingle) | [`Chroot`](Isolation::Chroot) |
//! | --- | --- | --- | --- | --- |
//! | needs | CAP_SYS_ADMIN | root, a seccomp profile that allows clone and mount | such a profile; no privileges | CAP_SYS_CHROOT |
//! | ids | those of the calling process | the same numbers, in a user namespace of the step | any, emulated | those of the calling process |
//! | [`RootfsForm`] | overlay, else directory | overlay, else directory | overlay, else directory | directory |
//! | [`Mounting`] | kernel | kernel | kernel | placed |
//!
//! The first three need Linux 5.12 (mount_setattr), the last two 5.14 (SECCOMP_ADDFD_FLAG_SEND). An overlay needs a
//! directory that can be its upper layer: not on a container's own overlay root filesystem. Where `/proc` may be
//! mounted, the step has a PID namespace. Where not (a container whose own `/proc` has masked paths), it sees the
//! processes around it, but signals none: since Linux 6.12 Landlock keeps it from that, before that a thread of the
//! builder answers the calls that send signals.
//!
//! # A changed root
//!
//! [`Isolation::Chroot`] makes no namespaces and mounts nothing. What `/proc` and `/dev` would show is given by a
//! thread of the builder, which answers the calls that open a path, follow it to ask for status or access, or read a
//! link: `/proc/PID` of the step's own processes, harmless files of `/proc` (those that change settings read-only),
//! `/dev/stdin`, `/dev/fd/3`, `/dev/ptmx` and the terminals it makes, the host name. `ps`, `df`, process substitution,
//! package managers and terminals work. While the step runs, plain directories stand in the place of its `/proc`,
//! `/sys` and `/dev`; they are gone afterwards, with all the step put there, and the times of what they replaced are
//! as before.
//!
//! What confines a step there:
//!
//! * The changed root. The step has no CAP_SYS_CHROOT, not in the bounding set either, chroot(2) fails, and no
//!   descriptor that it has or is given leads above the root: directories of `/proc` are made in the root.
//! * A Landlock domain, in which it opens, makes, renames and removes nothing outside of the root, debugs no process and
//!   sends no signal outside of the step (Linux 6.12; before that such signals are refused by the builder's thread), and reaches no abstract
//!   socket (Linux 6.12). [`Sandbox::missing_walls`] tells what this kernel lacks. Without any Landlock, debugging is
//!   refused altogether.
//! * `no_new_privs`: set-id programs and file capabilities give nothing to a user who is not root.
//! * [`Network::None`] refuses internet, packet and netlink sockets; there is no loopback interface either.
//!
//! What does not:
//!
//! * System V IPC and POSIX message queues are those of the calling process, and what a step makes of them stays.
//! * Device nodes that an image brings can be opened, as far as the device cgroup lets root: a pod's does not, a
//!   machine's root has none.
//! * The mode of the host's `/dev/ptmx` can be changed through a descriptor of a terminal; where mknod is refused, that of
//!   its `/dev/null`, `zero`, `full`, `random` and `urandom` too.
//!
//! What differs from a mounted `/proc`: lstat, chdir and execve find the directories that stand there (a process that
//! was not listed before is not there, `/proc/self/exe` cannot be executed, `/proc/self/fd/3` cannot be linked or have
//! its mode changed); a relative path, or one with a symlink to a directory in it, that leads into `/proc` finds them
//! as well. A process that changed its user without an execve cannot be read, and finds them too: the streams that it
//! opens by `/dev/stdout` go nowhere.
//!
//! # No root of its own
//!
//! [`Isolation::Supervised`] needs no privileges and no namespaces: seccomp filters, ptrace of its own children and
//! Landlock. It is taken only when it is asked for. For the kernel the processes of a step are ordinary ones of this
//! user; a thread of the builder answers every call that takes a path, as if the root filesystem were the root
//! directory, with the `/proc` and `/dev` of [`Isolation::Chroot`] and the owners and identities of
//! [`Isolation::UsernsSingle`]. A thread that executes, changes its directory or connects a local socket is stopped by
//! ptrace for that moment and made to do it with the path outside. Programs that name an interpreter are executed from
//! copies that name the one in the root.
//!
//! * It is the slowest isolation: the system calls of all processes of a step pass one thread.
//! * The Landlock domain is the only wall around files. Local sockets with a path are in reach of a step that sets out
//!   for them, and so is whatever this user may do that is no file. As in a changed root, System V IPC is shared.
//! * Refused: programs of 32 bits (ENOEXEC), openat2, inotify_add_watch, the calls for attributes of Linux 6.13 and
//!   name_to_handle_at (ENOSYS or EOPNOTSUPP, as on older kernels), datagrams to a path, a second chroot, an execve or chdir
//!   of a process that is debugged (EPERM). What a process makes of itself with PR_SET_DUMPABLE has no effect.
//! * Seen by a step: paths outside in `/proc/PID/maps`, in getsockname, and that SO_PEERCRED shows this user.
//! * An embedding program that waits for any child (`waitpid(-1)`) takes the stops of a step's threads away; it must not.
//!
//! # Owners and identities where one id is mapped
//!
//! A user without privileges can make root of itself in a user namespace, and nobody else. With
//! [`Isolation::UsernsSingle`] the calls that would show this are answered by a thread of the builder: chown and the
//! stat family from the records that [`Spec::owners`] keeps; the identity calls, keepcaps, capget, capset and ambient
//! capabilities by the kernel's rules; execve of set-id programs; SO_PEERCRED. What a process creates gets its
//! identity's owner, or the group of a set-group-id directory. `mknod` of harmless devices is recorded. `su`, `sudo`,
//! `setpriv`, `gosu`, package managers, `tar`, `setcap` and a PostgreSQL with peer authentication work unchanged.
//!
//! What is not emulated:
//!
//! * Permissions are not denied: every process may do to files and processes what root may, whatever it is told to be.
//!   Identities in a step are no boundary, nothing between step and host rests on them.
//! * `/proc/PID/status` and the owners of `/proc/PID` show root; so do SCM_CREDENTIALS, and System V IPC.
//! * A program of 32 bits sees real owners by the `stat` calls other than statx. Its identity calls are answered but for
//!   the oldest, of 16 bits.
//! * An identity belongs to a process, not to each of its threads; `seteuid` by a raw system call in one thread changes all.
//! * A file made by openat2 with a RESOLVE flag, and a socket made by bind, belong to root. `trusted.*` attributes cannot be set.
//! * Where [`Process::rlimits`] has RLIMIT_LOCKS it is ignored: it carries the identity.
//! * A pipe or socket of a lower layer becomes root's when a step moves, links or changes it on an overlay.
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
//! `unsafe` is confined to `sys` (single system calls) and the four places that clone.

mod cancel;
mod capabilities;
mod cgroup;
mod chroot;
mod emulation;
mod entry;
mod error;
mod fence;
mod identity;
mod ids;
mod isolation;
mod launch;
mod limits;
mod lineage;
mod loopback;
mod monitor;
mod mounts;
mod notify;
mod operations;
mod overlay;
mod own_program;
mod owners;
mod prepare;
mod probe;
mod process;
mod program;
mod report;
mod sandbox;
mod seccomp;
mod secret;
mod single;
mod status;
mod step;
mod supervise;
mod supervised;
mod sys;
mod walls;

pub use cancel::Cancel;
pub use cgroup::{CgroupError, CgroupParent};
pub use error::{ExecError, RunError};
pub use isolation::{Isolation, UnknownIsolation};
pub use limits::LimitRefused;
pub use mounts::{Access, Mount, MountKind, Mounting, Rootfs, RootfsForm, Spec};
pub use owners::{Node, NodeKind, Owners, Ownership, Recorded};
pub use probe::{Attempt, Failure, Probe, Unavailable, probe};
pub use process::{Confinement, Exit, Network, Process, Resource, Rlimit, Stream, User};
pub use sandbox::Sandbox;
pub use secret::Secret;
pub use walls::{Wall, landlock_abi};
