//! The sandbox: an isolation that was found to work, and the thread that clones for it.

use std::path::Path;

use crate::cancel::Cancel;
use crate::error::RunError;
use crate::isolation::Isolation;
use crate::mounts::Spec;
use crate::probe::Unavailable;
use crate::process::{Exit, Stream};

/// Runs steps in one isolation. `Send + Sync`; steps may run side by side.
#[derive(Debug)]
pub struct Sandbox {
    isolation: Isolation,
}

impl Sandbox {
    /// Chooses the strongest isolation that works, trying with an overlay upper layer below `scratch`.
    ///
    /// # Errors
    /// [`Unavailable`] when none works; it says what failed and what would help.
    pub fn detect(scratch: &Path) -> Result<Self, Unavailable> {
        let _ = scratch;
        unimplemented!()
    }

    /// Takes `isolation`, after trying it.
    ///
    /// # Errors
    /// [`Unavailable`] when it does not work.
    pub fn forced(isolation: Isolation, scratch: &Path) -> Result<Self, Unavailable> {
        let _ = (isolation, scratch);
        unimplemented!()
    }

    /// Returns the isolation in use.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Runs a step to its end, and returns when every process of it is dead.
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
        let _ = (spec, output, cancel);
        unimplemented!()
    }
}
