//! The trees that steps read and stand on, fetched and unpacked when they are first looked at.

use std::sync::Arc;

use rbuild_image::Layer;
use rbuild_layers::{Snapshotter as _, View};

use super::draft::Draft;
use super::error::StepError;
use super::tree::Tree;
use super::{Done, Executor, Stage, missing_stage};
use crate::images::{BaseImage, Origin};
use crate::plan::{ImageRequest, Source};

impl Executor {
    pub(super) fn image(&self, request: &ImageRequest) -> Result<Arc<BaseImage>, StepError> {
        self.base(request).map_err(|error| StepError::snapshot("read a named tree", error))
    }

    /// The tree a step reads from.
    pub(crate) fn tree(&self, source: &Source, done: &Done) -> Result<Tree, StepError> {
        match source {
            Source::Scratch => Ok(Tree::Rootfs(View::empty())),
            Source::Context => Ok(match &self.settings.context {
                Some(context) => Tree::Context(Arc::clone(context)),
                None => Tree::Rootfs(View::empty()),
            }),
            Source::Stage(index) => {
                let stage = done.get(*index).ok_or_else(|| missing_stage(*index))?;
                self.view(&stage.image.chain(), &stage.bases).map(Tree::Rootfs)
            }
            Source::Image(request) => {
                let base = self.image(request)?;
                match &base.origin {
                    Origin::Directory(dir) => Ok(Tree::Context(Arc::clone(dir))),
                    _ => self.view(&base.image.chain(), std::slice::from_ref(&base)).map(Tree::Rootfs),
                }
            }
        }
    }

    /// The rootfs of a stage as a value.
    pub(super) fn draft<'s>(&self, stage: &'s mut Stage) -> Result<&'s mut Draft, StepError> {
        if stage.draft.is_none() {
            let view = self.view(&stage.image.chain(), &stage.bases)?;
            stage.draft = Some(Draft::new(view));
        }
        stage.draft.as_mut().ok_or(StepError::Cancelled)
    }

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
        self.overlay.view(chain).map_err(|source| StepError::snapshot("unpack the rootfs", source))
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
        Ok(())
    }
}
