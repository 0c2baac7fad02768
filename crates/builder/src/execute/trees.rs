//! The trees that steps read and stand on.

use std::sync::Arc;

use rbuild_layers::View;

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
}
