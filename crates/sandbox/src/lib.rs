//! One process in one root filesystem, in the strongest isolation this host allows.

mod cancel;
mod error;
mod isolation;
mod mounts;
mod probe;
mod process;
mod sandbox;

pub use cancel::Cancel;
pub use error::{ExecError, RunError};
pub use isolation::{Isolation, UnknownIsolation};
pub use mounts::{Access, Mount, MountKind, Rootfs, Spec};
pub use probe::{Attempt, Failure, Probe, Unavailable, probe};
pub use process::{Exit, Network, Process, Resource, Rlimit, Stream, User};
pub use sandbox::Sandbox;
