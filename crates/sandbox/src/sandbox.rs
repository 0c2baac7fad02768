//! The sandbox: an isolation that was found to work, and the thread that clones for it.

use std::path::Path;

use crate::cancel::Cancel;
use crate::cgroup::CgroupParent;
use crate::error::RunError;
use crate::isolation::Isolation;
use crate::mounts::{Mounting, RootfsForm, Spec};
use crate::owners::Ownership;
use crate::prepare::{Mode, Purpose};
use crate::probe::{self, Unavailable};
use crate::process::{Exit, Stream};
use crate::step::Setting;

/// Runs steps in one isolation. Steps may run side by side.
#[derive(Debug)]
pub struct Sandbox {
    setting: Setting,
}

impl Sandbox {
    /// Chooses the strongest isolation that works among [`Isolation::CHOSEN`], trying with an overlay upper layer below `scratch`, which must exist.
    ///
    /// # Errors
    /// [`Unavailable`] when none works; it says what failed and what would help.
    pub fn detect(scratch: &Path) -> Result<Self, Unavailable> {
        Self::first_of(&Isolation::CHOSEN, scratch)
    }

    /// Takes `isolation`, after trying it as [`Sandbox::detect`] does.
    ///
    /// # Errors
    /// [`Unavailable`] when it does not work.
    pub fn forced(isolation: Isolation, scratch: &Path) -> Result<Self, Unavailable> {
        Self::first_of(&[isolation], scratch)
    }

    fn first_of(isolations: &[Isolation], scratch: &Path) -> Result<Self, Unavailable> {
        Ok(Self { setting: probe::choose(isolations, scratch)? })
    }

    /// Returns the isolation in use.
    pub fn isolation(&self) -> Isolation {
        self.setting.mode.isolation
    }

    pub(crate) fn setting(&self) -> &Setting {
        &self.setting
    }

    pub(crate) fn set_cgroup(&mut self, parent: CgroupParent) {
        self.setting.cgroup = Some(parent);
    }

    pub(crate) fn mode(&self) -> Mode {
        self.setting.mode
    }

    /// Returns which root filesystem the steps want.
    pub fn rootfs_form(&self) -> RootfsForm {
        self.setting.mode.rootfs
    }

    /// Returns how what a step sees besides its root filesystem gets there.
    pub fn mounting(&self) -> Mounting {
        match self.setting.mode.isolation {
            Isolation::Namespaces | Isolation::Userns | Isolation::UsernsSingle => Mounting::Kernel,
            Isolation::Chroot | Isolation::Supervised => Mounting::Placed,
        }
    }

    /// Returns whether the steps change the owners of files, or want [`Spec::owners`].
    pub fn ownership(&self) -> Ownership {
        match self.setting.mode.isolation {
            Isolation::Namespaces | Isolation::Userns | Isolation::Chroot => Ownership::Native,
            Isolation::UsernsSingle | Isolation::Supervised => Ownership::Recorded,
        }
    }

    /// Tells whether steps may have [`Confinement::Lifted`](crate::Confinement::Lifted): elsewhere the filter is what
    /// makes the isolation.
    pub fn lifts_confinement(&self) -> bool {
        matches!(self.setting.mode.isolation, Isolation::Namespaces | Isolation::Userns)
    }

    /// Runs a step to its end, and returns when every process of it is dead and its mounts are gone.
    ///
    /// Blocks. Output is given to `output` as it comes, at most 64 KiB at a time; the step waits while `output` does.
    ///
    /// # Errors
    /// [`RunError`]; no process of the step is left then either.
    pub fn run(
        &self,
        spec: &Spec,
        output: &mut dyn FnMut(Stream, &[u8]),
        cancel: &Cancel,
    ) -> Result<Exit, RunError> {
        if cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        self.setting.run(spec, Purpose::Run, output, cancel)
    }
}
