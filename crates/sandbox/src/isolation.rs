//! The names of the isolations.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A way of confining a step, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isolation {
    /// New namespaces made with CAP_SYS_ADMIN, here or in the user namespace this process is in.
    Namespaces,
    /// A new user namespace holding the identity map of this process's own id ranges.
    Userns,
    /// A user namespace with a single id, ownership calls supervised.
    UsernsSingle,
    /// A changed root without mounts, /proc and /dev supervised.
    Chroot,
    /// No namespaces and no changed root: every path call supervised.
    Supervised,
}

impl Isolation {
    /// Every isolation, in the order in which they are preferred.
    pub const ALL: [Self; 5] =
        [Self::Namespaces, Self::Userns, Self::UsernsSingle, Self::Chroot, Self::Supervised];

    /// Those that are chosen without being asked for, in that order.
    pub const CHOSEN: [Self; 4] = [Self::Namespaces, Self::Userns, Self::UsernsSingle, Self::Chroot];

    /// Returns the name used on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Userns => "userns",
            Self::UsernsSingle => "userns-single",
            Self::Chroot => "chroot",
            Self::Supervised => "supervised",
        }
    }

    /// Tells whether a step is in the namespaces of this process.
    pub(crate) const fn shares_namespaces(self) -> bool {
        matches!(self, Self::Chroot | Self::Supervised)
    }

    /// Tells whether a step gets a user namespace of its own.
    pub(crate) const fn has_user_namespace(self) -> bool {
        matches!(self, Self::Userns | Self::UsernsSingle)
    }

    /// Tells whether this version implements the isolation.
    pub const fn is_implemented(self) -> bool {
        match self {
            Self::Namespaces | Self::Userns | Self::UsernsSingle | Self::Chroot => true,
            // Driving another process was tried on this architecture only.
            Self::Supervised => cfg!(target_arch = "x86_64"),
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no isolation.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown isolation `{0}`: expected one of namespaces, userns, userns-single, chroot, supervised")]
pub struct UnknownIsolation(String);

impl FromStr for Isolation {
    type Err = UnknownIsolation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|i| i.name() == text).ok_or_else(|| UnknownIsolation(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isolation in Isolation::ALL {
            assert_eq!(isolation.to_string().parse(), Ok(isolation));
        }
        assert_eq!("docker".parse::<Isolation>(), Err(UnknownIsolation("docker".into())));
    }
}
