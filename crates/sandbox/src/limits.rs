//! Whether steps may have the resource limits that are asked for.

use thiserror::Error;

use crate::probe;
use crate::process::{Resource, Rlimit};
use crate::sandbox::Sandbox;

/// A hard limit that the steps of a sandbox cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "cannot raise the hard limit {name} to {}: {} is allowed here",
    shown(.asked), shown(.allowed)
)]
pub struct LimitRefused {
    /// The resource, as `--ulimit` names it.
    pub name: &'static str,
    /// The hard limit that was asked for; `None` is unlimited.
    pub asked: Option<u64>,
    /// The hard limit of this process; `None` is unlimited.
    pub allowed: Option<u64>,
}

fn shown(limit: &Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

impl Sandbox {
    /// Tells whether steps may have these limits. What is within this process's own hard limits may be had; a higher one
    /// is tried, in a process that takes every step's way but the last.
    ///
    /// # Errors
    /// [`LimitRefused`]: the first one that cannot be had.
    pub fn check_limits(&self, limits: &[Rlimit]) -> Result<(), LimitRefused> {
        for limit in limits {
            let own = rustix::process::getrlimit(in_kernel(limit).0).maximum;
            let is_within = limit.hard.unwrap_or(u64::MAX) <= own.unwrap_or(u64::MAX);
            if !is_within && probe::rehearse(self.setting(), &[*limit]).is_err() {
                return Err(LimitRefused { name: limit.resource.name(), asked: limit.hard, allowed: own });
            }
        }
        Ok(())
    }
}

/// Returns a limit as the kernel has it.
pub(crate) fn in_kernel(limit: &Rlimit) -> (rustix::process::Resource, rustix::process::Rlimit) {
    use rustix::process::Resource as Kernel;
    let resource = match limit.resource {
        Resource::Core => Kernel::Core,
        Resource::Cpu => Kernel::Cpu,
        Resource::Data => Kernel::Data,
        Resource::Fsize => Kernel::Fsize,
        Resource::Locks => Kernel::Locks,
        Resource::Memlock => Kernel::Memlock,
        Resource::Msgqueue => Kernel::Msgqueue,
        Resource::Nice => Kernel::Nice,
        Resource::Nofile => Kernel::Nofile,
        Resource::Nproc => Kernel::Nproc,
        Resource::Rss => Kernel::Rss,
        Resource::Rtprio => Kernel::Rtprio,
        Resource::Rttime => Kernel::Rttime,
        Resource::Sigpending => Kernel::Sigpending,
        Resource::Stack => Kernel::Stack,
    };
    (resource, rustix::process::Rlimit { current: limit.soft, maximum: limit.hard })
}
