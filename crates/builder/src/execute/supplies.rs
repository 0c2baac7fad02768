//! What RUN steps are given beside their rootfs.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use rbuild_layers::{Active, Scratch};
use rbuild_sandbox::{Mounting, Rlimit, RootfsForm, Sandbox, Secret};

use super::{Done, Executor, StepError, missing_stage, mounts};
use crate::images::Origin;
use crate::plan::{RunStep, Source};
use crate::ssh::SshAgent;

impl Executor {
    /// The form of the trees that steps change, and whether overlays can be mounted.
    pub(crate) fn rootfs_form(&self) -> Result<RootfsForm, StepError> {
        let sandbox = self.sandbox();
        sandbox
            .map(Sandbox::rootfs_form)
            .map_err(|error| StepError::snapshot("find an isolation for RUN", error))
    }

    pub(crate) fn hosts(&self, step: &RunStep) -> Result<PathBuf, StepError> {
        let hosts = self.network_files.hosts(&step.hostname, &step.surroundings.extra_hosts);
        hosts.map_err(|source| StepError::Write { path: "hosts".into(), source })
    }

    /// The resource limits of every step.
    pub(crate) fn limits(&self) -> &[Rlimit] {
        &self.settings.options.surroundings.rlimits
    }

    /// The value of a secret, when somebody gave it.
    pub(crate) fn secret(&self, id: &str) -> Option<&Secret> {
        self.settings.options.secrets.get(id)
    }

    /// The agent of an id, when somebody forwards it.
    pub(crate) fn agent(&self, id: &str) -> Option<&SshAgent> {
        self.settings.options.agents.get(id)
    }

    /// A tree of a rootfs that a mount may change; none of what is no rootfs.
    pub(crate) fn active_tree(&self, source: &Source, done: &Done) -> Result<Option<Active>, StepError> {
        let (chain, bases) = match source {
            Source::Context => return Ok(None),
            Source::Scratch => (Vec::new(), Vec::new()),
            Source::Stage(index) => {
                let stage = done.get(*index).ok_or_else(|| missing_stage(*index))?;
                (stage.image.chain(), stage.bases.clone())
            }
            Source::Image(request) => {
                let base = self.image(request)?;
                if let Origin::Directory(_) = base.origin {
                    return Ok(None);
                }
                (base.image.chain(), vec![base])
            }
        };
        self.fetch(&chain, &bases)?;
        self.prepare(&chain).map(Some)
    }

    /// A copy of part of a tree, made once in a build.
    pub(crate) fn copied_tree(
        &self,
        source: &Source,
        path: &str,
        done: &Done,
    ) -> Result<Arc<Scratch>, StepError> {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source.clone(), path.to_owned());
        if let Some(copy) = copies.get(&key) {
            return Ok(Arc::clone(copy));
        }
        let copy = Arc::new(self.private_copy(source, path, done)?);
        copies.insert(key, Arc::clone(&copy));
        Ok(copy)
    }

    /// A copy of part of a tree that one step may change.
    pub(crate) fn private_copy(
        &self,
        source: &Source,
        path: &str,
        done: &Done,
    ) -> Result<Scratch, StepError> {
        let content = mounts::collect(&self.tree(source, done)?, path, self.clock().time())?;
        let copy = crate::cache::mounts::copied(self.store(), &content);
        copy.map_err(|error| StepError::snapshot("copy what is mounted", error))
    }

    /// How what a step mounts gets into its tree.
    pub(crate) fn mounting(&self) -> Result<Mounting, StepError> {
        let sandbox = self.sandbox();
        sandbox
            .map(Sandbox::mounting)
            .map_err(|error| StepError::snapshot("find an isolation for RUN", error))
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.network_files.resolv_conf()
    }
}
