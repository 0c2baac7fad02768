//! The sandbox: an isolation that was found to work, and the thread that clones for it.

use std::path::Path;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::error::RunError;
use crate::ids::IdRanges;
use crate::isolation::Isolation;
use crate::launch::Launcher;
use crate::mounts::Spec;
use crate::prepare::{self, Mode, Purpose};
use crate::probe::{self, Unavailable};
use crate::process::{Exit, Stream};
use crate::supervise::supervise;

/// Runs steps in one isolation. Steps may run side by side.
#[derive(Debug)]
pub struct Sandbox {
    launcher: Launcher,
    mode: Mode,
    ids: IdRanges,
}

impl Sandbox {
    /// Chooses the strongest isolation that works, trying with an overlay upper layer below `scratch`, which must exist.
    ///
    /// # Errors
    /// [`Unavailable`] when none works; it says what failed and what would help.
    pub fn detect(scratch: &Path) -> Result<Self, Unavailable> {
        Self::first_of(&Isolation::ALL, scratch)
    }

    /// Takes `isolation`, after trying it as [`Sandbox::detect`] does.
    ///
    /// # Errors
    /// [`Unavailable`] when it does not work.
    pub fn forced(isolation: Isolation, scratch: &Path) -> Result<Self, Unavailable> {
        Self::first_of(&[isolation], scratch)
    }

    fn first_of(isolations: &[Isolation], scratch: &Path) -> Result<Self, Unavailable> {
        let (launcher, mode, ids) = probe::choose(isolations, scratch)?;
        Ok(Self { launcher, mode, ids })
    }

    /// Returns the isolation in use.
    pub fn isolation(&self) -> Isolation {
        self.mode.isolation
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
        let program = Arc::new(prepare::program(spec, self.mode, &self.ids, Purpose::Run)?);
        let running = self.launcher.start(Arc::clone(&program), self.mode.isolation, spec.process.network)?;
        running.go((self.mode.isolation == Isolation::Userns).then_some(&self.ids))?;
        supervise(running, &program, output, cancel)
    }
}
