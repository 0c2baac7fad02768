//! Layers that are elsewhere, and the trees they make.

use std::sync::{Arc, PoisonError};

use rbuild_image::{Layer, StoreError};
use rbuild_layers::{Active, Changes, SnapshotError, Snapshotter, View};
use rbuild_sandbox::RootfsForm;

use super::{Executor, StepError};
use crate::cache::remote::{RemoteCache, SavedMounts};
use crate::images::BaseImage;

impl Executor {
    /// The tree that layers make, fetched and unpacked as far as it is not.
    pub(crate) fn view(&self, chain: &[Layer], bases: &[Arc<BaseImage>]) -> Result<View, StepError> {
        if chain.is_empty() {
            return Ok(View::empty());
        }
        self.fetch(chain, bases)?;
        self.unpacked(chain)
    }

    /// The tree that layers make whose blobs are all in the store.
    pub(crate) fn unpacked(&self, chain: &[Layer]) -> Result<View, StepError> {
        self.overlay.view(chain).map_err(|source| self.unusable("unpack the rootfs", chain, source))
    }

    /// The error of a tree that cannot be made; when a cache gave one of its layers, that cache is not used any more.
    fn unusable(&self, operation: &'static str, chain: &[Layer], source: SnapshotError) -> StepError {
        let digest = match &source {
            SnapshotError::DiffId { digest, .. }
            | SnapshotError::Unpack { digest, .. }
            | SnapshotError::Decompress { digest, .. }
            | SnapshotError::Trailing { digest, .. } => *digest,
            _ => return StepError::snapshot(operation, source),
        };
        let of_error = chain.iter().find(|layer| layer.descriptor.digest == digest);
        match of_error.is_some_and(|layer| self.settings.elsewhere.refuse(layer, &source)) {
            true => StepError::CacheLost,
            false => StepError::snapshot(operation, source),
        }
    }

    /// Brings into the store what unpacking a chain will read.
    pub(crate) fn fetch(&self, chain: &[Layer], bases: &[Arc<BaseImage>]) -> Result<(), StepError> {
        let missing = self.overlay.missing(chain);
        let missing = missing.map_err(|source| StepError::snapshot("look up snapshots", source))?;
        let digests = missing.iter().map(|layer| layer.descriptor.digest).collect();
        let _fetching = self.fetches.take(digests);
        for base in bases {
            let layers = base.own_layers(&missing);
            let fetched =
                self.runtime.block_on(base.fetch(&self.settings.store, &layers, &self.settings.on_event));
            fetched.map_err(|source| StepError::Fetch {
                image: base.request.name.clone(),
                store: self.settings.store.path().to_owned(),
                source: Box::new(source),
            })?;
        }
        let fetched = self.runtime.block_on(self.settings.elsewhere.fetch(&missing));
        fetched.map_err(|_| StepError::CacheLost)
    }

    /// Brings all layers of a chain into the store.
    pub(crate) async fn bring(&self, chain: &[Layer], bases: &[Arc<BaseImage>]) -> Result<(), StoreError> {
        for base in bases {
            base.fetch(&self.settings.store, &base.own_layers(chain), &self.settings.on_event).await?;
        }
        self.settings.elsewhere.fetch(chain).await
    }

    /// The caches elsewhere.
    pub(crate) fn elsewhere(&self) -> &RemoteCache {
        &self.settings.elsewhere
    }

    /// Cache mounts elsewhere.
    pub(crate) fn saved_mounts(&self) -> &SavedMounts {
        &self.settings.saved_mounts
    }

    /// How new layers are made, as caches tell layers apart.
    pub(crate) fn variant(&self) -> &str {
        self.cache.variant()
    }

    /// Forgets what was found in caches elsewhere, so that it is looked for, or made, again.
    pub(crate) fn forget_found(&self) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, made| made.scope.is_none());
    }

    /// What makes trees in the form that steps want here.
    fn snapshotter(&self) -> Result<&dyn Snapshotter, StepError> {
        Ok(match self.rootfs_form()? {
            RootfsForm::Overlay => &self.overlay,
            RootfsForm::Directory => &self.plain,
        })
    }

    /// A tree above a chain that a process may change.
    pub(crate) fn prepare(&self, chain: &[Layer]) -> Result<Active, StepError> {
        let prepared = self.snapshotter()?.prepare(chain);
        prepared.map_err(|source| self.unusable("prepare the rootfs", chain, source))
    }

    /// Keeps a changed tree as the snapshot of `chain`.
    pub(crate) fn commit(&self, active: Active, changes: &Changes, chain: &[Layer]) -> Result<(), StepError> {
        self.snapshotter()?
            .commit(active, changes, chain)
            .map_err(|source| StepError::snapshot("keep the rootfs", source))
    }
}
