//! One process in one root filesystem, in the strongest isolation this host allows.

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
